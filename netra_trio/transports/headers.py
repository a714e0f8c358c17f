"""Header and query fields, grouped by name.

>>> grouped([("a", "1"), ("b", "2"), ("a", "3")])
{'a': ['1', '3'], 'b': ['2']}
"""

from collections.abc import Iterable
from typing import AnyStr, TypeAlias

Headers: TypeAlias = dict[bytes, list[bytes]]


def grouped(pairs: Iterable[tuple[AnyStr, AnyStr]]) -> dict[AnyStr, list[AnyStr]]:
    """Return the values of each name, in their order."""
    found: dict[AnyStr, list[AnyStr]] = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return found


def by_name(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Return the values of each header, by its name in lower case."""
    return grouped((name.lower(), value) for name, value in headers)


def list_items(headers: Headers, name: bytes) -> list[bytes]:
    """Return the items of a header whose value is a comma-separated list (RFC 9110, 5.6.1)."""
    items = b",".join(headers.get(name, [])).split(b",")
    return [item.strip() for item in items if item.strip()]
