"""Several sessions of one user, which get the changes of the user's threads.

async with open_server() as server, devices(server, 2) as (one, two):
    await one.say("hello", "k", thread_id="t")
    assert (await changed(two))["thread"]["title"] == "hello"
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from support.memory import Client, Frame, Server

UNSKIPPED: frozenset[str] = frozenset()


@asynccontextmanager
async def devices(server: Server, count: int, **options: Any) -> AsyncIterator[Sequence[Client]]:
    """Open connections of one user, each with a session of its own."""
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(server.connect(**options)) for _ in range(count)]
        for client in clients:
            client.skipped = UNSKIPPED
        yield clients


async def call(client: Client, kind: str, payload: Any = None, key: str = "c-1") -> Frame:
    """Send a message, and return the payload of its reply; earlier frames are dropped."""
    await client.send(kind, payload, key)
    frame = await client.next()
    while frame.get("correlation_id") != key:
        frame = await client.next()
    reply: Frame = frame["payload"]
    return reply


async def converse(client: Client, content: str, **payload: Any) -> Frame:
    """Send a message, and return the payload of its confirmation once its run has ended."""
    await client.say(content, content, **{"thread_id": "t", **payload})
    confirmed: Frame = (await client.until("message_confirmed"))[-1]["payload"]
    await client.until("agent_completed")
    return confirmed


async def changed(client: Client) -> Frame:
    """Return the payload of the next frame, a `thread_changed` that answers no request."""
    frame = await client.expect("thread_changed")
    assert "correlation_id" not in frame
    payload: Frame = frame["payload"]
    return payload


async def threads(client: Client, **request: Any) -> Sequence[Frame]:
    """Return the listed threads."""
    listed: Sequence[Frame] = (await call(client, "list_threads", request))["threads"]
    return listed


async def history(client: Client, thread_id: str = "t", **request: Any) -> Sequence[Frame]:
    """Return the messages of a thread."""
    page = await call(client, "get_thread_history", {"thread_id": thread_id, **request})
    messages: Sequence[Frame] = page["messages"]
    return messages
