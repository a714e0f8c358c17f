"""Errors of the server as exceptions, and which of them are temporary.

>>> refusal = refusal_of(Event("error", {"code": "QUEUE_FULL", "error": "Full.", "help": "Wait."}))
>>> refusal.code, wait_seconds(refusal.retry_after_ms)
('QUEUE_FULL', 1.0)
"""

from netra_trio.client.errors import MessageRefused
from netra_trio.client.event import Event
from netra_trio.protocol.codes import ErrorCode

RETRY_SECONDS = 1.0  # after a temporary error without `retry_after_ms`

TEMPORARY = frozenset(
    {
        ErrorCode.RATE_LIMIT_EXCEEDED,
        ErrorCode.SERVICE_UNAVAILABLE,
        ErrorCode.SERVER_DRAINING,
    }
)
"""The codes after which any frame is sent again; for a message of the outbox, QUEUE_FULL too."""


def refusal_of(event: Event) -> MessageRefused:
    """Return the exception for an `error` frame."""
    payload = event.payload
    wait = payload.get("retry_after_ms")
    return MessageRefused(
        str(payload.get("code")),
        str(payload.get("error", "")),
        str(payload.get("help", "")),
        retry_after_ms=wait if type(wait) is int else None,
        correlation_id=event.correlation_id,
    )


def wait_seconds(retry_after_ms: int | None) -> float:
    """Return how long to wait after a temporary error."""
    return RETRY_SECONDS if retry_after_ms is None else max(0, retry_after_ms) / 1000
