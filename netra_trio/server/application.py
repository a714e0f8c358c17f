"""The composition root: makes the application, and opens and closes its parts together.

app = create_app(agents={"shout": shout})
"""

import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from math import inf
from pathlib import Path
from typing import Any

import structlog
import trio
from attrs import frozen

from netra_trio.agents.demo.agent import demo
from netra_trio.agents.demo.echo import echo
from netra_trio.agents.options import agent as with_options
from netra_trio.agents.resources import resources_of
from netra_trio.agents.run import Agent
from netra_trio.aio.recognition import recognized
from netra_trio.auth.tokens import TokenVerifier
from netra_trio.broker.base import Backend, Published
from netra_trio.broker.valkey.choice import backend_of
from netra_trio.config.loading import load
from netra_trio.config.settings import FILES_FOLDER, Settings
from netra_trio.endpoints.answer import Answer
from netra_trio.endpoints.chat_page import Asset, read_page
from netra_trio.endpoints.checks import AcceptedUpgrade
from netra_trio.endpoints.doors.table import door_paths
from netra_trio.endpoints.entrance import Entrance
from netra_trio.endpoints.http import Router
from netra_trio.endpoints.opening_rate import OpeningRate
from netra_trio.endpoints.overview import Overview, Topic, WorkerGroup
from netra_trio.endpoints.paths import ENDPOINTS
from netra_trio.endpoints.request import Request
from netra_trio.endpoints.upgrade import serve_upgrade
from netra_trio.files.base import FileStorage
from netra_trio.files.choice import storage_of
from netra_trio.ids import NodeId, ThreadId, UserId
from netra_trio.node.node import Node, open_node
from netra_trio.protocol.fields import JsonObject
from netra_trio.protocol.problem import Problem
from netra_trio.protocol.rooms import thread_room, user_room
from netra_trio.rooms.permission import PermissionCheck
from netra_trio.server.asgi import AsgiAdapter
from netra_trio.stores.base import Store
from netra_trio.stores.memory import MemoryStore
from netra_trio.stores.sql.store import SqlStore
from netra_trio.telemetry.instruments import Instrument, Instruments
from netra_trio.telemetry.logs import leave_locals_out
from netra_trio.telemetry.loop_lag import watch_loop
from netra_trio.telemetry.metrics import Metrics
from netra_trio.telemetry.otlp import is_installed
from netra_trio.transports.asgi import Message, Receive, Send
from netra_trio.transports.base import Transport
from netra_trio.transports.deflate import Compression

DEMO_AGENTS: Mapping[str, Agent] = {
    "demo": with_options(
        demo,
        title="Demo",
        examples=(
            "What is 12*(3+4)?",
            "What time is it in New York and Tokyo?",
            "What did I say?",
            "Count slowly",
        ),
    ),
    "echo": with_options(echo, title="Echo"),
}
"""The agents of a server that is given none; the first one is the default."""

Resource = Callable[[], AbstractAsyncContextManager[Any]]
"""Opens something that lives as long as the application."""

_log = structlog.get_logger(__name__)


@frozen
class _RunningParts:
    """The objects that exist while an application runs."""

    node: Node
    router: Router
    overview: Overview
    entrance: Entrance


