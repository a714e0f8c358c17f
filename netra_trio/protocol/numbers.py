"""Numbers that cannot be kept as they were sent, and where they are in a frame.

    >>> find_unkept('{"payload": {"wei": 100000000000000000001}}')
    '$.payload.wei: expected an integer from -2^63 to 2^64-1, got 100000000000000000001'
    >>> find_unkept('{"payload": {"wei": 1}}') is None
    True

The JSON parser reads a larger integer as a decimal, which changes it without a word. Two messages
that differ in such a number would be the same message.
"""

import json
import re
from collections.abc import Iterator
from math import isfinite
from typing import Any

from attrs import frozen

SMALLEST, LARGEST = -(2**63), 2**64 - 1  # the integers that every part of the server keeps
_DIGITS = 20  # of the largest one, which has as many as the smallest one with its sign
_SHOWN_DIGITS = 40  # of a number in an error: enough to recognize it

_LONG_TEXT, _LONG_BYTES = re.compile(r"\d{19}"), re.compile(rb"\d{19}")


@frozen
class _Unkept:
    """A number that cannot be kept: what was expected, and what came."""

    expected: str
    literal: str


def may_have_unkept(data: str | bytes) -> bool:
    """Whether a frame has so many digits in a row that one of its integers may be too large."""
    pattern: re.Pattern[Any] = _LONG_TEXT if isinstance(data, str) else _LONG_BYTES
    return pattern.search(data) is not None


def find_unkept(data: str | bytes) -> str | None:
    """Return the path of the first number that cannot be kept, and what was expected there.

    None if there is none, or if the frame is no JSON.
    """
    try:
        value = json.loads(data, parse_int=_integer, parse_float=_decimal, parse_constant=float)
    except (ValueError, RecursionError):
        return None
    return next(
        (f"{path}: expected {it.expected}, got {it.literal}" for path, it in _walk(value)), None
    )


def _integer(literal: str) -> int | _Unkept:
    if len(literal) <= _DIGITS and SMALLEST <= (value := int(literal)) <= LARGEST:
        return value
    return _Unkept("an integer from -2^63 to 2^64-1", _shown(literal))


def _decimal(literal: str) -> float | _Unkept:
    value = float(literal)
    return value if isfinite(value) else _Unkept("a number that is finite", _shown(literal))


def _shown(literal: str) -> str:
    return literal if len(literal) <= _SHOWN_DIGITS else literal[:_SHOWN_DIGITS] + "…"


def _walk(root: Any) -> Iterator[tuple[str, _Unkept]]:
    """Yield the numbers that cannot be kept, with their paths; without recursion."""
    left: list[tuple[str, Any]] = [("$", root)]
    while left:
        path, value = left.pop()
        if isinstance(value, _Unkept):
            yield path, value
        elif isinstance(value, dict):
            left += [(f"{path}.{_shown(name)}", inner) for name, inner in value.items()][::-1]
        elif isinstance(value, list):
            left += [(f"{path}[{index}]", inner) for index, inner in enumerate(value)][::-1]
