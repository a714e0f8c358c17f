"""The notifier: what is sent, when it is sent again, and by which node."""

import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs
from support.webhooks import ScriptedWebhook
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio.errors import StoreUnavailable
from netra_trio.ids import (
    CorrelationId,
    MessageId,
    NotificationId,
    QuestionId,
    RunId,
    ThreadId,
    UserId,
    new_notification_id,
)
from netra_trio.protocol.messages import RunStatus
from netra_trio.stores.base import NewMessage, RunEnd
from netra_trio.stores.memory import MemoryStore
from netra_trio.stores.notifications import (
    NOTIFICATION_SECONDS,
    DueNotification,
    Notification,
)
from netra_trio.telemetry.events import (
    NotificationDropped,
    NotificationFailed,
    NotificationSent,
    TelemetryEvent,
)
from netra_trio.webhook.notifier import (
    BACK_OFF_MAX,
    POLL_SECONDS,
    SENDS_AT_ONCE,
    TAKEN_SECONDS,
    UNFINISHED_SECONDS,
    Notifier,
)

ALICE = UserId("alice")
RUN = RunId("run_1")


class FailingStore(MemoryStore):
    """A store in memory that cannot answer while `is_down`."""

    is_down = False

    def _check(self) -> None:
        if self.is_down:
            raise StoreUnavailable("down")

    async def add_notification(self, notification: Notification) -> None:
        """Store a notification."""
        self._check()
        await super().add_notification(notification)

    async def take_notifications(self, *, limit: int, seconds: float) -> Sequence[DueNotification]:
        """Take notifications that are due."""
        self._check()
        return await super().take_notifications(limit=limit, seconds=seconds)

    async def drop_notification(self, notification_id: NotificationId) -> None:
        """Delete a notification."""
        self._check()
        await super().drop_notification(notification_id)


