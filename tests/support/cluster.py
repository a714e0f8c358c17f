"""Several nodes in one process, on one broker and one store in memory, for a virtual clock.

    async with open_cluster({"shout": shout}, nodes=3) as cluster:
        async with cluster.connect() as client:
            ...
            cluster.crash(0, 1.0)       # kill -9; another node comes back a second later
            cluster.pause(1)            # SIGSTOP
            cluster.faults[2].is_cut = True

The client's connections go to the nodes in turn, as behind a plain load balancer.
"""

import itertools
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import Any

import trio
from attrs import evolve, frozen

from netra_trio.agents.run import Agent
from netra_trio.auth.tokens import TokenVerifier
from netra_trio.broker.base import Backend, Batch, SessionRecord
from netra_trio.broker.memory import Lease, MemoryBackend
from netra_trio.broker.memory import MemoryServer as Broker
from netra_trio.client import Client, NoAnswer, SocketClosed, connect
from netra_trio.config.settings import Settings
from netra_trio.ids import NodeId, SessionId, new_node_id
from netra_trio.node.node import Node
from netra_trio.stores.base import Store
from netra_trio.stores.memory import MemoryStore
from netra_trio.testing.connection import MemoryConnection
from netra_trio.testing.kept_files import KeptFolder
from netra_trio.testing.server import MemoryServer, wall_clock
from netra_trio.testing.trace import Trace
from netra_trio.transports.memory import BUFFER_BYTES, NetworkConditions
from support.faulty_backend import FaultyBackend, NodeFaults, faulty_store

URL = "ws://cluster.test/ws"
SECRET = "not a secret: it signs tokens for servers in memory only"
OPENING_SECONDS = 10.0  # that a client waits for the answer to its upgrade
LEASE_SECONDS = 10.0  # of a node in the store: then its runs are ended

_Sessions = dict[SessionId, tuple[SessionRecord, float, list[Batch]]]


@frozen
class Snapshot:
    """The state of the broker's server at one time."""

    leases: dict[NodeId, Lease]
    sessions: _Sessions


