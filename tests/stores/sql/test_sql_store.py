"""The store in a database, where the contract does not reach: other servers, and mishaps."""

import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio
import trio.testing
from sqlalchemy import Connection, delete, event, func, select, text
from sqlalchemy.exc import IntegrityError, OperationalError
from stores.conftest import bring_up
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
    wait_for_history,
    wait_until,
)
from structlog.testing import capture_logs
from support.postgres import PostgresServer, postgres_server

from netra_trio.errors import KeyConflict, StoreUnavailable
from netra_trio.ids import ThreadId, UserId
from netra_trio.protocol.messages import RunStatus
from netra_trio.stores.base import Duplicate, NewMessage, User
from netra_trio.stores.sql import store as sql
from netra_trio.stores.sql import write_behind as behind
from netra_trio.stores.sql.batch import Batch, Recording, Starting
from netra_trio.stores.sql.database import Database
from netra_trio.stores.sql.migrate import current_revision
from netra_trio.stores.sql.schema import REVISIONS, messages, runs, threads
from netra_trio.stores.sql.store import SqlStore

T = TypeVar("T")

REFUSED = "what the database refuses"
TRIGGERS = {
    "sqlite": (
        (
            f"CREATE TRIGGER refuses BEFORE INSERT ON messages WHEN NEW.content = '{REFUSED}' "
            "BEGIN SELECT RAISE(ABORT, 'not this one'); END"
        ),
    ),
    "postgresql": (
        (
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE 'not this one' USING ERRCODE = 'check_violation'; END $$"
        ),
        (
            f"CREATE TRIGGER refuses BEFORE INSERT ON messages FOR EACH ROW "
            f"WHEN (NEW.content = '{REFUSED}') EXECUTE FUNCTION refuse()"
        ),
    ),
}


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again soon after a failure: nothing here depends on how soon."""
    monkeypatch.setattr(behind, "RETRY_SECONDS", 0.2)


@pytest.fixture
async def store(url: str) -> AsyncIterator[SqlStore]:
    """Open a store that is empty."""
    opened = SqlStore(url)
    async with opened.open():
        yield opened


@asynccontextmanager
async def two_stores(url: str) -> AsyncIterator[tuple[SqlStore, SqlStore]]:
    """Open two stores on one database, as two servers do."""
    one, other = SqlStore(url), SqlStore(url)
    async with one.open(), other.open():
        yield one, other


async def outcome(store: SqlStore, message: NewMessage) -> Duplicate | str:
    """Return what recording a message comes to."""
    try:
        known = await store.record(message)
    except KeyConflict:
        return "conflict"
    except StoreUnavailable:
        return "unavailable"
    return "recorded" if known is None else known


async def side_by_side(
    *calls: tuple[SqlStore, NewMessage],
) -> list[Duplicate | str]:
    """Record messages at once; return what each came to."""
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
    """Wait for the threads that were left to themselves."""

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
    """Wait for a store that is in trouble."""
    await wait_until(lambda: is_ready(store))


def events(logs: list[Any]) -> list[str]:
    return [log["event"] for log in logs]


async def wait_for_event(logs: list[Any], name: str) -> None:
    """Wait until something was logged."""

    async def is_logged() -> bool:
        return name in events(logs)

    await wait_until(is_logged)


# Two servers on one database


async def test_a_key_of_two_servers_is_recorded_once(url: str) -> None:
    async with two_stores(url) as (one, other):
        for round_ in range(10):
            mine, theirs = new(key=f"{round_}"), new(key=f"{round_}")
            answers = await side_by_side((one, mine), (other, theirs))
            first, second = (mine, theirs) if answers[0] == "recorded" else (theirs, mine)
            expected: list[Duplicate | str] = ["recorded", duplicate_of(first)]
            assert sorted(answers, key=str) == sorted(expected, key=str)
            assert await outcome(one, second) == duplicate_of(first)
        page, _ = await page_of(one)
        assert len(page) == 10


async def test_a_key_of_two_servers_with_other_content_conflicts(url: str) -> None:
    async with two_stores(url) as (one, other):
        for round_ in range(10):
            mine, theirs = new(key=f"{round_}"), new(key=f"{round_}", fingerprint=b"other")
            answers = await side_by_side((one, mine), (other, theirs))
            assert sorted(map(str, answers)) == ["conflict", "recorded"]


async def test_many_messages_of_two_servers_are_all_there(url: str) -> None:
    async with two_stores(url) as (one, other):
        calls = [
            (store, new(f"{n}", keyed=n % 3 == 0)) for n in range(60) for store in (one, other)
        ]
        assert await side_by_side(*calls) == ["recorded"] * 120
        await one.history(ALICE, MAIN, limit=1)
        await other.history(ALICE, MAIN, limit=1)
        page, _ = await page_of(one, limit=200)
    assert {m.message_id for m in page} == {message.message_id for _, message in calls}


async def test_what_another_server_recorded_in_between_is_found(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other's message is committed after the look for its key, and before ours is inserted."""
    async with two_stores(url) as (one, other):
        message, theirs = new(key="c-1"), new(key="c-1")
        look_up = Batch._look_up
        tries = 0

        def late(batch: Any, connection: Connection) -> Any:
            nonlocal tries
            found = look_up(batch, connection)
            if batch._of(Recording):
                tries += 1
                if tries == 1:
                    # As if it had been looked up a moment before the other's commit.
                    return {}
            return found

        await record(other, theirs)
        monkeypatch.setattr(Batch, "_look_up", late)
        assert await outcome(one, message) == duplicate_of(theirs)
        assert tries == 2
        assert await page_of(one) == ([of_user(theirs)], False)


