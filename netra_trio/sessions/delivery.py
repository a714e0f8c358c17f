"""How a session's events go out, for the figures: first deltas, gaps, stops, what was merged.

    delivery = Delivery(figures)
    delivery.expect(run_id, received=trio.current_time())
    delivery.took(entries)          # the journal gives these to a writer now

Each write of each connection comes by here. So what is done for a delta is next to nothing: events
are counted by the write, what is no delta is looked at one by one, and of the gaps between deltas
one in `GAP_EVERY` is measured.
"""

from collections.abc import Sequence

import trio

from netra_trio.ids import RunId
from netra_trio.protocol.messages import AgentCompleted, PartialResult
from netra_trio.sessions.event_log import Entry
from netra_trio.telemetry.metrics import Metrics

GAP_EVERY = 64  # events: to measure each gap would cost a delta more than all else here together


class DeliveryTimes:
    """What a session's writers take, seen from the client's side.

    Args:
        figures: Where it is counted.
    """

    __slots__ = (
        "_armed_at",
        "_armed_run",
        "_awaited",
        "_due",
        "_metrics",
        "_stops",
        "_unsettled",
    )

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._awaited: dict[RunId, float] = {}  # when messages came whose first delta is to come
        self._stops: dict[RunId, float] = {}
        self._unsettled = 0  # events that the figures do not have yet
        self._due = GAP_EVERY  # so many of them until a look at the clock; 0 for the next write
        self._armed_run: RunId | None = None  # whose next delta ends the gap
        self._armed_at = 0.0

    def expect(self, run_id: RunId, received: float) -> None:
        """Time the first delta of a run whose message came at `received`, of Trio's clock."""
        self._awaited[run_id] = received
        self._due = 0

    def stop(self, run_id: RunId) -> None:
        """Time the end of a run that its user stops now."""
        self._stops.setdefault(run_id, trio.current_time())

    def lost(self) -> None:
        """Time nothing that waits for a connection: how long that takes is a figure of its own."""
        self._awaited.clear()
        self._stops.clear()
        self._armed_run = None

    def took(self, entries: Sequence[Entry]) -> None:
        """Count events that are handed to the transport, one or more."""
        self._unsettled += len(entries)
        if self._unsettled >= self._due:  # before the ends: they forget what came to nothing
            self._time(entries)
        for entry in entries:
            if type(entry.event) is not PartialResult or entry.seq_from is not None:
                self._look(entry)

    def settle(self) -> None:
        """Bring the figures up to date: what is counted for each delta is counted here at first."""
        self._metrics.events_sent += self._unsettled
        self._unsettled = 0

    def _look(self, entry: Entry) -> None:
        """Take in an event that is no plain delta."""
        event = entry.event
        if entry.seq_from is not None:
            self._metrics.merged += entry.seq - entry.seq_from
            return
        self._metrics.other_events_sent[event.TYPE] += 1
        if event.TYPE == AgentCompleted.TYPE:
            self._end(event.run_id)

    def _end(self, run_id: RunId) -> None:
        self._awaited.pop(run_id, None)
        stopped = self._stops.pop(run_id, None)
        if stopped is not None:
            self._metrics.stop.observe(trio.current_time() - stopped)
        if self._armed_run == run_id:
            self._armed_run = None

    def _time(self, entries: Sequence[Entry]) -> None:
        """Look for first deltas, and for the two writes that a gap lies between."""
        now = trio.current_time()
        runs = [entry.event.run_id for entry in entries if type(entry.event) is PartialResult]
        for run_id in runs if self._awaited else ():
            received = self._awaited.pop(run_id, None)
            if received is not None:
                self._metrics.first_delta.observe(now - received)
        if self._armed_run is not None:
            if self._armed_run in runs:
                self._metrics.delta_gap.observe(now - self._armed_at)
                self._armed_run = None
        elif runs and self._unsettled >= GAP_EVERY:
            self._armed_run, self._armed_at = runs[-1], now
            self.settle()
        self._due = 0 if self._awaited or self._armed_run else GAP_EVERY
