"""A network whose servers seem to drain again and again, while they go on.

dialer = Announcing(network, is_due=lambda events: events % 3 == 0)
async with network.connect(dialer=dialer) as client:
    ...
assert dialer.opened > 1
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import orjson
import trio
from attrs import define

from netra_trio.client import Dialer, NoAnswer, OpeningRefused, Socket

DRAINING = {"type": "server_draining", "payload": {"reason": "x", "reconnect_after_ms": 0}}


@define(eq=False)
class Announcing(Dialer):
    """A network that puts `server_draining` among the frames of each connection.

    Attributes:
        dialer: The network.
        is_due: Called with the number of numbered frames so far, over all connections.
        refuse: Called with the number of upgrade requests so far; an error refuses this one, unless
            no connection is open.
        opened: The number of connections.
        open_now: How many are open.
        most: The most that were open at once.
        events: The number of numbered frames.
    """

    dialer: Dialer
    is_due: Callable[[int], bool]
    refuse: Callable[[int], Exception | None] = lambda _: None
    requests: int = 0
    opened: int = 0
    open_now: int = 0
    most: int = 0
    events: int = 0

    @asynccontextmanager
    async def open(
        self, url: str, *, headers: Mapping[str, str], subprotocols: Sequence[str]
    ) -> AsyncIterator[Socket]:
        self.requests += 1
        refusal = self.refuse(self.requests) if self.open_now else None
        if refusal is not None:
            await trio.lowlevel.checkpoint()
            raise refusal
        async with self.dialer.open(url, headers=headers, subprotocols=subprotocols) as socket:
            self.opened += 1
            self.open_now += 1
            self.most = max(self.most, self.open_now)
            try:
                yield _Socket(socket, self)
            finally:
                self.open_now -= 1

    async def discover(self, url: str) -> Mapping[str, Any]:
        return await self.dialer.discover(url)


@define(eq=False)
class _Socket(Socket):
    socket: Socket
    network: Announcing
    is_announced: bool = False

    async def send(self, frame: str | bytes) -> None:
        await self.socket.send(frame)

    async def receive(self) -> str | bytes:
        if self.is_announced:
            self.is_announced = False
            await trio.lowlevel.checkpoint()
            return orjson.dumps(DRAINING).decode()
        received = await self.socket.receive()
        if is_numbered(received):
            self.network.events += 1
            self.is_announced = self.network.is_due(self.network.events)
        return received

    async def close(self, code: int) -> None:
        await self.socket.close(code)


def is_numbered(received: str | bytes) -> bool:
    """Return whether a frame of the server is an event, which has a number."""
    if isinstance(received, bytes):
        return True  # only events are binary
    frame = orjson.loads(received)
    return isinstance(frame, list) or "seq" in frame


def refusing(requests: int) -> Exception | None:
    """Accept, refuse and ignore upgrade requests in turn."""
    body = {"code": "SERVER_DRAINING", "error": "It drains.", "help": "Wait."}
    return [OpeningRefused(503, body=body), None, NoAnswer("no server")][requests % 3]
