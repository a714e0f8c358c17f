"""A network in memory with a whole server, to which the real client connects.

    async with open_network({"shout": shout}, [Every(3, Drop())]) as network:
        async with network.connect() as client:
            run = await client.send("hello")
            assert await run.text() == "HELLO"
    assert_nothing_lost(network.trace)

For a virtual clock: pauses, delays and heartbeats take no time there (`trio.testing.MockClock` with
`autojump_threshold=0`). No socket, file or thread is used.
"""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import trio
from attrs import evolve

from netra_trio.agents.run import Agent
from netra_trio.auth.tokens import TokenVerifier
from netra_trio.client import Client, Event, NoAnswer, OpeningRefused, SocketClosed, connect
from netra_trio.config.settings import Settings
from netra_trio.errors import is_only
from netra_trio.rooms.permission import PermissionCheck
from netra_trio.stores.base import Store
from netra_trio.stores.memory import MemoryStore
from netra_trio.testing.connection import HELLO, MemoryConnection
from netra_trio.testing.faults import (
    Crash,
    Delay,
    Drop,
    DuplicateConnect,
    Fault,
    HalfOpen,
    Script,
    Step,
    Throttle,
)
from netra_trio.testing.server import MemoryServer, wall_clock
from netra_trio.testing.trace import Trace
from netra_trio.transports.memory import BUFFER_BYTES, NetworkConditions

URL = "ws://server.test/ws"
TOKEN_SECONDS = 1e9  # how long a token is valid: longer than any test
JITTER = 0.5  # of the client's pauses, so that they are the same in every run
MAX_SECONDS = 100_000.0  # on Trio's clock, a day: then a test that never ends fails

_SECRET = "not a secret: it signs tokens for servers in memory only"  # noqa: S105


