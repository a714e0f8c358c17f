"""One accepted socket: TLS, the first request head, then a WebSocket or Hypercorn.

An upgrade over HTTP/1.1 is served on a byte stream of our own. Everything else (HTTP/1.1 requests,
HTTP/2) goes to Hypercorn, with the bytes that were read already.
"""

import socket
import ssl
from collections.abc import Callable
from urllib.parse import unquote

import trio

from netra_trio.endpoints.answer import Answer, http1_bytes, refusal
from netra_trio.endpoints.checks import AcceptedUpgrade
from netra_trio.endpoints.request import Request
from netra_trio.protocol.problem import Refused
from netra_trio.server.application import Application
from netra_trio.server.hypercorn.host import HttpHost
from netra_trio.server.request_head import RequestHead, read_head
from netra_trio.transports.bounded import BoundedStream
from netra_trio.transports.byte_stream import (
    READ_BYTES,
    ByteStream,
    SocketByteStream,
    TrioByteStream,
    end_sending,
)
from netra_trio.transports.handshake import accepting, handshake_fault, offered_subprotocols
from netra_trio.transports.headers import by_name
from netra_trio.transports.pacing import Turns
from netra_trio.transports.websocket import WebSocketTransport

TLS_SECONDS = 10.0  # for a TLS handshake


class SocketHandler:
    """Serves accepted sockets.

    Args:
        app: The application, which runs.
        http: Serves HTTP requests.
        turns: The turns that all connections of the process share.
        tls: The TLS context; None for plain TCP.
    """

    def __init__(
        self, app: Application, http: HttpHost, turns: Turns, tls: ssl.SSLContext | None
    ) -> None:
        self._app = app
        self._http = http
        self._turns = turns
        self._tls = tls
        self._send_timeout = app.settings.send_timeout_ms / 1000
        self._buffer = bytearray(READ_BYTES)

    async def serve(self, sock: socket.socket, peer: str) -> None:
        """Serve a connection to its end; the caller closes the socket.

        Args:
            sock: A connected, non-blocking socket.
            peer: The address of the peer.

        Raises:
            TransportClosed: If the connection is lost.
        """
        if self._tls is not None:
            await self._serve_tls(sock, self._tls, peer)
            return
        stream = SocketByteStream(sock, send_timeout=self._send_timeout, buffer=self._buffer)
        await self._serve_requests(stream, peer, lambda: _trio_stream(sock))

    async def _serve_tls(self, sock: socket.socket, tls: ssl.SSLContext, peer: str) -> None:
        tcp = BoundedStream(_trio_stream(sock), send_timeout=self._send_timeout)
        stream = trio.SSLStream(tcp, tls, server_side=True, https_compatible=True)
        with trio.move_on_after(TLS_SECONDS) as patience:
            await stream.do_handshake()
        if patience.cancelled_caught:
            return
        if stream.selected_alpn_protocol() == "h2":
            await self._http.serve(stream)
            return
        await self._serve_requests(TrioByteStream(stream), peer, lambda: stream)

    async def _serve_requests(
        self, stream: ByteStream, peer: str, trio_stream: Callable[[], trio.abc.Stream]
    ) -> None:
        """Serve an upgrade on the byte stream, everything else on the Trio stream below it."""
        try:
            head = await read_head(stream)
        except Refused as refused:
            request = Request(headers={}, query={}, subprotocols=(), peer=peer)
            note = self._app.instruments.note
            answer = refusal(refused.problem, self._app.wall_clock(), request, "", note)
            await _send_last(stream, answer)
            return
        if head is None:
            return
        if head.is_upgrade:
            await self._serve_upgrade(stream, head, peer)
        else:
            await self._http.serve(trio_stream(), before=head.raw + head.rest)

    async def _serve_upgrade(self, stream: ByteStream, head: RequestHead, peer: str) -> None:
        headers = by_name(head.headers)
        raw_path, _, query = head.target.partition(b"?")
        request = Request.of_scope(
            {
                "headers": head.headers,
                "query_string": query,
                "subprotocols": offered_subprotocols(headers),
                "client": (peer, 0),
            }
        )

        def transport(accepted: AcceptedUpgrade) -> WebSocketTransport:
            key = headers[b"sec-websocket-key"][0]
            compression = self._app.compression
            deflate = None if compression is None else compression.agree(headers)
            extension = None if deflate is None else deflate.response
            return WebSocketTransport(
                stream,
                response=accepting(key, accepted.subprotocol, extension),
                max_bytes=self._app.settings.hard_message_size,
                before=head.rest,
                turns=self._turns,
                deflate=deflate,
            )

        await self._turns.take()  # many upgrades that come at once must not delay other tasks
        path = unquote(raw_path.decode("ascii", "replace"))
        fault = handshake_fault(raw_path, head.http_version, headers)
        answer = await self._app.serve_upgrade(request, path, transport, fault=fault)
        if answer is not None:
            await _send_last(stream, answer)


async def _send_last(stream: ByteStream, answer: Answer) -> None:
    """Send an answer as the last thing on a connection, and let it arrive."""
    await stream.write(http1_bytes(answer))
    await end_sending(stream)


def _trio_stream(sock: socket.socket) -> trio.SocketStream:
    return trio.SocketStream(trio.socket.from_stdlib_socket(sock))
