"""A client of the live page, which keeps the newest part of each node.

async with open_server() as server, server.connect(permissions=ADMIN) as client:
    page = await LivePage.join(client)
    part = await page.until(lambda: page.parts.get(node))
"""

from collections.abc import Callable
from typing import Any, Self, TypeVar

import trio
from attrs import define, field

from netra_trio.protocol.admin import ADMIN_ROOM, ADMINISTRATOR
from support.memory import Client, Frame, Server, wall_clock
from support.room_clients import join

ADMIN = frozenset({ADMINISTRATOR})
T = TypeVar("T")


@define(eq=False)
class LivePage:
    """The data of the live page.

    Attributes:
        client: The connection, which has joined the room.
        parts: The newest part of each node that is not gone.
        samples: The samples of each node.
        gone: The nodes that are gone, in order.
        received: All contents, in order, each with the time on Trio's clock.
    """

    client: Client
    parts: dict[str, Frame] = field(factory=dict)
    samples: dict[str, list[Frame]] = field(factory=dict)
    gone: list[str] = field(factory=list)
    received: list[tuple[float, Frame]] = field(factory=list)

    @classmethod
    async def join(cls, client: Client) -> Self:
        """Join the room."""
        await client.sync()  # there may be heartbeats
        joined = await join(client, ADMIN_ROOM)
        assert joined["replayed"] == 0
        return cls(client)

    async def until(self, look: Callable[[], T | None], seconds: float = 10.0) -> T:
        """Read events until `look` returns something."""
        with trio.fail_after(seconds):
            while not (found := look()):
                await self.read()
        return found

    async def refresh(self, seconds: float = 10.0) -> None:
        """Read events until each node that it knew has a part that was made since this call."""
        known, now = set(self.parts), wall_clock()
        with trio.fail_after(seconds):
            while any(part["at"] <= now for part in self.parts.values()) or not known:
                await self.read()
                known |= self.parts.keys()

    async def read(self) -> None:
        """Read the next event of the room."""
        frame = await self.client.next()
        while frame["type"] != "room_event" or frame["payload"]["room"] != ADMIN_ROOM:
            frame = await self.client.next()
        event = frame["payload"]["event"]
        assert event["type"] == "room_message"
        assert event["payload"].keys() == {"content"}
        self._take(event["payload"]["content"])

    def _take(self, content: dict[str, Any]) -> None:
        self.received.append((trio.current_time(), content))
        node = content["node"]
        if content["kind"] == "gone":
            self.gone.append(node)
            self.parts.pop(node, None)
        elif content["kind"] == "history":
            self.samples.setdefault(node, []).extend(content["samples"])
        else:
            assert content["kind"] == "node"
            self.parts[node] = content

    def run(self, run_id: str) -> Frame | None:
        """Return the newest state of a run."""
        runs = [run for part in self.parts.values() for run in part["runs"]]
        return next((run for run in runs if run["run_id"] == run_id), None)

    def session(self, session_id: str) -> Frame | None:
        """Return the newest state of a session."""
        sessions = [each for part in self.parts.values() for each in part["sessions"]]
        return next((each for each in sessions if each["session_id"] == session_id), None)


def waits_of(server: Server) -> list[str | None]:
    """Return what each run of a server waits for, also in another thread."""
    runs = [live for session in server.node.sessions for live in session.live_runs]
    waits = [live.execution.output.waits.newest for live in runs]
    return [None if wait is None else wait.kind for wait in waits]
