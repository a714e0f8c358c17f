"""Makes the record of a message for the store, and the specification of its run."""

import hashlib
from collections.abc import Mapping
from typing import Any

import attrs
from orjson import OPT_SORT_KEYS, dumps

from netra_trio.agents.options import options_of
from netra_trio.agents.run import Agent, RunSpec, content_of
from netra_trio.ids import (
    CorrelationId,
    SessionId,
    ThreadId,
    UserId,
    new_correlation_id,
    new_message_id,
    new_run_id,
)
from netra_trio.protocol.binary_messages import BinaryUserMessage
from netra_trio.protocol.messages import AgentRequest, UserMessage, WorkMessage
from netra_trio.protocol.posted import DoorMessage, PostedMessage
from netra_trio.stores.base import NewMessage


def new_message(
    message: WorkMessage,
    *,
    user_id: UserId,
    thread_id: ThreadId,
    key: CorrelationId | None,
    agents: Mapping[str, Agent],
    created_at: float,
    session_id: SessionId | None = None,
) -> NewMessage:
    """Return the record of a message and its run; without a key it gets a new correlation id.

    With a session id, another node may take the session and the run over.
    """
    content = message.content if isinstance(message, UserMessage) else content_of(message.input)
    agent_name = message.agent or next(iter(agents))
    return NewMessage(
        user_id=user_id,
        thread_id=thread_id,
        message_id=new_message_id(),
        run_id=new_run_id(),
        agent_name=agent_name,
        correlation_id=key or new_correlation_id(),
        key=key,
        fingerprint=b"" if key is None else _fingerprint(message),
        content=content,
        created_at=created_at,
        session_id=session_id,
        unattended=options_of(agents[agent_name]).unattended == "continue",
        replaces=message.replaces if isinstance(message, UserMessage) else None,
        attachments=message.attachments,
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
    """Return the specification of the run of a message."""
    deadline_ms = message.deadline_ms
    timeout_ms = agent_timeout_ms if deadline_ms is None else min(agent_timeout_ms, deadline_ms)
    return RunSpec(
        new,
        agent,
        permissions,
        _payload(message) if isinstance(message, AgentRequest) else None,
        timeout_ms / 1000,
        received,
        message.history if isinstance(message, PostedMessage) else None,
    )


def _fingerprint(message: WorkMessage) -> bytes:
    """Return a digest of the fields that must be equal in messages with the same key."""
    content = message.content if isinstance(message, UserMessage) else message.input
    compared: list[Any] = [message.TYPE, content, message.agent, message.thread_id]
    if isinstance(message, UserMessage) and message.replaces is not None:
        compared.append(message.replaces)  # otherwise the fingerprints of version 0.1 stay valid
    if isinstance(message, PostedMessage):
        compared.append([[each.role, each.content] for each in message.history])
    if isinstance(message, BinaryUserMessage):
        digest = hashlib.sha256(message.data).hexdigest()
        compared.append({"media_type": message.media_type, "sha256": digest})
    files = message.digests if isinstance(message, DoorMessage) else message.attachments
    if files:
        compared.append({"attachments": files})
    return hashlib.blake2b(dumps(compared, option=OPT_SORT_KEYS), digest_size=16).digest()


def _payload(message: AgentRequest) -> dict[str, Any]:
    """Return the payload of a request, without the fields that have their default value."""
    return {
        field.name: value
        for field in attrs.fields(AgentRequest)
        if (value := getattr(message, field.name)) != field.default
    }
