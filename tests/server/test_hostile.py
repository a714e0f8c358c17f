"""Malformed requests in bytes, on both hosts, while another connection is in use."""

import base64
import select
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import orjson
import pytest
from attrs import frozen
from support.server import KEY, PATIENCE, Server, open_line, serving, sign, stock_serving
from support.wire import CLOSE, FIN, TEXT, client_frame, raw_frame, server_frames

from netra_trio.server.hypercorn import limits
from netra_trio.server.request_head import HEAD_SECONDS

HEAD_BYTES = 16 * 1024  # of a request head
PROTOCOL_ERROR = 1002
CLOSED = 0  # in place of a status
SETTINGS = {"WEBSOCKET_MAX_CONNECTIONS_PER_USER": "100", "WEBSOCKET_SEND_TIMEOUT": "500"}
TOKEN = sign("mallory")
PING = client_frame(TEXT, b'{"type": "ping", "correlation_id": "early"}')
DEFLATE = b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=abc"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def request(
    *headers: bytes,
    line: bytes | None = None,
    host: bytes | None = b"Host: localhost",
    upgrade: bytes = b"Upgrade: websocket",
    connection: bytes = b"Connection: Upgrade",
    key: bytes = b"Sec-WebSocket-Key: " + KEY.encode(),
    version: bytes = b"Sec-WebSocket-Version: 13",
    end: bytes = b"\r\n",
) -> bytes:
    """Return a valid upgrade, except for the lines that are given."""
    if line is None:
        line = b"GET /ws?token=" + TOKEN.encode() + b" HTTP/1.1"
    lines = [line, host, upgrade, connection, key, version, *headers]
    return end.join(part for part in lines if part) + end + end


def plain(*headers: bytes, line: bytes = b"GET /ws/health HTTP/1.1") -> bytes:
    """Return a request without an upgrade."""
    return request(*headers, line=line, upgrade=b"", connection=b"", key=b"", version=b"")


def filled(size: int) -> bytes:
    """Return an upgrade whose head has exactly this size."""
    return request(b"X: " + b"x" * (size - len(request(b"X: "))))


@frozen
class Case:
    """Bytes to send, and the statuses that may be the answer, on each host."""

    data: bytes
    own: set[int]
    stock: set[int]


def case(data: bytes, *statuses: int, stock: set[int] | None = None) -> Case:
    return Case(data, set(statuses), set(statuses) if stock is None else stock)


