"""Hypercorn as we patch it, on real sockets: a peer affects its own connection only."""

import importlib.metadata
import json
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import h2.config
import h2.connection
import h2.events
import hypercorn.protocol.h2
import hypercorn.protocol.h11
import hypercorn.trio.run
import pytest
import trio
import trio.testing
import trio_websocket
import trustme
from hypercorn.config import Config
from hypercorn.trio import serve
from trio.testing import MockClock
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.protocol import State
from websockets.uri import parse_uri

from netra_trio.errors import TransportClosed
from netra_trio.server.hypercorn import connection, idle
from netra_trio.server.hypercorn.connection import HostConnection
from netra_trio.server.hypercorn.install import install
from netra_trio.server.hypercorn.limits import Limits
from netra_trio.server.hypercorn.websocket import HostWebSocket
from netra_trio.server.hypercorn.writer import SocketWriter

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


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo the patches of Hypercorn."""
    for module, name in (
        (hypercorn.trio.run, "TCPServer"),
        (hypercorn.protocol.h11, "WSStream"),
        (hypercorn.protocol.h2, "WSStream"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name))


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
    handler: Handler, *, send_timeout: float = 5.0, **settings: Any
) -> AsyncIterator[Server]:
    install(Limits(send_timeout=send_timeout, max_message_bytes=LIMIT, drain_timeout=0.5))
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


# --- malformed requests

MALFORMED = {
    "protocol": (upgrade(b"Sec-WebSocket-Protocol: \xff, " + SECRET), b"400"),
    "extensions": (upgrade(b"Sec-WebSocket-Extensions: \xff"), b"400"),
    "connection": (upgrade(connection=b"Upgrade, \xff"), b"400"),
    "connection alone": (upgrade(connection=b"\xff"), b"200"),
    "deflate": (
        upgrade(b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=abc")
        + b"\xc1\x85"
        + MASK
        + b"abcde",
        b"101",
    ),
    "early bytes": (upgrade() + frame(TEXT, b"x") * 10, b"101"),
    "early garbage": (upgrade() + b"\xff" * 100_000, b"101"),
    "body": (upgrade(b"Content-Length: 5") + b"12345", b"400"),
    "chunked body": (upgrade(b"Transfer-Encoding: chunked") + b"1\r\nx\r\n0\r\n\r\n", b"400"),
    "no key": (upgrade(key=b""), b"400"),
    "two keys": (upgrade(key=KEY + KEY), b"400"),
    "bad key": (upgrade(key=b"Sec-WebSocket-Key: \xff\r\n"), b"400"),
    "short key": (upgrade(key=b"Sec-WebSocket-Key: dGhlIA==\r\n"), b"400"),
    "version": (upgrade(version=b"12"), b"426"),
    "HTTP/1.0": (upgrade(http=b"HTTP/1.0"), b"400"),
    "h2c": (
        b"GET /?token=" + SECRET + b" HTTP/1.1\r\nHost: localhost\r\n"
        b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n"
        b"HTTP2-Settings: !" + SECRET + b"\r\n\r\n",
        b"101",
    ),
    "h2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 100, b""),
    "not HTTP": (b"\x16\x03\x01\x00\x01 \xff\r\n\r\n", b"400"),
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_a_malformed_request_ends_only_its_connection(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    request, status = MALFORMED[name]
    async with serving(echo) as server, bystander(server) as talk:
        peer = await server.peer()
        await peer.stream.send_all(request)
        if status:
            head = await peer.head()
            assert head.split(b" ")[1] == status
            assert b"sec-websocket-extensions" not in head.lower()
            assert (status == b"426") == (b"sec-websocket-version: 13" in head)
            if status == b"400" and b"application/json" in head:
                assert json.loads(await peer.to_the_end())["code"] == "BAD_REQUEST"
        await talk()
        await server.opened[0].send_eof()
        await peer.to_the_end()
        await talk()
    assert SECRET.decode() not in caplog.text


async def test_an_exception_is_one_warning_without_the_request(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(echo) as server:
        peer = await server.peer()
        await peer.stream.send_all(MALFORMED["h2c"][0])
        await peer.to_the_end()
    lines = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert [line.name for line in lines] == ["netra_trio.server.hypercorn.install"]
    assert "closed after" in lines[0].getMessage()
    assert lines[0].exc_info is None


async def test_an_application_error_ends_only_its_connection() -> None:
    async def fails(_scope: Message, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            raise ValueError

    async with serving(fails) as server, bystander(server):
        peer = await server.upgraded()
        assert await peer.frame() == (CLOSE, (1011).to_bytes(2, "big"))
        assert await peer.to_the_end() == b""


async def test_an_application_that_returns_without_an_answer_is_500() -> None:
    async def silent(_scope: Message, receive: Receive, _send: Send) -> None:
        await receive()

    async with serving(silent) as server:
        peer = await server.peer()
        await peer.stream.send_all(upgrade())
        assert (await peer.head()).startswith(b"HTTP/1.1 500 ")
        assert json.loads(await peer.to_the_end())["code"] == "INTERNAL_ERROR"


async def test_a_rejection_arrives_with_its_body_and_closes_the_connection() -> None:
    async def rejects(_scope: Message, receive: Receive, send: Send) -> None:
        await receive()
        headers = [(b"content-length", b"2")]
        await send({"type": "websocket.http.response.start", "status": 401, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": b"no"})

    async with serving(rejects) as server:
        peer = await server.peer()
        await peer.stream.send_all(upgrade() + frame(TEXT, b"x" * 50_000))
        head = await peer.head()
        assert head.startswith(b"HTTP/1.1 401 ")
        assert b"connection: close" in head
        assert await peer.to_the_end() == b"no"


@pytest.mark.parametrize("count", [100, 1])
async def test_an_unread_body_does_not_block_the_connection(count: int) -> None:
    async with serving(echo) as server:
        peer = await server.peer()
        head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        await peer.stream.send_all(head + b"1\r\nx\r\n" * count)
        assert (await peer.head()).startswith(b"HTTP/1.1 200 ")
        await peer.to_the_end()


# --- heads


async def test_a_trickling_head_is_closed_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (connection, idle):
        monkeypatch.setattr(module, "HEAD_SECONDS", 0.3)
    async with serving(echo, keep_alive_timeout=0.1) as server, bystander(server):
        peer = await server.peer()
        async with trio.open_nursery() as nursery:

            async def trickle() -> None:
                await peer.stream.send_all(b"GET / HTTP/1.1\r\nX: ")
                while True:
                    await peer.stream.send_all(b"x")
                    await trio.sleep(0.01)

            start = trio.current_time()
            nursery.start_soon(trickle)
            assert await peer.to_the_end() == b""
            nursery.cancel_scope.cancel()
        assert trio.current_time() - start > 0.25


async def test_a_slow_head_is_served_with_a_shorter_keep_alive(autojump_clock: MockClock) -> None:
    autojump_clock.autojump_threshold = 10 * QUIET
    async with serving(echo, keep_alive_timeout=0.05) as server:
        peer = await server.peer()
        for _ in range(2):
            await peer.stream.send_all(b"GET / HTTP/1.1\r\n")
            await trio.sleep(0.2)
            await peer.stream.send_all(b"Host: a\r\n\r\n")
            assert (await peer.head()).startswith(b"HTTP/1.1 200 ")
            while not peer.buffer.endswith(b"0\r\n\r\n"):
                await peer.more()
            peer.buffer = b""
        assert await peer.to_the_end() == b""  # idle now: keep-alive counts


@pytest.mark.parametrize(("size", "status"), [(16 * 1024, b"200"), (16 * 1024 + 200, b"431")])
async def test_a_head_is_bounded_in_a_single_read(size: int, status: bytes) -> None:
    async with serving(echo) as server:
        peer = await server.peer()
        head = b"GET / HTTP/1.1\r\nHost: a\r\nX: "
        await peer.stream.send_all(head + b"x" * (size - len(head) - 4) + b"\r\n\r\n")
        assert (await peer.head()).split(b" ")[1] == status


async def test_an_http2_peer_that_opens_no_stream_is_closed() -> None:
    async with serving(echo, keep_alive_timeout=0.1) as server:
        peer = await server.peer()
        await peer.stream.send_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
        await peer.to_the_end()


# --- sends


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


async def test_a_peer_that_never_reads_is_given_up() -> None:
    flood = Flood()
    async with serving(flood, send_timeout=0.3) as server, bystander(server):
        peer = await server.upgraded()
        await flood.ended.wait()
        assert isinstance(flood.error, TransportClosed)
        assert flood.error.timed_out
        assert flood.last == {"type": "websocket.disconnect", "code": 1006}
        await peer.stream.aclose()


async def test_a_slow_reader_is_not_given_up(autojump_clock: MockClock) -> None:
    autojump_clock.autojump_threshold = QUIET
    total = 40 * 200_000

    async def sends(_scope: Message, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await send({"type": "websocket.send", "bytes": b"x" * total})
        await send({"type": "websocket.close"})

    async with serving(sends, send_timeout=0.5) as server:
        peer = await server.upgraded()
        start = trio.current_time()
        seen = len(peer.buffer)
        while data := await peer.more():
            seen += len(data)
            peer.buffer = b""
            await trio.sleep(0.01)
        assert seen == total + 10 + 4
        assert trio.current_time() - start > 0.5


async def test_a_loop_of_sends_ends_when_the_peer_is_lost() -> None:
    flood = Flood()
    async with serving(flood) as server, bystander(server):
        peer = await server.upgraded()
        await peer.stream.aclose()
        await flood.ended.wait()
        assert isinstance(flood.error, TransportClosed)
        assert not flood.error.timed_out
        assert flood.last["code"] == 1006


async def test_sends_after_the_end_do_not_block_the_loop() -> None:
    async def stubborn(_scope: Message, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        while True:
            try:
                await send({"type": "websocket.send", "text": "x"})
            except TransportClosed:
                gone.set()

    gone = trio.Event()
    async with serving(stubborn) as server, bystander(server) as talk:
        peer = await server.upgraded()
        await peer.stream.aclose()
        await gone.wait()
        await talk()


async def test_cancelling_in_mid_send_aborts_the_connection() -> None:
    flood = Flood()
    async with serving(flood) as server, bystander(server):
        peer = await server.upgraded()
        await trio.testing.wait_all_tasks_blocked(0.1)
        flood.scope.cancel()
        await flood.ended.wait()
        assert flood.scope.cancelled_caught
        assert flood.error is None
        assert flood.last["code"] == 1006
        await peer.to_the_end()


async def test_cancelling_before_a_send_keeps_the_connection() -> None:
    async def cancelled(_scope: Message, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        with trio.CancelScope() as scope:
            scope.cancel()
            await send({"type": "websocket.send", "text": "never"})
        await send({"type": "websocket.send", "text": "then"})
        await receive()

    async with serving(cancelled) as server:
        peer = await server.upgraded()
        assert await peer.frame() == (TEXT, b"then")
        await peer.stream.aclose()


async def test_cancelling_at_the_send_lock_keeps_the_connection() -> None:
    async def cancelled(_scope: Message, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        for _ in range(20):  # the order of tasks is random
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send, {"type": "websocket.send", "text": "never"})
                await trio.lowlevel.checkpoint()  # it holds the lock, and no byte is out
                nursery.cancel_scope.cancel()
        await send({"type": "websocket.send", "text": "then"})
        await receive()

    async with serving(cancelled) as server:
        peer = await server.upgraded()
        assert await peer.frame() == (TEXT, b"then")
        await peer.stream.aclose()


async def test_a_batch_is_one_write_of_separate_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [b'{"n":1}', '{"text":"é"}'.encode(), b'"' + b"x" * 300 + b'"', b"y" * 70_000]
    writes: list[int] = []
    write = SocketWriter.write

    async def counted(self: SocketWriter, data: bytes) -> None:
        writes.append(len(data))
        await write(self, data)

    monkeypatch.setattr(SocketWriter, "write", counted)

    async def sends(_scope: Message, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        writes.clear()
        await send({"type": "netra_trio.send", "frames": frames})
        await send({"type": "netra_trio.send", "frames": []})
        await receive()

    async with serving(sends) as server:
        peer = await server.upgraded()
        assert [await peer.frame() for _ in frames] == [(TEXT, item) for item in frames]
        assert len(writes) == 1
        await peer.stream.aclose()


# --- messages


async def test_frames_behind_the_handshake_wait_for_the_answer() -> None:
    go = trio.Event()
    recorder = Recorder()

    async def slow(scope: Message, receive: Receive, send: Send) -> None:
        await go.wait()
        await recorder(scope, receive, send)

    async with serving(slow) as server:
        peer = await server.peer()
        texts = [f"{n}".encode() * 10 for n in range(100)]
        early = b"".join(frame(TEXT, text) for text in texts)
        await peer.stream.send_all(upgrade() + early[:-7])
        await trio.testing.wait_all_tasks_blocked(0.05)
        go.set()
        await peer.head()
        await peer.stream.send_all(early[-7:])
        for text in texts:
            assert (await recorder.got.receive())["text"] == text.decode()
        await peer.stream.aclose()


AT_LIMIT = b"x" * LIMIT
AT_LIMIT_WIDE = ("é" * (LIMIT // 2)).encode()
AT_LIMIT_4 = ("\N{GRINNING FACE}" * (LIMIT // 4)).encode()


@pytest.mark.parametrize("payload", [AT_LIMIT, AT_LIMIT_WIDE, AT_LIMIT_4])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("piece", [10_000, 333, 1])
async def test_a_message_at_the_limit_arrives_and_one_byte_more_does_not(
    payload: bytes, opcode: int, piece: int
) -> None:
    def fragments(data: bytes) -> bytes:
        cuts = range(0, len(data), piece)
        return b"".join(
            frame(
                opcode if start == 0 else 0,
                data[start : start + piece],
                final=start + piece >= len(data),
            )
            for start in cuts
        )

    recorder = Recorder()
    async with serving(recorder) as server:
        peer = await server.upgraded()
        await peer.stream.send_all(fragments(payload))
        message = await next_of(recorder, "websocket.receive")
        assert message["text" if opcode == TEXT else "bytes"] == (
            payload.decode() if opcode == TEXT else payload
        )
        await peer.stream.send_all(fragments(payload + b"!") + fragments(b"dropped"))
        assert await next_of(recorder, "netra_trio.too_big")
        assert await peer.frame() == (CLOSE, (1009).to_bytes(2, "big"))
        await peer.stream.send_all(fragments(payload) + close_frame(1009))
        assert await recorder.got.receive() == {"type": "websocket.disconnect", "code": 1009}


async def next_of(recorder: Recorder, kind: str) -> Message:
    while (message := await recorder.got.receive())["type"] != kind:
        assert message["type"] == "netra_trio.alive"
    return message


async def test_a_huge_message_is_rejected_before_its_end() -> None:
    recorder = Recorder()
    async with serving(recorder) as server, bystander(server):
        peer = await server.upgraded()
        head = b"\x82\xff" + (1 << 40).to_bytes(8, "big") + MASK
        await peer.stream.send_all(head)
        async with trio.open_nursery() as nursery:

            async def pour() -> None:
                while True:
                    await peer.stream.send_all(bytes(100_000))

            nursery.start_soon(pour)
            assert await peer.frame() == (CLOSE, (1009).to_bytes(2, "big"))
            nursery.cancel_scope.cancel()
        assert names([await recorder.got.receive()]) == ["netra_trio.too_big"]
        await peer.stream.aclose()
        assert (await recorder.got.receive())["code"] == 1006


async def test_unread_messages_do_not_block_the_close() -> None:
    async def leaves(_scope: Message, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await go.wait()

    go = trio.Event()
    async with serving(leaves) as server:
        peer = await server.upgraded()
        await peer.stream.send_all(frame(TEXT, b"x") * 1000 + frame(PING) * 10)
        await trio.testing.wait_all_tasks_blocked(0.05)
        go.set()
        assert await peer.frame() == (CLOSE, (1011).to_bytes(2, "big"))
        assert await peer.to_the_end() == b""


async def test_pings_and_pongs_show_that_the_peer_is_alive() -> None:
    recorder = Recorder()

    async def pings(scope: Message, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            await send(message)
            if message["type"] == "websocket.accept":
                await send({"type": "netra_trio.ping"})

        await recorder(scope, receive, sending)

    async with serving(pings) as server:
        peer = await server.upgraded()
        assert await peer.frame() == (PING, b"")
        await peer.stream.send_all(frame(PONG))
        assert await recorder.got.receive() == {"type": "netra_trio.alive"}
        await peer.stream.send_all(frame(PING, b"still there?"))
        assert await peer.frame() == (PONG, b"still there?")
        assert await recorder.got.receive() == {"type": "netra_trio.alive"}
        await peer.stream.aclose()


# --- closing


@pytest.mark.parametrize("code", [1000, 1001, 1012, 3000, 4999, None])
async def test_the_application_gets_the_peers_close_code(code: int | None) -> None:
    recorder = Recorder()
    async with serving(recorder) as server:
        peer = await server.upgraded()
        await peer.stream.send_all(frame(TEXT, b"last") + close_frame(code))
        assert await peer.frame() == (CLOSE, b"" if code is None else code.to_bytes(2, "big"))
        assert await peer.to_the_end() == b""
        assert (await recorder.got.receive())["text"] == "last"
        end = await recorder.got.receive()
        assert end == {"type": "websocket.disconnect", "code": 1005 if code is None else code}


async def test_a_lost_connection_is_1006() -> None:
    recorder = Recorder()
    async with serving(recorder) as server:
        peer = await server.upgraded()
        await peer.stream.aclose()
        assert (await recorder.got.receive())["code"] == 1006


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(TEXT, b"x", masked=False), 1002),
        (frame(3), 1002),
        (frame(0, b"x"), 1002),
        (frame(PING, b"x", final=False), 1002),
        (b"\xc1\x81" + MASK + b"x", 1002),
        (frame(CLOSE, b"x"), 1002),
        (close_frame(1005), 1002),
        (frame(TEXT, b"\xff"), 1007),
        (frame(TEXT, b"\xc3"), 1007),
        (frame(CLOSE, b"\x03\xe8\xff"), 1007),
    ],
)
async def test_a_protocol_error_is_closed_with_its_code(data: bytes, code: int) -> None:
    recorder = Recorder()
    async with serving(recorder) as server, bystander(server):
        peer = await server.upgraded()
        await peer.stream.send_all(data + b"\xff" * 1000)
        assert await peer.frame() == (CLOSE, code.to_bytes(2, "big"))
        assert await peer.to_the_end() == b""
        assert await recorder.got.receive() == {"type": "websocket.disconnect", "code": code}


async def test_the_application_closes_and_gets_the_reply() -> None:
    told: list[Any] = []

    async def closes(_scope: Message, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await receive()
        await send({"type": "websocket.close", "code": 4409, "reason": "taken over"})
        try:
            await send({"type": "websocket.send", "text": "too late"})
        except TransportClosed as error:
            told.append(error.code)
        while (message := await receive())["type"] != "websocket.disconnect":
            told.append(message["text"])
        told.append(message["code"])
        try:
            await send({"type": "websocket.close"})
        except TransportClosed as error:
            told.append(error.code)
        done.set()

    done = trio.Event()
    async with serving(closes) as server:
        peer = await server.upgraded()
        await peer.stream.send_all(frame(TEXT, b"go"))
        assert await peer.frame() == (CLOSE, (4409).to_bytes(2, "big") + b"taken over")
        await peer.stream.send_all(frame(TEXT, b"crossing") + close_frame(4409))
        assert await peer.to_the_end() == b""
        await done.wait()
    assert told == [None, "crossing", 4409, 4409]


async def test_a_close_arrives_with_unread_input() -> None:
    async def closes(_scope: Message, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await go.wait()
        await send({"type": "websocket.close", "code": 4429})

    go = trio.Event()
    async with serving(closes) as server:
        peer = await server.upgraded()
        await peer.stream.send_all(frame(TEXT, b"x" * 500) * 300)
        await trio.testing.wait_all_tasks_blocked(0.05)
        go.set()
        assert await peer.frame() == (CLOSE, (4429).to_bytes(2, "big"))
        assert await peer.to_the_end() == b""


async def test_the_application_is_told_of_the_hosts_shutdown() -> None:
    async def drains(scope: Message, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await scope["extensions"]["netra_trio"]["terminated"]()
        await send({"type": "websocket.close", "code": 1012})
        await receive()

    async with serving(drains) as server:
        idle = await server.peer()
        peer = await server.upgraded()
        server.stop.set()
        assert await peer.frame() == (CLOSE, (1012).to_bytes(2, "big"))
        await peer.stream.send_all(close_frame(1012))
        assert await peer.to_the_end() == b""
        assert await idle.to_the_end() == b""
        assert server.config.graceful_timeout >= 1.5


async def test_the_graceful_timeout_covers_the_drain() -> None:
    async with serving(echo, graceful_timeout=0.1) as server, bystander(server):
        assert server.config.graceful_timeout == 1.5


# --- negotiation


async def test_compression_is_never_negotiated() -> None:
    async with serving(echo) as server:
        peer = await server.peer()
        uri = parse_uri(f"ws://127.0.0.1:{server.port}/ws")
        client = ClientProtocol(uri, extensions=[ClientPerMessageDeflateFactory()])
        request = client.connect()
        assert "permessage-deflate" in request.headers["Sec-WebSocket-Extensions"]
        client.send_request(request)
        await peer.stream.send_all(b"".join(client.data_to_send()))
        while client.state is State.CONNECTING:
            client.receive_data(await peer.more())
        assert client.handshake_exc is None
        assert client.extensions == []


async def test_a_subprotocol_is_chosen_from_all_headers() -> None:
    async def chooses(scope: Message, receive: Receive, send: Send) -> None:
        await receive()
        assert scope["subprotocols"] == ["a", "netra.v1", "b"]
        await send({"type": "websocket.accept", "subprotocol": "netra.v1"})

    async with serving(chooses) as server:
        peer = await server.peer()
        offered = (b"Sec-WebSocket-Protocol: a,, netra.v1", b"Sec-WebSocket-Protocol: b")
        await peer.stream.send_all(upgrade(*offered))
        assert b"sec-websocket-protocol: netra.v1" in await peer.head()
        await peer.to_the_end()


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


async def test_tls(authority: trustme.CA, tmp_path: Path) -> None:
    flood = Flood()
    cert = authority.issue_cert("localhost")
    cert.private_key_and_cert_chain_pem.write_to_path(tmp_path / "cert.pem")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    path = str(tmp_path / "cert.pem")

    async def open_tls(server: Server) -> Peer:
        stream = cast("trio.SocketStream", (await server.peer()).stream)
        tls = trio.SSLStream(stream, context, server_hostname="localhost", https_compatible=True)
        return Peer(tls)

    async with serving(flood, send_timeout=0.3, certfile=path, keyfile=path) as server:
        talker = await open_tls(server)
        await talker.stream.send_all(upgrade(path=b"/echo"))
        assert (await talker.head()).startswith(b"HTTP/1.1 101 ")
        garbage = await server.peer()
        await garbage.stream.send_all(b"GET / HTTP/1.1\r\n\r\n")
        await garbage.to_the_end()
        stuck = await open_tls(server)
        await stuck.stream.send_all(upgrade())
        await flood.ended.wait()
        assert isinstance(flood.error, TransportClosed)
        assert flood.error.timed_out
        await talker.stream.send_all(frame(TEXT, b"hello"))
        assert await talker.frame() == (TEXT, b"hello")
        await talker.stream.send_all(close_frame(1000))
        assert await talker.frame() == (CLOSE, (1000).to_bytes(2, "big"))
        assert await talker.to_the_end() == b""


class H2Peer:
    """A WebSocket over an HTTP/2 stream (RFC 8441), with prior knowledge."""

    def __init__(self, peer: Peer, *, window: int = 65535) -> None:
        self.peer = peer
        config = h2.config.H2Configuration(client_side=True)
        self.h2 = h2.connection.H2Connection(config)
        self.window = window
        self.data = b""
        self.status = ""
        self.ended = False

    async def open(self) -> None:
        self.h2.initiate_connection()
        self.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: self.window})
        await self.flush()
        await self.until(lambda: self.h2.remote_settings.enable_connect_protocol == 1)
        self.h2.send_headers(
            1,
            [
                (":method", "CONNECT"),
                (":protocol", "websocket"),
                (":scheme", "http"),
                (":path", "/ws"),
                (":authority", "localhost"),
                ("sec-websocket-version", "13"),
            ],
        )
        await self.flush()
        await self.until(lambda: bool(self.status))

    async def send(self, data: bytes) -> None:
        self.h2.send_data(1, data)
        await self.flush()

    async def flush(self) -> None:
        await self.peer.stream.send_all(self.h2.data_to_send())

    async def until(self, done: Callable[[], bool]) -> None:
        while not done():
            data = await self.peer.more()
            assert data
            for event in self.h2.receive_data(data):
                if isinstance(event, h2.events.ResponseReceived):
                    self.status = str(dict(event.headers or [])[b":status"], "ascii")
                elif isinstance(event, h2.events.DataReceived):
                    self.data += event.data or b""
                elif isinstance(event, h2.events.StreamEnded):
                    self.ended = True
            await self.flush()


async def test_http2() -> None:
    recorder = Recorder()
    async with serving(recorder) as server, bystander(server):
        peer = H2Peer(await server.peer())
        await peer.open()
        assert peer.status == "200"
        await peer.send(frame(TEXT, b"hello") + frame(PING, b"p") + close_frame(4000))
        await peer.until(lambda: peer.ended)
        assert peer.data == b"\x8a\x01p\x88\x02" + (4000).to_bytes(2, "big")
        assert (await recorder.got.receive())["text"] == "hello"
        assert (await next_of(recorder, "websocket.disconnect"))["code"] == 4000
        await peer.peer.stream.aclose()


async def test_an_http2_peer_without_a_window_is_given_up() -> None:
    flood = Flood()
    async with serving(flood, send_timeout=0.3) as server, bystander(server):
        peer = H2Peer(await server.peer(), window=0)
        await peer.open()
        await flood.ended.wait()
        assert isinstance(flood.error, TransportClosed)
        assert flood.error.timed_out
        await peer.peer.stream.aclose()


# --- install


def install_here() -> None:
    install(Limits(send_timeout=1, max_message_bytes=1, drain_timeout=1))


def test_install_may_be_called_again() -> None:
    install_here()
    install_here()
    assert vars(hypercorn.trio.run)["TCPServer"] is HostConnection
    assert vars(hypercorn.protocol.h11)["WSStream"] is HostWebSocket
    assert vars(hypercorn.protocol.h2)["WSStream"] is HostWebSocket


def test_install_refuses_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _name: "0.19.1")
    with pytest.raises(RuntimeError, match=r"0\.19\.1 instead of 0\.18\.\*"):
        install_here()


def test_install_names_the_missing_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(hypercorn.protocol.h2, "WSStream")
    with pytest.raises(RuntimeError, match=r"hypercorn\.protocol\.h2\.WSStream is missing"):
        install_here()
    monkeypatch.undo()
    monkeypatch.delattr(hypercorn.protocol.h11.H11Protocol, "_maybe_recycle")
    with pytest.raises(RuntimeError, match=r"H11Protocol\._maybe_recycle is missing"):
        install_here()
    monkeypatch.undo()
    monkeypatch.setattr(hypercorn.trio.run, "TCPServer", lambda _app: None)
    with pytest.raises(RuntimeError, match="takes"):
        install_here()
