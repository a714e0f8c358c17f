"""An application in this process, and a client of its HTTP side for files.

async with open_app(tmp_path) as app:
    answer = await app.upload(b"content", name="a.txt")
    answer = await app.get(f"/ws/files/{answer.json['file_id']}")
"""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from math import inf
from typing import Any

import orjson
import trio
from attrs import define, evolve, field

from netra_trio.agents.demo.echo import echo
from netra_trio.auth.tokens import TokenVerifier
from netra_trio.broker.base import Backend
from netra_trio.config.settings import Settings
from netra_trio.errors import TransportClosed
from netra_trio.ids import UserId
from netra_trio.node.node import Node
from netra_trio.server.application import Application, create_app
from netra_trio.stores.base import Store
from netra_trio.stores.memory import MemoryStore

SECRET = "a-secret-of-in-process-tests-of-files"
NOW = 1_700_000_000.0
Headers = Mapping[str, str]


@define
class Answer:
    """An answer of the application."""

    status: int = 0
    headers: dict[str, str] = field(factory=dict)
    body: bytes = b""
    is_complete: bool = False

    @property
    def json(self) -> Any:
        """The body, as JSON."""
        return orjson.loads(self.body)

    @property
    def code(self) -> str:
        """The code of the error."""
        return str(self.json["code"])


def token(user: str = "alice", *, expires_at: float = NOW + 1e6) -> str:
    """Return a token of a user."""
    return TokenVerifier(SECRET).sign(user, expires_at=expires_at)


def bearer(user: str | None = "alice", **more: str) -> dict[str, str]:
    """Return headers with a token."""
    return {} if user is None else {"authorization": f"Bearer {token(user)}", **more}


class WallClock:
    """A wall clock that goes with Trio's, and that a test moves."""

    def __init__(self) -> None:
        self.moved = 0.0

    def __call__(self) -> float:
        return NOW + self.moved


@define
class App:
    """The application.

    Attributes:
        extensions: The extensions of its host.
    """

    application: Application
    node: Node
    clock: WallClock
    extensions: dict[str, Any] = field(factory=dict)

    async def request(
        self,
        method: str,
        path: str,
        *,
        headers: Headers | Iterable[tuple[str, str]] = (),
        body: Iterable[bytes | float | None] = (b"",),
        has_left: Callable[[Answer], bool] = lambda _: False,
    ) -> Answer:
        """Send a request.

        Args:
            method: Its method.
            path: Its path and query.
            headers: Its headers.
            body: Parts of its body; a number is a pause in seconds, None the end of the connection.
            has_left: Whether the client has left, having got so much of the answer.
        """
        answer, parts = Answer(), list(body)

        async def receive() -> dict[str, Any]:
            await trio.lowlevel.checkpoint()
            while parts:
                part = parts.pop(0)
                if part is None:
                    return {"type": "http.disconnect"}
                if isinstance(part, bytes):
                    return {"type": "http.request", "body": part, "more_body": bool(parts)}
                await trio.sleep(part)
            await trio.sleep(inf)
            raise AssertionError

        async def send(message: Mapping[str, Any]) -> None:
            await trio.lowlevel.checkpoint()
            if has_left(answer):
                raise TransportClosed
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                answer.headers = {
                    name.decode(): value.decode("latin-1") for name, value in message["headers"]
                }
                return
            answer.body += message.get("body", b"")
            answer.is_complete = not message.get("more_body", False)

        pairs = headers.items() if isinstance(headers, Mapping) else headers
        bare, _, query = path.partition("?")
        scope = {
            "type": "http",
            "method": method,
            "path": bare,
            "query_string": query.encode("latin-1"),
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in pairs],
            "client": ("127.0.0.1", 1),
            "extensions": self.extensions,
        }
        await self.application(scope, receive, send)
        return answer

    async def upload(
        self, *parts: bytes | float | None, query: str = "", user: str | None = "alice", **more: str
    ) -> Answer:
        """Upload a raw body; `more` are headers, with underscores."""
        headers = {name.replace("_", "-"): value for name, value in more.items()}
        return await self.request(
            "POST", f"/ws/files{query}", headers={**bearer(user), **headers}, body=parts or (b"",)
        )

    async def store(self, content: bytes, query: str = "", user: str = "alice") -> str:
        """Upload a file, and return its id."""
        answer = await self.upload(content, query=query, user=user)
        assert answer.status == 200, answer
        return str(answer.json["file_id"])

    async def get(self, path: str, user: str | None = "alice", **more: str) -> Answer:
        """Request a file; `more` are headers, with underscores."""
        headers = {name.replace("_", "-"): value for name, value in more.items()}
        return await self.request("GET", path, headers={**bearer(user), **headers})

    async def ticket(self, body: Any = None, user: str = "alice") -> Answer:
        """Request a ticket."""
        data = b"" if body is None else body if isinstance(body, bytes) else orjson.dumps(body)
        return await self.request("POST", "/ws/ticket", headers=bearer(user), body=(data,))


@asynccontextmanager
async def open_app(
    *,
    store: Store | None = None,
    backend: Backend | None = None,
    clock: WallClock | None = None,
    **settings: Any,
) -> AsyncIterator[App]:
    """Run an application with the users alice and bob; `settings` are fields of `Settings`."""
    clock = WallClock() if clock is None else clock
    store = MemoryStore(wall_clock=clock) if store is None else store
    for user in ("alice", "bob"):
        await store.create_user(UserId(user))
    chosen = evolve(Settings(), jwt_secret_key=SECRET, **settings)
    application = create_app(
        agents={"echo": echo}, settings=chosen, store=store, wall_clock=clock, backend=backend
    )
    async with application.running() as node:
        yield App(application, node, clock)
