"""Logging for the whole process: one format and one output, from which credentials are removed.

>>> configure(level="info")
>>> structlog.get_logger(__name__).info("connection opened", connection_id="conn_1")
"""

import atexit
import logging
import os
import sys
import time
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from functools import lru_cache
from types import MappingProxyType, NoneType
from typing import Any, TextIO

import structlog
from attrs import define, frozen
from structlog.typing import Processor

from netra_trio.telemetry.log_context import LOG_CONTEXT
from netra_trio.telemetry.log_output import FLUSH_SECONDS, LogOutput
from netra_trio.telemetry.redact import REDACTED, is_secret
from netra_trio.telemetry.render import COLOURS, Console, Form, Palette, as_json, described, render

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}
"""The names that `configure` accepts for its level."""


@define
class _Format:
    """The rendering of lines, the lowest level that is logged, and the fields of every line."""

    form: Form = as_json
    level: int = logging.INFO
    fields: Mapping[str, int | str] = MappingProxyType({})


_FORMAT = _Format()


def _line(event: dict[str, Any]) -> str:
    second, nanoseconds = divmod(event["timestamp"], 1_000_000_000)
    event["timestamp"] = f"{_second(second)}.{nanoseconds // 1000:06d}Z"
    return render({**_FORMAT.fields, **event}, _FORMAT.form)


@lru_cache(maxsize=2)  # many lines have the same second, and to format one costs more than the line
def _second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


_OUTPUT = LogOutput(_line)


def flush(seconds: float = FLUSH_SECONDS) -> bool:
    """Wait until all lines are written, or this time has passed; return whether they are.

    It is called at a normal exit of the interpreter, and needed before `os._exit`.
    """
    return _OUTPUT.flush(seconds)


atexit.register(flush)
os.register_at_fork(after_in_child=_OUTPUT.restart)


def dropped_lines() -> int:
    """Return the number of lines of this process that its output did not accept."""
    return _OUTPUT.dropped


# structlog and the standard library use the same chain of processors.


@frozen
class _Logger:
    """The logger that structlog calls with a line, or with an event to be rendered."""

    name: str | None = None

    def msg(self, line: str | dict[str, Any]) -> None:
        _OUTPUT.write(line)

    def info(self, line: str | dict[str, Any]) -> None:
        _OUTPUT.write(line, at_once=False)

    debug = info
    log = warning = warn = error = critical = fatal = exception = msg


def _make_logger(*args: Any) -> _Logger:
    return _Logger(args[0] if args else None)


def _describe(logger: Any, method: str, event: MutableMapping[str, Any]) -> dict[str, Any]:
    """Add the fields of every line: the ids of the context, level, logger and time."""
    # Ids come before the values of the call, unlike in structlog's own step, because a line that
    # is too long is cut at its end.
    described = {**structlog.contextvars.get_contextvars(), **LOG_CONTEXT.get(), **event}
    structlog.processors.add_log_level(logger, method, described)
    if (name := getattr(logger, "name", None)) is not None:
        described.setdefault("logger", name)
    described["timestamp"] = time.time_ns()
    return described


_UNCHANGING = (str, int, float, bool, NoneType)
_SEEN_UNCHANGING: set[type[Any]] = set()  # a few types: those above, and enums


def _render(logger: Any, _method: str, event: Any) -> Any:
    """Return the line, or for structlog the arguments for `_Logger`."""
    return ((_ready(event),), {}) if type(logger) is _Logger else _line(event)


def _ready(event: dict[str, Any]) -> str | dict[str, Any]:
    """Return the line, or the event itself if it can be rendered later."""
    return event if _can_wait(event) else _line(event)


def _can_wait(event: Mapping[str, Any]) -> bool:
    """Whether all values of an event are immutable words and numbers."""
    if _SEEN_UNCHANGING.issuperset(map(type, event.values())):
        return True
    if not all(isinstance(each, _UNCHANGING) for each in event.values()):
        return False
    _SEEN_UNCHANGING.update(map(type, event.values()))
    return True


# Always the same list: loggers that cached it follow when the process is configured again, and
# structlog.testing.capture_logs replaces its content.
_CHAIN: list[Processor] = []
_STEPS: tuple[Processor, ...] = (
    _describe,
    structlog.processors.StackInfoRenderer(),
    structlog.processors.format_exc_info,
    _render,
)


