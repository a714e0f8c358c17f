"""A chat in the terminal: one line in, an answer streamed out.

trio.run(partial(chat, "ws://127.0.0.1:8000/ws", user="alice"))
"""

import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import urlsplit

import httpx2
import orjson
import trio
from attrs import define

from netra_trio.auth import TokenVerifier
from netra_trio.client import (
    Client,
    ClientError,
    Event,
    MessageRefused,
    Network,
    NoAnswer,
    OpeningRefused,
    Run,
    connect,
)
from netra_trio.codes import ErrorCode
from netra_trio.settings import SECRET_FILE

CONNECT_SECONDS = 10.0
TOKEN_SECONDS = 24 * 3600  # of a token signed here
ATTEMPTS = 8  # to get a lost connection back: some 45 seconds, time enough for a restart
READ_BYTES = 64 * 1024  # of what is typed, at once

_DIM, _RED, _PLAIN = "\x1b[2m", "\x1b[31m", "\x1b[0m"
_PATIENCE = {
    ErrorCode.RATE_LIMIT_EXCEEDED,
    ErrorCode.QUEUE_FULL,
    ErrorCode.SERVICE_UNAVAILABLE,
}


class ChatError(Exception):
    """The chat cannot go on; the text says why and what to do."""


async def chat(
    url: str,
    *,
    message: str | None = None,
    user: str,
    token: str | None = None,
    agent: str | None = None,
) -> int:
    """Talk until the input ends, or until one message is answered; return the exit code.

    Ctrl-C stops the answer that is under way, a second one leaves. A connection that is lost is
    told, and got back.

    Raises:
        ChatError: If there is no way in, or no way back.
    """
    if token is None:
        token = await _find_token(url, user)
    else:
        await _look_for_server(url)
    try:
        async with connect(url, token=token, max_attempts=ATTEMPTS) as client:
            talk = _Talk(client, _Screen(sys.stdout), agent)
            await talk.hold(message)
    except ClientError as error:
        raise ChatError(str(error)) from None
    except ValueError as error:
        raise ChatError(f"cannot connect to {url}: {error}") from None
    if talk.failure is not None:
        raise ChatError(str(talk.failure))
    # Who stops an answer in a conversation got what was asked for.
    fine = {None, "completed"} if message is not None else {None, "completed", "cancelled"}
    return 0 if talk.status in fine else 1


@define
class _Screen:
    """What is shown, with colours only on a terminal."""

    stream: TextIO

    def answer(self, text: str) -> None:
        """Show a piece of the answer."""
        self._write(text)

    def note(self, text: str) -> None:
        """Show a line about what goes on."""
        self._write(self._coloured(text, _DIM) + "\n")

    def fault(self, text: str) -> None:
        """Show a line about what went wrong."""
        self._write(self._coloured(text, _RED) + "\n")

    def end(self) -> None:
        """End the answer's line."""
        self._write("\n")

    def prompt(self) -> None:
        """Ask for a line, where somebody can see it."""
        if self.stream.isatty():
            self._write("> ")

    def _coloured(self, text: str, colour: str) -> str:
        plain = not self.stream.isatty() or "NO_COLOR" in os.environ
        return text if plain else f"{colour}{text}{_PLAIN}"

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()


