"""Rooms and a watched thread over real sockets that are cut, with two workers on one Valkey."""

from pathlib import Path

import pytest
import trio
from support.cutting import cutting
from support.server import PATIENCE, serving, sign, write_agents

from netra_trio.client import Client, Event, Network, connect

pytestmark = pytest.mark.unmeasured

WORDS = 30
SOURCE = f"""
import trio


async def count(run):
    for number in range({WORDS}):
        await run.emit(f"{{number}} ")
        await trio.sleep(0.02)
"""
WHOLE = "".join(f"{number} " for number in range(WORDS))
COUNT = 20  # messages to the room of the user


async def watch(client: Client, events: list[Event], task_status: trio.TaskStatus[None]) -> None:
    async with client.watch("main") as thread:
        task_status.started()
        async for event in thread:
            events.append(event)
            if event.type == "agent_completed":
                break


async def listen(client: Client, events: list[Event], task_status: trio.TaskStatus[None]) -> None:
    async with client.room(client.user_room) as room:
        task_status.started()
        async for event in room:
            events.append(event)
            if len(events) == COUNT:
                break


async def test_members_of_two_workers_that_are_cut(tmp_path: Path) -> None:
    write_agents(tmp_path, SOURCE)
    limits = {"WEBSOCKET_MAX_CONNECTIONS_PER_USER": "50"}
    options = ("--agent=outside_agents:count", "--workers", "2")

    due = [7]

    def every_seventh(frames: int) -> bool:
        is_due = frames >= due[0]
        due[0] += 7 * is_due
        return is_due

    seen, heard = list[Event](), list[Event]()
    with serving(tmp_path, *options, **limits) as server, trio.fail_after(PATIENCE):
        port = int(server.url.partition("//")[2].partition("/")[0].rpartition(":")[2])
        async with (
            cutting(port, every_seventh) as (relayed, relay),
            connect(server.url, token=sign()) as asking,
            connect(
                f"ws://127.0.0.1:{relayed}/ws",
                token=sign(),
                random=lambda: 0.05,
                dialer=Network(),
            ) as client,
            trio.open_nursery() as nursery,
        ):
            await nursery.start(watch, client, seen)
            await nursery.start(listen, client, heard)
            run = await asking.send("hello", thread_id="main")
            async with asking.room(asking.user_room) as room:
                for number in range(COUNT):
                    await room.send({"number": number})
            assert await run.text() == WHOLE
    assert relay.cuts > 3
    assert [event.payload["content"]["number"] for event in heard] == list(range(COUNT))
    assert [event.type for event in seen if event.type != "partial_result"] == [
        *("room_joined", "user_message", "agent_started"),
        "agent_completed",
    ]
    deltas = [event.payload["content"] for event in seen if event.type == "partial_result"]
    assert "".join(deltas) == WHOLE
