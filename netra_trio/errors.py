"""One tree of what can go wrong, as plain values.

A `Problem` is what a client is told; `Refused` carries one to the place that tells it. Everything
else here is raised for the program's own use and never shown to a client.
"""

import traceback
from collections.abc import Iterator
from typing import Any

from attrs import frozen

from netra_trio.codes import ERRORS, ErrorCode

STORE_RETRY_MS = 1000  # a restarted database is back in about that time


@frozen
class Problem:
    """An error as a client sees it (protocol.md, section 5).

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


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Return the exceptions in a group, however deep; of any other exception itself."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error


def place_of(error: BaseException) -> str:
    """Return the file and line where an exception was raised: its text may quote what came in."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "an unknown place"


class NetraError(Exception):
    """The root of everything this package raises on purpose."""


class Refused(NetraError):
    """Somebody asked for something and is told no."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.error)
        self.problem = problem


class SettingsError(NetraError):
    """The settings are wrong; the text lists every fault and its mend."""


class DatabaseUnusable(SettingsError):
    """What DATABASE_URL names can never work; the text says why and what to do."""


class StoreUnavailable(NetraError):
    """The store cannot answer now; trying again may help."""


class KeyConflict(NetraError):
    """The idempotency key was used before, with other content."""


class MessageNotFound(NetraError):
    """The thread has no such message."""


class TransportClosed(NetraError):
    """The line is gone.

    Attributes:
        code: The peer's close code, None where it vanished without one.
        timed_out: Whether it was given up because the peer took nothing for too long.
    """

    def __init__(self, code: int | None = None, *, timed_out: bool = False) -> None:
        super().__init__(f"transport closed (code {code}, timed out: {timed_out})")
        self.code = code
        self.timed_out = timed_out


class RetryableAgentError(NetraError):
    """Raised by an agent before it emitted anything: try the run again."""


class ToolError(NetraError):
    """Raised inside a `run.tool` block: its text is meant for the client and is shown to it."""


class MessageTooBig(NetraError):
    """A peer sent a frame beyond the hard size limit."""


def is_only(group: BaseException, error: BaseException) -> bool:
    """Whether a group has nothing in it but an error, or what is in that one.

    A nursery makes a group of what a block raised, and may copy groups, but not their leaves.
    """
    known = {id(leaf) for leaf in leaves(error)}
    return all(id(leaf) in known for leaf in leaves(group))