async def test_a_thread_that_another_server_deleted_is_made_again(url: str) -> None:
    async with two_stores(url) as (one, other):
        await record(one, new("old"))
        change(url, lambda connection: connection.execute(delete(threads)))
        assert await one.history(ALICE, MAIN, limit=10) is None
        keyed, keyless = new("keyed"), new("keyless", keyed=False, thread=OTHER)
        await record(one, keyed)
        assert await page_of(other) == ([of_user(keyed)], False)
        change(url, lambda connection: connection.execute(delete(threads)))
        await record(one, keyless)
        assert await page_of(one, thread=OTHER) == ([of_user(keyless)], False)


async def test_users_are_those_of_all_servers(url: str) -> None:
    async with two_stores(url) as (one, other):
        await one.create_user(ALICE)
        assert await other.get_user(ALICE) == User(ALICE)
        await other.set_user_enabled(ALICE, enabled=False)
        assert await one.get_user(ALICE) == User(ALICE, enabled=False)


async def test_an_end_of_this_server_is_seen_by_the_other(url: str) -> None:
    async with two_stores(url) as (one, other):
        message = new()
        await record(one, message)
        end = end_of(message)
        await one.end_run(end)
        expected = duplicate_of(message, RunStatus.COMPLETED, end.completed)
        assert await outcome(other, again(message)) == expected
        assert await other.find(again(message)) == expected


# Finding


async def test_finding_records_nothing(store: SqlStore) -> None:
    message = new()
    assert await store.find(message) is None
    assert await store.find(new(keyed=False)) is None
    assert await store.history(ALICE, MAIN, limit=1) is None
    await record(store, message)
    assert await store.find(again(message)) == duplicate_of(message)
    with pytest.raises(KeyConflict):
        await store.find(again(message, fingerprint=b"other"))


async def test_one_key_twice_in_a_batch_conflicts_or_is_known(store: SqlStore) -> None:
    first, same, other = new(key="k"), new(key="k"), new(key="k", fingerprint=b"other")
    batch = [Recording(new=message) for message in (first, same, other)]
    await store._write(batch)
    assert batch[0].known is None
    assert batch[1].known is not None
    assert batch[1].known.answer(same) == duplicate_of(first)
    assert batch[2].known is not None
    with pytest.raises(KeyConflict):
        batch[2].known.answer(other)


# An answer that is lost after the commit


class Unheard:
    """A database whose next writes are done, and told to have failed."""

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


async def test_a_keyed_message_whose_answer_was_lost_is_taken_back(
    store: SqlStore, url: str
) -> None:
    line = Unheard(store.database)
    message, resent = new("lost", key="k"), new("resent", key="k", fingerprint=b"other")
    line.times = 1
    assert await outcome(store, message) == "unavailable"
    assert contents(url) == ["lost"]
    assert await outcome(store, new("meanwhile")) == "unavailable"
    assert not await is_ready(store)
    await wait_until_ready(store)
    assert await store.find(again(message)) is None
    assert contents(url) == []
    assert await outcome(store, resent) == "recorded"
    assert await page_of(store) == ([of_user(resent)], False)


