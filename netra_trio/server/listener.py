"""The listener: accepts connections, and serves each in a task of its own.

    listener = Listener(sock, handler.serve, instruments.note)
    await nursery.start(listener.serve)

No exception of one connection reaches another.
"""

import errno
import socket
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import structlog
import trio

from netra_trio.endpoints.request import peer_address
from netra_trio.errors import TransportClosed, leaves, place_of
from netra_trio.telemetry.events import ListenerCrowded, TelemetryEvent

ACCEPTS = 64  # connections accepted in a row before other tasks run
CROWDED_SECONDS = 0.1  # until the next accept after the system was out of resources

_CROWDED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_LOST = (OSError, TransportClosed, trio.BrokenResourceError, trio.ClosedResourceError)

Handler: TypeAlias = Callable[[socket.socket, str], Awaitable[None]]
"""Serves a connected, non-blocking socket, whose peer has this address, to its end."""

_log = structlog.get_logger(__name__)


class Listener:
    """Accepts the connections of one listening socket.

    Args:
        sock: A listening socket.
        handle: Serves each connection.
        note: Receives a telemetry event when no connection can be accepted.
    """

    def __init__(
        self, sock: socket.socket, handle: Handler, note: Callable[[TelemetryEvent], None]
    ) -> None:
        self._sock = sock
        self._handle = handle
        self._note = note
        self._accepting = trio.CancelScope()

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve connections until `stop` is called and the last connection has ended."""
        self._sock.setblocking(False)
        async with trio.open_nursery() as nursery:
            task_status.started()
            with self._accepting:
                while True:
                    await trio.lowlevel.wait_readable(self._sock)
                    if not self._accept(nursery):
                        await trio.sleep(CROWDED_SECONDS)

    def stop(self) -> None:
        """Accept no more connections."""
        self._accepting.cancel()

    def _accept(self, nursery: trio.Nursery) -> bool:
        """Accept the waiting connections; return False if the system is out of resources."""
        for _ in range(ACCEPTS):
            try:
                sock, address = self._sock.accept()
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno in _CROWDED:
                    self._note(ListenerCrowded(str(error.strerror)))
                    return False
                continue  # the peer of this connection left before it was accepted
            nursery.start_soon(self._isolate, sock, peer_address(str(address[0])))
        return True

    async def _isolate(self, sock: socket.socket, peer: str) -> None:
        """Serve one connection, log its exceptions, and close its socket."""
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
            await self._handle(sock, peer)
        except* _LOST:
            pass
        except* Exception as faults:
            for fault in leaves(faults):
                kind, where = type(fault).__name__, place_of(fault)
                _log.error("connection_broke", peer=peer, fault=kind, where=where)
        finally:
            if sock.fileno() >= 0:
                trio.lowlevel.notify_closing(sock)
                sock.close()
