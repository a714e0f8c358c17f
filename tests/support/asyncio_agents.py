"""A server whose agents run in the asyncio thread, in real time: no virtual clock waits for it.

async with serve_agents(shop=asyncio_agent(shop)) as server, server.connect() as client:
    events = await ask(client, "hello")
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from netra_trio.agents.resources import resources_of
from netra_trio.agents.run import Agent
from support.memory import Client, Frame, Server, open_server

SECONDS = 100.0  # a bound on what hangs


@asynccontextmanager
async def serve_agents(*, options: Any = None, **agents: Agent) -> AsyncIterator[Server]:
    """Serve agents with their resources open, as an application does."""
    with trio.fail_after(SECONDS):
        async with (
            _opened(list(resources_of(agents))),
            open_server(agents=agents, **(options or {})) as server,
        ):
            yield server


@asynccontextmanager
async def _opened(resources: list[Any]) -> AsyncIterator[None]:
    if not resources:
        yield
        return
    async with resources[0](), _opened(resources[1:]):
        yield


async def ask(client: Client, content: str = "hello", **payload: Any) -> list[Frame]:
    """Send a message, and return the frames up to the end of its run."""
    await client.say(content, **payload)
    return await client.until("agent_completed")


def text_of(frames: list[Frame]) -> str:
    """Return the emitted text."""
    return "".join(
        frame["payload"]["content"] for frame in frames if frame["type"] == "partial_result"
    )


def end_of(frames: list[Frame]) -> Frame:
    """Return the payload of the end of a run, without its duration."""
    end: Frame = dict(frames[-1]["payload"])
    del end["run_id"], end["duration_ms"]
    return end
