"""One connection in memory: the client's end, and what the network sees of it.

It is a `Socket`, and tells the network of each frame that the client takes.
"""

from collections.abc import Callable, Mapping, Sequence

import trio
from attrs import define, field

from netra_trio.client import Event, SocketClosed
from netra_trio.errors import NetraError, TransportClosed
from netra_trio.protocol.codes import ABNORMAL
from netra_trio.transports.memory import MemoryClient, MemoryTransport

WELCOME = "connection_established"


@define(eq=False)
class Line:
    """A connection of a client.

    Attributes:
        url: What it was opened with, likewise `headers` and `subprotocols`.
        session_id: The session, once the server has told it.
        last_seq: The last number that came to the client.
        refusal: Why it was not let in.
        ended: Set when the server is done with it.
    """

    url: str
    headers: Mapping[str, str]
    subprotocols: Sequence[str]
    client: MemoryClient
    server: MemoryTransport
    heard: Callable[[Event], None]
    session_id: str = ""
    last_seq: int = 0
    refusal: NetraError | None = None
    ended: trio.Event = field(factory=trio.Event)

    def cut(self) -> None:
        """Cut it: both ends know, and what was under way is gone."""
        self.client.cut()

    def stall(self) -> None:
        """Let nothing through any more; neither end is told."""
        self.client.stall()

    async def send(self, text: str) -> None:
        """Send a text frame (see `Socket`)."""
        try:
            await self.client.send(text)
        except TransportClosed as closed:
            raise SocketClosed(closed.code or ABNORMAL) from None

    async def receive(self) -> str:
        """Wait for a text frame (see `Socket`)."""
        try:
            text = (await self.client.receive()).decode()
        except TransportClosed as closed:
            raise SocketClosed(closed.code or ABNORMAL) from None
        event = Event.parse(text)
        if event.type == WELCOME:
            self.session_id = event.payload["session_id"]
            self.last_seq = event.payload["resume"]["last_seq"]
        elif event.seq is not None:
            self.last_seq = event.seq
        self.heard(event)
        return text

    async def close(self, code: int) -> None:
        """Close (see `Socket`)."""
        self.client.close(code)
        await self.ended.wait()
