"""Finds numbers of a frame that are out of range, so that a parser would change them.

    >>> find_out_of_range('{"payload": {"wei": 100000000000000000001}}')
    '$.payload.wei: expected an integer from -2^63 to 2^64-1, got 100000000000000000001'
    >>> find_out_of_range('{"payload": {"wei": 1}}') is None
    True

The JSON parser reads a larger integer as a decimal and rounds it, without an error. Two messages
that differ only in such a number would then be equal.
"""

import json
import re
from collections.abc import Iterator
from math import isfinite
from typing import Any

from attrs import frozen

SMALLEST, LARGEST = -(2**63), 2**64 - 1  # the integers that orjson and the stores keep exactly
_DIGITS = 20  # of LARGEST; SMALLEST has as many characters, with its sign
_SHOWN_DIGITS = 40  # of a number in an error text: enough to recognize it

_LONG_TEXT, _LONG_BYTES = re.compile(r"\d{19}"), re.compile(rb"\d{19}")


@frozen
class _OutOfRange:
    """A number that is out of range: a description of valid numbers, and its text."""

    expected: str
    literal: str


def may_have_out_of_range(data: str | bytes) -> bool:
    """Whether a frame has enough digits in a row for an integer that is out of range."""
    pattern: re.Pattern[Any] = _LONG_TEXT if isinstance(data, str) else _LONG_BYTES
    return pattern.search(data) is not None


def find_out_of_range(data: str | bytes) -> str | None:
    """Return the path of the first number that is out of range, and a description of the error.

    None if there is no such number, or if the frame is not valid JSON.
    """
    try:
        value = json.loads(data, parse_int=_integer, parse_float=_decimal, parse_constant=float)
    except (ValueError, RecursionError):
        return None
    return next(
        (f"{path}: expected {it.expected}, got {it.literal}" for path, it in _walk(value)), None
    )


def _integer(literal: str) -> int | _OutOfRange:
    if len(literal) <= _DIGITS and SMALLEST <= (value := int(literal)) <= LARGEST:
        return value
    return _OutOfRange("an integer from -2^63 to 2^64-1", _shown(literal))


def _decimal(literal: str) -> float | _OutOfRange:
    value = float(literal)
    return value if isfinite(value) else _OutOfRange("a number that is finite", _shown(literal))


def _shown(literal: str) -> str:
    return literal if len(literal) <= _SHOWN_DIGITS else literal[:_SHOWN_DIGITS] + "…"


def _walk(root: Any) -> Iterator[tuple[str, _OutOfRange]]:
    """Yield the numbers that are out of range, with their paths; without recursion."""
    left: list[tuple[str, Any]] = [("$", root)]
    while left:
        path, value = left.pop()
        if isinstance(value, _OutOfRange):
            yield path, value
        elif isinstance(value, dict):
            left += [(f"{path}.{_shown(name)}", inner) for name, inner in value.items()][::-1]
        elif isinstance(value, list):
            left += [(f"{path}[{index}]", inner) for index, inner in enumerate(value)][::-1]
