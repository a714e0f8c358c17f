"""TCP and TLS connections of a client, and HTTP/1.1 on them.

async with HttpConnection(await dial(urlsplit(url), trust), "example.com") as connection:
    answer = await connection.ask("GET", "/ws/config", {}, limit=64 * 1024)
    print(answer.status, answer.body)
"""

import os
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from types import TracebackType
from typing import Self, TypeAlias
from urllib.parse import SplitResult, quote, urlunsplit

import h11
import trio
from attrs import frozen

from netra_trio.client.frames import parse_object
from netra_trio.client.sockets import NoAnswer, OpeningRefused
from netra_trio.errors import leaves

ANSWER_SECONDS = 10.0  # for an upgrade and for a document; a healthy server takes a few ms
TOO_SLOW = f"no answer within {ANSWER_SECONDS:g} s"

_CHUNK = 64 * 1024  # bytes of one read
_IDLE_SECONDS = 2.0  # after which a connection is not used again: servers close idle ones
_RETRY_AFTER_DIGITS = 6  # eleven days; a larger number is a mistake
_NETWORK_ERRORS = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)

Stream: TypeAlias = trio.SocketStream | trio.SSLStream[trio.SocketStream]


class Unreachable(NoAnswer):
    """No connection to the server, or to what is in front of it, could be opened."""


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


def host_of(parts: SplitResult) -> str:
    """Return the host and the port of an address, without a user and a password."""
    return parts.netloc.rpartition("@")[2]


def target_of(parts: SplitResult) -> str:
    """Return the path and the query of an address."""
    target = urlunsplit(("", "", parts.path or "/", parts.query, ""))
    return quote(target, safe="%/?:@!$&'()*+,;=~[]")


async def open_stream(
    host: str, port: int, trust: ssl.SSLContext | None
) -> "trio.SocketStream | trio.SSLStream[trio.SocketStream]":
    """Connect to a host, and shake hands with TLS. Cancelling closes the connection.

    Args:
        host: The host.
        port: The port.
        trust: The authorities to trust; None for no TLS.

    Raises:
        OSError: There is no connection.
        trio.BrokenResourceError: The handshake failed.
    """
    if trust is None:
        return await trio.open_tcp_stream(host, port)
    stream = await trio.open_ssl_over_tcp_stream(
        host, port, ssl_context=trust, https_compatible=True
    )
    try:
        await stream.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return stream


async def dial(parts: SplitResult, trust: Callable[[], ssl.SSLContext]) -> Stream:
    """Open a connection, with TLS for `wss` and `https`.

    Args:
        parts: The address.
        trust: Returns the authorities to trust.

    Raises:
        Unreachable: There is none in time.
    """
    assert parts.hostname is not None  # noqa: S101 - the manager has checked
    is_tls = parts.scheme in {"wss", "https"}
    port = parts.port or (443 if is_tls else 80)
    try:
        with trio.fail_after(ANSWER_SECONDS):
            return await open_stream(parts.hostname, port, trust() if is_tls else None)
    except trio.TooSlowError:
        raise Unreachable(TOO_SLOW) from None
    except _NETWORK_ERRORS as error:
        raise Unreachable(reason_of(error)) from None


