"""Paced runs: many agents side by side that each emit a token every 50 ms, as models do.

    figures = await PACED["paced"](Load(target, processes, secret), {"connections": 150, ...})

Each connection has one run at a time. The runs of a probe start evenly spread over its ramp, so
that their tokens are spread over the 50 ms too, and all of them last until the measured window is
over: no run starts or ends within it.

The latency of a token is the time from when it was due at the agent to when the client has read
it. The token carries its due time, from the one CLOCK_MONOTONIC that both processes read. It
contains everything from `emit` to the client, and how late the server wakes the agent: an
overloaded server cannot hide its delay by emitting late.
"""

import time
from collections.abc import Mapping, Sequence
from math import ceil, sqrt
from time import perf_counter

from attrs import define, frozen

from bench.connection import Connection, LoadError
from bench.figures import latencies, percentile
from bench.peers.work import PACE_SECONDS
from bench.scenarios import ANSWER_SECONDS, Load, Parameters, Result, Scenario, Window, slot_of

ATTEMPTS = 2  # windows in which a number of runs has to miss the limit: one may be an accident

EXTRA_SECONDS = 0.5  # that runs last beyond the window: messages may arrive late


@frozen
class Probe:
    """A window in which a number of paced runs was measured.

    Attributes:
        runs: How many there were.
        window: CPU time and events.
        seconds: The latency of each token that arrived in the window.
        ended: How many runs ended before the window, because the start of others took too long.
    """

    runs: int
    window: Window
    seconds: Sequence[float]
    ended: int = 0

    def is_within(self, limit_ms: float) -> bool:
        """Return whether all runs lasted, and the p99 of the latencies is at most the limit."""
        if self.ended or not self.seconds:
            return False
        return percentile(self.seconds, 99) * 1000 <= limit_ms

    def checks(self) -> dict[str, float]:
        """Return the checks that say whether the figures are valid."""
        return {**self.window.checks(), "ended": float(self.ended)}

    def figures(self) -> dict[str, float]:
        """Return CPU per event, events per second and latencies."""
        return {
            **self.window.costs(self.window.events),
            **latencies("", self.seconds),
        }


