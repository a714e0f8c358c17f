r"""An HTTP answer that is sent in pieces, and the detection that its client has left.

    await responder.start(SSE_HEADERS)
    await responder.send(b"data: {}\n\n")
    await responder.end()

A piece is sent when the host has taken the one before it, so a client that does not read blocks the
endpoint that answers it.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import trio

from netra_trio.endpoints.answer import Answer, encoded_headers, send_answer
from netra_trio.errors import TransportClosed, unwrapped
from netra_trio.transports.asgi import Receive, Send, send_within


class Responder:
    """Answers one HTTP request, whole or in pieces.

    Args:
        receive: The ASGI call's receive; its body has been read when the peer is watched.
        send: The ASGI call's send.
        headers: Headers that every answer has, such as those of CORS.
        send_timeout: Seconds that one send may take; infinity where the host bounds it.

    Attributes:
        is_gone: Whether the client has left.
    """

    def __init__(
        self, receive: Receive, send: Send, headers: Mapping[str, str], send_timeout: float
    ) -> None:
        self._receive = receive
        self._send = send
        self._headers = headers
        self._send_timeout = send_timeout
        self.is_gone = False

    async def answer(self, answer: Answer) -> None:
        """Send a whole answer."""
        await send_answer(self._send, "http", answer, self._headers)

    async def start(self, headers: Mapping[str, str], status: int = 200) -> None:
        """Begin an answer that is sent in pieces.

        Raises:
            TransportClosed: If the client has left, or takes nothing.
        """
        headers = {**headers, **self._headers, "x-content-type-options": "nosniff"}
        await self._put(
            {
                "type": "http.response.start",
                "status": status,
                "headers": encoded_headers(headers),
            }
        )

    async def send(self, data: bytes) -> None:
        """Send a piece; waits until the host has taken it. Cancelling may cut the piece.

        Raises:
            TransportClosed: If the client has left, or takes nothing for the send timeout.
        """
        await self._put({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes = b"") -> None:
        """Send the last piece.

        Raises:
            TransportClosed: If the client has left, or takes nothing for the send timeout.
        """
        await self._put({"type": "http.response.body", "body": data})

    @asynccontextmanager
    async def until_gone(self) -> AsyncIterator[None]:
        """Cancel the block when the client leaves; `is_gone` is set then."""
        with unwrapped():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch, nursery.cancel_scope)
                yield
                nursery.cancel_scope.cancel()

    async def _watch(self, scope: trio.CancelScope) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.is_gone = True
        scope.cancel()

    async def _put(self, message: dict[str, object]) -> None:
        if self.is_gone:
            await trio.lowlevel.checkpoint()
            raise TransportClosed
        await send_within(self._send_timeout, self._send, message)