@define(eq=False)
class _Talk:
    """A conversation, and the run that is under way."""

    client: Client
    screen: _Screen
    agent: str | None
    status: str | None = None
    failure: ClientError | None = None
    _run: Run | None = None
    _stopping: bool = False
    _is_away: bool = False

    async def hold(self, message: str | None) -> None:
        """Send one message, or what is typed; return when it is answered, or the input ends."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._heed_news, nursery.cancel_scope)
            nursery.start_soon(self._heed_signals, nursery)
            if message is not None:
                await self._ask(message)
            else:
                self.screen.note("Type a message; Ctrl-C stops an answer, Ctrl-D leaves.")
                self.screen.prompt()
                async for line in _lines():
                    if line.strip():
                        await self._ask(line)
                    self.screen.prompt()
            nursery.cancel_scope.cancel()

    async def _ask(self, content: str) -> None:
        """Send a message and show what comes, to its end."""
        self._stopping = False
        try:
            self._run = await self.client.send(content, agent=self.agent)
            if self._run.status == "queued":
                self.screen.note("… waiting")
            async for event in self._run:
                self._show(event.type, event.payload)
        except MessageRefused as refused:
            self.screen.fault(f"{refused.error} {refused.help}")
            self.status = "failed"
        except ClientError as error:
            self.failure = error
            await trio.sleep_forever()  # until the news, which has heard it too, ends everything
        finally:
            self._run = None

    async def _heed_news(self, leave: trio.CancelScope) -> None:
        """Show what goes on beside the answers, until the client cannot go on."""
        try:
            async for event in self.client.events():
                self._show_news(event)
        except ClientError as error:
            self.failure = error
            leave.cancel()

    async def _heed_signals(self, nursery: trio.Nursery) -> None:
        """Stop the answer at the first Ctrl-C, leave at the second."""
        with trio.open_signal_receiver(signal.SIGINT) as signals:
            async for _ in signals:
                if self._run is None or self._stopping:
                    self.status = self.status or "cancelled"
                    nursery.cancel_scope.cancel()
                    return
                self._stopping = True
                nursery.start_soon(self._stop, self._run)

    async def _stop(self, run: Run) -> None:
        try:
            await run.stop()
        except MessageRefused as refused:
            self._stopping = False  # it goes on, and the next Ctrl-C asks again
            self.screen.fault(f"{refused.error} {refused.help}")
        except ClientError as error:
            self.failure = error

    def _show_news(self, event: Event) -> None:
        if event.type == "server_draining":
            self.screen.note("The server is about to restart.")
        elif event.type == "disconnected" and not self._is_away:
            self._is_away = True
            self.screen.note(f"Not connected: {event.payload['reason']}. Trying again …")
        elif event.type == "connected" and self._is_away:
            self._is_away = False
            self.screen.note("Connected again.")
        elif event.type == "error" and event.payload["code"] in _PATIENCE:
            self.screen.note(f"… {event.payload['error']} It is sent again.")

    def _show(self, kind: str, payload: dict[str, Any]) -> None:
        if kind == "agent_started" and payload["attempt"] > 1:
            self.screen.note(f"… trying again, attempt {payload['attempt']}")
        elif kind == "agent_thinking":
            self.screen.note(f"… {payload['thought']}")
        elif kind == "partial_result":
            self.screen.answer(payload["content"])
        elif kind == "tool_executing":
            self.screen.note(f"[{payload['tool_name']}] {_short(payload['arguments'])}")
        elif kind == "tool_completed":
            outcome = payload["result"] if payload["success"] else payload["error"]
            self.screen.note(f"[{payload['tool_name']}] → {_short(outcome)}")
        elif kind == "gap":
            self.screen.note("… something was missed; the answer so far:")
            self.screen.answer(payload.get("content", ""))
        elif kind == "reset":
            self.screen.note("… the server does not know this session any more")
        elif kind == "agent_completed":
            self._show_end(payload)
        elif kind == "lost":
            self.screen.end()
            self.status = kind
            self.screen.fault(f"How it ended is not known: {payload['reason']}.")

    def _show_end(self, payload: dict[str, Any]) -> None:
        self.screen.end()
        self.status = payload["status"]
        if "error" in payload:
            self.screen.fault(f"{payload['error']['error']} {payload['error']['help']}")
        elif self.status != "completed":
            self.screen.note(f"({self.status})")


async def _look_for_server(url: str) -> None:
    """Look whether anybody is there at all: to try again and again would only hide a wrong url.

    Raises:
        ChatError: If nobody is.
    """
    parts = urlsplit(url)
    scheme = "https" if parts.scheme == "wss" else "http"
    try:
        await Network().discover(f"{scheme}://{parts.netloc}/ws/config")
    except NoAnswer as silence:
        raise _nobody(url, silence) from None
    except OpeningRefused:
        return  # the opening will say more
    except (httpx2.InvalidURL, ValueError) as error:
        raise _nobody(url, error) from None


def _nobody(url: str, error: Exception) -> ChatError:
    return ChatError(
        f"cannot connect to {url}: {error}. Is the server running? Start it with: netra-trio serve"
    )


async def _find_token(url: str, user: str) -> str:
    """Get a token: from a server in development, or by signing it with the secret set here."""
    parts = urlsplit(url)
    scheme = "https" if parts.scheme == "wss" else "http"
    try:
        async with httpx2.AsyncClient(timeout=CONNECT_SECONDS) as http:
            answer = await http.post(f"{scheme}://{parts.netloc}/ws/dev-token", json={"user": user})
        if answer.status_code == httpx2.codes.OK:
            return str(answer.json()["token"])
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise _nobody(url, error) from None
    secret = os.environ.get("JWT_SECRET_KEY") or _kept_secret()
    algorithms = os.environ.get("JWT_ALGORITHMS") or "HS256"
    verifier = TokenVerifier(
        secret,
        algorithms=[name.strip() for name in algorithms.split(",")],
        issuer=os.environ.get("JWT_ISSUER") or None,
        audience=os.environ.get("JWT_AUDIENCE") or None,
    )
    if not verifier.can_sign:
        raise ChatError(
            "this server gives no token to developers: use --token, or set JWT_SECRET_KEY here"
        )
    return verifier.sign(user, expires_at=time.time() + TOKEN_SECONDS)


def _kept_secret() -> str | None:
    try:
        return Path(SECRET_FILE).read_text().strip()
    except OSError:
        return None


async def _lines() -> AsyncIterator[str]:
    """Yield what is typed, line by line.

    The thread reads the descriptor itself: one that holds Python's own stdin when the program
    leaves would end it with a crash.
    """
    typed = b""
    while data := await trio.to_thread.run_sync(
        os.read, sys.stdin.fileno(), READ_BYTES, abandon_on_cancel=True
    ):
        *lines, typed = (typed + data).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace")
    if typed:
        yield typed.decode(errors="replace")


def _short(value: Any, limit: int = 200) -> str:
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    return text if len(text) <= limit else text[:limit] + "…"
