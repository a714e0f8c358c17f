"""Snapshots of metrics: over JSON and back, and merged over several processes."""

from typing import Any

import orjson
import pytest
from attrs import evolve

from netra_trio.telemetry.metric_table import METRICS
from netra_trio.telemetry.metrics import Gauges, Metrics
from netra_trio.telemetry.prometheus import Exposition
from netra_trio.telemetry.snapshot import USERS_LISTED, Snapshot, merge
from netra_trio.telemetry.stats import document


def metrics_of(**gauges: Any) -> Metrics:
    read = Gauges(**gauges)
    return Metrics(agents=("demo",), endpoints=("/ws/config",), read_gauges=lambda: read)


def user(name: str, connections: int) -> dict[str, Any]:
    return {"user_id": name, "connections": connections, "sessions": 1, "runs": 0}


def number(snapshot: Snapshot, name: str, *labels: str) -> Any:
    return snapshot.values[name][labels]


def test_json_and_back() -> None:
    metrics = metrics_of(connections=3)
    metrics.retries = 2
    metrics.stop.observe(0.02)
    metrics.usage_cost["demo"] = 0.25
    taken = Snapshot.take(metrics, [user("alice", 1)])
    again = Snapshot.of_json(orjson.loads(orjson.dumps(taken.to_json())))
    exposition = Exposition()
    assert exposition.text(again) == exposition.text(taken)
    assert document(again) == document(taken)


def test_sums_and_maxima() -> None:
    one, other = metrics_of(connections=3, log_events_max=7), metrics_of(log_events_max=5)
    one.retries, other.retries = 2, 5
    one.errors["QUEUE_FULL"] = 4
    for value in (0.002, 0.02, 20.0):
        one.stop.observe(value)
        other.stop.observe(value)
    merged = merge([Snapshot.take(each, ()) for each in (one, other)], ())
    assert number(merged, "netra_connections") == 3
    assert number(merged, "netra_log_events_max") == 7
    assert number(merged, "netra_run_retries_total") == 7
    assert number(merged, "netra_errors_total", "QUEUE_FULL") == 4
    assert number(merged, "netra_workers", "ready") == 2
    stop = number(merged, "netra_stop_seconds")
    assert (stop.count, stop.total) == (6, pytest.approx(40.044))
    assert one.stop.count == 3  # a merge changes no metric that goes on counting
    start = "process_start_time_seconds"
    assert number(merged, start) == number(Snapshot.take(one, ()), start)


def test_only_the_counters_of_ended_processes_stay() -> None:
    ended = metrics_of(connections=3)
    ended.retries = 2
    ended.stop.observe(1.0)
    merged = merge([Snapshot.take(metrics_of(), ())], [Snapshot.take(ended, [user("alice", 3)])])
    assert number(merged, "netra_connections") == 0
    assert number(merged, "netra_workers", "ready") == 1
    assert number(merged, "netra_run_retries_total") == 2
    assert number(merged, "netra_stop_seconds").count == 1
    assert merged.users == []
    gauges = {metric.name for metric in METRICS if metric.kind == "gauge"}
    assert not gauges & set(merge([], [Snapshot.take(ended, ())]).values)


def test_labels_of_one_process_only() -> None:
    one = metrics_of()
    other = evolve(metrics_of(), agents=("demo", "new"))
    merged = merge([Snapshot.take(each, ()) for each in (one, other)], ())
    assert number(merged, "netra_runs_ended_total", "new", "completed") == 0


def test_the_users_of_several_processes() -> None:
    some = [user("alice", 1), *(user(f"user {each}", 1) for each in range(USERS_LISTED))]
    merged = merge([Snapshot(values={}, users=some), Snapshot({}, [user("alice", 2)])], ())
    assert len(merged.users) == USERS_LISTED
    assert merged.users[0] == {"user_id": "alice", "connections": 3, "sessions": 2, "runs": 0}
