"""The real network: trio-websocket for the socket, httpx2 for the discovery document.

async with Network().open(url, headers={}, subprotocols=("netra.v1",)) as socket:
    print(await socket.receive())
"""

import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import SplitResult, urlsplit, urlunsplit

import httpx2
import trio
import trio_websocket
from wsproto.utilities import ProtocolError

from netra_trio.client.frames import parse_object
from netra_trio.client.sockets import InvalidDocument, NoAnswer, OpeningRefused, SocketClosed
from netra_trio.errors import leaves
from netra_trio.protocol.codes import ABNORMAL

ANSWER_SECONDS = 10.0  # for an upgrade and for a document; a healthy server takes a few ms
FRAME_BYTES = 1024 * 1024  # four times the largest event (docs/protocol.md, Limits)
SWITCHING = 101  # the HTTP status of an accepted upgrade (RFC 6455, 4.1)
DOCUMENT_BYTES = 64 * 1024  # a hundred times the usual document
RETRY_AFTER_DIGITS = 6  # eleven days; a larger number is a mistake

_NETWORK_ERRORS = (
    trio_websocket.HandshakeError,
    ProtocolError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
    OSError,
)


def reason_of(error: BaseException) -> str:
    """Return why there was no answer: the text of the innermost error, without its wrappers."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return ", ".join(dict.fromkeys(map(_text_of, leaves(error))))


def _text_of(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        if error.errno > 0 and not isinstance(error, ssl.SSLError):
            return os.strerror(error.errno)  # Trio's text repeats the address
        return str(error.strerror)
    return str(error) or type(error).__name__


class Network:
    """A `Dialer` over TCP; it ignores the proxy variables of the environment.

    Args:
        tls: The authorities to trust for `wss`; the system's, or those of SSL_CERT_FILE, if None.
    """

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls

    @asynccontextmanager
    async def open(
        self, url: str, *, headers: Mapping[str, str], subprotocols: Sequence[str]
    ) -> AsyncIterator["WebSocket"]:
        """Open a WebSocket (see `Dialer`)."""
        parts = urlsplit(url)
        stream = await self._dial(parts)
        try:
            async with trio.open_nursery() as nursery:
                reader = _Reader(nursery)
                starter: Any = reader
                with trio.move_on_after(ANSWER_SECONDS) as reader.handshake:
                    connection = await trio_websocket.wrap_client_stream(
                        starter,
                        stream,
                        parts.netloc.rpartition("@")[2],
                        urlunsplit(("", "", parts.path or "/", parts.query, "")),
                        subprotocols=list(subprotocols),
                        extra_headers=[(k.encode(), v.encode()) for k, v in headers.items()],
                        max_message_size=FRAME_BYTES,
                    )
                    if connection.subprotocol in (subprotocols or (None,)):
                        reader.is_open = True
                if reader.is_open:
                    yield WebSocket(connection)
                nursery.cancel_scope.cancel()
        finally:
            # trio-websocket does not close the stream of a connection that the peer ended.
            await trio.aclose_forcefully(stream)
        if not reader.is_open:
            raise reader.explain()

    async def _dial(
        self, parts: SplitResult
    ) -> trio.SocketStream | trio.SSLStream[trio.SocketStream]:
        assert parts.hostname is not None  # noqa: S101 - the manager has checked
        is_tls = parts.scheme == "wss"
        port = parts.port or (443 if is_tls else 80)
        try:
            with trio.fail_after(ANSWER_SECONDS):
                if not is_tls:
                    return await trio.open_tcp_stream(parts.hostname, port)
                stream = await trio.open_ssl_over_tcp_stream(
                    parts.hostname, port, ssl_context=self._trust(), https_compatible=True
                )
                try:
                    await stream.do_handshake()
                except BaseException:
                    await trio.aclose_forcefully(stream)
                    raise
                return stream
        except trio.TooSlowError:
            raise NoAnswer(_TOO_SLOW) from None
        except _NETWORK_ERRORS as error:
            raise NoAnswer(reason_of(error)) from None

    async def discover(self, url: str) -> Mapping[str, Any]:
        """Read a JSON object (see `Dialer`)."""
        body = bytearray()
        headers = {"accept": "application/json", "accept-encoding": "identity"}
        with trio.move_on_after(ANSWER_SECONDS) as scope:
            try:
                async with (
                    httpx2.AsyncClient(
                        # Reading the authorities takes 20 ms and more, and http does not need them.
                        verify=self._trust() if urlsplit(url).scheme == "https" else _NO_TRUST,
                        timeout=None,
                        trust_env=False,
                    ) as client,
                    client.stream("GET", url, headers=headers) as answer,
                ):
                    async for piece in answer.aiter_raw():
                        body += piece
                        if len(body) > DOCUMENT_BYTES:
                            # Leaving the loop would leave the generators of the HTTP client open.
                            scope.cancel()
            except (httpx2.HTTPError, OSError) as error:
                raise NoAnswer(reason_of(error)) from None
        if len(body) > DOCUMENT_BYTES:
            raise InvalidDocument(f"{url} has more than {DOCUMENT_BYTES} bytes")
        if scope.cancelled_caught:
            raise NoAnswer(_TOO_SLOW)
        if answer.status_code != httpx2.codes.OK:
            raise _refusal(answer.status_code, answer.headers, bytes(body))
        document = parse_object(bytes(body))
        if document is None:
            raise InvalidDocument(f"{url} is not a JSON object")
        return document

    def _trust(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls


class _Reader:
    """Runs the reader task of trio-websocket, and keeps its exception.

    It has the one method of a nursery that trio-websocket calls.

    Attributes:
        handshake: The scope of the handshake; cancelled when the reader ends before it is done.
        is_open: Whether the handshake succeeded.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._fault: Exception | None = None
        self._has_ended = False
        self.handshake = trio.CancelScope()
        self.is_open = False

    def start_soon(self, task: Callable[..., Awaitable[None]], *args: object) -> None:
        """Start the reader task."""
        self._nursery.start_soon(self._run, task, *args)

    async def _run(self, task: Callable[..., Awaitable[None]], *args: object) -> None:
        try:
            await task(*args)
        except _NETWORK_ERRORS as fault:
            self._fault = fault
        self._has_ended = True
        if not self.is_open:
            self.handshake.cancel()

    def explain(self) -> NoAnswer | OpeningRefused:
        """Return why there is no connection."""
        fault = self._fault
        if isinstance(fault, trio_websocket.ConnectionRejected):
            headers = {k.decode().lower(): v.decode("latin-1") for k, v in fault.headers or ()}
            return _refusal(fault.status_code, headers, fault.body or b"")
        if self._has_ended:
            return NoAnswer("the connection was closed before it was open")
        if self.handshake.cancelled_caught:
            return NoAnswer(_TOO_SLOW)
        # The server answered; trying again would give the same answer.
        error = "The server selected none of the subprotocols that were offered."
        advice = "Check that the url is that of a netra_trio server."
        return OpeningRefused(SWITCHING, body={"error": error, "help": advice})


