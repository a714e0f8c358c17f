"""The room of the live page, and the shapes of its messages.

Each class is the `content` of a `room_message` in `ADMIN_ROOM`; docs/admin.md describes each field.
Times without another unit are seconds; `at` is in Unix seconds.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Literal, TypeAlias, TypedDict

ADMIN_ROOM = "admin:live"
ADMINISTRATOR = "netra:admin"  # the permission for this room, its actions and /ws/stats

PART_SECONDS = 1.0  # between two parts of a node
SAMPLE_SECONDS = 10.0  # between two samples
SAMPLES = 360  # an hour
PART_SESSIONS, PART_RUNS, PART_TOOLS = 200, 500, 20  # at most; tools of one run


class AdminAction(StrEnum):
    """An action of an administrator."""

    STOP_RUN = "stop_run"
    END_SESSION = "end_session"
    DISABLE_USER = "disable_user"
    DRAIN_NODE = "drain_node"


Waits: TypeAlias = Literal["model", "tool", "client", "store", "answer", "queue", "retry"]
"""The kind of a run's wait; None in its place if the server has marked no wait."""

State: TypeAlias = Literal["ok", "unavailable", "no answer"]
"""The result of the newest check of a dependency."""


class ToolPart(TypedDict):
    """A tool call in progress."""

    tool_call_id: str
    name: str
    age: float


class RunPart(TypedDict):
    """A run that has not ended."""

    run_id: str
    session_id: str | None
    user_id: str
    thread_id: str
    agent: str
    status: Literal["queued", "running"]
    age: float
    deadline: float | None
    attempt: int
    waits_for: Waits | None
    waits: float | None
    unattended: bool
    tools: list[ToolPart]
    tools_total: int


class SessionPart(TypedDict):
    """A session."""

    session_id: str
    user_id: str
    acknowledging: bool
    attached: bool
    age: float
    window: float | None
    connections: int
    inbox: int
    runs_running: int
    runs_queued: int
    unsent: int
    log_events: int
    log_bytes: int


class Sample(TypedDict):
    """The metrics of a node over `SAMPLE_SECONDS`, and its gauges at their end."""

    at: float
    connections: int
    users: int
    attached: int
    detached: int
    running: int
    queued: int
    received: float
    sent: float
    errors: dict[str, int]
    rate_limited: dict[str, int]
    processing_p50: float | None
    processing_p95: float | None
    processing_p99: float | None
    first_delta_p50: float | None
    first_delta_p95: float | None
    opened: int
    refused: int
    reconnections: int
    reconnection_mean: float | None
    connection_seconds_mean: float | None
    recovered: int
    unrecovered: int
    discovery_p95: float | None
    loop_lag: float
    memory: int


class Capacity(TypedDict):
    """How much of the limits of a node is used."""

    connections: int
    connections_max: int
    runs: int
    runs_max: int | None


class BrokerPart(TypedDict):
    """The broker, as a node sees it."""

    state: State
    lag: float
    nodes: int


class StorePart(TypedDict):
    """The store, as a node sees it."""

    state: State


class Totals(TypedDict):
    """All that a node has, also what its lists leave out."""

    sessions: int
    attached: int
    detached: int
    running: int
    queued: int
    users: int


class NodePart(TypedDict):
    """One node, about each second."""

    kind: Literal["node"]
    node: str
    at: float
    interval: float
    version: str
    pid: int
    uptime: float
    draining: bool
    loop_lag: float
    memory: int
    capacity: Capacity
    broker: BrokerPart | None
    store: StorePart
    users_by_connections: Mapping[Any, int]
    totals: Totals
    truncated: bool
    sessions: list[SessionPart]
    runs: list[RunPart]
    now: Sample
    sample: Sample | None


class NodeHistory(TypedDict):
    """The last hour of a node, for a page that has joined; oldest first."""

    kind: Literal["history"]
    node: str
    at: float
    interval: float
    samples: list[Sample]


class NodeGone(TypedDict):
    """A node that has ended, or whose lease has ended."""

    kind: Literal["gone"]
    node: str
    at: float
