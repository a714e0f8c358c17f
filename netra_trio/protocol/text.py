"""Cuts text and JSON to the sizes that the protocol allows.

>>> cut_text("héllo", 3)
('hé', True)
>>> list(pieces("ab")), list(pieces(""))
(['ab'], [])
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import orjson

EVENT_BYTES = 250 * 1024  # of the variable part of a payload: an event is at most 256 KiB
PIECE_CHARACTERS = 32 * 1024  # of a delta: at most 192 KiB as JSON, if each one is escaped
_SPARE_BYTES = 64 * 1024  # beyond the limit of a tail, so that not every piece needs a cut


def pieces(text: str) -> Iterator[str]:
    """Split a text into pieces that each fit into one event; an empty text has no piece."""
    for start in range(0, len(text), PIECE_CHARACTERS):
        yield text[start : start + PIECE_CHARACTERS]


def json_size(text: str) -> int:
    """Return the size of a text in bytes of UTF-8.

    Raises:
        UnicodeEncodeError: If it has a lone surrogate.
    """
    return len(text) if text.isascii() else len(text.encode())


def cut_text(text: str, limit: int) -> tuple[str, bool]:
    """Return the beginning of a text, of at most `limit` bytes of UTF-8, and whether it was cut."""
    if len(text) * 4 <= limit or len(data := text.encode()) <= limit:
        return text, False
    return data[:limit].decode(errors="ignore"), True


def cut_front(text: str, limit: int) -> str:
    """Return the end of a text, of at most `limit` bytes of UTF-8."""
    if len(text) * 4 <= limit or len(data := text.encode()) <= limit:
        return text
    return data[len(data) - limit :].decode(errors="ignore")


def cut_json(value: Any, limit: int) -> tuple[bytes, bool]:
    """Return a value as JSON of at most `limit` bytes, and whether it was cut.

    A value that is too large becomes a string: the beginning of the string, or of the JSON of any
    other value.

    Raises:
        TypeError: If the value cannot be encoded as JSON.
    """
    data = orjson.dumps(value)
    if len(data) <= limit:
        return data, False
    text, _ = cut_text(value if isinstance(value, str) else data.decode(), limit)
    while len(data := orjson.dumps(text)) > limit:
        text = text[: min(len(text) - 1, len(text) * limit // len(data))]
    return data, True


def fair_limit(sizes: Sequence[int], total: int) -> int:
    """Return the maximum size of each text, so that all together have at most `total`.

    Shorter texts keep their size, and leave more for the others; 0 if `total` is not positive, and
    `total` if no text has to be shortened.

    >>> fair_limit([10, 50, 60], 90)
    40
    """
    left = max(total, 0)
    for count, size in zip(range(len(sizes), 0, -1), sorted(sizes), strict=True):
        if size * count > left:
            return left // count
        left -= size
    return max(total, 0)


class TextTail:
    """The end of a text that grows: its last `limit` bytes of UTF-8, and some more before them.

    >>> tail = TextTail(3)
    >>> tail.add("hello", 5)
    >>> tail.text, tail.is_cut
    ('hello', False)

    Attributes:
        is_cut: Whether the beginning of the text is cut off.
    """

    __slots__ = ("_limit", "_pieces", "_size", "is_cut")

    def __init__(self, limit: int, pieces: Iterable[str] = (), *, is_cut: bool = False) -> None:
        self._limit = limit
        self._pieces = list(pieces)
        self._size = sum(json_size(piece) for piece in self._pieces)
        self.is_cut = is_cut

    def add(self, piece: str, size: int) -> None:
        """Append a piece of `size` bytes of UTF-8."""
        self._pieces.append(piece)
        self._size += size
        if self._size > self._limit + _SPARE_BYTES:
            kept = cut_front("".join(self._pieces), self._limit)
            self._pieces, self.is_cut = [kept], True
            self._size = len(kept.encode())

    @property
    def text(self) -> str:
        """The end of the text."""
        return "".join(self._pieces)
