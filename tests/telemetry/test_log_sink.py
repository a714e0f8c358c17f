"""Facts as lines of the log: what is shown, and how a flood of refusals is told in bounds."""

from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs

from netra_trio.protocol.codes import ErrorCode
from netra_trio.telemetry.events import OpeningRefused, RunStarted, SessionEnded, UpgradeStarted
from netra_trio.telemetry.log_sink import CAUSES, FIRST, INTERVAL, LogSink
from netra_trio.telemetry.loop_lag import PERIOD, watch_loop

Logs = list[MutableMapping[str, Any]]


@pytest.fixture
def logs() -> Iterator[Logs]:
    with capture_logs() as captured:
        yield captured


def refused(
    peer: str = "10.0.0.1", path: str = "/ws", code: ErrorCode = ErrorCode.INVALID_TOKEN
) -> OpeningRefused:
    return OpeningRefused(path, 401, code, "no", None, peer, upgrade=True)


def test_a_fact_is_a_line(logs: Logs) -> None:
    LogSink().note(SessionEnded("sess_1", "alice", "window_passed", seconds=2.5, was_lost=True))
    assert logs == [
        {
            "event": "session_ended",
            "log_level": "info",
            "session_id": "sess_1",
            "user_id": "alice",
            "reason": "window_passed",
            "seconds": 2.5,
        }
    ]


def test_what_is_for_other_sinks_is_left_to_them(logs: Logs) -> None:
    LogSink().note(UpgradeStarted({}))
    LogSink().note(RunStarted("run_1", "demo", 0.25, "sess_1"))
    assert [line["event"] for line in logs] == ["run_started"]
    assert "session_id" not in logs[0]


async def test_one_refusal_is_told_at_once_and_once(logs: Logs, autojump_clock: object) -> None:
    log_sink = LogSink()
    log_sink.note(refused())
    await trio.sleep(2 * INTERVAL)
    log_sink.sum_up(trio.current_time())
    log_sink.sum_up(trio.current_time() + INTERVAL)
    assert [line["repeated"] for line in logs] == [0]


async def test_a_flood_is_a_line_in_each_interval(logs: Logs, autojump_clock: object) -> None:
    log_sink = LogSink()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch_loop, lambda _: None, log_sink.sum_up)
        for number in range(2500):  # 25 s
            log_sink.note(refused(path=f"/ws?{number}"))
            await trio.sleep(0.01)
        await trio.sleep(2 * INTERVAL)
        nursery.cancel_scope.cancel()
    assert [line["repeated"] for line in logs[:FIRST]] == [0] * FIRST
    assert len(logs) == FIRST + 3
    assert sum(1 + line["repeated"] for line in logs) == 2500
    assert {line["log_level"] for line in logs} == {"warning"}


@pytest.mark.parametrize(("count", "lines"), [(FIRST, FIRST), (FIRST + 1, FIRST)])
async def test_the_first_ones_are_told_one_by_one(logs: Logs, count: int, lines: int) -> None:
    log_sink = LogSink()
    for _ in range(count):
        log_sink.note(refused())
    assert len(logs) == lines


async def test_causes_are_told_apart(logs: Logs) -> None:
    log_sink = LogSink()
    for _ in range(FIRST):
        log_sink.note(refused())
    for other in (refused(), refused("10.0.0.2"), refused(code=ErrorCode.SERVER_FULL)):
        log_sink.note(other)
    assert [line["peer"] for line in logs[FIRST:]] == ["10.0.0.2", "10.0.0.1"]


async def test_so_many_causes_and_no_more(logs: Logs, autojump_clock: object) -> None:
    log_sink = LogSink()
    for number in range(CAUSES):
        log_sink.note(refused(f"peer {number}"))
    assert len(logs) == CAUSES
    for number in range(CAUSES, 2 * CAUSES):
        log_sink.note(refused(f"peer {number}"))
    assert len(logs) == CAUSES + FIRST  # beyond the bound those of one code are one cause
    await trio.sleep(INTERVAL)
    log_sink.sum_up(trio.current_time())
    assert [line["repeated"] for line in logs[CAUSES + FIRST :]] == [CAUSES - FIRST - 1]
    await trio.sleep(INTERVAL)
    log_sink.sum_up(trio.current_time())
    assert len(logs) == CAUSES + FIRST + 1
    log_sink.note(refused("peer 0"))
    assert logs[-1]["repeated"] == 0  # nothing is remembered of causes that stopped


async def test_the_lag_of_the_loop_is_measured(autojump_clock: trio.testing.MockClock) -> None:
    lags: list[float] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch_loop, lags.append, lambda _: None)
        await trio.sleep(0.1)
        autojump_clock.autojump_threshold = float("inf")
        autojump_clock.jump(PERIOD + 0.4)  # as after something that did not let others run
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert lags == [pytest.approx(0.5)]
