"""Measures the delivery of a session's events: first deltas, gaps between deltas, stops, merges.

    times = DeliveryTimes(metrics)
    times.start_delta_timer(run_id, received=trio.current_time())
    times.count(entries)            # for each write of a connection

`count` is called for each write, so the work for a delta is small: events are counted by write,
only events that are not plain deltas are inspected one by one, and of the gaps between deltas one
in `GAP_EVERY` is measured.
"""

from collections.abc import Sequence

import trio

from netra_trio.ids import RunId
from netra_trio.protocol.messages import AgentCompleted, PartialResult
from netra_trio.sessions.event_log import Entry
from netra_trio.telemetry.metrics import Metrics

GAP_EVERY = 64  # events for each measured gap: reading the clock costs more than counting a delta


class DeliveryTimes:
    """The delivery times of one session.

    Args:
        metrics: The metrics that are updated.
    """

    __slots__ = (
        "_clock_due",
        "_gap_run",
        "_gap_start",
        "_metrics",
        "_received",
        "_stopped_at",
        "_uncounted",
    )

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._received: dict[RunId, float] = {}  # of messages whose runs have no delta yet
        self._stopped_at: dict[RunId, float] = {}
        self._uncounted = 0  # events that are not in the metrics yet
        self._clock_due = GAP_EVERY  # uncounted events after which the clock is read
        self._gap_run: RunId | None = None  # the next delta of this run ends the measured gap
        self._gap_start = 0.0

    def start_delta_timer(self, run_id: RunId, received: float) -> None:
        """Measure the time to the first delta of a run.

        Args:
            run_id: The run.
            received: When its message was received, on Trio's clock.
        """
        self._received[run_id] = received
        self._clock_due = 0

    def start_stop_timer(self, run_id: RunId) -> None:
        """Measure the time from now to the end of a run that its user stops."""
        self._stopped_at.setdefault(run_id, trio.current_time())

    def on_disconnect(self) -> None:
        """Cancel all measurements: they would include the time without a connection."""
        self._received.clear()
        self._stopped_at.clear()
        self._gap_run = None

    def count(self, entries: Sequence[Entry]) -> None:
        """Count events that are passed to the transport, at least one."""
        self._uncounted += len(entries)
        if self._uncounted >= self._clock_due:  # first: `_observe_end` removes the run's timers
            self._observe_deltas(entries)
        for entry in entries:
            if type(entry.event) is not PartialResult or entry.seq_from is not None:
                self._count_other(entry)

    def flush(self) -> None:
        """Add the counted events to the metrics."""
        self._metrics.events_sent += self._uncounted
        self._uncounted = 0

    def _count_other(self, entry: Entry) -> None:
        """Count an event that is not a plain delta."""
        event = entry.event
        if entry.seq_from is not None:
            self._metrics.merged += entry.seq - entry.seq_from
            return
        self._metrics.other_events_sent[event.TYPE] += 1
        if event.TYPE == AgentCompleted.TYPE:
            self._observe_end(event.run_id)

    def _observe_end(self, run_id: RunId) -> None:
        self._received.pop(run_id, None)
        stopped = self._stopped_at.pop(run_id, None)
        if stopped is not None:
            self._metrics.stop.observe(trio.current_time() - stopped)
        if self._gap_run == run_id:
            self._gap_run = None

    def _observe_deltas(self, entries: Sequence[Entry]) -> None:
        """Observe first deltas, and start or end the measured gap."""
        now = trio.current_time()
        runs = [entry.event.run_id for entry in entries if type(entry.event) is PartialResult]
        for run_id in runs if self._received else ():
            received = self._received.pop(run_id, None)
            if received is not None:
                self._metrics.first_delta.observe(now - received)
        if self._gap_run is not None:
            if self._gap_run in runs:
                self._metrics.delta_gap.observe(now - self._gap_start)
                self._gap_run = None
        elif runs and self._uncounted >= GAP_EVERY:
            self._gap_run, self._gap_start = runs[-1], now
            self.flush()
        self._clock_due = 0 if self._received or self._gap_run else GAP_EVERY
