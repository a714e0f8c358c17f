"""Frames: how the client builds its own, and what it reads from the first one of the server.

>>> frame_of("ack", {"seq": 3})
'{"type":"ack","payload":{"seq":3}}'
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import orjson
from attrs import evolve, frozen

from netra_trio.client.event import Event, InvalidEvent

HELLO = "connection_established"


def frame_of(kind: str, payload: Mapping[str, Any], key: str | None = None) -> str:
    """Return a frame as JSON; fields of the payload that are None are left out."""
    frame: dict[str, Any] = {"type": kind}
    frame["payload"] = {name: value for name, value in payload.items() if value is not None}
    if key is not None:
        frame["correlation_id"] = key
    return orjson.dumps(frame).decode()


def as_object(value: Any) -> Mapping[str, Any]:
    """Return the value if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def parse_object(data: bytes | str) -> dict[str, Any] | None:
    """Return a JSON object; None for anything else."""
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None


def message_of(confirmed: Event, text: str | None, user_id: str) -> Event:
    """Return the `user_message` of a watched thread for a message of the own session.

    Args:
        confirmed: Its `message_confirmed`.
        text: Its frame; None if the client does not have it.
        user_id: The user.
    """
    sent = as_object((parse_object(text or "") or {}).get("payload"))
    content = sent.get("content", sent.get("input", ""))
    if not isinstance(content, str):
        content = orjson.dumps(content).decode()
    payload = {
        "message_id": confirmed.payload.get("message_id"),
        "run_id": confirmed.payload.get("run_id"),
        "user_id": user_id,
        "content": content,
    }
    if "replaces" in sent:
        payload["replaces"] = sent["replaces"]
    if sent.get("attachments"):
        payload["attachments"] = sent["attachments"]
    return evolve(confirmed, type="user_message", payload=payload)


@frozen
class Hello:
    """The payload of `connection_established`, as far as the client needs it.

    Attributes:
        verdict: What became of the resume: `new`, `exact`, `gap` or `reset`.
        last_seq: The number after which events follow.
        replayed: How many numbers the server sends again.
        runs: The state of each run that is not over, in a `gap`.
        reason: Why the session could not be resumed; empty where it could.
        heartbeat_ms: Milliseconds between two heartbeats of the server.
        limits: The limits of the server.
        user_id: The user of the session.
        user_room: The room of the user; empty if the server has no rooms.
        agents: The agents of the server.
    """

    session_id: str
    connection_id: str
    verdict: str
    last_seq: int
    replayed: int
    runs: Sequence[dict[str, Any]]
    reason: str
    heartbeat_ms: int
    limits: Mapping[str, Any]
    user_id: str
    user_room: str
    agents: Sequence[dict[str, Any]]

    @classmethod
    def parse(cls, event: Event) -> Self:
        """Read the first frame of a connection.

        Raises:
            InvalidEvent: It is another frame, or lacks a required field.
        """
        if event.type != HELLO:
            raise InvalidEvent(f"the first frame is {event.type}")
        payload = event.payload
        try:
            resume = payload["resume"]
            return cls(
                session_id=str(payload["session_id"]),
                connection_id=str(payload["connection_id"]),
                verdict=str(resume["verdict"]),
                last_seq=int(resume["last_seq"]),
                replayed=int(resume["replayed"]),
                runs=[dict(run) for run in resume["runs"]],
                reason=str(resume.get("reason", "")),
                heartbeat_ms=int(payload["heartbeat_interval"]),
                limits=as_object(payload.get("limits")),
                user_id=str(payload["user_id"]),
                user_room=str(payload.get("user_room", "")),
                agents=[dict(agent) for agent in payload.get("agents", ())],
            )
        except (KeyError, TypeError, ValueError):
            raise InvalidEvent(f"{HELLO} lacks a required field") from None