H2C = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c")
CASES = {
    # Bytes beyond ASCII.
    "a non-ASCII byte in the subprotocol": case(request(b"Sec-WebSocket-Protocol: \xff"), 400),
    "a non-ASCII byte in an extension": case(request(b"Sec-WebSocket-Extensions: \xe9"), 400),
    "a non-ASCII byte in Connection": case(request(connection=b"Connection: Upgrade, \xff"), 400),
    "a non-ASCII byte in Upgrade": case(
        request(upgrade=b"Upgrade: websocket, \xff"), 400, stock={426}
    ),
    "only non-ASCII bytes in Upgrade": case(request(upgrade=b"Upgrade: \xff\xfe"), 426),
    "a non-ASCII byte in the path": case(request(line=b"GET /w\xffs HTTP/1.1"), 400),
    "a non-ASCII byte in the query": case(request(line=b"GET /ws?\xff HTTP/1.1"), 400),
    "a non-ASCII byte in a header's name": case(request(b"X-\xff: a"), 400),
    "a non-ASCII byte in a version": case(request(version=b"Sec-WebSocket-Version: \xff"), 426),
    "a non-ASCII byte in the key": case(request(key=b"Sec-WebSocket-Key: \xff"), 400),
    "a non-ASCII byte in the Origin": case(request(b"Origin: http://\xff"), 403),
    "a non-ASCII byte in a credential": case(
        request(b"Authorization: Bearer \xff", line=b"GET /ws HTTP/1.1"), 401
    ),
    # Headers that are repeated or missing.
    "two Origins": case(request(*[b"Origin: http://localhost"] * 2), 403),
    "two Hosts": case(request(b"Host: other"), 400),
    "no Host": case(request(host=None), 400),
    "two keys": case(request(b"Sec-WebSocket-Key: " + KEY.encode()), 400),
    "no key": case(request(key=b""), 400),
    "a short key": case(request(key=b"Sec-WebSocket-Key: YWJj"), 400),
    "two versions": case(request(b"Sec-WebSocket-Version: 13"), 400),
    "an old version": case(request(version=b"Sec-WebSocket-Version: 8"), 426),
    "no version": case(request(version=b""), 400),
    "two credentials": case(request(b"Authorization: Bearer " + TOKEN.encode()), 401),
    # Line endings.
    "NUL in a value": case(request(b"X: a\0b"), 400),
    "NUL in a name": case(request(b"X\0: b"), 400),
    "NUL in the path": case(request(line=b"GET /ws\0 HTTP/1.1"), 400),
    "CR in a value": case(request(b"X: a\rb"), 400),
    "CR alone as a line's end": case(request(b"X: a\rUpgrade: h2c"), 400),
    "LF alone as a line's end": case(request(end=b"\n"), 101),
    "a folded header": case(request(b"X: a\r\n folded"), 101),
    "a folded first header": case(request(host=b" Host: localhost"), 400),
    "blanks before the colon": case(request(b"X : a"), 400),
    "a header without a colon": case(request(b"colonless"), 400),
    "a header without a name": case(request(b": a"), 400),
    "empty lines first": case(b"\r\n\r\n" + request(), 101),
    "an empty line first": case(b"\r\n" + request(), 101),
    "an empty line of LF first": case(b"\n" + request(), 101),
    "empty lines between requests": case(plain() + b"\r\n\r\n" + request(), 200),
    "more empty lines than a head may have": case(b"\r\n" * HEAD_BYTES, 431, stock={CLOSED}),
    # Sizes.
    "a head at the limit": case(filled(HEAD_BYTES), 101),
    "a head one byte beyond it": case(filled(HEAD_BYTES + 1), 431, stock={101, 431}),
    "a head without an end": case(request()[:-2] + b"X: a\r\n" * 20_000, 431),
    "a line without an end": case(request()[:-2] + b"X: " + b"a" * 200_000, 431),
    "a path without an end": case(b"GET /" + b"a" * 200_000, 431),
    "1,000 headers": case(request(*[b"X-%d: a" % n for n in range(1000)]), 101, 431),
    "5,000 headers": case(request(*[b"X-%d: a" % n for n in range(5000)]), 431),
    # Bodies.
    "a body": case(request(b"Content-Length: 5") + b"12345", 400),
    "an empty body": case(request(b"Content-Length: 0"), 101),
    "a chunked body": case(
        request(b"Transfer-Encoding: chunked") + b"5\r\n12345\r\n0\r\n\r\n", 400
    ),
    "a chunked body of nothing": case(request(b"Transfer-Encoding: chunked") + b"0\r\n\r\n", 400),
    "both kinds of body": case(
        request(b"Content-Length: 3", b"Transfer-Encoding: chunked") + b"0\r\n\r\n", 400
    ),
    "two lengths": case(request(b"Content-Length: 3", b"Content-Length: 4") + b"abcd", 400),
    "a negative length": case(request(b"Content-Length: -1"), 400),
    "an invalid chunk size": case(
        plain(b"Transfer-Encoding: chunked", line=b"POST /ws/ticket HTTP/1.1") + b"zz\r\n\r\n",
        400,
        401,
    ),
    # Other protocols.
    "h2c with invalid settings": case(plain(*H2C, b"HTTP2-Settings: !!!"), 101, 400, CLOSED),
    "h2c with settings of a wrong length": case(
        plain(*H2C, b"HTTP2-Settings: " + base64.urlsafe_b64encode(b"abc")), 101, 400, CLOSED
    ),
    "h2c without settings": case(plain(*H2C), 101, 200, 400, CLOSED),
    "HTTP/2 and then garbage": case(PREFACE + b"\xff" * 500, CLOSED),
    "HTTP/2 broken off": case(PREFACE[:20] + b"\xff" * 50, CLOSED, 400),
    "a TLS hello": case(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 508, CLOSED, 400),
    "HTTP/0.9": case(b"GET /ws\r\n\r\n", 400),
    "HTTP/1.0": case(request(line=b"GET /ws?token=x HTTP/1.0"), 400),
    "HTTP/3.0": case(request(line=b"GET /ws?token=x HTTP/3.0"), 400),
    "HTTP/9": case(request(line=b"GET /ws HTTP/9"), 400),
    "not HTTP": case(b"EHLO mail\r\n\r\n", 400),
    "noise": case(bytes(range(256)) * 8 + b"\r\n\r\n", 400, CLOSED),
    "POST": case(request(line=b"POST /ws?token=" + TOKEN.encode() + b" HTTP/1.1"), 426),
    "CONNECT": case(request(line=b"CONNECT localhost:80 HTTP/1.1"), 400, 404, 405),
    # Request targets.
    "an absolute target": case(
        request(line=b"GET http://localhost/ws?token=" + TOKEN.encode() + b" HTTP/1.1"), 101
    ),
    "an absolute target of a WebSocket": case(
        request(line=b"GET WSS://localhost:8000/ws?token=" + TOKEN.encode() + b" HTTP/1.1"), 101
    ),
    "an absolute target without a path": case(plain(line=b"GET http://localhost HTTP/1.1"), 200),
    "an absolute target with a query only": case(
        plain(line=b"GET http://localhost?a=b HTTP/1.1"), 200
    ),
    "an absolute target of an endpoint": case(
        plain(line=b"GET http://localhost/ws/health HTTP/1.1"), 200
    ),
    "an absolute target of another scheme": case(plain(line=b"GET ftp://a/ws HTTP/1.1"), 404),
    "an absolute target with user information": case(
        plain(line=b"GET http://user@localhost/ws/health HTTP/1.1"), 404
    ),
    "no Connection: Upgrade": case(request(connection=b""), 426),
    "another Connection option": case(request(connection=b"Connection: keep-alive"), 426),
    "Connection: Upgrade among others": case(
        request(connection=b"Connection: keep-alive, upgrade"), 101
    ),
    "no path but *": case(request(line=b"GET * HTTP/1.1"), 404),
    "OPTIONS for the server": case(plain(line=b"OPTIONS * HTTP/1.1"), 204),
    "no path": case(request(line=b"GET  HTTP/1.1"), 400),
    "an escaped path": case(request(line=b"GET /%77s?token=" + TOKEN.encode() + b" HTTP/1.1"), 101),
    "an invalid escape": case(request(line=b"GET /ws%zz HTTP/1.1"), 404),
    "an escape of NUL": case(request(line=b"GET /ws%00 HTTP/1.1"), 404),
    "an escape of a line's end": case(request(line=b"GET /ws%0d%0aX:%20y HTTP/1.1"), 404),
    "an escape that is not UTF-8": case(request(line=b"GET /ws%ff HTTP/1.1"), 404),
    "dot segments": case(request(line=b"GET /x/../ws HTTP/1.1"), 404),
    "two slashes": case(request(line=b"GET //ws HTTP/1.1"), 404),
    "a long query": case(request(line=b"GET /ws?" + b"&" * 5000 + b" HTTP/1.1"), 401),
    "two requests at once": case(plain() * 2, 200),
}


