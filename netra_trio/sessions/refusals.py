"""The errors of refused messages."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from netra_trio.agents.run import Agent, milliseconds
from netra_trio.ids import MessageId
from netra_trio.protocol.codec import show
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.messages import WorkMessage
from netra_trio.protocol.problem import (
    Problem,
    Refused,
    problem,
    rate_limited,
    store_unavailable,
)
from netra_trio.protocol.usage import Unit, seconds_left

RECONNECT_AFTER_MS = 1000  # for a client of a server that drains; clients add jitter
RETRY_MS = 1000  # if no better time is known: about the time of a run or a commit


def check_agent(message: WorkMessage, agents: Mapping[str, Agent]) -> None:
    """Check that the agent of a message exists.

    Raises:
        Refused: AGENT_NOT_FOUND.
    """
    if message.agent is not None and message.agent not in agents:
        text = f"There is no agent of that name; there are: {', '.join(agents)}."
        raise Refused(problem(ErrorCode.AGENT_NOT_FOUND, text))


def draining() -> Refused:
    """Return the error for a message while the server drains."""
    text = "The server is about to restart and takes no new message."
    return Refused(problem(ErrorCode.SERVER_DRAINING, text, retry_after_ms=RECONNECT_AFTER_MS))


def agent_busy() -> Refused:
    """Return the error for a message with `on_busy: reject` whose thread has a run."""
    text = "The thread has a run already."
    return Refused(problem(ErrorCode.AGENT_BUSY, text, retry_after_ms=RETRY_MS))


def queue_full(why: str) -> Refused:
    """Return the error for a message for which a queue has no room."""
    text = f"The queue is full: {why}."
    return Refused(problem(ErrorCode.QUEUE_FULL, text, retry_after_ms=RETRY_MS))


def too_fast(rate: int, seconds: float) -> Refused:
    """Return the error for a message beyond the user's rate; it may be sent after `seconds`."""
    help_ = f"Wait {milliseconds(seconds) / 1000:g} s and send again."
    return Refused(rate_limited(f"Too many messages: {rate} per minute.", seconds, help=help_))


def budget_exceeded(agent_name: str, unit: Unit, used: float, limit: float, now: float) -> Problem:
    """Return the error for a message or a run beyond a budget; `now` is Unix seconds."""
    wait = seconds_left(now)
    until = datetime.fromtimestamp(now + wait, UTC)
    amount = (
        f"{used} of {limit} tokens"
        if unit == "tokens"
        else f"a cost of {_money(used)} of {_money(limit)}"
    )
    return problem(
        ErrorCode.BUDGET_EXCEEDED,
        f"Today's budget of the agent {agent_name} is used up: {amount}.",
        help=f"Send again after {until:%Y-%m-%d %H:%M} UTC, or ask an administrator.",
        retry_after_ms=milliseconds(wait),
    )


def key_conflict() -> Refused:
    """Return the error for a key that was used before with different content."""
    text = "$.correlation_id: expected a new one, got one that came with other content"
    return Refused(problem(ErrorCode.VALIDATION_ERROR, text))


def thread_deleted() -> Refused:
    """Return the error for a repeated message of a deleted thread."""
    text = "The message was sent before, and its thread is deleted."
    help_ = "Send it under a new key; it begins the thread again."
    return Refused(problem(ErrorCode.THREAD_NOT_FOUND, text, help=help_))


def nothing_to_replace(message_id: MessageId | None) -> Refused:
    """Return the error for a message that replaces an unknown message."""
    text = f"$.payload.replaces: expected a message of the thread, got {show(message_id)}"
    return Refused(problem(ErrorCode.VALIDATION_ERROR, text))


def files_not_found(file_ids: Sequence[str]) -> Refused:
    """Return the error for a message that names files which its user does not have."""
    shown = ", ".join(show(each) for each in file_ids)
    text = f"$.payload.attachments: expected files that you have uploaded, got {shown}"
    return Refused(problem(ErrorCode.FILE_NOT_FOUND, text))


def not_stored() -> Refused:
    """Return the error for a message that could not be stored."""
    return Refused(store_unavailable("The message could not be stored."))


def never_stored() -> Refused:
    """Return the error for a message that the store can never keep."""
    text = "$.payload: expected values that the database can store"
    help_ = "Send it with other characters or a shorter text; the same message is refused again."
    return Refused(problem(ErrorCode.VALIDATION_ERROR, text, help=help_))


def _money(amount: float) -> str:
    """Return an amount of money with all its decimals: one beyond a limit must not look equal."""
    return f"{amount:.9f}".rstrip("0").rstrip(".")
