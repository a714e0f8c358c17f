"""A TCP relay between clients and the server that injects faults: cut, half-open, slow.

async with trio.open_nursery() as nursery:
    relay = Relay(server.port)
    port = await nursery.start(relay.serve)
    relay.cut()
"""

import socket
import struct

import trio
from attrs import define, field

HOST = "127.0.0.1"
CHUNK = 64 * 1024  # bytes of one read
SLOW_CHUNK = 256  # of one read while a connection is slow
SLOW_SECONDS = 0.05  # between two reads of a slow connection
_RESET = struct.pack(
    "ii", 1, 0
)  # SO_LINGER with 0 s: close sends a reset, as if the peer were lost


@define(eq=False)
class _Relayed:
    """One connection through a relay."""

    scope: trio.CancelScope = field(factory=trio.CancelScope)
    frozen_until: float = 0.0
    slow_until: float = 0.0


class Relay:
    """Forwards bytes in both directions, with the faults of networks on request."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._connections: set[_Relayed] = set()
        self.port = 0

    async def serve(self, *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED) -> None:
        """Accept connections until cancelled; reports its port when it is started."""
        listeners = await trio.open_tcp_listeners(0, host=HOST)
        self.port = int(listeners[0].socket.getsockname()[1])
        task_status.started(self.port)
        await trio.serve_listeners(self._forward, listeners)

    def cut(self) -> None:
        """Reset every connection, on both sides."""
        for relayed in self._connections:
            relayed.scope.cancel()

    def freeze(self, seconds: float) -> None:
        """Forward nothing for some seconds, then reset: a half-open connection."""
        until = trio.current_time() + seconds
        for relayed in self._connections:
            relayed.frozen_until = until
            relayed.scope.deadline = until

    def slow(self, seconds: float) -> None:
        """Forward few bytes at a time for some seconds."""
        until = trio.current_time() + seconds
        for relayed in self._connections:
            relayed.slow_until = until

    async def _forward(self, near: trio.SocketStream) -> None:
        try:
            far = await trio.open_tcp_stream(HOST, self._target)
        except OSError:
            await trio.aclose_forcefully(near)
            return
        relayed = _Relayed()
        self._connections.add(relayed)
        try:
            with relayed.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._pump, near, far, relayed)
                    nursery.start_soon(self._pump, far, near, relayed)
        finally:
            self._connections.discard(relayed)
            for stream in (near, far):
                if relayed.scope.cancelled_caught:
                    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                stream.socket.close()  # without a checkpoint, so that both are closed

    async def _pump(
        self, source: trio.SocketStream, sink: trio.SocketStream, relayed: _Relayed
    ) -> None:
        try:
            while True:
                await trio.sleep_until(relayed.frozen_until)
                is_slow = relayed.slow_until > trio.current_time()
                data = await source.receive_some(SLOW_CHUNK if is_slow else CHUNK)
                await trio.sleep_until(relayed.frozen_until)
                if not data:
                    break
                await sink.send_all(data)
                if is_slow:
                    await trio.sleep(SLOW_SECONDS)
            await sink.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            relayed.scope.cancel()
