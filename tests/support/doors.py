"""Requests to the doors of an application in this process, in virtual time.

    async with open_app(agents={"echo": echo}, doors=("openai",)) as app:
        async with request(app, "POST", "/v1/chat/completions", json={…}, user="alice") as answer:
            assert answer.status == 200
            text = await answer.text()

The client of a request may stop reading, and may leave.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from math import inf
from typing import Any

import orjson
import trio
from attrs import define, field

from netra_trio.agents.run import Agent
from netra_trio.broker.base import Backend
from netra_trio.config.settings import Settings
from netra_trio.protocol.doors import DOOR_PATHS
from netra_trio.server.application import Application, create_app
from netra_trio.stores.base import Store
from netra_trio.stores.memory import MemoryStore
from netra_trio.transports.asgi import Message
from support.memory import SECRET, token, wall_clock


@asynccontextmanager
async def open_app(
    *,
    agents: Mapping[str, Agent] | None = None,
    doors: tuple[str, ...] = tuple(DOOR_PATHS),
    store: Store | None = None,
    backend: Backend | None = None,
    **settings: Any,
) -> AsyncIterator[Application]:
    """Run an application with doors on the virtual clock; unknown users are created."""
    all_settings = Settings(
        jwt_secret_key=SECRET, doors=doors, auth_auto_provision=True, **settings
    )
    store = MemoryStore() if store is None else store
    app = create_app(
        agents=agents,
        settings=all_settings,
        store=store,
        wall_clock=wall_clock,
        backend=backend,
    )
    async with app.running():
        yield app


@define(eq=False)
class HttpAnswer:
    """The answer to a request, as its client receives it.

    Attributes:
        status: The HTTP status.
        headers: The headers, in lower case.
        left: Set when the client has left.
        ended: Set when the application has sent the last piece, or has returned.
        reading: The client takes pieces while it is set; else the application's send waits.
    """

    status: int = 0
    headers: dict[str, str] = field(factory=dict)
    left: trio.Event = field(factory=trio.Event)
    ended: trio.Event = field(factory=trio.Event)
    reading: trio.Event = field(factory=trio.Event)
    _started: trio.Event = field(factory=trio.Event)
    _pieces: list[bytes] = field(factory=list)
    _changed: trio.Event = field(factory=trio.Event)
    _taken: int = 0

    async def send(self, message: Message) -> None:
        """Take an ASGI message of the application."""
        await self.reading.wait()
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self._pieces.append(message.get("body", b""))
            if not message.get("more_body", False):
                self.ended.set()
        self._wake()
        await trio.lowlevel.checkpoint()

    async def started(self) -> None:
        """Wait until the answer has begun, or the application has returned."""
        await self._started.wait()

    def finish(self) -> None:
        """Note that the application has returned."""
        self.ended.set()
        self._wake()

    def _wake(self) -> None:
        self._started.set()
        self._changed.set()
        self._changed = trio.Event()

    def pause(self) -> None:
        """Stop reading, until `reading` is set."""
        self.reading = trio.Event()

    async def piece(self) -> bytes:
        """Return the next piece that is not empty; empty at the end."""
        while True:
            while self._taken < len(self._pieces):
                self._taken += 1
                if self._pieces[self._taken - 1]:
                    return self._pieces[self._taken - 1]
            if self.ended.is_set():
                return b""
            await self._changed.wait()

    async def text(self) -> str:
        """Return the rest of the body."""
        parts = []
        while piece := await self.piece():
            parts.append(piece)
        return b"".join(parts).decode()

    async def json(self) -> Any:
        """Return the body as JSON."""
        return orjson.loads(await self.text())

    async def events(self) -> AsyncGenerator[dict[str, str], None]:
        """Return the server-sent events: the fields of each, and comments as `""`."""
        text = ""
        while piece := await self.piece():
            text += piece.decode()
            *events, text = text.split("\n\n")
            for event in events:
                yield dict(_field(line) for line in event.split("\n"))

    async def data(self) -> list[str]:
        """Return the data of the events up to the end."""
        return [event["data"] async for event in self.events() if "data" in event]


def _field(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name, value.removeprefix(" ")


@asynccontextmanager
async def request(
    app: Application,
    method: str,
    path: str,
    *,
    json: Any = None,
    body: bytes | None = None,
    user: str | None = "alice",
    headers: Mapping[str, str] | None = None,
    query: str = "",
    peer: str = "127.0.0.1",
    more_headers: Sequence[tuple[str, str]] = (),
    leaves_after: float = inf,
    is_cut: bool = False,
) -> AsyncIterator[HttpAnswer]:
    """Send a request; the block gets its answer when it has begun. The client leaves at its end.

    It leaves earlier, `leaves_after` seconds after its request, if the answer may never begin, and
    at once, within its body, if that `is_cut`.
    """
    answer = HttpAnswer()
    answer.reading.set()
    if body is None:
        body = b"" if json is None else orjson.dumps(json)
    sent = {"content-type": "application/json", **(headers or {})}
    if user is not None:
        sent.setdefault("authorization", f"Bearer {token(user)}")
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [
            (name.lower().encode(), value.encode())
            for name, value in [*sent.items(), *more_headers]
        ],
        "query_string": query.encode(),
        "client": (peer, 1),
        "extensions": {},
    }
    messages = [{"type": "http.request", "body": body, "more_body": is_cut}]

    async def receive() -> Message:
        if messages:
            await trio.lowlevel.checkpoint()
            return messages.pop()
        with trio.move_on_after(0 if is_cut else leaves_after):
            await answer.left.wait()
        return {"type": "http.disconnect"}

    async def call() -> None:
        await app(scope, receive, answer.send)
        answer.finish()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        await answer.started()
        yield answer
        answer.left.set()
        answer.reading.set()
