"""A network in memory, with a whole server behind it, on which the real client connects.

    async with open_network({"shout": shout}, [Every(3, Drop())]) as network:
        async with network.connect() as client:
            run = await client.send("hello")
            assert await run.text() == "HELLO"
    assert_nothing_lost(network.trace)

For a virtual clock: pauses, delays and heartbeats take no time there (`trio.testing.MockClock` with
`autojump_threshold=0`). Nothing here opens a socket, a file or a thread.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from math import inf
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit, urlunsplit

import orjson
import trio
from attrs import define, evolve

from netra_trio.agents.run import Agent
from netra_trio.auth.tokens import TokenVerifier
from netra_trio.client import Client, Event, NoAnswer, OpeningRefused, SocketClosed, connect
from netra_trio.config.settings import Settings
from netra_trio.endpoints.answer import Answer
from netra_trio.endpoints.request import Request
from netra_trio.errors import is_only
from netra_trio.protocol.codes import ABNORMAL
from netra_trio.server.application import Application, create_app
from netra_trio.stores.base import Store
from netra_trio.stores.memory import MemoryStore
from netra_trio.testing.access import Access
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
from netra_trio.testing.line import WELCOME, Line
from netra_trio.testing.trace import Trace
from netra_trio.transports.memory import BUFFER_BYTES, NetworkConditions, memory_pair

URL = "ws://server.test/ws"
EPOCH = 1_800_000_000.0  # Unix seconds at second 0 of the clock
TOKEN_SECONDS = 1e9  # of a token: longer than any test
CHANCE = 0.5  # of the client's pauses, so that they are the same every time
PATIENCE = 100_000.0  # seconds on Trio's clock, then a test that waits for ever fails: a day

_SECRET = "known to everybody: it opens nothing but servers in memory"  # noqa: S105
_PEER = "127.0.0.1"


@define(eq=False)
class _Process:
    """A server that runs."""

    app: Application
    access: Access
    nursery: trio.Nursery
    scope: trio.CancelScope


class MemoryNetwork:
    """A network with one server; made by `open_network`. It is a `Dialer`.

    Attributes:
        url: Where the server is.
        store: What the server keeps; it outlives a crash.
        trace: What agents emitted, and what clients of `connect` delivered.
        lines: The connections that are open, as their clients know.
        events: How many numbered frames have come to clients.
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
        nursery: trio.Nursery,
    ) -> None:
        self.store = store
        self.trace = Trace()
        self.lines: list[Line] = []
        self.events = 0
        self._agents = {name: self.trace.recording(agent) for name, agent in agents.items()}
        self._script = script
        self._settings = settings
        self._buffer_bytes = buffer_bytes
        self._nursery = nursery
        self._conditions = NetworkConditions()
        self._process: _Process | None = None
        self._back_at = -inf
        self._clients = 0

    @asynccontextmanager
    async def connect(self, user: str = "alice", **options: Any) -> AsyncIterator[Client]:
        """Open a client (see `netra_trio.client.connect`) and record what it delivers.

        The record reads `Client.events`, which has one reader at a time. To read them yourself, or
        to have a token of your own, call `netra_trio.client.connect` with this network as `dialer`.

        Args:
            user: Whose token it has.
            options: As of `connect`.
        """
        self._clients += 1
        name, followed = f"{user} ({self._clients})", trio.Event()
        given = {"token": self.token(user), "random": lambda: CHANCE, "wall_clock": wall_clock}
        async with connect(self.url, **{"dialer": self, **given, **options}) as client:
            self._nursery.start_soon(self._follow, client, name, followed)
            yield client
        await followed.wait()

    def token(self, user: str, *, expires_at: float | None = None) -> str:
        """Return a token of this user; `expires_at` is Unix seconds, see `wall_clock`."""
        expires_at = wall_clock() + TOKEN_SECONDS if expires_at is None else expires_at
        return TokenVerifier.of(self._settings).sign(user, expires_at=expires_at)

    def inject(self, fault: Fault) -> None:
        """Let something happen now."""
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
                self._crash(seconds)
            case DuplicateConnect():
                for line in self.lines:
                    self._nursery.start_soon(self._duplicate, line)

    # For the client: a `Dialer`.

    @asynccontextmanager
    async def open(
        self, url: str, *, headers: Mapping[str, str], subprotocols: Sequence[str]
    ) -> AsyncIterator[Line]:
        """Open a line (see `Dialer`)."""
        line = await self._dial(url, headers, subprotocols, self._heard)
        self.lines.append(line)
        try:
            yield line
        finally:
            self.lines.remove(line)
            line.cut()

    async def discover(self, url: str) -> Mapping[str, Any]:
        """Read a JSON object (see `Dialer`)."""
        app, parts = self._running().app, urlsplit(url)
        scope = {
            "type": "http",
            "method": "GET",
            "path": parts.path,
            "query_string": parts.query.encode(),
            "headers": [],
            "client": (_PEER, 0),
        }
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request"}

        async def send(message: Any) -> None:
            sent.append(message)

        await trio.sleep(2 * self._conditions.delay)
        await app(scope, receive, send)
        start, body = sent
        document = orjson.loads(body["body"])
        if start["status"] != 200:  # noqa: PLR2004 - HTTP's own number
            raise OpeningRefused(start["status"], body=document)
        found: dict[str, Any] = document
        return found

    async def _dial(
        self,
        url: str,
        headers: Mapping[str, str],
        subprotocols: Sequence[str],
        heard: Callable[[Event], None],
    ) -> Line:
        await trio.sleep(2 * self._conditions.delay)
        process = self._running()
        server, client = memory_pair(
            buffer_bytes=self._buffer_bytes,
            send_timeout=self._settings.send_timeout_ms / 1000,
            max_bytes=self._settings.hard_message_size,
            conditions=self._conditions,
        )
        line = Line(url, headers, subprotocols, client, server, heard)
        process.nursery.start_soon(_answer, process.app, line)
        try:
            await server.accepted.wait()
        except trio.Cancelled:
            line.cut()
            raise
        if line.refusal is not None:
            raise line.refusal
        return line

    def _running(self) -> _Process:
        if self._process is None:
            raise NoAnswer("connection refused: there is no server")
        return self._process

    def _heard(self, event: Event) -> None:
        due: list[Fault] = []
        if event.type == WELCOME:
            due = self._script.opened(self.events)
        elif event.seq is not None:
            self.events += 1
            due = self._script.came(self.events)
        for fault in due:
            self.inject(fault)

    async def _follow(self, client: Client, name: str, followed: trio.Event) -> None:
        await self.trace.follow(client, name)
        followed.set()

    # The server, and its mishaps.

    async def serve(self, task_status: trio.TaskStatus[None]) -> None:
        """Run the server, and another one after each crash; for `open_network`."""
        while True:
            access = Access(self.store)
            app = create_app(
                agents=self._agents, settings=self._settings, store=access, wall_clock=wall_clock
            )
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery, app.running():
                    self._process = _Process(app, access, nursery, scope)
                    task_status.started()
                    task_status = trio.TASK_STATUS_IGNORED
                    await trio.sleep_forever()
            await trio.sleep_until(self._back_at)

    async def keep_time(self) -> None:
        """Inject what is due at a time; for `open_network`."""
        opened = trio.current_time()
        for step in sorted(self._script.timed, key=lambda step: step.seconds):
            await trio.sleep_until(opened + step.seconds)
            self.inject(step.fault)

    def _cut(self) -> None:
        for line in self.lines:
            line.cut()

    def _crash(self, seconds: float) -> None:
        self._back_at = trio.current_time() + seconds
        if self._process is not None:
            self._process.access.is_cut = True
            self._cut()
            self._process.scope.cancel()
            self._process = None

    async def _duplicate(self, line: Line) -> None:
        """Open a line's session once more, from where its client is, and read it to the end."""
        parts = urlsplit(line.url)
        place = {"session_id": line.session_id, "last_seq": str(line.last_seq)}
        query = urlencode({**dict(parse_qsl(parts.query)), **place})
        url = urlunsplit(parts._replace(query=query))
        try:
            twin = await self._dial(url, line.headers, line.subprotocols, lambda _: None)
        except (NoAnswer, OpeningRefused):
            return
        try:
            while True:
                await twin.receive()
        except SocketClosed:
            return
        finally:
            twin.cut()


