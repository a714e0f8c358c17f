"""Telemetry events: what happens to upgrades, connections, sessions, runs and tools.

>>> event = SessionEnded("sess_1", "alice", "window_passed", seconds=2.5)
>>> event.EVENT, event.LEVEL
('session_ended', 'info')

The code that causes an event passes it once to `Instruments.note`; the log, the metrics and the
traces each use what they need of it. `EVENT` is its name in the log and `LEVEL` its level; an event
with `LEVEL` None is not logged. Fields made with `unlogged` are not logged either. The values are
immutable, because the log line may be rendered later. `repeated` is the number of further events
that the line of a sampled event stands for.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, ClassVar

import attrs
from attrs import field

from netra_trio.protocol.admin import AdminAction
from netra_trio.protocol.codes import EndReason, ErrorCode
from netra_trio.protocol.messages import (
    QuestionKind,
    QuestionOutcome,
    ResetReason,
    RunStatus,
    Verdict,
)
from netra_trio.values import frozen

_UNLOGGED = "unlogged"


def unlogged(**more: Any) -> Any:
    """Return a field that is not logged."""
    return field(metadata={_UNLOGGED: True}, **more)


@frozen
class UpgradeStarted:
    """An upgrade was requested.

    Attributes:
        carrier: The headers of the request that identify its trace.
    """

    EVENT: ClassVar[str] = "opening_started"
    LEVEL: ClassVar[str | None] = None
    carrier: Mapping[str, str]


@frozen
class OpeningRefused:
    """An upgrade or an HTTP request was refused.

    Attributes:
        upgrade: Whether it was an upgrade.
        repeated: How many more refusals with the same cause this line stands for.
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
    """The server failed to process an upgrade; the exception is logged where it is caught."""

    EVENT: ClassVar[str] = "opening_failed"
    LEVEL: ClassVar[str | None] = None


@frozen
class ConnectionOpened:
    """A connection was accepted with a new session.

    Attributes:
        verdict: `new`, or `reset` if an older session was requested.
        reason: The reason for a reset.
        opening_seconds: Time since the head of the request was read.
    """

    EVENT: ClassVar[str] = "connection_opened"
    LEVEL: ClassVar[str | None] = "info"
    verdict: Verdict
    reason: ResetReason | None = None
    session_id: str = unlogged(default="")
    opening_seconds: float | None = unlogged(default=None)
    repeated: int = 0


@frozen
class ConnectionResumed:
    """A connection was accepted and resumed its session.

    Attributes:
        away: Seconds that the session had no connection; None if it still had its previous one.
        was_lost: Whether the previous connection was lost, and not closed.
        replayed: The number of sequence numbers that are sent from the log.
    """

    EVENT: ClassVar[str] = "connection_resumed"
    LEVEL: ClassVar[str | None] = "info"
    verdict: Verdict
    away: float | None
    replayed: int
    was_lost: bool = unlogged()
    session_id: str = unlogged(default="")
    opening_seconds: float | None = unlogged(default=None)
    repeated: int = 0


@frozen
class ConnectionEnded:
    """A connection ended."""

    EVENT: ClassVar[str] = "connection_ended"
    LEVEL: ClassVar[str | None] = "info"
    reason: str
    peer_code: int | None
    seconds: float
    frames_in: int
    frames_out: int
    repeated: int = 0


@frozen
class SessionEnded:
    """A session ended.

    Attributes:
        unattended: The number of its runs that continue without it.
        was_lost: Whether its last connection was lost, and not closed.
    """

    EVENT: ClassVar[str] = "session_ended"
    LEVEL: ClassVar[str | None] = "info"
    session_id: str
    user_id: str
    reason: str
    seconds: float
    unattended: int = 0
    was_lost: bool = unlogged(default=False)
    repeated: int = 0


@frozen
class RunStarted:
    """A run started.

    Attributes:
        waited: Seconds since its message arrived.
    """

    EVENT: ClassVar[str] = "run_started"
    LEVEL: ClassVar[str | None] = "debug"
    run_id: str
    agent: str
    waited: float
    session_id: str = unlogged()


