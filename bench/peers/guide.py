"""What the guide asks of a server, on asyncio: the part that the peers share.

    user = await core.authenticate(token)
    with core.joined(link):
        await link.handle(text)

A message is validated with pydantic, counted by a sliding window per user, stored, confirmed, and
becomes a run: a task with a deadline that emits the same events as this project's runs. With a
correlation id, the confirmation and the end wait for their commit.
"""

import asyncio
import itertools
import json
import logging
import os
import secrets
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import jwt
import orjson
from attrs import define, field, frozen
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from bench.peers.store import Message, RunRow, Store
from bench.peers.work import TOKENS

WINDOW = 60.0  # seconds: the guide's limit is per minute
ID_CHARACTERS = 128  # of a correlation id
MESSAGE_BYTES = 10_240  # the guide's limit
QUEUE = 1000  # events that may wait for a client that does not read
AGENT_SECONDS = 300.0  # for a run

Payload = dict[str, Any]

_PROCESS = secrets.token_hex(4)
_counter = itertools.count()
_log = logging.getLogger("bench.peer")


@frozen
class Settings:
    """The guide's settings, from the environment."""

    secret: str
    heartbeat: float
    message_rate: int
    connections_per_user: int

    @classmethod
    def load(cls) -> "Settings":
        """Read the environment."""
        return cls(
            secret=os.environ["JWT_SECRET_KEY"],
            heartbeat=int(os.environ.get("WEBSOCKET_HEARTBEAT_INTERVAL", "30000")) / 1000,
            message_rate=int(os.environ.get("WEBSOCKET_MAX_MESSAGE_RATE", "60")),
            connections_per_user=int(os.environ.get("WEBSOCKET_MAX_CONNECTIONS_PER_USER", "5")),
        )


class Strict(BaseModel):
    """A part of a message: no field too many, no type taken for another."""

    model_config = ConfigDict(extra="forbid", strict=True)


class UserPayload(Strict):
    """What a user says, to which agent."""

    content: str = Field(min_length=1)
    agent: Literal["echo", "stream"] = "echo"
    thread_id: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_-]{1,64}$")


class UserMessage(Strict):
    """A message for an agent."""

    type: Literal["user_message"]
    payload: UserPayload
    timestamp: float | None = None
    correlation_id: str | None = Field(default=None, min_length=1, max_length=ID_CHARACTERS)


class Control(Strict):
    """A ping, or the answer to a heartbeat."""

    type: Literal["ping", "pong"]
    payload: Payload = Field(default_factory=dict)
    timestamp: float | None = None
    correlation_id: str | None = Field(default=None, min_length=1, max_length=ID_CHARACTERS)


_INBOUND: TypeAdapter[UserMessage | Control] = TypeAdapter(
    Annotated[UserMessage | Control, Field(discriminator="type")]
)


class RateLimit:
    """At most so many messages in any minute."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._times: deque[float] = deque()

    def allows(self, now: float) -> bool:
        """Whether one more may come in now; it is counted if it may."""
        times = self._times
        while times and times[0] <= now - WINDOW:
            times.popleft()
        if len(times) >= self._rate:
            return False
        times.append(now)
        return True


def new_id(prefix: str) -> str:
    """Return an id that is time-ordered, as this project's are: uuid4 costs ten times as much."""
    return f"{prefix}_{time.time_ns() // 1_000_000:011x}{next(_counter) & 0xFFFFFF:06x}{_PROCESS}"


Say = Callable[[str, Payload, str | None], Awaitable[None]]


