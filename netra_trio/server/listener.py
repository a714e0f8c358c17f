"""The lane: every connection begins here, and WebSocket upgrades over HTTP/1.1 stay.

    lane = Listener(app, listening, tls=None)
    await nursery.start(lane.serve)

A connection is a task. It reads the head of the first request. An upgrade is answered and served
right here, on a line of our own; whatever else it is (HTTP, HTTP/2) goes to Hypercorn with the
bytes that were read, on the same port. No exception of one connection reaches another.
"""

import errno
import re
import socket
import ssl
from collections.abc import Callable
from http import HTTPStatus
from urllib.parse import unquote

import h11
import orjson
import structlog
import trio
from attrs import field, frozen

from netra_trio.endpoints import http
from netra_trio.endpoints.request import Request
from netra_trio.endpoints.upgrade import AcceptedUpgrade
from netra_trio.errors import TransportClosed, leaves, place_of
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.problem import Problem, problem
from netra_trio.server.application import Application
from netra_trio.server.hypercorn.install import HttpHost
from netra_trio.transports.byte_stream import READ_BYTES, Line, SocketByteStream, TrioByteStream
from netra_trio.transports.handshake import (
    Headers,
    accepting,
    by_name,
    handshake_fault,
    wants_websocket,
)
from netra_trio.transports.websocket import WebSocketTransport

HEAD_BYTES = 16 * 1024  # of a request's head, the contract's bound, section 6
HEAD_SECONDS = 10.0  # for a whole head, likewise; for a TLS handshake besides
LINGER = 1.0  # seconds of reading on after an answer: a close with unread input would destroy it
ACCEPTS = 64  # connections taken at once before others have their turn
CROWDED_SECONDS = 0.1  # until the next try where the system has no file for a connection

_CROWDED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_HEAD_END = re.compile(rb"\n\r?\n")
_TLS_HELLO = 0x16  # the first byte of a client that speaks TLS
_GONE = (OSError, TransportClosed, trio.BrokenResourceError, trio.ClosedResourceError)

_log = structlog.get_logger(__name__)


@frozen
class Head:
    """The head of a request, and what came behind it.

    Attributes:
        raw: Its bytes, as they came.
        rest: The bytes behind it.
        method: In upper case.
        target: The path and the query, as they came.
    """

    raw: bytes
    rest: bytes
    method: bytes = b""
    target: bytes = b""
    http_version: str = ""
    headers: list[tuple[bytes, bytes]] = field(factory=list)


