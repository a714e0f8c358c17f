"""Failover: what a store does while another server becomes the primary."""

from collections.abc import Iterator
from typing import Any

import pytest
import trio
from sqlalchemy import Connection, event, text
from stores.conftest import bring_up
from stores.samples import ALICE, PATIENCE, new, page_of, record, wait_until
from stores.sql_samples import (
    concurrently,
    contents,
    events,
    in_thread,
    is_ready,
    is_unavailable,
    outcome,
    wait_until_ready,
)
from support.postgres import PostgresServer, postgres_server
from support.relay import Relay, relaying

from netra_trio.errors import StoreUnavailable
from netra_trio.stores.base import User
from netra_trio.stores.sql.database import AGE_SECONDS, CONNECTIONS, Database
from netra_trio.stores.sql.store import SqlStore

pytestmark = pytest.mark.usefixtures("short_retry")

NAME = "chats"


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[PostgresServer, PostgresServer]]:
    """Return two servers with a database of the same name."""
    with postgres_server(can_be_standby=True) as one, postgres_server() as other:
        for server in (one, other):
            bring_up(server.create_database("migrated"))
        yield one, other


@pytest.fixture
def pair(
    servers: tuple[PostgresServer, PostgresServer],
) -> Iterator[tuple[PostgresServer, PostgresServer]]:
    """Return two servers, each with an empty database."""
    for server in servers:
        server.create_database(NAME, template="migrated")
    yield servers
    for server in servers:
        server.drop_database(NAME)


@pytest.fixture
def demoted(
    pair: tuple[PostgresServer, PostgresServer],
) -> Iterator[tuple[PostgresServer, PostgresServer]]:
    """Return two servers, of which the first is a standby."""
    one, _ = pair
    one.demote()
    yield pair
    if one.execute("SELECT pg_is_in_recovery()") == [(True,)]:
        one.promote()


@pytest.fixture
def relay(pair: tuple[PostgresServer, PostgresServer]) -> Iterator[Relay]:
    """Return an address that leads to the first server."""
    with relaying(address_of(pair[0])) as relay:
        yield relay


def address_of(server: PostgresServer) -> str:
    return f"127.0.0.1:{server.port}"


def behind(relay: Relay) -> str:
    """Return the url of the database behind a relay."""
    return f"postgresql://postgres@{relay.address}/{NAME}"


def url_of(*servers: PostgresServer, **options: str) -> str:
    """Return a url that names several servers."""
    given = [f"host={address_of(server)}" for server in servers]
    given += [f"{name}={value}" for name, value in options.items()]
    return f"postgresql://postgres@/{NAME}?{'&'.join(given)}"


async def ports_of(database: Database) -> set[int]:
    """Return the ports of the servers that the connections of the pool lead to."""
    gate, at_once = trio.Event(), CONNECTIONS
    found: list[int] = []

    def look(connection: Connection) -> None:
        found.append(connection.scalar(text("SELECT inet_server_port()")) or 0)
        if len(found) == at_once:
            trio.from_thread.run_sync(gate.set)
        trio.from_thread.run(gate.wait)  # all connections are in use at once

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for _ in range(at_once):
                nursery.start_soon(database.read, look)
    return set(found)


async def test_a_server_that_only_reads_is_left_for_the_new_primary(
    pair: tuple[PostgresServer, PostgresServer], relay: Relay, logs: list[Any]
) -> None:
    """The address leads to the new primary; open connections still lead to the old one."""
    one, other = pair
    store = SqlStore(behind(relay))
    async with store.open():
        await record(store, new("before"))
        assert await ports_of(store.database) == {one.port}
        await in_thread(one.refuse_writes)
        try:
            relay.move(address_of(other))
            assert await store.get_user(ALICE) is None  # still from the old one
            assert await outcome(store, new("after")) == "recorded"
            assert await ports_of(store.database) == {other.port}
            assert await store.create_user(ALICE) == User(ALICE)
            assert await store.set_user_enabled(ALICE, enabled=False)
            assert await store.get_user(ALICE) == User(ALICE, enabled=False)
        finally:
            await in_thread(lambda: one.refuse_writes(refuse=False))
    assert contents(other.url(NAME)) == ["after"]
    assert "store_unavailable" not in events(logs)


async def test_messages_of_a_failover_are_stored_at_the_new_primary(
    pair: tuple[PostgresServer, PostgresServer], relay: Relay
) -> None:
    one, other = pair
    store = SqlStore(behind(relay))
    async with store.open():
        await in_thread(one.refuse_writes)
        try:
            messages = [new(f"{number}") for number in range(20)]
            assert set(await concurrently(*((store, message) for message in messages))) == {
                "unavailable"
            }
            assert "ReadOnlySqlTransaction" in str(store._writes.unavailable_reason)
            relay.move(address_of(other))
            await wait_until_ready(store)
            assert set(await concurrently(*((store, message) for message in messages))) == {
                "recorded"
            }
        finally:
            await in_thread(lambda: one.refuse_writes(refuse=False))
    assert contents(one.url(NAME)) == []
    assert sorted(contents(other.url(NAME))) == sorted(message.content for message in messages)


