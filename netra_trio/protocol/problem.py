"""What a client is told when something is refused or fails."""

from typing import Any

from attrs import frozen

from netra_trio.errors import NetraError
from netra_trio.protocol.codes import ERRORS, ErrorCode

STORE_RETRY_MS = 1000  # a restarted database is back in about that time


@frozen
class Problem:
    """An error as a client sees it (docs/protocol.md, Error codes).

    Attributes:
        code: For programs.
        error: For people: what was expected and what came. Never a credential, an exception's
            text or another user's data.
        help: What to do now.
        recoverable: Whether the connection stays open.
        retry_after_ms: How long to wait before the same thing may work, in milliseconds.
        error_id: Joins this error with a log line, where the fault is ours or an agent's.
        status: The HTTP status that goes with it.
    """

    code: ErrorCode
    error: str
    help: str
    recoverable: bool
    status: int
    retry_after_ms: int | None = None
    error_id: str | None = None

    def body(self, timestamp: float) -> dict[str, Any]:
        """Return the error body, stamped with Unix seconds."""
        body: dict[str, Any] = {
            "code": str(self.code),
            "error": self.error,
            "timestamp": timestamp,
            "recoverable": self.recoverable,
            "help": self.help,
        }
        if self.retry_after_ms is not None:
            body["retry_after_ms"] = self.retry_after_ms
        if self.error_id is not None:
            body["error_id"] = self.error_id
        return body


def http_body(fault: Problem, timestamp: float) -> dict[str, Any]:
    """Return an error for HTTP: the frame a socket would carry, its fields at the top as well.

    So one reader of errors serves both, and one that only knows HTTP finds `code` where it looks.
    """
    body = fault.body(timestamp)
    return {"type": "error", "payload": body, **body}


def problem(
    code: ErrorCode,
    error: str,
    *,
    help: str | None = None,  # noqa: A002 - the contract's name for it
    recoverable: bool | None = None,
    status: int | None = None,
    retry_after_ms: int | None = None,
    error_id: str | None = None,
) -> Problem:
    """Make a `Problem`, with what the table of codes says where nothing else is given."""
    kind = ERRORS[code]
    return Problem(
        code=code,
        error=error,
        help=kind.help if help is None else help,
        recoverable=kind.recoverable if recoverable is None else recoverable,
        status=kind.status if status is None else status,
        retry_after_ms=retry_after_ms,
        error_id=error_id,
    )


def store_unavailable(text: str = "The store cannot answer now.") -> Problem:
    """Return what a client is told while the store is down."""
    return problem(ErrorCode.SERVICE_UNAVAILABLE, text, retry_after_ms=STORE_RETRY_MS)


class Refused(NetraError):
    """Somebody asked for something and is told no."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.error)
        self.problem = problem