@asynccontextmanager
async def open_network(
    agents: Mapping[str, Agent],
    script: Iterable[Step] = (),
    *,
    store: Store | None = None,
    buffer_bytes: int = BUFFER_BYTES,
    **settings: Any,
) -> AsyncIterator[MemoryNetwork]:
    """Open a network with a server of these agents; leave its clients before you leave it.

    Cancelling is safe. What the block raises comes out as it is.

    Args:
        agents: The agents by name, the first one the default.
        script: What happens to the network, and when.
        store: What the server keeps; in memory where none is given. One that uses threads needs a
            real clock: a virtual one does not wait for them.
        buffer_bytes: What each direction of a line holds before a sender waits.
        settings: Fields of `Settings`, such as `heartbeat_interval_ms`.

    Raises:
        trio.TooSlowError: After a day on Trio's clock.
    """
    body: BaseException | None = None
    try:
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                network = MemoryNetwork(
                    agents,
                    Script(script),
                    settings=evolve(Settings(), jwt_secret_key=_SECRET, **settings),
                    store=MemoryStore() if store is None else store,
                    buffer_bytes=buffer_bytes,
                    nursery=nursery,
                )
                await nursery.start(network.serve)
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


def wall_clock() -> float:
    """Return Unix seconds that go by with Trio's clock; server and client both have it."""
    return EPOCH + trio.current_time()


async def _answer(app: Application, line: Line) -> None:
    """Be the server's host for one line, to its end."""
    parts = urlsplit(line.url)
    request = Request(
        headers={name.lower(): [value] for name, value in line.headers.items()},
        query=parse_qs(parts.query, keep_blank_values=True),
        subprotocols=tuple(line.subprotocols),
        peer=_PEER,
    )
    answer: Answer | None = None
    accepted = line.server.accepted
    try:
        answer = await app.serve_upgrade(request, parts.path, lambda _: line.server)
    finally:
        if not accepted.is_set():
            gone = NoAnswer("the server went away")
            line.refusal = gone if answer is None else _refusal(answer)
            accepted.set()
        line.client.close(ABNORMAL)  # as a host does; nothing if it is closed already
        line.ended.set()


def _refusal(answer: Answer) -> OpeningRefused:
    wait = answer.headers.get("retry-after")
    return OpeningRefused(
        answer.status, retry_after=None if wait is None else float(wait), body=answer.body
    )
