"""Threads, notifications and stops in the store in memory: for how long, and how many."""

import pytest
import trio
from stores.samples import ALICE, MAIN, OTHER, answer_to, asked_by, end_of, new, record
from trio.testing import MockClock

from netra_trio.errors import ThreadDeleted
from netra_trio.ids import RunId, UserId, new_notification_id
from netra_trio.protocol.threads import Rating
from netra_trio.stores import memory_notifications
from netra_trio.stores.memory import MemoryStore
from netra_trio.stores.notifications import NOTIFICATION_SECONDS, STOP_SECONDS, Notification
from netra_trio.stores.threads import DELETED_KEY_SECONDS


def note() -> Notification:
    return Notification(new_notification_id(), "agent_completed", ALICE, MAIN, RunId("run"))


async def test_keys_of_deleted_threads_are_known_for_a_day(autojump_clock: MockClock) -> None:
    store = MemoryStore()
    await record(store, new(key="k"), new(key="other", thread=OTHER))
    assert await store.delete_thread(ALICE, MAIN) is True
    await trio.sleep(DELETED_KEY_SECONDS - 1)
    assert await store.delete_thread(ALICE, OTHER) is True
    with pytest.raises(ThreadDeleted):
        await store.find(new(key="k"))
    await trio.sleep(1)
    assert await store.find(new(key="k")) is None
    await record(store, new(key="k"))
    with pytest.raises(ThreadDeleted):
        await store.record(new(key="other"))
    assert await store.delete_thread(ALICE, MAIN) is True
    assert len(store._data._deleted_keys) == 2


async def test_a_deleted_thread_leaves_nothing() -> None:
    store = MemoryStore(threads=1)
    before = store.statistics()
    ended, running = new(), new()
    await record(store, ended, running)
    end = end_of(ended)
    await store.end_run(end)
    question = asked_by(running)
    await store.record_question(question)
    await store.end_question(answer_to(question))
    await store.set_feedback(ALICE, end.message_id, Rating.UP, "a comment")
    assert await store.delete_thread(ALICE, MAIN) is True
    assert store.statistics() == before
    await record(store, new(user=UserId("bob")))  # there is room for another thread


async def test_feedback_makes_room_for_its_comment() -> None:
    store = MemoryStore(text_bytes=200)
    message = new("x" * 20)
    end = end_of(message, "y")
    await record(store, message)
    await store.end_run(end)
    assert await store.set_feedback(ALICE, end.message_id, Rating.UP, "z" * 150) == MAIN
    assert await store.history(ALICE, MAIN, limit=1) is None
    assert store.statistics()["text_bytes"] == 0


async def test_notifications_are_kept_for_a_day(autojump_clock: MockClock) -> None:
    store = MemoryStore()
    await store.add_notification(note())
    await trio.sleep(NOTIFICATION_SECONDS - 1)
    assert len(await store.take_notifications(limit=1, seconds=0)) == 1
    await trio.sleep(1)
    assert await store.take_notifications(limit=1, seconds=0) == []


@pytest.mark.parametrize("count", [3, 4])
async def test_the_oldest_notification_is_dropped_beyond_the_bound(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(memory_notifications, "NOTIFICATIONS", 3)
    store = MemoryStore()
    notes = [note() for _ in range(count)]
    for each in notes:
        await store.add_notification(each)
    taken = await store.take_notifications(limit=10, seconds=60)
    assert [due.notification for due in taken] == notes[-3:]


async def test_stops_are_known_for_an_hour(autojump_clock: MockClock) -> None:
    store = MemoryStore()
    old, young = new(), new()
    await record(store, old, young)
    assert await store.request_stop(old.run_id) is True
    await trio.sleep(STOP_SECONDS - 1)
    assert await store.request_stop(young.run_id) is True
    assert await store.stop_requests(0) == (2, [old.run_id, young.run_id])
    await trio.sleep(1)
    assert await store.request_stop(young.run_id) is True
    assert await store.stop_requests(0) == (3, [young.run_id])
