"""What a message becomes when it is let in, and what its sender is told when it is not.

The texts and the facts are here; the session decides, records and schedules.
"""

import hashlib
from collections.abc import Mapping
from math import inf
from typing import Any

import attrs
from orjson import OPT_SORT_KEYS, dumps

from netra_trio.agents.run import Agent, RunSpec, content_of, milliseconds
from netra_trio.ids import (
    CorrelationId,
    ThreadId,
    UserId,
    new_correlation_id,
    new_message_id,
    new_run_id,
)
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.messages import AgentRequest, UserMessage, WorkMessage
from netra_trio.protocol.problem import Refused, problem, store_unavailable
from netra_trio.stores.base import NewMessage

RECONNECT_AFTER_MS = 1000  # of a drained client; its own jitter spreads the rest
RETRY_MS = 1000  # where nothing better is known: a run or a commit takes about that long


def check_agent(message: WorkMessage, agents: Mapping[str, Agent]) -> None:
    """Check that the agent a message names is there.

    Raises:
        Refused: AGENT_NOT_FOUND.
    """
    if message.agent is not None and message.agent not in agents:
        text = f"There is no agent of that name; there are: {', '.join(agents)}."
        raise Refused(problem(ErrorCode.AGENT_NOT_FOUND, text))


def new_message(
    message: WorkMessage,
    *,
    user_id: UserId,
    thread_id: ThreadId,
    key: CorrelationId | None,
    agents: Mapping[str, Agent],
    created_at: float,
) -> NewMessage:
    """Return the record of a message and its run; without a key it gets a correlation id."""
    said = message.content if isinstance(message, UserMessage) else content_of(message.input)
    return NewMessage(
        user_id=user_id,
        thread_id=thread_id,
        message_id=new_message_id(),
        run_id=new_run_id(),
        agent_name=message.agent or next(iter(agents)),
        correlation_id=key or new_correlation_id(),
        key=key,
        fingerprint=_fingerprint(message),
        content=said,
        created_at=created_at,
    )


def run_spec(
    new: NewMessage,
    message: WorkMessage,
    *,
    permissions: frozenset[str],
    agent: Agent,
    agent_timeout_ms: int,
    received: float,
) -> RunSpec:
    """Return what the run of a message is to do."""
    return RunSpec(
        run_id=new.run_id,
        user_id=new.user_id,
        permissions=permissions,
        thread_id=new.thread_id,
        correlation_id=new.correlation_id,
        agent_name=new.agent_name,
        agent=agent,
        content=new.content,
        input=_payload(message) if isinstance(message, AgentRequest) else None,
        timeout=min(agent_timeout_ms, message.deadline_ms or inf) / 1000,
        received=received,
    )


def draining() -> Refused:
    """Return the refusal of a message while the server drains."""
    text = "The server is about to restart and takes no new message."
    return Refused(problem(ErrorCode.SERVER_DRAINING, text, retry_after_ms=RECONNECT_AFTER_MS))


def agent_busy() -> Refused:
    """Return the refusal of a message that wants no queue, for a thread that has one."""
    text = "The thread has a run already."
    return Refused(problem(ErrorCode.AGENT_BUSY, text, retry_after_ms=RETRY_MS))


def queue_full(why: str) -> Refused:
    """Return the refusal of a message for which there is no place."""
    text = f"The queue is full: {why}."
    return Refused(problem(ErrorCode.QUEUE_FULL, text, retry_after_ms=RETRY_MS))


def too_fast(rate: int, seconds: float) -> Refused:
    """Return the refusal of a message beyond the user's rate, to send again in so many seconds."""
    wait = milliseconds(seconds)
    return Refused(
        problem(
            ErrorCode.RATE_LIMIT_EXCEEDED,
            f"Too many messages: {rate} per minute.",
            help=f"Wait {wait / 1000:g} s and send again.",
            retry_after_ms=wait,
        )
    )


def key_conflict() -> Refused:
    """Return the refusal of a key that came with other content before."""
    text = "$.correlation_id: expected a new one, got one that came with other content"
    return Refused(problem(ErrorCode.VALIDATION_ERROR, text))


def not_stored() -> Refused:
    """Return the refusal of a message that the store could not take."""
    return Refused(store_unavailable("The message could not be stored."))


def _fingerprint(message: WorkMessage) -> bytes:
    """Return what must be equal for one key to mean one message (protocol.md, section 3)."""
    content = message.content if isinstance(message, UserMessage) else message.input
    told = [message.TYPE, content, message.agent, message.thread_id]
    return hashlib.blake2b(dumps(told, option=OPT_SORT_KEYS), digest_size=16).digest()


def _payload(message: AgentRequest) -> dict[str, Any]:
    """Return the payload of a request, without the fields that are what they are by default."""
    return {
        field.name: value
        for field in attrs.fields(AgentRequest)
        if (value := getattr(message, field.name)) != field.default
    }
