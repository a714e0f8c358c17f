"""Messages between the processes of one server: JSON objects over a pair of sockets.

    channel = Channel(sock)
    nursery.start_soon(channel.run, receive)
    channel.post({"type": "ready"})

To post a message never waits, and cancelling a task never leaves half a message: a task of the
channel writes. A process that does not read makes the other one drop messages, not wait.
"""

import socket
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import orjson
import trio

WAITING = 64  # messages that the other process has not taken; further ones are dropped
MESSAGE_BYTES = 16 * 1024 * 1024  # of the largest message: metrics have about 100 KiB

_LENGTH_BYTES = 4  # before each message, most significant byte first
_READ_BYTES = 64 * 1024

Message: TypeAlias = Mapping[str, Any]


class Channel:
    """One end of the connection between two processes.

    Args:
        sock: A connected stream socket, which the caller closes.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        self._send, self._waiting = trio.open_memory_channel[bytes](WAITING)

    def post(self, message: Message) -> bool:
        """Send a message later; return False if it is too large, or too many are waiting."""
        content = encoded(message)
        if len(content) > MESSAGE_BYTES:
            return False
        try:
            self._send.send_nowait(content)
        except (trio.WouldBlock, trio.BrokenResourceError):
            return False
        return True

    async def run(self, receive: Callable[[Message], None]) -> None:
        """Pass each message to `receive`, until the other process closes its end, and write."""
        with self._waiting:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write)
                while (message := await self._read()) is not None:
                    receive(message)
                nursery.cancel_scope.cancel()

    async def _write(self) -> None:
        try:
            async for content in self._waiting:
                await self._stream.send_all(content)
        except trio.BrokenResourceError:
            pass  # the other process has ended, which the reader sees too

    async def _read(self) -> Message | None:
        """Return the next message; None at the end."""
        head = await self._read_bytes(_LENGTH_BYTES)
        length = int.from_bytes(head)
        if not head or length > MESSAGE_BYTES:
            return None
        content = await self._read_bytes(length)
        return orjson.loads(content) if content else None

    async def _read_bytes(self, count: int) -> bytes:
        """Return this number of bytes; none if the connection ends before."""
        content = bytearray()
        while len(content) < count:
            try:
                part = await self._stream.receive_some(min(count - len(content), _READ_BYTES))
            except trio.BrokenResourceError:
                return b""
            if not part:
                return b""
            content += part
        return bytes(content)


def encoded(message: Message) -> bytes:
    """Return a message with its length before it."""
    content = orjson.dumps(message)
    return len(content).to_bytes(_LENGTH_BYTES) + content
