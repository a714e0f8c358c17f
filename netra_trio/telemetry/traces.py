"""OpenTelemetry spans of telemetry events: an upgrade, a resume, a run, and each tool of a run.

    traces = Traces()               # uses the tracer provider of the process
    traces.note(UpgradeStarted({"traceparent": "00-4bf9…-01"}))

The span of an upgrade is a child of the span that its request names. The span of a run is a child
of the latest upgrade of its session, and is current during the run: spans that instrumented
libraries make in an agent are its children. No span contains a credential, a text or the id of a
user. Needs the extra `traces`.
"""

from collections.abc import Callable
from contextvars import ContextVar
from importlib.metadata import version
from time import time_ns
from typing import Any

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from netra_trio.protocol.messages import RunStatus
from netra_trio.telemetry.events import (
    ConnectionOpened,
    ConnectionResumed,
    OpeningRefused,
    RunEnded,
    RunStarted,
    SessionEnded,
    TelemetryEvent,
    ToolEnded,
    ToolStarted,
    UpgradeFailed,
    UpgradeStarted,
)
from netra_trio.telemetry.trace_context import TRACEPARENT

OPENING, RESUME, RUN, TOOL = "netra.opening", "netra.resume", "netra.run", "netra.tool"

_FAULTS = {RunStatus.FAILED, RunStatus.TIMED_OUT}
_SECOND = 1_000_000_000  # nanoseconds
_opening: ContextVar[Span | None] = ContextVar("opening", default=None)
_W3C = TraceContextTextMapPropagator()


class Traces:
    """A sink of telemetry events that makes spans of them.

    Args:
        provider: Makes the tracer; the provider of the process by default.
    """

    def __init__(self, provider: trace.TracerProvider | None = None) -> None:
        self._tracer = trace.get_tracer("netra_trio", version("netra-trio"), provider)
        self._is_enabled = provider is not None
        self._openings: dict[str, Context] = {}  # the context of the latest upgrade, by session
        self._runs: dict[str, Span] = {}
        self._tools: dict[str, tuple[Span, Context]] = {}

    def note(self, event: TelemetryEvent) -> None:
        """Start or end a span, if a tracer provider is set.

        OpenTelemetry's API is often installed with other packages. Without a provider, spans would
        be discarded and still cost a seventh of the time of a message.
        """
        handle = _HANDLERS.get(type(event))
        if handle is not None and (self._is_enabled or self._became_enabled()):
            handle(self, event)

    def _became_enabled(self) -> bool:
        # By the type itself: `isinstance` with an abstract class takes ten times as long.
        self._is_enabled = type(trace.get_tracer_provider()) is not trace.ProxyTracerProvider
        return self._is_enabled

    def opening_started(self, event: UpgradeStarted) -> None:
        """Start the span of an upgrade."""
        parent = _W3C.extract(event.carrier, context=Context())
        _opening.set(self._tracer.start_span(OPENING, context=parent, kind=SpanKind.SERVER))

    def opening_refused(self, event: OpeningRefused) -> None:
        """End the span of an upgrade that was refused."""
        self._end_opening({"netra.code": str(event.code), "netra.status": event.status}, "refused")

    def opening_failed(self, _: UpgradeFailed) -> None:
        """End the span of an upgrade that failed in the server."""
        self._end_opening({}, "failed")

    def opened(self, event: ConnectionOpened | ConnectionResumed) -> None:
        """End the span of an upgrade; later runs of the session are its children."""
        span = self._end_opening({"netra.verdict": str(event.verdict)})
        if span is None:
            return
        context = self._openings[event.session_id] = trace.set_span_in_context(span, Context())
        if isinstance(event, ConnectionResumed):
            now = time_ns()
            resume = self._tracer.start_span(
                RESUME,
                context=context,
                attributes={"netra.verdict": str(event.verdict), "netra.replayed": event.replayed},
                start_time=now - round((event.away or 0.0) * _SECOND),
            )
            resume.end(now)

    def _end_opening(self, attributes: dict[str, Any], fault: str | None = None) -> Span | None:
        span = _opening.get()
        if span is not None:
            _opening.set(None)
            _end(span, attributes, fault)
        return span

    def session_ended(self, event: SessionEnded) -> None:
        """Forget the upgrade of the session."""
        self._openings.pop(event.session_id, None)

    def run_started(self, event: RunStarted) -> None:
        """Start the span of a run and make it current in the task of the run."""
        parent = self._openings.get(event.session_id, Context())
        attributes = {"netra.agent": event.agent, "netra.run_id": event.run_id}
        span = self._tracer.start_span(RUN, context=parent, attributes=attributes)
        self._runs[event.run_id] = span
        # In the task of the run and in tasks that it starts; never detached, it ends with them.
        contexts.attach(trace.set_span_in_context(span, parent))
        carrier: dict[str, str] = {}
        _W3C.inject(carrier)
        if carrier:
            TRACEPARENT.set(carrier["traceparent"])

    def run_ended(self, event: RunEnded) -> None:
        """End the span of a run."""
        span = self._runs.pop(event.run_id, None)
        if span is not None:
            fault = str(event.status) if event.status in _FAULTS else None
            attributes = {"netra.status": str(event.status), "netra.attempts": event.attempts}
            _end(span, attributes, fault)

    def tool_started(self, event: ToolStarted) -> None:
        """Start the span of a tool call and make it current."""
        before = contexts.get_current()
        span = self._tracer.start_span(TOOL, attributes={"netra.tool": event.name})
        self._tools[event.tool_call_id] = (span, before)
        contexts.attach(trace.set_span_in_context(span))

    def tool_ended(self, event: ToolEnded) -> None:
        """End the span of a tool call and make the previous one current again."""
        begun = self._tools.pop(event.tool_call_id, None)
        if begun is not None:  # None if it started before a provider was set
            span, before = begun
            contexts.attach(before)
            fault = event.outcome if event.outcome == "failed" else None
            _end(span, {"netra.outcome": event.outcome}, fault)


def _end(span: Span, attributes: dict[str, Any], fault: str | None) -> None:
    span.set_attributes(attributes)
    if fault is not None:
        span.set_status(Status(StatusCode.ERROR, fault))
    span.end()


_HANDLERS: dict[type[Any], Callable[[Traces, Any], None]] = {
    UpgradeStarted: Traces.opening_started,
    OpeningRefused: Traces.opening_refused,
    UpgradeFailed: Traces.opening_failed,
    ConnectionOpened: Traces.opened,
    ConnectionResumed: Traces.opened,
    SessionEnded: Traces.session_ended,
    RunStarted: Traces.run_started,
    RunEnded: Traces.run_ended,
    ToolStarted: Traces.tool_started,
    ToolEnded: Traces.tool_ended,
}
