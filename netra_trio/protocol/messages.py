"""Every wire message, one frozen class each: the class is the payload, its `TYPE` the envelope's.

>>> UserMessage(content="hello").agent is None
True
"""

import re
from enum import StrEnum
from typing import Any, ClassVar, Protocol

import attrs
from attrs import field

from netra_trio.ids import (
    ConnectionId,
    CorrelationId,
    MessageId,
    RunId,
    SessionId,
    ThreadId,
    ToolCallId,
    UserId,
)
from netra_trio.values import frozen

JsonObject = dict[str, Any]

CORRELATION_ID_CHARACTERS = 128  # the contract's bound, section 3
HISTORY_PAGE = 50  # messages, unless the client asks for another number
HISTORY_PAGE_MAX = 100  # messages

_THREAD_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_THREAD_ID_TEXT = "1 to 64 characters out of A-Z, a-z, 0-9, _ and -"


class OnBusy(StrEnum):
    """What to do when the thread has a run already."""

    ENQUEUE = "enqueue"
    REJECT = "reject"
    INTERRUPT = "interrupt"


class RunStatus(StrEnum):
    """Where a run is; every status but the first two is an end's."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    INTERRUPTED = "interrupted"


class Confirmation(StrEnum):
    """What became of a message."""

    ACCEPTED = "accepted"
    QUEUED = "queued"
    DUPLICATE = "duplicate"


class Verdict(StrEnum):
    """What a connection's session is to the one the client asked for."""

    NEW = "new"
    EXACT = "exact"
    GAP = "gap"
    RESET = "reset"


class ResetReason(StrEnum):
    """Why a session could not be resumed."""

    UNKNOWN = "unknown"
    AHEAD = "ahead"


class ExpectationError(ValueError):
    """A field has the right type and a wrong value.

    Attributes:
        expected: What was expected.
        field: The field's name.
        value: What came.
    """

    def __init__(self, expected: str, field: str, value: object) -> None:
        super().__init__(expected)
        self.expected = expected
        self.field = field
        self.value = value


def _thread_id(_: object, attribute: "attrs.Attribute[Any]", value: str | None) -> None:
    if value is not None and not _THREAD_ID.fullmatch(value):
        raise ExpectationError(_THREAD_ID_TEXT, attribute.name, value)


def _not_blank(_: object, attribute: "attrs.Attribute[Any]", value: str) -> None:
    if not value.strip():
        raise ExpectationError("a text that is not blank", attribute.name, value)


def _name(_: object, attribute: "attrs.Attribute[Any]", value: str | None) -> None:
    if value is not None and not value:
        raise ExpectationError("a name", attribute.name, value)


def _positive(_: object, attribute: "attrs.Attribute[Any]", value: int | None) -> None:
    if value is not None and value < 1:
        raise ExpectationError("an integer from 1", attribute.name, value)


def _not_negative(_: object, attribute: "attrs.Attribute[Any]", value: int) -> None:
    if value < 0:
        raise ExpectationError("an integer from 0", attribute.name, value)


def _page(_: object, attribute: "attrs.Attribute[Any]", value: int) -> None:
    if not 1 <= value <= HISTORY_PAGE_MAX:
        raise ExpectationError(f"an integer from 1 to {HISTORY_PAGE_MAX}", attribute.name, value)


def _correlation_id(_: object, attribute: "attrs.Attribute[Any]", value: str | None) -> None:
    if value is not None and not 1 <= len(value) <= CORRELATION_ID_CHARACTERS:
        raise ExpectationError(
            f"1 to {CORRELATION_ID_CHARACTERS} characters", attribute.name, value
        )


# Client to server.


@frozen
class Ping:
    """A client asks whether the server is there; `pong` comes back with the same payload."""

    TYPE: ClassVar[str] = "ping"
    payload: JsonObject


@frozen
class Pong:
    """The answer to `ping` (from the server) or to `heartbeat` (from the client)."""

    TYPE: ClassVar[str] = "pong"
    payload: JsonObject


@frozen
class Auth:
    """A new token for the connection, of the same user."""

    TYPE: ClassVar[str] = "auth"
    token: str = field(repr=False)


@frozen
class Ack:
    """The client has every event up to and including `seq`."""

    TYPE: ClassVar[str] = "ack"
    seq: int = field(validator=_not_negative)


@frozen
class UserMessage:
    """Something a user says to an agent."""

    TYPE: ClassVar[str] = "user_message"
    content: str = field(validator=_not_blank)
    thread_id: ThreadId | None = field(default=None, validator=_thread_id)
    correlation_id: CorrelationId | None = field(default=None, validator=_correlation_id)
    agent: str | None = field(default=None, validator=_name)
    on_busy: OnBusy = OnBusy.ENQUEUE
    deadline_ms: int | None = field(default=None, validator=_positive)


@frozen
class AgentRequest:
    """A request to one agent, with structured input."""

    TYPE: ClassVar[str] = "agent_request"
    agent: str = field(validator=_name)
    input: JsonObject | str
    thread_id: ThreadId | None = field(default=None, validator=_thread_id)
    on_busy: OnBusy = OnBusy.ENQUEUE
    deadline_ms: int | None = field(default=None, validator=_positive)


@frozen
class StopAgent:
    """Stop a run; its `agent_completed` is the answer."""

    TYPE: ClassVar[str] = "stop_agent"
    run_id: RunId = field(validator=_name)


