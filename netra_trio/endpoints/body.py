"""The body of a request, read in parts; it has no total time limit, but a minimum rate.

async for data in Body(call.receive, stall_seconds=5.0):
    ...
"""

from typing import Self

import trio

from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.problem import Refused, problem
from netra_trio.transports.asgi import Receive

LEAST_SPEED = 1024  # bytes per second, on the average since the start, from `GRACE_SECONDS` on
GRACE_SECONDS = 60.0


class Body:
    """The body of one request.

    Args:
        receive: The ASGI call's receive.
        stall_seconds: The longest time without any data.

    Attributes:
        size: The bytes that were read.
    """

    def __init__(self, receive: Receive, *, stall_seconds: float) -> None:
        self._receive = receive
        self._stall_seconds = stall_seconds
        self._has_more = True
        self._since = trio.current_time()
        self.size = 0

    async def read(self) -> bytes:
        """Return the next bytes of the body; none at its end. Cancelling is safe.

        Raises:
            Refused: BAD_REQUEST, if the client has left, or with status 408 if it sends nothing, or
                less than `LEAST_SPEED`.
        """
        while self._has_more:
            stalled_at = trio.current_time() + self._stall_seconds
            slow_at = self._since + GRACE_SECONDS + self.size / LEAST_SPEED
            with trio.move_on_at(min(stalled_at, slow_at)) as patience:
                message = await self._receive()
            if patience.cancelled_caught:
                text = f"No data of the body was received for {self._stall_seconds:g} s."
                if slow_at < stalled_at:
                    text = f"The body came too slowly: expected {LEAST_SPEED} bytes per second."
                raise Refused(problem(ErrorCode.BAD_REQUEST, text, status=408))
            if message["type"] == "http.disconnect":
                raise Refused(problem(ErrorCode.BAD_REQUEST, "The body is not complete."))
            self._has_more = message.get("more_body", False)
            data: bytes = message.get("body", b"")
            if data:
                self.size += len(data)
                return data
        await trio.lowlevel.checkpoint()
        return b""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        data = await self.read()
        if not data:
            raise StopAsyncIteration
        return data
