"""The real network: WebSockets, and the events door where WebSockets do not get through.

async with Network().open(url, headers={}, subprotocols=("netra.v1",)) as socket:
    print(await socket.receive())
"""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from http import HTTPStatus
from typing import Any
from urllib.parse import SplitResult, urlsplit

import trio
import trio_websocket
from wsproto.utilities import ProtocolError

from netra_trio.client.door import FRAME_BYTES, EventsDoor, LateFrame
from netra_trio.client.fallback import Transport, TransportPolicy
from netra_trio.client.frames import parse_object
from netra_trio.client.http import (
    ANSWER_SECONDS,
    TOO_SLOW,
    Answer,
    HttpConnection,
    KeptConnection,
    Unreachable,
    dial,
    host_of,
    refusal_of,
    target_of,
)
from netra_trio.client.life import Life, LivingSocket
from netra_trio.client.sockets import (
    InvalidDocument,
    NoAnswer,
    OpeningRefused,
    Socket,
    SocketClosed,
)
from netra_trio.protocol.codes import ABNORMAL

PROBE_SECONDS = 5.0  # for the discovery document, after a failure that nothing explains
DOCUMENT_BYTES = 64 * 1024  # a hundred times the usual document

_NETWORK_ERRORS = (
    trio_websocket.HandshakeError,
    ProtocolError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
    OSError,
)
_EXPLANATIONS: set[int] = {
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.SERVICE_UNAVAILABLE,
}
"""The statuses with which the server itself refuses an attempt that has reached it whole."""


