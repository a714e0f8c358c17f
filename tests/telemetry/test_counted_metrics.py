"""The metrics: what each event adds, and how they are shown to Prometheus and as JSON."""

from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from netra_trio.protocol.codes import EndReason, ErrorCode
from netra_trio.protocol.messages import ResetReason, RunStatus, Verdict
from netra_trio.telemetry.events import (
    ConnectionEnded,
    ConnectionOpened,
    ConnectionResumed,
    DoorAnswered,
    DoorOutcome,
    OpeningRefused,
    RequestAnswered,
    RunEnded,
    SessionEnded,
    ToolEnded,
    UpgradeFailed,
    UpgradeStarted,
)
from netra_trio.telemetry.metric_table import METRICS
from netra_trio.telemetry.metrics import FAST, Gauges, Histogram, Metrics
from netra_trio.telemetry.prometheus import Exposition, families
from netra_trio.telemetry.snapshot import Snapshot
from netra_trio.telemetry.stats import document


def samples(metrics: Metrics) -> dict[tuple[str, tuple[str, ...]], float]:
    """Return each sample by its name and the values of its labels."""
    text = Exposition().text(Snapshot.take(metrics, ())).decode()
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.mark.parametrize(
    ("value", "bound"), [(0.0, "0.001"), (0.001, "0.001"), (0.0011, "0.0025"), (10.1, "+Inf")]
)
def test_the_bound_of_a_bucket_is_inclusive(value: float, bound: str) -> None:
    histogram = Histogram(FAST)
    histogram.observe(value)
    assert next(name for name, count in histogram.cumulative() if count) == bound
    assert (histogram.count, histogram.total) == (1, value)


def test_a_quantile_is_the_upper_bound_of_its_bucket() -> None:
    histogram = Histogram((1.0, 2.0, 3.0))
    assert histogram.quantile(0.5) is None
    for value in (0.5, 1.5, 1.5, 9.0):
        histogram.observe(value)
    assert [histogram.quantile(share) for share in (0.25, 0.5, 0.75, 0.99)] == [1.0, 2.0, 2.0, None]


NOTED: list[tuple[Any, list[tuple[str, tuple[str, ...]]]]] = [
    (
        OpeningRefused("/ws", 403, ErrorCode.ORIGIN_NOT_ALLOWED, "no", None, "", upgrade=True),
        [
            ("netra_openings_total", ("ORIGIN_NOT_ALLOWED",)),
            ("netra_errors_total", ("ORIGIN_NOT_ALLOWED",)),
        ],
    ),
    (
        OpeningRefused("/ws/ticket", 401, ErrorCode.AUTH_REQUIRED, "no", None, "", upgrade=False),
        [("netra_errors_total", ("AUTH_REQUIRED",))],
    ),
    (UpgradeFailed(), [("netra_openings_total", ("failed",))]),
    (
        ConnectionOpened(Verdict.RESET, ResetReason.AHEAD, opening_seconds=0.0),
        [
            ("netra_openings_total", ("opened",)),
            ("netra_connections_opened_total", ("reset_ahead",)),
            ("netra_opening_duration_seconds_count", ()),
        ],
    ),
    (
        ConnectionResumed(Verdict.GAP, away=2.0, replayed=3, was_lost=True),
        [
            ("netra_openings_total", ("opened",)),
            ("netra_connections_opened_total", ("gap",)),
            ("netra_reconnection_seconds_count", ()),
            ("netra_recoveries_total", ("connection", "recovered")),
        ],
    ),
    (
        ConnectionResumed(Verdict.EXACT, away=None, replayed=0, was_lost=False),
        [
            ("netra_openings_total", ("opened",)),
            ("netra_connections_opened_total", ("exact",)),
        ],
    ),
    (
        ConnectionEnded(EndReason.SEND_TIMEOUT.label, None, 5.0, 1, 2),
        [
            ("netra_connections_ended_total", ("send_timeout",)),
            ("netra_connection_duration_seconds_count", ()),
        ],
    ),
    (
        SessionEnded("s", "alice", "window_passed", 120.0, was_lost=True),
        [
            ("netra_sessions_ended_total", ("window_passed",)),
            ("netra_recoveries_total", ("connection", "failed")),
        ],
    ),
    (
        RunEnded("r", "demo", RunStatus.FAILED, 1.0, attempts=3, code="AGENT_ERROR"),
        [
            ("netra_runs_ended_total", ("demo", "failed")),
            ("netra_run_duration_seconds_count", ("failed",)),
            ("netra_errors_total", ("AGENT_ERROR",)),
            ("netra_run_retries_total", ()),
            ("netra_recoveries_total", ("run", "failed")),
        ],
    ),
    (ToolEnded("t", "cut_off", 1.0), [("netra_tool_duration_seconds_count", ("cut_off",))]),
    (
        RequestAnswered("other", 0.01),
        [("netra_http_request_duration_seconds_count", ("other",))],
    ),
    (
        DoorAnswered("openai", DoorOutcome.LEFT),
        [("netra_door_requests_total", ("openai", "left"))],
    ),
    (UpgradeStarted({}), []),
]


