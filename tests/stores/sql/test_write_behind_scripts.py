"""The queue of writes under random scripts: no entry is lost or written twice."""

from collections.abc import Awaitable, Callable, Sequence

import pytest
import trio
import trio.testing
from attrs import define
from hypothesis import given, settings
from hypothesis import strategies as st
from stores.write_behind_samples import (
    ANSWER_LOST,
    FAILS,
    SLOW,
    SLOW_AND_ANSWER_LOST,
    SLOW_AND_FAILS,
    Disk,
    Item,
    Outcome,
    at_work,
    unavailable_reason,
)
from structlog.testing import capture_logs
from trio.testing import MockClock

from netra_trio.errors import StoreUnavailable
from netra_trio.stores.sql.write_behind import (
    BATCH_BYTES,
    WriteBehind,
)

OUTCOMES = st.sampled_from(
    [
        Outcome(),
        Outcome(),
        Outcome(seconds=0.3),
        FAILS,
        ANSWER_LOST,
        SLOW,
        SLOW_AND_FAILS,
        SLOW_AND_ANSWER_LOST,
        Outcome(0.3, True, False),
        Outcome(0.3, True, True),
    ]
)
PAUSES = st.sampled_from([0.0, 0.0, 0.005, 0.3, 1.0, 2.5])
SMALL = 100  # entries in a batch here, so that a burst of few entries exceeds it
SIZES = st.sampled_from([0, 0, 1, BATCH_BYTES // 2, BATCH_BYTES, BATCH_BYTES + 1])


@define
class Step:
    """A step of a script: the call, the pause before it, its size and its time limit."""

    how: str
    pause: float
    size: int
    seconds: float


STEPS = st.builds(
    Step,
    st.sampled_from(["put", "put urgently", "do", "do", "burst", "flush", "report"]),
    PAUSES,
    SIZES,
    st.sampled_from([0.0, 0.3, 1.0, 30.0, 30.0, 30.0]),
)


class Callers:
    """The callers, and the results of their calls.

    Attributes:
        accepted: The queued items, in order.
        stored: The items that were reported as stored.
        failed: The items that were reported as failed, or cancelled.
        unawaited: The items that no task waits for.
    """

    def __init__(self, writes: WriteBehind, disk: Disk) -> None:
        self.writes = writes
        self.disk = disk
        self.accepted: list[str] = []
        self.stored: list[str] = []
        self.failed: list[str] = []
        self.unawaited: list[str] = []

    async def play(self, steps: Sequence[Step]) -> None:
        async with trio.open_nursery() as nursery:
            for step in steps:
                await trio.sleep(step.pause)
                if step.how == "do":
                    nursery.start_soon(self.do, step)
                    await trio.testing.wait_all_tasks_blocked()
                elif step.how == "flush":
                    nursery.start_soon(self.flush, step)
                elif step.how == "report":
                    self.writes.mark_unavailable("seen elsewhere")
                elif step.how == "burst":
                    for _ in range(SMALL + 1):
                        self.put(step)
                else:
                    self.put(step, urgent=step.how == "put urgently")

    def put(self, step: Step, *, urgent: bool = False) -> None:
        name = self.next_name()
        self.unawaited.append(name)
        self.writes.put(Item(name=name, size=step.size), urgent=urgent)

    async def do(self, step: Step) -> None:
        name = self.next_name()
        ended = self.failed
        with trio.move_on_after(step.seconds):
            try:
                await self.writes.write(Item(name=name, size=step.size))
            except StoreUnavailable:
                pass
            else:
                ended = self.stored
        ended.append(name)

    async def flush(self, step: Step) -> None:
        before = list(self.unawaited)
        with trio.move_on_after(step.seconds):
            try:
                await self.writes.flush()
            except StoreUnavailable:
                return
            assert set(before) <= set(self.disk.kept), "flushed, and not stored"

    def next_name(self) -> str:
        name = f"{len(self.accepted)}"
        self.accepted.append(name)
        return name


@given(st.lists(STEPS, max_size=25), st.lists(OUTCOMES, max_size=12))
@settings(
    max_examples=100,
    deadline=None,
)
def test_no_entry_is_lost_or_written_twice(steps: list[Step], planned: list[Outcome]) -> None:
    """Play a script; compare the stored items with the results of the calls."""

    async def play() -> None:
        disk = Disk(*planned)
        async with at_work(disk) as writes:
            callers = Callers(writes, disk)
            await callers.play(steps)
            await trio.sleep(100)
            assert unavailable_reason(writes) is None
            assert writes.statistics() == {"waiting": 0, "waiting_bytes": 0}
        assert sorted(callers.stored + callers.failed + callers.unawaited) == sorted(
            callers.accepted
        )
        wanted = {*callers.stored, *callers.unawaited}
        assert disk.kept == [name for name in callers.accepted if name in wanted]
        assert all(len(batch) <= SMALL for batch in disk.batches)

    with capture_logs() as logs, pytest.MonkeyPatch.context() as patch:
        patch.setattr("netra_trio.stores.sql.write_behind.BATCH", SMALL)
        run_virtual(play)
    events = [log["event"] for log in logs]
    # They alternate.
    assert events == ["store_unavailable", "store_available"] * (len(events) // 2)


def run_virtual(main: Callable[[], Awaitable[None]]) -> None:
    trio.run(main, clock=MockClock(autojump_threshold=0))
