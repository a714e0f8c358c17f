"""Telemetry events in the log: their fields and levels, and the summaries of refusals."""

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


def test_an_event_is_logged(logs: Logs) -> None:
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


def test_events_and_fields_for_other_sinks_are_not_logged(logs: Logs) -> None:
    LogSink().note(UpgradeStarted({}))
    LogSink().note(RunStarted("run_1", "demo", 0.25, "sess_1"))
    assert [(line["event"], line["log_level"]) for line in logs] == [("run_started", "debug")]
    assert "session_id" not in logs[0]


async def test_a_single_refusal_is_logged_at_once_and_once(
    logs: Logs, autojump_clock: object
) -> None:
    log_sink = LogSink()
    log_sink.note(refused())
    await trio.sleep(2 * INTERVAL)
    log_sink.write_summaries(trio.current_time())
    log_sink.write_summaries(trio.current_time() + INTERVAL)
    assert [line["repeated"] for line in logs] == [0]


async def test_a_flood_has_one_line_in_each_interval(logs: Logs, autojump_clock: object) -> None:
    log_sink = LogSink()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch_loop, lambda _: None, log_sink.write_summaries)
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
async def test_the_first_refusals_have_a_line_each(logs: Logs, count: int, lines: int) -> None:
    log_sink = LogSink()
    for _ in range(count):
        log_sink.note(refused())
    assert len(logs) == lines


async def test_causes_are_tracked_separately(logs: Logs) -> None:
    log_sink = LogSink()
    for _ in range(FIRST):
        log_sink.note(refused())
    for other in (refused(), refused("10.0.0.2"), refused(code=ErrorCode.SERVER_FULL)):
        log_sink.note(other)
    assert [line["peer"] for line in logs[FIRST:]] == ["10.0.0.2", "10.0.0.1"]


async def test_the_number_of_causes_is_bounded(logs: Logs, autojump_clock: object) -> None:
    log_sink = LogSink()
    for number in range(CAUSES):
        log_sink.note(refused(f"peer {number}"))
    assert len(logs) == CAUSES
    for number in range(CAUSES, 2 * CAUSES):
        log_sink.note(refused(f"peer {number}"))
    assert len(logs) == CAUSES + FIRST  # above the bound, refusals with one code are one cause
    await trio.sleep(INTERVAL)
    log_sink.write_summaries(trio.current_time())
    assert [line["repeated"] for line in logs[CAUSES + FIRST :]] == [CAUSES - FIRST - 1]
    await trio.sleep(INTERVAL)
    log_sink.write_summaries(trio.current_time())
    assert len(logs) == CAUSES + FIRST + 1
    log_sink.note(refused("peer 0"))
    assert logs[-1]["repeated"] == 0  # causes without further refusals are forgotten


async def test_the_lag_of_the_loop_is_measured(autojump_clock: trio.testing.MockClock) -> None:
    lags: list[float] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch_loop, lags.append, lambda _: None)
        await trio.sleep(0.1)
        autojump_clock.autojump_threshold = float("inf")
        autojump_clock.jump(PERIOD + 0.4)  # as if another task had blocked the loop
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert lags == [pytest.approx(0.5)]
