"""Errors of the server as exceptions, and which of them are temporary.

>>> refusal = refusal_of(Event("error", {"code": "QUEUE_FULL", "error": "Full.", "help": "Wait."}))
>>> refusal.code, wait_seconds(refusal.retry_after_ms)
('QUEUE_FULL', 1.0)
"""

from math import inf

from netra_trio.client.errors import BudgetExceeded, MessageRefused
from netra_trio.client.event import Event
from netra_trio.client.retry import doubled
from netra_trio.protocol.codes import ErrorCode

RETRY_SECONDS = 1.0  # after a temporary error without `retry_after_ms`
SHORTEST_SECONDS = 0.25  # whatever the server says: an answer must not drive a loop
LONGEST_SECONDS = 30.0  # that repeated errors without `retry_after_ms` lead to

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
    is_budget = payload.get("code") == ErrorCode.BUDGET_EXCEEDED
    kind = BudgetExceeded if is_budget else MessageRefused
    return kind(
        str(payload.get("code")),
        str(payload.get("error", "")),
        str(payload.get("help", "")),
        retry_after_ms=wait if type(wait) is int else None,
        correlation_id=event.correlation_id,
    )


def wait_seconds(retry_after_ms: int | None, refusals: int = 0) -> float:
    """Return how long to wait after a temporary error.

    A server that asks for less than `RETRY_SECONDS`, or for nothing, is asked more and more rarely.

    Args:
        retry_after_ms: Milliseconds that the server asks for; None if it does not say.
        refusals: How often the frame was refused before this time.
    """
    asked = RETRY_SECONDS if retry_after_ms is None else retry_after_ms / 1000
    if retry_after_ms is not None and asked >= RETRY_SECONDS:
        return asked
    return max(SHORTEST_SECONDS, asked) if refusals == 0 else back_off_seconds(refusals - 1)


def back_off_seconds(times: int) -> float:
    """Return a pause that doubles each time, from `RETRY_SECONDS` to `LONGEST_SECONDS`."""
    return doubled(RETRY_SECONDS, LONGEST_SECONDS, times)


class Spacing:
    """Spaces an action that answers of a server may drive: later ones back off.

    >>> spacing = Spacing()
    >>> [spacing.start(now=0.0) for _ in range(5)]
    [0.0, 0.0, 0.0, 1.0, 2.0]
    >>> spacing.start(now=60.0)
    0.0
    """

    _AT_ONCE = 3  # of them

    def __init__(self) -> None:
        self._times = 0
        self._last_at = -inf

    def start(self, now: float) -> float:
        """Count the action; return the seconds after which it is due."""
        if now - self._last_at > LONGEST_SECONDS:
            self._times = 0
        self._times += 1
        pause = 0.0
        if self._times > self._AT_ONCE:
            pause = back_off_seconds(self._times - self._AT_ONCE - 1)
        self._last_at = now + pause
        return pause