@pytest.mark.parametrize(("event", "counted"), NOTED, ids=lambda value: type(value).__name__)
def test_an_event_is_counted(event: Any, counted: list[tuple[str, tuple[str, ...]]]) -> None:
    metrics = Metrics(agents=("demo",), endpoints=("/ws/config",))
    before = samples(metrics)
    metrics.note(event)
    after = samples(metrics)
    assert set(before) == set(after)  # each series exists from the start
    changed = {
        key
        for key, value in after.items()
        if value != before[key]
        and key[0].startswith("netra_")
        and not key[0].endswith(("_sum", "_bucket"))
    }
    assert changed == set(counted)


def test_every_metric_is_in_prometheus_and_in_json() -> None:
    metrics = Metrics(agents=("demo",), endpoints=("/ws/config",))
    shown = {name for name, _ in samples(metrics)}
    shown_as_json = document(Snapshot.take(metrics, ()))
    for metric in METRICS:
        names = {metric.name} if metric.kind != "histogram" else {f"{metric.name}_count"}
        assert names <= shown
        assert metric.name.removeprefix("netra_") in shown_as_json[metric.group]


def test_the_text_equals_that_of_the_library() -> None:
    metrics = Metrics(
        agents=("demo", 'a "quoted" \\ name\nin two lines'), endpoints=("/ws/config",)
    )
    metrics.note(ConnectionEnded(EndReason.SEND_TIMEOUT.label, None, 1234567.25, 1, 2))
    metrics.merged = 12_345_678
    exposition, registry = Exposition(), CollectorRegistry()

    class Reader(Collector):
        def collect(self) -> Iterator[Metric]:
            return families(Snapshot.take(metrics, ()))

    registry.register(Reader())
    for _ in range(2):
        ours, theirs = exposition.text(Snapshot.take(metrics, ())), generate_latest(registry)
        assert without_process(ours) == without_process(theirs)
    assert b"process_open_fds" in ours


def without_process(text: bytes) -> list[bytes]:
    """Return the lines of a text, without those of the process, which change all the time."""
    return [line for line in text.splitlines() if not line.startswith(b"process_")]


def test_the_json_has_numbers() -> None:
    metrics = Metrics(read_gauges=lambda: Gauges(connections=2))
    metrics.stop.observe(0.02)
    shown = document(Snapshot.take(metrics, [{"user_id": "alice"}]))
    assert shown["connections"]["connections"] == 2
    assert shown["connections"]["per_user"] == [{"user_id": "alice"}]
    expected = {"count": 1, "sum": 0.02, "mean": 0.02, "p50": 0.025, "p95": 0.025, "p99": 0.025}
    assert shown["delivery"]["stop_seconds"] == expected
    assert shown["delivery"]["first_delta_seconds"]["mean"] is None
