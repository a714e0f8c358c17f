"""Messages that are not confirmed yet: in order, one on its way at a time; the caller brings `now`.

>>> outbox = Outbox()
>>> hello = Entry("c-1", '{"type": "user_message"}')
>>> outbox.add(hello)
>>> outbox.next(now=0.0) is hello, outbox.next(now=0.0)
(True, None)
>>> outbox.confirm("c-1") is hello, len(outbox)
(True, 0)

One at a time, because a message that is to be sent again must not be overtaken by those behind it.
The confirmation comes when the message is stored, so the price is one round trip for each.
"""

from collections.abc import Iterator
from math import inf

from attrs import define, field

from netra_trio.protocol.codes import ErrorCode

ENTRIES = 1000  # messages that wait, or whose run goes on: a server lets in far fewer at once
ENTRY_BYTES = 16 * 1024 * 1024  # of all of them: some hundred of the largest that are allowed
RETRY_SECONDS = 1.0  # where an error that asks for patience does not say for how long

_AGAIN = frozenset(
    {
        ErrorCode.RATE_LIMIT_EXCEEDED,
        ErrorCode.QUEUE_FULL,
        ErrorCode.SERVICE_UNAVAILABLE,
        ErrorCode.SERVER_DRAINING,
    }
)
"""The codes after which a message is sent again under its key; every other settles it."""


@define(eq=False)
class Entry:
    """A message under its key.

    Attributes:
        key: Its correlation id.
        text: The whole frame: a message that is sent again is the same to the last byte.
        asks: Whether it was confirmed once, and is sent again to hear of its run's end.
        is_written: Whether it was ever handed to a socket.
    """

    key: str
    text: str = field(repr=False)
    asks: bool = False
    is_written: bool = False
    size: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.size = len(self.text.encode())


class Outbox:
    """What waits for its confirmation."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._on_its_way: Entry | None = None
        self._rests_until = -inf
        self.size = 0  # bytes

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(tuple(self._entries))

    def add(self, entry: Entry) -> None:
        """Put a message behind the others."""
        self._entries.append(entry)
        self.size += entry.size

    def ask(self, entry: Entry) -> None:
        """Put a message that asks before those that don't: it was confirmed before them."""
        self._entries.insert(sum(other.asks for other in self._entries), entry)
        self.size += entry.size

    def next(self, now: float) -> Entry | None:
        """Return the message to send now, None where there is none; it is then on its way."""
        if now < self.next_at():
            return None
        self._on_its_way = self._entries[0]
        self._on_its_way.is_written = True
        return self._on_its_way

    def next_at(self) -> float:
        """Return when there is a message to send; infinity where something else comes first."""
        if self._on_its_way is not None or not self._entries:
            return inf
        return self._rests_until

    def rest(self, until: float) -> None:
        """Send nothing before `until`, or before the line is a new one."""
        self._rests_until = max(self._rests_until, until)

    def wake(self) -> None:
        """Rest no longer."""
        self._rests_until = -inf

    def new_line(self) -> None:
        """Begin on a new connection: what was on its way on the old one is sent again."""
        self._on_its_way = None
        self._rests_until = -inf

    def confirm(self, key: str | None) -> Entry | None:
        """Take out the message of this key, the oldest where there are several."""
        entry = self._find(key)
        if entry is not None:
            self.withdraw(entry)
        return entry

    def refuse(
        self, key: str | None, code: str, retry_after_ms: int | None, now: float
    ) -> Entry | None:
        """Take out the message that an error settles; None if it is sent again, or unknown."""
        entry = self._find(key)
        if entry is None:
            return None
        if code not in _AGAIN:
            self.withdraw(entry)
            return entry
        if entry is self._on_its_way:
            self._on_its_way = None
            wait = RETRY_SECONDS if retry_after_ms is None else retry_after_ms / 1000
            # A server that drains takes nothing any more: the next connection does.
            self.rest(inf if code == ErrorCode.SERVER_DRAINING else now + wait)
        return None

    @property
    def on_its_way(self) -> Entry | None:
        """The message that was written and not answered yet."""
        return self._on_its_way

    def beyond(self, limit: int) -> list[Entry]:
        """Take out the messages of more than `limit` bytes."""
        found = [entry for entry in self._entries if entry.size > limit]
        for entry in found:
            self.withdraw(entry)
        return found

    def withdraw(self, entry: Entry) -> None:
        """Take a message out, whatever became of it."""
        if entry in self._entries:
            self._entries.remove(entry)
            self.size -= entry.size
        if entry is self._on_its_way:
            self._on_its_way = None

    def _find(self, key: str | None) -> Entry | None:
        return next((entry for entry in self._entries if entry.key == key), None)
