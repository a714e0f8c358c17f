"""The contract of `Store` for notifications and for stops of runs."""

import pytest
from attrs import evolve
from stores.implementations import THREAD_STORES
from stores.samples import ALICE, MAIN, asked_by, end_of, new, record, wait_until

from netra_trio.ids import (
    NotificationId,
    RunId,
    UserId,
    new_notification_id,
    new_question_id,
    new_run_id,
)
from netra_trio.protocol.messages import RunStatus
from netra_trio.stores.base import Store
from netra_trio.stores.notifications import DueNotification, Notification

pytestmark = pytest.mark.parametrize(
    "store", THREAD_STORES, indirect=True, ids=lambda factory: factory.__name__
)

LONG = 600.0  # seconds


def note(*, user: UserId = ALICE, run_id: RunId | None = None) -> Notification:
    """Return the notification of a run that has ended."""
    return Notification(
        new_notification_id(),
        "agent_completed",
        user,
        MAIN,
        new_run_id() if run_id is None else run_id,
        RunStatus.COMPLETED,
    )


async def take(store: Store, *, limit: int = 10) -> list[DueNotification]:
    return list(await store.take_notifications(limit=limit, seconds=LONG))


async def ids(store: Store, *, limit: int = 10) -> list[NotificationId]:
    return [due.notification.id for due in await take(store, limit=limit)]


# Notifications


async def test_notifications_are_taken_as_they_were_stored(store: Store) -> None:
    assert await take(store) == []
    completed = note(user=UserId("ålice\x00"))
    asking = evolve(
        note(), type="agent_asking", status=None, question_id=new_question_id(), user_id=ALICE
    )
    await store.add_notification(completed)
    await store.add_notification(asking)
    found = await take(store)
    assert sorted(due.notification.id for due in found) == sorted([completed.id, asking.id])
    assert {due.notification for due in found} == {completed, asking}
    assert {due.attempts for due in found} == {0}


async def test_a_notification_is_taken_once_until_it_is_due_again(store: Store) -> None:
    notification = note()
    await store.add_notification(notification)
    assert await take(store) == [DueNotification(notification, 0)]
    assert await take(store) == []
    await store.postpone_notification(notification.id, seconds=LONG)
    assert await take(store) == []
    for attempts in (1, 2):
        await store.postpone_notification(notification.id, seconds=0)
        assert await take(store) == [DueNotification(notification, attempts)]
    await store.drop_notification(notification.id)
    await store.postpone_notification(notification.id, seconds=0)
    await store.drop_notification(notification.id)
    assert await take(store) == []


async def test_a_lease_ends(store: Store) -> None:
    notification = note()
    await store.add_notification(notification)
    assert len(await store.take_notifications(limit=1, seconds=0.05)) == 1

    async def is_due() -> bool:
        return await take(store) == [DueNotification(notification, 1)]

    await wait_until(is_due)


async def test_the_notification_that_is_due_for_the_longest_time_is_taken_first(
    store: Store,
) -> None:
    notes = [note() for _ in range(5)]
    for place, each in enumerate(notes):
        await store.add_notification(each)
        await store.postpone_notification(each.id, seconds=-10.0 * place)
    newest_first = [each.id for each in reversed(notes)]
    assert await ids(store, limit=2) == newest_first[:2]
    assert await ids(store, limit=4) == newest_first[2:]
    assert await ids(store, limit=1) == []


async def test_a_notification_of_the_same_id_replaces_the_first(store: Store) -> None:
    first = note()
    await store.add_notification(first)
    assert await ids(store) == [first.id]
    second = evolve(first, status=RunStatus.FAILED)
    await store.add_notification(second)
    assert await take(store) == [DueNotification(second, 0)]


@pytest.mark.parametrize("keyed", [True, False])
@pytest.mark.parametrize("is_earlier", [True, False])
async def test_a_notification_is_stored_with_the_end_of_its_run(
    store: Store, keyed: bool, is_earlier: bool
) -> None:
    message = new(keyed=keyed)
    notification, late = note(run_id=message.run_id), note(run_id=message.run_id)
    await record(store, message)
    if is_earlier:
        assert await store.run_status(message.run_id) is RunStatus.QUEUED
    await store.end_run(end_of(message, notification=notification))
    assert await store.run_status(message.run_id) is RunStatus.COMPLETED
    await store.end_run(end_of(message, notification=late))  # it does not stand
    assert await store.run_status(message.run_id) is RunStatus.COMPLETED
    assert await take(store) == [DueNotification(notification, 0)]


async def test_a_notification_is_stored_with_a_question(store: Store) -> None:
    message = new()
    await record(store, message)
    notification = note(run_id=message.run_id)
    await store.record_question(evolve(asked_by(message), notification=notification))
    assert await take(store) == [DueNotification(notification, 0)]
    unknown = evolve(asked_by(new()), notification=note())
    await store.record_question(unknown)
    assert await take(store) == []


# Stops


async def test_stops_are_returned_after_a_number(store: Store) -> None:
    messages = [new() for _ in range(3)]
    await record(store, *messages)
    first, second, third = (message.run_id for message in messages)
    start, found = await store.stop_requests(-1)
    assert list(found) == []
    assert await store.request_stop(first) is True
    assert await store.request_stop(second) is True
    middle, found = await store.stop_requests(start)
    assert list(found) == [first, second]
    assert middle > start
    assert await store.request_stop(third) is True
    assert await store.request_stop(first) is True
    newest, found = await store.stop_requests(middle)
    assert list(found) == [third, first]
    assert list((await store.stop_requests(start))[1]) == [second, third, first]
    assert await store.stop_requests(newest) == (newest, [])
    assert await store.stop_requests(-1) == (newest, [])


async def test_only_unfinished_runs_are_to_be_stopped(store: Store) -> None:
    message = new(keyed=False)
    assert await store.request_stop(message.run_id) is False
    await record(store, message)
    assert await store.request_stop(message.run_id) is True
    await store.end_run(end_of(message))
    assert await store.request_stop(message.run_id) is False
    newest, found = await store.stop_requests(0)
    assert list(found) == [message.run_id]
    assert await store.run_status(new_run_id()) is None
    assert (await store.stop_requests(-1))[0] == newest
