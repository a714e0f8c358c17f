"""Which threads have runs of killed nodes, and when the store has ended them."""

from collections.abc import Sequence

import pytest
import trio
from trio.testing import MockClock

from netra_trio.errors import StoreUnavailable
from netra_trio.ids import NodeId, RunId, ThreadId, UserId
from netra_trio.node.lost_runs import FIND_SECONDS, FOLLOW_SECONDS, POLL_SECONDS, LostRuns
from netra_trio.protocol.messages import RunStatus
from netra_trio.stores.memory import MemoryStore
from netra_trio.stores.threads import UnfinishedRun

GONE, OTHER = NodeId("gone"), NodeId("other")
ALICE = UserId("alice")
ONE, TWO = (ALICE, ThreadId("one")), (ALICE, ThreadId("two"))


def run_of(thread: tuple[UserId, ThreadId], owner: NodeId = GONE) -> UnfinishedRun:
    return UnfinishedRun(RunId("run"), *thread, "agent", RunStatus.RUNNING, owner, False, 0.0)


class Runs(MemoryStore):
    """A store with given runs, that fails or does not answer on demand."""

    def __init__(self, *runs: UnfinishedRun) -> None:
        super().__init__()
        self.runs = list(runs)
        self.fails = False
        self.hangs = False

    async def unfinished_runs(
        self, user_id: UserId | None = None, thread_id: ThreadId | None = None
    ) -> Sequence[UnfinishedRun]:
        await trio.lowlevel.checkpoint()
        if self.hangs:
            await trio.sleep_forever()
        if self.fails:
            raise StoreUnavailable("down")
        return [
            run
            for run in self.runs
            if user_id in {None, run.user_id} and thread_id in {None, run.thread_id}
        ]


async def test_only_threads_with_runs_of_the_node_are_found() -> None:
    lost = LostRuns(Runs(run_of(ONE), run_of(ONE), run_of(TWO, OTHER)))
    assert await lost.find(GONE) == {ONE}


@pytest.mark.parametrize("fault", ["fails", "hangs"])
async def test_a_store_that_does_not_answer_is_not_awaited(
    fault: str, autojump_clock: MockClock
) -> None:
    store = Runs(run_of(ONE))
    setattr(store, fault, True)
    assert await LostRuns(store).find(GONE) is None
    assert trio.current_time() == (FIND_SECONDS if fault == "hangs" else 0)


async def test_each_thread_is_reported_when_its_runs_have_ended(autojump_clock: MockClock) -> None:
    store = Runs(run_of(ONE), run_of(TWO), run_of(TWO))
    told: list[tuple[tuple[UserId, ThreadId], float]] = []

    async def follow() -> None:
        async for key in LostRuns(store).ended(GONE, {ONE, TWO}):
            told.append((key, trio.current_time()))  # noqa: PERF401 - read meanwhile

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        await trio.sleep(10.5)
        store.runs = [run_of(TWO)]
        store.fails = True
        await trio.sleep(10)
        assert told == []
        store.fails = False
        await trio.sleep(1)
        assert told == [(ONE, 21 * POLL_SECONDS)]
        store.runs = [run_of(TWO, OTHER)]  # another node has it now
    assert told[1:] == [(TWO, 22 * POLL_SECONDS)]


async def test_a_node_whose_runs_do_not_end_is_not_followed_for_ever(
    autojump_clock: MockClock,
) -> None:
    assert [key async for key in LostRuns(Runs(run_of(ONE))).ended(GONE, {ONE})] == []
    assert trio.current_time() == FOLLOW_SECONDS


async def test_the_store_is_not_read_without_threads(autojump_clock: MockClock) -> None:
    assert [key async for key in LostRuns(Runs()).ended(GONE, ())] == []
    assert trio.current_time() == 0
