"""`SqlStore` beyond the contract: queries, bounds, opening and closing."""

import pytest
import trio
import trio.testing
from sqlalchemy import Connection, delete, event, func, select
from stores.samples import (
    ALICE,
    BOB,
    MAIN,
    OTHER,
    PATIENCE,
    again,
    change,
    duplicate_of,
    end_of,
    new,
    of_agent,
    of_user,
    page_of,
    record,
)
from stores.sql_samples import (
    contents,
)

from netra_trio.errors import KeyConflict
from netra_trio.ids import ThreadId, UserId
from netra_trio.protocol.messages import RunStatus
from netra_trio.stores.base import User
from netra_trio.stores.sql import store as sql
from netra_trio.stores.sql.entries import RecordMessage
from netra_trio.stores.sql.migrate import current_revision
from netra_trio.stores.sql.schema import REVISIONS, messages, runs, threads
from netra_trio.stores.sql.store import SqlStore

pytestmark = pytest.mark.usefixtures("short_retry")


# Calls


async def test_find_records_nothing(store: SqlStore) -> None:
    message = new()
    assert await store.find(message) is None
    assert await store.find(new(keyed=False)) is None
    assert await store.history(ALICE, MAIN, limit=1) is None
    await record(store, message)
    assert await store.find(again(message)) == duplicate_of(message)
    with pytest.raises(KeyConflict):
        await store.find(again(message, fingerprint=b"other"))


async def test_a_key_twice_in_a_batch_is_a_duplicate_or_a_conflict(store: SqlStore) -> None:
    first, same, other = new(key="k"), new(key="k"), new(key="k", fingerprint=b"other")
    batch = [RecordMessage(message) for message in (first, same, other)]
    await store._write(batch)
    assert batch[0].known is None
    assert batch[1].known is not None
    assert batch[1].known.duplicate_of(same) == duplicate_of(first)
    assert batch[2].known is not None
    with pytest.raises(KeyConflict):
        batch[2].known.duplicate_of(other)


async def test_users_are_listed_in_pages(store: SqlStore) -> None:
    names = [UserId(f"user-{n:02}") for n in range(25)]
    for name in reversed(names):
        await store.create_user(name)
    await store.set_user_enabled(names[3], enabled=False)
    everybody = [User(name, name != names[3]) for name in names]
    assert await store.list_users() == everybody
    listed: list[User] = []
    while page := await store.list_users(after=listed[-1].id if listed else None, limit=10):
        assert len(page) <= 10
        listed += page
    assert listed == everybody


async def test_thread_numbers_are_kept_within_bounds(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("netra_trio.stores.sql.thread_numbers.THREADS_KNOWN", 3)
    names = [ThreadId(f"t{n}") for n in range(4)]
    for _ in range(2):
        for name in names:
            await record(store, new(thread=name))
    assert len(store._writer.numbers._numbers) == 3
    for name in names:
        page, _ = await page_of(store, thread=name)
        assert len(page) == 2


async def test_a_run_starts_and_ends_once(store: SqlStore) -> None:
    message = new()
    await record(store, message)
    store.start_run(message.run_id)
    store.start_run(message.run_id)
    first, second = end_of(message, "first"), end_of(message, "second")
    await store.end_run(first)
    await store.end_run(second)
    store.start_run(message.run_id)
    page, _ = await page_of(store)
    assert page[0] == of_user(message, RunStatus.COMPLETED)
    assert page[1:] in ([of_agent(first, message)], [of_agent(second, message)])


async def test_statistics_count_queued_writes(store: SqlStore) -> None:
    assert store.statistics() == {"waiting": 0, "waiting_bytes": 0}
    await record(store, new("x" * 50, keyed=False))
    assert store.statistics() == {"waiting": 1, "waiting_bytes": sql.ROW_BYTES + 50}
    await page_of(store)
    assert store.statistics() == {"waiting": 0, "waiting_bytes": 0}


def test_deleting_a_thread_deletes_its_messages_and_runs(url: str) -> None:
    """The foreign keys cascade from threads to messages to runs."""

    def count(connection: Connection) -> list[int]:
        return [
            connection.execute(select(func.count()).select_from(table)).scalar_one()
            for table in (threads, messages, runs)
        ]

    async def fill() -> None:
        store = SqlStore(url)
        async with store.open():
            await record(store, new(), new(thread=OTHER), new(user=BOB))

    trio.run(fill)
    assert change(url, count) == [3, 3, 3]
    change(url, lambda connection: connection.execute(delete(threads)))
    assert change(url, count) == [0, 0, 0]


# Opening and closing


async def test_closing_stores_queued_writes(url: str) -> None:
    store = SqlStore(url)
    given = [new(f"{n}", keyed=False) for n in range(250)]
    async with store.open():
        await record(store, *given)
        await store.end_run(end_of(given[0], "an answer"))
    assert contents(url) == [*(message.content for message in given), "an answer"]


async def test_closing_by_cancellation_stores_queued_writes(url: str) -> None:
    store = SqlStore(url)
    with trio.CancelScope() as scope:
        async with store.open():
            await record(store, new("kept", keyed=False))
            scope.cancel()
            await trio.sleep_forever()
    assert contents(url) == ["kept"]


async def test_closing_by_an_error_closes_every_connection(url: str) -> None:
    store = SqlStore(url)
    closed: list[object] = []
    event.listen(store.database.engine, "close", lambda *connection: closed.append(connection))
    with pytest.RaisesGroup(ValueError):
        async with store.open():
            await store.check()
            raise ValueError("of whoever uses it")
    assert closed


async def test_closing_ends_unfinished_runs(url: str) -> None:
    store = SqlStore(url)
    message = new()
    async with store.open():
        await record(store, message)
    async with store.open():
        assert await page_of(store) == ([of_user(message, RunStatus.INTERRUPTED)], False)


async def test_calls_about_users_need_only_the_schema(fresh_url: str) -> None:
    store = SqlStore(fresh_url)
    await store.bring_up()
    await store.bring_up()
    await store.create_user(ALICE)
    assert await store.list_users() == [User(ALICE)]
    store.database.close()
    assert change(fresh_url, current_revision) == REVISIONS[-1]


async def test_closing_ends_if_the_last_write_fails(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails() -> None:
        raise RuntimeError("scripted")

    store = SqlStore(url)
    with trio.fail_after(PATIENCE), pytest.RaisesGroup(RuntimeError, flatten_subgroups=True):
        async with store.open():
            monkeypatch.setattr(store, "_flush", fails)
