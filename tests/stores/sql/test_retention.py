"""Retention: old messages are deleted with their runs and keys, and all others are kept."""

import random
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from sqlalchemy import Connection, event, func, insert, select, text, update
from stores.samples import (
    ALICE,
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
    wait_until,
)

from netra_trio.errors import MessageNotFound
from netra_trio.protocol.messages import RunStatus
from netra_trio.protocol.threads import Rating
from netra_trio.stores.base import NewMessage
from netra_trio.stores.sql import retention, upkeep
from netra_trio.stores.sql.database import Database
from netra_trio.stores.sql.retention import DAY, delete_old
from netra_trio.stores.sql.schema import messages, runs, threads
from netra_trio.stores.sql.store import SqlStore
from netra_trio.stores.sql.upkeep import Upkeep

NOW = 1_700_000_000.0  # Unix seconds
DAYS = 7
LIMIT = NOW - DAYS * DAY


@asynccontextmanager
async def store_of(url: str, days: int = DAYS) -> AsyncIterator[SqlStore]:
    """Open a store with a stopped clock, which deletes only in `delete_now`."""
    store = SqlStore(url, retention_days=days, wall_clock=lambda: NOW)
    store._upkeep.delete_old = trio.lowlevel.checkpoint  # type: ignore[method-assign]
    async with store.open():
        yield store


async def delete_now(store: SqlStore) -> None:
    """Delete what is too old."""
    await Upkeep.delete_old(store._upkeep)


async def ended(store: SqlStore, message: NewMessage, text_: str = "") -> NewMessage:
    """Record a message and the end of its run, at the same time."""
    await record(store, message)
    await store.end_run(end_of(message, text_, at=message.created_at))
    return message


def counts(url: str) -> tuple[int, ...]:
    """Return the numbers of threads, messages and runs."""

    def count(connection: Connection) -> tuple[int, ...]:
        return tuple(
            connection.execute(select(func.count()).select_from(table)).scalar_one()
            for table in (threads, messages, runs)
        )

    return change(url, count)


async def test_old_messages_are_deleted_with_their_runs_and_keys(url: str, logs: list[Any]) -> None:
    async with store_of(url) as store:
        old = await ended(store, new("old", at=LIMIT - 1))
        young = await ended(store, new("young", at=LIMIT + 1))
        assert counts(url) == (1, 2, 2)
        await delete_now(store)
        assert counts(url) == (1, 1, 1)
        assert await page_of(store) == ([of_user(young, RunStatus.COMPLETED)], False)
        assert await store.find(again(young)) is not None
        assert await store.find(again(old)) is None
        resent = again(old, fingerprint=b"other")
        assert await store.record(resent) is None
    assert logs == [
        {"event": "history_deleted", "log_level": "info", "messages": 1, "days": DAYS},
        *logs[1:],
    ]


async def test_an_answer_goes_with_its_question(url: str) -> None:
    """In the history each answer follows its question, for any dates."""
    async with store_of(url) as store:
        first, second = new("first", at=LIMIT - 1), new("second", at=LIMIT)
        await record(store, first, second)
        end = end_of(second, "early", at=LIMIT - 1)
        await store.end_run(end)
        await delete_now(store)
        assert counts(url) == (1, 3, 2)  # the first run has not ended
        await store.end_run(end_of(first, "late", at=NOW))
        await delete_now(store)
        expected = [of_user(second, RunStatus.COMPLETED), of_agent(end, second)]
        assert await page_of(store) == (expected, False)
        assert counts(url) == (1, 2, 1)


