"""An agent that blocks the event loop is named in the log; a process that is suspended is not."""

import os
import signal
import time
from pathlib import Path

import pytest
import trio
from support.server import STARTING, Server, serving, write_agents

from netra_trio.telemetry.watchdog import PERIOD

pytestmark = pytest.mark.unmeasured

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
IDLE_CPU_SECONDS = 0.05  # in two periods; the watchdog allows 0.12 in the suspended one


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


def cpu_seconds(process_id: int) -> float:
    """Return the CPU time that a process has used."""
    fields = Path(f"/proc/{process_id}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_until_idle(process_id: int) -> None:
    """Wait until a process uses almost no CPU time for longer than the watchdog's period."""
    deadline = time.monotonic() + STARTING
    while True:
        used = cpu_seconds(process_id)
        time.sleep(2 * PERIOD)
        if cpu_seconds(process_id) - used <= IDLE_CPU_SECONDS:
            return
        assert time.monotonic() < deadline


def test_a_suspended_process_is_not_reported(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        # A process that works shortly before it is suspended has used CPU time in that period, by
        # which the watchdog takes it for a blocked one.
        assert server.http("GET", "/ws/health").status_code == 200
        wait_until_idle(server.process.pid)
        server.process.send_signal(signal.SIGSTOP)
        time.sleep(SUSPENDED_SECONDS)
        server.process.send_signal(signal.SIGCONT)
        time.sleep(4 * PERIOD)
        assert server.http("GET", "/ws/health").status_code == 200
        assert "loop_blocked" not in server.process.err.text