class Talker:
    """Another client's connection."""

    def __init__(self, server: Server) -> None:
        self._sock = open_line(server.address)
        self._sock.sendall(request(b"X-Client: the other"))
        self._data = b""
        while b"\r\n\r\n" not in self._data:
            self._more()
        head, _, self._data = self._data.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        self._count = 0

    def answers(self) -> None:
        """Check that a ping is answered."""
        self._count += 1
        name = f"c-{self._count}"
        ping = orjson.dumps({"type": "ping", "correlation_id": name})
        self._sock.sendall(client_frame(TEXT, ping))
        while True:
            opcode, payload = self._frame()
            assert opcode != CLOSE, payload
            if opcode == TEXT and orjson.loads(payload).get("correlation_id") == name:
                return

    def close(self) -> None:
        self._sock.close()

    def _frame(self) -> tuple[int, bytes]:
        first, size = self._take(2)
        if size == 126:
            size = int.from_bytes(self._take(2), "big")
        return first & 0x0F, self._take(size)

    def _take(self, size: int) -> bytes:
        while len(self._data) < size:
            self._more()
        data, self._data = self._data[:size], self._data[size:]
        return data

    def _more(self) -> None:
        data = self._sock.recv(65_536)
        assert data, "the server closed"
        self._data += data


@frozen
class Host:
    """A server under attack, and another client of it."""

    name: str
    server: Server
    talker: Talker

    def connect(self) -> socket.socket:
        return open_line(self.server.address)

    def is_well(self) -> None:
        """Check that the other client is served and no exception was logged."""
        self.talker.answers()
        assert self.server.process.running
        text = self.server.process.err.text
        assert "Traceback" not in text
        assert TOKEN not in text
        assert not self.server.process.logs("call_failed")
        assert not self.server.process.logs("connection_broke")


