"""The real network of the client: trio-websocket and httpx2 against good and bad servers."""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import trio_websocket
import trustme

from netra_trio.client import Network, NoAnswer, OpeningRefused, SocketClosed
from netra_trio.client.network import DOCUMENT_BYTES

PATIENCE = 100.0  # seconds of real time, for a whole test
HEADERS = {"Authorization": "Bearer t.o.k"}
OFFER = ("netra.v1",)

Handler = Callable[[trio.SocketStream], Awaitable[None]]


@asynccontextmanager
async def answering(handler: Handler) -> AsyncIterator[str]:
    """Serve TCP with a handler for each connection; give the address."""
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            serve = partial(trio.serve_tcp, handler, 0, host="127.0.0.1")
            (listener,) = await nursery.start(serve)
            yield f"127.0.0.1:{listener.socket.getsockname()[1]}"
            nursery.cancel_scope.cancel()


def saying(answer: bytes) -> Handler:
    async def say(stream: trio.SocketStream) -> None:
        await stream.receive_some(4096)
        await stream.send_all(answer)
        await stream.aclose()

    return say


def http(status: str, body: bytes, *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(head).encode() + body


async def open_and_leave(address: str) -> None:
    async with Network().open(f"ws://{address}/ws", headers=HEADERS, subprotocols=OFFER):
        pass


async def test_a_refusal_has_its_body_and_retry_after() -> None:
    body = b'{"code": "SERVER_FULL", "error": "Full.", "help": "Wait."}'
    answer = http("503 Service Unavailable", body, "Retry-After: 7")
    async with answering(saying(answer)) as address:
        with pytest.raises(OpeningRefused) as caught:
            await open_and_leave(address)
    assert (caught.value.status, caught.value.retry_after) == (503, 7.0)
    assert caught.value.body["code"] == "SERVER_FULL"


@pytest.mark.parametrize("wait", ["soon", "-1", "1.5", "9999999", "²"])
async def test_invalid_retry_after(wait: str) -> None:
    head = f"HTTP/1.1 429 Too Many\r\nRetry-After: {wait}\r\nContent-Length: 2\r\n\r\nno"
    async with answering(saying(head.encode("utf-8"))) as address:
        with pytest.raises((OpeningRefused, NoAnswer)) as caught:
            await open_and_leave(address)
    assert getattr(caught.value, "retry_after", None) is None


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-OpenSSH_9\r\n", b"HTTP/1.1 101 Switching\r\n"])
async def test_invalid_answers(answer: bytes) -> None:
    async with answering(saying(answer)) as address:
        with pytest.raises(NoAnswer):
            await open_and_leave(address)


async def test_no_server() -> None:
    for host, reason in (
        ("127.0.0.1", "^Connection refused$"),
        ("localhost", "^Connection refused$"),  # of both of its addresses
        ("nowhere.invalid", "name|Name"),
    ):
        with pytest.raises(NoAnswer, match=reason):
            await open_and_leave(f"{host}:9")
        with pytest.raises(NoAnswer, match=reason):
            await Network().discover(f"http://{host}:9/ws/config")


async def echo_websocket(stream: trio.abc.Stream, *, subprotocol: str | None) -> None:
    async with trio.open_nursery() as nursery:
        request = await trio_websocket.wrap_server_stream(nursery, stream)
        socket = await request.accept(subprotocol=subprotocol)
        try:
            while True:
                await socket.send_message(await socket.get_message())
        except trio_websocket.ConnectionClosed:
            nursery.cancel_scope.cancel()
    await trio.aclose_forcefully(stream)


async def test_a_server_that_selects_no_subprotocol_is_refused() -> None:
    async with answering(partial(echo_websocket, subprotocol=None)) as address:
        with pytest.raises(OpeningRefused) as caught:
            await open_and_leave(address)
    assert "subprotocols" in caught.value.body["error"]


async def test_a_client_that_offers_nothing() -> None:
    async with (
        answering(partial(echo_websocket, subprotocol=None)) as address,
        Network().open(f"ws://{address}/ws", headers={}, subprotocols=()) as socket,
    ):
        await socket.send("hello")
        assert await socket.receive() == "hello"


async def test_tls() -> None:
    authority = trustme.CA()
    ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(ours)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)

    async def serve(stream: trio.SocketStream) -> None:
        line = trio.SSLStream(stream, ours, server_side=True, https_compatible=True)
        try:
            await echo_websocket(line, subprotocol="netra.v1")
        except* (trio.BrokenResourceError, trio_websocket.HandshakeError):
            await trio.aclose_forcefully(line)

    async with answering(serve) as address:
        url = f"wss://localhost:{address.rpartition(':')[2]}/ws"
        network = Network(tls=trusting)
        async with network.open(url, headers=HEADERS, subprotocols=OFFER) as socket:
            await socket.send("x" * 100_000)
            assert await socket.receive() == "x" * 100_000
            await socket.close(1000)
            with pytest.raises(SocketClosed):
                await socket.receive()


