"""Runs that move between nodes in a database: leases, locks, failures and cost."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import pytest
import trio
from sqlalchemy import Connection, select, text, update
from stores.samples import (
    ALICE,
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
from stores.sql_samples import LostAnswers, events, in_thread, two_stores

from netra_trio.errors import DatabaseUnusable, NotStorable, StoreUnavailable
from netra_trio.ids import NodeId, RunId, UserId, new_node_id, new_session_id
from netra_trio.protocol.messages import RunStatus
from netra_trio.stores.base import HAND_OVER_SECONDS, NewMessage, RunOwner, interrupted
from netra_trio.stores.sql import leases, user_changes
from netra_trio.stores.sql.database import Database
from netra_trio.stores.sql.ends import interrupt, is_unfinished
from netra_trio.stores.sql.errors import AnswerLost
from netra_trio.stores.sql.leases import LEASE_SECONDS
from netra_trio.stores.sql.ownership import take_over
from netra_trio.stores.sql.schema import owners, runs
from netra_trio.stores.sql.schema import user_changes as changes
from netra_trio.stores.sql.store import SqlStore

T = TypeVar("T")

SESSION = new_session_id()

pytestmark = pytest.mark.usefixtures("short_retry")


def ids(*messages: NewMessage) -> list[RunId]:
    return [message.run_id for message in messages]


async def owner_of(store: SqlStore, message: NewMessage) -> RunOwner | None:
    return await store.find_run(message.user_id, message.run_id)


@asynccontextmanager
async def _opened(url: str) -> AsyncIterator[SqlStore]:
    store = SqlStore(url)
    async with store.open():
        yield store


def expire(url: str, lease: NodeId) -> None:
    change(
        url,
        lambda c: c.execute(update(owners).where(owners.c.owner == lease).values(lease_until=1.0)),
    )


@pytest.fixture
def long_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that the database was started long ago."""
    monkeypatch.setattr(leases, "_up_since", lambda _: 0.0)


# Leases


def test_the_node_is_the_lease(url: str) -> None:
    owner = new_node_id()
    store = SqlStore(url, owner=owner)
    assert store.owner == store._upkeep.lease.id == owner
    assert SqlStore(url).owner != SqlStore(url).owner


async def test_runs_that_were_handed_over_outlive_their_store(
    url: str, logs: list[Any], long_up: None
) -> None:
    handed, left = new(session=SESSION), new(session=SESSION)
    async with _opened(url) as other:
        async with _opened(url) as one:
            await record(one, handed, left)
            lease = await one.hand_over(ids(handed), seconds=PATIENCE)
        assert await owner_of(other, handed) == RunOwner(lease, RunStatus.QUEUED)
        assert await owner_of(other, left) is None
        await other._upkeep.renew()
        assert await owner_of(other, handed) == RunOwner(lease, RunStatus.QUEUED)
        taken = await other.take_over(
            SESSION, owner=lease, runs=ids(handed, left), waiting=ids(handed)
        )
        assert taken == {handed.run_id: None, left.run_id: interrupted(left.run_id)}
        expire(url, lease)
        await other._upkeep.renew()
        assert await owner_of(other, handed) == RunOwner(other.owner, RunStatus.QUEUED)
    assert events(logs) == []


async def test_runs_that_nobody_took_end_with_their_lease(
    url: str, logs: list[Any], long_up: None
) -> None:
    message = new(session=SESSION)
    async with _opened(url) as one, _opened(url) as other:
        await record(one, message)
        lease = await one.hand_over(ids(message), seconds=PATIENCE)
        expire(url, lease)
        await other._upkeep.renew()  # a node of the same machine
        stands = interrupted(message.run_id)
        expected = duplicate_of(message, stands.status, stands.completed)
        assert await one.find(again(message)) == expected
        taken = await other.take_over(SESSION, owner=lease, runs=ids(message), waiting=ids(message))
        assert taken == {message.run_id: stands}
        left = change(url, lambda c: list(c.scalars(select(owners.c.owner))))
        assert sorted(left) == sorted([one.owner, other.owner])
    assert events(logs) == ["runs_interrupted"]