class Network:
    """A `Dialer` over TCP; it ignores the proxy variables of the environment.

    Where WebSockets fail, and the discovery document names the events door of the server, sockets
    exchange their frames over HTTP. The rules are those of `TransportPolicy`.

    Args:
        tls: The authorities to trust for `wss`; the system's, or those of SSL_CERT_FILE, if None.
        fallback: Whether to use the events door.
    """

    def __init__(self, *, tls: ssl.SSLContext | None = None, fallback: bool = True) -> None:
        self._tls = tls
        self._has_fallback = fallback
        self._door = EventsDoor(self._trust)
        self._policy = TransportPolicy()
        self._config_url = ""

    @asynccontextmanager
    async def open(
        self, url: str, *, headers: Mapping[str, str], subprotocols: Sequence[str]
    ) -> AsyncIterator[Socket]:
        """Open a socket (see `Dialer`)."""
        if not self._has_fallback or self._door.paths is None:
            async with self._open_websocket(url, headers, subprotocols) as websocket:
                yield websocket
            return
        transport = self._policy.choose(trio.current_time())
        opening: AbstractAsyncContextManager[Socket]
        if transport is Transport.WEBSOCKET:
            opening = self._open_websocket(url, headers, subprotocols)
        elif transport is Transport.SSE:
            opening = self._door.stream(url, headers=headers)
        else:
            opening = self._door.poll(url, headers=headers)
        life, is_given = Life(self._policy, transport), False
        with self._door.pausing(url) as opened:
            try:
                async with opening as socket:
                    is_given = True
                    yield LivingSocket(socket, life, opened)
            except (OpeningRefused, NoAnswer) as failure:
                if is_given:
                    raise
                if await self._is_explained(failure):
                    self._policy.explained()
                    raise
                self._policy.not_opened(transport, is_late=isinstance(failure, LateFrame))
                # Another transport may succeed where this one was refused.
                reason = failure.reason if isinstance(failure, OpeningRefused) else str(failure)
                raise NoAnswer(reason) from None
            life.ended(trio.current_time())

    async def _is_explained(self, failure: OpeningRefused | NoAnswer) -> bool:
        """Return whether the transport is not the reason of a failure.

        It is not if the server has refused, cannot be reached with HTTP either, or has closed its
        door meanwhile.
        """
        if isinstance(failure, Unreachable):
            return True
        if isinstance(failure, OpeningRefused) and _has_reason(failure):
            return True
        with trio.move_on_after(PROBE_SECONDS):
            try:
                await self.discover(self._config_url)
            except (OpeningRefused, NoAnswer):
                return True
            return self._door.paths is None
        return True

    @asynccontextmanager
    async def _open_websocket(
        self, url: str, headers: Mapping[str, str], subprotocols: Sequence[str]
    ) -> AsyncIterator["WebSocket"]:
        parts = urlsplit(url)
        stream = await dial(parts, self._trust)
        try:
            async with trio.open_nursery() as nursery:
                reader = _Reader(nursery)
                starter: Any = reader
                with trio.move_on_after(ANSWER_SECONDS) as reader.handshake:
                    connection = await trio_websocket.wrap_client_stream(
                        starter,
                        stream,
                        host_of(parts),
                        target_of(parts),
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

    async def discover(self, url: str) -> Mapping[str, Any]:
        """Read a JSON object (see `Dialer`)."""
        parts = urlsplit(url)
        kept = KeptConnection(parts, self._trust)
        answer: Answer | None = None
        try:
            with trio.move_on_after(ANSWER_SECONDS):
                connection = await kept.get()
                headers = {"accept": "application/json"}
                answer = await connection.ask(
                    "GET", target_of(parts), headers, limit=DOCUMENT_BYTES
                )
        finally:
            await kept.close()
        if answer is None:
            raise NoAnswer(TOO_SLOW)
        if len(answer.body) > DOCUMENT_BYTES:
            raise InvalidDocument(f"{url} has more than {DOCUMENT_BYTES} bytes")
        if answer.status != HTTPStatus.OK:
            raise refusal_of(answer)
        document = parse_object(answer.body)
        if document is None:
            raise InvalidDocument(f"{url} is not a JSON object")
        self._config_url = url
        self._door.read_config(document)
        return document

    async def dial_http(self, parts: SplitResult) -> HttpConnection:
        """Open a connection for requests to the host of an address.

        Raises:
            NoAnswer: There is none.
        """
        return HttpConnection(await dial(parts, self._trust), host_of(parts))

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
            return refusal_of(Answer(fault.status_code, headers, fault.body or b""))
        if self._has_ended:
            return NoAnswer("the connection was closed before it was open")
        if self.handshake.cancelled_caught:
            return NoAnswer(TOO_SLOW)
        # The server answered; trying again would give the same answer.
        error = "The server selected none of the subprotocols that were offered."
        advice = "Check that the url is that of a netra_trio server."
        return OpeningRefused(HTTPStatus.SWITCHING_PROTOCOLS, body={"error": error, "help": advice})


class WebSocket:
    """A `Socket` of trio-websocket, whose reader task answers pings."""

    transport = Transport.WEBSOCKET

    def __init__(self, connection: trio_websocket.WebSocketConnection) -> None:
        self._connection = connection

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that the server has selected."""
        found: str | None = self._connection.subprotocol
        return found

    async def send(self, frame: str | bytes) -> None:
        """Send a frame (see `Socket`)."""
        try:
            await self._connection.send_message(frame)
        except trio_websocket.ConnectionClosed as closed:
            raise SocketClosed(_code(closed)) from None

    async def receive(self) -> str | bytes:
        """Wait for a frame (see `Socket`)."""
        try:
            message = await self._connection.get_message()
        except trio_websocket.ConnectionClosed as closed:
            raise SocketClosed(_code(closed)) from None
        return message if isinstance(message, str) else bytes(message)

    async def close(self, code: int) -> None:
        """Close (see `Socket`)."""
        await self._connection.aclose(code)


def _has_reason(refused: OpeningRefused) -> bool:
    return refused.code is not None and refused.status in _EXPLANATIONS


def _code(closed: trio_websocket.ConnectionClosed) -> int:
    return ABNORMAL if closed.reason is None else int(closed.reason.code)