class Listener:
    """Listens, and gives each connection to who can serve it.

    Args:
        app: The application.
        sock: A listening socket.
        tls: What to speak TLS with; None for none.
    """

    def __init__(
        self, app: Application, sock: socket.socket, *, tls: ssl.SSLContext | None = None
    ) -> None:
        self._app = app
        self._sock = sock
        self._tls = tls
        self._accepting = trio.CancelScope()
        self._host = HttpHost(app, app.settings)
        self._send_timeout = app.settings.send_timeout_ms / 1000
        self._buffer = bytearray(READ_BYTES)

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve connections until it is stopped and the last of them has ended."""
        self._sock.setblocking(False)
        async with trio.open_nursery() as nursery:
            task_status.started()
            with self._accepting:
                while True:
                    await trio.lowlevel.wait_readable(self._sock)
                    if not self._accept(nursery):
                        await trio.sleep(CROWDED_SECONDS)

    async def stop(self) -> None:
        """Accept nobody any more, and let idle HTTP connections go; others are answered first."""
        self._accepting.cancel()
        await self._host.stop()

    def _accept(self, nursery: trio.Nursery) -> bool:
        """Take the connections that wait; return whether the system has room for more."""
        for _ in range(ACCEPTS):
            try:
                sock, address = self._sock.accept()
            except BlockingIOError:
                break
            except OSError as error:  # of one that has left already, too
                if error.errno in _CROWDED:
                    _log.error("crowded", reason=error.strerror)
                    return False
                continue
            nursery.start_soon(self._contain, sock, str(address[0]))
        return True

    async def _contain(self, sock: socket.socket, peer: str) -> None:
        """Serve one connection; no exception of it gets out, and its socket is closed."""
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
            await self._welcome(sock, peer)
        except* _GONE:
            pass
        except* Exception as faults:
            for fault in leaves(faults):
                kind, where = type(fault).__name__, place_of(fault)
                _log.error("connection_broke", peer=peer, fault=kind, where=where)
        finally:
            if sock.fileno() >= 0:
                trio.lowlevel.notify_closing(sock)
                sock.close()

    async def _welcome(self, sock: socket.socket, peer: str) -> None:
        if self._tls is not None:
            await self._welcome_tls(sock, self._tls, peer)
            return
        line = SocketByteStream(sock, send_timeout=self._send_timeout, buffer=self._buffer)
        await self._serve(line, peer, lambda: _stream(sock))

    async def _welcome_tls(self, sock: socket.socket, tls: ssl.SSLContext, peer: str) -> None:
        stream = trio.SSLStream(_stream(sock), tls, server_side=True, https_compatible=True)
        with trio.move_on_after(HEAD_SECONDS) as patience:
            await stream.do_handshake()
        if patience.cancelled_caught:
            return
        if stream.selected_alpn_protocol() == "h2":
            await self._host.serve(stream)
            return
        line = TrioByteStream(stream, send_timeout=self._send_timeout)
        await self._serve(line, peer, lambda: stream)

    async def _serve(self, line: Line, peer: str, as_stream: Callable[[], trio.abc.Stream]) -> None:
        """Serve what the first head asks for: a WebSocket on the line, all else as a stream."""
        head = await self._read_head(line, peer)
        if head is None:
            return
        if _is_upgrade(head):
            await self._serve_upgrade(line, head, peer)
        else:
            await self._host.serve(as_stream(), before=head.raw + head.rest)

    async def _read_head(self, line: Line, peer: str) -> Head | None:
        """Read the head of the first request; None where there is none, and no more to say."""
        data = b""
        with trio.move_on_after(HEAD_SECONDS):
            while True:
                more = await line.read()
                if not more or (not data and more[0] == _TLS_HELLO):
                    return None
                start = max(0, len(data) - 3)
                data += more
                end = _HEAD_END.search(data, start)
                if end is not None and end.end() <= HEAD_BYTES:
                    return _parse(data[: end.end()], data[end.end() :])
                if len(data) > HEAD_BYTES:
                    text = f"The head of the request has more than {HEAD_BYTES} bytes."
                    fault = problem(ErrorCode.BAD_REQUEST, text, status=431)
                    await self._refuse(line, fault, peer)
                    return None
        return None

    async def _serve_upgrade(self, line: Line, head: Head, peer: str) -> None:
        """Serve a WebSocket, or say why not."""
        headers = by_name(head.headers)
        raw_path, _, query = head.target.partition(b"?")
        path = unquote(raw_path.decode("ascii", "replace"))
        request = Request.of_scope(
            {
                "headers": head.headers,
                "query_string": query,
                "subprotocols": _offered(headers),
                "client": (peer, 0),
            }
        )

        def transport(opening: AcceptedUpgrade) -> WebSocketTransport:
            key = headers[b"sec-websocket-key"][0]
            return WebSocketTransport(
                line,
                answer=accepting(key, opening.subprotocol),
                max_bytes=self._app.settings.hard_message_size,
                before=head.rest,
            )

        fault = handshake_fault(raw_path, head.http_version, headers)
        answer = await self._app.serve_upgrade(request, path, transport, fault=fault)
        if answer is not None:
            await self._answer(line, answer)

    async def _refuse(self, line: Line, fault: Problem, peer: str) -> None:
        request = Request(headers={}, query={}, subprotocols=(), peer=peer)
        note = self._app.instruments.note
        answer = http.refusal(fault, self._app.wall_clock(), request, "", note)
        await self._answer(line, answer)

    async def _answer(self, line: Line, answer: http.Answer) -> None:
        """Answer over HTTP and end the line, in a way that lets the answer arrive."""
        body = orjson.dumps(answer.body)
        headers = {
            **answer.headers,
            "content-type": "application/json",
            "content-length": str(len(body)),
            "x-content-type-options": "nosniff",
            "connection": "close",
        }
        reason = HTTPStatus(answer.status).phrase
        lines = [f"HTTP/1.1 {answer.status} {reason}", *(f"{k}: {v}" for k, v in headers.items())]
        await line.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        await line.end()
        with trio.move_on_after(LINGER):
            while await line.read():
                pass


def _stream(sock: socket.socket) -> trio.SocketStream:
    return trio.SocketStream(trio.socket.from_stdlib_socket(sock))


def _parse(raw: bytes, rest: bytes) -> Head:
    """Return a head with what is in it; nothing is, where it is no HTTP/1.1."""
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
    try:
        parser.receive_data(raw)
        event = parser.next_event()
    except h11.RemoteProtocolError:
        return Head(raw, rest)
    if not isinstance(event, h11.Request):
        return Head(raw, rest)
    return Head(
        raw,
        rest,
        method=event.method,
        target=event.target,
        http_version=event.http_version.decode(),
        headers=list(event.headers),
    )


def _is_upgrade(head: Head) -> bool:
    """Whether it asks for a WebSocket, as only a GET can (RFC 6455, 4.1)."""
    return head.method == b"GET" and wants_websocket(by_name(head.headers))


def _offered(headers: Headers) -> list[str]:
    """Return the subprotocols that the client offers."""
    offers = b",".join(headers.get(b"sec-websocket-protocol", [])).decode("latin-1").split(",")
    return [offer.strip() for offer in offers if offer.strip()]
