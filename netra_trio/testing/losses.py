"""Finds what is lost, duplicated or out of order in a trace.

    assert_nothing_lost(network.trace)

The guarantees are those of the protocol: numbers in order and each once, the text of a run to the
last byte, one run per message and one end per run, and no loss that is not announced.
"""

from collections import Counter, defaultdict
from collections.abc import Container, Iterator, Mapping
from itertools import takewhile

from attrs import define, field

from netra_trio.client import Event
from netra_trio.testing.trace import Trace

SHOWN = 20  # characters of a text in an error

_OF_RUN = frozenset(
    {"agent_started", "agent_thinking", "partial_result", "tool_executing", "tool_completed"}
)
_FIRST = "agent_started"
_NOT_ENDED = frozenset({"queued", "running"})


def assert_nothing_lost(
    trace: Trace, *, is_over: bool = True, cut_off: Container[str] = ()
) -> None:
    """Check that clients delivered every event, in order and once.

    A loss that a client announced (`gap`, `reset`, `lagged`) is no violation; `Trace.announced` has
    those events.

    Args:
        trace: The record.
        is_over: Whether each confirmed run must have an end, in the events of some client.
        cut_off: The runs that were killed with their server: they may have emitted text that no
            client received.

    Raises:
        AssertionError: Its text has one line for each violation.
    """
    found = list(losses(trace, is_over=is_over, cut_off=cut_off))
    if found:
        raise AssertionError("\n".join([f"{len(found)} violations:", *found]))


def losses(trace: Trace, *, is_over: bool = True, cut_off: Container[str] = ()) -> Iterator[str]:
    """Yield the violations that `assert_nothing_lost` lists."""
    checkers = []
    for name, events in trace.delivered.items():
        checker = _ClientChecker(name, trace.emitted, cut_off)
        checkers.append(checker)
        for event in events:
            yield from checker.check(event)
        yield from checker.check_runs()
    yield from _check_ends(checkers, is_over=is_over)