@pytest.fixture(scope="module", params=["own", "stock"])
def host(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Host]:
    directory: Path = tmp_path_factory.mktemp("server")
    run = serving if request.param == "own" else stock_serving
    with run(directory, **SETTINGS) as server:
        talker = Talker(server)
        yield Host(request.param, server, talker)
        talker.close()


def send(sock: socket.socket, data: bytes) -> None:
    """Send as much as the server accepts: it may close before the end."""
    with suppress(ConnectionError):
        sock.sendall(data)


def read_to_the_end(sock: socket.socket) -> bytes:
    data = b""
    with suppress(ConnectionError):
        while more := sock.recv(65_536):
            data += more
    return data


def end(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_WR)


def read_head(sock: socket.socket) -> tuple[bytes, bytes]:
    """Return the head of an answer, and what came with it."""
    data = b""
    with suppress(ConnectionError):
        while b"\r\n\r\n" not in data and (more := sock.recv(65_536)):
            data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def status_of(head: bytes) -> int:
    return int(head.split(b" ")[1]) if head.startswith(b"HTTP/1.1 ") else CLOSED


@pytest.mark.parametrize("name", CASES)
def test_a_malformed_request_affects_only_its_connection(host: Host, name: str) -> None:
    this = CASES[name]
    allowed = this.own if host.name == "own" else this.stock
    begun = time.monotonic()
    with host.connect() as sock:
        send(sock, this.data)
        if CLOSED in allowed:
            end(sock)
        head, body = read_head(sock)
        assert status_of(head) in allowed, head
        end(sock)
        body += read_to_the_end(sock)
    assert time.monotonic() - begun < HEAD_SECONDS  # not because the time for a head was over
    assert b"sec-websocket-extensions" not in head.lower()
    if status_of(head) == 426 and "version" in name:
        assert b"\r\nsec-websocket-version: 13" in head.lower()
    if status_of(head) >= 400 and b"application/json" in head:
        assert orjson.loads(body)["type"] == "error"
    host.is_well()


