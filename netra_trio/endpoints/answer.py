"""HTTP answers, and the one place that writes them: as ASGI messages or as bytes of HTTP/1.1.

await send_answer(send, "http", Answer(200, {"status": "healthy"}))
"""

from collections.abc import Callable, Mapping
from http import HTTPStatus
from math import ceil
from typing import Any

import orjson
from attrs import field, frozen

from netra_trio.endpoints.request import Request
from netra_trio.protocol.problem import Problem, http_body
from netra_trio.telemetry.events import OpeningRefused, TelemetryEvent
from netra_trio.transports.asgi import Send
from netra_trio.transports.handshake import UPGRADE_REQUIRED

ORIGIN_CHARACTERS = 100  # of a refused Origin that a log line may hold


@frozen
class Answer:
    """An HTTP answer with a JSON body, with bytes, or without a body.

    Attributes:
        status: The HTTP status.
        body: Sent as JSON; None for no JSON body.
        headers: Headers beside those that every answer has.
        content: Sent as it is; `headers` then have its Content-Type.
    """

    status: int
    body: Any = None
    headers: dict[str, str] = field(factory=dict)
    content: bytes | None = None

    def encode(self, more_headers: Mapping[str, str] | None = None) -> tuple[dict[str, str], bytes]:
        """Return all headers and the body's bytes; `more_headers` are added to the answer's."""
        headers = {**self.headers, **(more_headers or {}), "x-content-type-options": "nosniff"}
        if self.content is None and self.body is None:
            return headers, b""
        body = orjson.dumps(self.body) if self.content is None else self.content
        headers = {"content-type": "application/json", **headers, "content-length": str(len(body))}
        return headers, body


def problem_answer(fault: Problem, timestamp: float) -> Answer:
    """Return the answer for a rejected request; `timestamp` is Unix seconds."""
    headers = {}
    if fault.retry_after_ms is not None:
        headers["retry-after"] = str(ceil(fault.retry_after_ms / 1000))
    if fault.status == 401:  # noqa: PLR2004 - HTTP's own number
        headers["www-authenticate"] = "Bearer"
    if fault.status == UPGRADE_REQUIRED:
        headers |= {"upgrade": "websocket", "sec-websocket-version": "13"}
    return Answer(fault.status, http_body(fault, timestamp), headers)


def refusal(
    fault: Problem,
    timestamp: float,
    request: Request,
    path: str,
    note: Callable[[TelemetryEvent], None],
    *,
    upgrade: bool = False,
) -> Answer:
    """Return the answer for a rejected request, and note the rejection.

    Args:
        fault: The reason.
        timestamp: Unix seconds.
        request: The request.
        path: Its path, decoded.
        note: Receives the telemetry event.
        upgrade: Whether the request asked for a WebSocket.
    """
    note(
        OpeningRefused(
            path=path,
            status=fault.status,
            code=fault.code,
            error=fault.error,
            origin=request.origins[0][:ORIGIN_CHARACTERS] if request.origins else None,
            peer=request.peer,
            upgrade=upgrade,
        )
    )
    return problem_answer(fault, timestamp)


async def send_answer(
    send: Send, kind: str, answer: Answer, more_headers: Mapping[str, str] | None = None
) -> None:
    """Send an answer as ASGI messages.

    Args:
        send: The send of the ASGI call.
        kind: `http`, or `websocket.http` for a rejected upgrade.
        answer: The answer.
        more_headers: Headers to add.
    """
    headers, body = answer.encode(more_headers)
    await send(
        {
            "type": f"{kind}.response.start",
            "status": answer.status,
            "headers": encoded_headers(headers),
        }
    )
    await send({"type": f"{kind}.response.body", "body": body})


def encoded_headers(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Return headers as ASGI has them."""
    return [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]


def http1_bytes(answer: Answer) -> bytes:
    """Return an answer as bytes of HTTP/1.1; the connection ends with it."""
    headers, body = answer.encode({"connection": "close"})
    reason = HTTPStatus(answer.status).phrase
    lines = [f"HTTP/1.1 {answer.status} {reason}", *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body
