"""The figures of a workload, and the statistics over several measurements.

>>> percentile([1.0, 2.0, 3.0, 4.0], 50)
2.5
>>> median_ratio([2.0, 3.0, 8.0], [4.0, 4.0, 4.0])
0.75
"""

from collections.abc import Mapping, Sequence
from math import ceil, floor
from statistics import median

from attrs import frozen


@frozen
class Figure:
    """A number about a server.

    Attributes:
        label: Its name, with its unit.
        digits: Digits after the point in the table.
        more_is_better: Whether a ratio above one is the better one.
        otherwise: The figure that a server without this one has instead, for ratios.
    """

    label: str
    digits: int = 1
    more_is_better: bool = False
    otherwise: str | None = None


FIGURES: Mapping[str, Figure] = {
    "runs": Figure("runs side by side", digits=0, more_is_better=True),
    "cpu_us": Figure("CPU µs per {unit}"),
    "all_cpu_us": Figure("CPU µs per {unit}, with Valkey", otherwise="cpu_us"),
    "wire_bytes": Figure("bytes received per {unit}"),
    "per_second": Figure("{unit}s/s", digits=0, more_is_better=True),
    "p50_ms": Figure("p50 ms", digits=2),
    "p99_ms": Figure("p99 ms", digits=2),
    "confirmed_p50_ms": Figure("confirmed p50 ms", digits=2),
    "confirmed_p99_ms": Figure("confirmed p99 ms", digits=2),
    "pss_kib": Figure("KiB per {unit} (PSS)"),
    "uss_kib": Figure("KiB per {unit} (USS)"),
    "rss_kib": Figure("KiB per {unit} (RSS)"),
    "core_percent": Figure("% of a core", digits=2),
    "few_cpu_us": Figure("CPU µs per {unit}, few"),
    "many_cpu_us": Figure("CPU µs per {unit}, many"),
    "growth": Figure("many / few", digits=2),
    "stream_cpu_us": Figure("CPU µs per {unit}, streamed", digits=2),
    "replay_cpu_us": Figure("CPU µs per {unit}, replayed", digits=2),
    "replay": Figure("replayed / streamed", digits=2),
    "spread": Figure("connections, larger / smaller", digits=2),
    "exact_percent": Figure("% exact", digits=1, more_is_better=True),
    "peak_per_second": Figure("attempts in the busiest second", digits=0),
}
"""Every figure by its name in the JSON, in the order in which it is shown."""


def percentile(values: Sequence[float], percent: float) -> float:
    """Return a percentile, interpolated between the two nearest values.

    Raises:
        ValueError: If there are no values.
    """
    if not values:
        raise ValueError("expected at least one value, got none")
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    below, above = ordered[floor(place)], ordered[ceil(place)]
    return below + (above - below) * (place - floor(place))


def latencies(prefix: str, seconds: Sequence[float]) -> dict[str, float]:
    """Return p50 and p99 in milliseconds; no figures without values."""
    if not seconds:
        return {}
    return {f"{prefix}p{p}_ms": percentile(seconds, p) * 1000 for p in (50, 99)}


def median_ratio(values: Sequence[float], others: Sequence[float]) -> float | None:
    """Return the median of the ratios, repetition by repetition; None if there are none."""
    pairs = zip(values, others, strict=False)
    ratios = [value / other for value, other in pairs if other]
    return median(ratios) if ratios else None
