"""Unconfirmed messages in their order, one in flight at a time. Rules only; no waiting.

>>> outbox = Outbox()
>>> hello = OutboxMessage("c-1", '{"type": "user_message"}')
>>> outbox.add(hello)
>>> outbox.next(now=0.0) is hello, outbox.next(now=0.0)
(True, None)
>>> outbox.confirm("c-1") is hello, len(outbox)
(True, 0)

One at a time, because later messages must not overtake one that has to be sent again. A message is
confirmed once it is stored, so each message costs one round trip.
"""

from collections.abc import Iterator
from math import inf

from attrs import define, field

from netra_trio.client.refusals import TEMPORARY, wait_seconds
from netra_trio.protocol.binary import join_binary
from netra_trio.protocol.codes import ErrorCode

MESSAGES = 1000  # unconfirmed, or with a run that is not over (docs/client.md, Bounds)
MESSAGE_BYTES = 16 * 1024 * 1024  # of all of them: some hundred of the largest that are allowed

_TEMPORARY = TEMPORARY | {ErrorCode.QUEUE_FULL}  # every other code is final for a message


@define(eq=False)
class OutboxMessage:
    """A message under its key.

    Attributes:
        key: Its correlation id.
        text: The JSON frame: a message that is sent again is the same to the last byte.
        data: The content of its attachment, which is sent with it in one binary frame; None for a
            text frame.
        is_repeat: Whether it was confirmed before, and is sent again to learn the end of its run.
        is_written: Whether it was ever handed to a socket.
        is_counted: Whether it counts in the statistics.
        refusals: How often the server refused it for now, one after the other.
    """

    key: str
    text: str = field(repr=False)
    is_repeat: bool = False
    is_written: bool = False
    is_counted: bool = False
    refusals: int = 0
    data: bytes | None = field(default=None, repr=False)
    size: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.size = len(self.frame if self.data is not None else self.text.encode())

    @property
    def frame(self) -> str | bytes:
        """The whole frame."""
        return self.text if self.data is None else join_binary(self.text.encode(), self.data)


class Outbox:
    """The messages that are not confirmed."""

    def __init__(self) -> None:
        self._messages: list[OutboxMessage] = []
        self._in_flight: OutboxMessage | None = None
        self._paused_until = -inf
        self.size = 0  # bytes

    def __len__(self) -> int:
        return len(self._messages)

    def __iter__(self) -> Iterator[OutboxMessage]:
        return iter(tuple(self._messages))

    def add(self, message: OutboxMessage) -> None:
        """Append a message."""
        self._messages.append(message)
        self.size += message.size

    def add_repeat(self, message: OutboxMessage) -> None:
        """Insert a repeated message before the others: it was confirmed before them."""
        self._messages.insert(sum(other.is_repeat for other in self._messages), message)
        self.size += message.size

    def next(self, now: float) -> OutboxMessage | None:
        """Return the message to send now, or None; it is in flight afterwards."""
        if now < self.next_at():
            return None
        self._in_flight = self._messages[0]
        self._in_flight.is_written = True
        return self._in_flight

    def next_at(self) -> float:
        """Return when there is a message to send; infinity if an answer has to come first."""
        if self._in_flight is not None or not self._messages:
            return inf
        return self._paused_until

    def pause(self, until: float) -> None:
        """Send nothing before `until`, or before the next connection."""
        self._paused_until = max(self._paused_until, until)

    def resume(self) -> None:
        """End the pause."""
        self._paused_until = -inf

    def begin_connection(self) -> None:
        """Begin on a new connection: the message in flight on the old one is sent again."""
        self._in_flight = None
        self._paused_until = -inf

    def confirm(self, key: str | None) -> OutboxMessage | None:
        """Remove and return the message of this key, the oldest if there are several."""
        message = self._find(key)
        if message is not None:
            self.remove(message)
        return message

    def refuse(
        self, key: str | None, code: str, retry_after_ms: int | None, now: float
    ) -> OutboxMessage | None:
        """Remove and return the message that an error settles.

        Returns None if the message is sent again, or there is no message of this key.
        """
        message = self._find(key)
        if message is None:
            return None
        if code not in _TEMPORARY:
            self.remove(message)
            return message
        if message is self._in_flight:
            self._in_flight = None
            wait = wait_seconds(retry_after_ms, message.refusals)
            message.refusals += 1
            # A draining server accepts no more messages: the next connection does.
            self.pause(inf if code == ErrorCode.SERVER_DRAINING else now + wait)
        return None

    @property
    def is_waiting(self) -> bool:
        """Whether a message waits to be written, now or later."""
        return len(self._messages) > (self._in_flight is not None)

    @property
    def in_flight(self) -> OutboxMessage | None:
        """The message that was written and not answered."""
        return self._in_flight

    def take_larger_than(self, limit: int) -> list[OutboxMessage]:
        """Remove and return the messages of more than `limit` bytes."""
        found = [message for message in self._messages if message.size > limit]
        for message in found:
            self.remove(message)
        return found

    def take_binary(self) -> list[OutboxMessage]:
        """Remove and return the messages with data."""
        found = [message for message in self._messages if message.data is not None]
        for message in found:
            self.remove(message)
        return found

    def remove(self, message: OutboxMessage) -> None:
        """Remove a message; does nothing if it is not in the outbox."""
        if message in self._messages:
            self._messages.remove(message)
            self.size -= message.size
        if message is self._in_flight:
            self._in_flight = None

    def _find(self, key: str | None) -> OutboxMessage | None:
        return next((message for message in self._messages if message.key == key), None)
