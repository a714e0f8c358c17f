"""A run without a session whose node is killed: another node notifies the webhook."""

import os
from pathlib import Path

import pytest
import trio
from support.nodes import Nodes, Place
from support.receiver import receiving
from support.server import PATIENCE, write_agents

AGENTS = """
import trio
from netra_trio import agent


async def sleep(run):
    await run.emit("I sleep. ")
    await trio.sleep(float(run.content))


sleeper = agent(sleep, unattended="continue")
"""
# Each takes the lease of the store, 30 s; `nox -s faults` tests both.
DATABASES = os.environ.get("FAULT_DATABASES", "postgres").split(",")
PLACE = Place(options=["--agent", "outside_agents:sleeper"])


@pytest.mark.parametrize("database", DATABASES)
async def test_another_node_sends_the_end_of_a_run_whose_node_was_killed(
    database: str, *, tmp_path: Path, valkey_url: str, database_url: str
) -> None:
    write_agents(tmp_path, AGENTS)
    url = f"sqlite:///{tmp_path / 'netra.db'}" if database == "sqlite" else database_url
    with receiving() as receiver:
        settings = {
            **receiver.environ,
            "REDIS_URL": valkey_url,
            "DATABASE_URL": url,
            "WEBSOCKET_RESUME_WINDOW": "200",
        }
        with Nodes(tmp_path, 2, [PLACE, PLACE], **settings) as nodes:
            runs: dict[str, str] = {}
            for number, content in ((0, "1000"), (1, "2"), (0, "2")):
                async with nodes.server(number).connect() as client:
                    await client.say(
                        content, f"k-{len(runs)}", agent="sleeper", thread_id=f"t{len(runs)}"
                    )
                    frames = await client.until("partial_result")
                runs[frames[-1]["payload"]["run_id"]] = content
            with trio.fail_after(PATIENCE):
                while len(receiver.accepted) < 2:  # noqa: ASYNC110 - another thread
                    await trio.sleep(0.1)
                nodes.kill(0)
                while len(receiver.accepted) < 3:  # noqa: ASYNC110 - likewise
                    await trio.sleep(0.1)
        sent = {each["run_id"]: each["status"] for each in receiver.accepted.values()}
        assert sent == {
            run_id: "interrupted" if content == "1000" else "completed"
            for run_id, content in runs.items()
        }
        # One for each run; a node that was killed before it had noted an answer has sent one twice.
        assert len(receiver.accepted) == len(runs)