class Application:
    """An ASGI 3 application for any server on Trio; made by `create_app`.

    Attributes:
        settings: Its settings.
        wall_clock: Returns Unix seconds.
        instruments: Receive its telemetry.
        compression: The compression that it offers to clients; None for none.
        group: The workers that this process is one of, set before it runs; None for one process.
        terminate: Ends this process as SIGTERM does, which drains it; None where something else
            decides when it ends. Then it only drains, if an administrator asks for it.
    """

    def __init__(
        self,
        *,
        agents: Mapping[str, Agent],
        settings: Settings,
        store: Store,
        verifier: TokenVerifier,
        wall_clock: Callable[[], float],
        page: Mapping[str, Asset],
        more_instruments: Sequence[Instrument] = (),
        backend: Backend | None = None,
        may: PermissionCheck | None = None,
        storage: FileStorage,
    ) -> None:
        self.settings = settings
        metrics = Metrics(tuple(agents), (*ENDPOINTS, *door_paths(settings.doors)))
        self.instruments = Instruments(metrics, more_instruments)
        self.compression = Compression(metrics.note_compressed) if settings.compression else None
        self.wall_clock = wall_clock
        self.group: WorkerGroup | None = None
        self.terminate: Callable[[], None] | None = None
        self._drains_alone = False
        self._agents = agents
        self._store = store
        self._backend = backend
        self._may = may
        self._storage = storage
        self._verifier = verifier
        self._page = page
        # Opened in this order before the node starts, and closed in reverse order after it ends.
        self._resources: Sequence[Resource] = (verifier.open, *resources_of(agents))
        self._asgi = AsgiAdapter(self)
        self._open: _RunningParts | None = None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one ASGI call.

        Raises:
            RuntimeError: If the application does not run.
        """
        await self._asgi(scope, receive, send)

    @property
    def node_id(self) -> NodeId:
        """The id of its node, which its lease has too."""
        return self._store.owner

    @property
    def node(self) -> Node:
        """The node.

        Raises:
            RuntimeError: If the application does not run.
        """
        return self._opened().node

    @property
    def router(self) -> Router:
        """The HTTP endpoints.

        Raises:
            RuntimeError: If the application does not run.
        """
        return self._opened().router

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Node]:
        """Open everything that the application needs, and close it at the end of the block.

        Raises:
            SettingsError: If it cannot start with its settings.
        """
        leave_locals_out()
        async with AsyncExitStack() as stack:
            for resource in self._resources:
                await stack.enter_async_context(resource())
            node = await stack.enter_async_context(
                open_node(
                    self.settings,
                    agents=self._agents,
                    store=self._store,
                    verifier=self._verifier,
                    wall_clock=self.wall_clock,
                    instruments=self.instruments,
                    backend=self._backend,
                    may=self._may,
                    storage=self._storage,
                )
            )
            node.admin.actions.drain = self._drain_alone
            instruments = self.instruments
            lag = instruments.metrics.loop_lag
            node.start_soon(watch_loop, lag.observe, instruments.log_sink.write_summaries)
            overview = Overview(node, self.group)
            rate = OpeningRate(self.settings.opening_rate, self.settings.opening_burst)
            entrance = Entrance(node, rate)
            router = Router(entrance, page=self._page, overview=overview)
            self._open = _RunningParts(node, router, overview, entrance)
            try:
                yield node
            finally:
                self._open = None
                instruments.log_sink.write_summaries(inf)

    async def publish(
        self, room: str, payload: JsonObject | str, key: str | None = None
    ) -> Published:
        """Publish a `room_message` to a room, for all its members on all nodes.

        Cancelling is safe; the message may have been published all the same.

        Args:
            room: The name of the room.
            payload: The content of the message: a text, or an object that can be encoded as JSON.
            key: Of two messages with one key within 300 seconds, only the first one is published;
                1 to 128 characters.

        Returns:
            The position of the message in the room: `epoch`, `offset`, and `is_duplicate`.

        Raises:
            TypeError: If `payload` is neither, or cannot be encoded as JSON.
            ValueError: If the name of the room or the key is not valid, or the event has more than
                256 KiB.
            BrokerUnavailable: If the broker does not answer in time.
            RuntimeError: If the application does not run.
        """
        return await self.node.services.publisher.publish(room, payload, key=key)

    async def kick(self, room: str, user: str) -> None:
        """End the memberships of a user in a room, on all nodes; each gets `room_left`.

        The user may join again with the permission of the function `rooms` of `create_app`.
        Cancelling is safe; the memberships may end all the same.

        Raises:
            ValueError: If the name of the room is not valid.
            BrokerUnavailable: If the broker does not answer in time.
            RuntimeError: If the application does not run.
        """
        await self.node.services.rooms.kick(room, UserId(user))

    def user_room(self, user: str) -> str:
        """Return the name of the room of a user, which that user alone may join."""
        return user_room(UserId(user))

    def thread_room(self, user: str, thread_id: str) -> str:
        """Return the name of the room of a thread of a user."""
        return thread_room(UserId(user), ThreadId(thread_id))

    async def drain(self) -> None:
        """Accept no more connections and close every open one, within the drain timeout.

        Then wait for the uploads, downloads and other requests that are in progress, within the
        same time.
        """
        if self._open is None:
            return
        until = trio.current_time() + self.settings.drain_timeout_ms / 1000
        node, router, group = self._open.node, self._open.router, self.group
        if group is None or self._drains_alone:
            await node.drain()
        else:
            await node.drain(beside=group.nodes, is_last=group.owns_broker)
        with trio.move_on_at(until):
            await router.wait_idle()

    async def _drain_alone(self) -> None:
        """Drain this process at the request of an administrator; other workers go on.

        No effect if it drains already: a second SIGTERM would end it at once.
        """
        if self._drains_alone or self._open is None or self._open.node.capacity.is_draining:
            return
        self._drains_alone = True
        if self.terminate is None:
            await self.drain()
        else:
            self.terminate()

    def statistics(self) -> dict[str, int]:
        """Return how many connections, sessions and users there are now."""
        return {} if self._open is None else self._open.node.statistics()

    async def report(self, topic: Topic) -> Any:
        """Return the health or the metrics of this process alone, as JSON; None before it runs."""
        return None if self._open is None else await self._open.overview.report(topic)

    async def serve_upgrade(
        self,
        request: Request,
        path: str,
        transport: Callable[[AcceptedUpgrade], Transport],
        *,
        fault: Problem | None = None,
    ) -> Answer | None:
        """Serve a WebSocket to its end, or return the answer that rejects it.

        Args:
            request: Its headers, query and peer.
            path: Its path, decoded.
            transport: Makes the transport, after every check has passed.
            fault: The fault of the handshake itself, if it has one.

        Raises:
            RuntimeError: If the application does not run.
        """
        entrance = self._opened().entrance
        return await serve_upgrade(entrance, request, path, transport, fault=fault)

    def _opened(self) -> _RunningParts:
        if self._open is None:
            text = "the application does not run: enter `running()`, or start the ASGI lifespan"
            raise RuntimeError(text)
        return self._open


def create_app(
    *,
    agents: Mapping[str, Agent] | None = None,
    settings: Settings | None = None,
    store: Store | None = None,
    wall_clock: Callable[[], float] = time.time,
    backend: Backend | None = None,
    rooms: PermissionCheck | None = None,
    storage: FileStorage | None = None,
) -> Application:
    """Make the application.

    Args:
        agents: The agents by name, the first one the default; the demo agents by default. An agent
            of a framework that `netra_trio.aio` adapts is wrapped by its adapter.
        settings: The settings; read from the environment by default.
        store: The store; by default the one of the settings' database, in memory without one.
        wall_clock: Returns Unix seconds.
        backend: What several nodes share; by default the one of the settings' broker, none without
            one. It and the store must have the same node id.
        rooms: The function for permissions in rooms; without it there are only the server's own.
        storage: Where the content of files is kept; by default where FILES_URL says.

    Raises:
        SettingsError: With every fault of the settings, or if the framework of an agent is too
            old.
        ValueError: If `agents` is empty.
    """
    if agents is not None and not agents:
        raise ValueError("agents: expected at least one, got none")
    files_url = None if settings is None else settings.files_url
    if settings is None:
        loaded = load(os.environ, directory=Path.cwd())
        settings = loaded.settings
        if loaded.sources["FILES_URL"] != "default":
            files_url = settings.files_url
        for warning in loaded.warnings:
            _log.warning("setting", warning=warning)
    if store is None:
        store = _store_of(settings)
    if backend is None:
        backend = backend_of(settings.redis_url, store.owner)
    return Application(
        agents={
            name: recognized(agent)
            for name, agent in (DEMO_AGENTS if agents is None else agents).items()
        },
        settings=settings,
        store=store,
        verifier=TokenVerifier.of(settings),
        wall_clock=wall_clock,
        page=read_page(),
        more_instruments=_traces(),
        backend=backend,
        may=rooms,
        storage=_storage_of(files_url, store) if storage is None else storage,
    )


def _traces() -> tuple[Instrument, ...]:
    """Return the instrument that makes spans, where OpenTelemetry is installed."""
    if not is_installed("opentelemetry.trace"):
        return ()
    from netra_trio.telemetry.traces import Traces  # noqa: PLC0415 - an optional dependency

    return (Traces(),)


def _storage_of(url: str | None, store: Store) -> FileStorage:
    """Return where the content of files is kept; without a URL, for as long as their rows are."""
    is_in_memory = isinstance(store, MemoryStore) or (
        isinstance(store, SqlStore) and store.database.is_in_memory
    )
    if url is None and not is_in_memory:
        url = str(Path.cwd() / FILES_FOLDER)
    return storage_of(url)


def _store_of(settings: Settings) -> Store:
    if settings.database_url is None:
        return MemoryStore()
    return SqlStore(settings.database_url, retention_days=settings.history_retention_days)
