"""Parts of the supervisor of several workers that need no process."""

import itertools
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from netra_trio.broker.valkey.backend import ValkeyBackend
from netra_trio.cli.serving import ServeOptions
from netra_trio.cli.workers import supervisor as supervisors
from netra_trio.cli.workers import worker as workers
from netra_trio.cli.workers.backoff import LONGEST_SECONDS, STABLE_SECONDS, Backoff
from netra_trio.cli.workers.channel import Channel
from netra_trio.cli.workers.ended import on_worker_ended
from netra_trio.cli.workers.supervisor import Plan, _Supervisor, _Worker
from netra_trio.ids import NodeId, new_node_id

PATIENCE = 100.0


def test_the_pause_doubles_up_to_a_bound() -> None:
    backoff = Backoff()
    pauses = [backoff.next(lived=STABLE_SECONDS - 0.1) for _ in range(10)]
    assert pauses[:3] == [0.1, 0.2, 0.4]
    assert all(after <= 2 * before for before, after in itertools.pairwise(pauses))
    assert pauses[-1] == LONGEST_SECONDS
    assert backoff.next(lived=STABLE_SECONDS) == 0.1


async def test_the_lease_of_a_worker_that_ended_is_deleted(valkey_url: str) -> None:
    ended, other = (ValkeyBackend(new_node_id(), valkey_url) for _ in range(2))
    with trio.fail_after(PATIENCE):
        async with other.open():
            async with ended.open():
                await ended.directory.renew()
            await other.directory.renew()
            assert set(await other.directory.nodes()) == {ended.node, other.node}
            with capture_logs() as logged:
                await on_worker_ended(2, ended.node, -9, valkey_url)
                await on_worker_ended(1, None, 3, valkey_url)
                await on_worker_ended(1, other.node, 3, None)
            assert set(await other.directory.nodes()) == {other.node}
    lines = [line for line in logged if line["event"] == "worker_ended"]
    assert [(line["worker"], line["node"], line["code"]) for line in lines] == [
        (2, ended.node, -9),
        (1, None, 3),
        (1, other.node, 3),
    ]


async def test_a_broker_that_does_not_answer_leaves_the_lease(tmp_path: Path) -> None:
    with capture_logs() as logged, trio.fail_after(PATIENCE):
        await on_worker_ended(2, NodeId("own_1"), -9, f"unix://{tmp_path}/none.sock")
    (line,) = [line for line in logged if line["event"] == "lease_left"]
    assert line["node"] == "own_1"


@contextmanager
def ended_worker(node_id: str | None) -> Iterator[_Worker]:
    """Yield a worker that was ready, and whose process is none."""
    one, other = socket.socketpair()
    with one, other:
        process: trio.Process = object()  # type: ignore[assignment]
        worker = _Worker(1, process, Channel(one))
        if node_id is not None:
            worker.ready = {"type": "ready", "node_id": node_id, "greeting": ""}
        yield worker


def a_supervisor() -> _Supervisor:
    return _Supervisor(Plan(ServeOptions(), 8.0), [[], []], -1)


@pytest.mark.parametrize("node_id", [None, "own_1"])
async def test_the_hook_gets_the_node_of_the_worker(
    monkeypatch: pytest.MonkeyPatch, node_id: str | None
) -> None:
    called: list[object] = []

    async def note(*given: object) -> None:
        called.append(given)

    monkeypatch.setattr(supervisors, "on_worker_ended", note)
    with ended_worker(node_id) as worker:
        await a_supervisor()._note_end(worker, 3)
    assert called == [(1, node_id, 3, None)]


async def test_a_hook_that_fails_or_hangs_does_not_stop_the_supervisor(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    async def fail(*_: object) -> None:
        raise ValueError("no broker")

    async def hang(*_: object) -> None:
        await trio.sleep_forever()

    with ended_worker("own_1") as worker, capture_logs() as logged:
        monkeypatch.setattr(supervisors, "on_worker_ended", fail)
        await a_supervisor()._note_end(worker, 3)
        assert [line["event"] for line in logged] == ["hook_failed"]
        monkeypatch.setattr(supervisors, "on_worker_ended", hang)
        since = trio.current_time()
        await a_supervisor()._note_end(worker, 3)
        assert trio.current_time() - since == pytest.approx(supervisors.HOOK_SECONDS)


def test_a_reason_that_the_supervisor_does_not_take() -> None:
    one, other = socket.socketpair()
    with one:
        other.close()
        workers._tell(one, "there is no such agent")


def test_only_the_first_start_of_the_first_worker_opens_the_page() -> None:
    plan = Plan(ServeOptions(opens_page=True), 8.0)
    supervisor = _Supervisor(plan, [[], []], -1)
    opens = [supervisor._options_of(number).opens_page for number in (2, 1, 2, 1)]
    assert opens == [False, True, False, False]
