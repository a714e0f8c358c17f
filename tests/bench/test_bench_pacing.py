"""Paced runs: their schedule, their latencies, and the search for the capacity."""

import asyncio
import time
from itertools import pairwise

import pytest

from bench.connection import LoadError, Target
from bench.dialects import DIALECTS
from bench.load import Job, work
from bench.pacing import PacedRuns, Probe, Search
from bench.peers.work import PACE_SECONDS, paced_tokens, seconds_until
from bench.scenarios import Load, Parameters, Processes, Window
from bench.servers import running

MICROSECOND = 1e-6  # the resolution of a token's time
TIMES: Parameters = {"ramp": 0.05, "warm_up": 0.05, "seconds": 1.0}
SEARCH: Parameters = {"first": 2, "growth": 2.0, "precision": 1.5, "most": 8, "probes": 10}
EASY: Parameters = {**TIMES, **SEARCH, "limit_ms": 60_000}  # a limit that no machine misses


def test_tokens_are_due_every_50_ms_from_the_start() -> None:
    before = time.monotonic()
    tokens = list(paced_tokens("00 40"))
    after = time.monotonic()
    assert len(tokens) == 40
    assert before <= tokens[0][0] - PACE_SECONDS <= after
    for (due, _), (following, _) in pairwise(tokens):
        assert following - due == pytest.approx(PACE_SECONDS)
    assert [float(token) for _, token in tokens] == pytest.approx([due for due, _ in tokens])


def test_a_late_agent_does_not_sleep() -> None:
    now = time.monotonic()
    assert seconds_until(now - 1.0) == 0.0
    left = seconds_until(now + 60.0)
    assert 60.0 - (time.monotonic() - now) <= left <= 60.0


def test_a_run_that_is_measured_has_the_latency_of_each_token() -> None:
    async def measure() -> Probe:
        with running("floor", heartbeat=30.0, unlimited=True) as server:
            target_load = Load(target_of(server.port), Processes(server.pid), server.secret)
            return await PacedRuns(target_load).probe(3, ramp=0.05, warm_up=0.1, seconds=1.0)

    probe = asyncio.run(measure())
    assert probe.runs == 3
    assert len(probe.seconds) == probe.window.events > 0
    assert all(0.0 <= seconds < 100.0 for seconds in probe.seconds)
    assert probe.figures()["p50_ms"] <= probe.figures()["p99_ms"]


def test_merged_tokens_count_one_by_one() -> None:
    async def receive() -> tuple[list[float], float]:
        runs = PacedRuns(Load(target_of(1), Processes(1), ""))
        seconds: list[float] = []
        runs._seconds = seconds
        now = time.monotonic()
        frame = b'{"type":"partial_result","payload":{"run_id":"r","content":"%.6f %.6f "}}'
        data = b"before" + frame % (now - 2.0, now - 1.0)
        runs._on_delta(data, 6, len(data))
        return seconds, time.monotonic() - now

    (first, second), later = asyncio.run(receive())
    assert 2.0 - MICROSECOND <= first <= 2.0 + later + MICROSECOND
    assert 1.0 - MICROSECOND <= second <= 1.0 + later + MICROSECOND


def target_of(port: int) -> Target:
    return Target("127.0.0.1", port, DIALECTS["plain"])


@pytest.mark.parametrize(("p99", "passes"), [(0.05, True), (0.0501, False)])
def test_the_limit_and_one_step_beyond(p99: float, passes: bool) -> None:
    window = Window(seconds=1.0, cpu=0.1, own_cpu=0.1, events=100, numbers=0, wire_bytes=0)
    assert Probe(5, window, [p99] * 100).is_within(50) is passes


def test_a_probe_fails_without_tokens_or_with_runs_that_ended() -> None:
    window = Window(seconds=1.0, cpu=0.1, own_cpu=0.1, events=0, numbers=0, wire_bytes=0)
    assert not Probe(5, window, []).is_within(50)
    assert not Probe(5, window, [0.001], ended=1).is_within(50)


@pytest.mark.parametrize("capacity", [1, 2, 99, 100, 137, 768, 769, 3999, 4000])
def test_the_search_finds_the_capacity(capacity: int) -> None:
    search = Search(first=100, growth=1.25, precision=1.03, most=4000)
    tried = []
    while (runs := search.next()) is not None:
        tried.append(runs)
        search.note(runs, passed=runs <= capacity)
    assert len(tried) == len(set(tried)) <= 40
    assert search.passed <= capacity
    if capacity == 4000:
        assert (search.passed, search.failed) == (4000, None)
    else:
        assert search.failed is not None
        assert search.failed > capacity
        assert search.failed / search.passed <= 1.03 or search.failed == search.passed + 1


def test_the_search_ends_if_not_even_one_run_passes() -> None:
    search = Search(first=3, growth=2.0, precision=1.5, most=10)
    tried = []
    while (runs := search.next()) is not None:
        tried.append(runs)
        search.note(runs, passed=False)
    assert tried == [3, 1]
    assert search.passed == 0


def test_capacity_is_the_greatest_number_of_runs_within_the_limit() -> None:
    found = capacity_of(EASY)
    assert found["figures"]["runs"] == 8.0
    assert found["checks"]["is_lower_bound"] == 1.0


def test_capacity_is_an_error_if_no_number_passes() -> None:
    with pytest.raises(LoadError, match="not one run with a p99 within -1 ms"):
        capacity_of({**EASY, "limit_ms": -1, "seconds": 0.1})


def capacity_of(parameters: Parameters) -> dict[str, dict[str, float]]:
    with running("floor", heartbeat=30.0, unlimited=True) as server:
        job = Job(server.port, server.pid, server.secret, "plain", "capacity", dict(parameters))
        return asyncio.run(work(job))
