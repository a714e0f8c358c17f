"""Whatever happens to the links, the server counts in the end what the nodes have."""

from contextlib import suppress
from random import Random

import pytest
import trio
from support.memory import Client
from support.shared_nodes import LinkedNode, open_nodes
from trio.testing import MockClock

from netra_trio.broker.memory import MemoryServer
from netra_trio.errors import TransportClosed
from netra_trio.ids import UserId

pytestmark = pytest.mark.unmeasured

ALICE = UserId("alice")
CONNECTIONS, SESSIONS = 3, 5
STEPS = 60
SETTLE = 20.0  # seconds: for a lease that was lost, and for reports that failed


class Script:
    """Does at random what may happen to a user, to three nodes and to their server."""

    def __init__(self, random: Random, server: MemoryServer, nodes: tuple[LinkedNode, ...]) -> None:
        self.random = random
        self.server = server
        self.nodes = nodes
        self.clients: list[Client] = []
        self.sessions: list[str] = []

    async def run(self) -> None:
        """Do some steps, and then heal everything."""
        steps = [self.open] * 6 + [self.resume] * 3 + [self.close] * 4
        steps += [self.cut, self.heal, self.heal, self.lose_answer, self.clear, self.cancel]
        for _ in range(STEPS):
            await self.random.choice(steps)()
            await trio.sleep(self.random.choice((0, 0, 0.01, 0.3, 1.5)))
        for node in self.nodes:
            node.link.is_cut_behind = None
            node.link.is_cut = False
        await trio.sleep(SETTLE)

    def node(self) -> LinkedNode:
        return self.random.choice(self.nodes)

    async def open(self, session_id: str | None = None) -> None:
        client = self.node().start(session_id=session_id)
        self.clients.append(client)
        with trio.move_on_after(5.0), suppress(TransportClosed):
            hello = await client.next()
            if hello["type"] == "connection_established":
                self.sessions.append(hello["payload"]["session_id"])

    async def resume(self) -> None:
        await self.open(self.random.choice(self.sessions) if self.sessions else None)

    async def close(self) -> None:
        if self.clients:
            self.clients.pop(self.random.randrange(len(self.clients))).peer.close()

    async def cancel(self) -> None:
        """Cancel an opening at one of its first waits."""
        client = self.node().start()
        for _ in range(self.random.randrange(6)):
            await trio.lowlevel.checkpoint()
        client.scope.cancel()

    async def cut(self) -> None:
        self.node().link.is_cut = True

    async def heal(self) -> None:
        node = self.node()
        node.link.is_cut_behind = None
        node.link.is_cut = False

    async def lose_answer(self) -> None:
        self.node().link.is_cut_behind = self.random.choice(("open_connection", "update"))

    async def clear(self) -> None:
        self.server.clear()


@pytest.mark.parametrize("seed", range(8))
async def test_the_server_counts_what_the_nodes_have(seed: int, autojump_clock: MockClock) -> None:
    server = MemoryServer()
    async with open_nodes(
        3,
        server=server,
        max_connections_per_user=CONNECTIONS,
        max_sessions_per_user=SESSIONS,
        heartbeat_interval_ms=3_600_000,
    ) as nodes:
        script = Script(Random(seed), server, nodes)  # noqa: S311 - a script that can be repeated
        for _ in range(3):
            await script.run()
            check(server, nodes)
        # After an outage the first opening may find more connections than the limit. It evicts
        # them, and the next one ends their sessions.
        for _ in range(2):
            await script.open()
            await trio.sleep(SETTLE)
        open_connections, sessions = check(server, nodes)
        assert open_connections <= CONNECTIONS
        assert sessions <= SESSIONS


def check(server: MemoryServer, nodes: tuple[LinkedNode, ...]) -> tuple[int, int]:
    """Compare what the server counts with what the nodes have; return the two numbers."""
    connections = {
        connection.id: (node.id, connection.session.id)
        for node in nodes
        for connection in node.node._connections.values()
        if connection.reason is None
    }
    counted = server.limits.connections.get(ALICE, {})
    assert {
        connection_id: (each.node, each.session_id) for connection_id, each in counted.items()
    } == connections
    # A session that was taken from a node which was cut off may still be at that node too, until
    # its window has passed: it is counted at either of them.
    sessions: dict[str, list[tuple[str, bool]]] = {}
    for node in nodes:
        for session in node.node.sessions:
            is_attached = node.node.sessions.detached_for(session) is None
            sessions.setdefault(session.id, []).append((node.id, is_attached))
    known = server.limits.sessions.get(ALICE, {})
    assert known.keys() == sessions.keys()
    for session_id, each in known.items():
        assert (each.node, each.detached_at is None) in sessions[session_id]
    for node in nodes:
        limits = node.node.connection_limit
        assert limits._changes == {}  # type: ignore[attr-defined]
        assert len(node.node.sessions.watch._places.get(ALICE, {})) == len(  # type: ignore[union-attr]
            [each for each in connections.values() if each[0] == node.id]
        )
    return len(connections), len(sessions)
