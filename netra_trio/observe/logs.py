"""Logs for the whole process: one format and one sink, with credentials removed on the way out.

>>> configure(level="info")
>>> get_logger(__name__).info("connection opened", connection_id="conn_1")
"""

import itertools
import logging
import os
import re
import sys
import threading
from collections.abc import Mapping, MutableMapping
from typing import Any, TextIO, cast

import orjson
import structlog
from attrs import define, field, frozen
from structlog.typing import FilteringBoundLogger, Processor

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}
"""The names `configure` takes for its level."""

LINE = 16 * 1024  # bytes: most collectors split longer lines; what is beyond is cut, and says so
SCAN = 4 * LINE  # characters of one text that are looked at: bounds the work for one log call
DEPTH = 6  # containers inside each other: deeper is an object nobody reads in a log, or a loop
ITEMS = 64  # per container: enough for every header of a request
REDACTED = "[redacted]"
CUT = "… cut"

# One unit of budget renders to at most 6 bytes (\u202e), so the second of these always fits a line.
_BUDGETS = (LINE * 3 // 4, LINE // 8)
_NODE = 8  # units that a key or a value costs before its text

# ---------------------------------------------------------------------------------------------
# Redaction
#
# Every pattern below is linear on hostile text, for one of two reasons: past a literal start it can
# only fail within a bounded number of characters (so a new attempt at the next start repeats a
# constant, not the rest of the text), or a lookbehind lets it start once per run of its characters.
# Patterns with two neighbouring unbounded parts would be shorter to write and quadratic to run.
#
# They err on the side of removing: a credential may touch any text on either side, so what matches
# runs on to the next character that cannot belong to it.

_SECRET_ENDS = (
    "token",
    "ticket",
    "secret",
    "password",
    "passwd",
    "authorization",
    "cookie",
    "secret_key",
    "api_key",
    "apikey",
)
_PERCENT = r"%(?:25){0,4}"  # a percent sign, itself encoded up to four times
_EQUALS = rf"(?:=|{_PERCENT}3D)"
_NAME = r"(?:token|ticket|secret|passw(?:or)?d|secret[_-]?key|api[_-]?key)"
_SEPARATOR = (
    rf"(?:\\{{0,4}}[\"'][ \t]{{0,4}}[:=,]|[ \t]{{0,4}}(?:[:=]|{_PERCENT}3D))"
    r"[ \t]{0,4}"
)
_QUOTED = (
    r"[bru]{0,2}(?:"
    r"\"(?:[^\"\\\n]|\\.)*+\"?"
    r"|'(?:[^'\\\n]|\\.)*+'?"
    r"|\\{1,4}[\"'][^\"'\\\n]*+(?:\\{1,4}[\"'])?"
    r")[^\s\"'\\,;:&<>(){}\[\]]*+"  # a quote inside the value, its backslash lost in a second repr
)
_FLAGS = re.ASCII | re.IGNORECASE


def _encoded(word: str) -> str:
    """Return a pattern for a word in which any letter may be percent-encoded."""
    return "".join(
        f"(?:{letter}|{_PERCENT}(?:{ord(letter):x}|{ord(letter.upper()):x}))" for letter in word
    )


# Over plain text, before it is rendered: these may consume quotes and backslashes.
_AUTHORIZATION = re.compile(
    rf"(authorization{_SEPARATOR})(?:{_QUOTED}|[^\s\"]+(?:[ \t]{{1,4}}[^\s\"]+)?)", _FLAGS
)
_PAIR = re.compile(rf"({_NAME}{_SEPARATOR})(?:{_QUOTED}|[^\s&\"]+)", _FLAGS)
_URL = re.compile(r"://[^\s\"<>]+", re.ASCII)

# Over a rendered line: these never touch a quote, a backslash or a colour, so JSON stays JSON.
_LINE_PAIR = re.compile(rf"({_NAME}{_EQUALS})[^\s&\"'\\\x1b]+", _FLAGS)
_LINE_URL = re.compile(r"://[^\s\"'\\\x1b]+", re.ASCII)

# Over both.
_ENCODED_PAIR = re.compile(
    rf"((?:{_encoded('token')}|{_encoded('ticket')}){_EQUALS})[^\s&\"'\\\x1b]+", _FLAGS
)
_BEARER = re.compile(r"(bearer)(?:[ \t+:=]|%20){1,8}[^\s\"'\\,;\x1b]+", _FLAGS)
_SUBPROTOCOL = re.compile(r"(jwt(?:\.|%2E))[\w-]{20,}", _FLAGS)  # 20: jwt.exceptions is a module
# "eyJ" is '{"' in base64 and "ZXlK" is "eyJ" in base64: whole tokens, tokens cut short, and the
# parts of one. The second pattern is for headers that begin otherwise ('{ "alg"', '{\n').
_JWT = re.compile(r"(?:eyJ|ZXlK)[\w.%-]{8,}", re.ASCII)
_THREE_PARTS = re.compile(r"(?<![\w-])[\w-]{16,}\.[\w-]{16,}\.[\w-]{32,}(?:\.[\w-]+)*", re.ASCII)


def _without_passwords(url: re.Match[str]) -> str:
    """Replace what stands between user and host in each URL of a run without spaces."""
    parts = url[0].split("://")
    for index, part in enumerate(parts):
        colon, at = part.find(":"), part.rfind("@")
        if 0 <= colon < at:
            parts[index] = f"{part[: colon + 1]}{REDACTED}{part[at:]}"
    return "://".join(parts)


def _without_shapes(text: str) -> str:
    """Replace what is a credential by its own shape, in plain text or in a rendered line."""
    # Looking for a word costs a tenth of running the pattern that begins with it.
    lower = text.lower()
    if "%" in text:
        text = _ENCODED_PAIR.sub(rf"\1{REDACTED}", text)
    if "bearer" in lower:
        text = _BEARER.sub(rf"\1 {REDACTED}", text)
    if "jwt" in lower:
        text = _SUBPROTOCOL.sub(rf"\1{REDACTED}", text)
    if "eyJ" in text or "ZXlK" in text:
        text = _JWT.sub(REDACTED, text)
    return _THREE_PARTS.sub(REDACTED, text)


# Most values are ids and words: without a separator only these can be credentials.
_INERT = re.compile(r"[\w -]*", re.ASCII)
_SHAPES = re.compile(r"eyJ|ZXlK|bearer ", re.ASCII | re.IGNORECASE)


def redact(text: str) -> str:
    """Return the text without the credentials in it; linear in time, whatever the text.

    Goes: JWTs, `Authorization` and `Bearer` values, `jwt.` subprotocols, passwords in URLs, and
    what follows the name of a secret (`token=…`, `"ticket": "…"`), percent-encoded too. Text
    beyond `SCAN` characters is dropped.

        >>> redact("GET /ws?ticket=abc&last_seq=7")
        'GET /ws?ticket=[redacted]&last_seq=7'
    """
    if len(text) <= SCAN and _INERT.fullmatch(text) and not _SHAPES.search(text):
        return text
    if len(text) > SCAN:
        text = text[:SCAN]
        # The cut may have left a URL without its "@": its password would no longer look like one.
        text = text[: max(text.rfind(" "), text.rfind("\n")) + 1 or SCAN] + CUT
    if "://" in text:
        text = _URL.sub(_without_passwords, text)
    text = _AUTHORIZATION.sub(rf"\1{REDACTED}", text)
    text = _PAIR.sub(rf"\1{REDACTED}", text)
    return _without_shapes(text)


def _redact_line(line: str) -> str:
    """Catch in the whole rendered line what its values did not show one by one."""
    if "://" in line:
        line = _LINE_URL.sub(_without_passwords, line)
    if "=" in line or "%" in line:
        line = _LINE_PAIR.sub(rf"\1{REDACTED}", line)
    return _without_shapes(line)


def _is_secret(key: object) -> bool:
    name = key.decode("latin-1") if isinstance(key, bytes) else key
    return isinstance(name, str) and name.lower().replace("-", "_").endswith(_SECRET_ENDS)


# ---------------------------------------------------------------------------------------------
# From any object to plain values of bounded size

_SURROGATE = re.compile("[\ud800-\udfff]")
# What can move a cursor, colour a terminal, end a line or turn the direction of writing.
_CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]"
)


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


