"""A client that sends and receives the frames of the protocol, over any connection.

await client.say("hello")
events = await client.until("agent_completed")
"""

from abc import ABC, abstractmethod
from typing import Any

import orjson
from attrs import define, field

Frame = dict[str, Any]


@define(eq=False, kw_only=True)
class FrameClient(ABC):
    """A client; a subclass has the connection.

    Attributes:
        hello: The first frame.
        skipped: Types of frames that are dropped. The other sessions of a user change its threads
            at any time, so only tests of that receive `thread_changed`.
    """

    hello: Frame = field(factory=dict)
    skipped: frozenset[str] = frozenset({"thread_changed"})

    @abstractmethod
    async def send_raw(self, data: str | bytes) -> None:
        """Send a text frame (`str`) or a binary one (`bytes`) unchanged."""

    @abstractmethod
    async def receive_raw(self) -> str | bytes:
        """Return the next frame unchanged; it may be one that is skipped."""

    async def send(
        self, kind: str, payload: Any = None, correlation_id: str | None = None, **more: Any
    ) -> None:
        """Send a message."""
        frame: Frame = {"type": kind, **more}
        if payload is not None:
            frame["payload"] = payload
        if correlation_id is not None:
            frame["correlation_id"] = correlation_id
        await self.send_raw(orjson.dumps(frame).decode())

    async def say(self, content: str, correlation_id: str | None = None, **payload: Any) -> None:
        """Send a `user_message`."""
        await self.send("user_message", {"content": content, **payload}, correlation_id)

    async def next(self) -> Frame:
        """Return the next frame that is not skipped."""
        while True:
            frame: Frame = orjson.loads(await self.receive_raw())
            if frame["type"] not in self.skipped:
                return frame

    async def expect(self, kind: str) -> Frame:
        """Return the next frame, which must have this type."""
        frame = await self.next()
        assert frame["type"] == kind, frame
        return frame

    async def until(self, kind: str) -> list[Frame]:
        """Return the frames up to and including the next one of this type."""
        frames = [await self.next()]
        while frames[-1]["type"] != kind:
            frames.append(await self.next())
        return frames

    async def error(self, code: str | None = None) -> Frame:
        """Return the payload of the next frame, which must be an error, and this one if given."""
        payload: Frame = (await self.expect("error"))["payload"]
        assert code is None or payload["code"] == code, payload
        return payload
