"""Logs for the whole process: one format and one sink, with credentials removed on the way out.

>>> configure(level="info")
>>> structlog.get_logger(__name__).info("connection opened", connection_id="conn_1")
"""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, MutableMapping
from datetime import UTC, datetime
from functools import lru_cache
from types import NoneType
from typing import Any, TextIO

import structlog
import trio
from attrs import define, field, frozen
from structlog.typing import Processor

from netra_trio.telemetry.redact import REDACTED, is_secret
from netra_trio.telemetry.render import COLOURS, Console, Form, Palette, as_json, described, render

HELD_SECONDS = 0.02  # that a line may lie: nobody reads faster
HELD_LINES = 64  # then they are written at once

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}
"""The names `configure` takes for its level."""


@define
class _Sink:
    """The one place where log lines leave the process."""

    stream: TextIO | None = None
    form: Form = as_json
    wake: Callable[[], None] | None = None  # who writes what is held, if anybody does
    thread: int = 0  # where that one may be woken from
    # Reentrant: writing may itself warn, and warnings are logged.
    _lock: Any = field(factory=threading.RLock, init=False)
    _held: list[str | dict[str, Any]] = field(factory=list, init=False)

    def write(self, line: str | dict[str, Any], *, at_once: bool = True) -> None:
        """Write a line, or the event that becomes one; hold it where somebody sees to it."""
        with self._lock:
            self._held.append(line)
            wake = self.wake if self.thread == threading.get_ident() else None
            if at_once or wake is None or len(self._held) >= HELD_LINES:
                self.flush()
            elif len(self._held) == 1:
                wake()

    def flush(self) -> None:
        """Write what is held."""
        with self._lock:
            stream, held = self.stream, self._held
            self._held = []
            if stream is None or not held:
                return
            # One after the other it takes half as long as each in the middle of something else.
            lines = [each if isinstance(each, str) else _line(each) for each in held]
            text = "\n".join([*lines, ""])
            try:
                self._put(stream, text)
            except UnicodeEncodeError:
                encoding = stream.encoding or "ascii"
                self._put(stream, text.encode(encoding, "replace").decode(encoding))

    @staticmethod
    def _put(stream: TextIO, text: str) -> None:
        try:
            stream.write(text)
            stream.flush()
        except UnicodeEncodeError:
            raise
        except (OSError, ValueError):
            pass  # the reader is gone, the file is closed, the disk is full


_SINK = _Sink()


def flush() -> None:
    """Write the lines that are held, before a process ends otherwise than by returning."""
    _SINK.flush()


async def write_in_batches() -> None:
    """Let lines below warnings be held for 20 ms and written together, while this runs.

    A write for each line costs more than making it, and gives the interpreter to other threads.
    What a process holds when it is killed is lost. Cancel it to end.
    """
    news = trio.Event()

    def wake() -> None:
        news.set()

    _SINK.wake, _SINK.thread = wake, threading.get_ident()
    try:
        while True:
            await news.wait()
            news = trio.Event()
            await trio.sleep(HELD_SECONDS)
            _SINK.flush()
    finally:
        _SINK.wake = None
        _SINK.flush()


# structlog and the standard library, into the same chain.


@frozen
class _Output:
    """What structlog calls with a line, or with the event that becomes one."""

    name: str | None = None

    def msg(self, line: str | dict[str, Any]) -> None:
        _SINK.write(line)

    def info(self, line: str | dict[str, Any]) -> None:
        _SINK.write(line, at_once=False)

    debug = info
    log = warning = warn = error = critical = fatal = exception = msg


def _output(*args: Any) -> _Output:
    return _Output(args[0] if args else None)


def _describe(logger: Any, method: str, event: MutableMapping[str, Any]) -> dict[str, Any]:
    """Add what every line has: the context's ids, its level, its logger and when it is."""
    # Ids come before the values of the call, unlike in structlog's own step: they must not be what
    # is cut. One step for all, because a busy server spends a tenth of its time on its lines.
    described = {**structlog.contextvars.get_contextvars(), **event}
    structlog.processors.add_log_level(logger, method, described)
    if (name := getattr(logger, "name", None)) is not None:
        described.setdefault("logger", name)
    described["timestamp"] = time.time()
    return described


_ASKS_FOR_TRACE = frozenset({"exc_info", "stack_info"})
_UNCHANGING = (str, int, float, bool, NoneType)
_SEEN_UNCHANGING: set[type[Any]] = set()  # a few: those, and enums


def _render(logger: Any, _method: str, event: Any) -> Any:
    """Return the line, for the standard library; for structlog, what it calls `_Output` with."""
    return ((_ready(event),), {}) if type(logger) is _Output else _line(event)


