"""Rooms of two nodes on a real Valkey."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import trio
from support.rooms import Member, RoomsNode
from support.valkey import Server, server

from netra_trio.broker.valkey import keys
from netra_trio.broker.valkey.backend import ValkeyBackend
from netra_trio.errors import BrokerUnavailable
from netra_trio.ids import UserId, new_node_id
from netra_trio.protocol.problem import Refused

PATIENCE = 20.0  # seconds: the machine is shared


@asynccontextmanager
async def open_nodes(valkey: Server) -> AsyncIterator[list[RoomsNode]]:
    """Open the rooms of two nodes on an empty server."""
    valkey.command("FLUSHALL")
    async with AsyncExitStack() as stack:
        backends = [ValkeyBackend(new_node_id(), valkey.url) for _ in range(2)]
        for backend in backends:
            await stack.enter_async_context(backend.open())
        nodes = [RoomsNode(backend.broker) for backend in backends]
        nursery = await stack.enter_async_context(trio.open_nursery())
        for node in nodes:
            nursery.start_soon(node.rooms.run)
        with trio.fail_after(PATIENCE):
            yield nodes
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds."""
    while not condition():  # noqa: ASYNC110 - what it waits for has no event
        await trio.sleep(0.005)


async def until_read(member: Member, events: int) -> None:
    """Wait until a member has read so many events."""
    await until(lambda: len(member.contents()) == events)


async def again(call: Callable[[], Awaitable[Any]]) -> Any:
    """Call until the server answers."""
    while True:
        try:
            return await call()
        except (BrokerUnavailable, Refused):
            await trio.sleep(0.05)


async def test_two_publishers_at_two_nodes_have_one_order(valkey_server: Server) -> None:
    async with open_nodes(valkey_server) as nodes:
        members = [node.member(user) for node in nodes for user in ("alice", "bob")]
        for member in members:
            await member.join()

        async def publish(node: RoomsNode, name: str) -> None:
            for number in range(100):
                await node.say("news", f"{name}-{number}")

        async with trio.open_nursery() as nursery:
            for number, node in enumerate(nodes):
                nursery.start_soon(publish, node, f"node-{number}")
        for member in members:
            await until_read(member, 200)
            assert member.offsets() == list(range(1, 201))
            assert member.contents() == members[0].contents()


async def test_cuts_of_every_member_after_every_event(valkey_server: Server) -> None:
    async with open_nodes(valkey_server) as nodes:
        members = [nodes[number % 2].member(f"user-{number}") for number in range(4)]
        for member in members:
            await member.join()
        for number in range(20):
            await nodes[number % 2].say("news", number)
            for place, member in enumerate(members):
                if (number + place) % 2 == 0:
                    member.read()
                    member.cut()
                    member.connect(nodes[(number + place) // 2 % 2])
                    await member.rejoin()
        for member in members:
            await until_read(member, 20)
            assert member.offsets() == list(range(1, 21))
            assert member.gaps() == []


async def test_members_get_events_from_the_time_of_a_lost_connection(
    valkey_server: Server,
) -> None:
    async with open_nodes(valkey_server) as (one, two):
        member = one.member()
        await member.join()
        await two.say("news", "a")
        await until(lambda: member.contents() == ["a"])
        valkey_server.command("CLIENT", "KILL", "TYPE", "pubsub")
        await again(lambda: two.say("news", "b", "c"))
        await until_read(member, 3)
        assert member.contents() == ["a", "b", "c"]
        assert member.gaps() == []
        await one.rooms.kick("news", UserId("alice"))
        await until(lambda: member.frames[-1]["type"] == "room_left" or member.read())


async def test_a_server_that_lost_everything(valkey_server: Server) -> None:
    async with open_nodes(valkey_server) as (one, two):
        members = [one.member("alice"), two.member("bob")]
        away = two.member("carol")
        for member in (*members, away):
            await member.join()
        await one.say("news", "a", "b")
        for member in (*members, away):
            await until_read(member, 2)
        away.cut()
        valkey_server.command("FLUSHALL")
        await two.say("news", "c")
        for member in members:
            await until_read(member, 3)
            assert member.gaps() == [(1, 0)]
        away.connect(one)
        joined = await away.rejoin()
        assert (joined["verdict"], joined["offset"], joined["replayed"]) == ("gap", 0, 1)
        await until(lambda: away.contents() == ["a", "b", "c"])


async def test_a_server_with_older_data_begins_a_new_epoch(valkey_server: Server) -> None:
    """As after a fail-over to a replica that had not received the newest events."""
    async with open_nodes(valkey_server) as (one, two):
        members = [one.member("alice"), one.member("bob")]
        for member in members:
            await member.join()
        await one.say("news", "a", "b", "c")
        for member in members:
            await until_read(member, 3)
        valkey_server.command("HSET", keys.room("news"), "offset", 1)
        newest = valkey_server.command("XREVRANGE", keys.events("news"), "+", "-", "COUNT", 2)
        valkey_server.command("XDEL", keys.events("news"), *(entry_id for entry_id, _ in newest))
        valkey_server.command("CLIENT", "KILL", "TYPE", "pubsub")
        await until(lambda: not valkey_server.command("EXISTS", keys.events("news")))
        await two.say("news", "d", "e", "f", "g")
        for member in members:
            await until(lambda: member.contents()[-1:] == ["g"])  # noqa: B023 - it is awaited here
            assert member.contents() == list("abcdefg")
            assert member.gaps() == [(1, 0)]


@pytest.mark.parametrize("is_killed", [False, True])
async def test_a_server_that_stops_answering_for_a_while(*, is_killed: bool) -> None:
    with server("valkey") as valkey:
        async with open_nodes(valkey) as (one, two):
            member, late = one.member("alice"), two.member("bob")
            await member.join()
            await two.say("news", "a")
            await until(lambda: member.contents() == ["a"])
            (valkey.kill if is_killed else valkey.stop)()
            started = trio.current_time()
            with pytest.raises(Refused) as caught:
                await two.rooms.join(late.feed, "news", after=0)
            assert caught.value.problem.code == "SERVICE_UNAVAILABLE"
            assert trio.current_time() - started < 5
            (valkey.start if is_killed else valkey.go_on)()
            await again(lambda: two.rooms.join(late.feed, "news", after=0))
            joined = late.read()[0]["payload"]
            assert joined["verdict"] == "exact"
            assert joined["replayed"] == (0 if is_killed else 1)
            await again(lambda: two.say("news", "b"))
            await until(lambda: late.contents()[-1:] == member.contents()[-1:] == ["b"])
            assert member.contents() == ["a", "b"]
            assert member.gaps() == ([(1, 0)] if is_killed else [])  # it keeps nothing on disk


def test_a_member_checks_its_events() -> None:
    """The checks of the tests themselves find a lost and a doubled event."""
    member = object.__new__(Member)
    member.positions = {"news": ("e", 3)}
    event = {"room": "news", "epoch": "e", "offset": 3}
    with pytest.raises(AssertionError):
        member._check("room_event", event)
    with pytest.raises(AssertionError):
        member._check("room_event", {**event, "epoch": "f", "offset": 4})
    with pytest.raises(AssertionError):
        member._check("room_gap", {"room": "news", "from": 3, "to": 3})