async def test_an_old_message_takes_its_feedback_and_marks_with_it(url: str) -> None:
    async with store_of(url) as store:
        old, young = new("old", at=LIMIT - 1), new("young", at=LIMIT)
        ends = [end_of(old, "1", at=LIMIT - 1), end_of(young, "2", at=LIMIT)]
        await record(store, old, young)
        for end in ends:
            await store.end_run(end)
        assert await store.set_feedback(ALICE, ends[0].message_id, Rating.UP, None) == MAIN
        assert await store.mark_read(ALICE, MAIN, ends[0].message_id)
        await delete_now(store)
        assert await store.set_feedback(ALICE, ends[0].message_id, Rating.UP, None) is None
        with pytest.raises(MessageNotFound):
            await store.mark_read(ALICE, MAIN, ends[0].message_id)
        thread = await store.get_thread(ALICE, MAIN)
        assert thread is not None
        assert (thread.unread, thread.title) == (1, "old")
        assert await store.mark_read(ALICE, MAIN, ends[1].message_id)


async def test_a_replaced_branch_is_deleted_like_all_others(url: str) -> None:
    async with store_of(url) as store:
        first, other = new("first", at=LIMIT - 1), new("other", at=LIMIT)
        await ended(store, first, "answer")
        await ended(store, other, "answer")
        again_ = await ended(store, new("again", at=LIMIT, replaces=first.message_id))
        await delete_now(store)
        assert counts(url) == (1, 3, 2)
        assert await page_of(store) == ([of_user(again_, RunStatus.COMPLETED)], False)


@pytest.mark.parametrize(("at", "stays"), [(LIMIT, True), (LIMIT - 1, False), (LIMIT + 1, True)])
async def test_the_age_limit_is_exact_to_the_second(url: str, at: float, stays: bool) -> None:
    async with store_of(url) as store:
        await ended(store, new(at=at))
        await delete_now(store)
        assert counts(url) == ((1, 1, 1) if stays else (0, 0, 0))


@pytest.mark.parametrize("started", [True, False])
async def test_messages_of_unfinished_runs_are_kept_at_any_age(url: str, started: bool) -> None:
    async with store_of(url) as store:
        message = new(at=1.0)
        await record(store, message)
        if started:
            store.start_run(message.run_id)
        await delete_now(store)
        known = await store.find(again(message))
        assert known is not None
        end = end_of(message, "", at=NOW)
        await store.end_run(end)
        completed = duplicate_of(message, RunStatus.COMPLETED, end.completed)
        assert await store.find(again(message)) == completed
        await delete_now(store)
        assert await store.find(again(message)) is None


async def test_empty_threads_are_deleted_and_others_kept(url: str, logs: list[Any]) -> None:
    async with store_of(url) as store:
        await ended(store, new(thread=OTHER, at=1.0))
        await ended(store, new("old", at=1.0))
        young = await ended(store, new("young", at=NOW))
        await delete_now(store)
        assert await store.history(ALICE, OTHER, limit=10) is None
        assert await page_of(store) == ([of_user(young, RunStatus.COMPLETED)], False)
        # The store has cached the number of the deleted thread, and creates the thread again.
        there = new(thread=OTHER, at=NOW)
        await record(store, there)
        assert await page_of(store, thread=OTHER) == ([of_user(there)], False)


def fill(url: str, dates: Sequence[float], *, status: RunStatus | None = None) -> None:
    """Insert messages with these dates, in their order; with runs, if there is a status."""

    def insert_all(connection: Connection) -> None:
        thread = {"number": 1, "user_id": ALICE, "thread_id": MAIN, "created_at": 1.0}
        if connection.scalar(select(func.count()).select_from(threads)) == 0:
            connection.execute(insert(threads), thread)
        row = {"thread": 1, "role": "user", "content": "x", "bytes": 1, "truncated": False}
        first = 1 + (connection.scalar(select(func.max(messages.c.number))) or 0)
        numbers = range(first, first + len(dates))
        connection.execute(
            insert(messages),
            [
                {
                    **row,
                    "number": number,
                    "place": number,
                    "message_id": f"m{number}",
                    "created_at": date,
                }
                for number, date in zip(numbers, dates, strict=True)
            ],
        )
        run = {"user_id": ALICE, "keyed": False, "fingerprint": b"", "agent_name": "echo"}
        if status is not None:
            rows = [
                {
                    **run,
                    "message": n,
                    "run_id": f"r{n}",
                    "correlation_id": f"c{n}",
                    "status": status,
                }
                for n in numbers
            ]
            connection.execute(insert(runs), rows)

    change(url, insert_all)


