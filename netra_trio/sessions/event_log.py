"""The session's numbered events: what is to be written, what may be needed again, and the bounds.

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

Two queues, with the writer's cursor between them. `pending` is what this socket has yet to write,
`kept` what was given to it and may be needed again: by an acknowledging client until it says that
it has it, by a plain one as a ring of the last events. A number is *written* from the moment its
frame is handed to a transport, because from then on the peer may have it, whatever the transport
says.

Ordinary events wait for room: that is the backpressure to agents. What holds the room is what may
not leave: all of it for an acknowledging client, what is not written yet for a plain one. A message
takes two reserved places when it is admitted, for its confirmation and for its run's end, so these
two never wait.

Neighbouring deltas of one run may become one: in the log where they were never written, to make
room; and in what a client gets that lags or comes back. The text is the same either way.
"""

from collections import deque
from collections.abc import Iterable
from typing import Any

from attrs import define, evolve, frozen

from netra_trio.protocol.messages import PartialResult

RESERVED_PLACES = 256  # per session, the contract's bound, section 4
PLACES_PER_MESSAGE = 2  # its confirmation and its run's end
MERGED_BYTES = 64 * 1024  # of the text of a merged delta, the contract's bound, section 4


@define(eq=False)
class Entry:
    """One event in the log, or several deltas that became one.

    Attributes:
        seq: Its number, from 1; of a merged event the last number it stands for.
        event: The event itself, for the writer to encode.
        size: What it counts in bytes.
        reserved: Whether it sits in a reserved place; after a plain client came back, no more.
        timestamp: Unix seconds at which it happened.
        correlation_id: Of the message it belongs to.
        seq_from: The first number a merged event stands for, None for any other.
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
        """The first number it stands for."""
        return self.seq if self.seq_from is None else self.seq_from


@frozen
class Rewound:
    """Where a client that came back goes on.

    Attributes:
        last_seq: The number after which events follow.
        is_exact: Whether that is the client's own; if not, some events are gone.
        forgotten: The entries that left the log, in order.
    """

    last_seq: int
    is_exact: bool
    forgotten: list[Entry]


class EventLog:
    """Numbers events, holds them within bounds, and lets them go when they are done with.

    Args:
        max_events: Ordinary events to hold.
        max_bytes: Bytes to hold before ordinary events wait.
        acknowledging: Whether the client acknowledges; without it an event may leave when it is
            given to the writer.
        keeps_ring: Whether what may leave stays as long as there is room, for a client that
            comes back.

    Attributes:
        last: The highest number there is.
        written: The highest number that a client may have seen.
    """

    __slots__ = (
        "_acknowledging",
        "_bytes",
        "_keeps_ring",
        "_kept",
        "_max_bytes",
        "_max_events",
        "_merged_until",
        "_ordinary",
        "_pending",
        "_replays_until",
        "_reserved",
        "_ring_bytes",
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
        # Of what may not leave: ordinary events, reserved places, bytes.
        self._ordinary = 0
        self._reserved = 0
        self._bytes = 0
        self._ring_bytes = 0  # of what may, but stays
        self._replays_until = 0  # what came out of the log for this socket is merged
        self._merged_until = 0  # up to here there is nothing left to merge
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

    @property
    def depth(self) -> int:
        """How many events are in it."""
        return len(self._pending) + len(self._kept)

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
    ) -> Entry:
        """Put an event at the end and return its entry, with the number it got.

        The caller has made sure of room with `has_room`, or of a place with `reserve`.
        """
        self.last = seq = self.last + 1
        entry = Entry(seq, event, size, reserved, timestamp, correlation_id)
        self._pending.append(entry)
        self._bytes += size
        if not reserved:
            self._ordinary += 1
        return entry

    def merge(self) -> None:
        """Merge neighbouring deltas that were never written, to make room for others."""
        pending = self._pending
        start = max(self.written, self._merged_until)
        fresh: list[Entry] = []
        while pending and pending[-1].seq > start:
            fresh.append(pending.pop())
        before = len(fresh)
        merged = _merged(reversed(fresh))
        pending.extend(merged)
        self._ordinary -= before - len(merged)
        if len(merged) > 1:
            self._merged_until = merged[-2].seq  # the last one may grow

    def take(self, *, max_bytes: int, merge: bool = False) -> list[Entry]:
        """Return the next events to write, at least one if there is any, and count them written.

        Args:
            max_bytes: Of all of them together.
            merge: Whether neighbouring deltas are to be merged, for a client that lags.
        """
        taken: list[Entry] = []
        pending, kept, size = self._pending, self._kept, 0
        while pending and (not taken or size + pending[0].size <= max_bytes):
            entry = pending.popleft()
            size += entry.size
            taken.append(entry)
        if not taken:
            return taken
        self.written = max(self.written, taken[-1].seq)
        if not self._acknowledging:
            for entry in taken:
                self._free(entry)
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
        """Let go of every event up to `seq`, and return them.

        Raises:
            ValueError: If `seq` was never written.
        """
        if seq > self.written:
            raise ValueError(seq)
        return self._drop_kept(seq)

    def trim(self) -> list[Entry]:
        """Let go of the oldest events that need not stay and have no room, and return them.

        Called whenever events came, it keeps the ring and what waits within the bounds together.
        """
        forgotten: list[Entry] = []
        if not self._keeps_ring:
            return forgotten
        kept, pending = self._kept, self._pending
        while kept and (
            len(kept) + len(pending) > self._max_events
            or self._ring_bytes + self._bytes > self._max_bytes
        ):
            entry = kept.popleft()
            self._ring_bytes -= entry.size
            forgotten.append(entry)
        return forgotten

    def rewind(self, last_seq: int) -> Rewound:
        """Let a new socket go on after `last_seq`, which it has; everything since is to be written.

        Raises:
            ValueError: If `last_seq` was never written.
        """
        forgotten = self.acknowledge(last_seq)
        if not self._acknowledging:
            for entry in self._kept:  # to be written once more, so it may not leave
                entry.reserved = False  # its place is another message's by now
                self._ordinary += 1
                self._bytes += entry.size
            self._ring_bytes = 0
        self._pending.extendleft(reversed(self._kept))
        self._kept.clear()
        self._replays_until = self.last
        start = self._pending[0].first - 1 if self._pending else self.last
        return Rewound(start, start == last_seq, forgotten)

    def texts(self) -> Iterable[Entry]:
        """Return the deltas that are in the log, in order."""
        for entries in (self._kept, self._pending):
            for entry in entries:
                if type(entry.event) is PartialResult:
                    yield entry

    def _drop_kept(self, seq: int) -> list[Entry]:
        forgotten: list[Entry] = []
        kept, size, reserved = self._kept, 0, 0
        while kept and kept[0].seq <= seq:
            entry = kept.popleft()
            size += entry.size
            reserved += entry.reserved
            forgotten.append(entry)
        if self._acknowledging:
            self._bytes -= size
            self._reserved -= reserved
            self._ordinary -= len(forgotten) - reserved
        else:
            self._ring_bytes -= size
        return forgotten

    def _free(self, entry: Entry) -> None:
        self._bytes -= entry.size
        if entry.reserved:
            self._reserved -= 1
        else:
            self._ordinary -= 1


def _merged(entries: Iterable[Entry]) -> list[Entry]:
    """Return the entries with neighbouring deltas of one run as one, the originals untouched."""
    merged: list[Entry] = []
    parts: list[str] = []  # of the last one, if it is a delta

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