@frozen
class GetThreadHistory:
    """Ask for the newest messages of a thread, strictly before `before` where given."""

    TYPE: ClassVar[str] = "get_thread_history"
    thread_id: ThreadId = field(validator=_thread_id)
    limit: int = field(default=HISTORY_PAGE, validator=_page)
    before: MessageId | None = field(default=None, validator=_name)


Inbound = Ping | Pong | Auth | Ack | UserMessage | AgentRequest | StopAgent | GetThreadHistory
WorkMessage = UserMessage | AgentRequest
INBOUND: dict[str, type[Inbound]] = {
    cls.TYPE: cls
    for cls in (Ping, Pong, Auth, Ack, UserMessage, AgentRequest, StopAgent, GetThreadHistory)
}
"""What a client may send."""


# Server to client: control frames, never numbered and never replayed.


class Outbound(Protocol):
    """What can be encoded: an attrs class whose fields are the payload."""

    TYPE: ClassVar[str]


@frozen
class ResumeState:
    """What the session of a new connection is to the one that was asked for.

    Attributes:
        verdict: How much of it there is; a reset has a `reason`.
        replayed: How many numbers come out of the log.
        last_seq: The number after which events follow on this socket.
        runs: Runs that the client does not know the end of.
    """

    verdict: Verdict
    reason: ResetReason | None = None
    replayed: int = field(default=0, kw_only=True)
    last_seq: int = field(default=0, kw_only=True)
    runs: tuple[JsonObject, ...] = field(default=(), kw_only=True)


@frozen
class ConnectionEstablished:
    """The first frame of every connection."""

    TYPE: ClassVar[str] = "connection_established"
    connection_id: ConnectionId
    session_id: SessionId
    user_id: UserId
    server_time: float
    heartbeat_interval: int
    features: JsonObject
    limits: JsonObject
    resume: ResumeState


@frozen
class Heartbeat:
    """The server is there; answer with `pong`, or with anything else."""

    TYPE: ClassVar[str] = "heartbeat"
    server_time: float


@frozen
class AuthOk:
    """The new token holds, until `expires_at` (Unix seconds)."""

    TYPE: ClassVar[str] = "auth_ok"
    expires_at: float


@frozen
class AuthExpiring:
    """The token ends at `expires_at` (Unix seconds); send a new one with `auth`."""

    TYPE: ClassVar[str] = "auth_expiring"
    expires_at: float


@frozen
class ServerDraining:
    """The server is about to go; connect again after `reconnect_after_ms`."""

    TYPE: ClassVar[str] = "server_draining"
    reason: str
    reconnect_after_ms: int


@frozen
class HistoryRun:
    """The run that a user's message started."""

    run_id: RunId
    agent_name: str
    status: RunStatus


@frozen
class HistoryMessage:
    """One message of a thread, as history lists it."""

    message_id: MessageId
    role: str
    content: str
    created_at: float
    correlation_id: CorrelationId | None = None
    run: HistoryRun | None = None
    truncated: bool | None = None


@frozen
class ThreadHistory:
    """A page of a thread, oldest message first."""

    TYPE: ClassVar[str] = "thread_history"
    thread_id: ThreadId
    messages: tuple[Any, ...]  # of `HistoryMessage`, or of what it is encoded
    has_more: bool


# Server to client: events, numbered per session.


@frozen
class MessageConfirmed:
    """The message is recorded; its run starts, waits, or was started before."""

    TYPE: ClassVar[str] = "message_confirmed"
    message_id: MessageId
    run_id: RunId
    thread_id: ThreadId
    status: Confirmation
    position: int | None = None
    run_status: RunStatus | None = None


@frozen
class AgentStarted:
    """A run begins, or begins again with the next `attempt`."""

    TYPE: ClassVar[str] = "agent_started"
    run_id: RunId
    agent_name: str
    thread_id: ThreadId
    attempt: int


@frozen
class AgentThinking:
    """A thought of the agent on its way."""

    TYPE: ClassVar[str] = "agent_thinking"
    run_id: RunId
    thought: str
    step_number: int | None = None
    total_steps: int | None = None


@frozen
class PartialResult:
    """A piece of the answer, to append to what came before."""

    TYPE: ClassVar[str] = "partial_result"
    run_id: RunId
    content: str


@frozen
class ToolExecuting:
    """The agent uses a tool."""

    TYPE: ClassVar[str] = "tool_executing"
    run_id: RunId
    tool_call_id: ToolCallId
    tool_name: str
    arguments: Any
    truncated: bool | None = None


@frozen
class ToolCompleted:
    """The tool is done: `result` where `success`, `error` (a text) otherwise."""

    TYPE: ClassVar[str] = "tool_completed"
    run_id: RunId
    tool_call_id: ToolCallId
    tool_name: str
    success: bool
    duration_ms: int
    result: Any = None
    error: str | None = None
    truncated: bool | None = None


@frozen
class AgentCompleted:
    """The one end of a run: nothing of it comes after.

    Attributes:
        abandoned: True where a task of it did not obey its cancellation, and may still be at work.
    """

    TYPE: ClassVar[str] = "agent_completed"
    run_id: RunId
    status: RunStatus
    duration_ms: int
    result: Any = None
    error: JsonObject | None = None
    truncated: bool | None = None
    abandoned: bool | None = None


Event = (
    MessageConfirmed
    | AgentStarted
    | AgentThinking
    | PartialResult
    | ToolExecuting
    | ToolCompleted
    | AgentCompleted
)