BOTH_LENGTHS = {
    "chunked": plain(
        b"Content-Length: 3", b"Transfer-Encoding: chunked", line=b"POST /ws/ticket HTTP/1.1"
    )
    + b"0\r\n\r\n",
    "chunked, with a body": plain(
        b"Transfer-Encoding: chunked", b"Content-Length: 3", line=b"POST /ws/dev-token HTTP/1.1"
    )
    + b"3\r\nabc\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("name", BOTH_LENGTHS)
def test_a_request_with_two_body_lengths_is_the_last_one(host: Host, name: str) -> None:
    """A proxy in front may have seen a request of another user behind it (RFC 9112, 6.1)."""
    with host.connect() as sock:
        send(sock, BOTH_LENGTHS[name] + plain())
        answer = read_to_the_end(sock)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"\r\nconnection: close\r\n" in answer.lower()
    host.is_well()


# --- bytes behind the handshake


def messages_of(data: bytes) -> list[tuple[int, bytes]]:
    return list(server_frames(data))


@pytest.mark.parametrize("count", [1, 20])
def test_frames_behind_the_handshake_are_not_lost(host: Host, count: int) -> None:
    with host.connect() as sock:
        send(sock, request() + PING * count)
        head, body = read_head(sock)
        assert status_of(head) == 101
        while body.count(b'"pong"') < count:
            more = sock.recv(65_536)
            assert more
            body += more
        send(sock, client_frame(CLOSE, b"\x03\xe8"))
        frames = messages_of(body + read_to_the_end(sock))
    pongs = [payload for _, payload in frames if b'"pong"' in payload]
    assert len(pongs) == count
    assert frames[-1] == (CLOSE, b"\x03\xe8")
    host.is_well()


GARBAGE = {
    "noise": b"\xff" * 1000,
    "a second request": request(),
    "a lot of noise": b"\xff" * 200_000,
    "a frame without a mask": raw_frame(FIN | TEXT, b"{}", masked=False),
    "compressed data": raw_frame(FIN | 0x40 | TEXT, b"\xaa\x56\x2a\xa9\x2c\x48\x05\x00"),
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_behind_the_handshake_closes_with_1002(host: Host, name: str) -> None:
    with host.connect() as sock:
        send(sock, request(DEFLATE) + GARBAGE[name])
        head, body = read_head(sock)
        assert status_of(head) == 101
        assert b"sec-websocket-extensions" not in head.lower()
        body += read_to_the_end(sock)
    opcode, payload = messages_of(body)[-1]
    assert (opcode, payload[:2]) == (CLOSE, PROTOCOL_ERROR.to_bytes(2, "big"))
    host.is_well()


# --- slow and silent peers


BEGINNINGS = [b"", b"G", request()[:40], request()[:-2], PREFACE[:10], plain()[:-1]]


def test_both_hosts_wait_ten_seconds_for_a_head() -> None:
    assert HEAD_SECONDS == limits.HEAD_SECONDS == 10


@pytest.mark.parametrize("host", ["own"], indirect=True)
def test_a_slow_or_silent_peer_is_closed_in_time(host: Host) -> None:
    """All connections at once; each is closed when the time for a head is over.

    Bytes do not extend that time: the whole request would take longer than the test waits.
    """
    begun = time.monotonic()
    silent = [host.connect() for _ in BEGINNINGS]
    slow = [host.connect() for _ in range(3)]
    with ExitStack() as stack:
        for sock in (*silent, *slow):
            stack.enter_context(sock)
        for sock, data in zip(silent, BEGINNINGS, strict=True):
            sock.sendall(data)
        ended: dict[socket.socket, float] = {}
        for byte in request() * 2:
            for sock in slow:
                send(sock, bytes([byte]))
            waiting = [sock for sock in (*silent, *slow) if sock not in ended]
            readable, _, _ = select.select(waiting, [], [], 1.0)
            for sock in readable:
                with suppress(ConnectionError):
                    assert sock.recv(65_536) == b""
                ended[sock] = time.monotonic() - begun
            if len(ended) == len(silent) + len(slow) or time.monotonic() - begun > PATIENCE:
                break
        assert len(ended) == len(silent) + len(slow)
        assert min(ended.values()) > HEAD_SECONDS - 1
    host.is_well()


@pytest.mark.parametrize("data", [b"", request()[:50], request(), request() + PING[:5], plain()])
def test_a_reset_connection_affects_no_other(host: Host, data: bytes) -> None:
    for _ in range(10):
        with host.connect() as sock:
            send(sock, data)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    host.is_well()
