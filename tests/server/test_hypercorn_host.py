"""Hypercorn as we patch it, on real sockets: a peer affects its own connection only."""

import importlib.metadata
import json
import logging
import ssl
from pathlib import Path
from typing import cast

import hypercorn.protocol
import hypercorn.protocol.h11
import hypercorn.trio.run
import pytest
import trio
import trio.testing
import trustme
from support.stock_host import (
    CLOSE,
    KEY,
    MASK,
    QUIET,
    SECRET,
    TEXT,
    Flood,
    Message,
    Peer,
    Receive,
    Send,
    Server,
    accept,
    bystander,
    close_frame,
    echo,
    frame,
    serving,
    upgrade,
)
from trio.testing import MockClock
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.protocol import State
from websockets.uri import parse_uri

from netra_trio.errors import TransportClosed
from netra_trio.server.hypercorn import connection, idle
from netra_trio.server.hypercorn.connection import HostConnection
from netra_trio.server.hypercorn.http1 import HostHttp1
from netra_trio.server.hypercorn.http2 import Http2Connection
from netra_trio.server.hypercorn.install import install
from netra_trio.server.hypercorn.limits import Limits
from netra_trio.server.hypercorn.websocket import HostWebSocket

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


# --- install


def install_here() -> None:
    install(Limits(send_timeout=1, max_message_bytes=1, drain_timeout=1))


def test_install_may_be_called_again() -> None:
    install_here()
    install_here()
    assert vars(hypercorn.trio.run)["TCPServer"] is HostConnection
    assert vars(hypercorn.protocol)["H11Protocol"] is HostHttp1
    assert vars(hypercorn.protocol)["H2Protocol"] is Http2Connection
    assert vars(hypercorn.protocol.h11)["WSStream"] is HostWebSocket


def test_install_refuses_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _name: "0.19.1")
    with pytest.raises(RuntimeError, match=r"0\.19\.1 instead of 0\.18\.\*"):
        install_here()


def test_install_names_the_missing_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(hypercorn.protocol.h11, "WSStream")
    with pytest.raises(RuntimeError, match=r"hypercorn\.protocol\.h11\.WSStream is missing"):
        install_here()
    monkeypatch.undo()
    monkeypatch.delattr(hypercorn.protocol.h11.H11Protocol, "_maybe_recycle")
    with pytest.raises(RuntimeError, match=r"H11Protocol\._maybe_recycle is missing"):
        install_here()
    monkeypatch.undo()
    monkeypatch.setattr(hypercorn.trio.run, "TCPServer", lambda _app: None)
    with pytest.raises(RuntimeError, match="takes"):
        install_here()
