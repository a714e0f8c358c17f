"""The metrics as JSON for an administrator, in groups, with a list of users.

>>> sorted(document(Metrics(), users=[]))
['connections', 'delivery', 'health', 'messages', 'runs', 'server']
"""

from collections.abc import Mapping, Sequence
from typing import Any

from netra_trio.telemetry.metric_table import METRICS, Values
from netra_trio.telemetry.metrics import Histogram, Key, Metrics

PREFIX = "netra_"
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


def document(metrics: Metrics, users: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return all metrics by group and by name without the Prometheus prefix, and the users.

    The quantiles of a histogram are bounds of its buckets: that share of the values is at or below
    them. They are None without any values, and if the quantile is above the last bound.
    """
    gauges = metrics.read_gauges()
    groups: dict[str, Any] = {}
    for metric in METRICS:
        group = groups.setdefault(metric.group, {})
        group[metric.name.removeprefix(PREFIX)] = _shown(metric.read(metrics, gauges))
    groups["connections"]["per_user"] = list(users)
    return groups


def _shown(values: Values) -> Any:
    shown = {_name(key): _value(value) for key, value in values.items()}
    return shown.get("", shown)


def _name(key: Key) -> str:
    return str(key) if isinstance(key, str) else "/".join(key)


def _value(value: float | Histogram) -> Any:
    if not isinstance(value, Histogram):
        return value
    count = value.count
    mean = value.total / count if count else None
    quantiles = {name: value.quantile(share) for name, share in QUANTILES.items()}
    return {"count": count, "sum": value.total, "mean": mean, **quantiles}
