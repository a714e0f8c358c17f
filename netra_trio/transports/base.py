"""The transport: one WebSocket, as a connection uses it."""

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Protocol, TypeAlias

from netra_trio.transports.frames import SharedPayload


class Sent(Enum):
    """The part of a frame that was sent at once.

    ALL: The whole frame.
    PART: The beginning; the transport sends the rest before anything else, with the next `send`.
    NOTHING: Nothing, because sending would wait.
    """

    ALL = "all"
    PART = "part"
    NOTHING = "nothing"


SendShared: TypeAlias = Callable[[SharedPayload], Sent]
"""Sends a text frame that many connections share, without waiting."""


class Transport(Protocol):
    """One WebSocket whose handshake was read.

    One task receives and one task sends; they may be different tasks.
    """

    async def accept(self) -> None:
        """Accept the upgrade; called once, before anything is sent.

        Data that the peer sends right behind its handshake is not lost.

        Raises:
            TransportClosed: If the connection is lost.
        """
        ...

    async def receive(self) -> str | bytes | None:
        """Wait for the peer's next message: text as `str`, binary data as `bytes`.

        Returns None for a frame that shows that the peer is alive but is no message, such as a
        pong. Cancelling is safe: nothing is lost.

        Raises:
            TransportClosed: If the peer closed or the connection is lost.
            MessageTooBig: If a message exceeds the hard size limit; nothing can be received then.
        """
        ...

    async def send(self, frames: Sequence[bytes], *, ping: bool = False) -> bool:
        """Send messages, in one write where the transport can.

        A `BinaryFrame` is sent as a binary message, any other frame as a text message (UTF-8).

        With `ping`, a protocol ping follows them where the transport can send one.

        Returns whether the write had to wait for the peer, which then does not keep up.

        Cancelling in mid-send aborts the connection: a part of a frame may be out.

        Raises:
            TransportClosed: If the connection is lost, or the peer took nothing for the send
                timeout.
        """
        ...

    @property
    def send_shared(self) -> SendShared | None:
        """Sends a text frame that many connections share, without waking the writer.

        None if the transport does not support this; then the writer sends the frame.
        """
        ...

    async def close(self, code: int, reason: str) -> None:
        """Send a close frame.

        Messages that the peer sends before its own close frame can still be received.

        Raises:
            TransportClosed: If the connection is lost, or the peer took nothing for the send
                timeout.
        """
        ...