def dates_of(url: str) -> list[float]:
    """Return the dates of all messages, in their order."""
    query = select(messages.c.created_at).order_by(messages.c.number)
    return change(url, lambda connection: list(connection.scalars(query)))


@pytest.fixture
def queries(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Delete ten messages in one query; return how many each query deleted."""
    found: list[int] = []

    def query(connection: Connection, *, older_than: float) -> int:
        found.append(delete_old(connection, older_than=older_than))
        return found[-1]

    monkeypatch.setattr(retention, "CHUNK", 10)
    monkeypatch.setattr(upkeep, "CHUNK", 10)
    monkeypatch.setattr(upkeep, "delete_old", query)
    return found


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 35])
async def test_any_number_of_messages_is_deleted_in_chunks(
    url: str, queries: list[int], count: int
) -> None:
    fill(url, [1.0] * count + [NOW] * 5)
    async with store_of(url) as store:
        await delete_now(store)
    assert sum(queries) == count
    assert max(queries) <= 10
    assert len(queries) == count // 10 + 1
    assert counts(url) == (1, 5, 0)


@pytest.mark.parametrize("ahead", [3600.0, 365 * DAY])
async def test_messages_from_the_future_do_not_protect_old_ones(
    url: str, queries: list[int], ahead: float
) -> None:
    """A clock that was ahead for a while has dated some messages in the future."""
    young = [NOW + ahead] * 11
    fill(url, [1.0, *young, *[2.0] * 25, *young, LIMIT - 1, LIMIT])
    async with store_of(url) as store:
        await delete_now(store)
    assert dates_of(url) == [*young, *young, LIMIT]
    assert max(queries) <= 10


async def test_messages_are_deleted_in_any_order_of_their_dates(
    url: str, queries: list[int]
) -> None:
    dates = [LIMIT + step * DAY / 10 for step in range(-20, 20)]
    random.Random(7).shuffle(dates)  # noqa: S311 - any order
    fill(url, dates)
    async with store_of(url) as store:
        await delete_now(store)
    assert dates_of(url) == [date for date in dates if date >= LIMIT]


async def test_messages_of_unfinished_runs_do_not_protect_others(
    url: str, queries: list[int]
) -> None:
    fill(url, [1.0] * 11, status=RunStatus.RUNNING)
    fill(url, [2.0] * 11, status=RunStatus.COMPLETED)
    async with store_of(url) as store:
        # Opening the store has ended the runs, because no process has them at work.
        change(url, lambda c: c.execute(update(runs).values(status="running").where(_is_first)))
        await delete_now(store)
    assert dates_of(url) == [1.0] * 11
    assert queries == [10, 1]


_is_first = runs.c.message <= 11


@pytest.mark.parametrize("days_ahead", [1, 3650])
async def test_a_clock_that_is_ahead_deletes_no_recent_message(url: str, days_ahead: float) -> None:
    """The database's clock counts too; a server's own may be wrong."""
    today = time.time()
    fill(url, [today - DAYS * DAY - 60, today - DAYS * DAY + 60, today])
    ahead = SqlStore(url, retention_days=DAYS, wall_clock=lambda: time.time() + days_ahead * DAY)
    async with ahead.open():
        await delete_now(ahead)
    assert len(dates_of(url)) == 2


def test_old_messages_are_found_without_reading_all_others(url: str) -> None:
    fill(url, [NOW + n for n in range(3000)])
    planned: list[str] = []

    def explain(connection: Connection) -> None:
        explaining = {"sqlite": "EXPLAIN QUERY PLAN ", "postgresql": "EXPLAIN "}
        prefix = explaining[connection.dialect.name]

        def plan(_: object, cursor: Any, statement: str, values: Any, *__: object) -> None:
            if statement.startswith("SELECT messages.number"):
                cursor.execute(prefix + statement, values)
                planned.extend(str(row) for row in cursor.fetchall())

        connection.exec_driver_sql("ANALYZE")
        event.listen(connection, "before_cursor_execute", plan)
        assert delete_old(connection, older_than=NOW) == 0

    change(url, explain)
    assert any("messages_by_age" in line for line in planned), planned


async def test_zero_days_keep_messages_for_ever(url: str) -> None:
    async with store_of(url, days=0) as store:
        await ended(store, new(at=1.0))
        await delete_now(store)
        assert counts(url) == (1, 1, 1)


async def test_a_key_is_kept_for_at_least_a_day(url: str) -> None:
    """The smallest setting is a day, for which docs/protocol.md promises that a key is known."""
    async with store_of(url, days=1) as store:
        message = await ended(store, new(at=NOW - 24 * 3600))
        older = await ended(store, new(at=NOW - 24 * 3600 - 1))
        await delete_now(store)
        assert await store.find(again(message)) is not None
        assert await store.find(again(older)) is None


async def test_a_store_deletes_at_its_start_and_regularly(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "RENEW_SECONDS", 0.02)
    monkeypatch.setattr(upkeep, "RETENTION_SECONDS", 0.05)
    async with store_of(url) as store:
        await ended(store, new(at=1.0))

    async def is_empty() -> bool:
        return counts(url) == (0, 0, 0)

    store = SqlStore(url, retention_days=DAYS, wall_clock=lambda: NOW)
    async with store.open():
        await wait_until(is_empty)
        await ended(store, new(at=1.0))
        await wait_until(is_empty)


async def test_a_store_deletes_only_when_it_is_due(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "RENEW_SECONDS", 0.02)
    done: list[str] = []
    store = SqlStore(url, retention_days=DAYS)
    kept = store._upkeep
    delete_some, renew = kept.delete_old, kept.renew

    async def deletes() -> None:
        done.append("delete")
        await delete_some()

    async def renews() -> None:
        done.append("renew")
        await renew()

    kept.delete_old, kept.renew = deletes, renews  # type: ignore[method-assign]

    async def is_renewed() -> bool:
        return len(done) >= 5

    async with store.open():
        await wait_until(is_renewed)
    assert done[:5] == ["renew", "delete", "renew", "renew", "renew"]


def test_a_thread_that_is_written_to_meanwhile_is_kept(postgres_url: str) -> None:
    """A message that is not committed yet is invisible, and must not be deleted with its thread."""

    async def fill() -> None:
        async with store_of(postgres_url, days=0) as store:
            await ended(store, new("old", at=1.0))
            await ended(store, new("old", at=1.0, thread=OTHER))

    trio.run(fill)
    database = Database(postgres_url)
    row = {
        "thread": 1,
        "message_id": "m",
        "role": "user",
        "content": "young",
        "bytes": 5,
        "truncated": False,
        "created_at": NOW,
    }

    def delete_in_thread() -> None:
        with database.engine.begin() as connection:
            delete_old(connection, older_than=LIMIT)

    with ThreadPoolExecutor() as pool, database.engine.connect() as writer:
        writer.execute(insert(messages), row)
        deletion = pool.submit(delete_in_thread)
        waits = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
        with database.engine.connect() as onlooker:
            while not deletion.done() and not onlooker.scalar(waits):
                onlooker.rollback()
        writer.commit()
        deletion.result(PATIENCE)
    database.close()
    assert counts(postgres_url) == (1, 1, 0)


def test_two_servers_may_delete_at_the_same_time(postgres_url: str) -> None:
    async def fill() -> None:
        async with store_of(postgres_url, days=0) as store:
            for n in range(30):
                await record(store, new(f"{n}", at=1.0, keyed=n == 29))

    trio.run(fill)
    change(postgres_url, lambda c: c.execute(update(runs).values(status=RunStatus.COMPLETED)))
    database = Database(postgres_url)

    def delete_all(_: int) -> int:
        with database.engine.begin() as connection:
            return delete_old(connection, older_than=LIMIT)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(delete_all, range(4)))
    database.close()
    assert counts(postgres_url) == (0, 0, 0)
