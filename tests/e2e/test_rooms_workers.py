"""Rooms on a server of two workers: presence and publishing over both, and a worker is killed."""

import os
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import orjson
import pytest
import trio
from support.server import SOON, Client, Frame, Server, bearer, serving, write_agents

pytestmark = pytest.mark.unmeasured

AGENT = """
import os

async def pid(run):
    await run.publish(run.content, {"pid": os.getpid()})
    await run.emit(str(os.getpid()))
"""
CONNECTIONS = 12  # the chance that one worker gets all of them is one in two thousand


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    write_agents(tmp_path, AGENT)
    options = {"WEBSOCKET_MAX_CONNECTIONS_PER_USER": "100", "WEBSOCKET_DRAIN_TIMEOUT": "1500"}
    with serving(tmp_path, "--agent=outside_agents:pid", "--workers", "2", **options) as running:
        yield running


async def worker_of(client: Client, room: str) -> int:
    """Return the process id of the worker of a connection, whose agent publishes it too."""
    await client.say(room)
    frames = await client.until("agent_completed")
    return int(frames[-1]["payload"]["result"])


async def presence(client: Client, room: str) -> list[Frame] | None:
    """Return the users in a room; None while a worker does not answer."""
    await client.send("get_presence", {"room": room}, "presence")
    while (frame := await client.next()).get("correlation_id") != "presence":
        pass
    if frame["type"] == "error":
        assert frame["payload"]["code"] == "SERVICE_UNAVAILABLE"
        return None
    found: list[Frame] = frame["payload"]["members"]
    return found


async def presence_is(client: Client, room: str, expected: list[Frame]) -> None:
    """Wait until the presence is as expected."""
    with trio.fail_after(SOON):
        while True:
            if await presence(client, room) == expected:
                return
            await trio.sleep(0.2)


async def test_both_workers_have_the_same_rooms(server: Server) -> None:
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(server.connect("alice")) for _ in range(CONNECTIONS)
        ]
        room = clients[0].hello["payload"]["user_room"]
        workers = [await worker_of(client, room) for client in clients]
        assert len(set(workers)) == 2
        offsets = []
        for client in clients:
            await client.send("join_room", {"room": room})
            offsets.append((await client.until("room_joined"))[-1]["payload"]["offset"])
        assert offsets == [CONNECTIONS] * CONNECTIONS  # what the agents have published
        for client in clients:
            await presence_is(client, room, [{"user_id": "alice", "connections": CONNECTIONS}])
        published = server.http(
            "POST",
            f"/ws/rooms/{room}",
            [bearer("bob", permissions=["netra:publish"])],
            content=orjson.dumps({"content": "to all"}),
        )
        assert published.json() == {
            "room": room,
            "offset": CONNECTIONS + 1,
            "status": "accepted",
        }
        events = [(await client.until("room_event"))[-1]["payload"]["event"] for client in clients]
        message = {"type": "room_message", "payload": {"user_id": "bob", "content": "to all"}}
        assert events == [message] * CONNECTIONS

        killed = workers[0]
        left = [client for client, worker in zip(clients, workers, strict=True) if worker != killed]
        os.kill(killed, signal.SIGKILL)
        await presence_is(left[0], room, [{"user_id": "alice", "connections": len(left)}])