async def test_messages_without_a_key_whose_answer_was_lost_are_there_once(
    store: SqlStore,
) -> None:
    line = Unheard(store.database)
    first, second, third = (new(f"{n}", keyed=False) for n in range(3))
    keyed = new("keyed")
    line.times = 3
    await record(store, first, second)
    assert await outcome(store, keyed) == "unavailable"
    store.start_run(second.run_id)
    end = end_of(first)
    await store.end_run(end)
    await wait_until_ready(store)
    await record(store, third)
    expected = [
        of_user(first, RunStatus.COMPLETED),
        of_user(second, RunStatus.RUNNING),
        of_agent(end),
        of_user(third),
    ]
    await wait_for_history(store, expected)


async def test_an_end_whose_answer_was_lost_is_there_once(store: SqlStore) -> None:
    line = Unheard(store.database)
    message = new()
    end, late = end_of(message), end_of(message, "late", status=RunStatus.FAILED)
    await record(store, message)
    line.times = 2
    with trio.fail_after(PATIENCE):
        await store.end_run(end)  # returns when it is stored for good
    assert await outcome(store, again(message)) == duplicate_of(
        message, RunStatus.COMPLETED, end.completed
    )
    await store.end_run(late)  # the first end stands
    assert await page_of(store) == ([of_user(message, RunStatus.COMPLETED), of_agent(end)], False)


async def test_a_message_with_its_end_whose_answer_was_lost_is_there_once(
    store: SqlStore, logs: list[Any]
) -> None:
    line = Unheard(store.database)
    message = new(keyed=False)
    end = end_of(message)
    line.times = 1
    await record(store, message)
    store.start_run(message.run_id)
    await store.end_run(end)
    await wait_for_event(logs, "store_available")
    assert await page_of(store) == ([of_user(message, RunStatus.COMPLETED), of_agent(end)], False)


async def _has_trouble(store: SqlStore) -> bool:
    return not await is_ready(store)


async def test_whoever_is_cancelled_while_it_is_written_frees_the_key(
    store: SqlStore, url: str
) -> None:
    message = new(key="k")
    scope = trio.CancelScope()
    write = store.database.write

    async def cancels(work: Callable[[Connection], T]) -> T:
        scope.cancel()
        return await write(work)

    store.database.write = cancels  # type: ignore[method-assign]
    with scope:
        await store.record(message)
    assert scope.cancelled_caught
    assert await outcome(store, new("resent", key="k", fingerprint=b"other")) == "recorded"
    assert contents(url) == ["resent"]


async def test_one_key_twice_at_once_and_the_first_is_cancelled(store: SqlStore) -> None:
    first, second = new("first", key="k"), new("second", key="k")
    scope, gate = trio.CancelScope(), trio.Event()
    write = store.database.write
    batches = 0

    async def late(work: Callable[[Connection], T]) -> T:
        nonlocal batches
        batches += 1
        if batches == 1:
            await gate.wait()  # both are the next batch
        else:
            scope.cancel()
        return await write(work)

    async def record_first() -> None:
        with scope:
            await store.record(first)

    store.database.write = late  # type: ignore[method-assign]
    found: list[Duplicate | str] = []
    store._writes.put(Starting(run_id=first.run_id), at_once=True)
    async with trio.open_nursery() as nursery:
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(record_first)
        await trio.testing.wait_all_tasks_blocked()

        @nursery.start_soon
        async def record_second() -> None:
            found.append(await outcome(store, second))

        await trio.testing.wait_all_tasks_blocked()
        gate.set()
    assert scope.cancelled_caught
    page, _ = await page_of(store)
    listed = [message.message_id for message in page]
    # Whoever was told that it is there finds it there.
    if found == ["recorded"]:
        assert listed == [second.message_id]
    else:
        assert found == ["unavailable"] or listed == [first.message_id]


# What the database refuses


