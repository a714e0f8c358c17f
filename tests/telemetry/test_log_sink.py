"""Telemetry events in the log: their fields and levels, and the summaries of refusals."""

import io
import json
from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs

from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.messages import Verdict
from netra_trio.telemetry.events import (
    ConnectionEnded,
    ConnectionOpened,
    ListenerCrowded,
    OpeningRefused,
    RunStarted,
    SessionEnded,
    UpgradeStarted,
)
from netra_trio.telemetry.log_context import set_log_context
from netra_trio.telemetry.log_sink import REFUSAL_CAUSES, USERS, LogSink
from netra_trio.telemetry.logs import configure
from netra_trio.telemetry.loop_lag import PERIOD, watch_loop
from netra_trio.telemetry.sampling import FIRST, INTERVAL

Logs = list[MutableMapping[str, Any]]


@pytest.fixture
def logs() -> Iterator[Logs]:
    with capture_logs() as captured:
        yield captured


def refused(
    peer: str = "10.0.0.1", path: str = "/ws", code: ErrorCode = ErrorCode.INVALID_TOKEN
) -> OpeningRefused:
    return OpeningRefused(path, 401, code, "no", None, peer, upgrade=True)


async def test_an_event_is_logged(logs: Logs) -> None:
    LogSink().note(SessionEnded("sess_1", "alice", "window_passed", seconds=2.5, was_lost=True))
    assert logs == [
        {
            "event": "session_ended",
            "log_level": "info",
            "session_id": "sess_1",
            "user_id": "alice",
            "reason": "window_passed",
            "seconds": 2.5,
            "unattended": 0,
            "repeated": 0,
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
    for number in range(REFUSAL_CAUSES):
        log_sink.note(refused(f"peer {number}"))
    assert len(logs) == REFUSAL_CAUSES
    for number in range(REFUSAL_CAUSES, 2 * REFUSAL_CAUSES):
        log_sink.note(refused(f"peer {number}"))
    assert (
        len(logs) == REFUSAL_CAUSES + FIRST
    )  # above the bound, refusals with one code are one cause
    await trio.sleep(INTERVAL)
    log_sink.write_summaries(trio.current_time())
    assert [line["repeated"] for line in logs[REFUSAL_CAUSES + FIRST :]] == [
        REFUSAL_CAUSES - FIRST - 1
    ]
    await trio.sleep(INTERVAL)
    log_sink.write_summaries(trio.current_time())
    assert len(logs) == REFUSAL_CAUSES + FIRST + 1
    log_sink.note(refused("peer 0"))
    assert logs[-1]["repeated"] == 0  # causes without further refusals are forgotten


ENDED = ConnectionEnded("peer_closed", 1000, 0.01, 0, 1)


async def test_one_user_who_opens_and_aborts_is_sampled(
    out: io.StringIO, autojump_clock: object
) -> None:
    configure(stream=out)
    log_sink = LogSink()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch_loop, lambda _: None, log_sink.write_summaries)
        for number in range(6000):  # 600 a second
            for user in ("mallory", *(["alice"] if number % 2000 == 0 else [])):
                set_log_context(connection_id=f"conn_{number}", user_id=user)
                log_sink.note(ConnectionOpened(Verdict.NEW))
                log_sink.note(ENDED)
                log_sink.note(SessionEnded(f"sess_{number}", user, "closed", 0.01))
            await trio.sleep(1 / 600)
        await trio.sleep(2 * INTERVAL)
        nursery.cancel_scope.cancel()
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    for event in ("connection_opened", "connection_ended", "session_ended"):
        for user, count, at_most in (("mallory", 6000, FIRST + 2), ("alice", 3, 3)):
            found = [line for line in lines if (line["event"], line["user_id"]) == (event, user)]
            assert sum(1 + line["repeated"] for line in found) == count
            assert len(found) <= at_most
            assert all(line["repeated"] == 0 for line in found[:FIRST])
    last = [line for line in lines if line["event"] == "connection_ended"][-1]
    assert (last["connection_id"], last["user_id"]) == ("conn_5999", "mallory")


async def test_a_steady_user_has_every_line(logs: Logs, autojump_clock: object) -> None:
    log_sink = LogSink()
    set_log_context(user_id="alice")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch_loop, lambda _: None, log_sink.write_summaries)
        for _ in range(100):
            log_sink.note(ConnectionOpened(Verdict.NEW))
            await trio.sleep(INTERVAL + 1)
        nursery.cancel_scope.cancel()
    assert [line["repeated"] for line in logs] == [0] * 100


@pytest.mark.parametrize(("users", "lines"), [(USERS, USERS), (USERS + FIRST + 1, USERS + FIRST)])
async def test_the_number_of_users_is_bounded(logs: Logs, users: int, lines: int) -> None:
    log_sink = LogSink()
    for number in range(users):
        set_log_context(user_id=f"user-{number}")
        log_sink.note(ENDED)
    assert len(logs) == lines


async def test_a_crowded_listener_is_sampled(logs: Logs, autojump_clock: object) -> None:
    log_sink = LogSink()
    for _ in range(1000):
        log_sink.note(ListenerCrowded("Too many open files"))
    log_sink.note(ListenerCrowded("Too many open files in system"))
    assert len(logs) == FIRST + 1
    await trio.sleep(INTERVAL)
    log_sink.write_summaries(trio.current_time())
    assert {line["log_level"] for line in logs} == {"error"}
    assert [(line["event"], line["repeated"]) for line in logs[FIRST + 1 :]] == [("crowded", 994)]


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
