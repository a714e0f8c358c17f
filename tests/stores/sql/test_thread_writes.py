"""Threads in a database: writes that fail or are half done, old rows, and the use of indexes."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import trio
from sqlalchemy import Connection, func, select, update
from stores.samples import (
    ALICE,
    MAIN,
    change,
    end_of,
    new,
    of_user,
    page_of,
    record,
    wait_for_history,
    wait_until,
)
from stores.sql_samples import LostAnswers, outcome, wait_until_ready

from netra_trio.errors import StoreUnavailable, ThreadDeleted
from netra_trio.ids import RunId, ThreadId, new_notification_id
from netra_trio.protocol.threads import Rating
from netra_trio.stores.notifications import NOTIFICATION_SECONDS, STOP_SECONDS, Notification
from netra_trio.stores.sql import threads as sql_threads
from netra_trio.stores.sql import upkeep
from netra_trio.stores.sql.batch import Batch
from netra_trio.stores.sql.entries import EndRun, RecordMessage
from netra_trio.stores.sql.schema import (
    deleted_keys,
    metadata,
    notifications,
    stops,
)
from netra_trio.stores.sql.store import SqlStore
from netra_trio.stores.sql.thread_numbers import ThreadNumbers
from netra_trio.stores.threads import DELETED_KEY_SECONDS

pytestmark = pytest.mark.usefixtures("short_retry")


def count(url: str) -> dict[str, int]:
    """Return the number of rows of each table that is not empty."""

    def work(connection: Connection) -> dict[str, int]:
        found = {
            table.name: connection.scalar(select(func.count()).select_from(table)) or 0
            for table in metadata.sorted_tables
        }
        return {name: rows for name, rows in found.items() if rows}

    return change(url, work)


# Messages that replace others, when the write fails


async def test_a_branch_is_listed_again_if_its_replacement_was_not_stored(
    store: SqlStore,
) -> None:
    first, second = new("first"), new("second")
    await record(store, first, second)
    expected = [of_user(first), of_user(second)]
    lost = LostAnswers(store.database)
    lost.times = 3
    edited = new("edited", replaces=first.message_id)
    assert await outcome(store, edited) == "unavailable"
    await wait_until_ready(store)
    assert await page_of(store) == (expected, False)
    assert await store.find(edited) is None
    assert await store.record(edited) is None
    assert await page_of(store) == ([of_user(edited)], False)


async def test_a_cancelled_replacement_hides_nothing(store: SqlStore) -> None:
    first = new("first")
    await record(store, first)
    edited = new("edited", replaces=first.message_id)
    write = store.database.write

    async def write_and_cancel(work: Callable[[Connection], Any]) -> Any:
        done = await write(work)
        scope.cancel()
        return done

    store.database.write = write_and_cancel  # type: ignore[method-assign]
    with trio.CancelScope() as scope:
        await store.record(edited)
    store.database.write = write  # type: ignore[method-assign]
    assert scope.cancelled_caught
    await wait_for_history(store, [of_user(first)])


async def test_a_lost_answer_replaces_a_branch_once(store: SqlStore) -> None:
    first = new("first")
    await record(store, first)
    edited = new("edited", replaces=first.message_id)
    recording = RecordMessage(edited)
    entries = [recording, EndRun(end_of(edited))]
    # Its transaction was committed, and the answer was lost: the batch is repeated.
    for may_be_partial in (False, True):
        batch = Batch(entries, store.owner, ThreadNumbers(), may_be_partial)
        await store.database.write(batch.write)
    page, _ = await page_of(store)
    assert [item.content for item in page] == ["edited", "answer"]
    assert recording.lacks_branch is False


async def test_the_only_message_of_a_thread_that_was_not_stored_leaves_no_thread(
    store: SqlStore, url: str
) -> None:
    lost = LostAnswers(store.database)
    lost.times = 3
    message = new("a title that is not stored")
    assert await outcome(store, message) == "unavailable"
    await wait_until_ready(store)
    assert await store.get_thread(ALICE, MAIN) is None
    await record(store, new("title"))
    thread = await store.get_thread(ALICE, MAIN)
    assert thread is not None
    assert thread.title == "title"


async def test_calls_about_threads_wait_for_no_answer_of_a_database_that_is_down(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = new()
    await record(store, message)

    async def fails(_: Callable[[Connection], Any]) -> Any:
        raise StoreUnavailable("down")

    monkeypatch.setattr(store.database, "read", fails)
    monkeypatch.setattr(store.database, "write", fails)
    note = Notification(new_notification_id(), "agent_asking", ALICE, MAIN, message.run_id)
    calls: list[Callable[[], Any]] = [
        partial(store.list_threads, ALICE, limit=1),
        partial(store.get_thread, ALICE, MAIN),
        partial(store.find_room, "thread:x"),
        partial(store.set_title, ALICE, MAIN, "x", by_user=True),
        partial(store.mark_read, ALICE, MAIN, message.message_id),
        partial(store.set_feedback, ALICE, message.message_id, Rating.UP, None),
        partial(store.unfinished_runs),
        partial(store.count_unattended, ALICE),
        partial(store.delete_thread, ALICE, MAIN),
        partial(store.add_notification, note),
        partial(store.take_notifications, limit=1, seconds=1.0),
        partial(store.postpone_notification, note.id, seconds=1.0),
        partial(store.drop_notification, note.id),
        partial(store.run_status, message.run_id),
        partial(store.request_stop, message.run_id),
        partial(store.stop_requests, 0),
    ]
    for call in calls:
        with pytest.raises(StoreUnavailable, match="down"):
            await call()
    monkeypatch.undo()
    thread = await store.get_thread(ALICE, MAIN)
    assert thread is not None
    assert thread.title == "hello"


# Deleting


@pytest.mark.parametrize("chunk", [1, 2, 4, 5, 100])
async def test_a_deleted_thread_leaves_no_row(
    url: str, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(sql_threads, "CHUNK", chunk)
    async with SqlStore(url).open():
        pass
    store = SqlStore(url)
    async with store.open():
        messages_ = [new(f"{number}", keyed=number > 0) for number in range(3)]
        await record(store, *messages_)
        await store.end_run(end_of(messages_[0]))
        await store.set_title(ALICE, MAIN, "x", by_user=True)
        assert await store.delete_thread(ALICE, MAIN) is True
        assert count(url) == {"owners": 1, "deleted_keys": 2}


async def test_a_deletion_whose_answer_was_lost_is_reported(store: SqlStore) -> None:
    await record(store, new())
    write, calls = store.database.write, 0

    async def write_twice(work: Callable[[Connection], Any]) -> Any:
        nonlocal calls
        calls += 1
        await write(work)
        return await write(work)  # as after a lost answer of the commit

    store.database.write = write_twice  # type: ignore[method-assign]
    assert await store.delete_thread(ALICE, MAIN) is True
    assert await store.delete_thread(ALICE, MAIN) is False
    assert calls == 2


async def test_keys_of_deleted_threads_are_forgotten_after_a_day(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "RENEW_SECONDS", 0.02)
    old, young = new(key="old"), new(key="young", thread=ThreadId("other"))
    store = SqlStore(url)
    async with store.open():
        await record(store, old, young)
        assert await store.delete_thread(ALICE, old.thread_id)
        assert await store.delete_thread(ALICE, young.thread_id)

        def grow_older(connection: Connection) -> None:
            seconds = {"old": DELETED_KEY_SECONDS + 1, "young": DELETED_KEY_SECONDS - 60}
            for key, age in seconds.items():
                this = update(deleted_keys).where(deleted_keys.c.correlation_id == key)
                connection.execute(this.values(deleted_at=deleted_keys.c.deleted_at - age))

        await store.database.write(grow_older)

        async def is_forgotten() -> bool:
            return count(url).get("deleted_keys") == 1

        await wait_until(is_forgotten)
        assert await store.find(new(key="old")) is None
        with pytest.raises(ThreadDeleted):
            await store.find(new(key="young"))


# Notifications and stops


async def test_notifications_are_deleted_after_a_day(store: SqlStore, url: str) -> None:
    notes = [
        Notification(new_notification_id(), "agent_completed", ALICE, MAIN, RunId(f"run_{number}"))
        for number in range(2)
    ]
    for note in notes:
        await store.add_notification(note)

    def grow_older(connection: Connection) -> None:
        for note, age in zip(
            notes, (NOTIFICATION_SECONDS + 1, NOTIFICATION_SECONDS - 60), strict=True
        ):
            this = update(notifications).where(notifications.c.notification_id == note.id)
            connection.execute(this.values(created_at=notifications.c.created_at - age))

    await store.database.write(grow_older)
    taken = await store.take_notifications(limit=10, seconds=600)
    assert [due.notification for due in taken] == notes[1:]
    assert count(url)["notifications"] == 1


async def test_stops_are_known_for_an_hour(store: SqlStore) -> None:
    old, young = new(), new()
    await record(store, old, young)
    assert await store.request_stop(old.run_id) is True
    age = update(stops).values(changed_at=stops.c.changed_at - STOP_SECONDS - 1)
    await store.database.write(lambda connection: connection.execute(age).close())
    newest, found = await store.stop_requests(0)
    assert list(found) == [old.run_id]
    assert await store.request_stop(young.run_id) is True
    assert await store.stop_requests(0) == (newest + 1, [young.run_id])
