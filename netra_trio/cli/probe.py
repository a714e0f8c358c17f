"""The requests and connections with which a running server is tested.

probe = Probe.of("wss://example.com/ws", trust=ssl.create_default_context(), origin=None)
reply = await probe.request("GET", "/config")
hello = await probe.converse({"ticket": ticket}, talk)
"""

import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Self
from urllib.parse import urlencode, urlsplit, urlunsplit

import httpx2
import trio
from attrs import frozen

from netra_trio.cli.errors import CommandError
from netra_trio.client import Network, NoAnswer, Socket, SocketClosed
from netra_trio.client.frames import parse_object
from netra_trio.client.http import open_stream, reason_of
from netra_trio.errors import leaves
from netra_trio.protocol.wire_format import SUBPROTOCOLS

TIMEOUT_SECONDS = 10.0  # for one request or connection; a healthy server takes some ms
BODY_BYTES = 64 * 1024  # of an answer; no answer of the server is larger
CLOSING_SECONDS = 2.0  # for the close frames

Frame = Mapping[str, Any]


class BadAddress(CommandError):
    """The URL is not that of a WebSocket."""


@frozen
class Reply:
    """An answer over HTTP.

    Attributes:
        body: The JSON object; None if it is not one.
        location: The header `Location`.
        seconds: How long the request took.
    """

    status: int
    body: Mapping[str, Any] | None
    location: str | None
    seconds: float


class ClosedEarly(Exception):
    """The server closed the connection before it sent what was expected."""

    def __init__(self, code: int) -> None:
        super().__init__(f"closed with {code}")
        self.code = code


@frozen
class Probe:
    """A server as a client reaches it.

    Attributes:
        is_tls: Whether to speak TLS.
        netloc: Host and port.
        path: The path of the WebSocket.
        trust: The authorities to trust.
        origin: The origin of the page to be; None for a program.
    """

    is_tls: bool
    netloc: str
    path: str
    trust: ssl.SSLContext
    origin: str | None = None

    @classmethod
    def of(cls, url: str, *, trust: ssl.SSLContext, origin: str | None) -> Self:
        """Return a probe of a url.

        Raises:
            BadAddress: The url is not that of a WebSocket.
        """
        parts = urlsplit(url)
        try:
            is_good = parts.scheme in {"ws", "wss"} and bool(parts.hostname) and parts.port != 0
        except ValueError:
            is_good = False
        if not is_good or "@" in parts.netloc:
            raise BadAddress("--url: expected one like ws://host:8000/ws or wss://host/ws")
        path = parts.path.rstrip("/")
        return cls(parts.scheme == "wss", parts.netloc, path, trust, origin)

    @property
    def host(self) -> str:
        """The host."""
        return str(urlsplit(f"//{self.netloc}").hostname)

    @property
    def port(self) -> int:
        """The port."""
        return urlsplit(f"//{self.netloc}").port or (443 if self.is_tls else 80)

    async def dial(self) -> "trio.SocketStream | trio.SSLStream[trio.SocketStream]":
        """Connect to the address, with TLS if the url says so, and close the connection.

        Returns the closed stream, which knows the certificate of the server.

        Raises:
            OSError, ssl.SSLError: It failed; `TimeoutError` if nothing was answered in time.
        """
        try:
            with trio.fail_after(TIMEOUT_SECONDS):
                trust = self.trust if self.is_tls else None
                stream = await open_stream(self.host, self.port, trust)
                await trio.aclose_forcefully(stream)
        except trio.TooSlowError:
            raise TimeoutError from None
        except (OSError, ssl.SSLError, trio.BrokenResourceError) as error:
            raise _root_of(error) from None
        return stream

    async def request(
        self,
        method: str,
        path: str,
        content: Mapping[str, Any] | None = None,
        *,
        token: str | None = None,
    ) -> Reply:
        """Send an HTTP request to a path below that of the WebSocket.

        Raises:
            NoAnswer: There was no answer in time.
        """
        headers = {"accept": "application/json", "accept-encoding": "identity"}
        headers |= {} if self.origin is None else {"origin": self.origin}
        headers |= {} if token is None else {"authorization": f"Bearer {token}"}
        body = bytearray()
        started = trio.current_time()
        with trio.move_on_after(TIMEOUT_SECONDS) as scope:
            try:
                async with (
                    # Proxies in environment variables are ignored, as by the WebSocket connection.
                    httpx2.AsyncClient(verify=self.trust, timeout=None, trust_env=False) as client,
                    client.stream(
                        method, self._url("http", path), headers=headers, json=content
                    ) as answer,
                ):
                    async for piece in answer.aiter_raw():
                        body += piece
                        if len(body) > BODY_BYTES:
                            scope.cancel()  # leaving the loop would leave its generators open
            except (httpx2.HTTPError, OSError) as error:
                raise NoAnswer(reason_of(error)) from None
        if scope.cancelled_caught and len(body) <= BODY_BYTES:
            raise NoAnswer(f"nothing within {TIMEOUT_SECONDS:g} s")
        return Reply(
            answer.status_code,
            parse_object(bytes(body)),
            answer.headers.get("location"),
            trio.current_time() - started,
        )

    async def converse(
        self, query: Mapping[str, str], talk: Callable[[Socket], Awaitable[None]]
    ) -> Frame:
        """Open a WebSocket, talk after its `connection_established`, and close it.

        Returns the first frame.

        Raises:
            OpeningRefused: The upgrade was refused.
            NoAnswer: There was no answer in time.
            ClosedEarly: The server closed the connection.
        """
        headers = {} if self.origin is None else {"Origin": self.origin}
        url = self._url("ws", "", urlencode(query))
        network = Network(tls=self.trust)
        hello: Frame = {}
        closed: SocketClosed | None = None
        try:
            with trio.fail_after(TIMEOUT_SECONDS):
                async with network.open(url, headers=headers, subprotocols=SUBPROTOCOLS) as socket:
                    try:
                        hello = await next_frame(socket)
                        if hello.get("type") == "connection_established":
                            await talk(socket)
                        with trio.move_on_after(CLOSING_SECONDS):
                            await socket.close(1000)
                    except SocketClosed as found:  # raised below: the dialer has a nursery
                        closed = found
        except trio.TooSlowError:
            raise NoAnswer(f"nothing within {TIMEOUT_SECONDS:g} s") from None
        if closed is not None:
            raise ClosedEarly(closed.code)
        return hello

    def _url(self, scheme: str, path: str, query: str = "") -> str:
        secure = "s" if self.is_tls else ""
        return urlunsplit((f"{scheme}{secure}", self.netloc, f"{self.path}{path}", query, ""))


async def next_frame(socket: Socket) -> Frame:
    """Wait for a frame; an empty one if it is not a JSON object."""
    return parse_object(await socket.receive()) or {}


def _root_of(error: BaseException) -> Exception:
    """Return the system's error, which Trio wraps if it tried several addresses or spoke TLS."""
    first = next(leaves(error.__cause__ or error))
    return first if isinstance(first, Exception) else OSError(str(first))