@pytest.mark.parametrize(
    ("seconds", "left"),
    [
        (4 * LEASE_SECONDS, 4 * LEASE_SECONDS),
        (HAND_OVER_SECONDS, HAND_OVER_SECONDS),
        (2 * HAND_OVER_SECONDS, HAND_OVER_SECONDS),
    ],
)
async def test_a_lease_of_handed_runs_lasts_as_long_as_it_was_given(
    url: str, long_up: None, seconds: float, left: float
) -> None:
    async with _opened(url) as store:
        message = new(session=SESSION)
        await record(store, message)
        lease = await store.hand_over(ids(message), seconds=seconds)

        def left_of(connection: Connection) -> float:
            query = select(owners.c.lease_until).where(owners.c.owner == lease)
            return float(connection.scalars(query).one() - leases.now(connection))

        await store._upkeep.renew()
        assert change(url, left_of) == pytest.approx(left, abs=LEASE_SECONDS / 2)
        # A lease from before the clock was set back is shortened.
        late = update(owners).where(owners.c.owner == lease)
        change(url, lambda c: c.execute(late.values(lease_until=1e12)))
        await store._upkeep.renew()
        assert change(url, left_of) == pytest.approx(HAND_OVER_SECONDS, abs=LEASE_SECONDS / 2)


# What is queued is written first


async def test_a_start_that_waits_to_be_written_is_not_handed_over(url: str) -> None:
    async with _opened(url) as store:
        message = new(keyed=False, session=SESSION)
        await record(store, message)
        store.start_run(message.run_id)
        await store.hand_over(ids(message), seconds=PATIENCE)
        assert await owner_of(store, message) == RunOwner(store.owner, RunStatus.RUNNING)


async def test_an_end_that_waits_to_be_written_stands_against_the_own_takeover(url: str) -> None:
    async with _opened(url) as store:
        message = new(keyed=False, session=SESSION)
        await record(store, message)
        end = end_of(message)
        stored = store.end_run(end)
        taken = await store.take_over(SESSION, owner=store.owner, runs=ids(message))
        stands = taken[message.run_id]
        assert stands is not None
        assert (stands.status, stands.completed) == (end.status, end.completed)
        assert await stored is None


# Locks of PostgreSQL: two transactions at the same time


async def wait_until_blocked(url: str) -> None:
    """Wait until a transaction waits for another one."""
    query = text("SELECT count(*) FROM pg_locks WHERE NOT granted")

    async def is_blocked() -> bool:
        return bool(await in_thread(lambda: change(url, lambda c: c.scalar(query))))

    await wait_until(is_blocked)


async def test_an_end_waits_for_the_takeover_that_was_first(postgres_url: str) -> None:
    async with _opened(postgres_url) as store:
        message = new(session=SESSION)
        await record(store, message)
        database = Database(postgres_url)
        with database.engine.connect() as connection, connection.begin() as transaction:
            take_over(
                connection,
                SESSION,
                owner=store.owner,
                taker=new_node_id(),
                asked=(),
                waiting=(),
            )
            stands: list[object] = []

            async def finish() -> None:
                stands.append(await store.end_run(end_of(message)))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(finish)
                await wait_until_blocked(postgres_url)
                transaction.commit()
        database.close()
        assert stands == [interrupted(message.run_id)]
        assert await page_of(store) == ([of_user(message, RunStatus.INTERRUPTED)], False)