async def test_what_is_refused_does_not_hold_up_the_others(own_url: str, logs: list[Any]) -> None:
    _set_trigger(own_url)
    store = SqlStore(own_url)
    async with store.open():
        before, bad, after = (new(text_, keyed=False) for text_ in ("before", REFUSED, "after"))
        await record(store, before, bad, after)
        await store.end_run(end_of(bad))  # of a message that is not there
        end = end_of(after)
        await store.end_run(end)
        expected = [of_user(before), of_user(after, RunStatus.COMPLETED), of_agent(end)]
        await wait_for_history(store, expected)
        await store.check()
    (refused,) = [log for log in logs if log["event"] == "write_refused"]
    assert refused["write"] == "Recording"
    assert "not this one" in refused["reason"]


async def test_who_waits_for_what_is_refused_is_told(own_url: str, logs: list[Any]) -> None:
    _set_trigger(own_url)
    store = SqlStore(own_url)
    async with store.open():
        bad, good = new(REFUSED), new("good")
        assert await side_by_side((store, bad), (store, good)) == ["unavailable", "recorded"]
        await store.check()
        assert await page_of(store) == ([of_user(good)], False)
    assert events(logs).count("write_refused") == 1


def _set_trigger(url: str) -> None:
    def work(connection: Connection) -> None:
        for statement in TRIGGERS[connection.dialect.name]:
            connection.execute(text(statement))

    change(url, work)


# AcceptedUpgrade and leaving


async def test_leaving_writes_what_was_written_behind(url: str) -> None:
    store = SqlStore(url)
    given = [new(f"{n}", keyed=False) for n in range(250)]
    async with store.open():
        await record(store, *given)
        await store.end_run(end_of(given[0], "an answer"))
    assert contents(url) == [*(message.content for message in given), "an answer"]


async def test_leaving_by_cancellation_writes_it_as_well(url: str) -> None:
    store = SqlStore(url)
    with trio.CancelScope() as scope:
        async with store.open():
            await record(store, new("kept", keyed=False))
            scope.cancel()
            await trio.sleep_forever()
    assert contents(url) == ["kept"]


async def test_leaving_by_an_error_closes_every_connection(url: str) -> None:
    store = SqlStore(url)
    closed: list[object] = []
    event.listen(store.database.engine, "close", lambda *connection: closed.append(connection))
    with pytest.RaisesGroup(ValueError):
        async with store.open():
            await store.check()
            raise ValueError("of whoever uses it")
    assert closed


async def test_leaving_ends_the_runs_that_are_left(url: str) -> None:
    store = SqlStore(url)
    message = new()
    async with store.open():
        await record(store, message)
    async with store.open():
        assert await page_of(store) == ([of_user(message, RunStatus.INTERRUPTED)], False)


async def test_bringing_up_is_enough_for_users(fresh_url: str) -> None:
    store = SqlStore(fresh_url)
    await store.bring_up()
    await store.bring_up()
    await store.create_user(ALICE)
    assert await store.list_users() == [User(ALICE)]
    store.database.close()
    assert change(fresh_url, current_revision) == REVISIONS[-1]


async def test_statistics_are_what_waits(store: SqlStore) -> None:
    assert store.statistics() == {"waiting": 0, "waiting_bytes": 0}
    await record(store, new("x" * 50, keyed=False))
    assert store.statistics() == {"waiting": 1, "waiting_bytes": sql.ROW_BYTES + 50}
    await page_of(store)
    assert store.statistics() == {"waiting": 0, "waiting_bytes": 0}


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
    monkeypatch.setattr("netra_trio.stores.sql.batch.THREADS_KNOWN", 3)
    names = [ThreadId(f"t{n}") for n in range(4)]
    for _ in range(2):
        for name in names:
            await record(store, new(thread=name))
    assert len(store._numbers._numbers) == 3
    for name in names:
        page, _ = await page_of(store, thread=name)
        assert len(page) == 2


async def test_nothing_starts_or_ends_twice(store: SqlStore) -> None:
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
    assert page[1:] in ([of_agent(first)], [of_agent(second)])


# SQLite that is in the way


@pytest.fixture
def held(sqlite_url: str) -> Iterator[sqlite3.Connection]:
    """Return another connection to the file."""
    with closing(sqlite3.connect(_file(sqlite_url), isolation_level=None)) as connection:
        yield connection


def _file(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))


