"""The listeners of an application, and what serves their connections.

listeners = Listeners(app, listen("127.0.0.1", 8000))
await nursery.start(listeners.serve)
"""

import socket
import ssl
from collections.abc import Sequence

import trio

from netra_trio.server.application import Application
from netra_trio.server.hypercorn.host import HttpHost
from netra_trio.server.listener import Listener
from netra_trio.server.socket_handler import SocketHandler
from netra_trio.transports.pacing import Turns


class Listeners:
    """Serves the connections of listening sockets.

    Args:
        app: The application, which runs.
        socks: The listening sockets.
        tls: The TLS context; None for plain TCP.
    """

    def __init__(
        self,
        app: Application,
        socks: Sequence[socket.socket],
        *,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        turns = Turns()
        self._http = HttpHost(app, app.settings, turns, app.compression)
        handler = SocketHandler(app, self._http, turns, tls)
        self._listeners = [Listener(sock, handler.serve, app.instruments.note) for sock in socks]

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve connections until `stop` is called and the last connection has ended."""
        async with trio.open_nursery() as nursery:
            for listener in self._listeners:
                await nursery.start(listener.serve)
            task_status.started()

    def stop_accepting(self) -> None:
        """Accept no more connections; those that are open go on."""
        for listener in self._listeners:
            listener.stop()

    async def stop(self) -> None:
        """Accept no more connections; idle HTTP connections end, others end with their answer."""
        self.stop_accepting()
        await self._http.stop()