async def test_the_authorities_of_ssl_cert_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Discovery and WebSocket trust the same authorities."""
    authority = trustme.CA()
    ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(ours)
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))

    async def serve(stream: trio.SocketStream) -> None:
        line = trio.SSLStream(stream, ours, server_side=True, https_compatible=True)
        head = await line.receive_some(4096)
        body = b'{"a": 1}' if head.startswith(b"GET /ws/config") else b"{}"
        await line.send_all(http("404 Not Found" if body == b"{}" else "200 OK", body))
        await line.aclose()

    async with answering(serve) as address:
        place = f"localhost:{address.rpartition(':')[2]}"
        network = Network()
        assert await network.discover(f"https://{place}/ws/config") == {"a": 1}
        with pytest.raises(OpeningRefused) as caught:
            async with network.open(f"wss://{place}/ws", headers={}, subprotocols=OFFER):
                pass
        assert caught.value.status == 404


async def test_a_certificate_that_is_not_trusted() -> None:
    ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("localhost").configure_cert(ours)

    async def serve(stream: trio.SocketStream) -> None:
        line = trio.SSLStream(stream, ours, server_side=True)
        with pytest.raises(trio.BrokenResourceError):
            await line.do_handshake()
        await trio.aclose_forcefully(line)

    async with answering(serve) as address:
        url = f"wss://localhost:{address.rpartition(':')[2]}/ws"
        with pytest.raises(NoAnswer, match="certificate"):
            async with Network().open(url, headers=HEADERS, subprotocols=OFFER):
                pass


@pytest.mark.parametrize(
    ("body", "error"),
    [(b"[]", NoAnswer), (b"no", NoAnswer), (b" " * (DOCUMENT_BYTES + 1), NoAnswer)],
    ids=["array", "no JSON", "too large"],
)
async def test_invalid_documents(body: bytes, error: type[Exception]) -> None:
    async with answering(saying(http("200 OK", body))) as address:
        with pytest.raises(error):
            await Network().discover(f"http://{address}/ws/config")


PROXIES = {
    "unreachable": "http://127.0.0.1:1",
    "socks": "socks5://127.0.0.1:1",
    "invalid": "://nonsense",
}


@pytest.mark.parametrize("proxy", PROXIES.values(), ids=PROXIES)
async def test_proxy_variables_are_ignored(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "WS_PROXY"):
        monkeypatch.setenv(name, proxy)
        monkeypatch.setenv(name.lower(), proxy)
    monkeypatch.setenv("NO_PROXY", "[")
    async with answering(saying(http("200 OK", b'{"a": 1}'))) as address:
        assert await Network().discover(f"http://{address}/ws/config") == {"a": 1}
    async with (
        answering(partial(echo_websocket, subprotocol="netra.v1")) as address,
        Network().open(f"ws://{address}/ws", headers={}, subprotocols=OFFER) as socket,
    ):
        await socket.send("hello")
        assert await socket.receive() == "hello"


async def test_a_document() -> None:
    async with answering(saying(http("200 OK", b'{"a": 1}'))) as address:
        assert await Network().discover(f"http://{address}/ws/config") == {"a": 1}
    async with answering(saying(http("404 Not Found", b"no"))) as address:
        with pytest.raises(OpeningRefused) as caught:
            await Network().discover(f"http://{address}/ws/config")
    assert caught.value.status == 404


async def test_an_informational_answer_precedes_the_document() -> None:
    hint = b"HTTP/1.1 103 Early Hints\r\n\r\n"
    async with answering(saying(hint + http("200 OK", b'{"a": 1}'))) as address:
        assert await Network().discover(f"http://{address}/ws/config") == {"a": 1}
