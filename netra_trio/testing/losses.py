"""What a trace shows to be lost, doubled, or out of order.

    assert_nothing_lost(network.trace)

The promises are those of the protocol: numbers in order and each once, the text of a run to the
last byte, one run for a message and one end for a run, and no loss that is not told.
"""

from collections import Counter, defaultdict
from collections.abc import Container, Iterator, Mapping
from itertools import takewhile

from attrs import define, field

from netra_trio.client import Event
from netra_trio.testing.trace import Trace

SHOWN = 20  # characters of a text in an error: enough to find the place

_OF_RUN = frozenset(
    {"agent_started", "agent_thinking", "partial_result", "tool_executing", "tool_completed"}
)
_FIRST = "agent_started"
_GOES_ON = frozenset({"queued", "running"})


def assert_nothing_lost(trace: Trace, *, is_over: bool = True) -> None:
    """Check that clients got all that was said to them, in order and once.

    What a client announced as gone (`gap`, `reset`, `lagged`) counts as told; `Trace.announced` has
    it.

    Args:
        trace: What was recorded.
        is_over: Whether each run that was confirmed has to have its end, in some client's events.

    Raises:
        AssertionError: With every loss, one in a line.
    """
    found = list(losses(trace, is_over=is_over))
    if found:
        raise AssertionError("\n".join([f"{len(found)} promises broken:", *found]))


def losses(trace: Trace, *, is_over: bool = True) -> Iterator[str]:
    """Find what `assert_nothing_lost` tells."""
    readings = []
    for name, events in trace.delivered.items():
        reading = _Reading(name, trace.emitted)
        readings.append(reading)
        for event in events:
            yield from reading.take(event)
        yield from reading.look_at_runs()
    yield from _look_at_ends(readings, is_over=is_over)


@define(eq=False)
class _Told:
    """What one client was told of a run.

    Attributes:
        key: Of its message.
        is_new: Whether a confirmation said so; then all of it comes to this client.
        is_awaited: Whether its end is to come here when it comes.
        copies: How many confirmations said that it has ended; each brings a copy of its end.
        text: Its text; None where something may be missing in it.
        is_whole: Whether its text begins and ends here.
        statuses: How it ended, once for each end.
    """

    key: str | None
    is_new: bool = False
    is_awaited: bool = False
    copies: int = 0
    has_begun: bool = False
    text: str | None = ""
    is_whole: bool = False
    is_lost: bool = False
    statuses: list[str] = field(factory=list)


