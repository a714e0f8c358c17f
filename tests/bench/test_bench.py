"""The benchmark works from end to end; what it measures is never asserted."""

import asyncio
import doctest
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bench import __main__ as command
from bench import proc, servers
from bench.connection import ACK_EVENTS, Connection, LoadError, Place, Tally, Target
from bench.dialects import DIALECTS
from bench.figures import FIGURES, latencies, median_ratio, percentile
from bench.frames import CLOSE, INCOMPLETE, PING, bounds, client_frame, masked, server_frame
from bench.load import Job, work
from bench.measure import Measurement
from bench.report import notes, ratios_of, values_of
from bench.returning import BEHIND, RETURNING, busiest
from bench.scenarios import SCENARIOS
from bench.servers import SERVERS, Kind
from bench.workloads import WORKLOADS

TINY = "0.05"  # of a quick pass: connections enough to see that it works
SMALL = "0.4"  # likewise, and 0.6 s: answers come even where other tests have the machine meanwhile
PATIENCE = 20.0  # seconds: a bound, not a wait
UPGRADED = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
INSTALLED = [name for name, kind in SERVERS.items() if not kind.missing]


def run_bench(tmp_path: Path, *arguments: str, scale: str = TINY) -> tuple[int, dict[str, Any]]:
    out = tmp_path / "bench.json"
    code = command.main(["--scale", scale, "--out", str(out), *arguments])
    return code, json.loads(out.read_text())


