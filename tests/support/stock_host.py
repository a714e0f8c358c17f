"""Hypercorn as we patch it, in this process, and a client of it that speaks in bytes."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, cast

import trio
import trio.testing
import trio_websocket
from hypercorn.config import Config
from hypercorn.trio import serve

from netra_trio.errors import TransportClosed
from netra_trio.server.hypercorn.install import install
from netra_trio.server.hypercorn.limits import Limits
from netra_trio.transports.deflate import Compression

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Handler = Callable[[Message, Receive, Send], Awaitable[None]]

LIMIT = 1000  # bytes: the message limit of these tests
QUIET = 0.02  # seconds of real time without an event, after which virtual time moves on
KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
SECRET = b"hush-hush"
MASK = b"\x01\x02\x03\x04"
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


class Server:
    """A host with one handler for every WebSocket; `/echo` always echoes."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.config = Config()
        self.config.bind = ["127.0.0.1:0"]
        self.config.errorlog = None
        self.stop = trio.Event()
        self.port = 0
        self.opened: list[trio.SocketStream] = []

    async def app(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for step in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{step}.complete"})
        elif scope["type"] == "http" and scope["path"] != "/raw":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"ok"})
        elif scope["path"] == "/echo":
            await echo(scope, receive, send)
        else:
            await self.handler(scope, receive, send)

    async def peer(self) -> "Peer":
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        self.opened.append(stream)
        return Peer(stream)

    async def upgraded(self, path: bytes = b"/ws") -> "Peer":
        peer = await self.peer()
        await peer.stream.send_all(upgrade(path=path))
        assert (await peer.head()).startswith(b"HTTP/1.1 101 ")
        return peer


class Peer:
    """A client that sends and receives bytes."""

    def __init__(self, stream: trio.SocketStream | trio.SSLStream[trio.SocketStream]) -> None:
        self.stream = stream
        self.buffer = b""

    async def more(self) -> bytes:
        try:
            data = bytes(await self.stream.receive_some(65536))
        except trio.BrokenResourceError:
            data = b""
        self.buffer += data
        return data

    async def take(self, count: int) -> bytes:
        while len(self.buffer) < count:
            assert await self.more(), "the server closed"
        data, self.buffer = self.buffer[:count], self.buffer[count:]
        return data

    async def head(self) -> bytes:
        while b"\r\n\r\n" not in self.buffer:
            if not await self.more():
                return b""
        data, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        return data

    async def frame(self) -> tuple[int, bytes]:
        first, size = await self.take(2)
        assert first & 0x70 == 0
        if size == 126:
            size = int.from_bytes(await self.take(2), "big")
        elif size == 127:
            size = int.from_bytes(await self.take(8), "big")
        return first & 0x0F, await self.take(size)

    async def to_the_end(self) -> bytes:
        while await self.more():
            pass
        return self.buffer


def upgrade(
    *extra: bytes,
    path: bytes = b"/ws",
    key: bytes = KEY,
    version: bytes = b"13",
    http: bytes = b"HTTP/1.1",
    connection: bytes = b"Upgrade",
) -> bytes:
    return (
        b"GET " + path + b" " + http + b"\r\nHost: localhost\r\nUpgrade: websocket\r\n"
        b"Connection: " + connection + b"\r\n" + key + b"Sec-WebSocket-Version: " + version
        + b"\r\n" + b"".join(line + b"\r\n" for line in extra) + b"\r\n"
    )  # fmt: skip


def frame(opcode: int, payload: bytes = b"", *, final: bool = True, masked: bool = True) -> bytes:
    head = bytes([opcode | (0x80 if final else 0)])
    flag = 0x80 if masked else 0
    if len(payload) < 126:
        head += bytes([flag | len(payload)])
    elif len(payload) < 65536:
        head += bytes([flag | 126]) + len(payload).to_bytes(2, "big")
    else:
        head += bytes([flag | 127]) + len(payload).to_bytes(8, "big")
    if not masked:
        return head + payload
    return head + MASK + bytes(byte ^ MASK[i % 4] for i, byte in enumerate(payload))


def close_frame(code: int | None) -> bytes:
    return frame(CLOSE, b"" if code is None else code.to_bytes(2, "big"))


async def accept(receive: Receive, send: Send) -> None:
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})


async def echo(_scope: Message, receive: Receive, send: Send) -> None:
    await accept(receive, send)
    while (message := await receive())["type"] != "websocket.disconnect":
        if message["type"] == "websocket.receive":
            await send({**message, "type": "websocket.send"})


class Recorder:
    """A handler that accepts and passes every received message to the test."""

    def __init__(self) -> None:
        self.put, self.got = trio.open_memory_channel[Message](1000)

    async def __call__(self, _scope: Message, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        while True:
            message = await receive()
            await self.put.send(message)
            if message["type"] == "netra_trio.too_big":
                await send({"type": "websocket.close", "code": 1009})
            if message["type"] == "websocket.disconnect":
                return


@asynccontextmanager
async def serving(
    handler: Handler,
    *,
    send_timeout: float = 5.0,
    limit: int = LIMIT,
    compression: Compression | None = None,
    **settings: Any,
) -> AsyncIterator[Server]:
    install(
        Limits(
            send_timeout=send_timeout,
            max_message_bytes=limit,
            drain_timeout=0.5,
            compression=compression,
        )
    )
    server = Server(handler)
    for name, value in settings.items():
        setattr(server.config, name, value)
    with trio.fail_after(100):
        async with trio.open_nursery() as nursery:
            run = partial(serve, mode="asgi", shutdown_trigger=server.stop.wait)
            binds = await nursery.start(run, cast("Any", server.app), server.config)
            server.port = int(binds[0].rpartition(":")[2])
            try:
                yield server
            finally:
                for stream in server.opened:
                    await trio.aclose_forcefully(stream)
            server.stop.set()


@asynccontextmanager
async def bystander(server: Server) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Open another client's connection; call the result to check that it is served."""
    url = f"ws://127.0.0.1:{server.port}/echo"
    async with trio_websocket.open_websocket_url(url) as socket:

        async def talk() -> None:
            await socket.send_message("hello")
            assert await socket.get_message() == "hello"

        await talk()
        yield talk
        await talk()


def names(messages: list[Message]) -> list[str]:
    return [message["type"] for message in messages]


class Flood:
    """A handler that sends until the connection is lost."""

    def __init__(self) -> None:
        self.ended = trio.Event()
        self.error: BaseException | None = None
        self.last: Message = {}
        self.scope = trio.CancelScope()

    async def __call__(self, _scope: Message, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        try:
            with self.scope:
                while True:
                    await send({"type": "websocket.send", "bytes": b"x" * 200_000})
        except TransportClosed as error:
            self.error = error
        self.last = await receive()
        assert await receive() == self.last
        self.ended.set()


async def next_of(recorder: Recorder, kind: str) -> Message:
    while (message := await recorder.got.receive())["type"] != kind:
        assert message["type"] == "netra_trio.alive"
    return message
