"""The start of servers: their environment, their CPUs, and the source of another checkout."""

import os
from pathlib import Path

import pytest

from bench import servers
from bench.servers import ROOT, SERVERS, Kind, Name, running, separate_cpus


def test_settings_of_the_caller_do_not_reach_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBSOCKET_SEND_TIMEOUT", "1")
    monkeypatch.setenv("DATABASE_URL", "sqlite://")
    monkeypatch.setenv("BENCH_UVICORN_WS", "wsproto")
    with running("floor", heartbeat=30.0, unlimited=True) as server:
        environ = Path(f"/proc/{server.pid}/environ").read_bytes()
    assert b"WEBSOCKET_SEND_TIMEOUT" not in environ
    assert b"DATABASE_URL" not in environ
    assert b"BENCH_UVICORN_WS=wsproto" in environ
    assert b"WEBSOCKET_MAX_MESSAGE_RATE=1000000000" in environ
    assert not server.output.exists()


def test_a_server_runs_on_its_cpus_only() -> None:
    before = os.sched_getaffinity(0)
    cpu = min(before)
    with running("floor", heartbeat=30.0, unlimited=True, cpus=[cpu]) as server:
        assert os.sched_getaffinity(server.pid) == {cpu}
        assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize(
    ("available", "separate"),
    [({0}, None), ({2, 0}, ([2], [0])), ({0, 1, 2, 5}, ([5], [0, 1, 2]))],
)
def test_server_and_load_get_separate_cpus(
    monkeypatch: pytest.MonkeyPatch, available: set[int], separate: object
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: available)
    assert separate_cpus() == separate


def test_names_with_and_without_a_folder() -> None:
    assert Name.parse("netra") == Name("netra")
    assert Name.parse("netra").short == "netra"
    assert Name.parse("netra@/srv/a/before") == Name("netra", Path("/srv/a/before"))
    assert Name.parse("netra@before").checkout == Path.cwd() / "before"


def test_another_checkout_has_its_own_package_and_the_agents_of_this_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for package in ("netra_trio", "bench"):
        tmp_path.joinpath(package).mkdir()
        tmp_path.joinpath(package, "__init__.py").touch()
    script = (
        "import bench, bench.peers.work, netra_trio, time\n"
        "print(netra_trio.__file__, bench.__file__)\n"
        "print('Ready on http://127.0.0.1:1', flush=True)\n"
        "time.sleep(60)"
    )
    kind = Kind("prints where its modules are", ("-c", script), has_checkouts=True)
    monkeypatch.setattr(servers, "SERVERS", {**SERVERS, "printer": kind})
    for name, checkout in (("printer", ROOT), (f"printer@{tmp_path}", tmp_path)):
        with running(name, heartbeat=30.0, unlimited=True) as server:
            package, benchmark = server.output.read_text().split()[:2]
            assert Path(package).parent == checkout / "netra_trio"
            assert Path(benchmark).resolve().parent == ROOT / "bench"