async def test_a_takeover_waits_for_the_end_that_was_first(postgres_url: str) -> None:
    async with two_stores(postgres_url) as (one, other):
        message = new(session=SESSION)
        await record(one, message)
        end = end_of(message)
        database = Database(postgres_url)
        with database.engine.connect() as connection, connection.begin() as transaction:
            connection.execute(
                update(runs).values(status=end.status, completed=end.completed, owner=None)
            )
            taken = []

            async def take() -> None:
                taken.append(
                    await other.take_over(
                        SESSION, owner=one.owner, runs=ids(message), waiting=ids(message)
                    )
                )

            async with trio.open_nursery() as nursery:
                nursery.start_soon(take)
                await wait_until_blocked(postgres_url)
                transaction.commit()
        database.close()
        (ends,) = taken
        stands = ends[message.run_id]
        assert stands is not None
        assert stands.completed == end.completed


async def test_a_change_of_a_user_waits_for_the_one_with_a_lower_number(postgres_url: str) -> None:
    """Else a node that has seen the higher number would miss the lower one."""
    bob = UserId("bob")
    async with two_stores(postgres_url) as (one, other):
        await one.create_user(ALICE)
        await one.create_user(bob)
        database = Database(postgres_url)
        with database.engine.connect() as connection, connection.begin() as transaction:
            assert user_changes.set_enabled(connection, ALICE, enabled=False)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(other.set_user_enabled, bob, enabled=False))
                await wait_until_blocked(postgres_url)
                assert await one.changed_users(0) == (0, [])
                transaction.commit()
        database.close()
        assert await one.changed_users(0) == (2, [ALICE, bob])


# Failures


CALLS: dict[str, Callable[[SqlStore], Awaitable[object]]] = {
    "take_over": lambda store: store.take_over(SESSION, owner=new_node_id(), runs=()),
    "hand_over": lambda store: store.hand_over([], seconds=1.0),
    "find_run": lambda store: store.find_run(ALICE, RunId("run_1")),
    "interrupt_run": lambda store: store.interrupt_run(RunId("run_1"), owner=new_node_id()),
    "changed_users": lambda store: store.changed_users(0),
    "note_uncopied": lambda store: store.note_uncopied(SESSION, 7),
    "uncopied_from": lambda store: store.uncopied_from(SESSION),
}


@pytest.mark.parametrize("fault", [StoreUnavailable, DatabaseUnusable, NotStorable])
async def test_a_store_that_cannot_answer_says_so(
    url: str, monkeypatch: pytest.MonkeyPatch, fault: type[Exception]
) -> None:
    async def fails(_: Callable[[Connection], T]) -> T:
        raise fault("down")

    async def is_down(_: Callable[[Connection], T]) -> T:
        raise StoreUnavailable("down")

    returns_none = {"find_run", "interrupt_run", "note_uncopied"}
    async with _opened(url) as store:
        for name, call in CALLS.items():
            with monkeypatch.context() as down:
                down.setattr(store.database, "write", fails)
                down.setattr(store.database, "read", is_down)  # as it reports every failure
                with pytest.raises(StoreUnavailable, match="down"):
                    await call(store)
            assert (await call(store) is None) is (name in returns_none)


async def test_a_takeover_whose_answer_was_lost_is_repeated(url: str) -> None:
    async with two_stores(url) as (one, other):
        ended, waiting = new(session=SESSION), new(keyed=False, session=SESSION)
        await record(one, ended, waiting)
        write, times = other.database.write, 0

        async def lose(work: Callable[[Connection], T]) -> T:
            nonlocal times
            done = await write(work)
            times += 1
            if times == 1:
                raise AnswerLost("the answer was lost")
            return done

        other.database.write = lose  # type: ignore[method-assign]
        taken = await other.take_over(
            SESSION, owner=one.owner, runs=ids(ended, waiting), waiting=ids(waiting)
        )
        assert taken == {ended.run_id: interrupted(ended.run_id), waiting.run_id: None}
        assert times == 2
        stands = await one.interrupt_run(waiting.run_id, owner=other.owner)
        assert await other.end_run(end_of(waiting)) == stands


