"""Writes that are taken in order and done in batches, by one task.

    writes = WriteBehind(write)
    nursery.start_soon(writes.run)
    await writes.wait_for_room()
    writes.put(Entry())            # on its way; in order, with whatever else is there
    await writes.settle()          # and now it is done

One transaction for a hundred writes costs a tenth of a hundred transactions. Whoever waits for a
write does not wait for a batch to fill: what is there is written at once. What nobody waits for
may lie for a moment.

    put ──► queue ──► batch ──► write ──► settled
                        │
                        └─ fails: whoever waits is told, everything else is tried again

When a write fails, or takes too long, it is not known whether it was done. Those who wait are told
that it was not, so it has to be undone where it was: an entry says what undoes it, and that comes
before anything else that is written afterwards.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence

import structlog
import trio
from attrs import define, field

from netra_trio.errors import StoreUnavailable

BATCH = 1000  # entries: three hundred messages with their starts and ends
BATCH_BYTES = 1024 * 1024  # of their texts, or one entry that is larger
DELAY = 0.05  # seconds that what nobody waits for may lie; a batch costs as much as 20 messages
QUEUE = 3000  # entries that may wait: three batches; beyond it who writes waits
QUEUE_BYTES = 16 * 1024 * 1024  # of their texts; beyond it likewise
SLOW_SECONDS = 2.0  # for a batch; then who waits is told that there is no answer
RETRY_SECONDS = 1.0  # from a failure to the next try: a restarted database is back in about that

_log = structlog.get_logger(__name__)


@define(eq=False)
class Entry:
    """Something to write; by itself it writes nothing, and tells when it would have been its turn.

    Attributes:
        size: What it counts in bytes.
        is_awaited: Whether somebody waits for it, and is told if it fails. Whatever nobody waits
            for is tried again until it is done.
        is_done: Whether it was written.
        is_given_up: Whether nobody wants it written any more.
        fault: Why it was given up.
    """

    size: int = 0
    is_awaited: bool = False
    is_done: bool = False
    is_given_up: bool = False
    fault: Exception | None = None
    _settled: trio.Event | None = field(default=None, init=False)

    @property
    def settled(self) -> trio.Event:
        """Set when it was written, or given up; made for who asks, as most are not waited for."""
        if self._settled is None:
            self._settled = trio.Event()
            if self.is_done or self.is_given_up:
                self._settled.set()
        return self._settled

    def undo(self) -> "Entry | None":
        """Return what has to be written if this may have been, and must not."""
        return None

    def give_up(self, fault: Exception | None = None) -> None:
        """Let nobody wait for it any more."""
        self.is_given_up = True
        self.fault = fault
        self._tell()

    def done(self) -> None:
        """Note that it was written."""
        self.is_done = True
        self._tell()

    def _tell(self) -> None:
        if self._settled is not None:
            self._settled.set()


Write = Callable[[Sequence[Entry]], Awaitable[None]]
"""Writes a batch, all of it or nothing; an empty one finds out whether writing works.