class WebSocket:
    """A `Socket` of trio-websocket, whose reader task answers pings."""

    def __init__(self, connection: trio_websocket.WebSocketConnection) -> None:
        self._connection = connection

    async def send(self, text: str) -> None:
        """Send a text frame (see `Socket`)."""
        try:
            await self._connection.send_message(text)
        except trio_websocket.ConnectionClosed as closed:
            raise SocketClosed(_code(closed)) from None

    async def receive(self) -> str:
        """Wait for a text frame (see `Socket`); a binary one is returned as an empty text."""
        try:
            message = await self._connection.get_message()
        except trio_websocket.ConnectionClosed as closed:
            raise SocketClosed(_code(closed)) from None
        return message if isinstance(message, str) else ""

    async def close(self, code: int) -> None:
        """Close (see `Socket`)."""
        await self._connection.aclose(code)


_NO_TRUST = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
_TOO_SLOW = f"no answer within {ANSWER_SECONDS:g} s"


def _code(closed: trio_websocket.ConnectionClosed) -> int:
    return ABNORMAL if closed.reason is None else int(closed.reason.code)


def _refusal(status: int, headers: Mapping[str, str], body: bytes) -> OpeningRefused:
    wait = headers.get("retry-after", "")
    is_wait = wait.isascii() and wait.isdigit() and len(wait) <= RETRY_AFTER_DIGITS
    return OpeningRefused(
        status, retry_after=float(wait) if is_wait else None, body=parse_object(body) or {}
    )
