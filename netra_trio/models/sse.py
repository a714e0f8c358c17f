r"""Parses server-sent events (`text/event-stream`), without I/O and within bounds.

>>> parser = EventParser()
>>> parser.feed(b"data: one\n\nda"), parser.feed(b"ta: two\n"), parser.end()
(['one'], [], ['two'])
"""

import re

LINE_BYTES = 1024 * 1024  # of one line; a delta has a few hundred, a whole tool call some thousand
MESSAGE_BYTES = 1024 * 1024  # of the lines of one message

_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"


class MessageTooLong(Exception):
    """A line or a message exceeds its bound."""


class EventParser:
    """Collects the bytes of a stream, and returns the data of its messages.

    Comments, event names, ids and retry times are ignored: no provider uses them in answers.

    Args:
        line_bytes: The maximum length of a line, without its end.
        message_bytes: The maximum length of the data of a message.
    """

    def __init__(self, *, line_bytes: int = LINE_BYTES, message_bytes: int = MESSAGE_BYTES) -> None:
        self._line_bytes = line_bytes
        self._message_bytes = message_bytes
        self._line = bytearray()
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._is_first_line = True
        self._ended_with_cr = False

    def feed(self, data: bytes) -> list[str]:
        """Return the messages that are complete with these bytes.

        Raises:
            MessageTooLong: A bound is exceeded; the parser cannot be used any more.
        """
        if not data:
            return []
        if self._ended_with_cr and data.startswith(b"\n"):
            data = data[1:]  # the second half of a line end
            self._ended_with_cr = False
        if data:
            self._ended_with_cr = data.endswith(b"\r")
        messages: list[str] = []
        first, *others = _LINE_END.split(data)
        self._append(first)
        for piece in others:
            self._end_line(messages)
            self._append(piece)
        return messages

    def end(self) -> list[str]:
        """Return a last message that no empty line ends: some servers omit that line."""
        messages: list[str] = []
        self._end_line(messages)
        self._end_line(messages)
        return messages

    def _append(self, piece: bytes) -> None:
        self._line += piece
        if len(self._line) > self._line_bytes:
            raise MessageTooLong(f"a line of more than {self._line_bytes} bytes")

    def _end_line(self, messages: list[str]) -> None:
        line = bytes(self._line)
        self._line.clear()
        if self._is_first_line:
            self._is_first_line = False
            line = line.removeprefix(_BOM)
        if line:
            self._take(line)
        elif self._data:
            messages.append(b"\n".join(self._data).decode(errors="replace"))
            self._data.clear()
            self._data_bytes = 0

    def _take(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name != b"data":
            return
        value = value.removeprefix(b" ")
        self._data_bytes += len(value)
        if self._data_bytes > self._message_bytes:
            raise MessageTooLong(f"a message of more than {self._message_bytes} bytes")
        # One byte more for each line, so that many empty lines are bounded too.
        self._data_bytes += 1
        self._data.append(value)