class World:
    """A store, a webhook, and the notifiers of some nodes."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.store = FailingStore()
        self.webhook = ScriptedWebhook()
        self.attached: set[UserId] = set()
        self.asked = 0
        self.events: list[TelemetryEvent] = []
        self._nursery = nursery

    async def is_attached(self, user_id: UserId) -> bool:
        self.asked += 1
        await trio.lowlevel.checkpoint()
        return user_id in self.attached

    def start(self) -> tuple[Notifier, trio.CancelScope]:
        """Start the notifier of a node."""
        endpoint: Any = self.webhook
        notifier = Notifier(
            self.store,
            endpoint,
            is_attached=self.is_attached,
            note=self.events.append,
            jitter=lambda: 1.0,
        )
        scope = trio.CancelScope()

        async def run() -> None:
            with scope:
                await notifier.run()

        self._nursery.start_soon(run)
        return notifier, scope

    def of(self, kind: type[Any]) -> list[Any]:
        return [each for each in self.events if type(each) is kind]

    @property
    def waiting(self) -> int:
        return len(self.store._data.notifications._waiting)


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    async with trio.open_nursery() as nursery:
        yield World(nursery)
        nursery.cancel_scope.cancel()


def asking(user: UserId = ALICE) -> Notification:
    notification_id = new_notification_id()
    return Notification(
        notification_id, "agent_asking", user, ThreadId("t"), RUN, question_id=QuestionId("q")
    )


def ended(status: RunStatus | None = RunStatus.COMPLETED, run_id: RunId = RUN) -> Notification:
    return Notification(
        new_notification_id(), "agent_completed", ALICE, ThreadId("t"), run_id, status
    )


async def record(store: MemoryStore, run_id: RunId = RUN) -> None:
    """Record the message of a run."""
    message = NewMessage(
        ALICE,
        ThreadId("t"),
        MessageId(f"m-{run_id}"),
        run_id,
        "agent",
        CorrelationId("c"),
        None,
        b"",
        "x",
        0.0,
        unattended=True,
    )
    await store.record(message)


def end_of(notification: Notification | None = None) -> RunEnd:
    return RunEnd(
        RUN,
        RunStatus.COMPLETED,
        MessageId("a"),
        "x",
        False,
        0.0,
        b"{}",
        notification=notification,
    )


async def test_a_notification_is_sent_at_once_and_once(autojump_clock: MockClock) -> None:
    async with world() as here:
        notifier, _ = here.start()
        new = asking()
        notifier.add([new])
        await trio.sleep(3600)
        assert here.webhook.attempts == [(0.0, new)]
        assert here.waiting == 0
        [sent] = here.of(NotificationSent)
        assert (sent.notification_id, sent.attempts, sent.kind) == (new.id, 1, "agent_asking")


async def test_a_notification_that_is_stored_with_an_end_is_sent_soon(
    autojump_clock: MockClock,
) -> None:
    async with world() as here:
        notifier, _ = here.start()
        await record(here.store)
        await wait_all_tasks_blocked()
        notifier.wake()  # before it is stored
        await trio.sleep(0.05)
        await here.store.end_run(end_of(ended()))
        await trio.sleep(0.1)
        assert here.webhook.results == [("agent_completed", "completed")]


async def test_failures_are_repeated_with_growing_pauses_for_a_day(
    autojump_clock: MockClock,
) -> None:
    async with world() as here:
        notifier, _ = here.start()
        here.webhook.default = "status 500"
        notifier.add([asking()])
        await trio.sleep(NOTIFICATION_SECONDS + 2 * BACK_OFF_MAX)
        times = [at for at, _ in here.webhook.attempts]
        pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
        expected = [min(2.0**number, BACK_OFF_MAX) for number in range(len(pauses))]
        for pause, wanted in zip(pauses, expected, strict=True):
            assert wanted <= pause <= wanted + POLL_SECONDS
        assert pauses[:3] == pytest.approx([1, 2, 4])
        assert times[-1] >= NOTIFICATION_SECONDS - BACK_OFF_MAX - POLL_SECONDS
        assert times[-1] <= NOTIFICATION_SECONDS
        assert here.waiting == 0
        first = here.of(NotificationFailed)[0]
        assert (first.attempts, first.reason, first.retry_in) == (1, "status 500", 1.0)


async def test_it_succeeds_after_failures(autojump_clock: MockClock) -> None:
    async with world() as here:
        notifier, _ = here.start()
        here.webhook.script = ["status 500", "no answer within 10 s", "ConnectError"]
        new = asking()
        notifier.add([new])
        await trio.sleep(60)
        assert [each for _, each in here.webhook.attempts] == [new] * 4
        assert here.webhook.accepted == [new]
        assert here.of(NotificationSent)[0].attempts == 4


async def test_the_pauses_have_jitter(autojump_clock: MockClock) -> None:
    store, webhook = MemoryStore(), ScriptedWebhook()
    webhook.default = "status 500"
    endpoint: Any = webhook
    events: list[TelemetryEvent] = []

    async def is_attached(_: UserId) -> bool:
        return False

    notifier = Notifier(store, endpoint, is_attached=is_attached, note=events.append)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(notifier.run)
        notifier.add([asking() for _ in range(50)])
        await trio.sleep(0.4)
        nursery.cancel_scope.cancel()
    pauses = {each.retry_in for each in events if isinstance(each, NotificationFailed)}
    assert len(pauses) > 20
    assert all(0.5 <= pause <= 1 for pause in pauses)


async def test_a_limited_number_is_sent_at_the_same_time(autojump_clock: MockClock) -> None:
    async with world() as here:
        notifier, _ = here.start()
        here.webhook.seconds = 1.0
        notifier.add([asking() for _ in range(3 * SENDS_AT_ONCE)])
        await trio.sleep(3.5)
        assert here.webhook.most == SENDS_AT_ONCE
        assert len(here.webhook.accepted) == 3 * SENDS_AT_ONCE
        assert trio.current_time() == 3.5


# Whether the user has a connection.


async def test_a_user_with_a_connection_causes_no_request(autojump_clock: MockClock) -> None:
    async with world() as here:
        notifier, _ = here.start()
        here.attached = {ALICE}
        theirs = asking(UserId("bob"))
        notifier.add([asking(), theirs])
        await trio.sleep(60)
        assert here.webhook.accepted == [theirs]
        assert here.waiting == 0
        assert len(here.of(NotificationDropped)) == 1


async def test_a_failed_notification_is_sent_again_although_the_user_is_back(
    autojump_clock: MockClock,
) -> None:
    async with world() as here:
        notifier, _ = here.start()
        here.webhook.script = ["status 500"]
        notifier.add([asking()])
        await wait_all_tasks_blocked()
        here.attached = {ALICE}
        await trio.sleep(60)
        assert len(here.webhook.accepted) == here.asked == 1


# The end of a run, whose notification is stored in advance.


async def test_an_announced_end_waits_for_the_end(autojump_clock: MockClock) -> None:
    async with world() as here:
        notifier, _ = here.start()
        await record(here.store)
        announced = ended(status=None)
        notifier.add([announced])
        await trio.sleep(1000)
        assert here.webhook.attempts == []
        assert here.waiting == 1
        await here.store.end_run(
            end_of(
                Notification(
                    announced.id,
                    announced.type,
                    ALICE,
                    ThreadId("t"),
                    RUN,
                    RunStatus.COMPLETED,
                )
            )
        )
        notifier.wake()
        await trio.sleep(0.5)
        [notification] = here.webhook.accepted
        assert (notification.id, notification.status) == (announced.id, RunStatus.COMPLETED)
        await trio.sleep(1000)
        assert len(here.webhook.attempts) == 1


async def test_another_node_sends_the_end_after_a_kill(autojump_clock: MockClock) -> None:
    async with world() as here:
        notifier, dies = here.start()
        here.start()
        await record(here.store)
        announced = ended(status=None)
        notifier.add([announced])
        await trio.sleep(100)
        dies.cancel()
        await trio.sleep(10)
        here.store.end_runs_of(here.store.owner)
        await trio.sleep(UNFINISHED_SECONDS + POLL_SECONDS)
        [notification] = here.webhook.accepted
        assert (notification.id, notification.status) == (announced.id, RunStatus.INTERRUPTED)


async def test_a_run_of_a_deleted_thread_sends_nothing(autojump_clock: MockClock) -> None:
    async with world() as here:
        notifier, _ = here.start()
        notifier.add([ended(status=None, run_id=RunId("run_gone"))])
        await trio.sleep(60)
        assert (here.webhook.attempts, here.waiting) == ([], 0)


# Several nodes, and nodes that are killed.


async def test_two_nodes_send_each_once(autojump_clock: MockClock) -> None:
    async with world() as here:
        one, _ = here.start()
        other, _ = here.start()
        here.webhook.seconds = 0.2
        new = [asking() for _ in range(40)]
        one.add(new[:20])
        other.add(new[20:])
        await trio.sleep(60)
        assert len(here.webhook.attempts) == len(new)
        assert {each.id for each in here.webhook.accepted} == {each.id for each in new}


async def test_another_node_sends_what_a_killed_node_has_taken(autojump_clock: MockClock) -> None:
    async with world() as here:
        one, dies = here.start()
        here.webhook.seconds = 9.0
        new = asking()
        one.add([new])
        await trio.sleep(1)
        dies.cancel()
        here.start()
        await trio.sleep(TAKEN_SECONDS - 2)
        assert len(here.webhook.attempts) == 1
        await trio.sleep(POLL_SECONDS + 10)
        assert [each for _, each in here.webhook.attempts] == [new, new]
        assert here.webhook.accepted == [new]


# Faults.


async def test_it_continues_when_the_store_answers_again(autojump_clock: MockClock) -> None:
    async with world() as here:
        notifier, _ = here.start()
        here.store.is_down = True
        new = [asking(), asking()]
        notifier.add(new)
        await trio.sleep(60)
        assert here.webhook.attempts == []
        here.store.is_down = False
        await trio.sleep(POLL_SECONDS + 0.1)
        assert {each.id for each in here.webhook.accepted} == {each.id for each in new}


async def test_a_sent_notification_is_repeated_if_its_deletion_fails(
    autojump_clock: MockClock,
) -> None:
    async with world() as here:
        notifier, _ = here.start()
        here.webhook.seconds = 1.0
        new = asking()
        notifier.add([new])
        await trio.sleep(0.5)
        here.store.is_down = True
        with capture_logs() as logs:
            await trio.sleep(10)
        here.store.is_down = False
        assert "notification_not_settled" in [line["event"] for line in logs]
        await trio.sleep(TAKEN_SECONDS)
        assert here.webhook.accepted == [new, new]  # with the same id
        assert here.waiting == 0


async def test_a_fault_of_one_notification_does_not_stop_the_others(
    autojump_clock: MockClock,
) -> None:
    async with world() as here:

        async def is_attached(user_id: UserId) -> bool:
            if user_id == ALICE:
                raise RuntimeError("a fault")
            return False

        here.is_attached = is_attached  # type: ignore[method-assign]
        notifier, _ = here.start()
        theirs = asking(UserId("bob"))
        with capture_logs() as logs:
            notifier.add([asking(), theirs])
            await trio.sleep(1)
        assert here.webhook.accepted == [theirs]
        assert [line["event"] for line in logs] == ["notifier_failed"]
