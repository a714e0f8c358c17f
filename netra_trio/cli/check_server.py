"""Tests a running server in the order in which a client uses it; each step has a result.

is_well = await check_server("wss://example.com/ws", token=token, tell=print)

It is one more connection of its user while it runs, and leaves a session that ends by itself.
"""

import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from enum import Enum
from typing import Any

import httpx2
import jwt
import trio
from attrs import define, field, frozen

from netra_trio.cli.diagnosis import (
    Finding,
    of_clock,
    of_dial,
    of_document,
    of_no_answer,
    of_refusal,
    of_verdict,
    shown,
)
from netra_trio.cli.probe import ClosedEarly, Probe, next_frame
from netra_trio.client import NoAnswer, OpeningRefused, Socket

PING_SECONDS = 5.0  # for the answer to a ping


class Outcome(Enum):
    """How a step ended."""

    OK = "ok"
    WRONG = "wrong"
    SKIPPED = "skipped"


@frozen
class StepResult:
    """The result of one step.

    Attributes:
        name: The step.
        outcome: How it ended.
        text: What was found; never a credential.
        advice: What to do if it is wrong, else empty.
    """

    name: str
    outcome: Outcome
    text: str
    advice: str = ""


class _Wrong(Exception):
    """A step failed; `is_last` says that later steps would find nothing new."""

    def __init__(self, finding: Finding, *, is_last: bool = True) -> None:
        super().__init__(finding.text)
        self.finding = finding
        self.is_last = is_last


class _Skipped(Exception):
    """A step has nothing to test; the text says why."""


async def check_server(
    url: str,
    *,
    tell: Callable[[StepResult], None],
    user: str = "dev",
    token: str | None = None,
    sign: Callable[[str], str] | None = None,
    origin: str | None = None,
    tls: ssl.SSLContext | None = None,
    wall_clock: Callable[[], float] = time.time,
) -> bool:
    """Test a server, tell the result of each step, and return whether all are fine.

    Cancelling is safe.

    Args:
        url: The server's WebSocket, such as `wss://example.com/ws`.
        tell: Called with the result of each step.
        user: The user, if there is no token.
        token: The token. Without one, the server is asked for a development token, then `sign`.
        sign: Returns a token of a user, signed with a secret that the caller has.
        origin: The origin of the page to be; None for a program.
        tls: The authorities to trust for `wss`; the system's, or SSL_CERT_FILE, if None.
        wall_clock: Returns Unix seconds.

    Raises:
        BadAddress: The url is not that of a WebSocket.
    """
    probe = Probe.of(url, trust=tls or ssl.create_default_context(), origin=origin)
    return await _Check(probe, user, token, sign, wall_clock).run(tell)


