"""The contract of `Store` for threads, notifications and stops that several nodes share."""

from collections import Counter

import pytest
import trio
from attrs import evolve
from stores.implementations import Nodes
from stores.samples import (
    ALICE,
    MAIN,
    OTHER,
    again,
    asked_by,
    end_of,
    new,
    of_agent,
    of_user,
    page_of,
    record,
)

from netra_trio.errors import MessageNotFound, ThreadDeleted
from netra_trio.ids import NotificationId, ThreadId, new_notification_id
from netra_trio.protocol.messages import HistoryFeedback, RunStatus
from netra_trio.protocol.threads import Rating
from netra_trio.stores.base import NewMessage, Store
from netra_trio.stores.notifications import Notification

ROUNDS = 8  # of a race
LONG = 600.0  # seconds


def note(message: NewMessage) -> Notification:
    return Notification(
        new_notification_id(), "agent_completed", ALICE, message.thread_id, message.run_id
    )


async def test_each_node_reads_the_changes_of_the_other(nodes: Nodes) -> None:
    one, other = nodes
    message = new("hello", unattended=True)
    await record(one, message)
    end = end_of(message)
    await one.record_question(asked_by(message))
    thread = await other.get_thread(ALICE, MAIN)
    assert thread is not None
    assert (thread.title, thread.runs_active, thread.asks) == ("hello", 1, True)
    assert [run.owner for run in await other.unfinished_runs()] == [one.owner]
    assert await other.count_unattended(ALICE) == 1
    await one.end_run(end)
    assert await other.set_title(ALICE, MAIN, "title", by_user=True)
    assert await other.mark_read(ALICE, MAIN, end.message_id)
    assert await other.set_feedback(ALICE, end.message_id, Rating.UP, "x") == MAIN
    thread = await one.get_thread(ALICE, MAIN)
    assert thread is not None
    assert (thread.title, thread.runs_active, thread.asks) == ("title", 0, False)
    assert thread.unread == 0
    page, _ = await page_of(one)
    assert page[1].feedback == HistoryFeedback("up", "x")


async def test_an_answer_of_another_node_to_a_replaced_message_is_left_out(nodes: Nodes) -> None:
    one, other = nodes
    message, edited = new("message"), new("edited")
    await record(one, message)
    edited = evolve(edited, replaces=message.message_id)
    await record(other, edited)
    await one.end_run(end_of(message, "late", notification=note(message)))
    end = end_of(edited)
    await other.end_run(end)
    expected = [of_user(edited, RunStatus.COMPLETED), of_agent(end, edited)]
    assert await page_of(one) == (expected, False)
    assert len(await other.take_notifications(limit=9, seconds=LONG)) == 1


async def test_a_thread_that_another_node_deletes_is_deleted_here(nodes: Nodes) -> None:
    one, other = nodes
    message, ended = new("running", session=None), new("ended")
    await record(one, message, ended)  # it caches the number of the thread from now on
    await one.end_run(end_of(ended))
    assert await other.delete_thread(ALICE, MAIN) is True
    with pytest.raises(ThreadDeleted):
        await one.record(again(ended))
    with pytest.raises(ThreadDeleted):
        await one.find(again(message))
    with pytest.raises(MessageNotFound):
        await one.record(new(replaces=ended.message_id))
    assert await one.end_run(end_of(message)) is None
    assert await one.history(ALICE, MAIN, limit=9) is None
    assert await one.get_thread(ALICE, MAIN) is None
    anew, elsewhere = new("anew"), new(thread=OTHER)
    await record(one, anew, elsewhere)
    assert await page_of(other) == ([of_user(anew)], False)
    assert await other.delete_thread(ALICE, MAIN) is True
    await one.end_run(end_of(elsewhere))
    assert await one.get_thread(ALICE, MAIN) is None


async def test_a_thread_is_deleted_while_another_node_writes_to_it(nodes: Nodes) -> None:
    one, other = nodes
    for number in range(ROUNDS):
        thread = ThreadId(f"thread-{number}")
        messages = [new(f"{place}", thread=thread) for place in range(4)]
        await record(one, *messages)

        async def end_all(store: Store, these: list[NewMessage]) -> None:
            for message in these:
                await store.end_run(end_of(message))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(end_all, one, messages)
            for _ in range(number % 3):
                await trio.lowlevel.checkpoint()
            nursery.start_soon(other.delete_thread, ALICE, thread)
        for store in nodes:
            assert await store.get_thread(ALICE, thread) is None
            assert await store.history(ALICE, thread, limit=9) is None
    assert await other.unfinished_runs() == []


async def test_both_nodes_write_to_the_same_threads(nodes: Nodes) -> None:
    """In any order: neither waits for the other in a circle."""
    threads = [ThreadId(f"thread-{number}") for number in range(20)]

    async def write(store: Store, order: list[ThreadId]) -> None:
        for number in range(ROUNDS):
            messages = [new(f"{number}", thread=thread, keyed=False) for thread in order]
            await record(store, *messages)
            for message in messages:
                await store.end_run(end_of(message))
            assert await store.unfinished_runs() is not None  # they are written then

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, nodes[0], threads)
            nursery.start_soon(write, nodes[1], threads[::-1])
    page, _ = await nodes[0].list_threads(ALICE, limit=100)
    assert [thread.unread for thread in page] == [2 * ROUNDS] * 20


async def test_two_nodes_never_take_the_same_notification(nodes: Nodes) -> None:
    notes = [note(new()) for _ in range(40)]
    for each in notes:
        await nodes[0].add_notification(each)
    taken: Counter[NotificationId] = Counter()

    async def take(store: Store) -> None:
        while found := await store.take_notifications(limit=3, seconds=LONG):
            taken.update(due.notification.id for due in found)

    async with trio.open_nursery() as nursery:
        for store in (*nodes, *nodes):
            nursery.start_soon(take, store)
    # A node may find nothing due while the other one holds the rest.
    await take(nodes[0])
    assert taken == Counter(each.id for each in notes)


async def test_a_node_reads_the_stops_that_were_requested_at_another_node(nodes: Nodes) -> None:
    one, other = nodes
    messages = [new() for _ in range(6)]
    await record(one, *messages)
    start, _ = await one.stop_requests(-1)

    async with trio.open_nursery() as nursery:
        for store, message in zip(nodes * 3, messages, strict=True):
            nursery.start_soon(store.request_stop, message.run_id)
    newest, found = await one.stop_requests(start)
    assert sorted(found) == sorted(message.run_id for message in messages)
    assert await other.stop_requests(newest) == (newest, [])
