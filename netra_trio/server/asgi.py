"""The ASGI 3 interface of the application: its lifespan, HTTP requests and WebSockets."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import structlog
import trio

from netra_trio.agents.context import context_of
from netra_trio.config.settings import Settings
from netra_trio.endpoints.answer import Answer, send_answer
from netra_trio.endpoints.checks import AcceptedUpgrade
from netra_trio.endpoints.http import Router
from netra_trio.endpoints.request import Request
from netra_trio.errors import SettingsError, TransportClosed
from netra_trio.ids import new_error_id
from netra_trio.node.node import Node
from netra_trio.protocol.problem import Problem
from netra_trio.server.hypercorn.install import prepare_stock_host
from netra_trio.telemetry.watchdog import LoopWatchdog
from netra_trio.transports.asgi import EXTENSION, AsgiTransport, Message, Receive, Send
from netra_trio.transports.base import Transport
from netra_trio.transports.deflate import Compression

CLOSING = 1.0  # seconds for HTTP requests that are still in progress when the drain is done

_log = structlog.get_logger(__name__)


class Served(Protocol):
    """The application, as the ASGI interface uses it."""

    settings: Settings
    compression: Compression | None

    @property
    def node(self) -> Node:
        """The node, while the application runs."""
        ...

    @property
    def router(self) -> Router:
        """The HTTP endpoints, while the application runs."""
        ...

    def running(self) -> AbstractAsyncContextManager[Node]:
        """Open everything that the application needs."""
        ...

    async def drain(self) -> None:
        """End everything within the drain timeout."""
        ...

    async def serve_upgrade(
        self,
        request: Request,
        path: str,
        transport: Callable[[AcceptedUpgrade], Transport],
        *,
        fault: Problem | None = None,
    ) -> Answer | None:
        """Serve a WebSocket to its end, or return the answer that rejects it."""
        ...


class AsgiAdapter:
    """Serves an application through ASGI.

    Under a stock server the lifespan runs the application. Our own listener runs it itself and
    passes HTTP requests only.

    Args:
        app: The application.
    """

    def __init__(self, app: Served) -> None:
        self._app = app
        self._watches_host = False

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one ASGI call.

        Raises:
            RuntimeError: If the application does not run.
        """
        kind = scope["type"]
        if kind == "lifespan":
            await self._lifespan(receive, send)
            return
        self._watch_host(scope)
        if kind == "http":
            await self._isolate(self._app.router.handle(scope, receive, send))
        elif kind == "websocket":
            await self._isolate(self._websocket(scope, receive, send))

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()  # lifespan.startup
        prepare_stock_host(self._app.settings, self._app.compression)
        try:
            await self._run(receive, send)
        except trio.Cancelled:
            raise
        except SettingsError as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
        except BaseException:
            # A server may go on without the lifespan: without this line its end would be invisible.
            _log.critical("server_failed", exc_info=True)
            raise
        await send({"type": "lifespan.shutdown.complete"})

    async def _run(self, receive: Receive, send: Send) -> None:
        with LoopWatchdog(context_of):
            async with self._app.running():
                await send({"type": "lifespan.startup.complete"})
                await receive()  # lifespan.shutdown
                await self._app.drain()

    def _watch_host(self, scope: Message) -> None:
        """Drain when the host begins to stop: it tells connections before the lifespan."""
        node = self._app.node
        extension = scope.get("extensions", {}).get(EXTENSION, {})
        if not self._watches_host and "terminated" in extension:
            self._watches_host = True
            node.start_soon(self._drain_after, extension["terminated"])

    async def _drain_after(self, terminated: Callable[[], Awaitable[None]]) -> None:
        """Drain, and cut HTTP requests that are at work then: the host would wait for them."""
        await terminated()
        await self._app.drain()
        await trio.sleep(CLOSING)
        self._app.router.cut()

    async def _isolate(self, call: Awaitable[None]) -> None:
        """Log an exception instead of raising it: the host then answers 500 or closes with 1011."""
        try:
            await call
        except* TransportClosed:
            pass  # the peer left before the answer
        except* Exception as faults:
            _log.error("call_failed", error_id=new_error_id(), exc_info=faults)

    async def _websocket(self, scope: Message, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        settings = self._app.settings

        def transport(accepted: AcceptedUpgrade) -> AsgiTransport:
            return AsgiTransport(
                scope,
                receive,
                send,
                subprotocol=accepted.subprotocol,
                send_timeout=settings.send_timeout_ms / 1000,
                max_bytes=settings.hard_message_size,
            )

        request, path = Request.of_scope(scope), scope["path"]
        answer = await self._app.serve_upgrade(request, path, transport)
        if answer is not None:
            await send_answer(send, "websocket.http", answer)