async def test_a_hand_over_whose_answer_was_lost_is_repeated(url: str) -> None:
    async with _opened(url) as store:
        message = new(session=SESSION)
        await record(store, message)
        lost = LostAnswers(store.database)
        lost.times = 1
        with pytest.raises(StoreUnavailable):
            await store.hand_over(ids(message), seconds=PATIENCE)
        lease = await store.hand_over(ids(message), seconds=PATIENCE)
        found = await owner_of(store, message)
        assert found is not None
        assert found.owner not in {store.owner, lease}  # it ends with the lease that was lost


async def test_the_own_end_that_was_stored_without_an_answer_stands(url: str) -> None:
    async with _opened(url) as store:
        message = new(session=SESSION)
        await record(store, message)
        lost = LostAnswers(store.database)
        lost.times = 1
        end = end_of(message)
        assert await store.end_run(end) is None
        expected = [of_user(message, RunStatus.COMPLETED), of_agent(end, message)]
        assert await page_of(store) == (expected, False)


async def test_a_withdrawn_message_whose_run_another_node_ended_stays(url: str) -> None:
    """That node may have told of it."""
    async with two_stores(url) as (one, other):
        message = new(session=SESSION)
        lost = LostAnswers(one.database)
        lost.times = 1
        with pytest.raises(StoreUnavailable):
            await one.record(message)  # it is stored, and will be deleted
        change(url, lambda c: interrupt(c, runs.c.owner == one.owner))

        async def is_known() -> bool:
            try:
                known = await one.find(again(message))
            except StoreUnavailable:
                return False
            assert known is not None
            return known.status is RunStatus.INTERRUPTED

        await wait_until(is_known)
        assert await page_of(other) == ([of_user(message, RunStatus.INTERRUPTED)], False)


async def test_an_unkeyed_message_of_a_session_is_refused_if_it_can_never_be_stored(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with _opened(url) as store:
        message = new("\ud800", keyed=False, session=SESSION)
        with pytest.raises(NotStorable):
            await store.record(message)


# Cost: with millions of runs, none of these may read all of them


@pytest.mark.parametrize("index", ["runs_of_session", "runs_unfinished"])
async def test_unfinished_runs_are_found_by_an_index(url: str, index: str) -> None:
    async with _opened(url) as store:
        await record(store, *(new(f"{n}") for n in range(3)))
    column = runs.c.session if index == "runs_of_session" else runs.c.owner
    query = select(runs.c.message).where(column == "x", is_unfinished)

    def plan(connection: Connection) -> str:
        dialect = connection.dialect
        options = {"literal_binds": True}
        sql = str(query.compile(dialect=dialect, compile_kwargs=options))
        if dialect.name == "postgresql":
            connection.execute(text("SET LOCAL enable_seqscan = off"))
            return "\n".join(connection.scalars(text(f"EXPLAIN {sql}")))
        rows = connection.execute(text(f"EXPLAIN QUERY PLAN {sql}"))
        return "\n".join(row.detail for row in rows)

    assert index in change(url, plan)


# Changes of users


async def test_a_store_that_is_not_open_notes_a_change(url: str) -> None:
    async with _opened(url) as store:
        await store.create_user(ALICE)
        command = SqlStore(url)
        assert await command.set_user_enabled(ALICE, enabled=False)
        command.database.close()
        assert await store.changed_users(0) == (1, [ALICE])


async def test_old_changes_are_deleted_and_their_numbers_are_not_used_again(url: str) -> None:
    async with _opened(url) as store:
        await store.create_user(ALICE)
        for enabled in (False, True, False):
            await store.set_user_enabled(ALICE, enabled=enabled)
        older = changes.c.changed_at - user_changes.KEPT_SECONDS
        change(url, lambda c: c.execute(update(changes).values(changed_at=older)))
        assert await store.changed_users(0) == (3, [ALICE])
        await store.set_user_enabled(ALICE, enabled=True)
        assert await store.changed_users(3) == (4, [ALICE])
        assert change(url, lambda c: list(c.scalars(select(changes.c.number)))) == [4]