class PacedRuns:
    """Connections with a paced run on each."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._before = load.target.dialect.before_content
        self._connections: list[Connection] = []
        self._seconds: list[float] = []
        self._unfinished = 0

    async def probe(self, runs: int, *, ramp: float, warm_up: float, seconds: float) -> Probe:
        """Start runs over `ramp` seconds, wait for `warm_up`, measure, and wait for all ends.

        Raises:
            LoadError: If a run fails, or does not end in time.
        """
        lasting = ramp + warm_up + seconds + EXTRA_SECONDS
        await self._open(runs)
        await self._start(runs, ramp, tokens=ceil(lasting / PACE_SECONDS))
        await self._load.run_for(warm_up)
        arrived: list[float] = []
        self._seconds = arrived
        window = await self._load.measure(seconds)
        self._seconds = []
        ended = runs - self._unfinished
        await self._finish(lasting + ANSWER_SECONDS)
        return Probe(runs, window, arrived, ended)

    async def _open(self, runs: int) -> None:
        missing = runs - len(self._connections)
        if missing > 0:
            added = await self._load.connect_many(missing)
            for connection in added:
                connection.on_event = self._on_event
                connection.on_delta = self._on_delta
            self._connections += added

    async def _start(self, runs: int, ramp: float, *, tokens: int) -> None:
        started = perf_counter()
        payload = {"content": f"00 {tokens}", "agent": "paced"}
        for number, connection in enumerate(self._connections[:runs]):
            wait = started + ramp * number / runs - perf_counter()
            if wait > 0:
                await self._load.run_for(wait)
            self._unfinished += 1
            connection.send(connection.dialect.message("user_message", payload))

    async def _finish(self, seconds: float) -> None:
        """Wait until every run has ended, so that the next probe finds no work left over."""
        deadline = perf_counter() + seconds
        while self._unfinished:
            if perf_counter() > deadline:
                raise LoadError(f"{self._unfinished} runs did not end")
            await self._load.run_for(0.01)

    def _on_event(self, connection: Connection, kind: bytes, frame: bytes) -> None:
        if kind == b"agent_completed":
            slot_of(connection, frame)
            self._unfinished -= 1

    def _on_delta(self, data: bytes, start: int, end: int) -> None:
        """Note the latency of each token of a delta: several, if the server merged some."""
        now = time.monotonic()
        begin = data.find(self._before, start, end) + len(self._before)
        content = data[begin : data.index(b'"', begin)]
        self._seconds += [now - float(due) for due in content.split()]


@define
class Search:
    """The search for the greatest number of runs that a server serves within the limit.

    The number grows by a factor until it fails; the space between the greatest that passed and the
    least that failed is then halved, on a logarithmic scale, until it is narrow.

    >>> search = Search(first=100, growth=2.0, precision=1.1, most=1000)
    >>> while (runs := search.next()) is not None:
    ...     search.note(runs, passed=runs <= 230)
    >>> search.passed, search.failed
    (218, 238)

    Attributes:
        first: The number to begin with.
        growth: The factor from one number to the next while none has failed.
        precision: The quotient of failed and passed at which the search ends.
        most: The greatest number to try.
        passed: The greatest number that passed; 0 if none has.
        failed: The least number that failed; None if none has.
    """

    first: int
    growth: float
    precision: float
    most: int
    passed: int = 0
    failed: int | None = None

    def next(self) -> int | None:
        """Return the next number to try; None at the end of the search."""
        if self.failed is None:
            return self._grown()
        if self.passed == 0:
            return max(1, int(self.failed / self.growth)) if self.failed > 1 else None
        middle = round(sqrt(self.passed * self.failed))
        is_narrow = self.failed / self.passed <= self.precision
        return None if is_narrow or middle in (self.passed, self.failed) else middle

    def note(self, runs: int, *, passed: bool) -> None:
        """Note the outcome of a number."""
        if passed:
            self.passed = max(self.passed, runs)
        else:
            self.failed = runs if self.failed is None else min(self.failed, runs)

    def _grown(self) -> int | None:
        if self.passed >= self.most:
            return None
        if self.passed == 0:
            return min(self.most, self.first)
        return min(self.most, max(self.passed + 1, round(self.passed * self.growth)))


async def paced(load: Load, parameters: Parameters) -> Result:
    """Measure a fixed number of paced runs."""
    probe = await PacedRuns(load).probe(int(parameters["connections"]), **_times(parameters))
    if not probe.seconds:
        raise LoadError(f"no token arrived within {probe.window.seconds:.1f} s")
    return {"figures": probe.figures(), "checks": probe.checks()}


async def capacity(load: Load, parameters: Parameters) -> Result:
    """Search for the greatest number of paced runs whose p99 is within the limit."""
    runs, limit = PacedRuns(load), float(parameters["limit_ms"])
    search = Search(
        int(parameters["first"]),
        float(parameters["growth"]),
        float(parameters["precision"]),
        int(parameters["most"]),
    )
    best: Probe | None = None
    load_core = 0.0
    for _ in range(int(parameters["probes"])):
        number = search.next()
        if number is None:
            break
        for _ in range(ATTEMPTS):
            probe = await runs.probe(number, **_times(parameters))
            load_core = max(load_core, probe.checks()["load_core"])
            if passed := probe.is_within(limit):
                break
        search.note(number, passed=passed)
        if passed and (best is None or number > best.runs):
            best = probe
    if best is None:
        raise LoadError(f"not one run with a p99 within {limit:g} ms")
    checks = {**best.checks(), "load_core": load_core}
    checks["is_lower_bound"] = float(search.failed is None)
    return {"figures": {"runs": float(best.runs), **best.figures()}, "checks": checks}


def _times(parameters: Parameters) -> dict[str, float]:
    return {name: float(parameters[name]) for name in ("ramp", "warm_up", "seconds")}


PACED: Mapping[str, Scenario] = {"paced": paced, "capacity": capacity}
