"""A whole server in memory that can be killed, and comes back with the same store."""

from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson
import trio
from attrs import define

from netra_trio.agents.run import Agent
from netra_trio.broker.base import Backend
from netra_trio.client import Event, NoAnswer, OpeningRefused
from netra_trio.client.decoder import FrameDecoder
from netra_trio.config.settings import Settings
from netra_trio.endpoints.answer import Answer
from netra_trio.endpoints.request import Request
from netra_trio.files.base import FileStorage
from netra_trio.protocol.codes import ABNORMAL
from netra_trio.rooms.permission import PermissionCheck
from netra_trio.server.application import Application, create_app
from netra_trio.stores.base import Store
from netra_trio.testing.connection import MemoryConnection
from netra_trio.testing.kept_files import KeptFolder
from netra_trio.testing.killable_store import KillableStore
from netra_trio.transports.memory import NetworkConditions, memory_pair

EPOCH = 1_800_000_000.0  # Unix seconds at second 0 of the clock

_PEER = "127.0.0.1"
_OK = 200  # the HTTP status


def wall_clock() -> float:
    """Return Unix seconds that pass with Trio's clock; server and client both use it."""
    return EPOCH + trio.current_time()


@define(eq=False)
class _Process:
    """A running server."""

    app: Application
    store: KillableStore
    nursery: trio.Nursery
    scope: trio.CancelScope


class MemoryServer:
    """The server of a `MemoryNetwork`.

    Args:
        agents: The agents by name, the first one the default.
        settings: The settings.
        parts: Returns the store and the backend of the next server. Their data outlives a
            crash.
        buffer_bytes: The capacity of each direction of a connection before a sender waits.
        conditions: Delay and throughput of the connections.
        rooms: The function for permissions in rooms; None for the server's own rooms only.
        storage: Where files are kept; a temporary folder of this server if None.
    """

    def __init__(
        self,
        agents: Mapping[str, Agent],
        *,
        settings: Settings,
        parts: Callable[[], tuple[Store, Backend | None]],
        buffer_bytes: int,
        conditions: NetworkConditions,
        rooms: PermissionCheck | None = None,
        storage: FileStorage | None = None,
    ) -> None:
        self._agents = agents
        self._settings = settings
        self._parts = parts
        self._buffer_bytes = buffer_bytes
        self._conditions = conditions
        self._rooms = rooms
        self._kept = KeptFolder()
        self._storage = self._kept if storage is None else storage
        self._process: _Process | None = None
        self._back_at = -inf

    @property
    def app(self) -> Application | None:
        """The application; None while the server is down."""
        return None if self._process is None else self._process.app

    async def serve(self, task_status: trio.TaskStatus[None]) -> None:
        """Run a server, and another one after each crash."""
        async with self._kept.hold():
            await self._serve(task_status)

    async def _serve(self, task_status: trio.TaskStatus[None]) -> None:
        while True:
            own_store, backend = self._parts()
            store = KillableStore(own_store)
            app = create_app(
                agents=self._agents,
                settings=self._settings,
                store=store,
                wall_clock=wall_clock,
                backend=backend,
                rooms=self._rooms,
                storage=self._storage,
            )
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery, app.running():
                    self._process = _Process(app, store, nursery, scope)
                    task_status.started()
                    task_status = trio.TASK_STATUS_IGNORED
                    await trio.sleep_forever()
            await trio.sleep_until(self._back_at)

    def crash(self, seconds: float) -> None:
        """Kill the server; it is back after `seconds`. Its connections are the caller's to cut."""
        self._back_at = trio.current_time() + seconds
        if self._process is not None:
            self._process.store.is_killed = True
            self._process.scope.cancel()
            self._process = None

    async def get(self, url: str) -> Mapping[str, Any]:
        """Answer an HTTP GET with the JSON object of the application.

        Raises:
            NoAnswer: The server is down.
            OpeningRefused: The status is not 200.
        """
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
        if start["status"] != _OK:
            raise OpeningRefused(start["status"], body=document)
        found: dict[str, Any] = document
        return found

    async def dial(
        self,
        url: str,
        headers: Mapping[str, str],
        subprotocols: Sequence[str],
        on_event: Callable[[Event], None],
    ) -> MemoryConnection:
        """Open a connection; `on_event` is called with each event that its client receives.

        Raises:
            NoAnswer: The server is down, or went down.
            OpeningRefused: It refused the upgrade.
        """
        await trio.sleep(2 * self._conditions.delay)
        process = self._running()
        server, client = memory_pair(
            buffer_bytes=self._buffer_bytes,
            send_timeout=self._settings.send_timeout_ms / 1000,
            max_bytes=self._settings.hard_message_size,
            conditions=self._conditions,
        )
        decoder = FrameDecoder(wall_clock)
        connection = MemoryConnection(url, headers, subprotocols, client, server, on_event, decoder)
        process.nursery.start_soon(_serve_connection, process.app, connection)
        try:
            await server.accepted.wait()
        except trio.Cancelled:
            connection.cut()
            raise
        if connection.refusal is not None:
            raise connection.refusal
        return connection

    def _running(self) -> _Process:
        if self._process is None:
            raise NoAnswer("connection refused: there is no server")
        return self._process


async def _serve_connection(app: Application, connection: MemoryConnection) -> None:
    """Do what a server's host does for one connection, to its end."""
    parts = urlsplit(connection.url)
    request = Request(
        headers={name.lower(): [value] for name, value in connection.headers.items()},
        query=parse_qs(parts.query, keep_blank_values=True),
        subprotocols=tuple(connection.subprotocols),
        peer=_PEER,
    )
    answer: Answer | None = None
    accepted = connection.server.accepted
    try:
        answer = await app.serve_upgrade(request, parts.path, lambda _: connection.server)
    finally:
        if not accepted.is_set():
            gone = NoAnswer("the server went away")
            connection.refusal = gone if answer is None else _refusal(answer)
            accepted.set()
        connection.client.close(ABNORMAL)  # does nothing if it is closed already
        connection.ended.set()


def _refusal(answer: Answer) -> OpeningRefused:
    wait = answer.headers.get("retry-after")
    return OpeningRefused(
        answer.status, retry_after=None if wait is None else float(wait), body=answer.body
    )
