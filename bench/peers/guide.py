"""The server that the guide requires, on asyncio: the part that the peers share.

    user = await core.authenticate(token)
    with core.registered(connection):
        await connection.handle(text)

A message is validated with pydantic, counted in a sliding window per user, stored and confirmed,
and starts a run: a task with a deadline that emits the same events as this project's runs. With a
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
from bench.peers.work import TOKENS, paced_tokens, seconds_until

WINDOW = 60.0  # seconds: the guide's limit is per minute
ID_CHARACTERS = 128  # of a correlation id
MESSAGE_BYTES = 10_240  # the guide's limit
QUEUE = 1000  # events that may wait for a slow client
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
    """A part of a message, without unknown fields and type coercion."""

    model_config = ConfigDict(extra="forbid", strict=True)


class UserPayload(Strict):
    """The payload of a message for an agent."""

    content: str = Field(min_length=1)
    agent: Literal["echo", "stream", "paced"] = "echo"
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


class RoomPayload(Strict):
    """The name of a room."""

    room: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,128}$")


class JoinRoom(Strict):
    """A request for the events of a room."""

    type: Literal["join_room"]
    payload: RoomPayload
    timestamp: float | None = None
    correlation_id: str | None = Field(default=None, min_length=1, max_length=ID_CHARACTERS)


class EventPayload(RoomPayload):
    """An event for a room."""

    content: str | Payload


class RoomMessage(Strict):
    """An event of a client for a room."""

    type: Literal["room_message"]
    payload: EventPayload
    timestamp: float | None = None
    correlation_id: str | None = Field(default=None, min_length=1, max_length=ID_CHARACTERS)


_INBOUND: TypeAdapter[UserMessage | Control | JoinRoom | RoomMessage] = TypeAdapter(
    Annotated[UserMessage | Control | JoinRoom | RoomMessage, Field(discriminator="type")]
)


class RateLimit:
    """A limit of messages in any window of a minute."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._times: deque[float] = deque()

    def allows(self, now: float) -> bool:
        """Return whether one more message is allowed now; it is counted if so."""
        times = self._times
        while times and times[0] <= now - WINDOW:
            times.popleft()
        if len(times) >= self._rate:
            return False
        times.append(now)
        return True


def new_id(prefix: str) -> str:
    """Return a time-ordered id, as in this project: uuid4 costs ten times as much."""
    return f"{prefix}_{time.time_ns() // 1_000_000:011x}{next(_counter) & 0xFFFFFF:06x}{_PROCESS}"


Send = Callable[[str, Payload, str | None], Awaitable[None]]
Join = Callable[[str], Awaitable[None]]
Broadcast = Callable[[str, str, Payload], Awaitable[None]]


