"""The benchmark works from end to end; the values of its figures are never asserted."""

import doctest
import importlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from support.processes import sessions

from bench import __main__ as command
from bench import proc
from bench.figures import FIGURES
from bench.load import ALL_SCENARIOS
from bench.measure import Plan
from bench.processes import INTERRUPTED
from bench.servers import ROOT, SERVERS, Kind
from bench.workloads import WORKLOADS

TINY = 0.05  # of a quick pass: a few connections
WINDOW_SECONDS = 2.0  # for them: a busy machine answers many times within it
PATIENCE = 100.0  # seconds: an upper bound
PACED = {"cpu_us", "wire_bytes", "per_second", "p50_ms", "p99_ms"}
INSTALLED = [name for name, kind in SERVERS.items() if not kind.missing and not kind.has_broker]
QUICK = [name for name in INSTALLED if not SERVERS[name].only_full]
FEW = [name for name in QUICK if name in ("netra", "netra-v2", "fastapi", "floor")]


def run_bench(tmp_path: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    out = tmp_path / "bench.json"
    code = command.main(["--scale", str(TINY), "--out", str(out), *arguments])
    return code, json.loads(out.read_text())


@pytest.fixture
def long_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure the few connections for longer."""
    seconds = {"seconds": WINDOW_SECONDS / TINY}
    changed = {
        name: evolve(workload, quick={**workload.quick, **seconds})
        for name, workload in WORKLOADS.items()
        if "seconds" in workload.quick
    }
    monkeypatch.setattr(command, "WORKLOADS", {**WORKLOADS, **changed})


@pytest.mark.usefixtures("long_windows")
@pytest.mark.parametrize(
    ("workload", "names"), [("stream", QUICK), ("paced", FEW)], ids=["stream", "paced"]
)
def test_installed_servers_are_measured(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], workload: str, names: list[str]
) -> None:
    servers = ",".join(names)
    code, found = run_bench(tmp_path, "--only", workload, "--servers", servers)
    shown = capfd.readouterr()
    assert code == 0, shown.err
    assert {"netra", "floor"} <= set(found["results"][workload]["servers"])
    assert {"cpu", "cores", "kernel", "python", "python_build", "versions"} <= set(found["machine"])
    bases = [name for name in ("fastapi", "floor") if name in INSTALLED]
    assert found["bases"] == bases + (["netra"] if "netra-v2" in names else [])
    for name, server in found["results"][workload]["servers"].items():
        (repetition,) = server["repetitions"]
        assert repetition["error"] is None
        assert set(repetition["figures"]) == PACED
        assert {"load_core", "merged"} <= set(repetition["checks"])
        assert server["median"] == repetition["figures"]
        assert list(server["ratios"]) == found["bases"]
        assert set(server["ratios"]["floor"]) >= {"per_second", "p50_ms", "p99_ms"}
        assert name in shown.out
        assert f"{workload} on {name}" in shown.err
    assert "CPU µs per event" in shown.out


@pytest.mark.usefixtures("long_windows")
def test_the_price_of_replication_is_measured(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code, found = run_bench(tmp_path, "--only", "stream", "--servers", "netra-broker,netra")
    shown = capfd.readouterr()
    assert code == 0, shown.err
    assert found["bases"] == ["netra"]
    servers = found["results"]["stream"]["servers"]
    assert list(servers) == ["netra", "netra-broker"]
    figures = servers["netra-broker"]["median"]
    assert figures["all_cpu_us"] >= figures["cpu_us"]
    assert {"per_second", "p50_ms", "p99_ms"} <= set(servers["netra-broker"]["ratios"]["netra"])
    assert "spread" not in figures
    assert set(servers["netra"]["median"]) == PACED
    assert "CPU µs per event, with Valkey" in shown.out


@pytest.mark.usefixtures("long_windows")
def test_two_workers_are_measured(tmp_path: Path) -> None:
    code, found = run_bench(tmp_path, "--only", "workers", "--servers", "netra-workers,netra")
    assert code == 0, found
    servers = found["results"]["workers"]["servers"]
    figures = servers["netra-workers"]["median"]
    assert {*PACED, "all_cpu_us", "spread"} == set(figures)
    assert figures["spread"] >= 1.0
    assert list(servers["netra-workers"]["ratios"]) == ["netra"]


@pytest.mark.usefixtures("long_windows")
def test_messages_with_a_key_are_confirmed(tmp_path: Path) -> None:
    code, found = run_bench(tmp_path, "--only", "keyed", "--servers", "netra")
    assert code == 0, found
    median = found["results"]["keyed"]["servers"]["netra"]["median"]
    assert {"cpu_us", "per_second", "p99_ms", "confirmed_p50_ms", "confirmed_p99_ms"} <= set(median)


@pytest.mark.usefixtures("long_windows")
@pytest.mark.parametrize("workload", ["echo16", "connect", "memory", "idle", "growth"])
def test_all_workloads_are_measured(tmp_path: Path, workload: str) -> None:
    code, found = run_bench(tmp_path, "--only", workload, "--servers", "floor")
    assert code == 0, found
    median = found["results"][workload]["servers"]["floor"]["median"]
    assert WORKLOADS[workload].figure in median
    assert set(median) <= set(FIGURES)


def test_capacity_is_measured_on_separate_cpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A limit that no machine misses: the search ends at the greatest number of runs.
    capacity = WORKLOADS["capacity"]
    easy = {**capacity.quick, "first": 20, "seconds": 20}
    changed = evolve(capacity, quick=easy, always={"limit_ms": 60_000, "most": 80})
    monkeypatch.setattr(command, "WORKLOADS", {**WORKLOADS, "capacity": changed})
    code, found = run_bench(tmp_path, "--only", "capacity", "--servers", "floor")
    assert code == 0, found
    server = found["results"]["capacity"]["servers"]["floor"]
    assert set(server["median"]) == {*PACED, "runs"}
    assert server["median"]["runs"] == 4.0
    (repetition,) = server["repetitions"]
    assert repetition["checks"]["is_lower_bound"] == 1.0
    assert "pinned" in repetition["checks"]


@pytest.mark.usefixtures("long_windows")
@pytest.mark.parametrize("plain", [False, True], ids=["acknowledging", "plain"])
def test_replay_is_measured(tmp_path: Path, plain: bool) -> None:
    arguments = ["--only", "resume", "--servers", "netra,floor", *["--plain"] * plain]
    code, found = run_bench(tmp_path, *arguments)
    assert code == 0, found
    servers = found["results"]["resume"]["servers"]
    assert {"replay", "stream_cpu_us", "replay_cpu_us", "p99_ms"} <= set(servers["netra"]["median"])
    assert servers["floor"]["repetitions"] == []  # it has no sessions


def test_a_reconnect_storm_is_measured(tmp_path: Path) -> None:
    code, found = run_bench(tmp_path, "--only", "storm", "--servers", "netra")
    assert code == 0, found
    median = found["results"]["storm"]["servers"]["netra"]["median"]
    assert {"exact_percent", "peak_per_second", "cpu_us", "p50_ms", "p99_ms"} == set(median)
    assert median["exact_percent"] == 100.0
    assert 0 < median["peak_per_second"] <= WORKLOADS["storm"].quick["connections"]


@pytest.mark.usefixtures("long_windows")
def test_another_checkout_is_measured_in_turns(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = tmp_path / "before"
    before.mkdir()
    before.joinpath("netra_trio").symlink_to(ROOT / "netra_trio")
    name = f"netra@{before}"
    arguments = ["--only", "echo", "--servers", f"{name},netra", "--repeat", "2"]
    code, found = run_bench(tmp_path, *arguments)
    shown = capfd.readouterr()
    assert code == 0, shown.err
    assert found["bases"] == [name]
    servers = found["results"]["echo"]["servers"]
    assert list(servers) == [name, "netra"]
    assert set(servers["netra"]["ratios"][name]) >= {"per_second", "p50_ms"}
    assert [line.split(" on ")[1] for line in shown.err.splitlines() if " on " in line] == [
        f"{server}, {repetition}" for repetition in (1, 2) for server in (name, "netra")
    ]
    assert "netra@before" in shown.out


def test_every_workload_has_a_scenario_and_a_figure() -> None:
    for workload in WORKLOADS.values():
        assert workload.scenario in ALL_SCENARIOS
        assert workload.figure in FIGURES
        assert set(workload.quick) == {*workload.full} | ({"heartbeat"} & set(workload.quick))


def test_a_server_that_fails_to_start_is_reported_and_others_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    broken = Kind("broken", ("-c", "raise SystemExit('no such thing')"))
    for module in ("bench.__main__", "bench.servers"):
        monkeypatch.setattr(f"{module}.SERVERS", {"broken": broken, **SERVERS})
    code, found = run_bench(tmp_path, "--only", "idle", "--servers", "broken,floor")
    both = found["results"]["idle"]["servers"]
    assert code == 1
    assert "no such thing" in both["broken"]["repetitions"][0]["error"]
    assert both["floor"]["repetitions"][0]["error"] is None
    assert "idle on broken, repetition 1: failed: broken ended with 1" in capfd.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_processes(tmp_path: Path, number: signal.Signals) -> None:
    arguments = ["--full", "--only", "echo", "--servers", "floor", "--out", str(tmp_path / "b")]
    typed = [sys.executable, "-m", "bench", *arguments]
    with subprocess.Popen(typed, stderr=subprocess.DEVNULL) as process:  # noqa: S603 - fixed
        deadline = time.monotonic() + PATIENCE
        while len(sessions(started := proc.tree(process.pid))) < 2:  # of a server and a load
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(number)
        assert process.wait(PATIENCE) == INTERRUPTED
    assert not [pid for pid in started if proc.is_alive(pid)]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--only", "steam"], "--only: expected one of paced, capacity, stream, echo"),
        (["--servers", "netra,django"], "--servers: expected some of netra"),
        (["--servers", "floor@/tmp"], "--servers: floor does not run from another checkout"),
        (["--servers", "netra@/nowhere"], "--servers: expected a folder with netra_trio"),
        (["--only", "workers", "--servers", "netra,floor"], "--only: none of the servers is"),
        (["--repeat", "0"], "--repeat: expected 1 or more, got 0"),
        (["--repeat", "two"], "invalid int value"),
        (["--scale", "2"], "--scale: expected more than 0"),
        (["--out", "/nowhere/at/all.json"], "--out: expected a file in an existing folder"),
    ],
)
def test_invalid_arguments_are_rejected(
    arguments: list[str], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        command.plan_of(arguments)
    assert end.value.code == 2
    assert error in capsys.readouterr().err


def test_a_server_that_is_not_installed_is_skipped_or_rejected(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = Kind("absent", (), needs=("no_such_module",))
    monkeypatch.setattr(command, "SERVERS", {"absent": absent, "floor": SERVERS["floor"]})
    plan, _ = command.plan_of([])
    assert plan.servers == ["floor"]
    assert "absent is left out: no_such_module not installed" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.plan_of(["--servers", "absent"])
    assert "needs modules that are not installed: no_such_module" in capsys.readouterr().err


def test_the_full_pass_repeats_and_the_help_lists_all_names() -> None:
    plan, out = command.plan_of(["--full", "--servers", "floor,netra"])
    assert (plan.repeat, plan.servers, str(out)) == (5, ["netra", "floor"], "bench.json")
    assert plan.workloads["growth"]["connections"] == 5000
    assert plan.files > 5000
    assert "netra-stock" in command.plan_of(["--full"])[0].servers
    assert not {"netra-stock", "netra-broker"} & {*command.plan_of([])[0].servers}
    measured = {name: one for name, one in WORKLOADS.items() if not one.compares}
    everywhere = [name for name, one in measured.items() if not (one.resumes or one.rooms)]
    assert len(plan) == (2 * len(everywhere) + len(measured) - len(everywhere)) * 5
    shown = command.parser().format_help()
    assert all(name in shown for name in [*WORKLOADS, *SERVERS])


def test_the_bases_of_a_workload() -> None:
    amounts: dict[str, dict[str, float | str]] = {"paced": {}, "memory": {}}
    servers = ["netra", "netra@/srv/before", "fastapi", "floor"]
    plan = Plan(amounts, servers)
    assert plan.bases == ["fastapi", "floor", "netra@/srv/before"]
    assert plan.bases_of("paced") == ["fastapi", "floor", "netra@/srv/before"]
    assert plan.bases_of("memory") == ["fastapi", "netra@/srv/before"]
    assert Plan({"memory": {}}, servers).bases == ["fastapi", "netra@/srv/before"]
    assert Plan(amounts, ["netra", "floor"]).bases == ["floor"]
    with_a_broker = Plan(amounts, ["netra", "netra-broker", "netra-workers", "floor"])
    assert with_a_broker.bases == ["floor", "netra", "netra-broker"]
    assert with_a_broker.bases_of("memory") == ["netra", "netra-broker"]
    assert Plan(amounts, ["netra-workers"]).bases == []


def test_a_workload_that_compares_servers_needs_two_of_them() -> None:
    amounts: dict[str, dict[str, float | str]] = {"workers": {}}
    assert Plan(amounts, ["netra", "netra@/srv/before", "floor"]).servers_of("workers") == []
    two = Plan(amounts, ["netra", "netra-workers", "floor"])
    assert two.servers_of("workers") == ["netra", "netra-workers"]
    assert len(two) == 2


@pytest.mark.parametrize(
    "module",
    [
        *("__main__", "figures", "frames", "pacing", "peers.work", "report", "resuming"),
        *("scenarios", "servers", "workloads"),
    ],
)
def test_docstring_examples(module: str) -> None:
    result = doctest.testmod(importlib.import_module(f"bench.{module}"))
    assert result.attempted
    assert not result.failed
