"""The samples of the live page: rates, increases and percentiles of one interval alone."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
import trio
from trio.testing import MockClock

from netra_trio.protocol.admin import SAMPLE_SECONDS
from netra_trio.protocol.codes import EndReason, ErrorCode
from netra_trio.protocol.messages import ResetReason, Verdict
from netra_trio.telemetry.events import (
    ConnectionEnded,
    ConnectionOpened,
    ConnectionResumed,
    RequestAnswered,
    UpgradeFailed,
)
from netra_trio.telemetry.metrics import QUICK, Metrics
from netra_trio.telemetry.samples import DISCOVERY, Levels, Samples

LEVELS = Levels(connections=5, users=4, attached=3, detached=2, running=1, queued=6)
EPOCH = 1_800_000_000.0


@asynccontextmanager
async def sampling(metrics: Metrics) -> AsyncIterator[Samples]:
    samples = Samples(metrics, lambda: LEVELS, wall_clock=lambda: EPOCH + trio.current_time())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(samples.run)
        yield samples
        nursery.cancel_scope.cancel()


async def next_sample(samples: Samples) -> dict[str, Any]:
    """Wait until the present interval has ended; return its sample."""
    before = samples.newest
    with trio.fail_after(SAMPLE_SECONDS + 1):
        while samples.newest is before:  # noqa: ASYNC110 - in virtual time
            await trio.sleep(0.5)
    sample: dict[str, Any] = orjson.loads(samples.newest or b"")
    return sample


def work(metrics: Metrics) -> None:
    """Count something of each kind."""
    metrics.received["user_message"] += 20
    metrics.received["ping"] += 5
    metrics.events_sent += 40
    metrics.control_sent["pong"] += 10
    metrics.note_error(ErrorCode.QUEUE_FULL)
    metrics.rate_events["messages", "delayed"] += 2
    for seconds in (0.00004, 0.0001, 0.0001, 0.4):
        metrics.processing["user_message"].observe(seconds)
    metrics.processing["ping"].observe(0.0001)
    metrics.first_delta.observe(0.2)
    metrics.note(ConnectionOpened(Verdict.NEW, None, opening_seconds=0.0))
    metrics.note(ConnectionOpened(Verdict.RESET, ResetReason.UNKNOWN, opening_seconds=0.0))
    for away in (1.0, 2.0):
        metrics.note(ConnectionResumed(Verdict.EXACT, away, 0, was_lost=away > 1))
    metrics.note(UpgradeFailed())
    metrics.note(ConnectionEnded(EndReason.SESSION_ENDED.label, 1000, 30.0, 1, 1))
    metrics.recoveries["run", "failed"] += 3
    metrics.note(RequestAnswered(DISCOVERY, 0.004))
    metrics.loop_lag.observe(0.002)


WORKED = {
    "received": 2.5,
    "sent": 5.1,  # the error is a frame too
    "errors": {"QUEUE_FULL": 1},
    "rate_limited": {"messages/delayed": 2},
    "processing_p50": 0.0001,
    "processing_p95": 0.5,
    "processing_p99": 0.5,
    "first_delta_p50": 0.25,
    "first_delta_p95": 0.25,
    "opened": 4,
    "refused": 1,
    "reconnections": 3,
    "reconnection_mean": 1.5,
    "connection_seconds_mean": 30.0,
    "recovered": 1,
    "unrecovered": 3,
    "discovery_p95": 0.005,
    "loop_lag": 0.002,
}
IDLE: dict[str, Any] = {
    **dict.fromkeys(WORKED, 0),
    **dict.fromkeys((name for name in WORKED if "_p" in name or "mean" in name), None),
    "errors": {},
    "rate_limited": {},
}
OF_LEVELS = {
    "connections": 5,
    "users": 4,
    "attached": 3,
    "detached": 2,
    "running": 1,
    "queued": 6,
}


async def test_a_sample_has_what_happened_in_its_interval_alone(autojump_clock: MockClock) -> None:
    metrics = Metrics(endpoints=(DISCOVERY,))
    work(metrics)  # before the first interval
    async with sampling(metrics) as samples:
        assert samples.newest is None
        for expected in (IDLE, WORKED, IDLE, WORKED):
            if expected is WORKED:
                work(metrics)
            sample = await next_sample(samples)
            assert sample.pop("memory") > 0
            assert sample.pop("at") == pytest.approx(EPOCH + trio.current_time(), abs=0.5)
            assert sample == {**OF_LEVELS, **expected}
        assert len(samples.all) == 4
        assert samples.all[-1] is samples.newest


async def test_the_present_sample_covers_the_last_10_to_20_seconds(
    autojump_clock: MockClock,
) -> None:
    metrics = Metrics(endpoints=(DISCOVERY,))
    async with sampling(metrics) as samples:
        await trio.sleep(5)
        work(metrics)
        assert samples.current()["received"] == 25 / 5  # less, after the start
        await trio.sleep(10)
        assert samples.current()["received"] == pytest.approx(25 / 15, abs=0.001)
        await trio.sleep(4.9)
        assert samples.current()["opened"] == 4
        await trio.sleep(0.2)  # the second interval has ended
        assert samples.current()["opened"] == 0


async def test_a_percentile_above_the_largest_bound_is_none(autojump_clock: MockClock) -> None:
    metrics = Metrics()
    async with sampling(metrics) as samples:
        metrics.processing["user_message"].observe(QUICK[-1] + 0.1)
        sample = await next_sample(samples)
        assert (sample["processing_p50"], sample["discovery_p95"]) == (None, None)


async def test_the_lag_is_that_since_the_last_look(autojump_clock: MockClock) -> None:
    metrics = Metrics()
    async with sampling(metrics) as samples:
        assert samples.newest_lag() == 0.0
        metrics.loop_lag.observe(0.1)
        metrics.loop_lag.observe(0.3)
        assert samples.newest_lag() == pytest.approx(0.2)
        assert samples.newest_lag() == 0.0
        metrics.loop_lag.observe(0.5)
        assert samples.newest_lag() == pytest.approx(0.5)
