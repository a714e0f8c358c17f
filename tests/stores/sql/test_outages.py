"""Databases that are locked, full, stopped, killed or frozen."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from sqlalchemy import Connection, event
from stores.conftest import bring_up
from stores.samples import (
    ALICE,
    MAIN,
    PATIENCE,
    again,
    end_of,
    new,
    of_user,
    page_of,
    record,
    wait_until,
)
from stores.sql_samples import (
    contents,
    events,
    in_thread,
    is_ready,
    is_unavailable,
    outcome,
    wait_until_idle,
    wait_until_ready,
)
from support.postgres import PostgresServer, postgres_server

from netra_trio.errors import StoreUnavailable
from netra_trio.protocol.messages import RunStatus
from netra_trio.stores.base import NewMessage, User
from netra_trio.stores.sql import write_behind
from netra_trio.stores.sql.database import Database
from netra_trio.stores.sql.store import SqlStore

pytestmark = pytest.mark.usefixtures("short_retry")

ServerAndUrl = tuple[PostgresServer, str]


# SQLite: locks and a full disk


@pytest.fixture
def held(sqlite_url: str) -> Iterator[sqlite3.Connection]:
    """Hold another connection to the file."""
    with closing(sqlite3.connect(_file(sqlite_url), isolation_level=None)) as connection:
        yield connection


def _file(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))


async def test_a_file_that_stays_locked_is_unavailable(
    sqlite_url: str, held: sqlite3.Connection, logs: list[Any]
) -> None:
    store = SqlStore(sqlite_url)
    async with store.open():
        unkeyed, keyed = new("unkeyed", keyed=False), new("keyed")
        held.execute("BEGIN EXCLUSIVE")
        await record(store, unkeyed)
        with trio.fail_after(write_behind.SLOW_SECONDS + 1):
            assert await outcome(store, keyed) == "unavailable"
        held.execute("ROLLBACK")
        await wait_until_ready(store)
        assert await page_of(store) == ([of_user(unkeyed)], False)
        assert await outcome(store, again(keyed)) == "recorded"
    assert events(logs).count("store_unavailable") == 1
    assert events(logs).count("store_available") == 1


async def test_a_briefly_locked_file_is_waited_for(
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


async def test_a_full_disk_is_unavailable_until_there_is_room(sqlite_url: str) -> None:
    store = SqlStore(sqlite_url)
    async with store.open():
        limit = _limit_pages(store.database)
        keyed, large = new("x" * 100_000), new("y" * 100_000, keyed=False)
        assert await outcome(store, keyed) == "unavailable"
        await wait_until_ready(store)  # there is room for small writes
        await record(store, large)
        await wait_until(lambda: is_unavailable(store))
        assert "full" in str(store._writes.unavailable_reason)
        limit(1_000_000)
        await wait_until_ready(store)
        assert await page_of(store) == ([of_user(large)], False)


def _limit_pages(database: Database) -> Callable[[int], None]:
    """Keep the file from growing; return a function that sets the number of pages it may have."""
    pages = 1

    @event.listens_for(database.engine, "begin")
    def limit(connection: Connection) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}").close()

    def set_limit(count: int) -> None:
        nonlocal pages
        pages = count

    return set_limit


@pytest.mark.parametrize("content", ["file is not a database", "file is not a database" * 300])
async def test_a_users_text_is_not_taken_for_an_error_message(tmp_path: Path, content: str) -> None:
    store = SqlStore(f"sqlite:///{tmp_path}/store.db")
    async with store.open():
        with closing(sqlite3.connect(tmp_path / "store.db", isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            with pytest.raises(StoreUnavailable) as raised:
                await store.record(new(content))
            assert content not in f"{raised.value!r} {raised.value.__cause__!r}"
            other.execute("ROLLBACK")
        await wait_until_ready(store)
        await store.record(new(content))


# PostgreSQL: restarts, crashes and hangs


@pytest.fixture(scope="module")
def own_server() -> Iterator[PostgresServer]:
    """Return a server that the tests here stop, kill and freeze."""
    with postgres_server() as server:
        bring_up(server.create_database("migrated"))
        yield server


@pytest.fixture
def server_and_url(own_server: PostgresServer) -> Iterator[ServerAndUrl]:
    """Return the server and the url of an empty database."""
    url = own_server.create_database(template="migrated")
    yield own_server, url
    if not own_server.processes:
        own_server.start()
    own_server.resume()


async def test_a_read_survives_a_restart(server_and_url: ServerAndUrl) -> None:
    server, url = server_and_url
    store = SqlStore(url)
    async with store.open():
        await store.create_user(ALICE)
        await in_thread(server.restart)
        assert await store.get_user(ALICE) == User(ALICE)


async def test_writes_succeed_after_a_restart(
    server_and_url: ServerAndUrl,
) -> None:
    server, url = server_and_url
    store = SqlStore(url)
    async with store.open():
        message, unkeyed = new(), new("unkeyed", keyed=False)
        await record(store, message)
        await in_thread(server.restart)
        await record(store, unkeyed)
        await wait_for_stored(store, unkeyed)
        await store.end_run(end_of(message, ""))
        expected = [of_user(message, RunStatus.COMPLETED), of_user(unkeyed)]
        assert await page_of(store) == (expected, False)


async def wait_for_stored(store: SqlStore, message: NewMessage) -> None:
    """Wait until a message is stored, also while the store is unavailable."""

    async def is_there() -> bool:
        try:
            page, _ = await page_of(store)
        except StoreUnavailable:
            return False
        return any(listed.message_id == message.message_id for listed in page)

    await wait_until(is_there, 20)


async def test_a_stopped_database_loses_nothing(
    server_and_url: ServerAndUrl, logs: list[Any]
) -> None:
    server, url = server_and_url
    store = SqlStore(url)
    async with store.open():
        await in_thread(server.stop)
        assert await outcome(store, new("first")) == "unavailable"
        with pytest.raises(StoreUnavailable):
            await store.get_user(ALICE)
        with pytest.raises(StoreUnavailable):
            await store.create_user(ALICE)
        with pytest.raises(StoreUnavailable):
            await store.record(new(keyed=False))
        await in_thread(server.start)
        await wait_until_ready(store)
        assert await outcome(store, new("second")) == "recorded"
    assert contents(url) == ["second"]
    assert events(logs).count("store_unavailable") == 1
    assert events(logs).count("store_available") == 1


async def _talk(
    store: SqlStore, seconds: float
) -> tuple[list[NewMessage], list[NewMessage], list[NewMessage]]:
    """Record for a time; return the messages stored, rejected, and written behind."""
    stored: list[NewMessage] = []
    failed: list[NewMessage] = []
    unkeyed: list[NewMessage] = []

    async def keyed(number: int) -> None:
        message = new(f"keyed {number}")
        result = await outcome(store, message)
        (stored if result == "recorded" else failed).append(message)

    async with trio.open_nursery() as nursery:
        for number in range(int(seconds / 0.05)):
            nursery.start_soon(keyed, number)
            message = new(f"unkeyed {number}", keyed=False)
            try:
                await store.record(message)
            except StoreUnavailable:
                failed.append(message)
            else:
                unkeyed.append(message)
            await trio.sleep(0.05)
    return stored, failed, unkeyed


@pytest.mark.parametrize("how", ["pause", "kill"])
async def test_confirmed_messages_and_no_others_are_stored_after_a_failure(
    server_and_url: ServerAndUrl, how: str
) -> None:
    server, url = server_and_url
    store = SqlStore(url)
    results: list[tuple[list[NewMessage], list[NewMessage], list[NewMessage]]] = []
    async with store.open():
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def talk() -> None:
                results.append(await _talk(store, 6 if how == "pause" else 3))

            await trio.sleep(0.5)
            if how == "pause":
                await in_thread(server.pause)
                await trio.sleep(4)
                await in_thread(server.resume)
            else:
                await in_thread(server.kill)
                await trio.sleep(1)
                await in_thread(server.start)
        await wait_until_ready(store)
        await store.history(ALICE, MAIN, limit=1)  # every write is stored
    ((stored, failed, unkeyed),) = results
    there = contents(url)
    assert stored
    assert failed
    assert len(set(there)) == len(there)
    assert sorted(there) == sorted(message.content for message in [*stored, *unkeyed])
    # In the order of recording.
    for kind in ("keyed", "unkeyed"):
        numbers = [int(content.split()[1]) for content in there if content.startswith(kind)]
        assert numbers == sorted(numbers)


async def test_closing_is_bounded_when_the_database_is_down(
    server_and_url: ServerAndUrl, logs: list[Any]
) -> None:
    server, url = server_and_url
    store = SqlStore(url)
    with trio.fail_after(PATIENCE):  # the database stays down
        async with store.open():
            await in_thread(server.stop)
            for n in range(5):
                await store.record(new(f"{n}", keyed=False))
    (lost,) = [log for log in logs if log["event"] == "writes_lost"]
    assert lost["writes"] == 5
    assert lost["reason"]


async def test_closing_is_bounded_when_the_database_hangs(
    server_and_url: ServerAndUrl, logs: list[Any]
) -> None:
    server, url = server_and_url
    store = SqlStore(url)
    with trio.fail_after(PATIENCE):  # the database hangs for longer
        async with store.open():
            await in_thread(server.pause)
            for n in range(5):
                await store.record(new(f"{n}", keyed=False))
            await trio.sleep(0.1)  # the batch is being written
    (lost,) = [log for log in logs if log["event"] == "writes_lost"]
    assert lost["writes"] == 5
    assert lost["reason"] == "no answer within 1 s"
    await in_thread(server.resume)
    await wait_until_idle(store.database)


async def test_a_store_becomes_ready_when_its_database_starts_later(
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
            await in_thread(own_server.start)
            await wait_until_ready(store)
            assert await outcome(store, new()) == "recorded"
            await store.create_user(ALICE)
    assert events(logs).count("store_unavailable") == 1
    assert events(logs).count("store_available") == 1


async def test_a_database_that_does_not_exist_is_waited_for(own_server: PostgresServer) -> None:
    store = SqlStore(own_server.url("nobody_made_it"))
    async with store.open():
        assert not await is_ready(store)
        assert "does not exist" in str(store._writes.unavailable_reason)
