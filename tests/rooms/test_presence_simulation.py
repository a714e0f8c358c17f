"""Presence under a seeded script of faults: in the end every member has the presence.

Clients of three nodes join and leave a room, while links are cut, answers and events are lost, and
the broker restarts empty. Each member reads the presence once, after it has joined, and then
follows the changes. When the faults are over, both are what is true.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import pytest
import trio
import trio.testing
from attrs import define, field
from structlog.testing import capture_logs
from support.memory import Client
from support.rooms import anyone
from support.shared_nodes import LinkedNode, open_nodes
from trio.testing import MockClock

from netra_trio.errors import TransportClosed
from netra_trio.rooms.presence_sharing import PREFIX

pytestmark = pytest.mark.unmeasured

ROOM = "team:red"
USERS = ("alice", "bob", "carol", "dave")
NODES = 3
STEPS = 60
SEEDS = range(8)
HEALED = 60.0  # seconds after the last fault: half of it until a lost event is noticed


@define(eq=False)
class Member:
    """A client that joins the room and follows its presence.

    Attributes:
        view: The users that are present for it; None before it has read the presence.
        is_member: Whether it is in the room.
    """

    user: str
    client: Client
    view: set[str] | None = None
    is_member: bool = False
    scope: trio.CancelScope = field(factory=trio.CancelScope)

    async def follow(self) -> None:
        """Join, read the presence, and follow the changes, until it is cancelled."""
        with self.scope:
            try:
                await self._follow()
            except TransportClosed:
                return
        await self.client.send("leave_room", {"room": ROOM})

    async def _follow(self) -> None:
        await self.client.send("join_room", {"room": ROOM})
        while True:
            frame = await self.client.next()
            payload = frame["payload"]
            if frame["type"] == "room_joined":
                self.is_member = True
                await self.client.send("get_presence", {"room": ROOM})
            elif frame["type"] == "error":
                assert payload["code"] == "SERVICE_UNAVAILABLE", payload
                await trio.sleep(1.1)
                kind = "get_presence" if self.is_member else "join_room"
                await self.client.send(kind, {"room": ROOM})
            elif frame["type"] == "presence":
                self.view = {member["user_id"] for member in payload["members"]}
            elif frame["type"] == "presence_changed" and self.view is not None:
                assert payload["user_id"] != self.user
                change = self.view.add if payload["change"] == "joined" else self.view.discard
                change(payload["user_id"])


@define(eq=False)
class Script:
    """A seeded script of clients and faults."""

    random: Random
    nodes: Sequence[LinkedNode]
    nursery: trio.Nursery
    members: list[Member] = field(factory=list)

    def step(self) -> None:
        """Do one random thing."""
        actions: dict[Callable[[], None], int] = {
            self.join: 6,
            self.leave: 4,
            self.cut: 1,
            self.heal: 2,
            self.lose_answers: 1,
            self.lose_events: 1,
            self.restart_broker: 1,
        }
        self.random.choices(list(actions), list(actions.values()))[0]()

    def join(self) -> None:
        """Let a client join, if its user has not many."""
        user, node = self.random.choice(USERS), self.random.choice(self.nodes)
        if sum(member.user == user for member in self.members) < 3 and not node.link.is_cut:
            member = Member(user, node.start(user))
            self.members.append(member)
            self.nursery.start_soon(member.follow)

    def leave(self) -> None:
        """Let a client leave, or lose its connection."""
        if self.members:
            member = self.members.pop(self.random.randrange(len(self.members)))
            if self.random.random() < 0.5:
                member.client.peer.cut()
            else:
                member.scope.cancel()

    def cut(self) -> None:
        """Cut a node off from the others."""
        self.random.choice(self.nodes).link.is_cut = True

    def lose_answers(self) -> None:
        """Let the answers of a node get lost."""
        self.random.choice(self.nodes).link.lost.add("answer")

    def lose_events(self) -> None:
        """Let a node miss the events of a moment."""
        node = self.random.choice(self.nodes)
        subscribers = node.memory.server.subscribers.get(PREFIX + ROOM, {})
        if node.id in subscribers:
            self.nursery.start_soon(self._lose_events, node)

    async def _lose_events(self, node: LinkedNode) -> None:
        subscribers = node.memory.server.subscribers
        lost = subscribers.get(PREFIX + ROOM, {}).pop(node.id, None)
        await trio.sleep(0.5)
        room = node.node.services.presence.get(ROOM)
        if lost is not None and room is not None and room.shared.is_listening:
            subscribers.setdefault(PREFIX + ROOM, {}).setdefault(node.id, lost)

    def restart_broker(self) -> None:
        """Let the broker lose everything."""
        self.nodes[0].memory.server.clear()

    def heal(self) -> None:
        """End all faults."""
        for node in self.nodes:
            node.link.is_cut = False
            node.link.lost.clear()


@pytest.mark.parametrize("seed", SEEDS)
async def test_in_the_end_each_member_has_the_presence(
    autojump_clock: MockClock, seed: int
) -> None:
    with capture_logs():
        await simulate(seed)


async def simulate(seed: int) -> None:
    """Play the script of a seed, and check the presence of the members after it."""
    options: dict[str, Any] = {"heartbeat_interval_ms": 3_600_000, "max_connections_per_user": 100}
    options |= {"users": USERS, "may": anyone, "opening_rate": 10_000}
    async with open_nodes(NODES, **options) as nodes, trio.open_nursery() as nursery:
        await trio.sleep(1)
        script = Script(Random(seed), nodes, nursery)  # noqa: S311 - a script
        for _ in range(STEPS):
            script.step()
            await trio.sleep(script.random.choice((0.0, 0.01, 0.5, 4.0)))
        script.heal()
        await trio.sleep(HEALED)
        connections = Counter(member.user for member in script.members)
        for member in script.members:
            assert member.is_member, member.user
            assert member.view is not None, member.user
            assert member.view | {member.user} == set(connections), member.user
        for node in nodes:
            if script.members:
                found = await node.node.services.presence.find(ROOM)
                assert {each.user_id: each.connections for each in found} == connections
        nursery.cancel_scope.cancel()
