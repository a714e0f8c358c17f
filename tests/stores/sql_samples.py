"""Helpers of the tests of `SqlStore`: concurrent calls, waiting, lost answers, threads."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import trio
import trio.testing
from sqlalchemy import Connection, select
from stores.samples import (
    change,
    wait_until,
)

from netra_trio.errors import KeyConflict, NotStorable, StoreUnavailable
from netra_trio.stores.base import Duplicate, NewMessage
from netra_trio.stores.sql.database import Database
from netra_trio.stores.sql.schema import messages
from netra_trio.stores.sql.store import SqlStore

T = TypeVar("T")


@asynccontextmanager
async def two_stores(url: str) -> AsyncIterator[tuple[SqlStore, SqlStore]]:
    """Open two stores on one database, as two servers do."""
    one, other = SqlStore(url), SqlStore(url)
    async with one.open(), other.open():
        yield one, other


async def outcome(store: SqlStore, message: NewMessage) -> Duplicate | str:
    """Return the result of recording a message."""
    try:
        known = await store.record(message)
    except KeyConflict:
        return "conflict"
    except NotStorable:
        return "never stored"
    except StoreUnavailable:
        return "unavailable"
    return "recorded" if known is None else known


async def concurrently(
    *calls: tuple[SqlStore, NewMessage],
) -> list[Duplicate | str]:
    """Record messages concurrently; return the result of each."""
    found: dict[int, Duplicate | str] = {}

    async def call(place: int) -> None:
        found[place] = await outcome(*calls[place])

    async with trio.open_nursery() as nursery:
        for place in range(len(calls)):
            nursery.start_soon(call, place)
    return [found[place] for place in range(len(calls))]


def contents(url: str) -> list[str]:
    """Return the texts of all messages, in their order."""
    query = select(messages.c.content).order_by(messages.c.number)
    return change(url, lambda connection: list(connection.scalars(query)))


async def wait_until_idle(database: Database) -> None:
    """Wait for abandoned threads."""

    async def is_idle() -> bool:
        return database._limiter.borrowed_tokens == 0

    await wait_until(is_idle)


async def is_ready(store: SqlStore) -> bool:
    """Return whether the store answers."""
    try:
        await store.check()
    except StoreUnavailable:
        return False
    return True


async def wait_until_ready(store: SqlStore) -> None:
    """Wait for a store that is unavailable."""
    await wait_until(lambda: is_ready(store))


async def is_unavailable(store: SqlStore) -> bool:
    return not await is_ready(store)


def events(logs: list[Any]) -> list[str]:
    return [log["event"] for log in logs]


async def wait_for_event(logs: list[Any], name: str) -> None:
    """Wait until an event was logged."""

    async def is_logged() -> bool:
        return name in events(logs)

    await wait_until(is_logged)


async def in_thread(work: Callable[[], T]) -> T:
    return await trio.to_thread.run_sync(work)


class LostAnswers:
    """A database whose next writes are committed, and reported as failed."""

    def __init__(self, database: Database) -> None:
        self.times = 0
        self._write = database.write
        database.write = self.write  # type: ignore[method-assign]

    async def write(self, work: Callable[[Connection], T]) -> T:
        done = await self._write(work)
        if self.times:
            self.times -= 1
            raise StoreUnavailable("the answer was lost")
        return done
