"""The figures as JSON for an administrator: the same ones, in groups, with what users there are.

>>> sorted(document(Metrics(), users=[]))
['connections', 'delivery', 'health', 'messages', 'runs', 'server']
"""

from collections.abc import Mapping, Sequence
from typing import Any

from netra_trio.telemetry.metrics import METRICS, Histogram, Key, Metrics, Values

PREFIX = "netra_"
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


def document(metrics: Metrics, users: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return every figure by its group and its name, without the prefix of Prometheus; and users.

    The quantiles of a histogram are bounds: so much is at or below them. They are None where there
    is nothing yet, or where it is beyond the last bound.
    """
    levels = metrics.read_gauges()
    groups: dict[str, Any] = {}
    for metric in METRICS:
        group = groups.setdefault(metric.group, {})
        group[metric.name.removeprefix(PREFIX)] = _shown(metric.read(metrics, levels))
    groups["connections"]["per_user"] = list(users)
    return groups


def _shown(values: Values) -> Any:
    shown = {_name(key): _value(value) for key, value in values.items()}
    return shown.get("", shown)


def _name(key: Key) -> str:
    return str(key) if isinstance(key, str) else "/".join(key)


def _value(value: int | Histogram) -> Any:
    if not isinstance(value, Histogram):
        return value
    count = value.count
    mean = value.total / count if count else None
    quantiles = {name: value.quantile(share) for name, share in QUANTILES.items()}
    return {"count": count, "sum": value.total, "mean": mean, **quantiles}
