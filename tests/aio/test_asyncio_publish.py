"""Agents that run in the asyncio thread publish to rooms."""

from typing import Any

import pytest
from support.asyncio_agents import ask, end_of, serve_agents

from netra_trio.aio import AsyncioRun, asyncio_agent
from netra_trio.rooms.event import RoomEvent

ROOM = "team:red"


async def test_its_messages_are_in_order_and_have_its_user() -> None:
    @asyncio_agent
    async def agent(run: AsyncioRun) -> str:
        for number in range(20):
            await run.publish(ROOM, {"number": number})
        return "done"

    async with serve_agents(agent=agent) as server, server.connect() as client:
        assert end_of(await ask(client))["result"] == "done"
        broker = server.node.services.broker
        epoch = (await broker.history(ROOM, epoch="", after=0)).epoch
        found = await broker.history(ROOM, epoch=epoch, after=0)
        events = [RoomEvent.unpack(each).event for each in found.events]
    assert [each["payload"] for each in events] == [
        {"user_id": "alice", "content": {"number": number}} for number in range(20)
    ]


@pytest.mark.parametrize(
    ("room", "payload", "error"),
    [("a::b", "x", ValueError), (ROOM, 5, TypeError), (ROOM, "x" * 262_144, ValueError)],
)
async def test_invalid_messages_raise_errors(
    room: str, payload: Any, error: type[Exception]
) -> None:
    @asyncio_agent
    async def agent(run: AsyncioRun) -> str:
        with pytest.raises(error):
            await run.publish(room, payload)
        return "raised"

    async with serve_agents(agent=agent) as server, server.connect() as client:
        assert end_of(await ask(client))["result"] == "raised"
