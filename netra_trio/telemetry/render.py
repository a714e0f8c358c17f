"""From an event to one line of bounded size: for people, or as JSON for programs.

>>> render({"level": "info", "event": "opened", "token": "abc"}, as_json)
'{"level":"info","event":"opened","token":"[redacted]"}'
>>> render({"level": "info", "event": "opened"}, Console(Palette()))
'null info     opened'
"""

import itertools
import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

import orjson
from attrs import define, field, frozen

from netra_trio.telemetry.redact import (
    CUT,
    LINE,
    REDACTED,
    SCAN,
    escape,
    escape_json,
    escape_surrogates,
    is_inert,
    is_secret,
    redact,
    redact_line,
)

DEPTH = 6  # containers inside each other: deeper is an object nobody reads in a log, or a loop
ITEMS = 64  # per container: enough for every header of a request

# One unit of budget renders to at most 6 bytes (\u202e), so the second of these always fits a line.
_BUDGETS = (LINE * 3 // 4, LINE // 8)
_NODE = 8  # units that a key or a value costs before its text

SIMPLE_FIELDS, SIMPLE_LENGTH = 24, 200  # of an event that needs no budget: far below a line
KNOWN_TEXTS = 4096  # kept, to not look at them again: some 400 KB

Form = Callable[[dict[str, Any]], str]
"""What turns plain values into a line: `as_json`, or a `Console`."""


def render(event: Mapping[str, Any], form: Form) -> str:
    """Return the event as a line of at most `LINE` bytes, redacted as a whole once more."""
    simple = _simple(event)
    if simple is not None:
        return form(simple)
    line = ""
    for units in _BUDGETS:
        line = redact_line(form(_plain(event, units)))
        if len(line.encode()) <= LINE:
            break
    return line


# From any object to plain values of bounded size.


def described(value: object) -> str:
    """Return the repr of any value, also of one that has none."""
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
            text = escape_surrogates(text)
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
        return self.text(described(known))

    def _number(self, number: float) -> Any:
        if isinstance(number, int) and abs(number) >= 1 << 53:
            return self.text(described(number))  # JSON's readers would round it, or refuse it
        self.left -= _NODE
        return int(number) if isinstance(number, int) else float(number)

    def _container(self, value: Any, depth: int) -> Any:
        self.left -= _NODE
        if depth >= DEPTH:
            return CUT
        if isinstance(value, dict):
            return self.mapping(value, depth)
        if isinstance(value, tuple) and len(value) == 2 and is_secret(value[0]):  # noqa: PLR2004 - a pair
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
            name = self.text(key if isinstance(key, str) else described(key))
            hidden = is_secret(key) and not (item is None or isinstance(item, bool))
            plain[name] = REDACTED if hidden else self.value(item, depth + 1)
        if len(value) > ITEMS:
            plain[CUT] = True
        return plain


_TIME = "timestamp"  # the program's own, set by the last step but one
_FIRST = (_TIME, "level", "logger", "event")
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


# From plain values to a line.


def _simple(event: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return an event of words and numbers in reading order; None where it has anything else.

    That is most of what a busy server says, and costs a tenth of looking for credentials.
    """
    if len(event) > SIMPLE_FIELDS:
        return None
    if not (event.keys() <= _names or all(map(_is_name, event))):
        return None
    plain = {name: event[name] for name in _FIRST if name in event}
    plain |= event
    stamp, texts = plain.get(_TIME), []
    for value in event.values():
        kind = type(value)
        if kind is str or isinstance(value, StrEnum):
            if value not in _known and value is not stamp:
                texts.append(value)
        elif not (value is None or kind is float or kind is bool or _is_small(value)):
            return None
    # Most often all that is new are ids and words, which one look tells.
    together = " ".join(texts)
    if len(together) > SIMPLE_LENGTH and max(map(len, texts)) > SIMPLE_LENGTH:
        return None
    if not (is_inert(together) or all(map(_is_plain, texts))):
        return None
    return plain


_names: set[str] = set()
"""Names of fields that can be shown as they are: a program has a few hundred of them."""


def _is_name(name: object) -> bool:
    """Whether this is the name of a field that is no secret, and can be shown as it is."""
    if type(name) is not str or is_secret(name) or not is_inert(name):
        return False
    if len(_names) < KNOWN_TEXTS:
        _names.add(name)
    return True


def _is_small(value: object) -> bool:
    """Whether this is an integer that every reader of JSON keeps exact."""
    return type(value) is int and abs(value) < 1 << 53


_known: set[str] = set()
"""Texts that turned out to have no credential in them: ids of users come again and again."""


def _is_plain(text: str) -> bool:
    """Whether a text can be shown as it is."""
    if is_inert(text) or text in _known:
        return True
    if len(text) > SIMPLE_LENGTH or not text.isascii() or not text.isprintable():
        return False
    if redact(text) != text or redact_line(text) != text:
        return False
    if len(_known) >= KNOWN_TEXTS:
        _known.clear()
    _known.add(text)
    return True


def as_json(plain: dict[str, Any]) -> str:
    """Render an event for programs: one JSON object."""
    return escape_json(orjson.dumps(plain).decode())


_WORD = re.compile(r"[\w./:@+\[\]-]+", re.ASCII)


@frozen
class Palette:
    """ANSI sequences, or nothing at all."""

    reset: str = ""
    dim: str = ""
    bold: str = ""
    name: str = ""
    key: str = ""
    levels: Mapping[str, str] = field(factory=dict)


COLOURS = Palette(
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
    return escape_json(orjson.dumps(value).decode())


@frozen
class Console:
    """Renders an event for people.

    structlog's ConsoleRenderer writes the event, the keys, the traceback and any value without a
    space as they are, escape sequences and newlines included, and values with a space as `repr`:
    escaping before it would show some values escaped twice. Hence a renderer of our own.
    """

    palette: Palette

    def __call__(self, plain: dict[str, Any]) -> str:
        """Render an event; what it takes from `plain` is gone."""
        colour = self.palette
        traces = [str(plain.pop(name)) for name in _TRACES if name in plain]
        timestamp, level, name, event = (plain.pop(key, None) for key in _FIRST)
        tint = colour.levels.get(str(level), "")
        said = escape(event) if isinstance(event, str) else _word(event)
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
            lines += ["    " + escape(line) for line in trace.split("\n")]
        return "\n".join(lines)
