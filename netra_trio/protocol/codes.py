"""Error codes, close codes and end reasons, as tables for code, tests and documentation.

>>> ERRORS[ErrorCode.SERVER_FULL].status
503
>>> EndReason.TAKEN_OVER.close_code
<CloseCode.TAKEN_OVER: 4409>
"""

from enum import Enum, IntEnum, StrEnum

from attrs import frozen


class ErrorCode(StrEnum):
    """The `code` of an error body."""

    EMPTY_MESSAGE = "EMPTY_MESSAGE"
    JSON_PARSE_ERROR = "JSON_PARSE_ERROR"
    INVALID_MESSAGE_TYPE = "INVALID_MESSAGE_TYPE"
    MISSING_TYPE_FIELD = "MISSING_TYPE_FIELD"
    INVALID_TYPE_FIELD = "INVALID_TYPE_FIELD"
    UNKNOWN_MESSAGE_TYPE = "UNKNOWN_MESSAGE_TYPE"
    VALIDATION_ERROR = "VALIDATION_ERROR"
    MESSAGE_TOO_LARGE = "MESSAGE_TOO_LARGE"
    ERROR_LIMIT_EXCEEDED = "ERROR_LIMIT_EXCEEDED"
    RATE_LIMIT_EXCEEDED = "RATE_LIMIT_EXCEEDED"
    QUEUE_FULL = "QUEUE_FULL"
    AGENT_BUSY = "AGENT_BUSY"
    BUDGET_EXCEEDED = "BUDGET_EXCEEDED"
    SERVICE_UNAVAILABLE = "SERVICE_UNAVAILABLE"
    AGENT_NOT_FOUND = "AGENT_NOT_FOUND"
    RUN_NOT_FOUND = "RUN_NOT_FOUND"
    THREAD_NOT_FOUND = "THREAD_NOT_FOUND"
    FILE_NOT_FOUND = "FILE_NOT_FOUND"
    ANSWER_REJECTED = "ANSWER_REJECTED"
    FORBIDDEN = "FORBIDDEN"
    AGENT_ERROR = "AGENT_ERROR"
    AGENT_TIMEOUT = "AGENT_TIMEOUT"
    AUTH_REQUIRED = "AUTH_REQUIRED"
    INVALID_TOKEN = "INVALID_TOKEN"  # noqa: S105 - a code, not a token
    TOKEN_EXPIRED = "TOKEN_EXPIRED"  # noqa: S105 - a code, not a token
    USER_NOT_FOUND = "USER_NOT_FOUND"
    USER_DISABLED = "USER_DISABLED"
    ORIGIN_NOT_ALLOWED = "ORIGIN_NOT_ALLOWED"
    UNSUPPORTED_SUBPROTOCOL = "UNSUPPORTED_SUBPROTOCOL"
    BAD_REQUEST = "BAD_REQUEST"
    CONNECTION_LIMIT_EXCEEDED = "CONNECTION_LIMIT_EXCEEDED"
    SERVER_DRAINING = "SERVER_DRAINING"
    SERVER_FULL = "SERVER_FULL"
    INTERNAL_ERROR = "INTERNAL_ERROR"


@frozen
class ErrorKind:
    """The properties of all errors of one code.

    Attributes:
        status: The HTTP status when an upgrade or an HTTP request is refused with this code.
        recoverable: Whether the connection stays open after the error.
        help: A hint for the user; the code that creates an error may give a more specific one.
    """

    status: int
    recoverable: bool
    help: str


_SEND_JSON = 'Send one JSON object per frame, like {"type": "ping"}.'

