"""An agent that blocks the event loop is named in the log; a process that is suspended is not."""

import signal
import time
from pathlib import Path

import trio
from support.server import Server, serving, write_agents

BLOCKING = """
import time


async def slow(run):
    time.sleep(2)  # line 6
    return "done"


async def busy(run):
    finished = time.monotonic() + 2
    while time.monotonic() < finished:
        sum(range(1000))  # line 13
    return "done"
"""
SUSPENDED_SECONDS = 3.0


async def ask(server: Server, agent: str) -> str:
    """Send a message to an agent; return the id of its run."""
    async with server.connect("alice") as client:
        await client.send("user_message", {"content": "hello", "agent": agent}, f"k-{agent}")
        end = (await client.until("agent_completed"))[-1]
        return str(end["payload"]["run_id"])


def test_an_agent_that_blocks_is_named(tmp_path: Path) -> None:
    write_agents(tmp_path, BLOCKING)
    with serving(tmp_path, "--agent", "outside_agents:slow") as server:
        begun = time.monotonic()
        run_id = trio.run(ask, server, "slow")
        passed = time.monotonic() - begun
        (line,) = server.process.wait_log("loop_blocked")
    assert (line["level"], line["run_id"], line["agent"]) == ("warning", run_id, "slow")
    assert (line["user_id"], line["ongoing"], line["repeated"]) == ("alice", False, 0)
    assert line["session_id"].startswith("sess_")
    assert 1 <= line["seconds"] <= passed + 1
    assert line["where"] == f"{tmp_path / 'outside_agents.py'}:6 in slow"


def test_an_agent_that_computes_is_named(tmp_path: Path) -> None:
    write_agents(tmp_path, BLOCKING)
    with serving(tmp_path, "--agent", "outside_agents:busy") as server:
        run_id = trio.run(ask, server, "busy")
        (line,) = server.process.wait_log("loop_blocked")
    assert (line["run_id"], line["agent"]) == (run_id, "busy")
    assert line["where"].startswith(f"{tmp_path / 'outside_agents.py'}:1")
    assert line["where"].endswith(" in busy")


def test_a_suspended_process_is_not_reported(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        server.process.send_signal(signal.SIGSTOP)
        time.sleep(SUSPENDED_SECONDS)
        server.process.send_signal(signal.SIGCONT)
        assert server.http("GET", "/ws/health").status_code == 200
        time.sleep(1.0)
        assert "loop_blocked" not in server.process.err.text