def _ready(event: dict[str, Any]) -> str | dict[str, Any]:
    """Return the line; or the event itself, where it can be rendered later just as well."""
    return event if _can_wait(event) else _line(event)


def _can_wait(event: Mapping[str, Any]) -> bool:
    """Whether an event is the same a moment later: made of words and numbers."""
    if _SEEN_UNCHANGING.issuperset(map(type, event.values())):
        return True
    if not all(isinstance(each, _UNCHANGING) for each in event.values()):
        return False
    _SEEN_UNCHANGING.update(map(type, event.values()))
    return True


def _line(event: dict[str, Any]) -> str:
    second, fraction = divmod(event["timestamp"], 1)
    event["timestamp"] = f"{_second(second)}.{int(fraction * 1_000_000):06d}Z"
    return render(event, _SINK.form)


@lru_cache(maxsize=2)  # lines come second by second, and to write one takes as long as the rest
def _second(second: float) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _short_cut(bound: Any) -> Any:
    """Return a class of loggers whose `info` takes the common case past structlog's own way.

    That way is through four calls and as many copies of the event, which cost more than the line.
    """

    class Bound(bound):  # type: ignore[misc]
        def info(self, event: str | None = None, *args: Any, **values: Any) -> Any:
            is_common = not args and not self._context and _ASKS_FOR_TRACE.isdisjoint(values)
            if not is_common or _CHAIN[:1] != [_describe]:
                return super().info(event, *args, **values)
            values["event"] = event
            return self._logger.info(_ready(_describe(self._logger, "info", values)))

    return Bound


# Always the same list: loggers that cached it follow when the process is configured again, and
# structlog.testing.capture_logs sees what goes through it.
_CHAIN: list[Processor] = []
_STEPS: tuple[Processor, ...] = (
    _describe,
    structlog.processors.StackInfoRenderer(),
    structlog.processors.format_exc_info,
    _render,
)


@frozen
class _Veiled:
    """The mapping a log record's text is filled from, with its secrets covered."""

    inner: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        # Hypercorn calls a header {authorization}i and an environment variable {name}e.
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
            text %= _Veiled(args) if isinstance(args, Mapping) else args
    except Exception:
        return f"{described(record.msg)} (its arguments do not fit it)"
    return text


class _Handler(logging.Handler):
    """Sends the standard library's records through the same chain."""

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
        _SINK.write(event)


_HOST = "netra_trio.server.hypercorn.install"
_CHATTY = ("alembic", "httpx2", "httpcore2")  # tell of each step; what matters is logged here


def _wants_colour(stream: TextIO) -> bool:
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return stream.isatty() and not plain


def configure(
    *, stream: TextIO | None = None, level: str = "info", json: bool | None = None
) -> None:
    """Set up logging for the whole process: structlog, the standard library and warnings.

    On a terminal, lines for people, with colours unless `NO_COLOR` is set; otherwise one JSON
    object a line. Timestamps are ISO, in UTC. A line has at most `redact.LINE` bytes. Handlers that
    the root logger and Hypercorn's loggers had are removed. What a stream refuses to take is lost:
    a server that cannot log goes on serving.

    Calling it again changes the stream and the format at once; loggers that were used before keep
    their level.

    Args:
        stream: Where lines go; `sys.stderr` as it is now if not given.
        level: The lowest level that is logged, one of `LEVELS`, in any case.
        json: True for JSON, False for lines for people, None to ask the stream.

    Raises:
        ValueError: The level is none of `LEVELS`.
    """
    lowest = LEVELS.get(level.lower())
    if lowest is None:
        raise ValueError(f"expected a log level of {', '.join(LEVELS)}; got {level!r}")
    stream = sys.stderr if stream is None else stream
    _SINK.stream = stream
    is_json = not stream.isatty() if json is None else json
    palette = COLOURS if _wants_colour(stream) else Palette()
    _SINK.form = as_json if is_json else Console(palette)
    _CHAIN[:] = _STEPS
    bound = structlog.make_filtering_bound_logger(lowest)
    structlog.configure(
        processors=_CHAIN,
        wrapper_class=_short_cut(bound) if lowest <= logging.INFO else bound,
        logger_factory=_output,
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers[:] = [_Handler()]
    root.setLevel(lowest)
    for name in (_HOST, "hypercorn.error", "hypercorn.access", "py.warnings"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(lowest, logging.WARNING))
    logging.captureWarnings(True)


def host_logger() -> logging.Logger:
    """Return the logger for the ASGI server that hosts the app.

    Hypercorn writes to a handler of its own, past the redaction, unless it is given a logger:

        config.errorlog = host_logger()
        config.accesslog = host_logger()  # or None
    """
    return logging.getLogger(_HOST)
