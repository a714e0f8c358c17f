"""A relay on loopback that loses the line after certain frames of the server.

    async with cutting(port, lambda frames: frames % 3 == 0) as (relayed, relay):
        … ws://127.0.0.1:{relayed}/ws …

It reads WebSocket frames, so a line is lost just where a test wants it: behind a frame, or in one.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import trio
from attrs import define

from support.wire import TEXT

CHUNK = 64 * 1024  # bytes of one read
HOST = "127.0.0.1"
OPCODE = 0x0F  # the bits of it in a frame's first byte


@define(eq=False)
class Relay:
    """Passes bytes on, over any number of lines.

    Attributes:
        target: The port of the server.
        is_cut: Told how many frames have passed; whether the line is to be lost now.
        in_frame: Whether half of the next frame passes before that.
        frames: How many text frames have passed, welcomes not counted.
        cuts: How many lines were lost.
    """

    target: int
    is_cut: Callable[[int], bool]
    in_frame: bool = False
    frames: int = 0
    cuts: int = 0

    async def serve(self, near: trio.SocketStream) -> None:
        """Relay one line."""
        far = await trio.open_tcp_stream(HOST, self.target)
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async with near, far, trio.open_nursery() as nursery:
                nursery.start_soon(_pass_on, near, far)
                await self._pass_frames(far, near)
                nursery.cancel_scope.cancel()
                await trio.aclose_forcefully(near)
                await trio.aclose_forcefully(far)

    async def _pass_frames(self, source: trio.SocketStream, sink: trio.SocketStream) -> None:
        """Pass on what a server says, up to the end of it or to where the line is lost."""
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
    """Return data with something whole in it, or what there is where nothing more comes."""
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
    """Return the head of an HTTP answer, None where it is not whole."""
    end = data.find(b"\r\n\r\n")
    return None if end < 0 else data[: end + 4]


def _frame(data: bytes) -> bytes | None:
    """Return the first frame that a server wrote (RFC 6455, 5.2), None where it is not whole."""
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
    """Run a relay to a port of this machine, on a free one."""
    relay = Relay(target, is_cut, in_frame)
    listeners = await trio.open_tcp_listeners(0, host=HOST)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, relay.serve, listeners)
        yield listeners[0].socket.getsockname()[1], relay
        nursery.cancel_scope.cancel()
