"""The ASGI application: lifespan, HTTP endpoints, the opening checks, then the hub.

app = create_app(agents={"shout": shout})
"""

import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from math import inf
from pathlib import Path

import structlog
import trio

from netra_trio.agents.demo.agent import demo
from netra_trio.agents.demo.echo import echo
from netra_trio.agents.run import Agent
from netra_trio.auth.tokens import TokenVerifier
from netra_trio.config.loading import load
from netra_trio.config.settings import Settings
from netra_trio.endpoints import http
from netra_trio.endpoints.chat_page import Asset, read_page
from netra_trio.endpoints.request import Request, trace_of
from netra_trio.endpoints.upgrade import AcceptedUpgrade, check_upgrade
from netra_trio.errors import SettingsError, TransportClosed
from netra_trio.ids import new_error_id
from netra_trio.node.node import Node, open_node
from netra_trio.protocol.problem import Problem, Refused
from netra_trio.protocol.wire_format import JSON_ACKNOWLEDGING, JSON_PLAIN
from netra_trio.server.hypercorn.install import prepare_host
from netra_trio.stores.base import Store
from netra_trio.stores.memory import MemoryStore
from netra_trio.stores.sql.store import SqlStore
from netra_trio.telemetry.events import UpgradeFailed, UpgradeStarted
from netra_trio.telemetry.instruments import Instrument, Instruments
from netra_trio.telemetry.loop_lag import watch_loop
from netra_trio.telemetry.metrics import Metrics
from netra_trio.telemetry.otlp import is_installed
from netra_trio.telemetry.prometheus import Exposition
from netra_trio.transports.asgi import EXTENSION, AsgiTransport, Message, Receive, Send
from netra_trio.transports.base import Transport

DEMO_AGENTS: Mapping[str, Agent] = {"demo": demo, "echo": echo}
"""What answers where no agent is given; the first one is the default."""

HYPERCORN = "hypercorn.trio.run"  # is imported where it is the host, which takes it up after this

_log = structlog.get_logger(__name__)