async def test_a_locked_file_is_waited_for_and_then_told(
    sqlite_url: str, held: sqlite3.Connection, logs: list[Any]
) -> None:
    store = SqlStore(sqlite_url)
    async with store.open():
        behind_, keyed = new("behind", keyed=False), new("keyed")
        held.execute("BEGIN EXCLUSIVE")
        await record(store, behind_)
        with trio.fail_after(PATIENCE):  # it is told while the file is locked
            assert await outcome(store, keyed) == "unavailable"
        held.execute("ROLLBACK")
        await wait_until_ready(store)
        assert await page_of(store) == ([of_user(behind_)], False)
        assert await outcome(store, again(keyed)) == "recorded"
    assert events(logs).count("store_unavailable") == 1
    assert events(logs).count("store_available") == 1


async def test_a_file_that_is_locked_for_a_moment_is_waited_for(
    sqlite_url: str, held: sqlite3.Connection
) -> None:
    store = SqlStore(sqlite_url)
    async with store.open():
        held.execute("BEGIN EXCLUSIVE")
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def end_it() -> None:
                await trio.sleep(0.3)
                held.execute("ROLLBACK")

            assert await outcome(store, new()) == "recorded"


async def test_a_full_disk_is_told_and_recovers(sqlite_url: str) -> None:
    store = SqlStore(sqlite_url)
    async with store.open():
        limit = _limit_pages(store.database)
        keyed, large = new("x" * 100_000), new("y" * 100_000, keyed=False)
        assert await outcome(store, keyed) == "unavailable"
        await wait_until_ready(store)  # there is room for what is small
        await record(store, large)
        await wait_until(lambda: _has_trouble(store))
        assert "full" in str(store._writes.trouble)
        limit(1_000_000)
        await wait_until_ready(store)
        assert await page_of(store) == ([of_user(large)], False)


def _limit_pages(database: Database) -> Callable[[int], None]:
    """Let the file not grow; return what says how many pages it may have."""
    pages = 1

    @event.listens_for(database.engine, "begin")
    def limit(connection: Connection) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}").close()

    def set_limit(count: int) -> None:
        nonlocal pages
        pages = count

    return set_limit


# PostgreSQL that is hurt


@pytest.fixture(scope="module")
def own_server() -> Iterator[PostgresServer]:
    """Return a server that the tests here hurt, and heal."""
    with postgres_server() as server:
        bring_up(server.create_database("migrated"))
        yield server


@pytest.fixture
def hurt(own_server: PostgresServer) -> Iterator[tuple[PostgresServer, str]]:
    """Return the server and the url of an empty database of it."""
    url = own_server.create_database(template="migrated")
    yield own_server, url
    if not own_server.processes:
        own_server.start()
    own_server.resume()


async def _in_thread(work: Callable[[], T]) -> T:
    return await trio.to_thread.run_sync(work)


async def test_a_read_survives_a_restart(hurt: tuple[PostgresServer, str]) -> None:
    server, url = hurt
    store = SqlStore(url)
    async with store.open():
        await store.create_user(ALICE)
        await _in_thread(server.restart)
        assert await store.get_user(ALICE) == User(ALICE)


async def test_a_write_after_a_restart_is_told_and_the_next_succeeds(
    hurt: tuple[PostgresServer, str],
) -> None:
    server, url = hurt
    store = SqlStore(url)
    async with store.open():
        message, behind_ = new(), new("behind", keyed=False)
        await record(store, message)
        await _in_thread(server.restart)
        await record(store, behind_)
        await wait_for_stored(store, behind_)
        await store.end_run(end_of(message, ""))
        expected = [of_user(message, RunStatus.COMPLETED), of_user(behind_)]
        assert await page_of(store) == (expected, False)


async def wait_for_stored(store: SqlStore, message: NewMessage) -> None:
    """Wait until a message is there, whatever is in the way."""

    async def is_there() -> bool:
        try:
            page, _ = await page_of(store)
        except StoreUnavailable:
            return False
        return any(listed.message_id == message.message_id for listed in page)

    await wait_until(is_there)


async def test_what_is_stopped_for_a_while_loses_nothing(
    hurt: tuple[PostgresServer, str], logs: list[Any]
) -> None:
    server, url = hurt
    store = SqlStore(url)
    async with store.open():
        await _in_thread(server.stop)
        assert await outcome(store, new("first")) == "unavailable"
        with pytest.raises(StoreUnavailable):
            await store.get_user(ALICE)
        with pytest.raises(StoreUnavailable):
            await store.create_user(ALICE)
        with pytest.raises(StoreUnavailable):
            await store.record(new(keyed=False))
        await _in_thread(server.start)
        await wait_until_ready(store)
        assert await outcome(store, new("second")) == "recorded"
    assert contents(url) == ["second"]
    assert events(logs).count("store_unavailable") == 1
    assert events(logs).count("store_available") == 1


