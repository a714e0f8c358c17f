"""The metrics as JSON for an administrator, in groups, with a list of users.

>>> from netra_trio.telemetry.metrics import Metrics
>>> sorted(document(Snapshot.take(Metrics(), users=[])))
['connections', 'delivery', 'files', 'health', 'messages', 'runs', 'server']
"""

from typing import Any

from netra_trio.telemetry.metric_table import METRICS
from netra_trio.telemetry.metrics import Histogram
from netra_trio.telemetry.snapshot import Number, Snapshot, Values

PREFIX = "netra_"
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


def document(snapshot: Snapshot) -> dict[str, Any]:
    """Return all metrics by group and by name without the Prometheus prefix, and the users.

    The quantiles of a histogram are bounds of its buckets: that share of the values is at or below
    them. They are None without any values, and if the quantile is above the last bound.
    """
    groups: dict[str, Any] = {}
    for metric in METRICS:
        group = groups.setdefault(metric.group, {})
        group[metric.name.removeprefix(PREFIX)] = _shown(snapshot.values[metric.name])
    groups["connections"]["per_user"] = list(snapshot.users)
    return groups


def _shown(values: Values) -> Any:
    shown = {"/".join(labels): _value(value) for labels, value in values.items()}
    return shown.get("", shown)


def _value(value: Number) -> Any:
    if not isinstance(value, Histogram):
        return value
    count = value.count
    mean = value.total / count if count else None
    quantiles = {name: value.quantile(share) for name, share in QUANTILES.items()}
    return {"count": count, "sum": value.total, "mean": mean, **quantiles}