@frozen
class RunEnded:
    """A run ended, with any status.

    Attributes:
        seconds: Time since its first `agent_started`; 0 if it never started.
        code: The code of its error, if it has one.
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
    """A tool call started."""

    EVENT: ClassVar[str] = "tool_started"
    LEVEL: ClassVar[str | None] = None
    run_id: str
    tool_call_id: str
    name: str


@frozen
class ToolEnded:
    """A tool call ended: `completed`, `failed`, or `cut_off` by the end of its run."""

    EVENT: ClassVar[str] = "tool_ended"
    LEVEL: ClassVar[str | None] = None
    tool_call_id: str
    outcome: str
    seconds: float


@frozen
class QuestionClosed:
    """A question of a run was closed.

    Attributes:
        seconds: Since it was asked.
    """

    EVENT: ClassVar[str] = "question_closed"
    LEVEL: ClassVar[str | None] = "info"
    run_id: str
    question_id: str
    kind: QuestionKind
    outcome: QuestionOutcome
    seconds: float


@frozen
class FileUploaded:
    """A user has uploaded a file.

    Attributes:
        bytes: The size of the file.
        seconds: From the head of the request to its answer.
    """

    EVENT: ClassVar[str] = "file_uploaded"
    LEVEL: ClassVar[str | None] = "info"
    user_id: str
    file_id: str
    media_type: str
    bytes: int
    seconds: float


@frozen
class UploadRefused:
    """An upload was refused after the checks of its user; `opening_refused` is its log line."""

    EVENT: ClassVar[str] = "upload_refused"
    LEVEL: ClassVar[str | None] = None
    code: ErrorCode
    status: int


@frozen
class FileSent:
    """The content of a file, or a part of it, was sent to a client.

    Attributes:
        bytes: How many the client has taken, also if it left.
    """

    EVENT: ClassVar[str] = "file_sent"
    LEVEL: ClassVar[str | None] = None
    bytes: int


@frozen
class NotificationSent:
    """The webhook has accepted a notification.

    Attributes:
        kind: The `type` of the notification.
        attempts: The number of attempts, this one included.
        seconds: The time until the webhook's answer.
    """

    EVENT: ClassVar[str] = "notification_sent"
    LEVEL: ClassVar[str | None] = "info"
    notification_id: str
    run_id: str
    kind: str
    attempts: int
    seconds: float


@frozen
class NotificationFailed:
    """The webhook has not accepted a notification; it is sent again.

    Attributes:
        kind: The `type` of the notification.
        attempts: The number of attempts, this one included.
        reason: The status of the answer, or the error.
        retry_in: The seconds until the next attempt.
    """

    EVENT: ClassVar[str] = "notification_failed"
    LEVEL: ClassVar[str | None] = "warning"
    notification_id: str
    run_id: str
    kind: str
    attempts: int
    reason: str
    retry_in: float


@frozen
class NotificationDropped:
    """A notification is not sent, because the user has a connection.

    Attributes:
        kind: The `type` of the notification.
    """

    EVENT: ClassVar[str] = "notification_dropped"
    LEVEL: ClassVar[str | None] = "debug"
    notification_id: str
    run_id: str
    kind: str


@frozen
class UsageReported:
    """A run has used a model."""

    EVENT: ClassVar[str] = "usage_reported"
    LEVEL: ClassVar[str | None] = None
    run_id: str
    agent: str
    input_tokens: int
    output_tokens: int
    cost: float | None


@frozen
class ListenerCrowded:
    """No connection can be accepted: the process or the system has no file descriptor left."""

    EVENT: ClassVar[str] = "crowded"
    LEVEL: ClassVar[str | None] = "error"
    reason: str
    repeated: int = 0


@frozen
class RequestAnswered:
    """An HTTP request was answered.

    Attributes:
        endpoint: A path of the server, `page` for the files of the chat page, or `other`.
    """

    EVENT: ClassVar[str] = "request_answered"
    LEVEL: ClassVar[str | None] = None
    endpoint: str
    seconds: float


class DoorOutcome(StrEnum):
    """How the answer of a door ended.

    COMPLETED: All of it was sent.
    LEFT: The client left before the end.
    STALLED: The client took nothing for the send timeout.
    LOST: The connection to the run ended first, for instance by a drain.
    REFUSED: The request was refused.
    """

    COMPLETED = "completed"
    LEFT = "left"
    STALLED = "stalled"
    LOST = "lost"
    REFUSED = "refused"


@frozen
class DoorAnswered:
    """A request at a door was answered, or its answer was cut."""

    EVENT: ClassVar[str] = "door_answered"
    LEVEL: ClassVar[str | None] = "debug"
    door: str
    outcome: DoorOutcome


@frozen
class AdminActed:
    """An administrator has asked for an action.

    Attributes:
        actor: The user of the token.
        target: The id of a run, a session, a user or a node.
        result: `done`, the code of the refusal, or `unknown` after a fault of the server.
    """

    EVENT: ClassVar[str] = "admin_action"
    LEVEL: ClassVar[str | None] = "info"
    actor: str
    action: AdminAction
    target: str
    result: str


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
    | QuestionClosed
    | FileUploaded
    | UploadRefused
    | FileSent
    | NotificationSent
    | NotificationFailed
    | NotificationDropped
    | UsageReported
    | ListenerCrowded
    | RequestAnswered
    | DoorAnswered
    | AdminActed
)

LOST = frozenset({EndReason.PEER_LOST, EndReason.SEND_TIMEOUT, EndReason.HEARTBEAT_MISSED})
"""The reasons of ended connections that count as lost: their clients did not close them."""

TOOL_OUTCOMES = ("completed", "failed", "cut_off")

MOVED = ("moved", "taken_over")
"""The reasons for which a session ends at one node, and goes on at another."""

SESSION_ENDS = (
    "window_passed",
    *MOVED,
    "connection_ended",
    "too_many_sessions",
    "never_opened",
    "door_done",
    "user_disabled",
    "ended_by_administrator",
    "drained",
    "closed",
    "ended",
)
"""The reasons for which sessions end."""


def logged_fields(kind: type[Any]) -> tuple[str, ...]:
    """Return the logged fields of a kind of event, in order."""
    return tuple(each.name for each in attrs.fields(kind) if _UNLOGGED not in each.metadata)
