"""One connection in memory: the client's `Socket`, which reports each event that is received."""

from collections.abc import Callable, Mapping, Sequence

import trio
from attrs import define, field

from netra_trio.client import Event, SocketClosed
from netra_trio.client.decoder import FrameDecoder
from netra_trio.errors import NetraError, TransportClosed
from netra_trio.protocol.binary import BinaryFrame
from netra_trio.protocol.codes import ABNORMAL
from netra_trio.protocol.wire_format import select_format
from netra_trio.transports.memory import MemoryClient, MemoryTransport

HELLO = "connection_established"


@define(eq=False)
class MemoryConnection:
    """A connection of a client.

    Attributes:
        url: The address of the upgrade request.
        headers: Its headers.
        subprotocols: Its subprotocols.
        decoder: Decodes the frames of the server.
        session_id: The session, once the client has received it.
        last_seq: The last number that the client received.
        refusal: Why the upgrade was refused.
        ended: Set when the server has ended the connection.
    """

    url: str
    headers: Mapping[str, str]
    subprotocols: Sequence[str]
    client: MemoryClient
    server: MemoryTransport
    on_event: Callable[[Event], None]
    decoder: FrameDecoder
    session_id: str = ""
    last_seq: int = 0
    refusal: NetraError | None = None
    ended: trio.Event = field(factory=trio.Event)

    def cut(self) -> None:
        """Cut the connection: both ends are told, and frames in transit are lost."""
        self.client.cut()

    def stall(self) -> None:
        """Deliver nothing any more; neither end is told."""
        self.client.stall()

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that the server has selected."""
        selected = select_format(self.subprotocols)
        return None if selected is None else selected.name

    async def send(self, frame: str | bytes) -> None:
        """Send a frame (see `Socket`)."""
        try:
            await self.client.send(frame)
        except TransportClosed as closed:
            raise SocketClosed(closed.code or ABNORMAL) from None

    async def receive(self) -> str | bytes:
        """Wait for a frame (see `Socket`)."""
        try:
            received = await self.client.receive()
        except TransportClosed as closed:
            raise SocketClosed(closed.code or ABNORMAL) from None
        is_binary = isinstance(received, BinaryFrame)
        frame = bytes(received) if is_binary else received.decode()
        event = self.decoder.decode(frame)
        if event.type == HELLO:
            self.session_id = event.payload["session_id"]
            self.last_seq = event.payload["resume"]["last_seq"]
        elif event.seq is not None:
            self.last_seq = event.seq
        self.on_event(event)
        return frame

    async def close(self, code: int) -> None:
        """Close (see `Socket`)."""
        self.client.close(code)
        await self.ended.wait()