Raises StoreUnavailable, after which the batch comes again but for those that were told.
"""


class WriteBehind:
    """A queue of writes, within bounds, and the task that does them.

    Attributes:
        trouble: Why nothing can be written now, None where all is well.
    """

    def __init__(self, write: Write) -> None:
        self.trouble: str | None = None
        self._write = write
        self._queue: deque[Entry] = deque()
        self._bytes = 0
        self._oldest = 0.0
        self._room = trio.lowlevel.ParkingLot()
        self._promised = 0  # places, to those who were woken and have not come yet
        self._news = trio.Event()
        self._hurry = trio.Event()
        self._writing: Sequence[Entry] = ()

    async def wait_for_room(self) -> None:
        """Wait until there is a place, in the order of coming; cancelling is safe.

        Raises:
            StoreUnavailable: If nothing can be written now.
        """
        # Nobody overtakes who waits: with many who write, some would wait for seconds.
        if self.trouble is None and (self._room or not self._places()):
            await self._room.park()
            self._promised -= 1
        if self.trouble is not None:
            raise StoreUnavailable(self.trouble)

    def put(self, entry: Entry, *, at_once: bool = False) -> None:
        """Take an entry as the last one, also where there is no place for it."""
        self._queue.append(entry)
        self._notice(entry)
        if at_once:
            self._hurry.set()

    async def do(self, entry: Entry) -> None:
        """Write an entry that somebody waits for.

        Cancelled, or told that it failed, it is undone where it was done.

        Raises:
            StoreUnavailable: If it cannot be written now.
        """
        entry.is_awaited = True
        self.put(entry, at_once=True)
        try:
            await entry.settled.wait()
        except trio.Cancelled:
            entry.give_up()
            if entry.is_done:
                self._take_back([entry])
            raise
        if entry.fault is not None:
            raise entry.fault

    async def settle(self) -> None:
        """Wait until everything that was put before is written; cancelling is safe.

        Raises:
            StoreUnavailable: If it cannot be written now.
        """
        if self.trouble is not None:
            raise StoreUnavailable(self.trouble)
        if self._queue or self._writing:
            await self.do(Entry())

    def statistics(self) -> dict[str, int]:
        """Return how many entries wait, and how large they are."""
        return {"waiting": len(self._queue), "waiting_bytes": self._bytes}

    @property
    def unwritten(self) -> int:
        """How many entries are not known to be written, and should be."""
        entries = [*self._writing, *self._queue]
        return len([entry for entry in entries if not entry.is_given_up])

    async def run(self) -> None:
        """Write what is put, until cancelled."""
        while True:
            await self._wait_until_due()
            batch = self._take()
            why = await self._attempt(batch)
            if why is None:
                self._settle(batch)
            else:
                self._retry(batch, why)
                self.fail(why)
                await trio.sleep(RETRY_SECONDS)

    def fail(self, why: str) -> None:
        """Note that nothing can be written now, and tell whoever waits."""
        if self.trouble is None:
            _log.warning("store_unavailable", reason=why, waiting=len(self._queue))
        self.trouble = why
        for entry in [entry for entry in self._queue if entry.is_awaited]:
            entry.give_up(StoreUnavailable(why))
        self._drop_given_up()
        self._news.set()
        self._let_in(len(self._room))  # to be told

    def _places(self) -> int:
        """Return how many entries may come in, but for those that were told so already."""
        if self._bytes >= QUEUE_BYTES:
            return 0
        return max(0, QUEUE - len(self._queue) - self._promised)

    def _let_in(self, count: int) -> None:
        """Wake so many of those who wait."""
        self._promised += count
        self._room.unpark(count=count)

    def _notice(self, entry: Entry) -> None:
        if len(self._queue) == 1:
            self._oldest = trio.current_time()
        self._bytes += entry.size
        self._news.set()
        if len(self._queue) >= BATCH:
            self._hurry.set()

    async def _wait_until_due(self) -> None:
        """Wait for something to write, and a moment more for others to join it."""
        while not self._queue and self.trouble is None:
            self._news = trio.Event()
            await self._news.wait()
        if self.trouble is None:
            with trio.move_on_at(self._oldest + DELAY):
                await self._hurry.wait()
        self._hurry = trio.Event()

    def _take(self) -> list[Entry]:
        self._drop_given_up()
        batch: list[Entry] = []
        size = 0
        while self._queue and len(batch) < BATCH:
            entry = self._queue[0]
            if batch and size + entry.size > BATCH_BYTES:
                break
            size += entry.size
            batch.append(self._queue.popleft())
        self._bytes -= size
        if self._queue:
            self._hurry.set()  # it has waited long enough
        self._let_in(min(self._places(), len(self._room)))
        return batch

    def _drop_given_up(self) -> None:
        """Take out what nobody wants any more; it was never begun."""
        if any(entry.is_given_up for entry in self._queue):
            self._bytes -= sum(entry.size for entry in self._queue if entry.is_given_up)
            self._queue = deque(entry for entry in self._queue if not entry.is_given_up)

    async def _attempt(self, batch: Sequence[Entry]) -> str | None:
        """Write a batch; return why it failed, if it did."""
        why = None
        self._writing = batch
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._lose_patience, batch)
            try:
                await self._write(batch)
            except StoreUnavailable as unavailable:
                why = str(unavailable)
            nursery.cancel_scope.cancel()
        self._writing = ()
        return why

    async def _lose_patience(self, batch: Sequence[Entry]) -> None:
        """Tell those who wait for a batch that it takes too long; it goes on all the same."""
        await trio.sleep(SLOW_SECONDS)
        why = f"no answer within {SLOW_SECONDS:g} s"
        for entry in batch:
            if entry.is_awaited:
                entry.give_up(StoreUnavailable(why))
        self.fail(why)

    def _settle(self, batch: Sequence[Entry]) -> None:
        if self.trouble is not None:
            _log.info("store_available", waiting=len(self._queue))
            self.trouble = None
        for entry in batch:
            entry.done()
        self._take_back([entry for entry in batch if entry.is_given_up])

    def _retry(self, batch: Sequence[Entry], why: str) -> None:
        """Put back what nobody waits for; what was told that it failed is undone instead."""
        for entry in batch:
            if entry.is_awaited and not entry.is_given_up:
                entry.give_up(StoreUnavailable(why))
        self._take_back([entry for entry in batch if entry.is_given_up])
        self._put_first([entry for entry in batch if not entry.is_given_up])

    def _take_back(self, given_up: Sequence[Entry]) -> None:
        """See that what was given up is not there, before anything else is written."""
        self._put_first([undoing for entry in given_up if (undoing := entry.undo()) is not None])

    def _put_first(self, entries: Sequence[Entry]) -> None:
        for entry in reversed(entries):
            self._queue.appendleft(entry)
            self._notice(entry)
