r"""Server-sent events, parsed from the pieces of a stream.

>>> reader = SseReader(limit=1000)
>>> reader.feed(b"id: 1\ndata: he")
[]
>>> reader.feed(b"llo\n\n: keep-alive\n\nevent: close\r\ndata: {}\r\n\r\n")
[ServerSent(event='message', data='hello'), ServerSent(event='close', data='{}')]
"""

import re

from attrs import frozen

from netra_trio.errors import NetraError

_LINE_END = re.compile(rb"\r\n|\r|\n")
_MARK = b"\xef\xbb\xbf"  # may precede the first line


class EventTooLarge(NetraError):
    """An event has more bytes than the limit."""


@frozen
class ServerSent:
    """An event: its name, and its data."""

    event: str
    data: str


class SseReader:
    """Parses a stream, as the HTML standard has it (9.2.6). Fields other than two are ignored.

    Args:
        limit: The most bytes of one event.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rest = b""  # of a line
        self._is_first = True
        self._after_return = False  # a line feed that follows belongs to the last line end
        self._event = b""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, piece: bytes) -> list[ServerSent]:
        """Return the events that a piece completes.

        Raises:
            EventTooLarge: An event exceeds the limit.
        """
        if self._after_return and piece:
            piece = piece.removeprefix(b"\n")
            self._after_return = False
        if piece:
            self._after_return = piece.endswith(b"\r")
        *lines, self._rest = _LINE_END.split(self._rest + piece)
        found = []
        for line in lines:
            if self._is_first:
                line = line.removeprefix(_MARK)  # noqa: PLW2901 - the same line without it
                self._is_first = False
            if not line:
                found += self._end()
            else:
                self._add(line)
        if self._size + len(self._rest) > self._limit:
            raise EventTooLarge(f"an event has more than {self._limit} bytes")
        return found

    def _add(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"event":
            self._event = value
        elif name == b"data":
            self._data.append(value)
            self._size += len(value)
            if self._size > self._limit:
                raise EventTooLarge(f"an event has more than {self._limit} bytes")

    def _end(self) -> list[ServerSent]:
        event, data = self._event or b"message", self._data
        self._event, self._data, self._size = b"", [], 0
        if not data:
            return []
        return [
            ServerSent(event.decode(errors="replace"), b"\n".join(data).decode(errors="replace"))
        ]