@frozen
class Answer:
    """A whole answer: its status, its headers by lower-case name, and its body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class HttpConnection:
    """A connection for one request after the other. Cancelling a request makes it unusable.

    The methods raise `NoAnswer` if the connection is lost, or the peer does not speak HTTP.

    Args:
        stream: The connection.
        host: The value of the header `Host`.

    Attributes:
        used_at: When the last answer was complete, on Trio's clock.
    """

    def __init__(self, stream: trio.abc.Stream, host: str) -> None:
        self._stream = stream
        self._host = host
        self._protocol = h11.Connection(h11.CLIENT)
        self.used_at = trio.current_time()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection, without waiting for the peer."""
        await trio.aclose_forcefully(self._stream)

    @property
    def is_reusable(self) -> bool:
        """Whether another request may follow."""
        return self._protocol.states == {h11.CLIENT: h11.IDLE, h11.SERVER: h11.IDLE}

    async def start(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes = b""
    ) -> Answer:
        """Send a request, and wait for the head of its answer; its body is empty."""
        fields = {"host": self._host, "accept-encoding": "identity", **headers}
        if method != "GET":
            fields["content-length"] = str(len(body))
        request = h11.Request(method=method, target=target, headers=list(fields.items()))
        send = self._protocol.send
        data = (send(request) or b"") + (send(h11.Data(data=body)) if body else b"")
        send(h11.EndOfMessage())
        try:
            await self._stream.send_all(data)
        except _NETWORK_ERRORS as error:
            raise NoAnswer(reason_of(error)) from None
        return await self._head()

    async def _head(self) -> Answer:
        event = await self._event()
        while isinstance(event, h11.InformationalResponse):
            event = await self._event()
        if not isinstance(event, h11.Response):
            raise NoAnswer("the connection was closed before the answer")
        found = {name.decode().lower(): value.decode("latin-1") for name, value in event.headers}
        return Answer(event.status_code, found, b"")

    async def send(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: AsyncIterator[bytes],
        *,
        size: int | None,
        idle_seconds: float,
        limit: int,
    ) -> Answer:
        """Send a request whose body comes in pieces, and wait for its whole answer.

        An answer that comes before the end of the body ends the sending.

        Args:
            method: The method.
            target: The path and the query.
            headers: More headers.
            body: The pieces; what iterating raises is raised.
            size: The bytes of all pieces; None if that is not known.
            idle_seconds: Seconds without progress after which there is no answer.
            limit: See `read_all`.

        Raises:
            ValueError: The pieces do not have `size` bytes.
        """
        framing = (
            ("transfer-encoding", "chunked") if size is None else ("content-length", str(size))
        )
        fields = {"host": self._host, "accept-encoding": "identity", **headers}
        request = h11.Request(method=method, target=target, headers=[*fields.items(), framing])
        sender = _Sender(self._protocol, self._stream, idle_seconds)
        answer: Answer | NoAnswer = NoAnswer(f"no progress for {idle_seconds:g} s")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sender.run, request, body, nursery.cancel_scope)
            try:
                head = await self._head()
                answer = Answer(head.status, head.headers, await self.read_all(limit))
            except NoAnswer as failure:
                answer = failure
            nursery.cancel_scope.cancel()
        if sender.failure is not None:
            raise sender.failure
        if isinstance(answer, NoAnswer):
            raise answer
        return answer

    async def read(self) -> bytes:
        """Wait for the next piece of the body; empty at its end. Cancelling is safe."""
        while isinstance(event := await self._event(), h11.Data):
            if event.data:
                return bytes(event.data)
        if self._protocol.states == {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}:
            self._protocol.start_next_cycle()
        self.used_at = trio.current_time()
        return b""

    async def read_all(self, limit: int) -> bytes:
        """Wait for the rest of the body; it stops after the piece that exceeds the limit."""
        body = bytearray()
        while len(body) <= limit and (piece := await self.read()):
            body += piece
        return bytes(body)

    async def ask(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes = b"",
        *,
        limit: int,
    ) -> Answer:
        """Send a request, and wait for its whole answer (see `read_all`)."""
        head = await self.start(method, target, headers, body)
        return Answer(head.status, head.headers, await self.read_all(limit))

    async def _event(self) -> object:
        try:
            while (event := self._protocol.next_event()) is h11.NEED_DATA:
                self._protocol.receive_data(bytes(await self._stream.receive_some(_CHUNK)))
        except h11.RemoteProtocolError as error:
            raise NoAnswer(str(error)) from None
        except _NETWORK_ERRORS as error:
            raise NoAnswer(reason_of(error)) from None
        return event


class _Sender:
    """Sends a request while its answer is awaited.

    Attributes:
        failure: The exception that the body has raised, if any.
    """

    def __init__(
        self, protocol: h11.Connection, stream: trio.abc.Stream, idle_seconds: float
    ) -> None:
        self._protocol = protocol
        self._stream = stream
        self._idle_seconds = idle_seconds
        self.failure: Exception | None = None

    async def run(
        self, request: h11.Request, body: AsyncIterator[bytes], waiting: trio.CancelScope
    ) -> None:
        """Send everything; cancel the wait for the answer if that fails, or takes too long."""
        if not await self._send(request, waiting):
            return
        while True:
            try:
                piece = await anext(body, None)
            except Exception as failure:
                self.failure = failure
                waiting.cancel()
                return
            try:
                event = h11.EndOfMessage() if piece is None else h11.Data(data=piece)
                if not await self._send(event, waiting):
                    return
            except h11.LocalProtocolError as error:
                self.failure = ValueError(f"the body does not have the declared size: {error}")
                waiting.cancel()
                return
            if piece is None:
                waiting.deadline = trio.current_time() + self._idle_seconds
                return

    async def _send(self, event: h11.Event, waiting: trio.CancelScope) -> bool:
        """Send a part; return whether that succeeded."""
        data = self._protocol.send(event) or b""
        try:
            with trio.fail_after(self._idle_seconds):
                await self._stream.send_all(data)
        except trio.TooSlowError:
            waiting.cancel()
        except _NETWORK_ERRORS:
            pass  # the peer may have answered before it closed; otherwise reading fails too
        else:
            return True
        return False


class KeptConnection:
    """One connection at a time, which is replaced when it cannot be used for another request.

    Args:
        parts: The address.
        trust: Returns the authorities to trust.
    """

    def __init__(self, parts: SplitResult, trust: Callable[[], ssl.SSLContext]) -> None:
        self._parts = parts
        self._trust = trust
        self._connection: HttpConnection | None = None
        self._is_closed = False

    async def get(self) -> HttpConnection:
        """Return a connection for the next request.

        Raises:
            NoAnswer: There is none.
        """
        old = self._connection
        if old is not None:
            if old.is_reusable and trio.current_time() - old.used_at < _IDLE_SECONDS:
                return old
            await old.close()
        stream = await dial(self._parts, self._trust)
        self._connection = HttpConnection(stream, host_of(self._parts))
        if self._is_closed:
            await self.close()
        return self._connection

    async def close(self) -> None:
        """Close it: a request in progress fails, as do all later ones."""
        self._is_closed = True
        if self._connection is not None:
            await self._connection.close()


def refusal_of(answer: Answer) -> OpeningRefused:
    """Return the exception for an answer other than the expected one."""
    wait = answer.headers.get("retry-after", "")
    is_wait = wait.isascii() and wait.isdigit() and len(wait) <= _RETRY_AFTER_DIGITS
    return OpeningRefused(
        answer.status,
        retry_after=float(wait) if is_wait else None,
        body=parse_object(answer.body) or {},
    )