async def _talk(
    store: SqlStore, seconds: float
) -> tuple[list[NewMessage], list[NewMessage], list[NewMessage]]:
    """Record for a time; return what was stored, what was not, and what nobody waits for."""
    stored: list[NewMessage] = []
    failed: list[NewMessage] = []
    behind_: list[NewMessage] = []

    async def keyed(number: int) -> None:
        message = new(f"keyed {number}")
        told = await outcome(store, message)
        (stored if told == "recorded" else failed).append(message)

    async with trio.open_nursery() as nursery:
        for number in range(int(seconds / 0.05)):
            nursery.start_soon(keyed, number)
            message = new(f"behind {number}", keyed=False)
            try:
                await store.record(message)
            except StoreUnavailable:
                failed.append(message)
            else:
                behind_.append(message)
            await trio.sleep(0.05)
    return stored, failed, behind_


@pytest.mark.parametrize("how", ["pause", "kill"])
async def test_what_was_told_is_so_after_a_failure(
    hurt: tuple[PostgresServer, str], how: str
) -> None:
    server, url = hurt
    store = SqlStore(url)
    told: list[tuple[list[NewMessage], list[NewMessage], list[NewMessage]]] = []
    async with store.open():
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def talk() -> None:
                told.append(await _talk(store, 6 if how == "pause" else 3))

            await trio.sleep(0.5)
            if how == "pause":
                await _in_thread(server.pause)
                await trio.sleep(4)
                await _in_thread(server.resume)
            else:
                await _in_thread(server.kill)
                await trio.sleep(1)
                await _in_thread(server.start)
        await wait_until_ready(store)
        await store.history(ALICE, MAIN, limit=1)  # all is written
    ((stored, failed, behind_),) = told
    there = contents(url)
    assert stored
    assert failed
    assert len(set(there)) == len(there)
    assert sorted(there) == sorted(message.content for message in [*stored, *behind_])
    # In the order in which they were recorded.
    for kind in ("keyed", "behind"):
        numbers = [int(content.split()[1]) for content in there if content.startswith(kind)]
        assert numbers == sorted(numbers)


async def test_leaving_a_database_that_is_gone_is_bounded(
    hurt: tuple[PostgresServer, str], logs: list[Any]
) -> None:
    server, url = hurt
    store = SqlStore(url)
    with trio.fail_after(PATIENCE):  # the database stays away
        async with store.open():
            await _in_thread(server.stop)
            for n in range(5):
                await store.record(new(f"{n}", keyed=False))
    (lost,) = [log for log in logs if log["event"] == "writes_lost"]
    assert lost["writes"] == 5
    assert lost["reason"]


async def test_leaving_a_database_that_hangs_is_bounded(
    hurt: tuple[PostgresServer, str], logs: list[Any]
) -> None:
    server, url = hurt
    store = SqlStore(url)
    with trio.fail_after(PATIENCE):  # the database hangs for longer
        async with store.open():
            await _in_thread(server.pause)
            for n in range(5):
                await store.record(new(f"{n}", keyed=False))
            await trio.sleep(0.1)  # they are on their way
    (lost,) = [log for log in logs if log["event"] == "writes_lost"]
    assert lost["writes"] == 5
    assert lost["reason"] == "no answer within 1 s"
    await _in_thread(server.resume)
    await wait_until_idle(store.database)


async def test_a_store_of_a_database_that_comes_later_becomes_ready(
    own_server: PostgresServer, logs: list[Any]
) -> None:
    own_server.create_database("later")
    own_server.stop()
    store = SqlStore(own_server.url("later"))
    with trio.fail_after(PATIENCE):
        async with store.open():
            assert not await is_ready(store)
            with pytest.raises(StoreUnavailable):
                await store.get_user(ALICE)
            assert await outcome(store, new()) == "unavailable"
            with pytest.raises(StoreUnavailable):
                await store.history(ALICE, MAIN, limit=1)
            with pytest.raises(StoreUnavailable):
                await store.find(new())
            await _in_thread(own_server.start)
            await wait_until_ready(store)
            assert await outcome(store, new()) == "recorded"
            await store.create_user(ALICE)
    assert events(logs).count("store_unavailable") == 1
    assert events(logs).count("store_available") == 1


