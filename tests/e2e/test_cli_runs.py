"""The command `runs`: lists the runs of a real server, and stops them."""

import json
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from support.commands import Typed
from support.server import Server, serving, write_agents

from netra_trio.cli import runs

AGENTS = """
import trio
from netra_trio import agent


async def sleep(run):
    await run.emit("I sleep. ")
    await trio.sleep(1000)


async def ignore(run):
    await run.emit("I sleep. ")
    with trio.CancelScope(shield=True):
        await trio.sleep(1000)


sleeper = agent(sleep, unattended="continue")
"""
ARGUMENTS = ["--agent", "outside_agents:sleeper", "--agent", "outside_agents:sleep"]


async def start(server: Server, user: str, thread: str, agent: str = "sleeper") -> str:
    """Start a run of a user, and leave; return its id."""
    async with server.connect(user) as client:
        await client.say("go", f"k-{thread}", agent=agent, thread_id=thread)  # stored at once
        frames = await client.until("partial_result")
    run_id: str = frames[-1]["payload"]["run_id"]
    return run_id


def rows(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


async def call(typed: Typed, *arguments: str, **environ: str) -> tuple[int, str, str]:
    """Run a command in a thread: it has an event loop of its own."""
    return await trio.to_thread.run_sync(partial(typed, *arguments, **environ))


async def test_runs_are_listed_and_stopped(tmp_path: Path, typed: Typed) -> None:
    write_agents(tmp_path, AGENTS)
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    command = partial(call, typed, DATABASE_URL=url)
    assert await command("runs") == (0, "No run is at work or waits.\n", "")
    assert await command("runs", "--json") == (0, "", "")
    with serving(tmp_path, *ARGUMENTS, DATABASE_URL=url, WEBSOCKET_RESUME_WINDOW="100") as server:
        first = await start(server, "alice", "t-1")
        other = await start(server, "bob", "t-2")
        third = await start(server, "alice", "t-3")
        code, out, err = await command("runs", "--json")
        assert (code, err) == (0, "")
        [row, *_] = rows(out)
        assert [each["run_id"] for each in rows(out)] == [first, other, third]
        assert row.pop("created_at") > 1_700_000_000
        assert row.pop("node").startswith("own_")
        assert row == {
            "run_id": first,
            "user_id": "alice",
            "thread_id": "t-1",
            "agent_name": "sleeper",
            "status": "running",
            "unattended": True,
        }
        code, out, _ = await command("runs", "--user", "bob")
        head, line = (each.split() for each in out.splitlines())
        assert code == 0
        assert head == ["Run", "User", "Thread", "Agent", "Status", "Unattended", "Age", "Node"]
        assert line[:6] == [other, "bob", "t-2", "sleeper", "running", "continue"]
        assert await command("runs", "--stop", first) == (0, f"{first}: cancelled\n", "")
        again = (0, f"{first}: has ended before, cancelled\n", "")
        assert await command("runs", "--stop", first) == again
        code, out, err = await command("runs", "--stop", other, "--user", "alice")
        assert (code, out) == (1, "")
        assert err == (
            f"there is no run '{other}' of user 'alice'; list those at work with: netra-trio runs\n"
        )
        code, out, _ = await command("runs", "--stop", other, "--user", "bob", "--json")
        assert (code, rows(out)) == (0, [{"run_id": other, "status": "cancelled"}])
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
    assert [each["run_id"] for each in rows((await command("runs", "--json"))[1])] == [third]
    ended = (0, f"{third}: has ended before, interrupted\n", "")
    assert await command("runs", "--stop", third) == ended
    assert await command("runs") == (0, "No run is at work or waits.\n", "")


async def test_a_run_whose_node_does_not_answer(
    tmp_path: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_agents(tmp_path, AGENTS)
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    monkeypatch.setattr(runs, "STOP_SECONDS", 0.5)
    with serving(tmp_path, *ARGUMENTS, DATABASE_URL=url) as server:
        run_id = await start(server, "alice", "t-1", "sleep")
        server.process.send_signal(signal.SIGSTOP)
        try:
            code, out, err = await call(typed, "runs", "--stop", run_id, DATABASE_URL=url)
        finally:
            server.process.send_signal(signal.SIGCONT)
        assert (code, out) == (1, "")
        assert err.startswith(f"{run_id} has not ended within 0.5 s: its node own_")
        monkeypatch.setattr(runs, "STOP_SECONDS", 30.0)
        # The request stands: it ends without another one, or with this one.
        code, out, _ = await call(typed, "runs", "--stop", run_id, "--json", DATABASE_URL=url)
        assert (code, rows(out)) == (0, [{"run_id": run_id, "status": "cancelled"}])


def test_a_run_that_is_not_known(typed: Typed) -> None:
    assert typed("runs", "--stop", "run_x") == (
        1,
        "",
        "there is no run 'run_x'; list those at work with: netra-trio runs\n",
    )


def test_a_database_in_memory(typed: Typed) -> None:
    code, out, err = typed("runs", DATABASE_URL="sqlite://")
    assert (code, out) == (1, "")
    assert err == (
        "runs in memory are known to their server only: set DATABASE_URL to its database\n"
    )


def test_a_database_that_does_not_answer(typed: Typed) -> None:
    code, out, err = typed("runs", DATABASE_URL="postgresql://u@127.0.0.1:9/x")
    assert (code, out) == (1, "")
    assert err.startswith("the database does not answer: ")


def test_the_help(typed: Typed) -> None:
    code, out, _ = typed("runs", "--help")
    assert code == 0
    for option in ("--user", "--stop", "--json"):
        assert option in out
