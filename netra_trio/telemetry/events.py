"""What happens to openings, connections, sessions, runs and tools: each fact once, for every sink.

>>> event = SessionEnded("sess_1", "alice", "window_passed", seconds=2.5)
>>> event.EVENT, event.LEVEL
('session_ended', 'info')

Whoever sees a fact happen says so with `Instruments.note`; the log, the figures and the traces are
sinks that take from it what they need. `EVENT` is its name in the log, `LEVEL` the level there, and
None is for facts that the log leaves to the others. A field made with `unlogged` is for them too.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import attrs
from attrs import field

from netra_trio.protocol.codes import EndReason, ErrorCode
from netra_trio.protocol.messages import ResetReason, RunStatus, Verdict
from netra_trio.values import frozen

_UNLOGGED = "unlogged"


def unlogged(**more: Any) -> Any:
    """Return a field that stays out of the log."""
    return field(metadata={_UNLOGGED: True}, **more)


@frozen
class UpgradeStarted:
    """Somebody asks for a WebSocket.

    Attributes:
        carrier: The headers of the request that say which trace it belongs to.
    """

    EVENT: ClassVar[str] = "opening_started"
    LEVEL: ClassVar[str | None] = None
    carrier: Mapping[str, str]


@frozen
class OpeningRefused:
    """An upgrade or an HTTP request was refused.

    Attributes:
        upgrade: Whether it was an upgrade.
        repeated: How many more of the same cause the line stands for.
    """

    EVENT: ClassVar[str] = "opening_refused"
    LEVEL: ClassVar[str | None] = "warning"
    path: str
    status: int
    code: ErrorCode
    error: str
    origin: str | None
    peer: str
    upgrade: bool
    repeated: int = 0


@frozen
class UpgradeFailed:
    """The server failed while it looked at an upgrade; the fault is logged where it is caught."""

    EVENT: ClassVar[str] = "opening_failed"
    LEVEL: ClassVar[str | None] = None


@frozen
class ConnectionOpened:
    """A connection comes in, with a new session.

    Attributes:
        verdict: `new`, or `reset` where it wanted an older session.
        reason: Why it is a reset.
        opening_seconds: From the request's head to here.
    """

    EVENT: ClassVar[str] = "connection_opened"
    LEVEL: ClassVar[str | None] = "info"
    verdict: Verdict
    reason: ResetReason | None = None
    session_id: str = unlogged(default="")
    opening_seconds: float | None = unlogged(default=None)


@frozen
class ConnectionResumed:
    """A connection comes in and goes on with its session.

    Attributes:
        away: Seconds that the session had no connection; None where it still had its old one.
        was_lost: Whether the one before was lost, and not closed.
        replayed: How many numbers come out of the log.
    """

    EVENT: ClassVar[str] = "connection_resumed"
    LEVEL: ClassVar[str | None] = "info"
    verdict: Verdict
    away: float | None
    replayed: int
    was_lost: bool = unlogged()
    session_id: str = unlogged(default="")
    opening_seconds: float | None = unlogged(default=None)


@frozen
class ConnectionEnded:
    """A connection is gone."""

    EVENT: ClassVar[str] = "connection_ended"
    LEVEL: ClassVar[str | None] = "info"
    reason: str
    peer_code: int | None
    seconds: float
    frames_in: int
    frames_out: int


@frozen
class SessionEnded:
    """A session has come to its end.

    Attributes:
        was_lost: Whether it waited for a connection that was lost.
    """

    EVENT: ClassVar[str] = "session_ended"
    LEVEL: ClassVar[str | None] = "info"
    session_id: str
    user_id: str
    reason: str
    seconds: float
    was_lost: bool = unlogged(default=False)


@frozen
class RunStarted:
    """A run begins.

    Attributes:
        waited: Seconds since its message came in.
    """

    EVENT: ClassVar[str] = "run_started"
    LEVEL: ClassVar[str | None] = "info"
    run_id: str
    agent: str
    waited: float
    session_id: str = unlogged()


@frozen
class RunEnded:
    """A run has ended, however.

    Attributes:
        seconds: From its first `agent_started`; 0 where it never started.
        code: Of its error, if it has one.
    """

    EVENT: ClassVar[str] = "run_ended"
    LEVEL: ClassVar[str | None] = "info"
    run_id: str
    agent: str
    status: RunStatus
    seconds: float
    attempts: int
    code: str | None = unlogged()


@frozen
class ToolStarted:
    """A tool is at work."""

    EVENT: ClassVar[str] = "tool_started"
    LEVEL: ClassVar[str | None] = None
    run_id: str
    tool_call_id: str
    name: str


@frozen
class ToolEnded:
    """A tool has ended: `completed`, `failed`, or `cut_off` with its run."""

    EVENT: ClassVar[str] = "tool_ended"
    LEVEL: ClassVar[str | None] = None
    tool_call_id: str
    outcome: str
    seconds: float


@frozen
class RequestAnswered:
    """An HTTP request was answered.

    Attributes:
        endpoint: One of the server's own paths, `page` for the chat page's files, or `other`.
    """

    EVENT: ClassVar[str] = "request_answered"
    LEVEL: ClassVar[str | None] = None
    endpoint: str
    seconds: float


TelemetryEvent = (
    UpgradeStarted
    | OpeningRefused
    | UpgradeFailed
    | ConnectionOpened
    | ConnectionResumed
    | ConnectionEnded
    | SessionEnded
    | RunStarted
    | RunEnded
    | ToolStarted
    | ToolEnded
    | RequestAnswered
)

LOST = frozenset({EndReason.PEER_LOST, EndReason.SEND_TIMEOUT, EndReason.HEARTBEAT_MISSED})
"""The ends of connections that their clients did not want."""

TOOL_OUTCOMES = ("completed", "failed", "cut_off")

SESSION_ENDS = (
    "window_passed",
    "connection_ended",
    "too_many_sessions",
    "never_opened",
    "user_disabled",
    "drained",
    "closed",
    "ended",
)
"""Why sessions end."""


def logged_fields(kind: type[Any]) -> tuple[str, ...]:
    """Return the fields of a fact that the log shows, in order."""
    return tuple(each.name for each in attrs.fields(kind) if _UNLOGGED not in each.metadata)