async def test_a_database_that_nobody_made_is_waited_for(own_server: PostgresServer) -> None:
    store = SqlStore(own_server.url("nobody_made_it"))
    async with store.open():
        assert not await is_ready(store)
        assert "does not exist" in str(store._writes.trouble)


async def test_what_is_too_old_is_not_asked_for_again_and_again(
    url: str, monkeypatch: pytest.MonkeyPatch, logs: list[Any]
) -> None:
    monkeypatch.setattr(behind, "RETRY_SECONDS", 0.05)
    asked = 0

    def fails(connection: Connection, **_: object) -> None:
        nonlocal asked
        asked += 1
        raise OperationalError("DELETE", {}, Exception("no"))

    monkeypatch.setattr(sql, "delete_old", fails)
    store = SqlStore(url, retention_days=1)
    async with store.open():
        await wait_for_event(logs, "store_available")
        await trio.sleep(0.2)
    assert asked == 1
    assert events(logs) == ["store_unavailable", "store_available"]


async def test_a_lease_that_cannot_be_renewed_is_trouble(
    url: str, monkeypatch: pytest.MonkeyPatch, logs: list[Any]
) -> None:
    monkeypatch.setattr(sql, "RENEW_SECONDS", 0.05)
    store = SqlStore(url)
    async with store.open():
        line = Unheard(store.database)
        line.times = 1
        await wait_for_event(logs, "store_available")
    assert events(logs) == ["store_unavailable", "store_available"]


def test_a_thread_takes_all_that_is_in_it_with_it(url: str) -> None:
    """A run goes with its message, and a message with its thread."""

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


async def test_what_cannot_even_be_written_holds_up_nothing(store: SqlStore) -> None:
    """A text that is none in UTF-8 does not come through the codec; if one did, it stays out."""
    with capture_logs() as logs:
        await store.record(new("\ud800", keyed=False))
        message = new("fine")
        await store.record(message)
    assert [line["event"] for line in logs] == ["write_refused"]
    with pytest.raises(StoreUnavailable):
        await store.record(new("\ud800"))
    await store.create_user(ALICE)
    page = await store.history(ALICE, MAIN, limit=10)
    assert page is not None
    assert [listed.message_id for listed in page[0]] == [message.message_id]


@pytest.mark.parametrize("content", ["file is not a database", "file is not a database" * 300])
async def test_what_users_say_is_not_taken_for_the_database_s_words(
    tmp_path: Path, content: str
) -> None:
    store = SqlStore(f"sqlite:///{tmp_path}/store.db")
    async with store.open():
        with closing(sqlite3.connect(tmp_path / "store.db", isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            with pytest.raises(StoreUnavailable) as told:
                await store.record(new(content))
            assert content not in f"{told.value!r} {told.value.__cause__!r}"
            other.execute("ROLLBACK")
        await wait_until(lambda: answers(store))
        await store.record(new(content))


async def answers(store: SqlStore) -> bool:
    """Whether the store takes something again."""
    try:
        await store.check()
    except StoreUnavailable:
        return False
    return True


async def test_a_renewal_that_loses_a_race_is_tried_again(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two renewals that find no row both insert it; the one that comes second is no catastrophe."""

    def lost(connection: Connection) -> int:
        raise IntegrityError("", None, Exception("duplicate key"))

    with monkeypatch.context() as broken:
        broken.setattr(store, "_owner", Lost(lost, store._owner))
        with pytest.raises(StoreUnavailable):
            await store._renew()
        assert not await store._try(store._renew)
    await wait_until(lambda: answers(store))


class Lost:
    """An owner whose renewal fails; in all else the one it stands for."""

    def __init__(self, renew: Callable[[Connection], int], owner: Any) -> None:
        self.renew = renew
        self._owner = owner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._owner, name)


async def test_leaving_ends_whatever_the_last_write_comes_to(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails() -> None:
        raise RuntimeError("scripted")

    store = SqlStore(url)
    with trio.fail_after(PATIENCE), pytest.RaisesGroup(RuntimeError, flatten_subgroups=True):
        async with store.open():
            monkeypatch.setattr(store, "_flush", fails)
