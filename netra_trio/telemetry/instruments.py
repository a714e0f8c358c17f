"""What watches an application: its figures, its log, and where they are wanted its traces.

    instruments = Instruments(Metrics())
    instruments.note(SessionEnded("sess_1", "alice", "window_passed", seconds=2.5))

Facts go to every sink. What happens for each frame goes to the figures alone, which are cheap.
"""

from collections.abc import Sequence
from typing import Protocol

from netra_trio.telemetry.events import TelemetryEvent
from netra_trio.telemetry.log_sink import LogSink
from netra_trio.telemetry.metrics import Metrics


class Instrument(Protocol):
    """A sink of facts: a log, figures, traces."""

    def note(self, event: TelemetryEvent) -> None:
        """Take in a fact, at once and without raising.

        Called in the task in which it happens, at the moment in which it does.
        """
        ...


class Instruments:
    """The sinks of one application.

    Args:
        figures: What is counted.
        more: Sinks beside the figures and the log.

    Attributes:
        story: The log's part of it.
    """

    def __init__(self, metrics: Metrics | None = None, more: Sequence[Instrument] = ()) -> None:
        self.metrics = Metrics() if metrics is None else metrics
        self.log_sink = LogSink()
        self._sinks: tuple[Instrument, ...] = (self.metrics, self.log_sink, *more)

    def note(self, event: TelemetryEvent) -> None:
        """Tell every sink of a fact, in the task and at the moment in which it happens."""
        for sink in self._sinks:
            sink.note(event)
