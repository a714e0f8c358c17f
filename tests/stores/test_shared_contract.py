"""The contract of a store that several nodes share, for every implementation."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import trio
from stores.implementations import Nodes
from stores.samples import (
    ALICE,
    BOB,
    PATIENCE,
    again,
    answer_to,
    asked_by,
    duplicate_of,
    end_of,
    new,
    of_agent,
    of_user,
    page_of,
    record,
    wait_until,
)

from netra_trio.errors import StoreUnavailable
from netra_trio.ids import (
    NodeId,
    RunId,
    SessionId,
    UserId,
    new_node_id,
    new_run_id,
    new_session_id,
    new_thread_id,
)
from netra_trio.protocol.messages import QuestionOutcome, RunStatus
from netra_trio.stores.base import NewMessage, RunEnd, RunOwner, Store, StoredEnd, interrupted
from netra_trio.stores.questions import StoredQuestion

SESSION = new_session_id()
ROUNDS = 8  # of a race


def of(message: NewMessage, end: RunEnd) -> StoredEnd:
    """Return what the store has of an end."""
    return StoredEnd(message.run_id, end.status, end.completed)


def ids(*messages: NewMessage) -> list[RunId]:
    return [message.run_id for message in messages]


async def owner_of(store: Store, message: NewMessage) -> RunOwner | None:
    return await store.find_run(message.user_id, message.run_id)


async def start(store: Store, *messages: NewMessage) -> None:
    """Start runs, and wait until that is stored."""
    for message in messages:
        store.start_run(message.run_id)

    async def are_running() -> bool:
        found = [await owner_of(store, message) for message in messages]
        return all(run is not None and run.status is RunStatus.RUNNING for run in found)

    await wait_until(are_running)


# Nodes


async def test_each_node_reads_the_status_of_a_run(nodes: Nodes) -> None:
    one, other = nodes
    message = new(session=SESSION)
    assert await other.run_status(message.run_id) is None
    await record(one, message)
    assert await other.run_status(message.run_id) is RunStatus.QUEUED
    await start(one, message)
    assert await other.run_status(message.run_id) is RunStatus.RUNNING
    await one.end_run(end_of(message))
    assert await other.run_status(message.run_id) is RunStatus.COMPLETED
    assert await one.run_status(message.run_id) is RunStatus.COMPLETED


async def test_each_node_has_an_id_of_its_own(nodes: Nodes) -> None:
    one, other = nodes
    assert one.owner != other.owner
    assert one.owner.startswith("own_")
    assert len(one.owner) == 20


@pytest.mark.parametrize("keyed", [False, True])
async def test_a_message_of_a_session_is_recorded_at_once_and_its_end_is_awaited(
    nodes: Nodes, keyed: bool
) -> None:
    one, other = nodes
    message = new(keyed=keyed, session=SESSION)
    await record(one, message)
    assert await page_of(other) == ([of_user(message)], False)
    end = end_of(message)
    assert await one.end_run(end) is None
    expected = [of_user(message, RunStatus.COMPLETED), of_agent(end, message)]
    assert await page_of(other) == (expected, False)


def test_messages_that_are_awaited() -> None:
    assert new().is_awaited
    assert new(keyed=False, session=SESSION).is_awaited
    assert not new(keyed=False).is_awaited


# The node of a run


async def test_an_unfinished_run_is_found_by_its_user(nodes: Nodes) -> None:
    one, other = nodes
    mine, theirs = new(), new(user=BOB)
    await record(one, mine)
    await record(other, theirs)
    for store in nodes:
        assert await owner_of(store, mine) == RunOwner(one.owner, RunStatus.QUEUED)
        assert await owner_of(store, theirs) == RunOwner(other.owner, RunStatus.QUEUED)
        assert await store.find_run(BOB, mine.run_id) is None
        assert await store.find_run(ALICE, new_run_id()) is None
    await start(one, mine)
    assert await owner_of(other, mine) == RunOwner(one.owner, RunStatus.RUNNING)
    await one.end_run(end_of(mine))
    assert await owner_of(other, mine) is None


async def test_a_run_that_is_written_behind_is_found_by_its_node(nodes: Nodes) -> None:
    one, _ = nodes
    message = new(keyed=False)
    await record(one, message)
    assert await owner_of(one, message) == RunOwner(one.owner, RunStatus.QUEUED)


async def test_only_the_node_of_a_run_starts_and_ends_it(nodes: Nodes) -> None:
    one, other = nodes
    message = new(session=SESSION)
    await record(one, message)
    other.start_run(message.run_id)
    assert await other.end_run(end_of(message)) is None
    assert await owner_of(other, message) == RunOwner(one.owner, RunStatus.QUEUED)
    assert await page_of(one) == ([of_user(message)], False)


# Interrupting one run


async def test_a_run_of_a_node_that_is_gone_is_interrupted(nodes: Nodes) -> None:
    one, other = nodes
    message = new()
    await record(one, message)
    await start(one, message)
    stands = interrupted(message.run_id)
    assert await other.interrupt_run(message.run_id, owner=one.owner) == stands
    assert await other.interrupt_run(message.run_id, owner=one.owner) == stands
    assert await owner_of(one, message) is None
    known = duplicate_of(message, RunStatus.INTERRUPTED, stands.completed)
    for store in nodes:
        assert await store.find(again(message)) == known
        assert await page_of(store) == ([of_user(message, RunStatus.INTERRUPTED)], False)


@pytest.mark.parametrize("status", [RunStatus.COMPLETED, RunStatus.INTERRUPTED])
async def test_a_late_end_is_refused_and_told_what_stands(nodes: Nodes, status: RunStatus) -> None:
    one, other = nodes
    message = new(keyed=False, session=SESSION)
    await record(one, message)
    stands = await other.interrupt_run(message.run_id, owner=one.owner)
    assert await one.end_run(end_of(message, status=status)) == stands
    one.start_run(message.run_id)
    assert await page_of(one) == ([of_user(message, RunStatus.INTERRUPTED)], False)


async def test_an_end_that_is_stored_stays(nodes: Nodes) -> None:
    one, other = nodes
    message = new()
    await record(one, message)
    end = end_of(message)
    assert await one.end_run(end) is None
    assert await other.interrupt_run(message.run_id, owner=one.owner) == of(message, end)
    expected = [of_user(message, RunStatus.COMPLETED), of_agent(end, message)]
    assert await page_of(other) == (expected, False)


async def test_a_run_of_another_node_is_not_interrupted(nodes: Nodes) -> None:
    one, other = nodes
    message = new()
    await record(one, message)
    for owner in (other.owner, new_node_id()):
        assert await other.interrupt_run(message.run_id, owner=owner) is None
    assert await other.interrupt_run(new_run_id(), owner=one.owner) is None
    assert await owner_of(other, message) == RunOwner(one.owner, RunStatus.QUEUED)


# Taking a session over


async def test_a_session_is_taken_over(nodes: Nodes) -> None:
    one, other = nodes
    running, started, queued, waiting, ended = (new(f"{n}", session=SESSION) for n in range(5))
    elsewhere, without = new("else", session=new_session_id()), new("without")
    everything = [running, started, queued, waiting, ended, elsewhere, without]
    await record(one, *everything)
    await start(one, running, started)
    end = end_of(ended, "")
    await one.end_run(end)
    unknown = new_run_id()
    taken = await other.take_over(
        SESSION,
        owner=one.owner,
        runs=[*ids(running, queued, waiting, ended, elsewhere), unknown],
        waiting=ids(started, waiting, ended),
    )
    expected = {
        running.run_id: interrupted(running.run_id),
        queued.run_id: interrupted(queued.run_id),
        waiting.run_id: None,
        ended.run_id: of(ended, end),
        elsewhere.run_id: None,
    }
    assert taken == expected
    owners = [await owner_of(one, message) for message in everything]
    kept = RunOwner(one.owner, RunStatus.QUEUED)
    adopted = RunOwner(other.owner, RunStatus.QUEUED)
    assert owners == [None, None, None, adopted, None, kept, kept]
    known = await one.find(again(started))
    stands = interrupted(started.run_id)
    assert known == duplicate_of(started, stands.status, stands.completed)


async def test_an_adopted_run_is_the_takers(nodes: Nodes) -> None:
    one, other = nodes
    message = new(keyed=False, session=SESSION)
    await record(one, message)
    adopt = partial(other.take_over, SESSION, runs=ids(message), waiting=ids(message))
    for _ in range(2):  # it may be called again
        assert await adopt(owner=one.owner) == {message.run_id: None}
    one.start_run(message.run_id)
    assert await one.end_run(end_of(message, "late")) is None
    assert await owner_of(one, message) == RunOwner(other.owner, RunStatus.QUEUED)
    await start(other, message)
    end = end_of(message)
    assert await other.end_run(end) is None
    assert await adopt(owner=one.owner) == {message.run_id: of(message, end)}
    expected = [of_user(message, RunStatus.COMPLETED), of_agent(end, message)]
    assert await page_of(one) == (expected, False)


async def test_the_end_of_an_adopted_run_is_awaited(nodes: Nodes) -> None:
    one, other = nodes
    message = new(keyed=False, session=SESSION)
    await record(one, message)
    await other.take_over(SESSION, owner=one.owner, runs=(), waiting=ids(message))
    stands = await one.interrupt_run(message.run_id, owner=other.owner)
    assert await other.end_run(end_of(message)) == stands


async def test_events_without_a_copy_are_known_to_other_nodes(nodes: Nodes) -> None:
    one, other = nodes
    session = new_session_id()
    assert await other.uncopied_from(session) is None
    for number in (7, 2**40):
        await one.note_uncopied(session, number)
        assert await other.uncopied_from(session) == number
    assert await other.uncopied_from(new_session_id()) is None


async def test_runs_of_a_third_node_are_left_alone(nodes: Nodes) -> None:
    one, other = nodes
    message = new(session=SESSION)
    await record(one, message)
    third = new_node_id()
    taken = await other.take_over(SESSION, owner=third, runs=ids(message), waiting=ids(message))
    assert taken == {message.run_id: None}
    assert await owner_of(other, message) == RunOwner(one.owner, RunStatus.QUEUED)
    assert await other.take_over(SESSION, owner=one.owner, runs=()) == {}
    assert await owner_of(other, message) is None


async def test_one_of_two_takers_adopts(nodes: Nodes) -> None:
    one, other = nodes
    for _ in range(ROUNDS):
        session = new_session_id()
        messages = [new(keyed=False, session=session) for _ in range(4)]
        await record(one, *messages)
        lease = await one.hand_over(ids(*messages), seconds=PATIENCE)

        async def take(
            store: Store, waiting: list[RunId], session: SessionId, lease: NodeId
        ) -> None:
            await store.take_over(session, owner=lease, runs=(), waiting=waiting)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take, one, ids(*messages[:3]), session, lease)
            nursery.start_soon(take, other, ids(*reversed(messages[1:])), session, lease)
        owners = [await owner_of(one, message) for message in messages]
        adopted = [place for place, run in enumerate(owners) if run is not None]
        had = {run.owner for run in owners if run is not None}
        assert (adopted, had) in (([0, 1, 2], {one.owner}), ([1, 2, 3], {other.owner}))


@pytest.mark.parametrize("taker_first", [False, True])
async def test_the_owners_end_and_a_takeover_agree(nodes: Nodes, taker_first: bool) -> None:
    one, other = nodes
    for _ in range(ROUNDS):
        session, thread = new_session_id(), new_thread_id()
        message = new(keyed=False, session=session, thread=thread)
        await record(one, message)
        end = end_of(message)
        told: dict[str, StoredEnd | None] = {}

        async def finish(message: NewMessage, end: RunEnd, told: dict[str, Any]) -> None:
            stood = await one.end_run(end)
            told["owner"] = of(message, end) if stood is None else stood

        async def take(message: NewMessage, session: SessionId, told: dict[str, Any]) -> None:
            taken = await other.take_over(session, owner=one.owner, runs=ids(message))
            told["taker"] = taken[message.run_id]

        async with trio.open_nursery() as nursery:
            if taker_first:
                nursery.start_soon(take, message, session, told)
                await trio.lowlevel.checkpoint()
            nursery.start_soon(finish, message, end, told)
            if not taker_first:
                await trio.lowlevel.checkpoint()
                nursery.start_soon(take, message, session, told)
        assert told["owner"] == told["taker"]
        page, _ = await page_of(other, thread=thread)
        stands = told["owner"]
        assert stands is not None
        texts = [of_agent(end, message)] if stands.status is RunStatus.COMPLETED else []
        assert page == [of_user(message, stands.status), *texts]


@pytest.mark.parametrize("checkpoints", [0, 1, 5])
async def test_a_cancelled_takeover_is_repeated(nodes: Nodes, checkpoints: int) -> None:
    """A thread that was abandoned may still hold a lock, for as long as its commit takes."""
    one, other = nodes
    running, waiting = new(session=SESSION), new(session=SESSION)
    await record(one, running, waiting)
    await start(one, running)
    take = partial(
        other.take_over, SESSION, owner=one.owner, runs=ids(running, waiting), waiting=ids(waiting)
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        for _ in range(checkpoints):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    expected = {running.run_id: interrupted(running.run_id), waiting.run_id: None}

    async def is_taken() -> bool:
        try:
            return await take() == expected
        except StoreUnavailable:
            return False

    await wait_until(is_taken)
    assert await owner_of(one, waiting) == RunOwner(other.owner, RunStatus.QUEUED)
    stands = await one.interrupt_run(waiting.run_id, owner=other.owner)
    assert await other.end_run(end_of(waiting)) == stands


# Handing runs over


async def test_queued_runs_are_handed_over(nodes: Nodes) -> None:
    one, other = nodes
    running, queued, kept, ended = (new(keyed=False, session=SESSION) for _ in range(4))
    theirs = new(session=SESSION)
    await record(one, running, queued, kept, ended)
    await record(other, theirs)
    await one.end_run(end_of(ended, ""))
    one.start_run(running.run_id)  # which is written before
    lease = await one.hand_over(ids(running, queued, ended, theirs), seconds=PATIENCE)
    assert lease not in {one.owner, other.owner}
    found = [await owner_of(other, message) for message in (running, queued, kept, ended, theirs)]
    assert found == [
        RunOwner(one.owner, RunStatus.RUNNING),
        RunOwner(lease, RunStatus.QUEUED),
        RunOwner(one.owner, RunStatus.QUEUED),
        None,
        RunOwner(other.owner, RunStatus.QUEUED),
    ]
    one.start_run(queued.run_id)
    assert await one.end_run(end_of(queued)) is None
    assert await owner_of(one, queued) == RunOwner(lease, RunStatus.QUEUED)
    taken = await other.take_over(SESSION, owner=lease, runs=ids(queued), waiting=ids(queued))
    assert taken == {queued.run_id: None}
    assert await owner_of(one, queued) == RunOwner(other.owner, RunStatus.QUEUED)
    assert await owner_of(one, running) == RunOwner(one.owner, RunStatus.RUNNING)


async def test_nothing_may_be_handed_over(nodes: Nodes) -> None:
    one, other = nodes
    leases = {await one.hand_over([], seconds=PATIENCE) for _ in range(2)}
    assert len(leases) == 2
    assert await other.take_over(SESSION, owner=leases.pop(), runs=()) == {}


# Questions


async def test_the_question_of_an_interrupted_run_is_cancelled(nodes: Nodes) -> None:
    one, other = nodes
    message = new(session=SESSION)
    await record(one, message)
    question, late = asked_by(message), asked_by(message)
    await one.record_question(question)
    for store in nodes:
        found = await store.find_question(ALICE, question.question_id)
        assert found == StoredQuestion(None, one.owner)
    await other.take_over(SESSION, owner=one.owner, runs=())
    await one.end_question(answer_to(question))
    await one.record_question(late)
    for store in nodes:
        found = await store.find_question(ALICE, question.question_id)
        assert found == StoredQuestion(QuestionOutcome.CANCELLED, None)
        assert await store.find_question(ALICE, late.question_id) is None


async def test_another_node_neither_asks_nor_answers(nodes: Nodes) -> None:
    one, other = nodes
    message = new(session=SESSION)
    await record(one, message)
    question, theirs = asked_by(message), asked_by(message)
    await one.record_question(question)
    await other.end_question(answer_to(question))
    await other.record_question(theirs)
    found = await other.find_question(ALICE, question.question_id)
    assert found == StoredQuestion(None, one.owner)
    assert await other.find_question(ALICE, theirs.question_id) is None


async def test_a_question_has_the_node_that_adopted_its_run(nodes: Nodes) -> None:
    one, other = nodes
    message = new(session=SESSION)
    await record(one, message)
    await other.take_over(SESSION, owner=one.owner, runs=(), waiting=ids(message))
    question = asked_by(message)
    await other.record_question(question)
    found = await one.find_question(ALICE, question.question_id)
    assert found == StoredQuestion(None, other.owner)


# Changes of users


async def test_changes_of_users_are_seen_by_every_node(nodes: Nodes) -> None:
    one, other = nodes
    newest, changed = await other.changed_users(-1)
    assert (newest, list(changed)) == (0, [])
    assert await one.changed_users(0) == (0, changed)
    await one.set_user_enabled(ALICE, enabled=False)
    assert not await one.set_user_enabled(UserId("carol"), enabled=False)
    first, changed = await other.changed_users(newest)
    assert first > newest
    assert list(changed) == [ALICE]
    await other.set_user_enabled(BOB, enabled=False)
    await one.set_user_enabled(ALICE, enabled=True)
    await other.set_user_enabled(BOB, enabled=True)
    for after, expected in ((newest, [ALICE, BOB]), (first, [ALICE, BOB])):
        second, changed = await one.changed_users(after)
        assert second > first
        assert list(changed) == expected
    for after in (-1, second, second + 1):
        newest, changed = await other.changed_users(after)
        assert (newest, list(changed)) == (second, [])


async def test_no_change_is_missed_while_several_nodes_change_users(nodes: Nodes) -> None:
    one, other = nodes
    names = [UserId(f"user-{number}") for number in range(20)]
    for name in names:
        await one.create_user(name)
    seen: list[UserId] = []
    done = 0

    async def change(store: Store, names: Sequence[UserId]) -> None:
        nonlocal done
        for name in names:
            await store.set_user_enabled(name, enabled=False)
        done += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(change, one, names[:10])
        nursery.start_soon(change, other, names[10:])
        newest = 0
        while len(seen) < len(names):
            await trio.lowlevel.checkpoint()
            was_done = done == 2
            newest, changed = await one.changed_users(newest)
            seen += changed
            assert not was_done or len(seen) == len(names)
    assert sorted(seen) == sorted(names)
