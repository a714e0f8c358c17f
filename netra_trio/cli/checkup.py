"""A walk to a running server as a client goes, each step told in words, with what to do.

is_well = await check_up("wss://example.com/ws", token=token, tell=print)

It is one more connection of its user while it lasts, and leaves a session that ends by itself.
"""

import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from enum import Enum
from typing import Any
from urllib.parse import urlencode, urlsplit, urlunsplit

import httpx2
import jwt
import orjson
import trio
from attrs import define, field, frozen

from netra_trio.cli.diagnosis import (
    Finding,
    of_clock,
    of_dial,
    of_document,
    of_refusal,
    of_silence,
    of_verdict,
    shown,
)
from netra_trio.client import Network, NoAnswer, OpeningRefused, Socket, SocketClosed
from netra_trio.errors import NetraError, leaves
from netra_trio.protocol.wire_format import SUBPROTOCOL

STEP_SECONDS = 10.0  # for each step; a server in good health takes some ms
PING_SECONDS = 5.0  # for its answer, within the step that opens the connection
BODY_BYTES = 64 * 1024  # of an answer: more is none of ours
CLOSING_SECONDS = 2.0  # for the close frames


class BadAddress(NetraError):
    """The URL is not one of a WebSocket."""


class Outcome(Enum):
    """How a step ended."""

    WELL = "ok"
    WRONG = "wrong"
    SKIPPED = "skipped"


@frozen
class Step:
    """One step of the walk.

    Attributes:
        name: What was looked at.
        told: What was found, in words; never a credential.
        advice: What to do where it is wrong, else empty.
    """

    name: str
    outcome: Outcome
    told: str
    advice: str = ""


@frozen
class _Reply:
    """An answer over HTTP; `body` is None where it is no JSON object."""

    status: int
    body: Mapping[str, Any] | None
    location: str | None
    seconds: float


class _Wrong(Exception):
    """A step found this; `is_last` says that the steps after it would find nothing new."""

    def __init__(self, finding: Finding, *, is_last: bool = True) -> None:
        super().__init__(finding.told)
        self.finding = finding
        self.is_last = is_last


class _Skipped(Exception):
    """A step has nothing to look at; the text says why."""