class Application:
    """An ASGI 3 application for any server on Trio; made by `create_app`.

    Attributes:
        settings: What it was made with.
        wall_clock: Returns Unix seconds.
        instruments: What watches it.
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
    ) -> None:
        self.settings = settings
        metrics = Metrics(tuple(agents), tuple(http.ENDPOINTS))
        self.instruments = Instruments(metrics, more_instruments)
        self._exposition = Exposition(metrics)
        self._agents = agents
        self._store = store
        self._verifier = verifier
        self.wall_clock = wall_clock
        self._page = page
        self._node: Node | None = None
        self._watched = False

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one ASGI call."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        node = self._node
        if node is None:
            raise RuntimeError("the server did not start the lifespan, which holds every session")
        self._watch_host(scope, node)
        if scope["type"] == "http":
            await self._contain(self._answer(scope, receive, send, node))
        elif scope["type"] == "websocket":
            await self._contain(self._connect(scope, receive, send))

    async def _answer(self, scope: Message, receive: Receive, send: Send, node: Node) -> None:
        await http.handle(scope, receive, send, node, files=self._page, exposition=self._exposition)

    async def drain(self) -> None:
        """Let nobody in and close every connection, within the drain timeout."""
        if self._node is not None:
            await self._node.drain()

    def statistics(self) -> dict[str, int]:
        """Return how many connections, sessions and users there are now."""
        return {} if self._node is None else self._node.statistics()

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()  # lifespan.startup
        if HYPERCORN in sys.modules:
            prepare_host(self.settings)
        try:
            await self._live_with_host(receive, send)
        except trio.Cancelled:
            raise
        except SettingsError as wrong:
            await send({"type": "lifespan.startup.failed", "message": str(wrong)})
        except BaseException:
            # A host goes on without its lifespan, as if nothing had happened: say that it has.
            _log.critical("server_failed", exc_info=True)
            raise
        await send({"type": "lifespan.shutdown.complete"})

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Node]:
        """Hold all that is live; for a host of our own, and for the lifespan.

        Raises:
            SettingsError: If it cannot start with its settings.
        """
        async with (
            self._verifier.open(),
            open_node(
                self.settings,
                agents=self._agents,
                store=self._store,
                verifier=self._verifier,
                wall_clock=self.wall_clock,
                instruments=self.instruments,
            ) as node,
        ):
            self._node = node
            instruments = self.instruments
            lag = instruments.metrics.loop_lag
            node.start_soon(watch_loop, lag.observe, instruments.log_sink.write_summaries)
            try:
                yield node
            finally:
                self._node = None
                instruments.log_sink.write_summaries(inf)

    async def _live_with_host(self, receive: Receive, send: Send) -> None:
        async with self.running() as node:
            await send({"type": "lifespan.startup.complete"})
            await receive()  # lifespan.shutdown
            await node.drain()

    def _watch_host(self, scope: Message, node: Node) -> None:
        """Drain when the host begins to stop: it says so to connections before the lifespan."""
        extras = scope.get("extensions", {}).get(EXTENSION, {})
        if not self._watched and "terminated" in extras:
            self._watched = True
            node.start_soon(self._drain_after, extras["terminated"])

    async def _drain_after(self, terminated: Callable[[], Awaitable[None]]) -> None:
        await terminated()
        await self.drain()

    async def _contain(self, call: Awaitable[None]) -> None:
        """Keep one call's fault to itself: the host answers 500, or 1011."""
        try:
            await call
        except* TransportClosed:
            pass  # it left before its answer
        except* Exception as faults:
            _log.error("call_failed", error_id=new_error_id(), exc_info=faults)

    async def _connect(self, scope: Message, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        request, path = Request.of_scope(scope), scope["path"]
        transport = partial(self._transport, scope, receive, send)
        answer = await self.serve_upgrade(request, path, transport)
        if answer is not None:
            await http.send_answer(send, "websocket.http", answer)

    async def serve_upgrade(
        self,
        request: Request,
        path: str,
        transport: Callable[[AcceptedUpgrade], Transport],
        *,
        fault: Problem | None = None,
    ) -> http.Answer | None:
        """Serve a WebSocket to its end, or return the answer that refuses it.

        Args:
            request: What the checks look at.
            path: Where it wants to.
            transport: Makes the transport, for an opening that passed every check.
            fault: What is wrong with the handshake itself, if anything.
        """
        node = self._node
        if node is None:
            raise RuntimeError("the application is not running: it holds every session while it is")
        since, note = trio.current_time(), self.instruments.note
        note(UpgradeStarted(trace_of(request)))
        try:
            with node.capacity.connection_slot():
                _check_handshake(path, fault)
                opening = await check_upgrade(request, node.services, now=since)
                await node.serve(
                    transport(opening),
                    opening.identity,
                    JSON_ACKNOWLEDGING if opening.acknowledging else JSON_PLAIN,
                    wanted=opening.wanted,
                    since=since,
                    traceparent=opening.traceparent,
                )
        except Refused as refused:
            now = node.services.wall_clock()
            return http.refusal(refused.problem, now, request, path, note, upgrade=True)
        except Exception:
            note(UpgradeFailed())
            raise
        return None

    def _transport(
        self, scope: Message, receive: Receive, send: Send, opening: AcceptedUpgrade
    ) -> AsgiTransport:
        return AsgiTransport(
            scope,
            receive,
            send,
            subprotocol=opening.subprotocol,
            send_timeout=self.settings.send_timeout_ms / 1000,
            max_bytes=self.settings.hard_message_size,
        )


def _check_handshake(path: str, fault: Problem | None) -> None:
    if fault is not None:
        raise Refused(fault)
    http.check_websocket_path(path)


def create_app(
    *,
    agents: Mapping[str, Agent] | None = None,
    settings: Settings | None = None,
    store: Store | None = None,
    wall_clock: Callable[[], float] = time.time,
) -> Application:
    """Make the application.

    Args:
        agents: The agents by name, the first one the default; the demo agents where none is given.
        settings: From the environment, where none are given.
        store: Where the settings' database is, where none is given; without one, in memory.
        wall_clock: Returns Unix seconds.

    Raises:
        SettingsError: With every fault of the settings.
        ValueError: If `agents` is empty.
    """
    if agents is not None and not agents:
        raise ValueError("agents: expected at least one, got none")
    if settings is None:
        loaded = load(os.environ, directory=Path.cwd())
        settings = loaded.settings
        for warning in loaded.warnings:
            _log.warning("setting", warning=warning)
    return Application(
        agents=dict(DEMO_AGENTS if agents is None else agents),
        settings=settings,
        store=_store_of(settings) if store is None else store,
        verifier=TokenVerifier.of(settings),
        wall_clock=wall_clock,
        page=read_page(),
        more_instruments=_traces(),
    )


def _traces() -> tuple[Instrument, ...]:
    """Return what makes spans, where OpenTelemetry is installed."""
    if not is_installed("opentelemetry.trace"):
        return ()
    from netra_trio.telemetry.traces import Traces  # noqa: PLC0415 - only where it can be

    return (Traces(),)


def _store_of(settings: Settings) -> Store:
    if settings.database_url is None:
        return MemoryStore()
    return SqlStore(settings.database_url, retention_days=settings.history_retention_days)