def _escape_json(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"


def _described(value: object) -> str:
    try:
        return repr(value)
    except Exception:
        return f"<{type(value).__name__} without a repr>"


@define
class _Budget:
    """Turns values into plain, redacted ones until its units are spent."""

    left: int

    def text(self, text: str, *, limit: int | None = None, both_ends: bool = False) -> str:
        """Redact first, cut after: half a credential must not pass for something else."""
        text = redact(text)
        if not text.isascii():
            text = _SURROGATE.sub(_escape, text)
        room = max(0, self.left - _NODE if limit is None else limit)
        if len(text) > room:
            # A traceback says where it came from at the top and what happened at the bottom.
            tail = room * 2 // 3 if both_ends else 0
            text = f"{text[: room - tail]}{CUT}{text[len(text) - tail :]}"
        self.left -= len(text) + _NODE
        return text

    def value(self, value: object, depth: int = 0) -> Any:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int | float):
            return self._number(value)
        if isinstance(value, dict | list | tuple | set | frozenset):
            return self._container(value, depth)
        if isinstance(value, str):
            return self.text(str.__str__(value))
        # Sliced first: the repr of bytes is up to four times as long.
        known = bytes(value[:SCAN]) if isinstance(value, bytes | bytearray) else value
        return self.text(_described(known))

    def _number(self, number: float) -> Any:
        if isinstance(number, int) and abs(number) >= 1 << 53:
            return self.text(_described(number))  # JSON's readers would round it, or refuse it
        self.left -= _NODE
        return int(number) if isinstance(number, int) else float(number)

    def _container(self, value: Any, depth: int) -> Any:
        self.left -= _NODE
        if depth >= DEPTH:
            return CUT
        if isinstance(value, dict):
            return self.mapping(value, depth)
        if isinstance(value, tuple) and len(value) == 2 and _is_secret(value[0]):  # noqa: PLR2004
            return [self.value(value[0], depth + 1), REDACTED]  # a header, as ASGI has them
        plain: list[Any] = []
        for item in itertools.islice(value, ITEMS):
            if self.left <= 0:
                break
            plain.append(self.value(item, depth + 1))
        return plain if len(plain) == len(value) else [*plain, CUT]

    def mapping(self, value: Mapping[Any, Any], depth: int = 0) -> dict[str, Any]:
        plain: dict[str, Any] = {}
        for key, item in itertools.islice(value.items(), ITEMS):
            if self.left <= 0:
                plain[CUT] = True
                return plain
            name = self.text(key if isinstance(key, str) else _described(key))
            hidden = _is_secret(key) and not (item is None or isinstance(item, bool))
            plain[name] = REDACTED if hidden else self.value(item, depth + 1)
        if len(value) > ITEMS:
            plain[CUT] = True
        return plain


