"""Hypercorn's HTTP/1.1 and HTTP/2 beside our own listener."""

import logging
from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from hypercorn.utils import wrap_app

from netra_trio.config.settings import Settings
from netra_trio.server.hypercorn.connection import HostConnection
from netra_trio.server.hypercorn.install import prepare_host
from netra_trio.telemetry.logs import host_logger
from netra_trio.transports.deflate import Compression
from netra_trio.transports.pacing import Turns

KEEP_ALIVE = 10.0  # seconds for the next request to begin


class HttpHost:
    """Serves HTTP on connections that the listener accepted.

    Args:
        app: An ASGI application whose lifespan the caller runs.
        settings: The limits.
        turns: The turns that all connections of the process share.
        compression: The compression that it offers to WebSocket clients, if any.
    """

    def __init__(
        self, app: Any, settings: Settings, turns: Turns, compression: Compression | None = None
    ) -> None:
        prepare_host(settings, compression)
        self._turns = turns
        self._app = wrap_app(app, 0, "asgi")
        self._context = WorkerContext(None)
        self._config = Config()
        self._config.errorlog = host_logger().getChild("hypercorn")
        self._config.errorlog.setLevel(logging.WARNING)
        self._config.include_server_header = False
        self._config.keep_alive_timeout = KEEP_ALIVE

    async def serve(self, stream: trio.abc.Stream, *, before: bytes = b"") -> None:
        """Serve one connection to its end; raises no exception of it.

        Args:
            stream: The connection, which is closed at the end.
            before: Bytes that were read from it already.
        """
        state = ConnectionState({})
        connection = HostConnection(self._app, self._config, self._context, state, stream)
        connection.before = before
        connection.turns = self._turns
        await connection.run()

    async def stop(self) -> None:
        """End idle connections now, and the others when their requests are answered."""
        await self._context.terminated.set()
