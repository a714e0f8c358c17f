"""A relay on loopback that cuts the connection after certain frames of the server.

    async with cutting(port, lambda frames: frames % 3 == 0) as (relayed, relay):
        … ws://127.0.0.1:{relayed}/ws …

It parses WebSocket frames, so that a test can cut a connection after a frame, or inside one.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import trio
from attrs import define

from support.wire import TEXT

CHUNK = 64 * 1024  # bytes of one read
HOST = "127.0.0.1"
OPCODE = 0x0F  # the bits of the opcode in the first byte of a frame


@define(eq=False)
class Relay:
    """Relays bytes of any number of connections.

    Attributes:
        target: The port of the server.
        is_cut: Called with the number of relayed frames; returns whether to cut the connection.
        in_frame: Whether half of the next frame is relayed before the cut.
        frames: The number of relayed text frames, without `connection_established`.
        cuts: The number of connections that were cut.
    """

    target: int
    is_cut: Callable[[int], bool]
    in_frame: bool = False
    frames: int = 0
    cuts: int = 0

    async def serve(self, near: trio.SocketStream) -> None:
        """Relay one connection."""
        far = await trio.open_tcp_stream(HOST, self.target)
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async with near, far, trio.open_nursery() as nursery:
                nursery.start_soon(_pass_on, near, far)
                await self._pass_frames(far, near)
                nursery.cancel_scope.cancel()
                await trio.aclose_forcefully(near)
                await trio.aclose_forcefully(far)

    async def _pass_frames(self, source: trio.SocketStream, sink: trio.SocketStream) -> None:
        """Relay the frames of the server, up to the end or to the cut."""
        data = await _read(source, b"", _head)
        head = _head(data) or b""
        await sink.send_all(head)
        data = data[len(head) :]
        if b" 101" not in head.partition(b"\r\n")[0]:
            await sink.send_all(data)
            await _pass_on(source, sink)
            return
        is_due, is_welcome = False, True
        while (frame := _frame(data := await _read(source, data, _frame))) is not None:
            data = data[len(frame) :]
            if is_due:
                await sink.send_all(frame[: len(frame) // 2])
                break
            await sink.send_all(frame)
            if frame[0] & OPCODE == TEXT:
                self.frames += not is_welcome
                is_welcome = False
                is_due = self.is_cut(self.frames)
            if is_due and not self.in_frame:
                break
        self.cuts += is_due


async def _read(
    source: trio.SocketStream, data: bytes, found: Callable[[bytes], bytes | None]
) -> bytes:
    """Read until the data has a complete item, or ends; return the data."""
    while found(data) is None:
        more = await source.receive_some(CHUNK)
        if not more:
            break
        data += more
    return data


async def _pass_on(source: trio.SocketStream, sink: trio.SocketStream) -> None:
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        async for data in source:
            await sink.send_all(data)
        await sink.send_eof()


def _head(data: bytes) -> bytes | None:
    """Return the head of an HTTP answer; None if it is not complete."""
    end = data.find(b"\r\n\r\n")
    return None if end < 0 else data[: end + 4]


def _frame(data: bytes) -> bytes | None:
    """Return the first frame of a server (RFC 6455, 5.2); None if it is not complete."""
    if len(data) < 2:
        return None
    size, start = data[1], 2
    if size >= 126:
        start = 4 if size == 126 else 10
        size = int.from_bytes(data[2:start], "big")
    return data[: start + size] if len(data) >= start + size else None


@asynccontextmanager
async def cutting(
    target: int, is_cut: Callable[[int], bool], *, in_frame: bool = False
) -> AsyncIterator[tuple[int, Relay]]:
    """Run a relay to a port of this machine; yield its own port and the relay."""
    relay = Relay(target, is_cut, in_frame)
    listeners = await trio.open_tcp_listeners(0, host=HOST)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, relay.serve, listeners)
        yield listeners[0].socket.getsockname()[1], relay
        nursery.cancel_scope.cancel()