@define(eq=False)
class _Check:
    """The findings of the steps so far; each step is a method that returns its text."""

    probe: Probe
    user: str
    token: str | None
    sign: Callable[[str], str] | None
    wall_clock: Callable[[], float]
    document: Mapping[str, Any] = field(factory=dict)
    clock_seconds: float | None = None
    session_id: str = ""
    _ticket_seconds: float = 0.0
    _pong_seconds: float | None = None

    async def run(self, tell: Callable[[StepResult], None]) -> bool:
        """Run each step, up to one after which the others would find nothing new."""
        is_well, is_over = True, False
        for name, step in STEPS.items():
            if is_over:
                tell(StepResult(name, Outcome.SKIPPED, "Not tested, because of the error above."))
                continue
            try:
                tell(StepResult(name, Outcome.OK, await step(self)))
            except _Skipped as why:
                tell(StepResult(name, Outcome.SKIPPED, str(why)))
            except NoAnswer as no_answer:
                is_well, is_over = False, True
                finding = of_no_answer(str(no_answer))
                tell(StepResult(name, Outcome.WRONG, finding.text, finding.advice))
            except _Wrong as wrong:
                is_well, is_over = False, wrong.is_last
                tell(StepResult(name, Outcome.WRONG, wrong.finding.text, wrong.finding.advice))
        return is_well

    async def address(self) -> str:
        """Connect, with TLS if the url says so."""
        host, port = self.probe.host, self.probe.port
        try:
            stream = await self.probe.dial()
        except (OSError, ssl.SSLError, trio.BrokenResourceError) as error:
            raise _Wrong(of_dial(error, host, port)) from None
        if not isinstance(stream, trio.SSLStream):
            return f"{host}:{port} can be reached, without TLS."
        until = (stream.getpeercert() or {}).get("notAfter", "an unknown date")
        return f"{host}:{port} can be reached; {stream.version()}, certificate until {until}."

    async def discovery(self) -> str:
        """Read the discovery document."""
        asked_at = self.wall_clock()
        reply = await self.probe.request("GET", "/config")
        document = (reply.body or {}).get("websocket_config")
        if reply.status != httpx2.codes.OK or not isinstance(document, dict):
            raise _Wrong(of_document(reply.status, reply.body, reply.location))
        self.document = document
        server_time = document.get("server_time")
        if isinstance(server_time, int | float):
            self.clock_seconds = server_time - (asked_at + reply.seconds / 2)
        version = shown(str(document.get("version")))
        return f"Version {version}, in {reply.seconds * 1000:.0f} ms."

    async def compare_clocks(self) -> str:
        """Compare the server's clock with this machine's."""
        if self.clock_seconds is None:
            raise _Skipped("The server does not give its time.")
        finding = of_clock(self.clock_seconds)
        if finding is not None:
            raise _Wrong(finding, is_last=False)
        return f"The server's clock differs by {abs(self.clock_seconds):.1f} s."

    async def health(self) -> str:
        """Ask whether the services of the server answer."""
        reply = await self.probe.request("GET", "/health")
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
            advice = "Repair the service that it names; restarting the server does not help."
            raise _Wrong(Finding(f"Degraded: {', '.join(bad)}.", advice), is_last=False)
        if status != "healthy":
            raise _Wrong(of_document(reply.status, reply.body, reply.location), is_last=False)
        return "The server is healthy."

    async def find_token(self) -> str:
        """Get a token, and check that it has not expired."""
        if not self._needs_credential:
            raise _Skipped("The server requires none.")
        source = "It was given"
        if self.token is None:
            reply = await self.probe.request("POST", "/dev-token", {"user": self.user})
            given = (reply.body or {}).get("token")
            if reply.status == httpx2.codes.OK and isinstance(given, str):
                self.token, source = given, f"The server gives one for {self.user!r}"
            elif self.sign is not None:
                self.token = self.sign(self.user)
                source = f"Signed for {self.user!r} with the secret that is set here"
        if self.token is None:
            text = "There is none: the server gives none, and no secret is set here."
            raise _Wrong(Finding(text, "Give one with --token."))
        return f"{source}; {self._describe_token(self.token)}."

    def _describe_token(self, token: str) -> str:
        try:
            claims = jwt.decode(token, options={"verify_signature": False})
        except jwt.InvalidTokenError:
            advice = "Copy all of it: three parts with points between them, without blanks."
            raise _Wrong(Finding("It is not a JSON Web Token.", advice)) from None
        expires_at = claims.get("exp")
        if not isinstance(expires_at, int | float):
            raise _Wrong(Finding("It has no exp.", "Let the login set it: it is required."))
        left = expires_at - self.wall_clock()
        if left <= 0:
            text = f"It expired {-left:.0f} s ago, by this machine's clock."
            raise _Wrong(Finding(text, "Get a new one."), is_last=False)
        return f"valid for {left:.0f} s"

    async def ticket(self) -> str:
        """Exchange the token for a ticket, as pages do."""
        if not self._needs_credential:
            raise _Skipped("The server requires no token.")
        await self._get_ticket()
        origin = self.probe.origin
        client = "a program" if origin is None else f"a page of {shown(origin)}"
        return f"Given to {client} in {self._ticket_seconds * 1000:.0f} ms."

    async def _get_ticket(self) -> str:
        reply = await self.probe.request("POST", "/ticket", token=self.token)
        self._ticket_seconds = reply.seconds
        given = (reply.body or {}).get("ticket")
        if reply.status != httpx2.codes.OK or not isinstance(given, str):
            raise _Wrong(self._refusal(reply.status, reply.body or {}))
        return given

    async def opening(self) -> str:
        """Open a connection, and read the name of the user."""
        started = trio.current_time()
        hello = await self._converse({}, self._ping)
        seconds = trio.current_time() - started
        self.session_id = str(hello.get("session_id"))
        name = shown(str(hello.get("user_id")))
        return f"Connected as {name!r}, in {seconds * 1000:.0f} ms."

    async def ping(self) -> str:
        """Report on the ping that was sent on that connection."""
        if self._pong_seconds is None:
            text = f"The ping on the connection got no answer within {PING_SECONDS:g} s."
            raise _Wrong(Finding(text, "Check that no proxy holds frames back."))
        return f"Answered in {self._pong_seconds * 1000:.1f} ms."

    async def _ping(self, socket: Socket) -> None:
        """Send a ping, and wait for its answer."""
        started = trio.current_time()
        with trio.move_on_after(PING_SECONDS):
            await socket.send('{"type": "ping", "payload": {"check": 1}}')
            while (await next_frame(socket)).get("type") != "pong":
                pass
            self._pong_seconds = trio.current_time() - started

    async def resume(self) -> str:
        """Resume the session."""
        features = self.document.get("features")
        if isinstance(features, dict) and features.get("resume") is False:
            raise _Skipped("It is turned off: WEBSOCKET_RESUME_WINDOW is 0.")
        hello = await self._converse({"session_id": self.session_id, "last_seq": "0"}, _do_not_talk)
        found = hello.get("resume")
        resume: Mapping[str, Any] = found if isinstance(found, dict) else {}
        if resume.get("verdict") != "exact" or hello.get("session_id") != self.session_id:
            raise _Wrong(of_verdict(resume.get("verdict"), resume.get("reason")))
        return "The session was resumed: exact."

    @property
    def _needs_credential(self) -> bool:
        features = self.document.get("features")
        return not (isinstance(features, dict) and features.get("auth_required") is False)

    async def _converse(
        self, query: Mapping[str, str], talk: Callable[[Socket], Awaitable[None]]
    ) -> Mapping[str, Any]:
        """Open a connection, talk, close it; return the payload of its first frame."""
        ticket = {"ticket": await self._get_ticket()} if self._needs_credential else {}
        try:
            hello = await self.probe.converse({**query, **ticket}, talk)
        except OpeningRefused as refused:
            raise _Wrong(self._refusal(refused.status, refused.body)) from None
        except ClosedEarly as closed:
            text = f"The connection was closed with {closed.code} before the expected frame came."
            advice = "Look the close code up in docs/troubleshooting.md."
            raise _Wrong(Finding(text, advice)) from None
        payload = hello.get("payload")
        if hello.get("type") != "connection_established" or not isinstance(payload, dict):
            text = "The first frame is not the connection_established of this protocol."
            raise _Wrong(Finding(text, "Check that the URL is that of a netra_trio server."))
        return payload

    def _refusal(self, status: int, body: Mapping[str, Any]) -> Finding:
        return of_refusal(status, body, clock_seconds=self.clock_seconds)


STEPS: Mapping[str, Callable[[_Check], Awaitable[str]]] = {
    "address": _Check.address,
    "discovery": _Check.discovery,
    "clock": _Check.compare_clocks,
    "health": _Check.health,
    "token": _Check.find_token,
    "ticket": _Check.ticket,
    "opening": _Check.opening,
    "ping": _Check.ping,
    "resume": _Check.resume,
}
"""Each step by its name, in the order in which they are run."""


async def _do_not_talk(_: Socket) -> None:
    await trio.lowlevel.checkpoint()
