"""The session's numbered events: what is to be written, what may be needed again, and the bounds.

    >>> log = EventLog(max_events=2, max_bytes=1000, acknowledging=True)
    >>> [log.append(name, 1) for name in ("a", "b")]
    [1, 2]
    >>> log.has_room(1)
    False
    >>> [(entry.seq, entry.event) for entry in log.take(max_bytes=1000)]
    [(1, 'a'), (2, 'b')]
    >>> log.acknowledge(1)
    True
    >>> log.has_room(1)
    True

Two queues, with the writer's cursor between them. `pending` is what this socket has yet to write,
`kept` what it was given and has not acknowledged. A number is *written* from the moment its frame
is handed to a transport, because from then on the peer may have it, whatever the transport says.

Ordinary events wait for room: that is the backpressure to agents. A message takes two reserved
places when it is admitted, for its confirmation and for its run's end, so these two never wait.
"""

from collections import deque
from typing import Any

from attrs import define

RESERVED_PLACES = 256  # per session, the contract's bound, section 4
PLACES_PER_MESSAGE = 2  # its confirmation and its run's end


@define
class Entry:
    """One event in the log.

    Attributes:
        seq: Its number, from 1.
        event: The event itself, for the writer to encode.
        size: What it counts in bytes.
        reserved: Whether it sits in a reserved place.
        timestamp: Unix seconds at which it happened.
        correlation_id: Of the message it belongs to.
    """

    seq: int
    event: Any
    size: int
    reserved: bool
    timestamp: float
    correlation_id: str | None


class EventLog:
    """Numbers events, holds them within bounds, and lets them go when they are done with.

    Args:
        max_events: Ordinary events to hold.
        max_bytes: Bytes to hold before ordinary events wait.
        acknowledging: Whether the client acknowledges; without it an event is done with when it
            is given to the writer.
    """

    def __init__(self, *, max_events: int, max_bytes: int, acknowledging: bool) -> None:
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._acknowledging = acknowledging
        self._pending: deque[Entry] = deque()
        self._kept: deque[Entry] = deque()
        self._ordinary = 0
        self._bytes = 0
        self._reserved = 0
        self.last = 0
        self.written = 0

    @property
    def has_pending(self) -> bool:
        """Whether there is something to write."""
        return bool(self._pending)

    @property
    def is_over_bytes(self) -> bool:
        """Whether the bytes are used up, so that ends should carry little."""
        return self._bytes >= self._max_bytes

    def has_room(self, size: int) -> bool:
        """Whether an ordinary event of `size` bytes fits now; an empty log takes any event."""
        if self._ordinary >= self._max_events:
            return False
        return self._bytes + size <= self._max_bytes or not self._bytes

    def reserve(self) -> bool:
        """Take the two places of a message, if there are two."""
        if self._reserved + PLACES_PER_MESSAGE > RESERVED_PLACES:
            return False
        self._reserved += PLACES_PER_MESSAGE
        return True

    def release(self, places: int = PLACES_PER_MESSAGE) -> None:
        """Give back places that will not be used after all."""
        self._reserved -= places

    def append(
        self,
        event: Any,
        size: int,
        reserved: bool = False,
        timestamp: float = 0.0,
        correlation_id: str | None = None,
    ) -> int:
        """Put an event at the end and return the number it got.

        The caller has made sure of room with `has_room`, or of a place with `reserve`.
        """
        self.last = seq = self.last + 1
        self._pending.append(Entry(seq, event, size, reserved, timestamp, correlation_id))
        self._bytes += size
        if not reserved:
            self._ordinary += 1
        return seq

    def take(self, *, max_bytes: int) -> list[Entry]:
        """Return the next events to write, at least one if there is any, and count them written."""
        taken: list[Entry] = []
        size = 0
        while self._pending and (not taken or size + self._pending[0].size <= max_bytes):
            entry = self._pending.popleft()
            size += entry.size
            taken.append(entry)
            if self._acknowledging:
                self._kept.append(entry)
            else:
                self._forget(entry)
        if taken:
            self.written = taken[-1].seq
        return taken

    def acknowledge(self, seq: int) -> bool:
        """Let go of every event up to `seq`; return whether that made room.

        Raises:
            ValueError: If `seq` was never written.
        """
        if seq > self.written:
            raise ValueError(seq)
        freed = False
        while self._kept and self._kept[0].seq <= seq:
            self._forget(self._kept.popleft())
            freed = True
        return freed

    def _forget(self, entry: Entry) -> None:
        self._bytes -= entry.size
        if entry.reserved:
            self._reserved -= 1
        else:
            self._ordinary -= 1
