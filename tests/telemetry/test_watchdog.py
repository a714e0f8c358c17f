"""The watchdog of the event loop: what it reports of a block, and what it does not report."""

import inspect
import itertools
import time
from collections.abc import Callable, Iterator, MutableMapping
from contextvars import copy_context
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs

from netra_trio.agents.context import context_of, run_in_context
from netra_trio.telemetry.log_context import set_log_context
from netra_trio.telemetry.watchdog import INTERVAL, LoopWatchdog

Logs = list[MutableMapping[str, Any]]

BLOCKED = 0.2  # seconds
PATIENCE = 100.0  # seconds of real time for the thread: a bound, not a wait


@pytest.fixture
def logs() -> Iterator[Logs]:
    with capture_logs() as captured:
        yield captured


def watchdog(ongoing: float = PATIENCE, period: float = 0.01) -> LoopWatchdog:
    return LoopWatchdog(context_of, period=period, blocked=BLOCKED, ongoing=ongoing)


def sleep_in_the_loop() -> None:
    time.sleep(5 * BLOCKED)


def hold_the_interpreter() -> None:
    """Compute in native code, which lets no other thread run; at least five times the bound."""
    size = 1_000_000
    while True:
        started = time.perf_counter()
        sum(itertools.repeat(1, size))
        if time.perf_counter() - started > 5 * BLOCKED:
            return
        size *= 2


async def wait_for(logs: Logs, lines: int = 1) -> None:
    with trio.fail_after(PATIENCE):
        while len(logs) < lines:  # noqa: ASYNC110 - a thread writes them
            await trio.sleep(0.01)


async def in_its_own_context(block: Callable[[], None]) -> None:
    """Execute the agent as a session does: several runs in one task, each in a context."""
    await run_in_context(agent(block), copy_context(), lambda: None)


async def agent(block: Callable[[], None]) -> None:
    set_log_context(run_id="run_1", agent="slow", session_id="sess_1", user_id="alice")
    await trio.sleep(0.05)
    block()


@pytest.mark.parametrize("has_own_context", [False, True])
@pytest.mark.parametrize("period", [0.01, 2 * BLOCKED])
@pytest.mark.parametrize("block", [sleep_in_the_loop, hold_the_interpreter])
async def test_a_block_is_reported_with_its_run_and_its_line(
    logs: Logs, block: Callable[[], None], period: float, has_own_context: bool
) -> None:
    with watchdog(period=period):
        async with trio.open_nursery() as nursery:
            if has_own_context:
                nursery.start_soon(in_its_own_context, block)
            else:
                nursery.start_soon(agent, block)
            nursery.start_soon(trio.sleep, 0.1)
        await wait_for(logs)
        await trio.sleep(2 * BLOCKED)
    (line,) = logs
    assert line.pop("seconds") >= BLOCKED
    where, _, function = line.pop("where").partition(" in ")
    file, _, number = where.rpartition(":")
    source, first = inspect.getsourcelines(block)
    assert (file, function) == (__file__, block.__name__)
    assert int(number) in range(first, first + len(source))
    assert line.pop("task").endswith("in_its_own_context" if has_own_context else "agent")
    assert line == {
        "event": "loop_blocked",
        "log_level": "warning",
        "ongoing": False,
        "run_id": "run_1",
        "agent": "slow",
        "session_id": "sess_1",
        "user_id": "alice",
        "repeated": 0,
    }


async def test_a_block_that_does_not_end_is_reported_once(logs: Logs) -> None:
    with watchdog(ongoing=2 * BLOCKED):
        await trio.sleep(0.05)
        sleep_in_the_loop()
        sleep_in_the_loop()
        assert len(logs) == 1  # while the loop is still blocked
        await trio.sleep(2 * BLOCKED)
    (line,) = logs
    assert line["ongoing"] is True
    assert line["run_id"] is None


async def test_further_blocks_are_counted(logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    assert INTERVAL == 10
    with watchdog() as watching:
        for number in range(3):
            await trio.sleep(0.05)
            sleep_in_the_loop()
            await wait_for(logs)
            while watching._repeated < number:  # noqa: ASYNC110 - a thread counts them
                await trio.sleep(0.01)
        monkeypatch.setattr("netra_trio.telemetry.watchdog.INTERVAL", 0.0)
        await trio.sleep(0.05)
        sleep_in_the_loop()
        await wait_for(logs, 2)
    assert [line["repeated"] for line in logs] == [0, 2]


async def test_a_busy_loop_that_answers_is_not_reported(logs: Logs) -> None:
    with watchdog():
        finished = time.monotonic() + 4 * BLOCKED
        while time.monotonic() < finished:
            time.sleep(BLOCKED / 20)  # noqa: ASYNC251 - this is what is tested
            await trio.lowlevel.checkpoint()
    assert logs == []


def test_the_end_of_the_loop_ends_the_thread(logs: Logs) -> None:
    async def main() -> LoopWatchdog:
        return watchdog().__enter__()

    watching = trio.run(main)
    time.sleep(0.1)
    watching.__exit__(None, None, None)
    assert logs == []
