"""The transport: one open WebSocket, as the connection sees it."""

from collections.abc import Sequence
from typing import Protocol


class Transport(Protocol):
    """One WebSocket that is open already.

    One task receives and one task sends; the two may be different ones.
    """

    async def accept(self) -> None:
        """Answer the upgrade; called once, before anything is sent.

        What the peer sends right behind its handshake can be received all the same.

        Raises:
            TransportClosed: If the peer is gone.
        """
        ...

    async def receive(self) -> str | bytes | None:
        """Wait for what the peer sends: text as `str`, a binary frame as `bytes`.

        Returns None for a sign of life that carries nothing, such as a pong.

        Cancelling is safe: nothing is lost.

        Raises:
            TransportClosed: If the peer closed or is gone.
            MessageTooBig: If a frame is beyond the hard limit; nothing can be received after it.
        """
        ...

    async def send(self, frames: Sequence[bytes], *, ping: bool = False) -> bool:
        """Send text frames (UTF-8), in one write where the line allows it.

        With `ping` a protocol ping follows them, where the line can send one.

        Returns whether it had to wait for the peer, who does not keep up then.

        Cancelling in mid-send ends the line: a part of a frame may be out.

        Raises:
            TransportClosed: If the peer is gone, or took nothing for the send timeout.
        """
        ...

    async def close(self, code: int, reason: str) -> None:
        """Send a close frame. What the peer sent before it closes too can still be received.

        Raises:
            TransportClosed: If the peer is gone, or took nothing for the send timeout.
        """
        ...