def test_every_server_that_is_installed_streams(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    servers = ",".join(INSTALLED)
    code, found = run_bench(tmp_path, "--only", "stream", "--servers", servers, scale=SMALL)
    shown = capfd.readouterr()
    assert code == 0, shown.err
    assert {"netra", "floor"} <= set(found["results"]["stream"]["servers"])
    assert {"cpu", "cores", "kernel", "python", "versions"} <= set(found["machine"])
    for name, server in found["results"]["stream"]["servers"].items():
        (repetition,) = server["repetitions"]
        assert repetition["error"] is None
        assert set(repetition["figures"]) == {"cpu_us", "per_second", "p50_ms", "p99_ms"}
        assert set(repetition["checks"]) == {"load_core", "merged"}
        assert server["median"] == repetition["figures"]
        assert name in shown.out
        assert f"stream on {name}" in shown.err
    assert "CPU µs per event" in shown.out


def test_this_project_confirms_what_has_a_key(tmp_path: Path) -> None:
    code, found = run_bench(tmp_path, "--only", "keyed", "--servers", "netra", scale=SMALL)
    assert code == 0, found
    median = found["results"]["keyed"]["servers"]["netra"]["median"]
    assert {"cpu_us", "per_second", "p99_ms", "confirmed_p50_ms", "confirmed_p99_ms"} <= set(median)


@pytest.mark.parametrize("workload", ["echo16", "connect", "memory", "idle", "growth"])
def test_every_kind_of_workload_measures(tmp_path: Path, workload: str) -> None:
    scale = SMALL if WORKLOADS[workload].scenario == "loop" else TINY
    code, found = run_bench(tmp_path, "--only", workload, "--servers", "floor", scale=scale)
    assert code == 0, found
    median = found["results"][workload]["servers"]["floor"]["median"]
    assert WORKLOADS[workload].figure in median
    assert set(median) <= set(FIGURES)


@pytest.mark.parametrize("plain", [False, True], ids=["acknowledging", "plain"])
def test_what_is_replayed_is_measured(tmp_path: Path, plain: bool) -> None:
    arguments = ["--only", "resume", "--servers", "netra,floor", *["--plain"] * plain]
    code, found = run_bench(tmp_path, *arguments, scale=SMALL)
    assert code == 0, found
    servers = found["results"]["resume"]["servers"]
    assert {"replay", "stream_cpu_us", "replay_cpu_us", "p99_ms"} <= set(servers["netra"]["median"])
    assert servers["floor"]["repetitions"] == []  # it has no sessions


def test_a_storm_is_measured(tmp_path: Path) -> None:
    code, found = run_bench(tmp_path, "--only", "storm", "--servers", "netra")
    assert code == 0, found
    median = found["results"]["storm"]["servers"]["netra"]["median"]
    assert {"exact_percent", "peak_per_second", "cpu_us", "p50_ms", "p99_ms"} == set(median)
    assert median["exact_percent"] == 100.0
    assert 0 < median["peak_per_second"] <= WORKLOADS["storm"].quick["connections"]


def test_every_workload_is_a_scenario_with_a_figure() -> None:
    for workload in WORKLOADS.values():
        assert workload.scenario in {**SCENARIOS, **RETURNING}
        assert workload.figure in FIGURES
        assert set(workload.quick) == {*workload.full} | ({"heartbeat"} & set(workload.quick))


def test_a_server_that_does_not_start_is_told_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    broken = Kind("broken", ("-c", "raise SystemExit('no such thing')"))
    monkeypatch.setattr(command, "SERVERS", {"broken": broken, **SERVERS})
    for module in ("bench.measure", "bench.servers"):
        monkeypatch.setattr(f"{module}.SERVERS", {"broken": broken, **SERVERS})
    code, found = run_bench(tmp_path, "--only", "idle", "--servers", "broken,floor")
    both = found["results"]["idle"]["servers"]
    assert code == 1
    assert "no such thing" in both["broken"]["repetitions"][0]["error"]
    assert both["floor"]["repetitions"][0]["error"] is None
    assert "idle on broken, repetition 1: failed: broken ended with 1" in capfd.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    arguments = ["--full", "--only", "echo", "--servers", "floor", "--out", str(tmp_path / "b")]
    typed = [sys.executable, "-m", "bench", *arguments]
    with subprocess.Popen(typed, stderr=subprocess.DEVNULL) as process:  # noqa: S603 - our own
        deadline = time.monotonic() + PATIENCE
        while len(started := proc.tree(process.pid)) < 3:  # the benchmark, a server and a load
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(number)
        assert process.wait(PATIENCE) == command.INTERRUPTED
    assert not [pid for pid in started if is_alive(pid)]


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # it has ended; nobody has asked how yet


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--only", "steam"], "--only: expected one of stream, echo"),
        (["--servers", "netra,django"], "--servers: expected some of netra"),
        (["--repeat", "0"], "--repeat: expected 1 or more, got 0"),
        (["--repeat", "two"], "invalid int value"),
        (["--scale", "2"], "--scale: expected more than 0"),
        (["--out", "/nowhere/at/all.json"], "--out: expected a file in a folder that exists"),
    ],
)
def test_what_is_typed_wrong_is_told(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        command.plan_of(arguments)
    assert end.value.code == 2
    assert told in capsys.readouterr().err


def test_a_server_that_is_not_installed_is_left_out_or_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = Kind("absent", (), needs=("no_such_module",))
    monkeypatch.setattr(command, "SERVERS", {"absent": absent, "floor": SERVERS["floor"]})
    plan, _ = command.plan_of([])
    assert plan.servers == ["floor"]
    assert "absent is left out: no_such_module not installed" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.plan_of(["--servers", "absent"])
    assert "needs what is not installed: no_such_module" in capsys.readouterr().err


def test_the_full_pass_repeats_and_the_help_lists_everything() -> None:
    plan, out = command.plan_of(["--full", "--servers", "floor,netra"])
    assert (plan.repeat, plan.servers, str(out)) == (5, ["netra", "floor"], "bench.json")
    assert plan.workloads["growth"]["connections"] == 5000
    assert plan.files > 5000
    assert "netra-stock" in command.plan_of(["--full"])[0].servers
    assert "netra-stock" not in command.plan_of([])[0].servers
    everywhere = [name for name, workload in WORKLOADS.items() if not workload.resumes]
    assert len(plan) == (2 * len(everywhere) + len(WORKLOADS) - len(everywhere)) * 5
    shown = command.parser().format_help()
    assert all(name in shown for name in [*WORKLOADS, *SERVERS])


# The numbers.


def test_percentiles_lie_between_the_values_next_to_them() -> None:
    assert percentile([3.0], 99) == 3.0
    assert percentile([5.0, 1.0, 3.0], 50) == 3.0
    assert percentile([float(n) for n in range(101)], 99) == 99.0
    assert latencies("", [0.001, 0.003]) == {"p50_ms": 2.0, "p99_ms": pytest.approx(2.98)}
    assert latencies("", []) == {}
    with pytest.raises(ValueError, match="at least one value"):
        percentile([], 50)


def test_the_ratio_is_the_median_of_ratios_not_the_ratio_of_medians() -> None:
    assert median_ratio([1.0, 10.0, 3.0], [2.0, 10.0, 1.0]) == 1.0
    assert median_ratio([1.0, 2.0], [0.0, 4.0]) == 0.5
    assert median_ratio([], []) is None


def test_ratios_compare_only_what_was_measured_in_the_same_repetition() -> None:
    measurements = [
        Measurement("echo", "netra", 0, error="it broke"),
        Measurement("echo", "fastapi", 0, {"cpu_us": 1.0}),
        Measurement("echo", "netra", 1, {"cpu_us": 3.0}),
        Measurement("echo", "fastapi", 1, {"cpu_us": 6.0}),
        Measurement("stream", "netra", 1, {"cpu_us": 9.0}),
    ]
    assert ratios_of(measurements, "netra", "echo") == {"cpu_us": 0.5}
    assert ratios_of(measurements, "fastapi", "echo") == {"cpu_us": 1.0}
    assert ratios_of(measurements, "netra", "stream") == {}
    assert values_of(measurements)["echo", "netra"] == {"cpu_us": [3.0]}


def test_notes_say_what_not_to_believe() -> None:
    found = notes(
        [
            Measurement("echo", "netra", 0, error="it broke\nhere"),
            Measurement("echo", "floor", 0, {}, {"load_core": 0.97}),
            Measurement("stream", "netra", 1, {}, {"load_core": 0.5, "merged": 7.0}),
        ]
    )
    assert found == [
        "echo on netra, repetition 1: failed: it broke",
        "echo on floor, repetition 1: the load was 97 % busy; its rates are the load's own",
        "stream on netra, repetition 2: 7 events were merged into others",
    ]


def test_a_process_is_measured_with_its_children() -> None:
    before = proc.cpu_seconds(os.getpid())
    deadline = time.monotonic() + PATIENCE
    while proc.cpu_seconds(os.getpid()) == before:
        assert time.monotonic() < deadline
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert proc.tree(os.getpid())[0] == os.getpid()
        assert child.pid in proc.tree(os.getpid())
        assert proc.memory(child.pid).rss > 0
        child.communicate(b"\n", PATIENCE)
    assert proc.cpu_seconds(child.pid) == 0.0


def test_the_densest_second() -> None:
    assert busiest([]) == 0
    assert busiest([3.0]) == 1
    assert busiest([2.0, 0.0, 1.0, 0.999]) == 2
    assert busiest([0.0, 0.5, 0.9, 5.0, 5.1, 5.2, 5.99]) == 4


def test_a_client_is_a_thousand_events_behind() -> None:
    assert BEHIND == 1000


# The client.


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536])
def test_frames_of_any_length(size: int) -> None:
    payload = bytes(size)
    data = b"before" + server_frame(payload)
    start, end = bounds(data, len(b"before"))
    assert (data[start:end], end) == (payload, len(data))
    assert bounds(data[:-1], len(b"before"))[1] == INCOMPLETE
    theirs = client_frame(payload)
    assert theirs[1] & 0x80
    assert masked(theirs[-size:] if size else b"", theirs[-size - 4 :][:4]) == payload


