"""The replica: which events of a session are copied to the directory, and which are not yet.

    replica = Replica(record, source, seconds=lambda: 150.0, changed=replicator.note)
    replica.add(entry)                  # for each event
    batch = replica.collect()           # what has to be appended in the directory
    replica.settle(batch, Appended.STORED)

The confirmation of a message and the end of a run are held: the writer of a connection gets them,
and what follows them, only when they are copied. So another node that takes the session over knows
each run that a client knows, and never announces another end. All other events are copied a moment
later; no client is ahead of the copy by more than that moment, and the number that a client gives
for a resume tells by how much.

If the directory does not answer in time, the events are no longer held, and the session is
*unreplicated* until all of it is copied again.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from sys import maxsize
from typing import Protocol

from attrs import frozen

from netra_trio.broker.base import Appended, Batch, SessionRecord
from netra_trio.sessions.event_log import Entry
from netra_trio.sessions.log_copy import Base, encode

REBASE_BYTES = 256 * 1024  # of new entries, before a batch replaces all earlier ones
REBASE_BATCHES = 500  # likewise: 50 s of a run that emits all the time


class ReplicatedLog(Protocol):
    """The part of the event stream that its replica uses."""

    def entries(self) -> list[Entry]:
        """Return all entries in the log, oldest first."""
        ...

    def base(self) -> Base:
        """Return what is known besides the entries."""
        ...

    def on_released(self) -> None:
        """Note that events are no longer held."""
        ...


@frozen(eq=False)
class Collected:
    """A batch on its way to the directory."""

    batch: Batch
    generation: int


class Replica:
    """The copy of one session, as its owner keeps it up to date.

    Args:
        record: The session.
        log: Its events.
        seconds: Returns how long the session is kept from now on.
        changed: Called when there is something to copy; with True if it is held.
        fenced: Called once when another node owns the session.
        flush: Waits until everything is copied, or a moment at most.

    Attributes:
        record: The session.
        held_from: The number of the first event that is held; `maxsize` if none is, and 0 if
            another node owns the session.
        is_unreplicated: Whether events are not held because the directory did not answer in time.
        is_fenced: Whether another node owns the session.
    """

    __slots__ = (
        "_batches",
        "_bytes",
        "_changed",
        "_fenced",
        "_flush",
        "_generation",
        "_held",
        "_log",
        "_needs_base",
        "_pending",
        "_seconds",
        "_sent",
        "_stored",
        "held_from",
        "is_fenced",
        "is_unreplicated",
        "record",
    )

    def __init__(
        self,
        record: SessionRecord,
        log: ReplicatedLog,
        *,
        seconds: Callable[[], float],
        changed: Callable[["Replica", bool], None],
        fenced: Callable[[], None],
        flush: Callable[["Replica"], Awaitable[object]],
    ) -> None:
        self.record = record
        self.held_from = maxsize
        self.is_unreplicated = False
        self.is_fenced = False
        self._log = log
        self._seconds = seconds
        self._changed = changed
        self._fenced = fenced
        self._flush = flush
        self._held: deque[int] = deque()
        self._pending: list[Entry] = []
        self._needs_base = True
        self._generation = 0  # of the base: answers to batches of an earlier one do not count
        self._sent = 0  # the last number that was sent to the directory
        self._stored = -1  # the last number that the directory has
        self._bytes = 0  # since the last base
        self._batches = 0

    def add(self, entry: Entry) -> None:
        """Note a new event."""
        if self.is_fenced:
            return
        if not self._needs_base:
            self._pending.append(entry)
            self._bytes += entry.size
            if self._bytes > REBASE_BYTES or self._batches > REBASE_BATCHES:
                self._need_base()
        is_held = entry.reserved and not self.is_unreplicated
        if is_held:
            self._held.append(entry.seq)
            self.held_from = self._held[0]
        self._changed(self, is_held)

    @property
    def is_holding(self) -> bool:
        """Whether an event is held."""
        return bool(self._held)

    @property
    def is_complete(self) -> bool:
        """Whether the directory has everything."""
        return not self._needs_base and not self._pending and self._stored == self._sent

    @property
    def is_awaited(self) -> bool:
        """Whether there is something to copy that is worth a wait."""
        return not (self.is_complete or self.is_unreplicated or self.is_fenced)

    async def flush(self) -> None:
        """Wait until everything is copied, or a moment at most. Cancelling is safe."""
        if self.is_awaited:
            await self._flush(self)

    def register(self) -> None:
        """Copy everything again: the directory may have lost the session."""
        self._need_base()
        self._changed(self, False)

    def collect(self) -> Collected | None:
        """Return what has to be appended now; None if there is nothing."""
        if self.is_fenced:
            return None
        seconds = self._seconds()
        if self._needs_base:
            base = self._log.base()
            batch = Batch(self.record, None, base.last, encode(self._log.entries(), base), seconds)
            self._needs_base = False
            self._generation += 1
            self._bytes = self._batches = 0
        elif self._pending:
            last = self._pending[-1].seq
            batch = Batch(self.record, self._sent, last, encode(self._pending), seconds)
            self._batches += 1
        else:
            return None
        self._pending.clear()
        self._sent = batch.last
        return Collected(batch, self._generation)

    def settle(self, collected: Collected, result: Appended | None) -> None:
        """Note what became of a batch; None if the directory did not answer."""
        if self.is_fenced:
            return
        if result is Appended.FENCED:
            self.fence()
        elif collected.generation != self._generation:
            return  # everything was sent again since
        elif result is Appended.STORED:
            # Answers to several batches may be handled in any order.
            self._stored = max(self._stored, collected.batch.last)
            self.is_unreplicated = False
            self._release_to(collected.batch.last)
        else:
            self._need_base()
            self._changed(self, False)

    def fence(self) -> None:
        """End the copy, because another node owns the session; `fenced` is called."""
        if not self.is_fenced:
            self.retire()
            self._fenced()

    def retire(self) -> None:
        """End the copy, because another node has the session: hold everything from now on."""
        self.is_fenced = True
        self.held_from = 0
        self._held.clear()
        self._pending.clear()

    def give_up(self) -> None:
        """Hold no event any more, because the directory does not answer in time."""
        if not self.is_fenced:
            self.is_unreplicated = True
            self._release_to(maxsize)

    def _need_base(self) -> None:
        self._needs_base = True
        self._generation += 1
        self._stored = -1
        self._pending.clear()

    def _release_to(self, seq: int) -> None:
        held = self._held
        if not held or held[0] > seq:
            return
        while held and held[0] <= seq:
            held.popleft()
        self.held_from = held[0] if held else maxsize
        self._log.on_released()
