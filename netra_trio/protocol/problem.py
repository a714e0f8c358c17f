"""The errors of the protocol, which are sent to clients."""

from math import ceil
from typing import Any

from attrs import frozen

from netra_trio.errors import NetraError
from netra_trio.protocol.codes import ERRORS, ErrorCode

STORE_RETRY_MS = 1000  # about the time of a database restart
BROKER_RETRY_MS = 1000  # nodes ask an unavailable broker again every second


@frozen
class Problem:
    """An error that is sent to a client (docs/protocol.md, Error codes).

    Attributes:
        code: The error code, for programs.
        error: A text for people. It never contains a credential, the text of an exception or data
            of another user.
        help: A hint for the user.
        recoverable: Whether the connection stays open.
        retry_after_ms: Milliseconds to wait before a retry may succeed.
        error_id: The id of the log line about it, for errors of the server or of an agent.
        status: The HTTP status.
    """

    code: ErrorCode
    error: str
    help: str
    recoverable: bool
    status: int
    retry_after_ms: int | None = None
    error_id: str | None = None

    def body(self, timestamp: float) -> dict[str, Any]:
        """Return the error body; `timestamp` is Unix seconds."""
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
    """Return the body of an HTTP error: an `error` frame, with the payload's fields at the top too.

    A client can read it with the code that reads `error` frames. An HTTP client that does not know
    frames finds `code` at the top.
    """
    body = fault.body(timestamp)
    return {"type": "error", "payload": body, **body}


def problem(
    code: ErrorCode,
    error: str,
    *,
    help: str | None = None,  # noqa: A002 - the name of the field in an error body
    recoverable: bool | None = None,
    status: int | None = None,
    retry_after_ms: int | None = None,
    error_id: str | None = None,
) -> Problem:
    """Return a `Problem`; arguments that are None are taken from the table of error codes."""
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
    """Return the error for an unavailable store."""
    return problem(ErrorCode.SERVICE_UNAVAILABLE, text, retry_after_ms=STORE_RETRY_MS)


def broker_unavailable(text: str = "The broker cannot answer now.") -> Problem:
    """Return the error for what needs another node, or what all nodes share."""
    return problem(ErrorCode.SERVICE_UNAVAILABLE, text, retry_after_ms=BROKER_RETRY_MS)


def rate_limited(text: str, seconds: float, *, help: str | None = None) -> Problem:  # noqa: A002 - as in `problem`
    """Return the error beyond a rate; a retry may succeed after `seconds`."""
    wait_ms = ceil(seconds * 1000)
    return problem(ErrorCode.RATE_LIMIT_EXCEEDED, text, help=help, retry_after_ms=wait_ms)


class Refused(NetraError):
    """A request was refused."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.error)
        self.problem = problem
