"""The replicator: when batches are sent, and how long events are held."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
import trio
from attrs import define, field
from sessions.test_replica import Log
from structlog.testing import capture_logs
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio.broker.base import Appended, Batch
from netra_trio.cluster.replicator import (
    FLUSH_SECONDS,
    FLUSHES,
    HOLD_SECONDS,
    NOTE_SECONDS,
    RETRY_SECONDS,
    Replicator,
)
from netra_trio.errors import BrokerUnavailable, StoreUnavailable
from netra_trio.ids import SessionId
from netra_trio.sessions.replica import Replica


@define(eq=False)
class Directory:
    """Records batches; a test decides about the answers.

    Attributes:
        hangs: Whether no answer comes until it is unset.
        is_down: Whether an answer raises.
        result: The answer to each batch.
    """

    batches: list[tuple[float, Batch]] = field(factory=list)
    hangs: bool = False
    is_down: bool = False
    result: Appended = Appended.STORED
    noted: list[tuple[SessionId, int]] = field(factory=list)
    noting: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint

    def append(self, batches: Sequence[Batch]) -> Awaitable[Sequence[Appended]]:
        self.batches += [(trio.current_time(), batch) for batch in batches]

        async def answer() -> Sequence[Appended]:
            await trio.lowlevel.checkpoint()
            while self.hangs:  # noqa: ASYNC110 - tests set it
                await trio.sleep(0.01)
            if self.is_down:
                raise BrokerUnavailable("down")
            return [self.result for _ in batches]

        return answer()

    async def note(self, session_id: SessionId, number: int) -> None:
        await self.noting()
        self.noted.append((session_id, number))


Opened = tuple[Directory, Replicator, "Session"]


class Session(Log):
    """A session whose replica tells the replicator."""

    target: Replicator

    def changed(self, replica: Replica, is_held: bool) -> None:
        self.target.note(replica, is_held)


@pytest.fixture
async def opened(nursery: trio.Nursery) -> Opened:
    directory: Any = Directory()
    replicator, session = Replicator(directory, directory.note), Session()
    session.target = replicator
    nursery.start_soon(replicator.run)
    await wait_all_tasks_blocked()
    return directory, replicator, session


async def test_events_are_copied_together_a_moment_later(
    opened: Opened, autojump_clock: MockClock
) -> None:
    directory, replicator, session = opened
    replica = session.replica()
    replicator.note(replica, is_held=False)
    await trio.sleep(FLUSH_SECONDS / 2)
    session.add(replica)
    await trio.sleep(1)
    ((at, batch),) = directory.batches
    assert at == pytest.approx(FLUSH_SECONDS)
    assert (batch.previous, batch.last) == (None, 1)
    assert replica.is_complete
    assert replicator.unreplicated == 0


async def test_a_held_event_is_copied_at_once(opened: Opened, autojump_clock: MockClock) -> None:
    directory, _, session = opened
    replica = session.replica()
    session.add(replica, reserved=True)
    await wait_all_tasks_blocked()
    assert len(directory.batches) == 1
    assert not replica.is_holding
    await trio.sleep(1)
    assert not directory.noted
    assert not replica.is_unreplicated


async def test_a_held_event_is_let_go_when_no_answer_comes(
    opened: Opened, autojump_clock: MockClock
) -> None:
    directory, _, session = opened
    directory.hangs = True
    replica = session.replica()
    session.add(replica, reserved=True)
    await trio.sleep(HOLD_SECONDS - 0.001)
    assert replica.held_from == 1
    await trio.sleep(0.002)
    assert directory.noted == [("s", 1)]  # before it is sent
    assert replica.is_unreplicated


@pytest.mark.parametrize("store", ["is gone", "hangs"])
async def test_a_store_that_does_not_answer_holds_nothing_for_long(
    store: str, opened: Opened, autojump_clock: MockClock
) -> None:
    async def fail() -> None:
        raise StoreUnavailable("gone")

    directory, _, session = opened
    directory.hangs = True
    directory.noting = fail if store == "is gone" else trio.sleep_forever
    replica = session.replica()
    session.add(replica, reserved=True)
    await trio.sleep(HOLD_SECONDS + NOTE_SECONDS - 0.01)
    assert replica.is_unreplicated == (store == "is gone")
    await trio.sleep(0.02)
    assert replica.is_unreplicated


async def test_an_answer_while_the_store_is_asked_counts(
    opened: Opened, autojump_clock: MockClock
) -> None:
    async def slowly() -> None:
        directory.hangs = False
        await trio.sleep(1)

    directory, _, session = opened
    directory.hangs, directory.noting = True, slowly
    replica = session.replica()
    session.add(replica, reserved=True)
    await trio.sleep(HOLD_SECONDS + 0.5)
    assert replica.is_complete
    directory.hangs = True
    session.add(replica, reserved=True)  # another one is held by then
    await trio.sleep(HOLD_SECONDS + 3)
    assert not replica.is_holding


async def test_a_later_held_event_has_its_own_time(
    opened: Opened, autojump_clock: MockClock
) -> None:
    directory, _, session = opened
    replica = session.replica()
    session.add(replica, reserved=True)
    await trio.sleep(HOLD_SECONDS * 0.8)
    directory.hangs = True
    session.add(replica, reserved=True)
    await trio.sleep(HOLD_SECONDS * 0.5)
    assert replica.held_from == 2
    await trio.sleep(HOLD_SECONDS)
    assert replica.is_unreplicated


async def test_a_directory_that_is_gone_is_tried_again(
    opened: Opened, autojump_clock: MockClock
) -> None:
    directory, replicator, session = opened
    directory.is_down = True
    replica = session.replica()
    replicator.note(replica, is_held=False)
    await trio.sleep(FLUSH_SECONDS + RETRY_SECONDS / 2)
    assert len(directory.batches) == 1
    directory.is_down = False
    await trio.sleep(RETRY_SECONDS + FLUSH_SECONDS)
    assert len(directory.batches) == 2
    assert replica.is_complete


async def test_the_flushes_on_the_way_are_bounded(
    opened: Opened, autojump_clock: MockClock
) -> None:
    directory, _, session = opened
    directory.hangs = True
    replica = session.replica()
    for _ in range(FLUSHES + 5):
        session.add(replica)
        await trio.sleep(2 * FLUSH_SECONDS)
    assert len(directory.batches) == FLUSHES
    directory.hangs = False
    await trio.sleep(1)
    assert len(directory.batches) == FLUSHES + 1  # with everything that has waited
    assert replica.is_complete


async def test_a_flush_waits_until_everything_is_copied(
    opened: Opened, autojump_clock: MockClock
) -> None:
    directory, replicator, session = opened
    replica = session.replica()
    session.add(replica)
    assert await replicator.flush(replica, seconds=1)
    assert trio.current_time() < FLUSH_SECONDS
    directory.hangs = True
    session.add(replica)
    assert not await replicator.flush(replica, seconds=1)
    directory.hangs, directory.result = False, Appended.FENCED
    assert not await replicator.flush(replica, seconds=1)
    assert replica.is_fenced
    with trio.CancelScope() as scope:
        scope.cancel()
        await replicator.flush(session.replica(), seconds=1)


async def test_a_forgotten_session_is_not_copied(opened: Opened, autojump_clock: MockClock) -> None:
    directory, replicator, session = opened
    replica = session.replica()
    session.add(replica, reserved=True)
    replicator.forget(replica)
    await trio.sleep(1)
    assert not directory.batches
    assert not directory.noted


async def test_a_session_that_has_nothing_new_is_left_out(
    opened: Opened, autojump_clock: MockClock
) -> None:
    directory, replicator, session = opened
    replica = session.replica()
    session.add(replica)
    await trio.sleep(1)
    replicator.note(replica, is_held=False)
    await trio.sleep(1)
    assert len(directory.batches) == 1


async def test_a_session_that_fails_keeps_no_other_from_being_copied(
    opened: Opened, autojump_clock: MockClock
) -> None:
    directory, replicator, session = opened
    bad, good = session.replica(), session.replica()

    def fail() -> None:
        raise ValueError("fenced")

    bad._fenced = fail
    directory.result = Appended.FENCED
    replicator.note(bad, is_held=False)
    replicator.note(good, is_held=False)
    with capture_logs() as logged:
        await trio.sleep(1)
    assert good.is_fenced
    assert [line["event"] for line in logged] == ["settle_failed"]