@define(eq=False)
class Connection:
    """One connection of a user.

    Attributes:
        send: Sends a message with a type, a payload, and a correlation id or None.
        evict: Closes it, because the user has newer ones.
        join: Makes it a member of a room.
        broadcast: Sends a message to the members of a room: the room, a type and a payload.
    """

    core: "Core"
    user_id: str
    send: Send
    evict: Callable[[], Awaitable[None]]
    join: Join
    broadcast: Broadcast
    id: str = field(factory=lambda: new_id("conn"))
    thread_id: str = field(factory=lambda: new_id("thread"))
    opened_at: float = field(factory=time.monotonic)
    last_seen: float = field(factory=time.monotonic)
    received: int = 0
    sent: int = 0
    _runs: "set[asyncio.Task[None]]" = field(factory=set)

    async def hello(self) -> None:
        """Send `connection_established`."""
        settings = self.core.settings
        hello = {
            "connection_id": self.id,
            "user_id": self.user_id,
            "server_time": time.time(),
            "heartbeat_interval": settings.heartbeat * 1000,
            "limits": {"max_message_rate": settings.message_rate},
        }
        await self.send("connection_established", hello, None)

    async def handle(self, text: str | bytes) -> None:
        """Handle one message of the client."""
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
        elif isinstance(message, JoinRoom):
            await self._join(message.payload.room, message.correlation_id)
        elif isinstance(message, RoomMessage):
            await self._publish(message)
        elif message.type == "ping":
            await self.send("pong", message.payload, message.correlation_id)

    async def _join(self, room: str, key: str | None) -> None:
        """Join a room; as in the guide, nothing is replayed."""
        await self.join(room)
        await self.send("room_joined", {"room": room, "offset": self.core.offset(room)}, key)

    async def _publish(self, message: RoomMessage) -> None:
        """Send an event to all members of a room."""
        room, key = message.payload.room, message.correlation_id
        if not self.core.limit_of(self.user_id).allows(time.monotonic()):
            await self.refuse("RATE_LIMIT_EXCEEDED", "too many messages", key)
            return
        offset = self.core.next_offset(room)
        content = {"user_id": self.user_id, "content": message.payload.content}
        event = {
            "room": room,
            "offset": offset,
            "event": {"type": "room_message", "payload": content},
        }
        await self.broadcast(room, "room_event", event)
        await self.send("room_confirmed", {"room": room, "offset": offset}, key)

    async def refuse(self, code: str, error: str, key: str | None = None) -> None:
        """Send an error."""
        body = {"code": code, "error": error, "timestamp": time.time(), "recoverable": True}
        await self.send("error", body, key)

    async def end(self) -> None:
        """Cancel the runs, and wait for their ends."""
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
        stored = Message(
            new_id("msg"), thread_id, self.user_id, "user", message.payload.content, now
        )
        row = RunRow(new_id("run"), stored.message_id, self.user_id, key, "running")
        if key is None:
            self.core.store.write(stored, row)
            await self._confirm(stored, row)
            self._start(message, stored, row)
        else:  # the next message must not wait for the commit
            self._start(message, stored, row, commit=True)

    async def _confirm(self, stored: Message, row: RunRow) -> None:
        confirmed = {
            "message_id": stored.message_id,
            "run_id": row.run_id,
            "thread_id": stored.thread_id,
            "status": "accepted",
        }
        await self.send("message_confirmed", confirmed, row.key)

    def _start(
        self, message: UserMessage, stored: Message, row: RunRow, *, commit: bool = False
    ) -> None:
        run = asyncio.create_task(self._run(message.payload, stored, row, commit=commit))
        self._runs.add(run)
        run.add_done_callback(self._runs.discard)

    async def _run(
        self, payload: UserPayload, stored: Message, row: RunRow, *, commit: bool
    ) -> None:
        """Run an agent, from its start to its end."""
        if commit:
            await self.core.store.commit(stored, row)
            await self._confirm(stored, row)
        run_id, thread_id, key = row.run_id, stored.thread_id, row.key or new_id("corr")
        started = time.monotonic()
        start = {"run_id": run_id, "agent_name": payload.agent, "thread_id": thread_id}
        await self.send("agent_started", {**start, "attempt": 1}, key)
        text: list[str] = []
        status = "failed"
        try:
            async with asyncio.timeout(AGENT_SECONDS):
                async for piece in AGENTS[payload.agent](payload.content):
                    text.append(piece)
                    await self.send("partial_result", {"run_id": run_id, "content": piece}, key)
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
            await self._end_run(end, stored, row, "".join(text), key, commit=commit)

    async def _end_run(
        self, end: Payload, stored: Message, row: RunRow, text: str, key: str, *, commit: bool
    ) -> None:
        """Store the end of a run, send it to the client, and log it."""
        answer = Message(new_id("msg"), stored.thread_id, self.user_id, "agent", text, time.time())
        ended = RunRow(
            row.run_id, row.message_id, row.user_id, row.key, end["status"], orjson.dumps(end)
        )
        if commit and end["status"] != "cancelled":
            await self.core.store.commit(answer, ended)
        else:
            self.core.store.write(answer, ended)
        if end["status"] != "cancelled":
            await self.send("agent_completed", end, key)
        self.core.log("run_ended", self, run_id=row.run_id, status=end["status"])


async def _echo(content: str) -> AsyncIterator[str]:
    yield content


async def _stream(content: str) -> AsyncIterator[str]:  # noqa: ARG001 - every agent has this parameter
    for token in TOKENS:
        yield token


async def _paced(content: str) -> AsyncIterator[str]:
    for due, token in paced_tokens(content):
        await asyncio.sleep(seconds_until(due))
        yield token


AGENTS: dict[str, Callable[[str], AsyncIterator[str]]] = {
    "echo": _echo,
    "stream": _stream,
    "paced": _paced,
}


class Core:
    """The server: its connections, limits, store and log."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = Store(Path("peer.db"))
        self.connections: dict[str, list[Connection]] = {}
        self._limits: dict[str, RateLimit] = {}
        self._offsets: dict[str, int] = {}

    def offset(self, room: str) -> int:
        """Return the number of the newest event of a room."""
        return self._offsets.get(room, 0)

    def next_offset(self, room: str) -> int:
        """Return the number of the next event of a room."""
        self._offsets[room] = offset = self.offset(room) + 1
        return offset

    async def authenticate(self, token: str | None) -> str | None:
        """Return the user of a token, None if the token or the user is not valid."""
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
    def registered(self, connection: Connection) -> Iterator[list[Connection]]:
        """Register a connection of its user; yields the oldest ones beyond the limit."""
        mine = self.connections.setdefault(connection.user_id, [])
        mine.append(connection)
        self.log("connection_opened", connection)
        try:
            yield mine[: -self.settings.connections_per_user]
        finally:
            mine.remove(connection)
            if not mine:
                del self.connections[connection.user_id]
            seconds = round(time.monotonic() - connection.opened_at, 3)
            counts = {"frames_in": connection.received, "frames_out": connection.sent}
            self.log("connection_ended", connection, seconds=seconds, **counts)

    def log(self, event: str, connection: Connection, **more: object) -> None:
        """Write a log line in JSON, as this project does for the same events."""
        ids = {"connection_id": connection.id, "user_id": connection.user_id}
        line = {"event": event, **ids, **more}
        _log.info("%s", json.dumps(line))


def configure_log() -> None:
    """Write the log to stderr."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
