"""One HTTP request, as an endpoint sees it."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import orjson
import trio
from attrs import frozen

from netra_trio.endpoints.answer import Answer
from netra_trio.endpoints.request import Request
from netra_trio.endpoints.responder import Responder
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.problem import Refused, problem
from netra_trio.services import Services
from netra_trio.transports.asgi import Receive

BODY_BYTES = 16 * 1024  # of a request, unless its endpoint has another limit
BODY_SECONDS = 10.0  # for a whole body, as for a request head


@frozen
class Call:
    """One HTTP request.

    Attributes:
        method: Its method, in upper case.
        path: Its path, decoded.
        request: Its headers, query and peer.
        services: The services of the application.
        receive: The ASGI call's receive, for the body.
        responder: Sends the answer of an endpoint that answers in pieces.
    """

    method: str
    path: str
    request: Request
    services: Services
    receive: Receive
    responder: Responder

    async def read_json(self) -> Any:
        """Read the body, at most 16 KiB within 10 s, and return it as JSON.

        Raises:
            Refused: BAD_REQUEST, with status 413, 408 or 400.
        """
        return decode_json(await self.read_body(BODY_BYTES))

    async def read_body(self, limit: int) -> bytes:
        """Read the body, at most `limit` bytes within 10 s.

        Raises:
            Refused: BAD_REQUEST, with status 413, 408 or 400.
        """
        parts: list[bytes] = []
        size, more = 0, True
        with trio.move_on_after(BODY_SECONDS) as patience:
            while more:
                message = await self.receive()
                if message["type"] == "http.disconnect":
                    text = "The body is not complete."
                    raise Refused(problem(ErrorCode.BAD_REQUEST, text))
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                more = message.get("more_body", False)
                if size > limit:
                    text = f"The body has more than {limit} bytes."
                    raise Refused(problem(ErrorCode.BAD_REQUEST, text, status=413))
        if patience.cancelled_caught:
            text = f"The body did not come within {BODY_SECONDS:g} s."
            raise Refused(problem(ErrorCode.BAD_REQUEST, text, status=408))
        return b"".join(parts)


def decode_json(body: bytes) -> Any:
    """Return the value of a body.

    Raises:
        Refused: BAD_REQUEST if it is not JSON.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        raise Refused(problem(ErrorCode.BAD_REQUEST, "The body is not JSON.")) from None


Endpoint: TypeAlias = Callable[[Call], Awaitable[Answer | None]]
"""Answers one request; None if its responder has answered. It raises `Refused` to reject it."""