class Line:
    """A client's connection to a node, which may be stopped: a `Socket`.

    Attributes:
        number: The node.
    """

    def __init__(self, number: int, line: MemoryConnection, faults: NodeFaults) -> None:
        self.number = number
        self._line = line
        self._faults = faults
        self._waiting: set[trio.CancelScope] = set()
        self._is_cut = False

    def cut(self) -> None:
        """Cut the connection: both ends are told."""
        self._is_cut = True
        for scope in self._waiting:
            scope.cancel()
        self._line.cut()

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that the node has selected."""
        return self._line.subprotocol

    async def send(self, frame: str | bytes) -> None:
        """Send a frame."""
        await self._running()
        await self._line.send(frame)

    async def receive(self) -> str | bytes:
        """Wait for a frame."""
        text = await self._line.receive()
        await self._running()
        return text

    async def close(self, code: int) -> None:
        """Close."""
        if self._faults.is_paused:
            self._line.cut()
        else:
            await self._line.close(code)

    async def _running(self) -> None:
        if self._faults.is_paused:
            with trio.CancelScope() as scope:
                self._waiting.add(scope)
                try:
                    await self._faults.running()
                finally:
                    self._waiting.discard(scope)
        if self._is_cut:
            raise SocketClosed


class Cluster:
    """Several nodes; made by `open_cluster`. It is a `Dialer`.

    Attributes:
        trace: What agents emitted.
        broker: The server that the nodes share.
        is_up: Whether that server answers.
        store: The store that the nodes share.
        storage: The content of files, likewise.
        faults: Of each node.
        nodes: The nodes.
        lines: The open connections of clients.
        killed: The ids of the nodes that were killed.
    """

    url = URL

    def __init__(
        self,
        agents: Mapping[str, Agent],
        nodes: int,
        settings: Settings,
        *,
        nursery: trio.Nursery,
        random: Random,
    ) -> None:
        self.trace = Trace()
        self.broker = Broker()
        self.is_up = True
        self.store = MemoryStore()
        self.storage = KeptFolder()
        self.settings = settings
        self.random = random
        self.backends: dict[NodeId, MemoryBackend] = {}
        self.killed: list[NodeId] = []
        self.ids: dict[int, NodeId] = {}
        self.faults = [NodeFaults(random) for _ in range(nodes)]
        self.lines: list[Line] = []
        self.turn = itertools.cycle(range(nodes))
        self.choose: Callable[[], int] = lambda: next(self.turn)
        self._nursery = nursery
        self.nodes = [self._node(agents, number) for number in range(nodes)]

    def _node(self, agents: Mapping[str, Agent], number: int) -> MemoryServer:
        return MemoryServer(
            {name: self.trace.recording(agent) for name, agent in agents.items()},
            settings=self.settings,
            parts=lambda: self._parts(number),
            buffer_bytes=BUFFER_BYTES,
            conditions=NetworkConditions(),
            storage=self.storage,
        )

    def _parts(self, number: int) -> tuple[Store, Backend | None]:
        node = self.ids[number] = new_node_id()
        faults, start_soon = self.faults[number], self._nursery.start_soon
        memory = self.backends[node] = MemoryBackend(node, self.broker)
        backend = FaultyBackend(memory, faults, start_soon, is_up=lambda: self.is_up)
        return faulty_store(self.store.for_node(node), faults, start_soon), backend

    def node(self, number: int) -> Node | None:
        """Return a node; None while it is down."""
        app = self.nodes[number].app
        return None if app is None else app.node

    @asynccontextmanager
    async def connect(self, user: str = "alice", **options: Any) -> AsyncIterator[Client]:
        """Open a client whose connections go to the nodes in turn."""
        given = {"token": self.token(user), "random": lambda: 0.5, "wall_clock": wall_clock}
        async with connect(self.url, **{"dialer": self, **given, **options}) as client:
            yield client

    def token(self, user: str) -> str:
        """Return a token of a user."""
        return TokenVerifier.of(self.settings).sign(user, expires_at=wall_clock() + 1e9)

    @asynccontextmanager
    async def open(
        self, url: str, *, headers: Mapping[str, str], subprotocols: Sequence[str]
    ) -> AsyncIterator[Line]:
        """Open a connection to the next node that accepts connections (see `Dialer`)."""
        line = await self._dial(url, headers, subprotocols)
        self.lines.append(line)
        try:
            yield line
        finally:
            self.lines.remove(line)
            line.cut()

    async def _dial(
        self, url: str, headers: Mapping[str, str], subprotocols: Sequence[str]
    ) -> Line:
        first = self.choose()
        for number in itertools.chain([first], range(len(self.nodes))):
            if not self._is_ready(number):
                continue
            with trio.move_on_after(OPENING_SECONDS):
                await self.faults[number].running()
                faults = self.faults[number]
                made = await self.nodes[number].dial(url, headers, subprotocols, lambda _: None)
                return Line(number, made, faults)
            raise NoAnswer("no answer in time")
        await trio.lowlevel.checkpoint()
        raise NoAnswer("no node is up")

    def _is_ready(self, number: int) -> bool:
        """Whether a load balancer sends connections to a node: it is up and does not drain."""
        node = self.node(number)
        return node is not None and not node.capacity.is_draining

    async def discover(self, url: str) -> Mapping[str, Any]:
        """Read a JSON object (see `Dialer`)."""
        for node in self.nodes:
            with suppress(NoAnswer):
                return await node.get(url)
        raise NoAnswer("no node is up")

    # Faults.

    def crash(self, number: int, seconds: float) -> None:
        """Kill a node, which comes back as another one."""
        if self.nodes[number].app is None:
            return
        self.faults[number].kill()
        self.killed.append(self.ids[number])
        self._nursery.start_soon(self._end_runs, self.ids[number])
        self.cut(number)
        self.faults[number] = NodeFaults(self.random, delay=self.faults[number].delay)
        self.nodes[number].crash(seconds)

    def pause(self, number: int) -> None:
        """Stop a node, as SIGSTOP does."""
        self.faults[number].pause()

    def resume(self, number: int) -> None:
        """Continue a stopped node."""
        self.faults[number].resume()

    def cut(self, number: int | None = None) -> None:
        """Cut every connection of clients, or those to one node."""
        for line in list(self.lines):
            if number is None or line.number == number:
                line.cut()

    def snapshot(self) -> Snapshot:
        """Return what the server of the broker has now."""
        sessions = {
            session_id: (session.record, session.until, list(session.batches))
            for session_id, session in self.broker.sessions.items()
        }
        return Snapshot(dict(self.broker.leases), sessions)

    def roll_back(self, snapshot: Snapshot) -> None:
        """Let the server of the broker have what it had before, as after a fail-over."""
        self.broker.restore(snapshot.leases, snapshot.sessions)

    async def _end_runs(self, node: NodeId) -> None:
        """End the runs of a killed node, as the other nodes do in a database."""
        await trio.sleep(LEASE_SECONDS)
        self.store.end_runs_of(node)


@asynccontextmanager
async def open_cluster(
    agents: Mapping[str, Agent], *, nodes: int = 2, random: Random | None = None, **settings: Any
) -> AsyncIterator[Cluster]:
    """Open a cluster; leave its clients before you leave it."""
    made = evolve(Settings(), jwt_secret_key=SECRET, auth_auto_provision=True, **settings)
    with trio.fail_after(100_000):
        async with trio.open_nursery() as nursery:
            random = random or Random(0)  # noqa: S311 - no secret
            cluster = Cluster(agents, nodes, made, nursery=nursery, random=random)
            async with cluster.storage.hold(), trio.open_nursery() as servers:
                for node in cluster.nodes:
                    await servers.start(node.serve)
                yield cluster
                servers.cancel_scope.cancel()
            nursery.cancel_scope.cancel()