class Wire:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.is_closed = False

    def write(self, data: bytes) -> None:
        size = data[1] & 0x7F if data[1] & 0x80 else 0
        self.written.append(masked(data[6 : 6 + size], data[2:6]) if size else data)

    def close(self) -> None:
        self.is_closed = True

    abort = close


def connected(dialect: str = "netra") -> tuple[Connection, Wire, Tally]:
    tally, wire = Tally(), Wire()
    connection = Connection(DIALECTS[dialect], b"GET / HTTP/1.1\r\n\r\n", tally)
    connection.connection_made(wire)  # type: ignore[arg-type]  # as much of one as it uses
    connection.data_received(UPGRADED + server_frame(b'{"type":"connection_established"}'))
    wire.written.clear()
    return connection, wire, tally


def delta(seq: int) -> bytes:
    return server_frame(b'{"type":"partial_result","payload":{"content":"a"},"seq":%d}' % seq)


def test_events_are_counted_in_whatever_pieces_they_come() -> None:
    async def count(size: int) -> tuple[int, int, list[bytes]]:
        connection, wire, tally = connected()
        seen: list[bytes] = []
        connection.on_event = lambda _connection, kind, _frame: seen.append(kind)
        end = server_frame(b'{"type":"agent_completed","payload":{},"seq":41,"seq_from":40}')
        data = b"".join(delta(seq) for seq in range(1, 40)) + end
        for start in range(0, len(data), size):
            connection.data_received(data[start : start + size])
        connection.acknowledge()
        return tally.events, tally.numbers, [*seen, wire.written[-1]]

    last = b'{"type":"ack","payload":{"seq":41}}'
    for size in (1, 7, 100_000):
        assert asyncio.run(count(size)) == (40, 41, [b"agent_completed", last])


