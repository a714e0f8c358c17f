"""Agents publish to rooms with `run.publish`."""

from typing import Any

import pytest
import trio
from support.memory import Server, open_server

from netra_trio import Run
from netra_trio.broker.memory import MemoryBackend, MemoryBroker
from netra_trio.errors import BrokerUnavailable
from netra_trio.rooms.event import RoomEvent

ROOM = "team:red"


async def published(server: Server, room: str = ROOM) -> list[Any]:
    """Return the events of a room."""
    broker = server.node.services.broker
    epoch = (await broker.history(room, epoch="", after=0)).epoch
    found = await broker.history(room, epoch=epoch, after=0)
    return [RoomEvent.unpack(each).event for each in found.events]


def message(content: Any, user: str = "alice") -> dict[str, Any]:
    return {"type": "room_message", "payload": {"user_id": user, "content": content}}


@pytest.mark.parametrize("backend", [None, MemoryBackend()])
async def test_its_messages_have_its_user(backend: MemoryBackend | None) -> None:
    async def agent(run: Run) -> None:
        await run.publish(ROOM, "one")
        await run.publish(ROOM, {"two": [2]})

    async with open_server(agents={"a": agent}, backend=backend) as server:
        assert backend is None or server.node.services.broker is backend.broker
        async with server.connect("alice") as alice, server.connect("bob") as bob:
            for client in (alice, bob):
                await client.say("go")
                end = (await client.until("agent_completed"))[-1]
                assert end["payload"]["status"] == "completed"
        assert await published(server) == [
            message(content, user) for user in ("alice", "bob") for content in ("one", {"two": [2]})
        ]


async def test_invalid_messages_raise_errors() -> None:
    wrong: list[tuple[str, Any, type[Exception]]] = [
        (":internal", "x", ValueError),
        (ROOM, 5, TypeError),
        (ROOM, {1: 2}, TypeError),
        (ROOM, "x" * 262_144, ValueError),
    ]

    async def agent(run: Run) -> None:
        for room, payload, error in wrong:
            with pytest.raises(error):
                await run.publish(room, payload)
        await run.publish(ROOM, "last")

    async with open_server(agents={"a": agent}) as server, server.connect() as client:
        await client.say("go")
        end = (await client.until("agent_completed"))[-1]["payload"]
        assert end["status"] == "completed"
        assert await published(server) == [message("last")]


async def test_after_the_end_of_the_run() -> None:
    kept: list[Run] = []

    async def agent(run: Run) -> None:
        kept.append(run)

    async with open_server(agents={"a": agent}) as server, server.connect() as client:
        await client.say("go")
        await client.until("agent_completed")
        with pytest.raises(trio.ClosedResourceError):
            await kept[0].publish(ROOM, "late")
        assert await published(server) == []


class HangingBroker(MemoryBroker):
    """A broker that does not answer, without a time limit."""

    asked = trio.Event()

    async def publish(self, *_: Any, **__: Any) -> Any:
        """Wait for ever."""
        self.asked.set()
        await trio.sleep_forever()


class AbsentBroker(MemoryBroker):
    """A broker that cannot be reached."""

    async def publish(self, *_: Any, **__: Any) -> Any:
        """Fail."""
        await trio.lowlevel.checkpoint()
        raise BrokerUnavailable("no answer")


async def test_a_stop_while_the_broker_does_not_answer() -> None:
    async def agent(run: Run) -> None:
        await run.publish(ROOM, "x")

    backend = MemoryBackend()
    backend.broker = broker = HangingBroker(backend.node, backend.server)
    async with (
        open_server(agents={"a": agent}, backend=backend) as server,
        server.connect() as client,
    ):
        await client.say("go")
        started = (await client.until("agent_started"))[-1]["payload"]
        await broker.asked.wait()
        await client.send("stop_agent", {"run_id": started["run_id"]})
        end = (await client.until("agent_completed"))[-1]["payload"]
        assert end["status"] == "cancelled"


async def test_a_broker_that_is_away_is_raised_to_the_agent() -> None:
    async def agent(run: Run) -> str:
        try:
            await run.publish(ROOM, "x")
        except BrokerUnavailable:
            return "away"
        return "published"

    backend = MemoryBackend()
    backend.broker = AbsentBroker(backend.node, backend.server)
    async with (
        open_server(agents={"a": agent}, backend=backend) as server,
        server.connect() as client,
    ):
        await client.say("go")
        assert (await client.until("agent_completed"))[-1]["payload"]["result"] == "away"