ERRORS: dict[ErrorCode, ErrorKind] = {
    ErrorCode.EMPTY_MESSAGE: ErrorKind(400, True, _SEND_JSON),
    ErrorCode.JSON_PARSE_ERROR: ErrorKind(400, True, "Send valid JSON, encoded as UTF-8."),
    ErrorCode.INVALID_MESSAGE_TYPE: ErrorKind(400, True, _SEND_JSON),
    ErrorCode.MISSING_TYPE_FIELD: ErrorKind(400, True, 'Add a "type" field to the message.'),
    ErrorCode.INVALID_TYPE_FIELD: ErrorKind(400, True, 'Make "type" a string with a type in it.'),
    ErrorCode.UNKNOWN_MESSAGE_TYPE: ErrorKind(400, True, "Use one of the types listed."),
    ErrorCode.VALIDATION_ERROR: ErrorKind(400, True, "Fix the field at the path and send again."),
    ErrorCode.MESSAGE_TOO_LARGE: ErrorKind(413, True, "Send a shorter message."),
    ErrorCode.ERROR_LIMIT_EXCEEDED: ErrorKind(
        400, False, "Check how the client builds its messages, then connect again."
    ),
    ErrorCode.RATE_LIMIT_EXCEEDED: ErrorKind(429, True, "Wait and send again."),
    ErrorCode.QUEUE_FULL: ErrorKind(429, True, "Wait for a run to end and send again."),
    ErrorCode.AGENT_BUSY: ErrorKind(
        409, True, 'Wait for the run to end, stop it, or send with "on_busy": "enqueue".'
    ),
    ErrorCode.BUDGET_EXCEEDED: ErrorKind(
        429, True, "Send again after midnight UTC, or ask an administrator for a higher limit."
    ),
    ErrorCode.SERVICE_UNAVAILABLE: ErrorKind(503, True, "Wait and try again."),
    ErrorCode.AGENT_NOT_FOUND: ErrorKind(404, True, "Use one of the agents listed."),
    ErrorCode.RUN_NOT_FOUND: ErrorKind(404, True, "The run has ended or does not exist."),
    ErrorCode.THREAD_NOT_FOUND: ErrorKind(404, True, "Use a thread that you have written to."),
    ErrorCode.FILE_NOT_FOUND: ErrorKind(
        404, True, "Upload the file, then send its file_id within 24 hours."
    ),
    ErrorCode.ANSWER_REJECTED: ErrorKind(
        409, True, "Show the question as it stands; an open one can be answered again."
    ),
    ErrorCode.FORBIDDEN: ErrorKind(403, True, "Ask an administrator for the permission."),
    ErrorCode.AGENT_ERROR: ErrorKind(500, True, "Try again; quote the error_id if it persists."),
    ErrorCode.AGENT_TIMEOUT: ErrorKind(504, True, "Ask for less at once, or allow more time."),
    ErrorCode.AUTH_REQUIRED: ErrorKind(
        401, False, 'Send a token, best as "Authorization: Bearer <jwt>".'
    ),
    ErrorCode.INVALID_TOKEN: ErrorKind(401, False, "Get a new token and connect again."),
    ErrorCode.TOKEN_EXPIRED: ErrorKind(401, False, "Get a new token and connect again."),
    ErrorCode.USER_NOT_FOUND: ErrorKind(403, False, "Ask an administrator to add the user."),
    ErrorCode.USER_DISABLED: ErrorKind(403, False, "Ask an administrator to enable the user."),
    ErrorCode.ORIGIN_NOT_ALLOWED: ErrorKind(
        403, False, "Add the page's origin to WEBSOCKET_ALLOWED_ORIGINS."
    ),
    ErrorCode.UNSUPPORTED_SUBPROTOCOL: ErrorKind(
        400, False, "Offer the subprotocol netra.v2 or netra.v1, or none."
    ),
    ErrorCode.BAD_REQUEST: ErrorKind(400, False, "Fix the request and try again."),
    ErrorCode.CONNECTION_LIMIT_EXCEEDED: ErrorKind(
        429, True, "Close a connection that is not needed and try again."
    ),
    ErrorCode.SERVER_DRAINING: ErrorKind(503, True, "Connect again in a moment."),
    ErrorCode.SERVER_FULL: ErrorKind(503, True, "Connect again in a moment."),
    ErrorCode.INTERNAL_ERROR: ErrorKind(
        500, False, "Try again; quote the error_id if it persists."
    ),
}
"""The properties of each error code."""

BAD_FRAME = frozenset(
    {
        ErrorCode.EMPTY_MESSAGE,
        ErrorCode.JSON_PARSE_ERROR,
        ErrorCode.INVALID_MESSAGE_TYPE,
        ErrorCode.MISSING_TYPE_FIELD,
        ErrorCode.INVALID_TYPE_FIELD,
        ErrorCode.UNKNOWN_MESSAGE_TYPE,
        ErrorCode.VALIDATION_ERROR,
        ErrorCode.MESSAGE_TOO_LARGE,
    }
)
"""The codes of invalid frames: five such frames in a row end the connection."""


class CloseCode(IntEnum):
    """WebSocket close codes that this server sends."""

    NORMAL = 1000
    GOING_AWAY = 1001
    TOO_BIG = 1009
    INTERNAL = 1011
    RESTART = 1012
    ERROR_LIMIT = 4400
    TOKEN_EXPIRED = 4401
    USER_DISABLED = 4403
    HEARTBEAT_MISSED = 4408
    TAKEN_OVER = 4409
    EVICTED = 4429


NO_STATUS = 1005  # reported for a close frame without a code (RFC 6455, 7.1.5); never sent
ABNORMAL = 1006  # reported for a connection that ends without a close frame; never sent


class EndReason(Enum):
    """Why a connection ended. The reason decides the close code.

    Attributes:
        label: The name of the reason in logs and metrics.
        close_code: The close code to send; None if no close frame is sent.
    """

    PEER_CLOSED = ("peer_closed", CloseCode.NORMAL)
    PEER_LOST = ("peer_lost", None)
    SEND_TIMEOUT = ("send_timeout", None)
    ABORTED = ("aborted", None)
    TOO_BIG = ("too_big", CloseCode.TOO_BIG)
    INTERNAL = ("internal_error", CloseCode.INTERNAL)
    DRAINED = ("drained", CloseCode.RESTART)
    ERROR_LIMIT = ("error_limit", CloseCode.ERROR_LIMIT)
    TOKEN_EXPIRED = ("token_expired", CloseCode.TOKEN_EXPIRED)
    USER_DISABLED = ("user_disabled", CloseCode.USER_DISABLED)
    HEARTBEAT_MISSED = ("heartbeat_missed", CloseCode.HEARTBEAT_MISSED)
    TAKEN_OVER = ("taken_over", CloseCode.TAKEN_OVER)
    EVICTED = ("evicted", CloseCode.EVICTED)
    FENCED = ("fenced", CloseCode.RESTART)
    SESSION_ENDED = ("session_ended", CloseCode.NORMAL)

    def __init__(self, label: str, close_code: CloseCode | None) -> None:
        self.label = label
        self.close_code = close_code
