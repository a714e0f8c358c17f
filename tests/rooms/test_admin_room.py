"""The room of the live page: its permission, which is one of the token."""

from typing import Any

import pytest
import trio
from support.memory import EPOCH, SECRET, Client, Server, open_server
from support.room_clients import join
from support.shared_nodes import open_nodes
from trio.testing import MockClock

from netra_trio.auth.tokens import TokenVerifier
from netra_trio.ids import UserId
from netra_trio.protocol.admin import ADMIN_ROOM, ADMINISTRATOR
from netra_trio.rooms.permission import PermissionCheck
from netra_trio.rooms.publisher import ReservedRoom
from netra_trio.rooms.rechecks import RECHECK_SECONDS

ADMIN = frozenset({ADMINISTRATOR})
QUIET: dict[str, Any] = {"heartbeat_interval_ms": 300_000}


async def all_may(_user: str, _room: str, _action: str) -> bool:
    return True


async def refusal(client: Client, kind: str, **payload: str) -> str:
    """Send a command for the room; return the code of the error that follows."""
    await client.send(kind, {"room": ADMIN_ROOM, **payload})
    code: str = (await client.error())["code"]
    return code


async def left(client: Client) -> None:
    """Read frames until the client has left the room."""
    frame = (await client.until("room_left"))[-1]
    assert frame["payload"] == {"room": ADMIN_ROOM}


async def renew(client: Client, *permissions: str) -> None:
    token = TokenVerifier(SECRET).sign("alice", expires_at=EPOCH + 1e9, permissions=permissions)
    await client.send("auth", {"token": token}, "renewal")


def members(server: Server) -> int:
    return len(server.node.services.rooms.members(ADMIN_ROOM))


@pytest.mark.parametrize("may", [None, all_may])
async def test_the_permission_of_the_token_decides_alone(
    may: PermissionCheck | None, autojump_clock: MockClock
) -> None:
    async with (
        open_server(may=may, **QUIET) as server,
        server.connect("alice", permissions=ADMIN) as admin,
        server.connect("bob", permissions=frozenset({"netra:publish"})) as other,
    ):
        assert await refusal(other, "join_room") == "FORBIDDEN"
        assert (await join(admin, ADMIN_ROOM))["verdict"] == "new"
        assert members(server) == 1


@pytest.mark.parametrize("permissions", [ADMIN, frozenset[str]()])
async def test_no_client_publishes_or_sees_others(
    permissions: frozenset[str], autojump_clock: MockClock
) -> None:
    async with (
        open_server(may=all_may, **QUIET) as server,
        server.connect(permissions=permissions) as client,
    ):
        assert await refusal(client, "room_message", content="x") == "FORBIDDEN"
        assert await refusal(client, "get_presence") == "FORBIDDEN"


async def test_no_agent_and_no_program_publishes(autojump_clock: MockClock) -> None:
    async with open_server(may=all_may, **QUIET) as server:
        publisher = server.node.services.publisher
        with pytest.raises(ReservedRoom, match="admin:live"):
            await publisher.publish(ADMIN_ROOM, {"kind": "node"}, user_id=UserId("alice"))
        await publisher.publish("admin:other", "x")  # a room as any other


async def test_administrators_see_no_presence_of_each_other(autojump_clock: MockClock) -> None:
    async with (
        open_server(may=all_may, **QUIET) as server,
        server.connect("alice", permissions=ADMIN) as alice,
        server.connect("bob", permissions=ADMIN) as bob,
    ):
        await join(alice, ADMIN_ROOM)
        await join(bob, ADMIN_ROOM)
        await trio.sleep(5)
        frames = [each["type"] for each in await alice.sync()]
        assert "presence_changed" not in frames


async def test_a_new_token_without_the_permission_ends_the_membership(
    autojump_clock: MockClock,
) -> None:
    async with open_server(**QUIET) as server, server.connect(permissions=ADMIN) as client:
        await renew(client, ADMINISTRATOR)  # before the first room
        await client.until("auth_ok")
        await join(client, ADMIN_ROOM)
        await renew(client, ADMINISTRATOR)
        await client.until("auth_ok")
        assert members(server) == 1
        await renew(client)
        await left(client)
        assert members(server) == 0
        assert await refusal(client, "join_room") == "FORBIDDEN"


async def test_a_new_token_without_the_permission_ends_a_join(autojump_clock: MockClock) -> None:
    subscribing, renewed = trio.Event(), trio.Event()

    async def wait(call: str) -> None:
        if call == "subscribe":
            subscribing.set()
            await renewed.wait()

    async with open_nodes(1, **QUIET) as (one,), one.connect(permissions=ADMIN) as client:
        one.link.on_call = wait
        await client.send("join_room", {"room": ADMIN_ROOM}, "join")
        await subscribing.wait()  # the permission was checked
        await renew(client)
        await client.until("auth_ok")
        renewed.set()
        assert (await client.error())["code"] == "FORBIDDEN"
        assert members(one) == 0
        await trio.sleep(5)
        assert await client.sync() == []


async def test_the_permission_is_checked_again(autojump_clock: MockClock) -> None:
    async with open_server(**QUIET) as server, server.connect(permissions=ADMIN) as client:
        await join(client, ADMIN_ROOM)
        await read_for(client, 2 * RECHECK_SECONDS)
        assert members(server) == 1
        feed = next(iter(server.node.services.rooms.members(ADMIN_ROOM))).feed
        feed.permissions = frozenset  # as if nothing had noted the new token
        with trio.fail_after(RECHECK_SECONDS + 1):
            await left(client)


async def read_for(client: Client, seconds: float) -> None:
    """Read frames: the live page sends one each second."""
    with trio.move_on_after(seconds):
        while True:
            await client.next()