class MemoryNetwork:
    """A network with one server; made by `open_network`. It is a `Dialer`.

    Attributes:
        url: The address of the server.
        server: The server.
        store: The store of the server; it outlives a crash.
        trace: What agents emitted, and what clients of `connect` delivered.
        lines: The connections that are open for their clients.
        events: How many numbered frames clients have received.
    """

    url = URL

    def __init__(
        self,
        agents: Mapping[str, Agent],
        script: Script,
        *,
        settings: Settings,
        store: Store,
        buffer_bytes: int,
        rooms: PermissionCheck | None,
        nursery: trio.Nursery,
    ) -> None:
        self.store = store
        self.trace = Trace()
        self.lines: list[MemoryConnection] = []
        self.events = 0
        self._script = script
        self._settings = settings
        self._nursery = nursery
        self._conditions = NetworkConditions()
        self._clients = 0
        self.server = MemoryServer(
            {name: self.trace.recording(agent) for name, agent in agents.items()},
            settings=settings,
            parts=lambda: (store, None),
            buffer_bytes=buffer_bytes,
            conditions=self._conditions,
            rooms=rooms,
        )

    @asynccontextmanager
    async def connect(self, user: str = "alice", **options: Any) -> AsyncIterator[Client]:
        """Open a client (see `netra_trio.client.connect`) and record the events that it delivers.

        The recording reads `Client.events`, which has one reader at a time. To read them yourself,
        or to use a token of your own, call `netra_trio.client.connect` with this network as
        `dialer`.

        Args:
            user: The user of the token.
            options: The options of `netra_trio.client.connect`.
        """
        self._clients += 1
        name, recorded = f"{user} ({self._clients})", trio.Event()
        given = {"token": self.token(user), "random": lambda: JITTER, "wall_clock": wall_clock}
        async with connect(self.url, **{"dialer": self, **given, **options}) as client:
            self._nursery.start_soon(self._record, client, name, recorded)
            yield client
        await recorded.wait()

    def token(self, user: str, *, expires_at: float | None = None) -> str:
        """Return a token of a user; `expires_at` is in Unix seconds, see `wall_clock`."""
        expires_at = wall_clock() + TOKEN_SECONDS if expires_at is None else expires_at
        return TokenVerifier.of(self._settings).sign(user, expires_at=expires_at)

    def inject(self, fault: Fault) -> None:
        """Let a fault happen now."""
        match fault:
            case Drop():
                self._cut()
            case HalfOpen():
                for line in self.lines:
                    line.stall()
            case Delay(seconds):
                self._conditions.delay = seconds
            case Throttle(rate):
                self._conditions.rate = rate
            case Crash(seconds):
                self._cut()
                self.server.crash(seconds)
            case DuplicateConnect():
                for line in self.lines:
                    self._nursery.start_soon(self._duplicate, line)

    # For the client: a `Dialer`.

    @asynccontextmanager
    async def open(
        self, url: str, *, headers: Mapping[str, str], subprotocols: Sequence[str]
    ) -> AsyncIterator[MemoryConnection]:
        """Open a connection (see `Dialer`)."""
        line = await self.server.dial(url, headers, subprotocols, self._received)
        self.lines.append(line)
        try:
            yield line
        finally:
            self.lines.remove(line)
            line.cut()

    async def discover(self, url: str) -> Mapping[str, Any]:
        """Read a JSON object (see `Dialer`)."""
        return await self.server.get(url)

    def _received(self, event: Event) -> None:
        due: list[Fault] = []
        if event.type == HELLO:
            due = self._script.opened(self.events)
        elif event.seq is not None:
            self.events += 1
            due = self._script.received(self.events)
        for fault in due:
            self.inject(fault)

    async def _record(self, client: Client, name: str, recorded: trio.Event) -> None:
        await self.trace.follow(client, name)
        recorded.set()

    # Faults.

    async def keep_time(self) -> None:
        """Inject the faults that are due at a time; for `open_network`."""
        opened = trio.current_time()
        for step in sorted(self._script.timed, key=lambda step: step.seconds):
            await trio.sleep_until(opened + step.seconds)
            self.inject(step.fault)

    def _cut(self) -> None:
        for line in self.lines:
            line.cut()

    async def _duplicate(self, line: MemoryConnection) -> None:
        """Open the session of a connection once more, and read it to the end."""
        parts = urlsplit(line.url)
        place = {"session_id": line.session_id, "last_seq": str(line.last_seq)}
        query = urlencode({**dict(parse_qsl(parts.query)), **place})
        url = urlunsplit(parts._replace(query=query))
        try:
            duplicate = await self.server.dial(url, line.headers, line.subprotocols, lambda _: None)
        except (NoAnswer, OpeningRefused):
            return
        try:
            while True:
                await duplicate.receive()
        except SocketClosed:
            return
        finally:
            duplicate.cut()


@asynccontextmanager
async def open_network(
    agents: Mapping[str, Agent],
    script: Iterable[Step] = (),
    *,
    store: Store | None = None,
    buffer_bytes: int = BUFFER_BYTES,
    rooms: PermissionCheck | None = None,
    **settings: Any,
) -> AsyncIterator[MemoryNetwork]:
    """Open a network with a server of these agents; leave its clients before you leave it.

    Cancelling is safe. An exception of the block is raised as it is, not in a group.

    Args:
        agents: The agents by name, the first one the default.
        script: The faults, and when they happen.
        store: The store of the server; in memory if None. One that uses threads needs a real clock:
            a virtual one does not wait for them.
        buffer_bytes: The capacity of each direction of a connection before a sender waits.
        rooms: The function for permissions in rooms; None for the server's own rooms only.
        settings: Fields of `Settings`, such as `heartbeat_interval_ms`.

    Raises:
        trio.TooSlowError: After a day on Trio's clock.
    """
    body: BaseException | None = None
    try:
        with trio.fail_after(MAX_SECONDS):
            async with trio.open_nursery() as nursery:
                network = MemoryNetwork(
                    agents,
                    Script(script),
                    settings=evolve(Settings(), jwt_secret_key=_SECRET, **settings),
                    store=MemoryStore() if store is None else store,
                    buffer_bytes=buffer_bytes,
                    rooms=rooms,
                    nursery=nursery,
                )
                await nursery.start(network.server.serve)
                nursery.start_soon(network.keep_time)
                try:
                    yield network
                except BaseException as error:
                    body = error
                    raise
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        if body is None or not is_only(group, body):
            raise
    if body is not None:
        raise body
