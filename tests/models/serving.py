"""A conversation with a model as an agent, over a real server of the API.

async with talking(server, tools=[weather]) as client:
    frames = await ask(client, "hello")
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
from support.memory import Client, Frame, open_server
from support.model_server import ModelServer

from netra_trio.models import chat
from netra_trio.stores.base import Store

PATIENCE = 100.0  # seconds of real time: then a test that waits forever fails
MODEL = "test-model"


@asynccontextmanager
async def talking(
    server: ModelServer, *, store: Store | None = None, run_seconds: float = 60, **options: Any
) -> AsyncIterator[Client]:
    """Serve `chat` with these options, and connect to it; a run may take `run_seconds`."""
    options.setdefault("base_url", server.url)
    agent = chat(MODEL, **options)
    with trio.fail_after(PATIENCE):
        async with (
            agent.open(),
            open_server(
                agents={"chat": agent}, store=store, agent_timeout_ms=round(run_seconds * 1000)
            ) as node,
            node.connect() as client,
        ):
            yield client


async def ask(client: Client, content: str, **payload: Any) -> list[Frame]:
    """Send a message, and return the frames up to the end of its run."""
    await client.say(content, **payload)
    return await client.until("agent_completed")


def text_of(frames: list[Frame]) -> str:
    """Return the emitted text."""
    return "".join(of_kind(frames, "partial_result", "content"))


def of_kind(frames: list[Frame], kind: str, name: str) -> list[Any]:
    """Return a field of the payload of each frame of a type."""
    return [frame["payload"][name] for frame in frames if frame["type"] == kind]


def end_of(frames: list[Frame]) -> Frame:
    """Return the payload of the end of the run."""
    payload: Frame = frames[-1]["payload"]
    return payload
