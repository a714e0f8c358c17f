"""The metrics in the text format of Prometheus.

    exposition = Exposition()
    answer(exposition.text(Snapshot.take(metrics, ())), content_type=CONTENT_TYPE)

Nothing is stored here: a scrape reads the plain numbers that the server counts. The text is equal
to that of `prometheus_client.generate_latest` and takes a fifth of the time to make: the event loop
is blocked meanwhile.
"""

from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import cast

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.utils import floatToGoString

from netra_trio.telemetry import metric_table as table
from netra_trio.telemetry.metrics import Histogram
from netra_trio.telemetry.snapshot import PROCESS, Snapshot, Values

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

BUILD = "netra_build_info"
BUILD_MEANING = "The running version; the value is always 1"


class Exposition:
    """Writes snapshots of the metrics; it remembers the names of the series."""

    def __init__(self) -> None:
        self._series: dict[tuple[str, ...], str] = {}  # bounded, because label values are fixed

    def text(self, snapshot: Snapshot) -> bytes:
        """Return all metrics in the format of `CONTENT_TYPE`."""
        return "".join(self._lines(snapshot)).encode()

    def _lines(self, snapshot: Snapshot) -> Iterator[str]:
        for metric in families(snapshot):
            name = f"{metric.name}_total" if metric.type == "counter" else metric.name
            yield f"# HELP {name} {metric.documentation}\n# TYPE {name} {metric.type}\n"
            for sample in metric.samples:
                key = (sample.name, *sample.labels.values())
                series = self._series.get(key)
                if series is None:
                    series = self._series[key] = _series(sample.name, sample.labels)
                value = floatToGoString(sample.value)  # type: ignore[no-untyped-call]
                yield f"{series} {value}\n"


def families(snapshot: Snapshot) -> Iterator[Metric]:
    """Return the metrics as the Prometheus client library has them."""
    for metric in table.METRICS:
        yield _family(metric, snapshot.values[metric.name])
    build = GaugeMetricFamily(BUILD, BUILD_MEANING, labels=["version"])
    build.add_metric([version("netra-trio")], 1)
    yield build
    for family in PROCESS.collect():
        (sample,) = family.samples
        value = cast("float", snapshot.values[family.name][()])
        family.samples = [sample._replace(value=value)]
        yield family


def _series(name: str, labels: Mapping[str, str]) -> str:
    """Return the name and the labels that precede a value."""
    shown = ",".join(f'{label}="{_escaped(value)}"' for label, value in sorted(labels.items()))
    return f"{name}{{{shown}}}" if shown else name


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _family(metric: table.Metric, values: Values) -> Metric:
    labels = list(metric.labels)
    if metric.kind == "histogram":
        family = HistogramMetricFamily(metric.name, metric.meaning, labels=labels)
        for key, histogram in values.items():
            shown = cast("Histogram", histogram)
            buckets = [(bound, float(count)) for bound, count in shown.cumulative()]
            family.add_metric(key, buckets, shown.total)
        return family
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    numbers = kind(metric.name, metric.meaning, labels=labels)
    for key, value in values.items():
        numbers.add_metric(key, cast("float", value))
    return numbers
