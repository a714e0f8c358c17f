"""Hypercorn made ready to hold the application: under its own command, and beside the lane."""

import logging
from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from hypercorn.utils import wrap_app

from netra_trio.config.settings import Settings
from netra_trio.server.hypercorn.connection import HostConnection, install
from netra_trio.telemetry.logs import host_logger

KEEP_ALIVE = 10.0  # seconds for the next request to begin


def use_our_log() -> None:
    """Let Hypercorn's command write its lines where ours go, once, and redacted like ours."""
    Config.errorlog = host_logger()


def prepare_host(settings: Settings) -> None:
    """Put this project's connection handling into Hypercorn, with the limits of the settings.

    Raises:
        RuntimeError: If the installed Hypercorn is not one that is known.
    """
    install(
        send_timeout=settings.send_timeout_ms / 1000,
        max_message_bytes=settings.hard_message_size,
        drain_timeout=settings.drain_timeout_ms / 1000,
    )


class HttpHost:
    """Hypercorn's HTTP/1.1 and HTTP/2 for connections that somebody else accepted.

    Args:
        app: An ASGI application, whose lifespan is somebody else's too.
        settings: The limits.
    """

    def __init__(self, app: Any, settings: Settings) -> None:
        prepare_host(settings)
        self._app = wrap_app(app, 0, "asgi")
        self._context = WorkerContext(None)
        self._config = Config()
        self._config.errorlog = host_logger().getChild("hypercorn")
        self._config.errorlog.setLevel(logging.WARNING)
        self._config.include_server_header = False
        self._config.keep_alive_timeout = KEEP_ALIVE

    async def serve(self, stream: trio.abc.Stream, *, before: bytes = b"") -> None:
        """Serve one connection, of which some bytes may have been read; no exception gets out."""
        state = ConnectionState({})
        connection = HostConnection(self._app, self._config, self._context, state, stream)
        connection.before = before
        await connection.run()

    async def stop(self) -> None:
        """Let connections go that are idle, and the others when they have been answered."""
        await self._context.terminated.set()
