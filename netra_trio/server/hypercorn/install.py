"""Replaces the classes of Hypercorn 0.18 that one malformed request could end the server through.

    >>> install(Limits(send_timeout=5.0, max_message_bytes=163_840, drain_timeout=8.0))

Stock Hypercorn lets one malformed request end the server, shields its sends from every deadline,
hides close codes and pongs, and counts characters where bytes are meant. `PATCHES` lists the
classes that are replaced, `REQUIRED` every name of Hypercorn's code that their replacements use.
"""

import importlib
import importlib.metadata
import inspect
import sys
from collections.abc import Iterator

from hypercorn.config import Config

from netra_trio.config.settings import Settings
from netra_trio.server.hypercorn.connection import HostConnection
from netra_trio.server.hypercorn.http1 import HostHttp1
from netra_trio.server.hypercorn.http2 import Http2Connection
from netra_trio.server.hypercorn.limits import Limits
from netra_trio.server.hypercorn.websocket import HostWebSocket
from netra_trio.telemetry.logs import host_logger
from netra_trio.transports.deflate import Compression
from netra_trio.transports.pacing import Turns

VERSION = "0.18."  # the releases whose code is known here

PATCHES: tuple[tuple[str, str, type], ...] = (
    ("hypercorn.trio.run", "TCPServer", HostConnection),
    ("hypercorn.protocol", "H11Protocol", HostHttp1),
    ("hypercorn.protocol", "H2Protocol", Http2Connection),
    ("hypercorn.protocol.h11", "WSStream", HostWebSocket),
)
"""The module, the name in it, and the replacement."""

_STREAM_METHODS = (
    "handle",
    "app_send",
    "_accept",
    "_send_rejection",
    "_send_error_response",
    "_send_wsproto_event",
)
_HTTP1_METHODS = ("handle", "stream_send", "_create_stream", "_maybe_recycle", "_close_stream")
REQUIRED: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("hypercorn.trio.run", "TCPServer", ("run", "protocol_send", "_read_data", "_close")),
    ("hypercorn.protocol", "ProtocolWrapper", ("initiate", "handle")),
    ("hypercorn.protocol", "H11Protocol", ()),
    ("hypercorn.protocol", "H2Protocol", ()),
    # Where they are defined, because a replacement has the methods in any case.
    ("hypercorn.protocol.h11", "H11Protocol", _HTTP1_METHODS),
    ("hypercorn.protocol.h2", "H2Protocol", ("initiate", "handle", "idle")),
    ("hypercorn.protocol.h11", "WSStream", _STREAM_METHODS),
    ("hypercorn.protocol.http_stream", "HTTPStream", ("handle", "app_send", "_send_closed")),
    ("hypercorn.protocol.ws_stream", "Handshake", ("accept",)),
)
"""The module, the class and the methods that must exist; a missing one stops `install`."""

_COMMAND = "hypercorn.trio.run"  # is imported only where Hypercorn's command is the host
_CONSTRUCTOR = ("app", "config", "context", "state", "stream")


def install(limits: Limits) -> None:
    """Patch Hypercorn; a second call only sets the limits.

    Hypercorn's `graceful_timeout` is raised to one second more than the drain timeout, because
    Hypercorn then cancels everything that still runs.

    Raises:
        RuntimeError: If Hypercorn is not 0.18.*, or a name that is used is missing; the text
            names it.
    """
    _check_hypercorn()
    HostConnection.shared_limits = limits
    HostConnection.shared_turns = Turns()
    for module, name, replacement in PATCHES:
        setattr(importlib.import_module(module), name, replacement)


def prepare_host(settings: Settings, compression: Compression | None = None) -> None:
    """Patch Hypercorn, with the limits of the settings.

    Args:
        settings: The settings.
        compression: The compression that is offered to WebSocket clients, if any.

    Raises:
        RuntimeError: See `install`.
    """
    install(
        Limits(
            send_timeout=settings.send_timeout_ms / 1000,
            max_message_bytes=settings.hard_message_size,
            drain_timeout=settings.drain_timeout_ms / 1000,
            compression=compression,
        )
    )


def prepare_stock_host(settings: Settings, compression: Compression | None) -> None:
    """Patch Hypercorn where its own command runs; do nothing under another server.

    Args:
        settings: The settings.
        compression: The compression that is offered to WebSocket clients, if any.

    Raises:
        RuntimeError: See `install`.
    """
    if _COMMAND in sys.modules:
        prepare_host(settings, compression)


def use_our_log() -> None:
    """Write the log lines of Hypercorn's command to our log, redacted like ours."""
    Config.errorlog = host_logger()


def _check_hypercorn() -> None:
    version = importlib.metadata.version("hypercorn")
    faults = list(_missing())
    if not version.startswith(VERSION):
        faults.insert(0, f"version {version} instead of {VERSION}*")
    if faults:
        raise RuntimeError(
            f"this Hypercorn cannot host netra_trio: {'; '.join(faults)}. "
            f'Install "hypercorn=={VERSION}*".'
        )


def _missing() -> Iterator[str]:
    for module, name, methods in REQUIRED:
        found = getattr(importlib.import_module(module), name, None)
        if found is None:
            yield f"{module}.{name} is missing"
            continue
        for method in methods:
            if not hasattr(found, method):
                yield f"{module}.{name}.{method} is missing"
        if name == "TCPServer":
            parameters = tuple(inspect.signature(found).parameters)
            if parameters != _CONSTRUCTOR:
                yield f"{module}.{name} takes {parameters} instead of {_CONSTRUCTOR}"