class _Reading:
    """One client's events, read in their order."""

    def __init__(self, name: str, emitted: Mapping[str, str]) -> None:
        self._name = name
        self._emitted = emitted
        self._session = ""
        self._expected: int | None = 1  # the next number; None where that is not known
        self._has_gap = False  # in this session
        self._owed = ""  # what has to be told next, after a verdict that something is gone
        self.runs: dict[str, _Told] = {}
        self._runs_of: dict[str | None, list[str]] = defaultdict(list)

    def take(self, event: Event) -> Iterator[str]:
        """Take in an event."""
        if self._owed and event.type != self._owed:
            yield self._fault(f"the verdict was {self._owed}, and no {self._owed} was told")
        self._owed = ""
        match event.type:
            case "connected":
                yield from self._connected(event)
            case "gap" if "from" in event.payload:
                low, high = event.payload["from"], event.payload["to"]
                yield self._fault(f"{_numbers(low, high)} never came; the client said so")
                self._expected = high + 1
                self._make_hole()
            case "gap":
                yield from self._mend(event)
            case "reset":
                self._end_text(but=())
            case "lagged":
                self._expected = None
                self._make_hole()
            case "lost" if event.run_id in self.runs:
                self.runs[event.run_id].is_lost = True
        if event.seq is not None and event.first is not None:
            yield from self._count(event.first, event.seq)
            yield from self._happened(event)

    def look_at_runs(self) -> Iterator[str]:
        """Compare what came of each run with what was emitted, and with its message."""
        for run_id, run in self.runs.items():
            emitted = self._emitted.get(run_id, "")
            if run.text is not None:
                difference = _difference(run, emitted)
                if difference:
                    yield self._fault(f"run {run_id}: {difference}")
            ends = len(run.statuses)
            if ends > run.is_awaited + run.copies:
                yield self._fault(f"run {run_id} has {ends} ends")
        for key, run_ids in self._runs_of.items():
            kept = [run_id for run_id in run_ids if not self.runs[run_id].is_lost]
            if len(kept) > 1:
                yield self._fault(f"message {key} has {len(kept)} runs: {', '.join(kept)}")

    def _connected(self, event: Event) -> Iterator[str]:
        verdict, session = event.payload["verdict"], str(event.payload["session_id"])
        if verdict == "exact" and session != self._session:
            yield self._fault(f"the verdict is exact, and the session another one, {session}")
        if verdict == "new" and self._session:
            yield self._fault(f"session {session} began, and no reset was told")
        if verdict in {"gap", "reset"}:
            self._owed = verdict
        if verdict in {"new", "reset"}:
            self._session, self._expected, self._has_gap = session, 1, False

    def _count(self, first: int, last: int) -> Iterator[str]:
        expected = first if self._expected is None else self._expected
        if first > expected:
            yield self._fault(f"{_numbers(expected, first - 1)} never came")
        elif first < expected:
            came_twice = _numbers(first, min(last, expected - 1))
            yield self._fault(f"{came_twice} came twice, or too late: {expected} was the next")
        self._expected = max(expected, last + 1)

    def _happened(self, event: Event) -> Iterator[str]:
        run_id, number = event.run_id, event.seq
        if run_id is None:
            yield self._fault(f"event {number} ({event.type}) belongs to no run")
            return
        if event.type == "message_confirmed":
            yield from self._confirmed(event, run_id)
            return
        run = self.runs.get(run_id)
        if run is None:
            run = self.runs[run_id] = _Told(event.correlation_id)
            if not self._has_gap:
                what = f"event {number} ({event.type})"
                yield self._fault(f"{what} is of run {run_id}, which was not confirmed")
        if event.type == "agent_completed":
            run.statuses.append(str(event.payload["status"]))
            # The confirmation that asked for this copy may be one of the events that are gone.
            run.copies += self._has_gap and len(run.statuses) > run.is_awaited + run.copies
        elif event.type in _OF_RUN:
            yield from self._went_on(run, event)

    def _confirmed(self, event: Event, run_id: str) -> Iterator[str]:
        run = self.runs.setdefault(run_id, _Told(event.correlation_id))
        if run_id not in self._runs_of[event.correlation_id]:
            self._runs_of[event.correlation_id].append(run_id)
        if event.payload["status"] != "duplicate":
            if run.is_new:
                yield self._fault(f"run {run_id} (message {run.key}) was confirmed as new twice")
            run.is_new = run.is_awaited = run.is_whole = True
        elif event.payload["run_status"] in _GOES_ON:
            run.is_awaited = True
        else:
            run.copies += 1

    def _went_on(self, run: _Told, event: Event) -> Iterator[str]:
        what = f"event {event.seq} ({event.type}) of run {event.run_id}"
        if run.statuses:
            yield self._fault(f"{what} came after the run's end")
        if event.type == _FIRST:
            run.has_begun = True
        elif run.is_whole and not run.has_begun:
            yield self._fault(f"{what} came before the run's {_FIRST}")
            run.has_begun = True
        if event.type == "partial_result" and run.text is not None:
            run.text += event.payload["content"]

    def _mend(self, event: Event) -> Iterator[str]:
        """Take over what the server knows of its runs, as some events are gone."""
        listed = {run["run_id"]: run for run in event.payload["runs"]}
        after = event.payload["last_seq"] + 1
        if self._expected is not None and after <= self._expected:
            yield self._fault(f"a gap was told before number {after}, and nothing is missing")
        self._has_gap = True
        self._expected = after if self._expected is None else max(self._expected, after)
        for run_id, state in listed.items():
            # Its confirmation and its beginning may be among the events that are gone.
            run = self.runs.setdefault(run_id, _Told(state["correlation_id"]))
            run.is_awaited = run.has_begun = True
            run.text, run.is_whole = state["content"], not state.get("truncated", False)
        self._end_text(but=listed)

    def _end_text(self, *, but: Container[str]) -> None:
        """Note that no more text comes of the runs that go on, but of these."""
        for run_id, run in self.runs.items():
            if not run.statuses and run_id not in but:
                run.is_whole = False

    def _make_hole(self) -> None:
        """Note that text may be missing in every run that goes on."""
        self._has_gap = True
        for run in self.runs.values():
            if not run.statuses:
                run.text = None

    def _fault(self, text: str) -> str:
        return f"- {self._name}, session {self._session}: {text}"


def _look_at_ends(readings: list[_Reading], *, is_over: bool) -> Iterator[str]:
    """Look whether every confirmed run ended, and in one way, whoever was told."""
    runs = [(run_id, run) for reading in readings for run_id, run in reading.runs.items()]
    ends: dict[str, Counter[str]] = defaultdict(Counter)
    for run_id, run in runs:
        ends[run_id].update(run.statuses)
    lost = {run_id for run_id, run in runs if run.is_lost}
    keys = {run_id: run.key for run_id, run in runs}
    for run_id, statuses in ends.items():
        if is_over and not statuses and run_id not in lost:
            yield f"- run {run_id} (message {keys[run_id]}) has no end"
        if len(statuses) > 1:
            yield f"- run {run_id} (message {keys[run_id]}) ended {' and '.join(statuses)}"


def _difference(run: _Told, emitted: str) -> str:
    """Say how the text of a run differs from what was emitted; nothing where it does not."""
    text = run.text or ""
    if not run.is_whole:
        # What came before a hole, or what the server had left of it.
        return "" if text in emitted else f"got {_quoted(text)}, which was never emitted"
    if text == emitted or (not run.statuses and emitted.startswith(text)):
        return ""
    pairs = zip(text, emitted, strict=False)
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    expected, got = emitted[same:], text[same:]
    if not got:
        return f"the last {len(expected)} characters are missing: {_quoted(expected)}"
    told = f"behind {same} characters expected {_quoted(expected)}, got {_quoted(got)}"
    return f"{told} (emitted {len(emitted)} characters, delivered {len(text)})"


def _quoted(text: str) -> str:
    return repr(text) if len(text) <= SHOWN else f"{text[:SHOWN]!r}…"


def _numbers(low: int, high: int) -> str:
    return f"number {low}" if low == high else f"numbers {low} to {high}"
