"""The ASGI messages for one application call, on a bounded channel."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import trio

AppMessage: TypeAlias = dict[str, Any]

ALIVE: AppMessage = {"type": "netra_trio.alive"}
TOO_BIG: AppMessage = {"type": "netra_trio.too_big"}
DISCONNECTS = frozenset({"websocket.disconnect", "http.disconnect"})


class AppInbox:
    """The messages that wait for an application; a disconnect never waits for room.

    Hypercorn's own channel blocks its reader for ever when the application stops receiving, and
    with it the end of the connection.

    Args:
        size: How many messages may wait.
    """

    def __init__(self, size: int) -> None:
        self._sender, self._receiver = trio.open_memory_channel[AppMessage](max(1, size))
        self._life_sign_waits = False
        self._too_big = False
        self._last: AppMessage | None = None
        self._ended = trio.Event()

    async def receive(self) -> AppMessage:
        """Wait for the next message; after the last one, return the disconnect again and again."""
        try:
            message = await self._receiver.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError):
            return await self._receive_end()
        if message is ALIVE:
            self._life_sign_waits = False
        return message

    async def put(self, message: Mapping[str, Any]) -> None:
        """Add a message, waiting for room; dropped after the end. A disconnect is the end."""
        if message["type"] in DISCONNECTS:
            self.end(dict(message))
            return
        try:
            await self._sender.send(dict(message))
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            return

    def life_sign(self) -> None:
        """Tell that the peer is alive, unless that is told already or messages are waiting."""
        if self._life_sign_waits:
            return
        try:
            self._sender.send_nowait(ALIVE)
        except (trio.WouldBlock, trio.ClosedResourceError, trio.BrokenResourceError):
            return
        self._life_sign_waits = True

    def too_big(self) -> None:
        """Tell that a message exceeded the limit: no other message follows, only the end."""
        self._too_big = True
        self._sender.close()

    def end(self, message: AppMessage) -> None:
        """Set the disconnect, which is received after the messages that wait."""
        if self._last is None:
            self._last = message
            self._sender.close()
            self._ended.set()

    def close(self) -> None:
        """Drop every message: the application has returned."""
        self._receiver.close()

    async def _receive_end(self) -> AppMessage:
        if self._too_big:
            self._too_big = False
            return dict(TOO_BIG)
        await self._ended.wait()
        if self._last is None:
            raise RuntimeError("the inbox has ended without a last message")
        return self._last
