"""Runs of asyncio agents that complete, fail or are stopped leave nothing behind."""

import asyncio
import gc
from collections import Counter

import pytest
from structlog.testing import capture_logs
from support.asyncio_agents import ask, serve_agents
from support.memory import Client

from netra_trio.aio import AsyncioRun, asyncio_agent

ROUNDS = 10
OURS = {"Bridge", "Handover", "AsyncioRun", "AsyncioTool", "Call", "ToolBlock", "Run", "frame"}
"""Types whose objects must not be in a cycle."""


@asyncio_agent
async def agent(run: AsyncioRun) -> None:
    async with run.tool("count", text=run.content) as tool:
        tool.result = len(await run.history())
    await run.emit("x")
    if run.content == "fail":
        raise ValueError(run.content)
    if run.content == "stop":
        await asyncio.sleep(100)


async def one(client: Client, content: str) -> None:
    if content != "stop":
        await ask(client, content)
        return
    await client.say(content)
    run_id = (await client.until("partial_result"))[-1]["payload"]["run_id"]
    await client.send("stop_agent", {"run_id": run_id})
    await client.until("agent_completed")


@pytest.mark.parametrize("content", ["complete", "fail", "stop"])
async def test_runs_leave_no_cyclic_garbage(content: str) -> None:
    with capture_logs():
        async with serve_agents(agent=agent) as server, server.connect() as client:
            for _ in range(2):  # fills all caches
                await one(client, content)
            flags = gc.get_debug()
            gc.collect()
            gc.disable()
            try:
                for _ in range(ROUNDS):
                    await one(client, content)
                gc.set_debug(gc.DEBUG_SAVEALL)
                gc.collect()
                found = Counter(type(each).__name__ for each in gc.garbage)
            finally:
                gc.set_debug(flags)
                gc.garbage.clear()
                gc.enable()
    # The last run may still be ending in the asyncio thread.
    assert {name: found[name] for name in OURS if found[name] >= ROUNDS - 1} == {}
