"""The event log of a session: numbers its events and bounds how many are kept.

    >>> log = EventLog(max_events=2, max_bytes=1000, acknowledging=True)
    >>> [log.append(name, 1).seq for name in ("a", "b")]
    [1, 2]
    >>> log.has_room(1)
    False
    >>> [(entry.seq, entry.event) for entry in log.take(max_bytes=1000)]
    [(1, 'a'), (2, 'b')]
    >>> [entry.seq for entry in log.acknowledge(1)]
    [1]
    >>> log.has_room(1)
    True

There are two queues. `pending` has the events that are not written on the current connection.
`kept` has events that were written and may be needed for a resume: until they are acknowledged; for
a client that does not acknowledge, a ring of the last events. An event counts as *written* when it
is taken for a transport, because the peer may receive it from then on, even if the send fails.

Most events need room. The agent waits for room: this is its backpressure. Room is used by events
that must not be removed: all events for an acknowledging client, only pending events for any other.
The confirmation of a message and the end of its run have reserved places, which the message takes
when it is admitted. So these two events never wait.

Adjacent deltas of one run may be merged into one event: in a full log, if they were never written;
and when they are taken, for a client that lags or resumes. The text of the run stays the same.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from sys import maxsize
from typing import Any

from attrs import define, evolve, frozen

from netra_trio.protocol.messages import PartialResult

RESERVED_PLACES = 256  # of a session: docs/protocol.md, Limits
PLACES_PER_MESSAGE = 2  # for its confirmation and the end of its run
MERGED_BYTES = 64 * 1024  # of the text of a merged delta: docs/protocol.md, Limits


@define(eq=False)
class Entry:
    """An event in the log, or several merged deltas.

    Attributes:
        seq: The number of the event, from 1; the last number of a merged event.
        event: The event, which the writer encodes.
        size: Its size in bytes, for the bounds.
        reserved: Whether it has a reserved place.
        timestamp: When it was appended, in Unix seconds.
        correlation_id: The correlation id of the message that it belongs to.
        seq_from: The first number of a merged event; None for any other event.
    """

    seq: int
    event: Any
    size: int
    reserved: bool
    timestamp: float
    correlation_id: str | None
    seq_from: int | None = None

    @property
    def first(self) -> int:
        """The first number of the event."""
        return self.seq if self.seq_from is None else self.seq_from


@frozen
class Rewound:
    """The result of a rewind.

    Attributes:
        last_seq: The next events have larger numbers than this.
        is_exact: Whether this is the number that the client asked for; if not, events are missing.
        removed: The entries that were removed from the log, in order.
    """

    last_seq: int
    is_exact: bool
    removed: list[Entry]


class EventLog:
    """Numbers events, and keeps them within bounds until they are not needed any more.

    Args:
        max_events: The maximum number of events without a reserved place.
        max_bytes: The maximum size of all events; events with a reserved place may exceed it.
        acknowledging: Whether the client acknowledges events. If not, an event uses no room after
            it is written.
        keeps_ring: Whether events without acknowledgement are kept for a resume while there is
            room.

    Attributes:
        last: The largest number of all events.
        written: The largest number that a client may have received.
    """

    __slots__ = (
        "_acknowledging",
        "_bytes",
        "_keeps_ring",
        "_kept",
        "_max_bytes",
        "_max_events",
        "_merged_until",
        "_pending",
        "_replays_until",
        "_reserved_count",
        "_ring_bytes",
        "_unreserved_count",
        "last",
        "written",
    )

    def __init__(
        self, *, max_events: int, max_bytes: int, acknowledging: bool, keeps_ring: bool = True
    ) -> None:
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._acknowledging = acknowledging
        self._keeps_ring = keeps_ring and not acknowledging
        self._pending: deque[Entry] = deque()
        self._kept: deque[Entry] = deque()
        # Of the events that must not be removed; reserved places are counted before they are used.
        self._unreserved_count = 0
        self._reserved_count = 0
        self._bytes = 0
        self._ring_bytes = 0  # of the events of the ring
        self._replays_until = 0  # events up to this number are replayed, and merged when taken
        self._merged_until = 0  # events up to this number cannot be merged further
        self.last = 0
        self.written = 0

    def has_pending(self, before: int = maxsize) -> bool:
        """Whether there are events to write with numbers below `before`."""
        return bool(self._pending) and self._pending[0].seq < before

    @property
    def is_over_bytes(self) -> bool:
        """Whether all bytes are used, so that the ends of runs should be short."""
        return self._bytes >= self._max_bytes

    @property
    def depth(self) -> int:
        """The number of events in the log."""
        return len(self._pending) + len(self._kept)

    @property
    def unsent(self) -> int:
        """The number of events that are not written on the current connection."""
        return len(self._pending)

    @property
    def size(self) -> int:
        """The bytes of all events in the log."""
        return self._bytes + self._ring_bytes

    def has_room(self, size: int) -> bool:
        """Whether there is room for an event of `size` bytes; any event fits into an empty log."""
        if self._unreserved_count >= self._max_events:
            return False
        return self._bytes + size <= self._max_bytes or not self._bytes

    def reserve(self) -> bool:
        """Reserve the two places of a message; return False if there are not enough."""
        if self._reserved_count + PLACES_PER_MESSAGE > RESERVED_PLACES:
            return False
        self._reserved_count += PLACES_PER_MESSAGE
        return True

    def release(self, places: int = PLACES_PER_MESSAGE) -> None:
        """Release reserved places that will not be used."""
        self._reserved_count -= places

    def append(
        self,
        event: Any,
        size: int,
        reserved: bool = False,
        timestamp: float = 0.0,
        correlation_id: str | None = None,
    ) -> Entry:
        """Append an event and return its entry, with its number.

        The caller has checked `has_room`, or has reserved a place.
        """
        self.last = seq = self.last + 1
        entry = Entry(seq, event, size, reserved, timestamp, correlation_id)
        self._pending.append(entry)
        self._bytes += size
        if not reserved:
            self._unreserved_count += 1
        return entry

    def merge(self) -> None:
        """Merge adjacent deltas that were never written, to make room."""
        pending = self._pending
        start = max(self.written, self._merged_until)
        fresh: list[Entry] = []
        while pending and pending[-1].seq > start:
            fresh.append(pending.pop())
        before = len(fresh)
        merged = _merged(reversed(fresh))
        pending.extend(merged)
        self._unreserved_count -= before - len(merged)
        if len(merged) > 1:
            self._merged_until = merged[-2].seq  # later deltas may be merged into the last one

    def take(self, *, max_bytes: int, merge: bool = False, before: int = maxsize) -> list[Entry]:
        """Return the next events to write, at least one if there are any; they count as written.

        Args:
            max_bytes: The size of all of them together.
            merge: Whether to merge adjacent deltas, for a client that lags.
            before: Only events with smaller numbers are returned.
        """
        taken: list[Entry] = []
        pending, kept, size = self._pending, self._kept, 0
        while pending and (not taken or size + pending[0].size <= max_bytes):
            if pending[0].seq >= before:
                break
            entry = pending.popleft()
            size += entry.size
            taken.append(entry)
        if not taken:
            return taken
        self.written = max(self.written, taken[-1].seq)
        if not self._acknowledging:
            for entry in taken:
                self._release_entry(entry)
            self._ring_bytes += size
        if self._acknowledging or self._keeps_ring:
            kept.extend(taken)
        if merge:
            return _merged(taken)
        if taken[0].seq <= self._replays_until:
            replayed = [entry for entry in taken if entry.seq <= self._replays_until]
            return _merged(replayed) + taken[len(replayed) :]
        return taken

    def acknowledge(self, seq: int) -> list[Entry]:
        """Remove the events up to `seq`, and return their entries.

        Raises:
            ValueError: If `seq` was never written.
        """
        if seq > self.written:
            raise ValueError(seq)
        return self._drop_kept(seq)

    def trim(self) -> list[Entry]:
        """Remove the oldest events of the ring, and return their entries.

        Call it after each append and take: the ring and the pending events together then stay
        within the bounds.
        """
        removed: list[Entry] = []
        if not self._keeps_ring:
            return removed
        kept, pending = self._kept, self._pending
        while kept and (
            len(kept) + len(pending) > self._max_events
            or self._ring_bytes + self._bytes > self._max_bytes
        ):
            entry = kept.popleft()
            self._ring_bytes -= entry.size
            removed.append(entry)
        return removed

    def rewind(self, last_seq: int) -> Rewound:
        """Make the events after `last_seq` pending again, for a client that resumes.

        Raises:
            ValueError: If `last_seq` was never written.
        """
        removed = self.acknowledge(last_seq)
        if not self._acknowledging:
            for entry in self._kept:  # pending again, so it uses room
                entry.reserved = False  # its place has been released
                self._unreserved_count += 1
                self._bytes += entry.size
            self._ring_bytes = 0
        self._pending.extendleft(reversed(self._kept))
        self._kept.clear()
        self._replays_until = self.last
        start = self._pending[0].first - 1 if self._pending else self.last
        return Rewound(start, start == last_seq, removed)

    def restore(self, entries: Sequence[Entry], *, last: int, reserved: int) -> None:
        """Fill a new log with the entries of the same session's log on another node.

        They count as written, because the other node may have sent them.

        Args:
            entries: The entries, oldest first; more than the bounds allow, until a rewind.
            last: The largest number of all events.
            reserved: The reserved places that messages of the session still have.
        """
        self.last = self.written = last
        self._reserved_count = reserved
        self._kept.extend(entries)
        size = sum(entry.size for entry in entries)
        if self._acknowledging:
            places = sum(entry.reserved for entry in entries)
            self._bytes = size
            self._reserved_count += places
            self._unreserved_count = len(entries) - places
        else:
            self._ring_bytes = size

    def skip_to(self, seq: int) -> None:
        """Go on with the number after `seq`: a client has events that this log never had."""
        self.last = self.written = seq

    def entries(self) -> list[Entry]:
        """Return all entries in the log, oldest first."""
        return [*self._kept, *self._pending]

    def _drop_kept(self, seq: int) -> list[Entry]:
        removed: list[Entry] = []
        kept, size, reserved = self._kept, 0, 0
        while kept and kept[0].seq <= seq:
            entry = kept.popleft()
            size += entry.size
            reserved += entry.reserved
            removed.append(entry)
        if self._acknowledging:
            self._bytes -= size
            self._reserved_count -= reserved
            self._unreserved_count -= len(removed) - reserved
        else:
            self._ring_bytes -= size
        return removed

    def _release_entry(self, entry: Entry) -> None:
        self._bytes -= entry.size
        if entry.reserved:
            self._reserved_count -= 1
        else:
            self._unreserved_count -= 1


class NoLog(EventLog):
    """The log of a session that no client can resume: it keeps no event, and always has room."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(max_events=0, max_bytes=0, acknowledging=True)

    @property
    def is_over_bytes(self) -> bool:
        """Return False: no bytes are used."""
        return False

    def has_room(self, size: int) -> bool:  # noqa: ARG002 - as of a log that keeps events
        """Return True: an event uses no room."""
        return True

    def append(
        self,
        event: Any,
        size: int,
        reserved: bool = False,
        timestamp: float = 0.0,
        correlation_id: str | None = None,
    ) -> Entry:
        """Return the entry of an event, without keeping it."""
        self.last += 1
        return Entry(self.last, event, size, reserved, timestamp, correlation_id)


def _merged(entries: Iterable[Entry]) -> list[Entry]:
    """Return the entries with adjacent deltas of one run merged; the originals do not change."""
    merged: list[Entry] = []
    parts: list[str] = []  # the texts of the last entry, if it is a delta

    def close() -> None:
        if len(parts) > 1:
            last = merged[-1]
            last.event = PartialResult(last.event.run_id, "".join(parts))
        parts.clear()

    for entry in entries:
        event = entry.event
        if type(event) is not PartialResult:
            close()
            merged.append(entry)
            continue
        last = merged[-1] if parts else None
        if (
            last is None
            or last.event.run_id != event.run_id
            or last.size + entry.size > MERGED_BYTES
        ):
            close()
            merged.append(entry)
        else:
            if len(parts) == 1:
                last = merged[-1] = evolve(last, seq_from=last.first)
            last.seq, last.timestamp = entry.seq, entry.timestamp
            last.size += entry.size
        parts.append(event.content)
    close()
    return merged
