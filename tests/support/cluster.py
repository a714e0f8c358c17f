"""Several nodes in one process, on one broker and one store in memory, for a virtual clock.

    async with open_cluster({"shout": shout}, nodes=3) as cluster:
        async with cluster.connect() as client:
            ...
            cluster.nodes[0].crash(1.0)

The client's connections go to the nodes in turn, as behind a plain load balancer.
"""

import itertools
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio
from attrs import evolve

from netra_trio.agents.run import Agent
from netra_trio.auth.tokens import TokenVerifier
from netra_trio.broker.base import Backend
from netra_trio.broker.memory import MemoryBackend
from netra_trio.broker.memory import MemoryServer as Broker
from netra_trio.client import Client, NoAnswer, OpeningRefused, connect
from netra_trio.config.settings import Settings
from netra_trio.ids import NodeId, new_node_id
from netra_trio.stores.base import Store
from netra_trio.stores.memory import MemoryStore
from netra_trio.testing.connection import MemoryConnection
from netra_trio.testing.server import MemoryServer, wall_clock
from netra_trio.testing.trace import Trace
from netra_trio.transports.memory import BUFFER_BYTES, NetworkConditions

URL = "ws://cluster.test/ws"
SECRET = "not a secret: it signs tokens for servers in memory only"


class Cluster:
    """Several nodes; made by `open_cluster`. It is a `Dialer`."""

    url = URL

    def __init__(self, agents: Mapping[str, Agent], nodes: int, settings: Settings) -> None:
        self.trace = Trace()
        self.broker = Broker()
        self.store = MemoryStore()
        self.settings = settings
        self.backends: dict[NodeId, MemoryBackend] = {}
        self.lines: list[tuple[int, MemoryConnection]] = []
        self.turn = itertools.cycle(range(nodes))
        self.nodes = [self._node(agents) for _ in range(nodes)]

    def _node(self, agents: Mapping[str, Agent]) -> MemoryServer:
        return MemoryServer(
            {name: self.trace.recording(agent) for name, agent in agents.items()},
            settings=self.settings,
            parts=self._parts,
            buffer_bytes=BUFFER_BYTES,
            conditions=NetworkConditions(),
        )

    def _parts(self) -> tuple[Store, Backend | None]:
        node = new_node_id()
        backend = self.backends[node] = MemoryBackend(node, self.broker)
        return self.store.for_node(node), backend

    @asynccontextmanager
    async def connect(self, user: str = "alice", **options: Any) -> AsyncIterator[Client]:
        """Open a client whose connections go to the nodes in turn."""
        given = {"token": self.token(user), "random": lambda: 0.5, "wall_clock": wall_clock}
        async with connect(self.url, **{"dialer": self, **given, **options}) as client:
            yield client

    def token(self, user: str) -> str:
        return TokenVerifier.of(self.settings).sign(user, expires_at=wall_clock() + 1e9)

    @asynccontextmanager
    async def open(
        self, url: str, *, headers: Mapping[str, str], subprotocols: Sequence[str]
    ) -> AsyncIterator[MemoryConnection]:
        """Open a connection to the next node that is up (see `Dialer`)."""
        for _ in self.nodes:
            number = next(self.turn)
            try:
                line = await self.nodes[number].dial(url, headers, subprotocols, lambda _: None)
            except NoAnswer:
                continue
            except OpeningRefused as refused:
                if refused.status == 503:
                    continue
                raise
            break
        else:
            raise NoAnswer("no node is up")
        self.lines.append((number, line))
        try:
            yield line
        finally:
            self.lines.remove((number, line))
            line.cut()

    async def discover(self, url: str) -> Mapping[str, Any]:
        """Read a JSON object (see `Dialer`)."""
        for node in self.nodes:
            if node.app is not None:
                return await node.get(url)
        raise NoAnswer("no node is up")

    def crash(self, number: int, seconds: float) -> None:
        """Kill a node, which comes back as another one."""
        for at, line in list(self.lines):
            if at == number:
                line.cut()
        self.nodes[number].crash(seconds)

    def cut(self) -> None:
        """Cut every connection."""
        for _, line in list(self.lines):
            line.cut()


@asynccontextmanager
async def open_cluster(
    agents: Mapping[str, Agent], *, nodes: int = 2, **settings: Any
) -> AsyncIterator[Cluster]:
    """Open a cluster; leave its clients before you leave it."""
    made = evolve(Settings(), jwt_secret_key=SECRET, auth_auto_provision=True, **settings)
    cluster = Cluster(agents, nodes, made)
    with trio.fail_after(100_000):
        async with trio.open_nursery() as nursery:
            for node in cluster.nodes:
                await nursery.start(node.serve)
            yield cluster
            nursery.cancel_scope.cancel()
