"""A line between a client and the server, and what happens to lines: cut, half-open, slow.

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
SLOW_CHUNK = 256  # likewise, while a line is slow
SLOW_SECONDS = 0.05  # between two reads of a slow line
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of nothing: closing sends a reset, as a lost peer does


@define(eq=False)
class _Line:
    """One connection through a relay."""

    scope: trio.CancelScope = field(factory=trio.CancelScope)
    frozen_until: float = 0.0
    slow_until: float = 0.0


class Relay:
    """Passes bytes on in both directions, and does to its lines what networks do."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._lines: set[_Line] = set()
        self.port = 0

    async def serve(self, *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED) -> None:
        """Take connections until cancelled; starts with its port."""
        listeners = await trio.open_tcp_listeners(0, host=HOST)
        self.port = int(listeners[0].socket.getsockname()[1])
        task_status.started(self.port)
        await trio.serve_listeners(self._pass_on, listeners)

    def cut(self) -> None:
        """Reset every line, on both sides."""
        for line in self._lines:
            line.scope.cancel()

    def freeze(self, seconds: float) -> None:
        """Pass nothing on for so long, and then reset: both ends believe that there is a line."""
        until = trio.current_time() + seconds
        for line in self._lines:
            line.frozen_until = until
            line.scope.deadline = until

    def slow(self, seconds: float) -> None:
        """Pass on some bytes at a time for so long."""
        until = trio.current_time() + seconds
        for line in self._lines:
            line.slow_until = until

    async def _pass_on(self, near: trio.SocketStream) -> None:
        try:
            far = await trio.open_tcp_stream(HOST, self._target)
        except OSError:
            await trio.aclose_forcefully(near)
            return
        line = _Line()
        self._lines.add(line)
        try:
            with line.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._pump, near, far, line)
                    nursery.start_soon(self._pump, far, near, line)
        finally:
            self._lines.discard(line)
            for stream in (near, far):
                if line.scope.cancelled_caught:
                    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                stream.socket.close()  # without a checkpoint, so that both are

    async def _pump(self, source: trio.SocketStream, sink: trio.SocketStream, line: _Line) -> None:
        try:
            while True:
                await trio.sleep_until(line.frozen_until)
                is_slow = line.slow_until > trio.current_time()
                data = await source.receive_some(SLOW_CHUNK if is_slow else CHUNK)
                await trio.sleep_until(line.frozen_until)
                if not data:
                    break
                await sink.send_all(data)
                if is_slow:
                    await trio.sleep(SLOW_SECONDS)
            await sink.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            line.scope.cancel()