async def check_up(
    url: str,
    *,
    tell: Callable[[Step], None],
    user: str = "dev",
    token: str | None = None,
    sign: Callable[[str], str] | None = None,
    origin: str | None = None,
    tls: ssl.SSLContext | None = None,
    wall_clock: Callable[[], float] = time.time,
) -> bool:
    """Walk to a server, tell each step, and return whether all went well. Cancelling is safe.

    Args:
        url: The server's WebSocket, such as `wss://example.com/ws`.
        tell: Is called with each step once it is over.
        user: Who to be where there is no token.
        token: The token to come in with. Without one the server is asked, which gives one in
            development, and then `sign`.
        sign: Returns a token of a user, signed with a secret that the caller has.
        origin: The page to come from; none, as programs do, where None.
        tls: Whom to trust for `wss`; the system's authorities, or SSL_CERT_FILE, where None.
        wall_clock: Returns Unix seconds.

    Raises:
        BadAddress: The url is none of a WebSocket.
    """
    parts = urlsplit(url)
    try:
        is_good = parts.scheme in {"ws", "wss"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_good = False
    if not is_good or "@" in parts.netloc:
        raise BadAddress("--url: expected one like ws://host:8000/ws or wss://host/ws")
    walk = _Walk(parts.scheme == "wss", parts.netloc, parts.path.rstrip("/"))
    walk.user, walk.token, walk.sign, walk.origin = user, token, sign, origin
    walk.wall_clock = wall_clock
    walk.trust = tls or ssl.create_default_context()
    return await walk.go(tell)


@define(eq=False)
class _Walk:
    """What is known so far; each step is a method that returns what it has to tell."""

    is_tls: bool
    netloc: str
    path: str
    user: str = ""
    token: str | None = None
    sign: Callable[[str], str] | None = None
    origin: str | None = None
    trust: ssl.SSLContext = field(factory=ssl.create_default_context)
    wall_clock: Callable[[], float] = time.time
    document: Mapping[str, Any] = field(factory=dict)
    clock_seconds: float | None = None
    session_id: str = ""
    _ticket_seconds: float = 0.0
    _pong_seconds: float | None = None

    async def go(self, tell: Callable[[Step], None]) -> bool:
        """Take each step, up to the one behind which there is nothing to find."""
        is_well, is_over = True, False
        for name, look in STEPS.items():
            if is_over:
                tell(Step(name, Outcome.SKIPPED, "Not asked, for what is wrong above."))
                continue
            try:
                tell(Step(name, Outcome.WELL, await look(self)))
            except _Skipped as why:
                tell(Step(name, Outcome.SKIPPED, str(why)))
            except _Wrong as wrong:
                is_well, is_over = False, wrong.is_last
                tell(Step(name, Outcome.WRONG, wrong.finding.told, wrong.finding.advice))
        return is_well

    async def address(self) -> str:
        """Connect, with TLS where the url says so."""
        parts = urlsplit(f"//{self.netloc}")
        host, port = str(parts.hostname), parts.port or (443 if self.is_tls else 80)
        try:
            with trio.fail_after(STEP_SECONDS):
                stream = await _dial(host, port, self.trust if self.is_tls else None)
                await trio.aclose_forcefully(stream)
        except trio.TooSlowError:
            raise _Wrong(of_dial(TimeoutError(), host, port)) from None
        except (OSError, ssl.SSLError, trio.BrokenResourceError) as error:
            raise _Wrong(of_dial(_root(error), host, port)) from None
        if not isinstance(stream, trio.SSLStream):
            return f"{host}:{port} can be reached, without TLS."
        until = (stream.getpeercert() or {}).get("notAfter", "some day")
        return f"{host}:{port} can be reached; {stream.version()}, certificate until {until}."

    async def discovery(self) -> str:
        """Read the discovery document."""
        asked_at = self.wall_clock()
        reply = await self._ask("GET", "/config")
        document = (reply.body or {}).get("websocket_config")
        if reply.status != httpx2.codes.OK or not isinstance(document, dict):
            raise _Wrong(of_document(reply.status, reply.body, reply.location))
        self.document = document
        server_time = document.get("server_time")
        if isinstance(server_time, int | float):
            self.clock_seconds = server_time - (asked_at + reply.seconds / 2)
        version = shown(str(document.get("version")))
        return f"Version {version}, in {reply.seconds * 1000:.0f} ms."

    async def clock(self) -> str:
        """Compare the clocks."""
        if self.clock_seconds is None:
            raise _Skipped("The server does not tell its time.")
        finding = of_clock(self.clock_seconds)
        if finding is not None:
            raise _Wrong(finding, is_last=False)
        return f"The server's differs by {abs(self.clock_seconds):.1f} s."

    async def health(self) -> str:
        """Ask whether what the server depends on answers."""
        reply = await self._ask("GET", "/health")
        status, checks = (reply.body or {}).get("status"), (reply.body or {}).get("checks")
        bad = [
            shown(f"{name}: {outcome}")
            for name, outcome in (checks.items() if isinstance(checks, dict) else ())
            if outcome != "ok"
        ]
        if status == "draining":
            finding = of_refusal(503, {"code": "SERVER_DRAINING", "error": "It is draining."})
            raise _Wrong(finding)
        if status == "degraded" or bad:
            advice = "Mend what it names; restarting the server would not help."
            raise _Wrong(Finding(f"Degraded: {', '.join(bad)}.", advice), is_last=False)
        if status != "healthy":
            raise _Wrong(of_document(reply.status, reply.body, reply.location), is_last=False)
        return "The server is healthy."

    async def find_token(self) -> str:
        """See that there is a token, and that its time has not passed."""
        if not self._needs_credential:
            raise _Skipped("The server asks for none.")
        source = "It was given"
        if self.token is None:
            reply = await self._ask("POST", "/dev-token", {"user": self.user})
            given = (reply.body or {}).get("token")
            if reply.status == httpx2.codes.OK and isinstance(given, str):
                self.token, source = given, f"The server gives one for {self.user!r}"
            elif self.sign is not None:
                self.token = self.sign(self.user)
                source = f"Signed for {self.user!r} with the secret that is set here"
        if self.token is None:
            told = "There is none: the server gives none, and no secret is set here."
            raise _Wrong(Finding(told, "Give one with --token."))
        return f"{source}; {self._told_of_token(self.token)}."

    def _told_of_token(self, token: str) -> str:
        try:
            claims = jwt.decode(token, options={"verify_signature": False})
        except jwt.InvalidTokenError:
            advice = "Copy it whole: three parts with points between, without blanks."
            raise _Wrong(Finding("It is no JSON Web Token.", advice)) from None
        expires_at = claims.get("exp")
        if not isinstance(expires_at, int | float):
            raise _Wrong(Finding("It has no exp.", "Let the login set one: it is required."))
        left = expires_at - self.wall_clock()
        if left <= 0:
            told = f"It expired {-left:.0f} s ago, by this machine's clock."
            raise _Wrong(Finding(told, "Get a new one."), is_last=False)
        return f"good for {left:.0f} s"

    async def ticket(self) -> str:
        """Exchange the token for a ticket, as pages do."""
        if not self._needs_credential:
            raise _Skipped("The server asks for no token.")
        await self._ticket()
        who = "a program" if self.origin is None else f"a page of {shown(self.origin)}"
        return f"Given to {who} in {self._ticket_seconds * 1000:.0f} ms."

    async def _ticket(self) -> str:
        reply = await self._ask("POST", "/ticket", with_token=True)
        self._ticket_seconds = reply.seconds
        given = (reply.body or {}).get("ticket")
        if reply.status != httpx2.codes.OK or not isinstance(given, str):
            raise _Wrong(self._refusal(reply.status, reply.body or {}))
        return given

    async def opening(self) -> str:
        """Open a connection, and hear who one is."""
        started = trio.current_time()
        hello = await self._converse({}, self._play)
        seconds = trio.current_time() - started
        self.session_id = str(hello.get("session_id"))
        name = shown(str(hello.get("user_id")))
        return f"Welcome as {name!r}, in {seconds * 1000:.0f} ms."

    async def ping(self) -> str:
        """Tell of the ping that was sent on that connection."""
        if self._pong_seconds is None:
            told = f"The ping on the connection got no answer within {PING_SECONDS:g} s."
            raise _Wrong(Finding(told, "See that nothing between holds frames back."))
        return f"Answered in {self._pong_seconds * 1000:.1f} ms."

    async def _play(self, socket: Socket) -> None:
        """Send a ping, and wait for its answer."""
        started = trio.current_time()
        with trio.move_on_after(PING_SECONDS):
            await socket.send('{"type": "ping", "payload": {"check": 1}}')
            while (await _next(socket)).get("type") != "pong":
                pass
            self._pong_seconds = trio.current_time() - started

    async def resume(self) -> str:
        """Come back to the session."""
        features = self.document.get("features")
        if isinstance(features, dict) and features.get("resume") is False:
            raise _Skipped("It is turned off: WEBSOCKET_RESUME_WINDOW is 0.")
        hello = await self._converse(self._session, _nothing)
        found = hello.get("resume")
        resume: Mapping[str, Any] = found if isinstance(found, dict) else {}
        if resume.get("verdict") != "exact" or hello.get("session_id") != self.session_id:
            raise _Wrong(of_verdict(resume.get("verdict"), resume.get("reason")))
        return "The session is found again: exact."

    @property
    def _session(self) -> dict[str, str]:
        return {"session_id": self.session_id, "last_seq": "0"}

    @property
    def _needs_credential(self) -> bool:
        features = self.document.get("features")
        return not (isinstance(features, dict) and features.get("auth_required") is False)

    async def _converse(
        self, query: Mapping[str, str], talk: Callable[[Socket], Awaitable[None]]
    ) -> Mapping[str, Any]:
        """Open a connection, talk, close; return the payload of its welcome."""
        ticket = {"ticket": await self._ticket()} if self._needs_credential else {}
        url = self._url("ws", "", urlencode({**query, **ticket}))
        hello: Mapping[str, Any] = {}
        closed: SocketClosed | None = None
        try:
            with trio.fail_after(STEP_SECONDS):
                async with self._open(url) as socket:
                    try:
                        hello = await _next(socket)
                        if hello.get("type") == "connection_established":
                            await talk(socket)
                        with trio.move_on_after(CLOSING_SECONDS):
                            await socket.close(1000)
                    except SocketClosed as found:  # kept in here: the dialer has a nursery
                        closed = found
        except OpeningRefused as refused:
            raise _Wrong(self._refusal(refused.status, refused.body)) from None
        except NoAnswer as silence:
            raise _Wrong(of_silence(str(silence))) from None
        except trio.TooSlowError:
            raise _Wrong(of_silence(f"nothing within {STEP_SECONDS:g} s")) from None
        if closed is not None:
            told = f"The connection was closed with {closed.code} before it said what was asked."
            raise _Wrong(Finding(told, "See what the close code means in docs/troubleshooting.md."))
        payload = hello.get("payload")
        if hello.get("type") != "connection_established" or not isinstance(payload, dict):
            told = "The first frame is not the welcome of this protocol."
            raise _Wrong(Finding(told, "See that the URL is that of a netra_trio server."))
        return payload

    def _open(self, url: str) -> AbstractAsyncContextManager[Socket]:
        headers = {} if self.origin is None else {"Origin": self.origin}
        return Network(tls=self.trust).open(url, headers=headers, subprotocols=(SUBPROTOCOL,))

    def _refusal(self, status: int, body: Mapping[str, Any]) -> Finding:
        return of_refusal(status, body, clock_seconds=self.clock_seconds)

    async def _ask(
        self,
        method: str,
        path: str,
        content: Mapping[str, Any] | None = None,
        *,
        with_token: bool = False,
    ) -> _Reply:
        headers = {"accept": "application/json", "accept-encoding": "identity"}
        headers |= {} if self.origin is None else {"origin": self.origin}
        headers |= {"authorization": f"Bearer {self.token}"} if with_token else {}
        body = bytearray()
        started = trio.current_time()
        with trio.move_on_after(STEP_SECONDS) as scope:
            try:
                async with (
                    # Not by a proxy of the environment: the connection would not take that way.
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
                raise _Wrong(of_silence(str(error) or type(error).__name__)) from None
        if scope.cancelled_caught and len(body) <= BODY_BYTES:
            raise _Wrong(of_silence(f"nothing within {STEP_SECONDS:g} s"))
        return _Reply(
            answer.status_code,
            _object(bytes(body)),
            answer.headers.get("location"),
            trio.current_time() - started,
        )

    def _url(self, scheme: str, path: str, query: str = "") -> str:
        secure = "s" if self.is_tls else ""
        return urlunsplit((f"{scheme}{secure}", self.netloc, f"{self.path}{path}", query, ""))


STEPS: Mapping[str, Callable[[_Walk], Awaitable[str]]] = {
    "address": _Walk.address,
    "discovery": _Walk.discovery,
    "clock": _Walk.clock,
    "health": _Walk.health,
    "token": _Walk.find_token,
    "ticket": _Walk.ticket,
    "opening": _Walk.opening,
    "ping": _Walk.ping,
    "resume": _Walk.resume,
}
"""Each step by its name, in the order in which they are taken."""


async def _dial(
    host: str, port: int, trust: ssl.SSLContext | None
) -> "trio.SocketStream | trio.SSLStream[trio.SocketStream]":
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


def _root(error: BaseException) -> Exception:
    """Return what Trio was told, where it tried several addresses or spoke TLS."""
    first = next(leaves(error.__cause__ or error))
    return first if isinstance(first, Exception) else OSError(str(first))


async def _nothing(_: Socket) -> None:
    await trio.lowlevel.checkpoint()


async def _next(socket: Socket) -> Mapping[str, Any]:
    return _object((await socket.receive()).encode()) or {}


def _object(body: bytes) -> Mapping[str, Any] | None:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None
