"""The metrics of one process at one moment, and of several workers together.

snapshot = Snapshot.take(metrics, users)
merged = merge([snapshot, Snapshot.of_json(received)], [])
merged.value("netra_connections")
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self, TypeAlias, cast

from attrs import frozen
from prometheus_client import ProcessCollector
from prometheus_client.metrics_core import Metric as Family

from netra_trio.telemetry.metric_table import METRICS
from netra_trio.telemetry.metrics import Histogram, Key, Metrics, summed

Labels: TypeAlias = tuple[str, ...]
Number: TypeAlias = float | Histogram
Values: TypeAlias = dict[Labels, Number]

USERS_LISTED = 100  # with the most connections

PROCESS = ProcessCollector(registry=None)
"""Reads the metrics of this process itself: memory, CPU time, open files."""

_CPU_TIME, _START_TIME = "process_cpu_seconds", "process_start_time_seconds"
_COUNTED = {metric.name for metric in METRICS if metric.kind != "gauge"} | {_CPU_TIME}
_MERGES = {metric.name: metric.merge for metric in METRICS}


@frozen
class Snapshot:
    """Values of metrics, by name and by the values of their labels.

    Attributes:
        values: Those of the table of metrics and of `PROCESS`.
        users: The users with the most connections, each with its numbers.
    """

    values: Mapping[str, Values]
    users: Sequence[Mapping[str, Any]] = ()

    @classmethod
    def take(cls, metrics: Metrics, users: Sequence[Mapping[str, Any]]) -> Self:
        """Read the metrics of this process; the histograms are those that go on counting."""
        gauges = metrics.read_gauges()
        values: dict[str, Values] = {
            metric.name: {_labels(key): each for key, each in metric.read(metrics, gauges).items()}
            for metric in METRICS
        }
        for family in PROCESS.collect():
            values[family.name] = {(): value_of(family)}
        return cls(values, users)

    @classmethod
    def of_json(cls, shown: Mapping[str, Any]) -> Self:
        """Return a snapshot from what `to_json` has returned."""
        values = {
            name: {tuple(labels): _number_of_json(number) for labels, number in pairs}
            for name, pairs in shown["values"].items()
        }
        return cls(values, shown["users"])

    def to_json(self) -> dict[str, Any]:
        """Return it as objects, lists and numbers."""
        values = {
            name: [[labels, _number_to_json(number)] for labels, number in values.items()]
            for name, values in self.values.items()
        }
        return {"values": values, "users": list(self.users)}

    def counted(self) -> Self:
        """Return only what never decreases: the counters and the histograms."""
        return type(self)({name: self.values[name] for name in self.values if name in _COUNTED})


def merge(live: Iterable[Snapshot], ended: Iterable[Snapshot]) -> Snapshot:
    """Merge the metrics of several processes.

    A counter that decreased would look as if it had started from zero, so the counters of
    processes that have ended, or that do not answer now, stay in the sums.

    Args:
        live: The snapshots of the processes at work.
        ended: The last snapshots of the others.
    """
    values: dict[str, Values] = {}
    users: dict[str, dict[str, Any]] = {}
    for snapshot in (*live, *(each.counted() for each in ended)):
        for name, added in snapshot.values.items():
            merged = values.setdefault(name, {})
            for labels, number in added.items():
                known = merged.get(labels)
                merged[labels] = number if known is None else _merged(name, known, number)
        for user in snapshot.users:
            _add_user(users.setdefault(user["user_id"], {"user_id": user["user_id"]}), user)
    most = sorted(users.values(), key=lambda user: -int(user["connections"]))
    return Snapshot(values, most[:USERS_LISTED])


def value_of(family: Family) -> float:
    """Return the value of a metric without labels."""
    return float(family.samples[0].value)


def _merged(name: str, one: Number, other: Number) -> Number:
    if isinstance(one, Histogram) and isinstance(other, Histogram):
        return summed((one, other))
    first, second = cast("float", one), cast("float", other)
    if name == _START_TIME:
        return min(first, second)
    return max(first, second) if _MERGES.get(name) == "max" else first + second


def _add_user(merged: dict[str, Any], user: Mapping[str, Any]) -> None:
    for name, number in user.items():
        if name != "user_id":
            merged[name] = merged.get(name, 0) + number


def _labels(key: Key) -> Labels:
    return (str(key),) if isinstance(key, str) else tuple(map(str, key))


def _number_to_json(number: Number) -> Any:
    if isinstance(number, Histogram):
        return [number.bounds, number.counts, number.total]
    return number


def _number_of_json(shown: Any) -> Number:
    if not isinstance(shown, list):
        return float(shown) if isinstance(shown, float) else int(shown)
    bounds, counts, total = shown
    histogram = Histogram(tuple(bounds))
    histogram.counts, histogram.total = counts, total
    return histogram