def test_acknowledgements_come_every_32_numbers_and_only_where_they_are_wanted() -> None:
    async def acknowledged(dialect: str) -> list[bytes]:
        connection, wire, _ = connected(dialect)
        for seq in range(1, 2 * ACK_EVENTS + 2):
            connection.data_received(delta(seq))
        return wire.written

    acks = [b'{"type":"ack","payload":{"seq":%d}}' % seq for seq in (32, 64)]
    assert asyncio.run(acknowledged("netra")) == acks
    assert asyncio.run(acknowledged("plain")) == []


def test_a_client_that_comes_back_goes_on_counting() -> None:
    async def come_back() -> None:
        target = Target("127.0.0.1", 8000, DIALECTS["netra"])
        assert b"GET /ws?token=t&session_id=s-1&last_seq=7 HTTP/1.1" in target.request(
            "t", Place("s-1", 7)
        )
        tally, wire = Tally(), Wire()
        connection = Connection(target.dialect, b"GET", tally, seen=7, is_silent=True)
        connection.connection_made(wire)  # type: ignore[arg-type]  # as much of one as it uses
        established = b'{"type":"connection_established","payload":{"session_id":"s-1"}}'
        connection.data_received(UPGRADED + server_frame(established) + delta(8) + delta(9))
        assert connection.welcome == {"session_id": "s-1"}
        assert (tally.events, tally.numbers, connection.seen) == (2, 2, 9)
        wire.written.clear()
        connection.acknowledge()
        assert wire.written == []
        connection.drop()
        assert wire.is_closed
        connection.connection_lost(None)
        assert not tally.fault.done()

    asyncio.run(come_back())


def test_control_frames_are_answered_and_faults_are_noted() -> None:
    async def answers() -> None:
        connection, wire, tally = connected()
        connection.data_received(server_frame(b"hi", PING))
        connection.data_received(server_frame(b'{"type":"heartbeat","payload":{}}'))
        assert wire.written == [b"hi", b'{"type":"pong","payload":{}}']
        assert tally.events == 0
        connection.data_received(server_frame(b'{"type":"error","payload":{}}'))
        assert tally.fault.result() == '{"type":"error","payload":{}}'
        connection.data_received(server_frame((4408).to_bytes(2, "big"), CLOSE))
        assert wire.is_closed

    asyncio.run(answers())


def test_a_server_that_is_not_there_is_told() -> None:
    job = Job(1, os.getpid(), "s" * 32, "plain", "idle", {"connections": 2, "warm_up": 0})
    with pytest.raises(LoadError, match="does not answer"):
        asyncio.run(work(job))


def test_settings_of_whoever_runs_it_do_not_reach_the_server(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WEBSOCKET_SEND_TIMEOUT", "1")
    monkeypatch.setenv("DATABASE_URL", "sqlite://")
    with servers.running("floor", heartbeat=30.0, unlimited=True) as server:
        environ = Path(f"/proc/{server.pid}/environ").read_bytes()
    assert b"WEBSOCKET_SEND_TIMEOUT" not in environ
    assert b"DATABASE_URL" not in environ
    assert b"WEBSOCKET_MAX_MESSAGE_RATE=1000000000" in environ
    assert not server.output.exists()


@pytest.mark.parametrize(
    "module", ["frames", "figures", "workloads", "returning", "__main__", "peers.work"]
)
def test_the_examples_of_the_docstrings(module: str) -> None:
    result = doctest.testmod(importlib.import_module(f"bench.{module}"))
    assert result.attempted
    assert not result.failed
