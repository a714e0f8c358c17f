"""Clients that join rooms over a connection, and the presence of users.

async with open_server(may=unseen) as server, server.connect() as client:
    assert (await join(client, "news"))["verdict"] == "new"
"""

from collections.abc import Sequence
from typing import Any

from support.memory import Client, Frame

ROOM = "team:red"


async def unseen(_user: str, _room: str, action: str) -> bool:
    """Allow everything but to see others: changes of presence would be between the events."""
    return action != "see"


async def join(client: Client, room: str = ROOM, **position: Any) -> Frame:
    """Join a room, and return the payload of the reply."""
    await client.send("join_room", {"room": room, **position}, "join")
    frame = await client.expect("room_joined")
    assert frame["correlation_id"] == "join"
    payload: Frame = frame["payload"]
    assert payload["room"] == room
    return payload


async def leave(client: Client, room: str = ROOM) -> None:
    """Leave a room."""
    await client.send("leave_room", {"room": room})
    await client.expect("room_left")


async def change(client: Client, room: str = ROOM) -> tuple[str, str]:
    """Return the user and the change of the next frame, which must be a change of presence."""
    frame = await client.expect("presence_changed")
    assert frame.keys() == {"type", "payload", "timestamp"}
    payload = frame["payload"]
    assert payload.keys() == {"room", "user_id", "change"}
    assert payload["room"] == room
    return payload["user_id"], payload["change"]


async def presence(client: Client, room: str = ROOM) -> dict[str, int]:
    """Return the connections of each user."""
    await client.send("get_presence", {"room": room}, "p-1")
    frame = await client.expect("presence")
    assert frame["correlation_id"] == "p-1"
    assert frame["payload"]["room"] == room
    members: Sequence[Frame] = frame["payload"]["members"]
    assert all(member.keys() == {"user_id", "connections"} for member in members)
    return {member["user_id"]: member["connections"] for member in members}
