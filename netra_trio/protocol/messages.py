"""The wire messages: a class holds the fields of a payload, and its `TYPE` is the envelope's type.

>>> UserMessage(content="hello").agent is None
True
"""

from enum import StrEnum
from typing import Any, ClassVar, Protocol

from attrs import field

from netra_trio.ids import (
    ConnectionId,
    CorrelationId,
    FileId,
    MessageId,
    QuestionId,
    RunId,
    SessionId,
    ThreadId,
    ToolCallId,
    UserId,
)
from netra_trio.protocol.fields import (
    HISTORY_PAGE,
    JsonObject,
    JsonValue,
    check_attachments,
    check_correlation_id,
    check_name,
    check_not_blank,
    check_not_negative,
    check_page_size,
    check_positive,
    check_thread_id,
)
from netra_trio.values import frozen


class OnBusy(StrEnum):
    """How a message is handled if its thread already has a run."""

    ENQUEUE = "enqueue"
    REJECT = "reject"
    INTERRUPT = "interrupt"


class RunStatus(StrEnum):
    """The status of a run: the first two are of a live run, the others of a run that has ended."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    INTERRUPTED = "interrupted"


class QuestionKind(StrEnum):
    """The kind of a question: it asks for an answer, or for the approval of a tool call."""

    QUESTION = "question"
    APPROVAL = "approval"


class QuestionOutcome(StrEnum):
    """How a question was closed."""

    ANSWERED = "answered"
    APPROVED = "approved"
    DENIED = "denied"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


class Confirmation(StrEnum):
    """How a message was confirmed."""

    ACCEPTED = "accepted"
    QUEUED = "queued"
    DUPLICATE = "duplicate"


class Verdict(StrEnum):
    """The result of a resume request."""

    NEW = "new"
    EXACT = "exact"
    GAP = "gap"
    RESET = "reset"


class ResetReason(StrEnum):
    """Why a session could not be resumed."""

    UNKNOWN = "unknown"
    AHEAD = "ahead"


# Client to server.


@frozen
class Ping:
    """A request for a `pong` with the same payload."""

    TYPE: ClassVar[str] = "ping"
    payload: JsonObject


@frozen
class Pong:
    """The reply to `ping` (from the server) or to `heartbeat` (from the client)."""

    TYPE: ClassVar[str] = "pong"
    payload: JsonObject


@frozen
class Auth:
    """A new token of the same user, for the connection."""

    TYPE: ClassVar[str] = "auth"
    token: str = field(repr=False)


@frozen
class Ack:
    """The client has received every event up to and including `seq`."""

    TYPE: ClassVar[str] = "ack"
    seq: int = field(validator=check_not_negative)


@frozen
class UserMessage:
    """A message of the user to an agent.

    Attributes:
        replaces: A message of the thread; it and all later messages are removed from the history.
        attachments: Files that the user has uploaded.
    """

    TYPE: ClassVar[str] = "user_message"
    content: str = field(validator=check_not_blank)
    thread_id: ThreadId | None = field(default=None, validator=check_thread_id)
    correlation_id: CorrelationId | None = field(default=None, validator=check_correlation_id)
    agent: str | None = field(default=None, validator=check_name)
    on_busy: OnBusy = OnBusy.ENQUEUE
    deadline_ms: int | None = field(default=None, validator=check_positive)
    replaces: MessageId | None = field(default=None, validator=check_name)
    attachments: tuple[FileId, ...] = field(default=(), validator=check_attachments)


@frozen
class AgentRequest:
    """A request to one agent, with structured input.

    Attributes:
        attachments: Files that the user has uploaded.
    """

    TYPE: ClassVar[str] = "agent_request"
    agent: str = field(validator=check_name)
    input: JsonObject | str
    thread_id: ThreadId | None = field(default=None, validator=check_thread_id)
    on_busy: OnBusy = OnBusy.ENQUEUE
    deadline_ms: int | None = field(default=None, validator=check_positive)
    attachments: tuple[FileId, ...] = field(default=(), validator=check_attachments)


@frozen
class StopAgent:
    """A request to stop a run; the reply is its `agent_completed`."""

    TYPE: ClassVar[str] = "stop_agent"
    run_id: RunId = field(validator=check_name)


@frozen
class Answer:
    """The answer to a question of an agent: `answer` for a question, `approve` for an approval."""

    TYPE: ClassVar[str] = "answer"
    question_id: QuestionId = field(validator=check_name)
    answer: JsonValue | None = None
    approve: bool | None = None


@frozen
class GetThreadHistory:
    """A request for the newest messages of a thread; with `before`, of those older than it."""

    TYPE: ClassVar[str] = "get_thread_history"
    thread_id: ThreadId = field(validator=check_thread_id)
    limit: int = field(default=HISTORY_PAGE, validator=check_page_size)
    before: MessageId | None = field(default=None, validator=check_name)


WorkMessage = UserMessage | AgentRequest


# Server to client: control frames, which have no number and are not replayed.


class Outbound(Protocol):
    """A message that can be encoded: an attrs class whose fields are the payload."""

    TYPE: ClassVar[str]


@frozen
class ResumeState:
    """The result of a resume, in `connection_established`.

    Attributes:
        verdict: The result.
        reason: Why the session could not be resumed, if the verdict is `reset`.
        replayed: How many event numbers are sent again from the log.
        last_seq: The events of this connection have larger numbers than this.
        runs: The runs whose end the client may not have received.
    """

    verdict: Verdict
    reason: ResetReason | None = None
    replayed: int = field(default=0, kw_only=True)
    last_seq: int = field(default=0, kw_only=True)
    runs: tuple[JsonObject, ...] = field(default=(), kw_only=True)


@frozen
class ListedAgent:
    """An agent in the first frame.

    Attributes:
        name: The name for `agent` in a message.
        title: The displayed name.
        examples: Example messages.
    """

    name: str
    title: str
    examples: tuple[str, ...]


@frozen
class ConnectionEstablished:
    """The first frame of every connection.

    Attributes:
        user_room: The room of the user.
        agents: The agents; the first one is the default.
    """

    TYPE: ClassVar[str] = "connection_established"
    connection_id: ConnectionId
    session_id: SessionId
    user_id: UserId
    server_time: float
    heartbeat_interval: int
    features: JsonObject
    limits: JsonObject
    resume: ResumeState
    user_room: str
    agents: tuple[ListedAgent, ...]


@frozen
class Heartbeat:
    """A heartbeat of the server; the client replies with `pong`, or with any other frame."""

    TYPE: ClassVar[str] = "heartbeat"
    server_time: float


@frozen
class AuthOk:
    """The new token was accepted; it expires at `expires_at` (Unix seconds)."""

    TYPE: ClassVar[str] = "auth_ok"
    expires_at: float


@frozen
class AuthExpiring:
    """The token expires at `expires_at` (Unix seconds); the client sends a new one with `auth`."""

    TYPE: ClassVar[str] = "auth_expiring"
    expires_at: float


@frozen
class ServerDraining:
    """The server is shutting down; an idle client reconnects after `reconnect_after_ms`."""

    TYPE: ClassVar[str] = "server_draining"
    reason: str
    reconnect_after_ms: int


@frozen
class HistoryQuestion:
    """A question that a run has asked; without an `outcome` while it is open.

    Attributes:
        schema: The JSON Schema of the answer.
        tool_name: The tool of an approval.
        arguments: The arguments of that tool.
        expires_at: Unix seconds.
        user_id: The user who answered.
        truncated: True if the prompt was cut, and schema, arguments and answer are left out.
    """

    question_id: QuestionId
    kind: QuestionKind
    prompt: str
    expires_at: float
    schema: Any = None
    tool_name: str | None = None
    arguments: Any = None
    outcome: QuestionOutcome | None = None
    answer: Any = None
    user_id: UserId | None = None
    truncated: bool | None = None


@frozen
class HistoryRun:
    """The run that a message of the user started.

    Attributes:
        questions: The questions that it has asked, in order; None if there are none.
        duration_ms: The duration of an ended run.
    """

    run_id: RunId
    agent_name: str
    status: RunStatus
    questions: tuple[HistoryQuestion, ...] | None = None
    duration_ms: int | None = None


@frozen
class HistoryFeedback:
    """The user's feedback on an agent's message."""

    rating: str
    comment: str | None = None


@frozen
class ListedFile:
    """A file of a message, as a client shows it.

    Attributes:
        name: Its name, without a path.
        media_type: Its type, detected from its content.
        bytes: Its size.
    """

    file_id: FileId
    name: str
    media_type: str
    bytes: int


@frozen
class HistoryMessage:
    """A message of a thread in its history.

    Attributes:
        run: The run of the message.
        reply_to: The question of an agent's message; None for messages of version 0.1.
        steps: The steps of the agent, each with its position in the text.
        feedback: The user's feedback on an agent's message.
        attachments: The files of the message; None if there are none.
        files: The same files, as a client shows them.
    """

    message_id: MessageId
    role: str
    content: str
    created_at: float
    correlation_id: CorrelationId | None = None
    run: HistoryRun | None = None
    truncated: bool | None = None
    reply_to: MessageId | None = None
    steps: Any = None
    feedback: HistoryFeedback | None = None
    attachments: tuple[FileId, ...] | None = None
    files: tuple[ListedFile, ...] | None = None


@frozen
class ThreadHistory:
    """A page of a thread, oldest message first."""

    TYPE: ClassVar[str] = "thread_history"
    thread_id: ThreadId
    messages: tuple[Any, ...]  # of `HistoryMessage`, or of JSON that is already encoded
    has_more: bool


# Server to client: events, numbered in each session.


@frozen
class MessageConfirmed:
    """The message is recorded; its run starts, waits, or was started by an earlier message."""

    TYPE: ClassVar[str] = "message_confirmed"
    message_id: MessageId
    run_id: RunId
    thread_id: ThreadId
    status: Confirmation
    position: int | None = None
    run_status: RunStatus | None = None


@frozen
class AgentStarted:
    """An attempt of a run starts."""

    TYPE: ClassVar[str] = "agent_started"
    run_id: RunId
    agent_name: str
    thread_id: ThreadId
    attempt: int


@frozen
class AgentThinking:
    """A thought of the agent."""

    TYPE: ClassVar[str] = "agent_thinking"
    run_id: RunId
    thought: str
    step_number: int | None = None
    total_steps: int | None = None


@frozen
class PartialResult:
    """A piece of the answer, which the client appends to the earlier pieces."""

    TYPE: ClassVar[str] = "partial_result"
    run_id: RunId
    content: str


@frozen
class BinaryResult:
    """Binary data of the answer, for example sound, which is stored as a file.

    A client of `netra.v2` gets the data with this event; any other one reads the file.

    Attributes:
        media_type: The type that the agent has given.
        file_id: The file.
        bytes: The size of the data.
    """

    TYPE: ClassVar[str] = "binary_result"
    run_id: RunId
    media_type: str
    file_id: FileId
    bytes: int


@frozen
class ToolExecuting:
    """The agent starts a tool call."""

    TYPE: ClassVar[str] = "tool_executing"
    run_id: RunId
    tool_call_id: ToolCallId
    tool_name: str
    arguments: Any
    truncated: bool | None = None


@frozen
class ToolCompleted:
    """A tool call has ended: it has a `result` if `success`, otherwise an `error` (a text)."""

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
class AgentAsking:
    """The agent asks the user a question, or for the approval of a tool call.

    Attributes:
        schema: The JSON Schema of the answer.
        tool_name: The tool of an approval.
        arguments: The arguments of that tool.
        expires_at: When the question is closed without an answer, in Unix seconds.
    """

    TYPE: ClassVar[str] = "agent_asking"
    run_id: RunId
    question_id: QuestionId
    kind: QuestionKind
    prompt: str
    expires_at: float
    schema: Any = None
    tool_name: str | None = None
    arguments: Any = None


@frozen
class AgentAnswered:
    """A question is closed.

    Attributes:
        answer: The answer, if the outcome is `answered`.
        user_id: The user who answered; None if no user did.
    """

    TYPE: ClassVar[str] = "agent_answered"
    run_id: RunId
    question_id: QuestionId
    outcome: QuestionOutcome
    answer: Any = None
    user_id: UserId | None = None


@frozen
class AgentUsage:
    """The usage of a model by a run.

    Attributes:
        cost: In the currency that the agent uses.
    """

    TYPE: ClassVar[str] = "agent_usage"
    run_id: RunId
    model: str
    input_tokens: int
    output_tokens: int
    cost: float | None = None


@frozen
class AgentCompleted:
    """The end of a run: its last event.

    Attributes:
        abandoned: True if a task of the run ignored its cancellation and may still be running.
        attachments: The files that the agent has attached; None if there are none.
        files: The same files, as a client shows them.
    """

    TYPE: ClassVar[str] = "agent_completed"
    run_id: RunId
    status: RunStatus
    duration_ms: int
    result: Any = None
    error: JsonObject | None = None
    truncated: bool | None = None
    abandoned: bool | None = None
    attachments: tuple[FileId, ...] | None = None
    files: tuple[ListedFile, ...] | None = None


Event = (
    MessageConfirmed
    | AgentStarted
    | AgentThinking
    | PartialResult
    | BinaryResult
    | ToolExecuting
    | ToolCompleted
    | AgentAsking
    | AgentAnswered
    | AgentUsage
    | AgentCompleted
)