_FIRST = ("timestamp", "level", "logger", "event")
_TRACES = ("stack", "exception")


def _plain(event: Mapping[str, Any], units: int) -> dict[str, Any]:
    """Return the event in reading order; a traceback has half of the room to itself."""
    traces = [name for name in _TRACES if event.get(name) is not None]
    budget = _Budget(units // 2 if traces else units)
    plain: dict[str, Any] = {}
    for name in _FIRST:
        value = event.get(name)
        if isinstance(value, str):
            plain[name] = budget.text(str.__str__(value), limit=budget.left // 2)
        elif name in event:
            plain[name] = budget.value(value)
    shown = {*_FIRST, *_TRACES}
    plain |= budget.mapping({key: value for key, value in event.items() if key not in shown})
    for name in traces:
        trace = _Budget(units // 2 // len(traces))
        plain[name] = trace.text(str(event[name]), both_ends=True)
    return plain


# ---------------------------------------------------------------------------------------------
# From plain values to a line


def _as_json(plain: dict[str, Any]) -> str:
    return _CONTROL.sub(_escape_json, orjson.dumps(plain).decode())


_WORD = re.compile(r"[\w./:@+\[\]-]+", re.ASCII)


@frozen
class _Palette:
    """ANSI sequences, or nothing at all."""

    reset: str = ""
    dim: str = ""
    bold: str = ""
    name: str = ""
    key: str = ""
    levels: Mapping[str, str] = field(factory=dict)


_COLOURS = _Palette(
    reset="\x1b[0m",
    dim="\x1b[2m",
    bold="\x1b[1m",
    name="\x1b[34m",
    key="\x1b[36m",
    levels={
        "debug": "\x1b[2m",
        "info": "\x1b[32m",
        "warning": "\x1b[33m",
        "error": "\x1b[31m",
        "critical": "\x1b[1;31m",
    },
)


def _word(value: object) -> str:
    """Return a value that cannot be taken for anything but one value."""
    if isinstance(value, str) and _WORD.fullmatch(value):
        return value
    return _CONTROL.sub(_escape_json, orjson.dumps(value).decode())


@frozen
class _Console:
    """Renders an event for people.

    structlog's ConsoleRenderer writes the event, the keys, the traceback and any value without a
    space as they are, escape sequences and newlines included, and values with a space as `repr`:
    escaping before it would show some values escaped twice. Hence a renderer of our own.
    """

    palette: _Palette

    def __call__(self, plain: dict[str, Any]) -> str:
        colour = self.palette
        traces = [str(plain.pop(name)) for name in _TRACES if name in plain]
        timestamp, level, name, event = (plain.pop(key, None) for key in _FIRST)
        tint = colour.levels.get(str(level), "")
        said = _CONTROL.sub(_escape, event) if isinstance(event, str) else _word(event)
        columns = [
            f"{colour.dim}{_word(timestamp)}{colour.reset}",
            f"{tint}{_word(level):<8}{colour.reset}",
            f"{colour.bold}{said}{colour.reset}",
        ]
        columns += [
            f"{colour.key}{_word(key)}{colour.reset}={_word(value)}" for key, value in plain.items()
        ]
        if name is not None:
            columns.append(f"{colour.name}[{_word(name)}]{colour.reset}")
        lines = [" ".join(columns)]
        # Indented, so that no line of an exception's text can pass for a line of the log.
        for trace in traces:
            lines += ["    " + _CONTROL.sub(_escape, line) for line in trace.split("\n")]
        return "\n".join(lines)


@define
class _Sink:
    """The one place where log lines leave the process."""

    stream: TextIO | None = None
    as_json: bool = True
    palette: _Palette = field(factory=_Palette)
    # Reentrant: writing may itself warn, and warnings are logged.
    _lock: Any = field(factory=threading.RLock, init=False)

    def render(self, event: Mapping[str, Any]) -> str:
        render = _as_json if self.as_json else _Console(self.palette)
        line = ""
        for units in _BUDGETS:
            line = _redact_line(render(_plain(event, units)))
            if len(line.encode()) <= LINE:
                break
        return line

    def write(self, line: str) -> None:
        stream = self.stream
        if stream is None:
            return
        with self._lock:
            try:
                self._put(stream, f"{line}\n")
            except UnicodeEncodeError:
                encoding = stream.encoding or "ascii"
                self._put(stream, f"{line}\n".encode(encoding, "replace").decode(encoding))

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


# ---------------------------------------------------------------------------------------------
# structlog and the standard library, into the same chain


@frozen
class _Output:
    """What structlog calls with a rendered line, whatever the level."""

    name: str | None = None

    def msg(self, line: str) -> None:
        _SINK.write(line)

    log = debug = info = warning = warn = error = critical = fatal = exception = msg


def _output(*args: Any) -> _Output:
    return _Output(args[0] if args else None)


def _add_context(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    # Before the values of the call, unlike structlog's own step: ids must not be what is cut.
    return {**structlog.contextvars.get_contextvars(), **event}


def _add_name(
    logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    if (name := getattr(logger, "name", None)) is not None:
        event.setdefault("logger", name)
    return event


def _render(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> str:
    return _SINK.render(event)


# Always the same list: loggers that cached it follow when the process is configured again, and
# structlog.testing.capture_logs sees what goes through it.
_CHAIN: list[Processor] = []
_STEPS: tuple[Processor, ...] = (
    _add_context,
    structlog.processors.add_log_level,
    _add_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
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
        return REDACTED if _is_secret(plain) else self.inner[name]

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
        return f"{_described(record.msg)} (its arguments do not fit it)"
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


_HOST = "netra_trio.host"


def _wants_colour(stream: TextIO) -> bool:
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return stream.isatty() and not plain


def configure(
    *, stream: TextIO | None = None, level: str = "info", json: bool | None = None
) -> None:
    """Set up logging for the whole process: structlog, the standard library and warnings.

    On a terminal, lines for people, with colours unless `NO_COLOR` is set; otherwise one JSON
    object a line. Timestamps are ISO, in UTC. A line has at most `LINE` bytes. Handlers that the
    root logger and Hypercorn's loggers had are removed. What a stream refuses to take is lost: a
    server that cannot log goes on serving.

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
    _SINK.as_json = not stream.isatty() if json is None else json
    _SINK.palette = _COLOURS if _wants_colour(stream) else _Palette()
    _CHAIN[:] = _STEPS
    structlog.configure(
        processors=_CHAIN,
        wrapper_class=structlog.make_filtering_bound_logger(lowest),
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
    logging.captureWarnings(True)


def get_logger(name: str) -> FilteringBoundLogger:
    """Return a structlog logger whose lines carry the name; may be called before `configure`."""
    return cast("FilteringBoundLogger", structlog.get_logger(name))


def host_logger() -> logging.Logger:
    """Return the logger for the ASGI server that hosts the app.

    Hypercorn writes to a handler of its own, past the redaction, unless it is given a logger:

        config.errorlog = host_logger()
        config.accesslog = host_logger()  # or None
    """
    return logging.getLogger(_HOST)
