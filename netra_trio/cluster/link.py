"""A link: a relayed connection, between the node that has the socket and the owner of the session.

    link = Link(link_id, peer=node, post=mailbox.post)
    await link.send("frames", data)     # waits while the other end has not taken 256 KiB
    part = await link.receive()

Both ends are alike. Each end numbers what it sends, so that a lost message is noticed: it breaks
the link. Each end returns credit for what its user has taken, so that no end can flood the other.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import trio
from attrs import frozen

from netra_trio.errors import BrokerUnavailable, TransportClosed
from netra_trio.ids import NodeId
from netra_trio.protocol.fields import JsonObject

LINK = "link"  # the kind of the messages of links
WINDOW_BYTES = 256 * 1024  # on the way in one direction
CREDIT_BYTES = 32 * 1024  # taken, before credit is returned
PART_BYTES = 64  # that each part counts at least
TELL_ATTEMPTS = 20  # to tell the other end that a link is broken
TELL_SECONDS = 0.5  # between two of them; later, a node that is cut off has lost its lease

_CREDIT, _BREAK = "credit", "break"

Post = Callable[[NodeId, str, JsonObject, bytes], Awaitable[None]]


@frozen
class Part:
    """One message of a link."""

    kind: str
    header: JsonObject
    data: bytes

    @property
    def size(self) -> int:
        """Its size in the window, in bytes."""
        return max(len(self.data), PART_BYTES)


class Link:
    """One end of a link.

    Args:
        id: The id of the link, the same at both ends.
        peer: The node of the other end.
        post: Sends a message to a node.
    """

    def __init__(self, id: str, peer: NodeId, post: Post) -> None:  # noqa: A002 - as `Link.id`
        self.id = id
        self.peer = peer
        self._post = post
        self._sent = self._received = 0  # messages
        self._on_the_way = 0  # bytes that were sent and not taken
        self._taken = 0  # bytes that were taken, without credit returned
        self._room = trio.Event()
        self._sending = trio.Lock()
        self._in: trio.MemorySendChannel[Part]
        self._out: trio.MemoryReceiveChannel[Part]
        # The window bounds what is in the channel: each part takes `PART_BYTES` of it at least.
        self._in, self._out = trio.open_memory_channel(2 * WINDOW_BYTES // PART_BYTES)
        self.is_broken = False
        self.peer_knows = False  # that it is broken

    async def send(self, kind: str, header: JsonObject | None = None, data: bytes = b"") -> bool:
        """Send a message; return whether it had to wait for the other end.

        If it is cancelled, the link is broken: the other end may wait for the rest.

        Raises:
            TransportClosed: If the link is broken.
        """
        part = Part(kind, header or {}, data)
        had_to_wait = False
        try:
            async with self._sending:
                while self._on_the_way and self._on_the_way + part.size > WINDOW_BYTES:
                    had_to_wait = True
                    self._room = trio.Event()
                    self._check()
                    await self._room.wait()
                self._check()
                self._on_the_way += part.size
                self._sent += 1
                await self._send(part.kind, {**part.header, "n": self._sent}, part.data)
        except trio.Cancelled:
            self.break_off()
            raise
        return had_to_wait

    async def receive(self) -> Part:
        """Wait for the next message. Cancelling is safe.

        Raises:
            TransportClosed: If the link is broken and everything that came before was received.
        """
        try:
            part = await self._out.receive()
        except trio.EndOfChannel:
            raise TransportClosed from None
        self._taken += part.size
        if self._taken >= CREDIT_BYTES:
            taken, self._taken = self._taken, 0
            with trio.CancelScope(shield=True):  # a lost credit would narrow the window for ever
                await self._send(_CREDIT, {"bytes": taken})
        return part

    def deliver(self, header: JsonObject, data: bytes) -> None:
        """Take a message of the other end."""
        kind = header["kind"]
        if kind == _CREDIT:
            self._on_the_way -= header["bytes"]
            self._room.set()
        elif kind == _BREAK:
            self.peer_knows = True
            self.break_off()
        elif not self.is_broken:
            self._received += 1
            if header["n"] != self._received:  # messages are lost
                self.break_off()
                return
            try:
                self._in.send_nowait(Part(kind, header, data))
            except trio.WouldBlock:  # the other end ignores the window
                self.break_off()

    def break_off(self) -> None:
        """Break this end: `send` raises, and `receive` after what has come already."""
        self.is_broken = True
        self._in.close()
        self._room.set()

    @staticmethod
    def is_break(header: JsonObject) -> bool:
        """Whether a message tells that the link is broken."""
        return bool(header["kind"] == _BREAK)

    async def tell_broken(self) -> None:
        """Tell the other end that the link is broken; it may be gone.

        After a short failure of the broker, which may be why the link is broken, nothing else would
        tell an end that has nothing to send.
        """
        for _ in range(TELL_ATTEMPTS):
            try:
                await self._post(self.peer, LINK, {"link": self.id, "kind": _BREAK}, b"")
            except BrokerUnavailable:
                await trio.sleep(TELL_SECONDS)
            else:
                return

    def _check(self) -> None:
        if self.is_broken:
            raise TransportClosed

    async def _send(self, kind: str, header: dict[str, Any], data: bytes = b"") -> None:
        try:
            await self._post(self.peer, LINK, {**header, "link": self.id, "kind": kind}, data)
        except BrokerUnavailable:
            self.break_off()
            raise TransportClosed from None
