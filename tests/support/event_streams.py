"""Clients of the events door, in virtual time.

async with stream(app) as first:
    assert await first.post(app, "ping", {}) == 202
    frames = await first.until("pong")

poller = Poller(app)
frames = await poller.poll()
"""

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import orjson
from attrs import define, field

from netra_trio.server.application import Application
from support.doors import HttpAnswer, request
from support.memory import Frame

STREAM, MESSAGES = "/ws/events", "/ws/messages"
SKIPPED = {"thread_changed"}  # frames that may come at any time


async def post(
    app: Application,
    session_id: str,
    frame: Any,
    *,
    user: str | None = "alice",
    body: bytes | None = None,
    **options: Any,
) -> tuple[int, dict[str, str], Any]:
    """Send a frame; return the status, the headers and the body of the answer."""
    query = f"session_id={session_id}"
    body = orjson.dumps(frame) if body is None else body
    async with request(
        app, "POST", MESSAGES, body=body, user=user, query=query, **options
    ) as answer:
        text = await answer.text()
        return answer.status, answer.headers, orjson.loads(text) if text else None


@define(eq=False)
class Stream:
    """A stream of frames.

    Attributes:
        answer: The answer to its request.
        last: The id of the last event that had one.
        close: The data of the last event, if the server has ended the stream.
    """

    app: Application
    answer: HttpAnswer
    events: AsyncIterator[dict[str, str]]
    hello: Frame = field(factory=dict)
    last: str | None = None
    close: dict[str, Any] | None = None

    @property
    def session_id(self) -> str:
        """The id of the session."""
        session_id: str = self.hello["payload"]["session_id"]
        return session_id

    async def next(self) -> Frame | None:
        """Return the next frame that is not skipped; None at the end."""
        async for event in self.events:
            data: Frame = orjson.loads(event["data"])
            if "event" in event:
                assert event["event"] == "close"
                self.close = data
                return None
            assert event.get("id") == (str(data["seq"]) if "seq" in data else None)
            self.last = event.get("id", self.last)
            if data["type"] not in SKIPPED:
                return data
        return None

    async def frame(self) -> Frame:
        """Return the next frame; there has to be one."""
        frame = await self.next()
        assert frame is not None, self.close
        return frame

    async def until(self, kind: str) -> list[Frame]:
        """Return the frames up to and including the next one of this type."""
        frames = [await self.frame()]
        while frames[-1]["type"] != kind:
            frames.append(await self.frame())
        return frames

    async def rest(self) -> list[Frame]:
        """Return the frames up to the end."""
        frames = []
        while (frame := await self.next()) is not None:
            frames.append(frame)
        return frames

    async def send(
        self, kind: str, payload: Any = None, correlation_id: str | None = None, **options: Any
    ) -> int:
        """Send a frame; return the status."""
        frame = {"type": kind, "payload": payload or {}}
        if correlation_id is not None:
            frame["correlation_id"] = correlation_id
        status, _, _ = await post(self.app, self.session_id, frame, **options)
        return status


@asynccontextmanager
async def stream(
    app: Application, *, user: str | None = "alice", **options: Any
) -> AsyncIterator[Stream]:
    """Open a stream; its client leaves at the end of the block."""
    async with request(app, "GET", STREAM, user=user, **options) as answer:
        assert answer.status == 200, await answer.text()
        events = answer.events()
        async with aclosing(events):
            opened = Stream(app, answer, events)
            hello = await opened.next()
            assert hello is not None
            opened.hello = hello
            yield opened


@define(eq=False)
class Poller:
    """A client that polls.

    Attributes:
        app: The application that it asks.
        hello: The newest `connection_established`.
        last: The last number that it has.
        close: The close of the last answer.
    """

    app: Application
    user: str = "alice"
    hello: Frame = field(factory=dict)
    last: int = 0
    close: dict[str, Any] | None = None

    @property
    def session_id(self) -> str:
        """The id of the session."""
        session_id: str = self.hello["payload"]["session_id"]
        return session_id

    @asynccontextmanager
    async def asking(self, wait: int | None = None, more: str = "") -> AsyncIterator[HttpAnswer]:
        """Send a poll; the block gets its answer."""
        query = "" if wait is None else f"wait={wait}"
        if self.hello:
            query += f"&session_id={self.session_id}&last_seq={self.last}"
        async with request(
            self.app,
            "GET",
            STREAM,
            user=self.user,
            query=query + more,
            headers={"accept": "application/json"},
        ) as answer:
            yield answer

    async def poll(self, wait: int | None = None, more: str = "") -> list[Frame]:
        """Poll once; return the frames that are not skipped."""
        async with self.asking(wait, more) as answer:
            body = await answer.json()
        assert answer.status == 200, body
        self.take(body)
        return [frame for frame in body["frames"] if frame["type"] not in SKIPPED]

    def take(self, body: Any) -> None:
        """Note the numbers and the close of an answer."""
        for frame in body["frames"]:
            if frame["type"] == "connection_established":
                self.hello = frame
                self.last = frame["payload"]["resume"]["last_seq"]
            self.last = frame.get("seq", self.last)
        self.close = body.get("close")

    async def until(self, kind: str, more: str = "") -> list[Frame]:
        """Poll until a frame of this type; return all frames."""
        frames: list[Frame] = []
        while kind not in {frame["type"] for frame in frames}:
            assert self.close is None
            frames += await self.poll(more=more)
        return frames

    async def send(self, kind: str, payload: Any = None, **options: Any) -> int:
        """Send a frame; return the status."""
        frame = {"type": kind, "payload": payload or {}}
        options.setdefault("user", self.user)
        status, _, _ = await post(self.app, self.session_id, frame, **options)
        return status