@define(eq=False)
class _RunRecord:
    """The events of a run that one client received.

    Attributes:
        key: The key of its message.
        is_new: Whether it was confirmed as new; then this client receives all of it.
        is_awaited: Whether this client receives its end.
        copies: How many confirmations said that it has ended; each is followed by a copy of its
            end.
        has_begun: Whether its `agent_started` was received.
        text: Its text; None if some of it may be missing.
        is_whole: Whether the text has its beginning and its end.
        is_lost: Whether the client announced that its end is unknown.
        statuses: The status of each end.
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


class _ClientChecker:
    """Checks the events of one client in their order."""

    def __init__(self, name: str, emitted: Mapping[str, str], cut_off: Container[str]) -> None:
        self._name = name
        self._emitted = emitted
        self._cut_off = cut_off
        self._session = ""
        self._expected: int | None = 1  # the next number; None if it is unknown
        self._has_gap = False  # in this session
        self._required = ""  # the type of the next event, after a verdict that announces a loss
        self.runs: dict[str, _RunRecord] = {}
        self._runs_of: dict[str | None, list[str]] = defaultdict(list)

    def check(self, event: Event) -> Iterator[str]:
        """Check the next event."""
        if self._required and event.type != self._required:
            required = self._required
            yield self._violation(f"the verdict was {required}, and no {required} was announced")
        self._required = ""
        match event.type:
            case "connected":
                yield from self._connected(event)
            case "gap" if "from" in event.payload:
                low, high = event.payload["from"], event.payload["to"]
                yield self._violation(f"{_numbers(low, high)} never came; the client announced it")
                self._expected = high + 1
                self._note_missing_text()
            case "gap":
                yield from self._recover(event)
            case "reset":
                self._end_text(but=())
            case "lagged":
                self._expected = None
                self._note_missing_text()
            case "lost" if event.run_id in self.runs:
                self.runs[event.run_id].is_lost = True
        if event.seq is not None and event.first is not None:
            yield from self._check_numbers(event.first, event.seq)
            yield from self._check_event(event)

    def check_runs(self) -> Iterator[str]:
        """Compare each run with the emitted text, and with its message."""
        for run_id, run in self.runs.items():
            emitted = self._emitted.get(run_id, "")
            if run.text is not None:
                if run_id in self._cut_off and run.is_whole and emitted.startswith(run.text):
                    emitted = run.text
                difference = _difference(run, emitted)
                if difference:
                    yield self._violation(f"run {run_id}: {difference}")
            ends = len(run.statuses)
            if ends > run.is_awaited + run.copies:
                yield self._violation(f"run {run_id} has {ends} ends")
        for key, run_ids in self._runs_of.items():
            kept = [run_id for run_id in run_ids if not self.runs[run_id].is_lost]
            if len(kept) > 1:
                yield self._violation(f"message {key} has {len(kept)} runs: {', '.join(kept)}")

    def _connected(self, event: Event) -> Iterator[str]:
        verdict, session = event.payload["verdict"], str(event.payload["session_id"])
        if verdict == "exact" and session != self._session:
            yield self._violation(f"the verdict is exact, but the session is another: {session}")
        if verdict == "new" and self._session:
            yield self._violation(f"session {session} began, and no reset was announced")
        if verdict in {"gap", "reset"}:
            self._required = verdict
        if verdict in {"new", "reset"}:
            self._session, self._expected, self._has_gap = session, 1, False

    def _check_numbers(self, first: int, last: int) -> Iterator[str]:
        expected = first if self._expected is None else self._expected
        if first > expected:
            yield self._violation(f"{_numbers(expected, first - 1)} never came")
        elif first < expected:
            came_twice = _numbers(first, min(last, expected - 1))
            yield self._violation(f"{came_twice} came twice or too late: {expected} was expected")
        self._expected = max(expected, last + 1)

    def _check_event(self, event: Event) -> Iterator[str]:
        run_id, number = event.run_id, event.seq
        if run_id is None:
            yield self._violation(f"event {number} ({event.type}) belongs to no run")
            return
        if event.type == "message_confirmed":
            yield from self._confirmed(event, run_id)
            return
        run = self.runs.get(run_id)
        if run is None:
            run = self.runs[run_id] = _RunRecord(event.correlation_id)
            if not self._has_gap:
                what = f"event {number} ({event.type})"
                yield self._violation(f"{what} is of run {run_id}, which was not confirmed")
        if event.type == "agent_completed":
            run.statuses.append(str(event.payload["status"]))
            # The confirmation that this copy follows may be one of the lost events.
            run.copies += self._has_gap and len(run.statuses) > run.is_awaited + run.copies
        elif event.type in _OF_RUN:
            yield from self._check_progress(run, event)

    def _confirmed(self, event: Event, run_id: str) -> Iterator[str]:
        run = self.runs.setdefault(run_id, _RunRecord(event.correlation_id))
        if run_id not in self._runs_of[event.correlation_id]:
            self._runs_of[event.correlation_id].append(run_id)
        if event.payload["status"] != "duplicate":
            if run.is_new:
                what = f"run {run_id} (message {run.key})"
                yield self._violation(f"{what} was confirmed as new twice")
            run.is_new = run.is_awaited = run.is_whole = True
        elif event.payload["run_status"] in _NOT_ENDED:
            run.is_awaited = True
        else:
            run.copies += 1

    def _check_progress(self, run: _RunRecord, event: Event) -> Iterator[str]:
        what = f"event {event.seq} ({event.type}) of run {event.run_id}"
        if run.statuses:
            yield self._violation(f"{what} came after the run's end")
        if event.type == _FIRST:
            run.has_begun = True
        elif run.is_whole and not run.has_begun:
            yield self._violation(f"{what} came before the run's {_FIRST}")
            run.has_begun = True
        if event.type == "partial_result" and run.text is not None:
            run.text += event.payload["content"]

    def _recover(self, event: Event) -> Iterator[str]:
        """Take over the server's state of the runs after a gap."""
        listed = {run["run_id"]: run for run in event.payload["runs"]}
        after = event.payload["last_seq"] + 1
        if self._expected is not None and after <= self._expected:
            what = f"a gap was announced before number {after}"
            yield self._violation(f"{what}, and nothing is missing")
        self._has_gap = True
        self._expected = after if self._expected is None else max(self._expected, after)
        for run_id, state in listed.items():
            # The events that confirmed and started this run may be lost: expect neither.
            run = self.runs.setdefault(run_id, _RunRecord(state["correlation_id"]))
            run.is_awaited = run.has_begun = True
            run.text, run.is_whole = state["content"], not state.get("truncated", False)
        self._end_text(but=listed)

    def _end_text(self, *, but: Container[str]) -> None:
        """Note that no more text of the unfinished runs is expected, except of these."""
        for run_id, run in self.runs.items():
            if not run.statuses and run_id not in but:
                run.is_whole = False

    def _note_missing_text(self) -> None:
        """Note that text may be missing in every unfinished run."""
        self._has_gap = True
        for run in self.runs.values():
            if not run.statuses:
                run.text = None

    def _violation(self, text: str) -> str:
        return f"- {self._name}, session {self._session}: {text}"


def _check_ends(checkers: list[_ClientChecker], *, is_over: bool) -> Iterator[str]:
    """Check that every confirmed run has ended, with the same status for every client."""
    runs = [(run_id, run) for checker in checkers for run_id, run in checker.runs.items()]
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


def _difference(run: _RunRecord, emitted: str) -> str:
    """Describe how the text of a run differs from the emitted text; empty if it does not."""
    text = run.text or ""
    if not run.is_whole:
        # The text before a loss, or what the server had kept of it.
        return "" if text in emitted else f"got {_quoted(text)}, which was never emitted"
    if text == emitted or (not run.statuses and emitted.startswith(text)):
        return ""
    pairs = zip(text, emitted, strict=False)
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    expected, got = emitted[same:], text[same:]
    if not got:
        return f"the last {len(expected)} characters are missing: {_quoted(expected)}"
    found = f"after {same} characters expected {_quoted(expected)}, got {_quoted(got)}"
    return f"{found} (emitted {len(emitted)} characters, delivered {len(text)})"


def _quoted(text: str) -> str:
    return repr(text) if len(text) <= SHOWN else f"{text[:SHOWN]!r}…"


def _numbers(low: int, high: int) -> str:
    return f"number {low}" if low == high else f"numbers {low} to {high}"