async def test_of_several_servers_the_primary_is_used(
    demoted: tuple[PostgresServer, PostgresServer], logs: list[Any]
) -> None:
    standby, primary = demoted
    store = SqlStore(url_of(standby, primary))
    async with store.open():
        await record(store, new("hello"))
        assert await ports_of(store.database) == {primary.port}
    assert contents(primary.url(NAME)) == ["hello"]
    assert events(logs) == []


async def test_a_url_may_ask_for_any_server(
    demoted: tuple[PostgresServer, PostgresServer],
) -> None:
    standby, primary = demoted
    database = Database(url_of(standby, primary, target_session_attrs="any"))
    try:
        assert await ports_of(database) == {standby.port}
    finally:
        database.close()


async def test_a_standby_is_unavailable_until_it_is_promoted(
    demoted: tuple[PostgresServer, PostgresServer], logs: list[Any]
) -> None:
    standby, _ = demoted
    store = SqlStore(standby.url(NAME))
    async with store.open():
        assert await is_unavailable(store)
        assert await outcome(store, new()) == "unavailable"
        await in_thread(standby.promote)
        await wait_until_ready(store)
        message = new("after")
        await record(store, message)
        page, _ = await page_of(store)
        assert [listed.message_id for listed in page] == [message.message_id]
    assert events(logs) == ["store_unavailable", "store_available"]


async def test_a_demoted_primary_is_unavailable_and_the_process_lives(
    pair: tuple[PostgresServer, PostgresServer],
) -> None:
    server, _ = pair
    store = SqlStore(server.url(NAME))
    async with store.open():
        await record(store, new("before"))
        await in_thread(server.demote)
        assert await outcome(store, new("meanwhile")) == "unavailable"
        with pytest.raises(StoreUnavailable):
            await store.get_user(ALICE)
        await in_thread(server.promote)
        await wait_until_ready(store)
        await record(store, new("after"))
    assert contents(server.url(NAME)) == ["before", "after"]


async def test_a_read_only_server_is_tried_with_new_connections_only(
    pair: tuple[PostgresServer, PostgresServer],
) -> None:
    """Each attempt at a write has a new connection; the replaced ones are closed."""
    server, _ = pair
    database = Database(server.url(NAME))
    made: list[object] = []
    event.listen(database.engine, "connect", lambda connection, _: made.append(connection))
    insert = text("INSERT INTO users VALUES ('alice', true, 0)")
    await database.read(lambda connection: connection.scalar(text("SELECT 1")))
    await in_thread(server.refuse_writes)
    try:
        for attempts in (1, 2, 3):
            with pytest.raises(StoreUnavailable, match="ReadOnlySqlTransaction"):
                await database.write(lambda connection: connection.execute(insert).close())
            assert len(made) == 2 * attempts
    finally:
        await in_thread(lambda: server.refuse_writes(refuse=False))
        database.close()
    sessions = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{NAME}'"  # noqa: S608

    async def are_over() -> bool:
        return await in_thread(lambda: server.execute(sessions)) == [(0,)]

    await wait_until(are_over)


@pytest.mark.parametrize(("age", "is_kept"), [(AGE_SECONDS - 30, True), (AGE_SECONDS + 1, False)])
async def test_connections_have_a_greatest_age(
    postgres_url: str, age: float, is_kept: bool
) -> None:
    database = Database(postgres_url)
    entries: list[Any] = []
    event.listen(database.engine, "checkin", lambda _, entry: entries.append(entry))
    own = text("SELECT pg_backend_pid()")
    before = await database.read(lambda connection: connection.scalar(own))
    entries[-1].starttime -= age
    after = await database.write(lambda connection: connection.scalar(own))
    database.close()
    assert (before == after) is is_kept


async def test_a_store_is_ready_after_its_sessions_were_ended(
    copied_database: str, logs: list[Any]
) -> None:
    """Whichever call comes first, it succeeds, and no outage is reported."""
    store = SqlStore(copied_database)
    message = new("stored")
    others = text(
        "SELECT count(pg_terminate_backend(pid, 60000)) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )

    ended: list[int] = []

    async def end_sessions() -> None:
        database = Database(copied_database)
        ended.append(await database.read(lambda connection: connection.scalar(others)) or 0)
        database.close()

    async with store.open():
        await ports_of(store.database)
        for number in range(3):
            await end_sessions()
            assert await store.create_user(ALICE) == User(ALICE)
            await end_sessions()
            assert await store.get_user(ALICE) == User(ALICE)
            await end_sessions()
            assert await store.set_user_enabled(ALICE, enabled=True)
            await end_sessions()
            assert await store.record(new(f"{number}")) is None
            await end_sessions()
            assert await store.record(new(f"unkeyed {number}", keyed=False)) is None
            # Otherwise the next end could hit the second attempt of this write too.
            await store._writes.flush()
            await end_sessions()
            assert await is_ready(store)
            await end_sessions()
            await store._upkeep.renew()
            await end_sessions()
            assert (await page_of(store))[0]
        await record(store, message)
        assert len(await store.list_users()) == 1
    assert sum(ended) > 3 * 7
    assert len(contents(copied_database)) == 7
    assert events(logs) == []
