"""The figures for Prometheus, in its text format.

    exposition = Exposition(figures)
    answer(exposition.text(), content_type=CONTENT_TYPE)

Nothing is kept here: a scrape reads the figures, which the server counts in plain numbers.
"""

from collections.abc import Iterator
from importlib.metadata import version
from typing import cast

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from netra_trio import figures as table
from netra_trio.figures import METRICS, Figures, Histogram

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

BUILD = "netra_build_info"
BUILD_MEANING = "The version that runs; its value is 1"


class Exposition:
    """The registry of one application: its figures, and what the system says of its process.

    Args:
        figures: What is read at each scrape.
    """

    def __init__(self, figures: Figures) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Reader(figures))
        ProcessCollector(registry=self._registry)

    def text(self) -> bytes:
        """Return everything in the text format, as `CONTENT_TYPE` says."""
        return generate_latest(self._registry)


class _Reader(Collector):
    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        """Read every figure."""
        levels = self._figures.read_levels()
        for metric in METRICS:
            yield _family(metric, metric.read(self._figures, levels))
        build = GaugeMetricFamily(BUILD, BUILD_MEANING, labels=["version"])
        build.add_metric([version("netra-trio")], 1)
        yield build


def _family(metric: table.Metric, values: table.Values) -> Metric:
    labels = list(metric.labels)
    if metric.kind == "histogram":
        family = HistogramMetricFamily(metric.name, metric.meaning, labels=labels)
        for key, histogram in values.items():
            shown = cast("Histogram", histogram)
            buckets = [(bound, float(count)) for bound, count in shown.cumulative()]
            family.add_metric(_values_of(key), buckets, shown.total)
        return family
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    numbers = kind(metric.name, metric.meaning, labels=labels)
    for key, value in values.items():
        numbers.add_metric(_values_of(key), cast("int", value))
    return numbers


def _values_of(key: table.Key) -> list[str]:
    return [str(key)] if isinstance(key, str) else [str(part) for part in key]
