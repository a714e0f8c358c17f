"""Identifiers: a distinct type for each kind, so that mypy finds a run id used as a thread id.

>>> run_id = new_run_id()
>>> run_id.startswith("run_")
True
"""

import hashlib
import itertools
import os
import secrets
import time
from typing import NewType

UserId = NewType("UserId", str)
ConnectionId = NewType("ConnectionId", str)
SessionId = NewType("SessionId", str)
ThreadId = NewType("ThreadId", str)
MessageId = NewType("MessageId", str)
RunId = NewType("RunId", str)
ToolCallId = NewType("ToolCallId", str)
CorrelationId = NewType("CorrelationId", str)
QuestionId = NewType("QuestionId", str)
UsageId = NewType("UsageId", str)
NodeId = NewType("NodeId", str)
NotificationId = NewType("NotificationId", str)
FileId = NewType("FileId", str)

UNLISTED = "unlisted_"  # begins the id of a thread that is in no list

# Ids that are not secret are ordered by time, so that a database index over them grows at one end.
# They cost a tenth of uuid4. The random part is different in each process; the counter makes ids of
# one process different.
_process = secrets.token_hex(4)
_counter = itertools.count()


def _renew() -> None:
    global _process  # noqa: PLW0603 - a forked process has what its parent had
    _process = secrets.token_hex(4)


os.register_at_fork(after_in_child=_renew)


def _ordered(prefix: str) -> str:
    return f"{prefix}_{time.time_ns() // 1_000_000:011x}{next(_counter) & 0xFFFFFF:06x}{_process}"


def new_connection_id() -> ConnectionId:
    """Return a new connection id, time-ordered."""
    return ConnectionId(_ordered("conn"))


def new_session_id() -> SessionId:
    """Return a new session id: URL-safe, with 128 random bits so that it cannot be guessed."""
    return SessionId(f"sess_{secrets.token_urlsafe(16)}")


def new_thread_id() -> ThreadId:
    """Return a new thread id, time-ordered, of the characters that a thread id may have."""
    return ThreadId(_ordered("thread"))


def unlisted_thread_id(key: str | None) -> ThreadId:
    """Return the id of a thread that is in no list, for a conversation that its client holds.

    Args:
        key: The idempotency key of the message, so that a retry has the same thread; None for none.
    """
    digest = hashlib.blake2b((key or secrets.token_hex(16)).encode(), digest_size=16)
    return ThreadId(UNLISTED + digest.hexdigest())


def is_listed(thread_id: ThreadId) -> bool:
    """Return whether a thread is in the list of its user's threads."""
    return not thread_id.startswith(UNLISTED)


def new_message_id() -> MessageId:
    """Return a new message id, time-ordered."""
    return MessageId(_ordered("msg"))


def new_run_id() -> RunId:
    """Return a new run id, time-ordered."""
    return RunId(_ordered("run"))


def new_tool_call_id() -> ToolCallId:
    """Return a new tool call id, time-ordered."""
    return ToolCallId(_ordered("call"))


def new_question_id() -> QuestionId:
    """Return a new question id, time-ordered."""
    return QuestionId(_ordered("q"))


def new_usage_id() -> UsageId:
    """Return a new id of a reported usage, time-ordered."""
    return UsageId(_ordered("use"))


def new_counter_id() -> str:
    """Return the id of a new counter of usage."""
    return _ordered("cnt")


def new_notification_id() -> NotificationId:
    """Return a new id of a notification, time-ordered."""
    return NotificationId(_ordered("ntf"))


def new_file_id() -> FileId:
    """Return a new file id, time-ordered; an id is no secret, because each access is checked."""
    return FileId(_ordered("file"))


def new_node_id() -> NodeId:
    """Return a new id for this start of a server: of its node, and of its lease in the store."""
    return NodeId(f"own_{secrets.token_hex(8)}")


def new_correlation_id() -> CorrelationId:
    """Return a correlation id for a message without one."""
    return CorrelationId(_ordered("corr"))


def new_error_id() -> str:
    """Return an id that is in an error sent to a client and in the log line about it."""
    return f"err_{secrets.token_hex(6)}"