@define(eq=False)
class Link:
    """One connection of a user.

    Attributes:
        say: Sends a message of a type, with a payload, and with a correlation id if it has one.
        evict: Ends it, for a newer one of the user.
    """

    core: "Core"
    user_id: str
    say: Say
    evict: Callable[[], Awaitable[None]]
    id: str = field(factory=lambda: new_id("conn"))
    thread_id: str = field(factory=lambda: new_id("thread"))
    opened_at: float = field(factory=time.monotonic)
    last_seen: float = field(factory=time.monotonic)
    received: int = 0
    sent: int = 0
    _runs: "set[asyncio.Task[None]]" = field(factory=set)

    async def welcome(self) -> None:
        """Say that the connection is there."""
        settings = self.core.settings
        welcome = {
            "connection_id": self.id,
            "user_id": self.user_id,
            "server_time": time.time(),
            "heartbeat_interval": settings.heartbeat * 1000,
            "limits": {"max_message_rate": settings.message_rate},
        }
        await self.say("connection_established", welcome, None)

    async def handle(self, text: str | bytes) -> None:
        """Take one message of the client."""
        self.last_seen = time.monotonic()
        self.received += 1
        if len(text) > MESSAGE_BYTES:
            await self.refuse("MESSAGE_TOO_LARGE", f"expected at most {MESSAGE_BYTES} bytes")
            return
        try:
            message = _INBOUND.validate_json(text)
        except ValidationError as wrong:
            await self.refuse("VALIDATION_ERROR", str(wrong.errors(include_url=False)))
            return
        if isinstance(message, UserMessage):
            await self._admit(message)
        elif message.type == "ping":
            await self.say("pong", message.payload, message.correlation_id)

    async def refuse(self, code: str, error: str, key: str | None = None) -> None:
        """Say what is wrong."""
        body = {"code": code, "error": error, "timestamp": time.time(), "recoverable": True}
        await self.say("error", body, key)

    async def end(self) -> None:
        """End the runs."""
        for run in self._runs:
            run.cancel()
        await asyncio.gather(*self._runs, return_exceptions=True)

    async def _admit(self, message: UserMessage) -> None:
        """Store a message, confirm it, and start its run."""
        key, now = message.correlation_id, time.time()
        if not self.core.limit_of(self.user_id).allows(time.monotonic()):
            await self.refuse("RATE_LIMIT_EXCEEDED", "too many messages", key)
            return
        thread_id = message.payload.thread_id or self.thread_id
        said = Message(new_id("msg"), thread_id, self.user_id, "user", message.payload.content, now)
        row = RunRow(new_id("run"), said.message_id, self.user_id, key, "running")
        if key is None:
            self.core.store.write(said, row)
            await self._confirm(said, row)
            self._start(message, said, row)
        else:  # the commit must not keep the next message waiting
            self._start(message, said, row, commit=True)

    async def _confirm(self, said: Message, row: RunRow) -> None:
        confirmed = {
            "message_id": said.message_id,
            "run_id": row.run_id,
            "thread_id": said.thread_id,
            "status": "accepted",
        }
        await self.say("message_confirmed", confirmed, row.key)

    def _start(
        self, message: UserMessage, said: Message, row: RunRow, *, commit: bool = False
    ) -> None:
        run = asyncio.create_task(self._run(message.payload, said, row, commit=commit))
        self._runs.add(run)
        run.add_done_callback(self._runs.discard)

    async def _run(self, payload: UserPayload, said: Message, row: RunRow, *, commit: bool) -> None:
        """Run an agent, from its start to its end."""
        if commit:
            await self.core.store.commit(said, row)
            await self._confirm(said, row)
        run_id, thread_id, key = row.run_id, said.thread_id, row.key or new_id("corr")
        started = time.monotonic()
        start = {"run_id": run_id, "agent_name": payload.agent, "thread_id": thread_id}
        await self.say("agent_started", {**start, "attempt": 1}, key)
        text: list[str] = []
        status = "failed"
        try:
            async with asyncio.timeout(AGENT_SECONDS):
                async for piece in AGENTS[payload.agent](payload.content):
                    text.append(piece)
                    await self.say("partial_result", {"run_id": run_id, "content": piece}, key)
            status = "completed"
        except TimeoutError:
            status = "timed_out"
        except asyncio.CancelledError:
            status = "cancelled"
            raise
        finally:
            duration = round((time.monotonic() - started) * 1000)
            end: Payload = {"run_id": run_id, "status": status, "duration_ms": duration}
            if status == "completed":
                end["result"] = payload.content
            await self._end_run(end, said, row, "".join(text), key, commit=commit)

    async def _end_run(
        self, end: Payload, said: Message, row: RunRow, text: str, key: str, *, commit: bool
    ) -> None:
        """Store how a run ended, tell the client, and the log."""
        answer = Message(new_id("msg"), said.thread_id, self.user_id, "agent", text, time.time())
        ended = RunRow(
            row.run_id, row.message_id, row.user_id, row.key, end["status"], orjson.dumps(end)
        )
        if commit and end["status"] != "cancelled":
            await self.core.store.commit(answer, ended)
        else:
            self.core.store.write(answer, ended)
        if end["status"] != "cancelled":
            await self.say("agent_completed", end, key)
        self.core.log("run_ended", self, run_id=row.run_id, status=end["status"])


async def _echo(content: str) -> AsyncIterator[str]:
    yield content


async def _stream(content: str) -> AsyncIterator[str]:  # noqa: ARG001 - as every agent is called
    for token in TOKENS:
        yield token


AGENTS: dict[str, Callable[[str], AsyncIterator[str]]] = {"echo": _echo, "stream": _stream}


class Core:
    """The server: who is connected, the limits, the store and the log."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = Store(Path("peer.db"))
        self.links: dict[str, list[Link]] = {}
        self._limits: dict[str, RateLimit] = {}

    async def authenticate(self, token: str | None) -> str | None:
        """Return the user of a token, None for one who may not come in."""
        try:
            claims = jwt.decode(
                token or "",
                self.settings.secret,
                algorithms=["HS256"],
                options={"require": ["sub", "exp"]},
            )
        except jwt.InvalidTokenError:
            return None
        user_id = str(claims["sub"])
        return user_id if await self.store.find_user(user_id) else None

    def limit_of(self, user_id: str) -> RateLimit:
        """Return the user's limit, over all of their connections."""
        found = self._limits.get(user_id)
        if found is None:
            found = self._limits[user_id] = RateLimit(self.settings.message_rate)
        return found

    @contextmanager
    def joined(self, link: Link) -> Iterator[list[Link]]:
        """Hold a connection among those of its user; gives those that have to go for it."""
        links = self.links.setdefault(link.user_id, [])
        links.append(link)
        self.log("connection_opened", link)
        try:
            yield links[: -self.settings.connections_per_user]
        finally:
            links.remove(link)
            if not links:
                del self.links[link.user_id]
            seconds = round(time.monotonic() - link.opened_at, 3)
            counts = {"frames_in": link.received, "frames_out": link.sent}
            self.log("connection_ended", link, seconds=seconds, **counts)

    def log(self, event: str, link: Link, **more: object) -> None:
        """Write a line of log, in JSON, as this project does for the same events."""
        line = {"event": event, "connection_id": link.id, "user_id": link.user_id, **more}
        _log.info("%s", json.dumps(line))


def configure_log() -> None:
    """Let the log go to the error output."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
