"""A network with faults after certain frames of rooms, for the real client and server.

    dialer = RoomFaults(network, lambda frames: "cut" if frames % 3 == 0 else None)
    async with network.connect(dialer=dialer) as client:
        ...

The faults of `netra_trio.testing` count numbered frames; those of rooms have no number.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal

import orjson
import trio
from attrs import define

from netra_trio.client import Dialer, Socket, SocketClosed
from support.announcing import DRAINING

Fault = Literal["cut", "stall", "drain"]


@define(eq=False)
class RoomFaults(Dialer):
    """A network on which connections are cut, stall, or seem to drain.

    Attributes:
        dialer: The network.
        fault_after: Called with the number of frames with room events so far, over all
            connections; returns what happens after that frame, or None.
        opened: The number of connections.
        frames: The number of frames with room events.
    """

    dialer: Dialer
    fault_after: Callable[[int], Fault | None]
    opened: int = 0
    frames: int = 0

    @asynccontextmanager
    async def open(
        self, url: str, *, headers: Mapping[str, str], subprotocols: Sequence[str]
    ) -> AsyncIterator[Socket]:
        async with self.dialer.open(url, headers=headers, subprotocols=subprotocols) as socket:
            self.opened += 1
            yield _Socket(socket, self)

    async def discover(self, url: str) -> Mapping[str, Any]:
        return await self.dialer.discover(url)


@define(eq=False)
class _Socket(Socket):
    socket: Socket
    network: RoomFaults
    fault: Fault | None = None

    async def send(self, frame: str | bytes) -> None:
        if self.fault == "stall":
            await trio.sleep_forever()
        await self.socket.send(frame)

    async def receive(self) -> str | bytes:
        if self.fault == "cut":
            await trio.lowlevel.checkpoint()
            raise SocketClosed
        if self.fault == "stall":
            await trio.sleep_forever()
        if self.fault == "drain":
            self.fault = None
            await trio.lowlevel.checkpoint()
            return orjson.dumps(DRAINING).decode()
        text = await self.socket.receive()
        frame = orjson.loads(text) if isinstance(text, str) else None
        if isinstance(frame, dict) and frame["type"] == "room_event":
            self.network.frames += 1
            self.fault = self.network.fault_after(self.network.frames)
        return text

    async def close(self, code: int) -> None:
        await self.socket.close(code)
