"""Exports spans to the collector that the environment variables of OpenTelemetry name.

    with exporting(os.environ):
        trio.run(serve, app, sock)

Without such a variable, or without the extra `traces`, nothing is imported and nothing is sent.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec

import structlog

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
FLUSH_SECONDS = 0.4  # for the last spans at exit: a collector that is down must not delay it

_log = structlog.get_logger(__name__)


@contextmanager
def exporting(environ: Mapping[str, str]) -> Iterator[None]:
    """Send spans over HTTP (protobuf) inside this block, if a collector is configured."""
    if not any(environ.get(name) for name in ENDPOINTS):
        yield
        return
    if not is_installed("opentelemetry.exporter.otlp.proto.http"):
        _log.warning("traces_unavailable", missing="the extra traces: netra-trio[traces]")
        yield
        return
    yield from _exporting(environ)


def is_installed(module: str) -> bool:
    """Whether a module is installed; does not import it."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its parent package is missing
        return False


def _exporting(environ: Mapping[str, str]) -> Iterator[None]:
    # Imported here, because that takes more than 0.1 s (hence PLC0415).
    from opentelemetry import trace  # noqa: PLC0415
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    name = environ.get("OTEL_SERVICE_NAME", "netra_trio")
    provider = TracerProvider(
        resource=Resource.create({SERVICE_NAME: name}), shutdown_on_exit=False
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        flush = threading.Thread(target=provider.shutdown, daemon=True)
        flush.start()
        flush.join(FLUSH_SECONDS)
