"""The store in memory, shared by the nodes of one process."""

from collections.abc import Awaitable, Callable

import pytest
import trio
from stores.samples import (
    ALICE,
    again,
    asked_by,
    duplicate_of,
    end_of,
    new,
    of_user,
    page_of,
    record,
)
from trio.testing import MockClock

from netra_trio.ids import NodeId, QuestionId, RunId, UserId, new_node_id, new_session_id
from netra_trio.protocol.messages import QuestionOutcome, RunStatus
from netra_trio.stores.base import HAND_OVER_SECONDS, STORED, NewMessage, RunOwner, interrupted
from netra_trio.stores.memory import MemoryStore
from netra_trio.stores.questions import StoredQuestion

SESSION = new_session_id()
ONE, OTHER = NodeId("own_1"), NodeId("own_2")


def ids(*messages: NewMessage) -> list[RunId]:
    return [message.run_id for message in messages]


def two_nodes() -> tuple[MemoryStore, MemoryStore]:
    one = MemoryStore(ONE)
    return one, one.for_node(OTHER)


def test_a_store_of_another_node_is_of_the_same_class_and_has_the_same_data() -> None:
    class Special(MemoryStore):
        pass

    one = Special(users=3)
    other = one.for_node(OTHER)
    assert type(other) is Special
    assert other.owner == OTHER
    assert one.owner not in {OTHER, MemoryStore().owner}
    assert other.statistics() == one.statistics()


async def test_the_first_node_that_opens_the_store_ends_all_runs() -> None:
    one, other = two_nodes()
    messages = [new(), new()]
    async with one.open(), other.open():
        await record(one, messages[0])
        await record(other, messages[1])
    async with other.open():
        expected = [of_user(message, RunStatus.INTERRUPTED) for message in messages]
        assert await page_of(one) == (expected, False)
        await record(other, running := new())
        async with one.open():  # beside the other one
            assert await one.find_run(ALICE, running.run_id) == RunOwner(OTHER, RunStatus.QUEUED)


async def test_the_runs_of_a_node_that_is_gone_are_ended() -> None:
    one, other = two_nodes()
    gone, kept = new(session=SESSION), new(session=SESSION)
    await record(one, gone)
    await record(other, kept)
    assert other.end_runs_of(ONE) == 1
    assert other.end_runs_of(ONE) == 0
    stands = interrupted(gone.run_id)
    assert await other.find(again(gone)) == duplicate_of(gone, stands.status, stands.completed)
    assert await one.end_run(end_of(gone)) == stands
    assert await other.find_run(ALICE, kept.run_id) == RunOwner(OTHER, RunStatus.QUEUED)


@pytest.mark.parametrize(
    ("seconds", "lasts"), [(5.0, 5.0), (2 * HAND_OVER_SECONDS, HAND_OVER_SECONDS)]
)
async def test_runs_that_nobody_took_end_with_their_lease(
    autojump_clock: MockClock, seconds: float, lasts: float
) -> None:
    one, other = two_nodes()
    message = new(session=SESSION)
    await record(one, message)
    lease = await one.hand_over(ids(message), seconds=seconds)
    await trio.sleep(lasts - 0.001)
    assert await other.find_run(ALICE, message.run_id) == RunOwner(lease, RunStatus.QUEUED)
    await trio.sleep(0.001)
    assert await other.find_run(ALICE, message.run_id) is None
    stands = interrupted(message.run_id)
    taken = await other.take_over(SESSION, owner=lease, runs=ids(message), waiting=ids(message))
    assert taken == {message.run_id: stands}
    assert one.statistics()["runs"] == 0


async def test_runs_that_were_taken_outlive_the_lease(autojump_clock: MockClock) -> None:
    one, other = two_nodes()
    message = new(session=SESSION)
    await record(one, message)
    lease = await one.hand_over(ids(message), seconds=5)
    await other.take_over(SESSION, owner=lease, runs=(), waiting=ids(message))
    await trio.sleep(6)
    assert await one.find_run(ALICE, message.run_id) == RunOwner(OTHER, RunStatus.QUEUED)


LOOKS: dict[str, Callable[[MemoryStore, NewMessage, QuestionId, NodeId], Awaitable[object]]] = {
    "find": lambda store, message, *_: store.find(again(message)),
    "find_question": lambda store, _, question_id, *__: store.find_question(ALICE, question_id),
    "interrupt_run": lambda store, message, _, lease: store.interrupt_run(
        message.run_id, owner=lease
    ),
    "end_run": lambda store, message, *_: store.end_run(end_of(message)),
    "history": lambda store, *_: page_of(store),
}


@pytest.mark.parametrize("name", LOOKS)
async def test_every_look_at_a_run_sees_the_end_of_its_lease(
    autojump_clock: MockClock, name: str
) -> None:
    one, other = two_nodes()
    message = new(session=SESSION)
    question = asked_by(message)
    await record(one, message)
    await one.record_question(question)
    lease = await one.hand_over(ids(message), seconds=5)
    await trio.sleep(5)
    found = await LOOKS[name](other, message, question.question_id, lease)
    if isinstance(found, tuple):
        found = found[0][0].run.status
    stands = interrupted(message.run_id)
    assert found == {
        "find": duplicate_of(message, stands.status, stands.completed),
        "find_question": StoredQuestion(QuestionOutcome.CANCELLED, None),
        "interrupt_run": stands,
        "end_run": stands,
        "history": RunStatus.INTERRUPTED,
    }.get(name)


async def test_a_dropped_run_is_unknown() -> None:
    store = MemoryStore(messages=1)
    dropped, last = new(session=SESSION), new(session=SESSION)
    for message in (dropped, last):
        await record(store, message)
        await store.end_run(end_of(message, ""))
    taken = await store.take_over(SESSION, owner=new_node_id(), runs=ids(dropped, last))
    assert list(taken) == ids(last)
    assert store.end_run(end_of(dropped)) is STORED
    assert await store.interrupt_run(dropped.run_id, owner=store.owner) is None


async def test_the_same_end_twice_stands() -> None:
    store = MemoryStore()
    message = new()
    await record(store, message)
    end = end_of(message)
    for _ in range(2):
        assert store.end_run(end) is STORED
    other = end_of(message, status=RunStatus.FAILED)
    stood = await store.end_run(other)
    assert stood is not None
    assert (stood.status, stood.completed) == (end.status, end.completed)


async def test_changes_of_users_are_kept_within_the_bound_of_users() -> None:
    store = MemoryStore(users=2)
    names = [UserId(name) for name in "abc"]
    for name in names:
        await store.create_user(name)  # drops the first one, which is enabled
        await store.set_user_enabled(name, enabled=False)
        await store.set_user_enabled(name, enabled=True)
    assert await store.changed_users(0) == (6, names[1:])
