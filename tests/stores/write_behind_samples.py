"""Entries and a scripted target of writes, for the tests of `WriteBehind`."""

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager

import trio
import trio.testing
from attrs import define, field

from netra_trio.errors import StoreUnavailable
from netra_trio.stores.sql.write_behind import (
    SLOW_SECONDS,
    Entry,
    WriteBehind,
)


@define(eq=False)
class Item(Entry):
    """An entry with a name and a compensation."""

    name: str = field(kw_only=True)

    def compensation(self) -> Entry:
        return Undo(name=self.name)


@define(eq=False)
class Undo(Entry):
    """The compensation of an item."""

    name: str = field(kw_only=True)


@define
class Outcome:
    """The result of a write.

    Attributes:
        seconds: How long it takes.
        fails: Whether it is reported as failed.
        is_stored: Whether it is stored; a write that is reported as failed may be.
    """

    seconds: float = 0.0
    fails: bool = False
    is_stored: bool = True


FAILS = Outcome(fails=True, is_stored=False)
ANSWER_LOST = Outcome(fails=True)
SLOW = Outcome(seconds=SLOW_SECONDS + 1)
SLOW_AND_FAILS = Outcome(seconds=SLOW_SECONDS + 1, fails=True, is_stored=False)
SLOW_AND_ANSWER_LOST = Outcome(seconds=SLOW_SECONDS + 1, fails=True)


class Disk:
    """The target of writes.

    Attributes:
        planned: The results of the next writes; later ones succeed.
        written: The batches, each with its time.
        kept: The names of the stored items.
    """

    def __init__(self, *planned: Outcome) -> None:
        self.planned = deque(planned)
        self.written: list[tuple[float, list[str]]] = []
        self.kept: list[str] = []
        self._may_be_partial = False

    @property
    def batches(self) -> list[list[str]]:
        return [names for _, names in self.written]

    @property
    def times(self) -> list[float]:
        return [at for at, _ in self.written]

    async def write(self, entries: Sequence[Entry]) -> None:
        outcome = self.planned.popleft() if self.planned else Outcome()
        self.written.append((trio.current_time(), [_name(entry) for entry in entries]))
        if outcome.is_stored:
            self._store(entries)
        await trio.sleep(outcome.seconds)
        self._may_be_partial = outcome.fails
        if outcome.fails:
            raise StoreUnavailable("scripted")

    def _store(self, entries: Sequence[Entry]) -> None:
        gone = [entry.name for entry in entries if isinstance(entry, Undo)]
        self.kept = [name for name in self.kept if name not in gone]
        for entry in entries:
            if isinstance(entry, Item):
                assert entry.name not in self.kept or self._may_be_partial, "written twice"
                if entry.name not in self.kept:
                    self.kept.append(entry.name)


def _name(entry: Entry) -> str:
    if isinstance(entry, Undo):
        return f"-{entry.name}"
    return entry.name if isinstance(entry, Item) else "."


@asynccontextmanager
async def at_work(disk: Disk) -> AsyncIterator[WriteBehind]:
    """Run the writer task."""
    writes = WriteBehind(disk.write)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writes.run)
        yield writes
        nursery.cancel_scope.cancel()


def items(count: int, size: int = 0) -> list[Item]:
    return [Item(name=f"{n}", size=size) for n in range(count)]


def names(entries: Sequence[Item]) -> list[str]:
    return [entry.name for entry in entries]


async def result(call: Awaitable[None]) -> str:
    """Return how a call ended, and when."""
    try:
        await call
    except StoreUnavailable as unavailable:
        return f"{unavailable} at {trio.current_time():g}"
    return f"stored at {trio.current_time():g}"


async def results(writes: WriteBehind, *entries: Item) -> list[str]:
    """Write awaited entries concurrently; return how each call ended."""
    found: dict[str, str] = {}

    async def wait(entry: Item) -> None:
        found[entry.name] = await result(writes.write(entry))

    async with trio.open_nursery() as nursery:
        for entry in entries:
            nursery.start_soon(wait, entry)
            await trio.testing.wait_all_tasks_blocked()
    return [found[entry.name] for entry in entries]


def unavailable_reason(writes: WriteBehind) -> str | None:
    return writes.unavailable_reason
