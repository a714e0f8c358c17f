"""Relayed connections: the socket is at one node, the connection and its session at another one.

A run cannot move to another node. So the *edge*, the node that accepted the socket, passes frames
between the socket and the *owner* of the session. At the owner, `RelayTransport` is the transport
of an ordinary connection. At the edge, `relay` moves the frames.
"""

from collections.abc import Sequence

import trio

from netra_trio.cluster.link import Link
from netra_trio.errors import MessageTooBig, TransportClosed
from netra_trio.protocol.binary import BinaryFrame
from netra_trio.protocol.codes import ABNORMAL, CloseCode
from netra_trio.protocol.fields import JsonObject
from netra_trio.transports.base import SendShared, Transport

FRAMES, TEXT, BINARY, ALIVE = "frames", "text", "binary", "alive"
CLOSE, CLOSED, TOO_BIG = "close", "closed", "too_big"
CLOSE_SECONDS = 2.0  # for the peer to reply to a close frame
PEER_CODES = range(1000, 5000)


class RelayTransport:
    """The `Transport` of a connection whose socket is at another node.

    The edge notices a client that takes nothing, and closes the link.

    Args:
        link: The link to that node.

    Attributes:
        edge: That node.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._is_closed = False
        self.edge = link.peer

    async def accept(self) -> None:
        """Do nothing: the edge accepts the upgrade with the first frames."""
        await trio.lowlevel.checkpoint()

    async def receive(self) -> str | bytes | None:
        """Wait for the client's next message."""
        if self._is_closed:
            raise TransportClosed
        part = await self._link.receive()
        if part.kind == TEXT:
            return part.data.decode()
        if part.kind == BINARY:
            return part.data
        if part.kind == ALIVE:
            return None
        self._is_closed = part.kind == CLOSED
        if self._is_closed:
            raise TransportClosed(part.header["code"], timed_out=part.header["timed_out"])
        raise MessageTooBig

    async def send(self, frames: Sequence[bytes], *, ping: bool = False) -> bool:
        """Send messages; return whether the client does not keep up."""
        header: JsonObject = {"sizes": [len(frame) for frame in frames], "ping": ping}
        binary = [place for place, frame in enumerate(frames) if type(frame) is BinaryFrame]
        if binary:
            header["binary"] = binary
        return await self._link.send(FRAMES, header, b"".join(frames))

    @property
    def send_shared(self) -> SendShared | None:
        """Not supported."""
        return None

    async def close(self, code: int, reason: str) -> None:
        """Send a close frame."""
        await self._link.send(CLOSE, {"code": code, "reason": reason})


async def relay(transport: Transport, link: Link) -> None:
    """Pass frames between a socket and the owner of its session until either of them is closed.

    If the link breaks, the socket is closed with 1012: the client resumes at another node.
    Cancelling aborts the socket.
    """
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_pass_to_owner, transport, link, nursery.cancel_scope)
        try:
            await _pass_to_client(transport, link)
        except TransportClosed as closed:
            await _tell_closed(link, closed)
        else:
            await trio.sleep(CLOSE_SECONDS)
        nursery.cancel_scope.cancel()


async def _pass_to_client(transport: Transport, link: Link) -> None:
    """Pass what the owner sends to the socket, until the owner closes it.

    Raises:
        TransportClosed: If the socket is lost.
    """
    await transport.accept()
    while True:
        try:
            part = await link.receive()
        except TransportClosed:
            await transport.close(CloseCode.RESTART, "owner_gone")
            return
        if part.kind == FRAMES:
            await transport.send(_split(part.data, part.header), ping=part.header["ping"])
        elif part.kind == CLOSE:
            await transport.close(part.header["code"], part.header["reason"])
            return


async def _pass_to_owner(transport: Transport, link: Link, relaying: trio.CancelScope) -> None:
    """Pass what the client sends to the owner, until the socket is closed."""
    try:
        while True:
            try:
                data = await transport.receive()
            except MessageTooBig:
                await link.send(TOO_BIG)
                continue
            if data is None:
                await link.send(ALIVE)
            elif isinstance(data, str):
                await link.send(TEXT, data=data.encode())
            else:
                await link.send(BINARY, data=data)
    except TransportClosed as closed:
        if link.is_broken:
            return  # the socket may still be open: the other task closes it
        await _tell_closed(link, closed)
        relaying.cancel()


async def _tell_closed(link: Link, closed: TransportClosed) -> None:
    code = closed.code if closed.code in PEER_CODES else ABNORMAL
    try:
        await link.send(CLOSED, {"code": code, "timed_out": closed.timed_out})
    except TransportClosed:
        return


def _split(data: bytes, header: JsonObject) -> list[bytes]:
    frames, start = [], 0
    for size in header["sizes"]:
        frames.append(data[start : start + size])
        start += size
    for place in header.get("binary", ()):
        frames[place] = BinaryFrame(frames[place])
    return frames