class EventLog:
    """Logs events whose values are immutable words and numbers, for hot paths.

    The lines are those of a structlog logger, at a fraction of the cost: structlog copies the
    context and the values of a line several times. Lines go through structlog when the process is
    not configured with `configure`, and inside `structlog.testing.capture_logs`.

    Args:
        name: The name of the logger.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._structlog = structlog.get_logger(name)

    def log(
        self,
        level: str,
        event: str,
        names: tuple[str, ...],
        values: tuple[Any, ...],
        ids: Mapping[str, str] | None = None,
    ) -> None:
        """Log an event, unless its level is filtered.

        Args:
            level: One of `LEVELS`.
            event: The name of the event.
            names: The names of its fields.
            values: The values of its fields: `str`, numbers, `bool`, enums or None.
            ids: The ids of the line; those of the current task by default.
        """
        if _CHAIN[:1] != [_describe]:
            getattr(self._structlog, level)(event, **dict(zip(names, values, strict=True)))
            return
        severity = LEVELS[level]
        if severity < _FORMAT.level:
            return
        ids = ids or LOG_CONTEXT.get() or structlog.contextvars.get_contextvars()
        line = {
            "timestamp": time.time_ns(),
            "level": level,
            "logger": self._name,
            "event": event,
            **ids,
            **dict(zip(names, values, strict=True)),
        }
        _OUTPUT.write(line, at_once=severity > logging.INFO)


@frozen
class _Redacted:
    """The arguments of a log record by name, without secrets."""

    inner: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        # Hypercorn writes {authorization}i for a header and {name}e for an environment variable.
        plain = name[1:].partition("}")[0] if name.startswith("{") else name
        return REDACTED if is_secret(plain) else self.inner[name]

    def __str__(self) -> str:
        return str(self.inner)

    __repr__ = __str__


def _message(record: logging.LogRecord) -> str:
    try:
        text = str(record.msg)
        args: Any = record.args
        if args:
            text %= _Redacted(args) if isinstance(args, Mapping) else args
    except Exception:
        return f"{described(record.msg)} (its arguments do not fit it)"
    return text


class _Handler(logging.Handler):
    """Processes the records of the standard library with the same chain."""

    def emit(self, record: logging.LogRecord) -> None:
        event: Any = {"event": _message(record)}
        if record.exc_info:
            event["exc_info"] = record.exc_info
        if record.stack_info:
            event["stack"] = record.stack_info
        try:
            for step in _CHAIN:
                event = step(record, record.levelname.lower(), event)
        except structlog.DropEvent:
            return
        _OUTPUT.write(event)


_HOST = "netra_trio.server.hypercorn.install"
_VERBOSE = ("alembic", "httpx2", "httpcore2", "mcp")  # log each step, which is not needed here


def _wants_colour(stream: TextIO) -> bool:
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return stream.isatty() and not plain


def configure(
    *,
    stream: TextIO | None = None,
    level: str = "info",
    json: bool | None = None,
    fields: Mapping[str, int | str] | None = None,
) -> None:
    """Set up logging for the whole process: structlog, the standard library and warnings.

    On a terminal, lines are formatted for people, with colours unless `NO_COLOR` is set; otherwise
    each line is a JSON object. Timestamps are ISO 8601 in UTC. A line has at most `redact.LINE`
    bytes. Existing handlers of the root logger and of Hypercorn's loggers are removed.

    Logging never blocks: a thread writes to a stream that has a file descriptor. Lines that the
    stream does not accept in time are dropped and counted, and the server goes on serving.

    A second call changes the stream and the format at once; structlog loggers that were used
    before keep their level.

    Args:
        stream: The output; the current `sys.stderr` by default.
        level: The lowest level that is logged, one of `LEVELS`, in any case of letters.
        json: True for JSON, False for lines for people, None to decide by the stream.
        fields: Are in every line of this process, as the number of a worker is; None leaves those
            of the call before.

    Raises:
        ValueError: The level is not one of `LEVELS`.
    """
    lowest = LEVELS.get(level.lower())
    if lowest is None:
        raise ValueError(f"expected a log level of {', '.join(LEVELS)}; got {level!r}")
    stream = sys.stderr if stream is None else stream
    is_json = not stream.isatty() if json is None else json
    palette = COLOURS if _wants_colour(stream) else Palette()
    _OUTPUT.flush()  # the waiting lines are rendered in the previous form
    _FORMAT.form, _FORMAT.level = as_json if is_json else Console(palette), lowest
    if fields is not None:
        _FORMAT.fields = fields
    _OUTPUT.open(stream)
    _CHAIN[:] = _STEPS
    structlog.configure(
        processors=_CHAIN,
        wrapper_class=structlog.make_filtering_bound_logger(lowest),
        logger_factory=_make_logger,
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers[:] = [_Handler()]
    root.setLevel(lowest)
    for name in (_HOST, "hypercorn.error", "hypercorn.access", "py.warnings"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    for name in _VERBOSE:
        logging.getLogger(name).setLevel(max(lowest, logging.WARNING))
    logging.captureWarnings(True)


def leave_locals_out() -> None:
    """Log exceptions without local variables, also in a program that does not call `configure`.

    structlog's own default prints the local variables of every frame, if `rich` is installed: they
    may be secrets, and rendering them blocks the event loop for seconds. A program that has
    configured structlog itself keeps its configuration.
    """
    if not structlog.is_configured():
        *processors, renderer = structlog.get_config()["processors"]
        if isinstance(renderer, structlog.dev.ConsoleRenderer):
            plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
            structlog.configure(processors=[*processors, plain])


def host_logger() -> logging.Logger:
    """Return the logger for the ASGI server that hosts the application.

    Without it Hypercorn writes to its own handler, and its lines are not redacted:

        config.errorlog = host_logger()
        config.accesslog = host_logger()  # or None
    """
    return logging.getLogger(_HOST)
