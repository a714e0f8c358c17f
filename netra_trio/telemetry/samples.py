"""Samples of the metrics of one process: one every ten seconds, for an hour, for the live page.

    samples = Samples(metrics, read_levels, wall_clock=time.time)
    nursery.start_soon(samples.run)
    samples.current()      # over the last 10 to 20 seconds

A sample has the differences of counters over its time, so it needs no look at earlier ones. An hour
takes about 200 KiB.
"""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import orjson
import trio
from attrs import frozen

from netra_trio.protocol.admin import SAMPLE_SECONDS, SAMPLES, Sample
from netra_trio.telemetry.metrics import Histogram, Key, Metrics, summed
from netra_trio.telemetry.snapshot import PROCESS, value_of

DISCOVERY = "/ws/config"  # the endpoint whose latency is that of service discovery
_MEMORY = "process_resident_memory_bytes"


@frozen
class Levels:
    """Current quantities of a node, which take no loop over all sessions."""

    connections: int
    users: int
    attached: int
    detached: int
    running: int
    queued: int


@frozen
class _Reading:
    """The counters at one moment; the histograms are copies.

    Attributes:
        at: On Trio's clock.
    """

    at: float
    received: int
    sent: int
    errors: dict[Key, int]
    rate_events: dict[Key, int]
    processing: Histogram
    first_delta: Histogram
    openings: int
    opened: int
    reconnections: int
    away: Histogram
    duration: Histogram
    recovered: int
    unrecovered: int
    discovery: Histogram
    loop_lag: Histogram

    @classmethod
    def take(cls, metrics: Metrics) -> "_Reading":
        opened = sum(metrics.opened.values())
        recoveries = metrics.recoveries.items()
        return cls(
            at=trio.current_time(),
            received=sum(metrics.received.values()),
            sent=metrics.events_sent + sum(metrics.control_sent.values()),
            errors=dict(metrics.errors),
            rate_events=dict(metrics.rate_events),
            processing=summed(metrics.processing.values()),
            first_delta=summed([metrics.first_delta]),
            openings=sum(metrics.openings.values()),
            opened=metrics.openings["opened"],
            reconnections=opened - metrics.opened["new"],
            away=summed([metrics.away]),
            duration=summed([metrics.duration]),
            recovered=sum(count for key, count in recoveries if key[1] == "recovered"),
            unrecovered=sum(count for key, count in recoveries if key[1] == "failed"),
            discovery=summed([metrics.requests.get(DISCOVERY, Histogram(()))]),
            loop_lag=summed([metrics.loop_lag]),
        )


class Samples:
    """The samples of the last hour.

    Args:
        metrics: The metrics.
        read_levels: Returns the current quantities.
        wall_clock: Returns Unix seconds.
    """

    def __init__(
        self,
        metrics: Metrics,
        read_levels: Callable[[], Levels],
        *,
        wall_clock: Callable[[], float],
    ) -> None:
        self._metrics = metrics
        self._read_levels = read_levels
        self._wall_clock = wall_clock
        self._encoded: deque[bytes] = deque(maxlen=SAMPLES)  # as JSON: a fifth of the memory
        first = _Reading.take(metrics)
        self._readings = deque([first, first], maxlen=2)
        self._lag = first.loop_lag

    async def run(self) -> None:
        """Take samples until cancelled."""
        while True:
            await trio.sleep(SAMPLE_SECONDS)
            self._take()

    def _take(self) -> None:
        reading = _Reading.take(self._metrics)
        self._encoded.append(orjson.dumps(self._between(self._readings[-1], reading)))
        self._readings.append(reading)

    def newest_lag(self) -> float:
        """Return the mean delay of the event loop since the last call, in seconds."""
        lag = summed([self._metrics.loop_lag])
        before, self._lag = self._lag, lag
        return _mean(before, lag) or 0.0

    def current(self) -> Sample:
        """Return a sample from the end of the last but one, if there is one, up to now."""
        return self._between(self._readings[0], _Reading.take(self._metrics))

    @property
    def newest(self) -> bytes | None:
        """The newest finished sample as JSON; None before the first one."""
        return self._encoded[-1] if self._encoded else None

    @property
    def all(self) -> list[bytes]:
        """All finished samples as JSON, oldest first."""
        return list(self._encoded)

    def _between(self, before: _Reading, after: _Reading) -> Sample:
        levels = self._read_levels()
        seconds = max(after.at - before.at, 0.001)
        processing = _difference(before.processing, after.processing)
        first_delta = _difference(before.first_delta, after.first_delta)
        opened = after.opened - before.opened
        return {
            "at": self._wall_clock(),
            "connections": levels.connections,
            "users": levels.users,
            "attached": levels.attached,
            "detached": levels.detached,
            "running": levels.running,
            "queued": levels.queued,
            "received": round((after.received - before.received) / seconds, 3),
            "sent": round((after.sent - before.sent) / seconds, 3),
            "errors": _changed(before.errors, after.errors),
            "rate_limited": _changed(before.rate_events, after.rate_events),
            "processing_p50": processing.quantile(0.5),
            "processing_p95": processing.quantile(0.95),
            "processing_p99": processing.quantile(0.99),
            "first_delta_p50": first_delta.quantile(0.5),
            "first_delta_p95": first_delta.quantile(0.95),
            "opened": opened,
            "refused": after.openings - before.openings - opened,
            "reconnections": after.reconnections - before.reconnections,
            "reconnection_mean": _mean(before.away, after.away),
            "connection_seconds_mean": _mean(before.duration, after.duration),
            "recovered": after.recovered - before.recovered,
            "unrecovered": after.unrecovered - before.unrecovered,
            "discovery_p95": _difference(before.discovery, after.discovery).quantile(0.95),
            "loop_lag": _mean(before.loop_lag, after.loop_lag) or 0.0,
            "memory": _resident_memory(),
        }


def _resident_memory() -> int:
    """Return the bytes of resident memory of this process; 0 where the system does not say."""
    return next((int(value_of(each)) for each in PROCESS.collect() if each.name == _MEMORY), 0)


def _changed(before: Mapping[Key, int], after: Mapping[Key, int]) -> dict[str, int]:
    """Return the increases of counters, without those that did not change."""
    increases = {_name(key): count - before.get(key, 0) for key, count in after.items()}
    return {name: increase for name, increase in increases.items() if increase}


def _name(key: Any) -> str:
    return str(key) if isinstance(key, str) else "/".join(map(str, key))


def _difference(before: Histogram, after: Histogram) -> Histogram:
    """Return the observations between two copies of one histogram."""
    difference = Histogram(after.bounds)
    pairs = zip(before.counts, after.counts, strict=True)
    difference.counts = [later - earlier for earlier, later in pairs]
    difference.total = after.total - before.total
    return difference


def _mean(before: Histogram, after: Histogram) -> float | None:
    """Return the mean of the observations between two copies; None if there was none."""
    difference = _difference(before, after)
    return round(difference.total / difference.count, 6) if difference.count else None
