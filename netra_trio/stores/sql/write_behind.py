"""A bounded queue of writes, and the one task that writes them in order and in batches.

    writes = WriteBehind(write)
    nursery.start_soon(writes.run)
    await writes.send(Entry())     # waits only for room in the queue
    await writes.write(Entry())    # waits until the entry is stored
    await writes.flush()           # waits until every earlier entry is stored

The callers and the writer task are joined by a memory channel. One transaction for a hundred
entries costs a tenth of a hundred transactions, so the writer takes all entries that are ready,
and lets entries that no task waits for collect for `DELAY` seconds.

    send, write ──► admission ──┐
    put ────────────────────────┴─► channel ──► batch ──► write ──► completed
                                       ▲          │
                                       └──────────┴─ failed: awaited entries report the failure,
                                                     all others are tried again

After a failure, or a write that takes too long, it is unknown whether the batch was stored. An
entry whose caller was told that it failed must not stay in the store: its `compensation` is
written before any entry that is queued later.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence

import structlog
import trio
from attrs import define, field

from netra_trio.errors import StoreUnavailable

BATCH = 1000  # entries of one transaction: 500 messages with the ends of their runs
BATCH_BYTES = 1024 * 1024  # of their texts, unless a single entry is larger
DELAY = 0.05  # seconds that entries may collect; a batch costs as much as 20 messages
QUEUE = 3000  # entries, three batches: `send` waits while so many are queued
QUEUE_BYTES = 16 * 1024 * 1024  # of texts, likewise
CHANNEL = 100_000  # entries in the channel: above QUEUE only the starts and ends of admitted runs
SLOW_SECONDS = 2.0  # for a batch; then its callers are told that the store is unavailable
RETRY_SECONDS = 1.0  # from a failure to the next attempt: about what a restart of a database takes

_log = structlog.get_logger(__name__)


@define(eq=False)
class Completion:
    """The outcome of an entry that a task waits for.

    Attributes:
        fails_with_batch: Whether a failed attempt is reported to the waiting task, and the entry
            compensated. Other entries are tried again until they are stored.
        is_stored: Whether the entry was stored.
        is_withdrawn: Whether the entry must not be stored any more: its caller was told that it
            failed, or was cancelled.
        error: Why it was withdrawn.
        settled: Set once the entry is stored or withdrawn.
    """

    fails_with_batch: bool
    is_stored: bool = False
    is_withdrawn: bool = False
    error: Exception | None = None
    settled: trio.Event = field(factory=trio.Event)

    def confirm(self) -> None:
        """Report that the entry is stored."""
        self.is_stored = True
        self.settled.set()

    def withdraw(self, error: Exception | None = None) -> None:
        """Report that the entry is not stored, or not wanted any more."""
        self.is_withdrawn = True
        self.error = error
        self.settled.set()


@define(eq=False)
class Entry:
    """Something to write. An entry of this class writes nothing; it marks a place in the queue.

    Attributes:
        size: Bytes that it counts against `BATCH_BYTES` and `QUEUE_BYTES`.
        completion: Its outcome; None if no task waits for it.
    """

    size: int = field(default=0, kw_only=True)
    completion: Completion | None = field(default=None, init=False)

    def compensation(self) -> "Entry | None":
        """Return the entry that removes this one from the store, None if nothing has to be."""
        return None

    def complete(self) -> trio.Event:
        """Return the event that is set when this is stored; attempts that fail are repeated."""
        self.completion = Completion(fails_with_batch=False)
        return self.completion.settled


Write = Callable[[Sequence[Entry]], Awaitable[None]]
"""Writes a batch completely or not at all; an empty batch tests whether writing works.

