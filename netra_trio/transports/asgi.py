"""A WebSocket that an ASGI server on Trio serves.

Under Hypercorn as `netra_trio.server.hypercorn` patches it, the transport uses its extensions: many
frames in one write, pings and pongs, the hard size limit. Under any other server each frame is an
ASGI message of its own, and only messages show that the peer is alive.
"""

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

import trio

from netra_trio.errors import MessageTooBig, TransportClosed
from netra_trio.protocol.binary import BinaryFrame
from netra_trio.protocol.codes import NO_STATUS
from netra_trio.transports.base import SendShared
from netra_trio.transports.byte_stream import LAG_SECONDS

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

EXTENSION = "netra_trio"  # in the scope's extensions, where the host has ours


async def send_within(seconds: float, send: Send, message: Message) -> None:
    """Send an ASGI message. Cancelling may cut it.

    Args:
        seconds: The longest time that the host may take.
        send: The call's send.
        message: The message.

    Raises:
        TransportClosed: If the connection is lost, or the host takes longer.
    """
    with trio.move_on_after(seconds) as patience:
        try:
            await send(message)
        except OSError:
            raise TransportClosed from None
    if patience.cancelled_caught:
        raise TransportClosed(timed_out=True)


class AsgiTransport:
    """The WebSocket of one ASGI call, whose `websocket.connect` has been received.

    Args:
        scope: The call's scope.
        receive: The call's receive.
        send: The call's send.
        subprotocol: The subprotocol to select, None for none.
        send_timeout: Seconds for the peer to take a frame.
        max_bytes: The hard limit of a message, in bytes.
    """

    def __init__(
        self,
        scope: Message,
        receive: Receive,
        send: Send,
        *,
        subprotocol: str | None,
        send_timeout: float,
        max_bytes: int,
    ) -> None:
        self._receive = receive
        self._send = send
        self._subprotocol = subprotocol
        self._send_timeout = send_timeout
        self._max_bytes = max_bytes
        self._has_extension = EXTENSION in scope.get("extensions", {})
        self._gone: int | None = None

    async def accept(self) -> None:
        """Accept the upgrade."""
        await self._put({"type": "websocket.accept", "subprotocol": self._subprotocol})

    async def receive(self) -> str | bytes | None:
        """Wait for the peer's next message; None for a frame that is no message."""
        if self._gone is not None:
            raise TransportClosed(self._gone)
        message = await self._receive()
        kind = message["type"]
        if kind == "websocket.receive":
            return self._checked(message)
        if kind == "websocket.disconnect":
            self._gone = message.get("code", NO_STATUS)
            raise TransportClosed(self._gone)
        if kind == "netra_trio.too_big":
            raise MessageTooBig
        return None

    async def send(self, frames: Sequence[bytes], *, ping: bool = False) -> bool:
        """Send messages, and a ping where the host has the extension.

        Returns whether it took longer than `LAG_SECONDS`: an ASGI server does not tell if it waited
        for the peer.
        """
        begun = trio.current_time()
        if self._has_extension:
            await self._put({"type": "netra_trio.send", "frames": frames})
            if ping:
                await self._put({"type": "netra_trio.ping"})
        else:
            for frame in frames:
                is_binary = type(frame) is BinaryFrame
                data = {"bytes": bytes(frame)} if is_binary else {"text": frame.decode()}
                await self._put({"type": "websocket.send", **data})
        return trio.current_time() - begun > LAG_SECONDS

    @property
    def send_shared(self) -> SendShared | None:
        """Not supported."""
        return None

    async def close(self, code: int, reason: str) -> None:
        """Send a close frame."""
        await self._put({"type": "websocket.close", "code": code, "reason": reason})

    async def _put(self, message: Message) -> None:
        if self._has_extension:  # the host bounds the send by progress
            await self._send(message)
            return
        await send_within(self._send_timeout, self._send, message)
        # Some servers return at once when the peer is gone: the checkpoint lets the reader see it.
        await trio.lowlevel.checkpoint()

    def _checked(self, message: Message) -> str | bytes:
        text = message.get("text")
        if text is None:
            data: bytes = message["bytes"]
            if len(data) > self._max_bytes:
                raise MessageTooBig
            return data
        if len(text) > self._max_bytes or len(text.encode()) > self._max_bytes:
            raise MessageTooBig
        return str(text)
