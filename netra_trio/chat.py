"""A chat in the terminal: one line in, an answer streamed out.

trio.run(partial(chat, "ws://127.0.0.1:8000/ws", user="alice"))
"""

import os
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import urlsplit

import httpx2
import orjson
import trio
import trio_websocket
from attrs import define, field

from netra_trio.auth import TokenVerifier
from netra_trio.settings import SECRET_FILE

CONNECT_SECONDS = 10.0
TOKEN_SECONDS = 24 * 3600  # of a token signed here
FRAME_BYTES = 1024 * 1024  # four times the largest event of the contract
LOST = 1006  # what a close code reads where the line was cut without a close frame
READ_BYTES = 64 * 1024  # of what is typed, at once

_DIM, _RED, _PLAIN = "\x1b[2m", "\x1b[31m", "\x1b[0m"


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

    Ctrl-C stops the answer that is under way, a second one leaves.

    Raises:
        ChatError: If there is no way in, or the connection is lost.
    """
    if token is None:
        token = await _find_token(url, user)
    async with _connect(url, token) as socket, trio.open_nursery() as nursery:
        talk = _Talk(socket, _Screen(sys.stdout), agent)
        nursery.start_soon(talk.read)
        nursery.start_soon(talk.heed_signals, nursery.cancel_scope)
        if message is not None:
            await talk.ask(message)
        else:
            talk.screen.note("Type a message; Ctrl-C stops an answer, Ctrl-D leaves.")
            talk.screen.prompt()
            async for line in _lines():
                if line.strip():
                    await talk.ask(line)
                talk.screen.prompt()
        nursery.cancel_scope.cancel()
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
    """One connection, and the question that is open on it."""

    socket: trio_websocket.WebSocketConnection
    screen: _Screen
    agent: str | None
    status: str | None = None
    run_id: str | None = None
    stopping: bool = False
    _question: str | None = None
    _settled: trio.Event = field(factory=trio.Event)

    async def ask(self, content: str) -> None:
        """Send a message and wait until it is settled."""
        self._question = f"chat-{secrets.token_hex(8)}"
        self._settled = trio.Event()
        self.stopping = False
        payload: dict[str, Any] = {"content": content}
        if self.agent is not None:
            payload["agent"] = self.agent
        await self._send("user_message", payload, self._question)
        await self._settled.wait()

    async def read(self) -> None:
        """Show what comes in, until the line is gone."""
        while True:
            try:
                frame = orjson.loads(await self.socket.get_message())
            except trio_websocket.ConnectionClosed as closed:
                raise ChatError(_why_closed(closed)) from None
            if frame["type"] == "heartbeat":
                await self._send("pong", {})
            elif frame["type"] == "server_draining":
                self.screen.note("The server is about to restart.")
            elif frame["type"] == "error":
                self._show_error(frame)
            elif frame.get("correlation_id") == self._question:
                self._show(frame["type"], frame["payload"])

    async def heed_signals(self, leave: trio.CancelScope) -> None:
        """Stop the answer at the first Ctrl-C, leave at the second."""
        with trio.open_signal_receiver(signal.SIGINT) as signals:
            async for _ in signals:
                if self.run_id is None or self.stopping:
                    self.status = self.status or "cancelled"
                    leave.cancel()
                    return
                self.stopping = True
                await self._send("stop_agent", {"run_id": self.run_id})

    def _show(self, kind: str, payload: dict[str, Any]) -> None:
        if kind == "message_confirmed":
            self.run_id = payload["run_id"]
            if payload["status"] == "queued":
                self.screen.note(f"… waiting, position {payload['position']}")
        elif kind == "agent_started" and payload["attempt"] > 1:
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
        elif kind == "agent_completed":
            self._show_end(payload)

    def _show_end(self, payload: dict[str, Any]) -> None:
        self.screen.end()
        self.status = payload["status"]
        if "error" in payload:
            self.screen.fault(f"{payload['error']['error']} {payload['error']['help']}")
        elif self.status != "completed":
            self.screen.note(f"({self.status})")
        self._settle()

    def _show_error(self, frame: dict[str, Any]) -> None:
        payload = frame["payload"]
        if payload["code"] == "RUN_NOT_FOUND":
            return  # it ended before the stop arrived
        self.screen.fault(f"{payload['error']} {payload['help']}")
        if frame.get("correlation_id") == self._question:
            self.status = "failed"
            self._settle()

    def _settle(self) -> None:
        self._question = self.run_id = None
        self._settled.set()

    async def _send(
        self, kind: str, payload: dict[str, Any], correlation_id: str | None = None
    ) -> None:
        frame: dict[str, Any] = {"type": kind, "payload": payload}
        if correlation_id is not None:
            frame["correlation_id"] = correlation_id
        try:
            await self.socket.send_message(orjson.dumps(frame).decode())
        except trio_websocket.ConnectionClosed as closed:
            raise ChatError(_why_closed(closed)) from None


@asynccontextmanager
async def _connect(url: str, token: str) -> AsyncIterator[trio_websocket.WebSocketConnection]:
    headers = [(b"Authorization", b"Bearer " + token.encode())]
    try:
        async with trio_websocket.open_websocket_url(
            url,
            extra_headers=headers,
            max_message_size=FRAME_BYTES,
            connect_timeout=CONNECT_SECONDS,
            disconnect_timeout=1,
        ) as socket:
            yield socket
    except trio_websocket.ConnectionRejected as rejected:
        raise ChatError(f"refused by {url}: {_explain(rejected)}") from None
    except trio_websocket.ConnectionTimeout:
        raise ChatError(f"no answer from {url} within {CONNECT_SECONDS:g} s") from None
    except (trio_websocket.HandshakeError, OSError, ValueError) as error:
        raise ChatError(
            f"cannot connect to {url}: {error.__cause__ or error}. Is the server running? "
            "Start it with: netra-trio serve"
        ) from None
    except BaseExceptionGroup as group:
        raise _only(group) from None


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
        raise ChatError(
            f"cannot connect to {url}: {error}. Is the server running? "
            "Start it with: netra-trio serve"
        ) from None
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


def _explain(rejected: trio_websocket.ConnectionRejected) -> str:
    try:
        body = orjson.loads(rejected.body or b"")
        return f"{body['error']} {body['help']}"
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return f"HTTP status {rejected.status_code}"


def _why_closed(closed: trio_websocket.ConnectionClosed) -> str:
    reason = closed.reason
    if reason is None or reason.code == LOST:
        return "the connection was lost"
    return f"the server closed the connection: {reason.code} {reason.reason or ''}".rstrip()


def _only(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return a group's one exception, or the group where there are more."""
    if len(group.exceptions) != 1:
        return group
    inner = group.exceptions[0]
    return _only(inner) if isinstance(inner, BaseExceptionGroup) else inner


def _short(value: Any, limit: int = 200) -> str:
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    return text if len(text) <= limit else text[:limit] + "…"