Raises `StoreUnavailable`. The entries of the batch, without those that were withdrawn, then come
again with the next batch, and may be stored already.
"""

_WAKE_UP = Entry()
"""Wakes the writer task up. It is no entry of a caller, and is not counted."""


class WriteBehind:
    """A queue of writes within bounds, and the task that empties it.

    Args:
        write: Writes a batch.

    Attributes:
        unavailable_reason: Why nothing can be written now; None while writing works.
    """

    def __init__(self, write: Write) -> None:
        self.unavailable_reason: str | None = None
        self._write = write
        self._send, self._receive = trio.open_memory_channel[Entry](CHANNEL)
        # Compensations of cancelled calls: each belongs to an awaited entry of the last two
        # batches, and the writer takes them before it takes another batch.
        self._undo_send, self._undo_receive = trio.open_memory_channel[Entry](2 * BATCH)
        self._head: deque[Entry] = deque()  # the writer's own: entries that come before the channel
        self._writing: Sequence[Entry] = ()
        self._waiting = 0
        self._bytes = 0
        self._lost = 0
        self._oldest = 0.0
        self._queued: dict[Entry, Completion] = {}  # those that fail with a batch
        self._admission = trio.Lock()
        self._room = trio.Event()
        self._urgent = trio.Event()
        self._is_idle = False

    async def send(self, entry: Entry) -> None:
        """Queue an entry; wait for room, in the order of the calls. Cancelling is safe.

        Raises:
            StoreUnavailable: If nothing can be written now; the entry is not queued.
        """
        await self.admit()
        self.put(entry)

    async def admit(self) -> None:
        """Wait until there is room for an entry, which has to be put without a checkpoint then.

        Raises:
            StoreUnavailable: If nothing can be written now.
        """
        if self._must_wait() or self._admission.locked():
            # The lock is FIFO: without it, a caller that comes at the right time would be
            # admitted before those that have waited, and some of them would wait for seconds.
            async with self._admission:
                while self._must_wait():
                    self._room = trio.Event()
                    await self._room.wait()
        if self.unavailable_reason is not None:
            raise StoreUnavailable(self.unavailable_reason)

    def put(self, entry: Entry, *, urgent: bool = False) -> None:
        """Queue an entry that cannot wait for room: the event of a run that was admitted."""
        try:
            self._send.send_nowait(entry)
        except trio.WouldBlock:
            self._lose(entry)
            return
        self._waiting += 1
        self._bytes += entry.size
        if self._waiting == 1:
            self._oldest = trio.current_time()
        if urgent or self._waiting >= BATCH:
            self._urgent.set()

    async def write(self, entry: Entry) -> None:
        """Queue an entry and wait until it is stored.

        If this is cancelled, or raises, the entry is not stored, or is compensated before any
        entry that is queued later.

        Raises:
            StoreUnavailable: If it cannot be written now.
        """
        completion = entry.completion = Completion(fails_with_batch=True)
        self._queued[entry] = completion
        self.put(entry, urgent=True)
        try:
            await completion.settled.wait()
        except trio.Cancelled:
            if completion.is_stored:
                self._compensate_later(entry)
            self._withdraw(entry, completion)
            raise
        if completion.error is not None:
            raise completion.error

    async def flush(self) -> None:
        """Wait until every entry that was queued before is stored; cancelling is safe.

        Raises:
            StoreUnavailable: If they cannot be written now.
        """
        if self.unavailable_reason is not None:
            raise StoreUnavailable(self.unavailable_reason)
        if self._waiting or self._writing:
            await self.write(Entry())

    def statistics(self) -> dict[str, int]:
        """Return how many entries wait to be written, and their size."""
        return {"waiting": self._waiting, "waiting_bytes": self._bytes}

    @property
    def unwritten(self) -> int:
        """How many entries are not known to be stored, and should be."""
        return self._lost + self._waiting + len(_wanted(self._writing))

    async def run(self) -> None:
        """Write what is queued, until cancelled."""
        while True:
            await self._wait_for_work()
            batch = self._collect()
            if not batch and self.unavailable_reason is None:
                continue
            reason = await self._attempt(batch)
            if reason is None:
                self._confirm(batch)
            else:
                self._retry(batch, reason)
                self.mark_unavailable(reason)
                await trio.sleep(RETRY_SECONDS)

    def mark_unavailable(self, reason: str) -> None:
        """Note that nothing can be written now, and report it to every waiting caller."""
        if self.unavailable_reason is None:
            _log.warning("store_unavailable", reason=reason, waiting=self._waiting)
        self.unavailable_reason = reason
        for entry, completion in list(self._queued.items()):
            self._withdraw(entry, completion, StoreUnavailable(reason))
        self._room.set()
        self._wake_up()

    def _must_wait(self) -> bool:
        is_full = self._waiting >= QUEUE or self._bytes >= QUEUE_BYTES
        return is_full and self.unavailable_reason is None

    def _lose(self, entry: Entry) -> None:
        reason = f"{CHANNEL} entries wait to be written"
        if not self._lost:
            _log.error("writes_lost", writes=1, reason=reason)
        self._lost += 1
        self._queued.pop(entry, None)
        if entry.completion is not None:
            entry.completion.withdraw(StoreUnavailable(reason))

    def _withdraw(
        self, entry: Entry, completion: Completion, error: Exception | None = None
    ) -> None:
        """Withdraw an awaited entry; one that is queued leaves its room at once."""
        if self._queued.pop(entry, None) is not None:
            self._waiting -= 1
            self._bytes -= entry.size
        completion.withdraw(error)

    def _compensate_later(self, entry: Entry) -> None:
        compensation = entry.compensation()
        if compensation is not None:
            self._undo_send.send_nowait(compensation)
            self._count([compensation])
            self._wake_up()

    def _wake_up(self) -> None:
        """Let the writer task look at something else than a new entry."""
        if self._is_idle:
            self._is_idle = False
            self._send.send_nowait(_WAKE_UP)

    async def _wait_for_work(self) -> None:
        """Wait for something to write, then for more entries to join it."""
        self._receive_compensations()
        if not self._head and self.unavailable_reason is None:
            self._is_idle = True
            self._head.append(await self._receive.receive())
            self._is_idle = False
        if self.unavailable_reason is None:
            with trio.move_on_at(self._oldest + DELAY):
                await self._urgent.wait()
        self._urgent = trio.Event()

    def _receive_compensations(self) -> None:
        compensations: list[Entry] = []
        try:
            while True:
                compensations.append(self._undo_receive.receive_nowait())
        except trio.WouldBlock:
            self._head.extendleft(reversed(compensations))

    def _collect(self) -> list[Entry]:
        """Take the entries of the next batch."""
        self._receive_compensations()
        batch: list[Entry] = []
        size = 0
        head, receive = self._head, self._receive.receive_nowait
        is_full = False
        try:
            while not is_full:
                entry = head.popleft() if head else receive()
                completion = entry.completion
                if completion is not None:
                    if completion.is_withdrawn:
                        continue
                    self._queued.pop(entry, None)
                elif entry is _WAKE_UP:
                    continue
                size += entry.size
                batch.append(entry)
                is_full = len(batch) == BATCH or size > BATCH_BYTES
        except trio.WouldBlock:
            pass
        if size > BATCH_BYTES and len(batch) > 1:
            size -= batch[-1].size
            self._put_back([batch.pop()])
        self._waiting -= len(batch)
        self._bytes -= size
        if self._waiting:
            self._urgent.set()  # they have waited long enough
        self._room.set()
        return batch

    def _put_back(self, entries: Sequence[Entry]) -> None:
        """Make entries the first ones of the next batch."""
        self._head.extendleft(reversed(entries))
        for entry in entries:
            completion = entry.completion
            if completion is not None and completion.fails_with_batch:
                self._queued[entry] = completion

    def _count(self, entries: Sequence[Entry]) -> None:
        if entries and not self._waiting:
            self._oldest = trio.current_time()
        self._waiting += len(entries)
        self._bytes += sum(entry.size for entry in entries)

    async def _attempt(self, batch: Sequence[Entry]) -> str | None:
        """Write a batch; return why it failed, None if it did not."""
        reason = None
        self._writing = batch
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._report_slow, batch)
            try:
                await self._write(batch)
            except StoreUnavailable as unavailable:
                reason = str(unavailable)
            nursery.cancel_scope.cancel()
        self._writing = ()
        return reason

    async def _report_slow(self, batch: Sequence[Entry]) -> None:
        """Report a batch that takes too long as failed; its write goes on."""
        await trio.sleep(SLOW_SECONDS)
        reason = f"no answer within {SLOW_SECONDS:g} s"
        self._withdraw_awaited(batch, reason)
        self.mark_unavailable(reason)

    def _withdraw_awaited(self, batch: Sequence[Entry], reason: str) -> None:
        for entry in _wanted(batch):
            completion = entry.completion
            if completion is not None and completion.fails_with_batch:
                completion.withdraw(StoreUnavailable(reason))

    def _confirm(self, batch: Sequence[Entry]) -> None:
        if self.unavailable_reason is not None:
            _log.info("store_available", waiting=self._waiting)
            self.unavailable_reason = None
        awaited = [entry for entry in batch if entry.completion is not None]
        for entry in awaited:
            if entry.completion is not None and not entry.completion.is_withdrawn:
                entry.completion.confirm()
        self._go_first(_compensations(entry for entry in awaited if _is_withdrawn(entry)))

    def _retry(self, batch: Sequence[Entry], reason: str) -> None:
        """Put back the entries whose callers were told nothing; compensate the others."""
        self._withdraw_awaited(batch, reason)
        withdrawn = [entry for entry in batch if _is_withdrawn(entry)]
        self._go_first([*_wanted(batch), *_compensations(withdrawn)])

    def _go_first(self, entries: Sequence[Entry]) -> None:
        self._count(entries)
        self._put_back(entries)


def _is_withdrawn(entry: Entry) -> bool:
    return entry.completion is not None and entry.completion.is_withdrawn


def _wanted(entries: Iterable[Entry]) -> list[Entry]:
    """Return the entries that were not withdrawn."""
    return [entry for entry in entries if not _is_withdrawn(entry)]


def _compensations(entries: Iterable[Entry]) -> list[Entry]:
    found = (entry.compensation() for entry in entries)
    return [compensation for compensation in found if compensation is not None]
