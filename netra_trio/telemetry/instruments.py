"""Telemetry of an application: its metrics, its log, and optionally its traces.

    instruments = Instruments(Metrics())
    instruments.note(SessionEnded("sess_1", "alice", "window_passed", seconds=2.5))

Events go to every sink. Single frames cause no events: they are only added to the metrics, which is
cheap.
"""

from collections.abc import Sequence
from typing import Protocol

from netra_trio.telemetry.events import TelemetryEvent
from netra_trio.telemetry.log_sink import LogSink
from netra_trio.telemetry.metrics import Metrics


class Instrument(Protocol):
    """A sink of telemetry events: a log, metrics, traces."""

    def note(self, event: TelemetryEvent) -> None:
        """Process an event without waiting and without raising.

        It is called in the task that causes the event, at that moment.
        """
        ...


class Instruments:
    """The sinks of one application.

    Args:
        metrics: Counts the events.
        more: Sinks in addition to the metrics and the log.

    Attributes:
        metrics: Counts the events; hot paths also add to it directly.
        log_sink: Logs the events.
    """

    def __init__(self, metrics: Metrics | None = None, more: Sequence[Instrument] = ()) -> None:
        self.metrics = Metrics() if metrics is None else metrics
        self.log_sink = LogSink()
        self._sinks: tuple[Instrument, ...] = (self.metrics, self.log_sink, *more)

    def note(self, event: TelemetryEvent) -> None:
        """Pass an event to every sink, in the task that causes it and at that moment."""
        for sink in self._sinks:
            sink.note(event)
