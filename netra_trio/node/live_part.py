"""The part of a node for the live page: its sessions, runs and tools, and how full it is.

part = make_part(parts, state)
data = encode(part)         # of at most `CONTENT_BYTES`

It has ids, names, numbers and times. It has no content of messages, no arguments, no thoughts.
"""

from collections.abc import Callable, Iterable, Mapping
from heapq import nsmallest
from itertools import islice
from math import isinf
from os import getpid
from typing import Any

import orjson
import trio
from attrs import frozen

from netra_trio.agents.waits import Wait
from netra_trio.cluster.cluster import Cluster
from netra_trio.config.settings import Settings
from netra_trio.ids import NodeId, SessionId
from netra_trio.node.capacity import Capacity
from netra_trio.node.registry import Sessions
from netra_trio.protocol.admin import (
    PART_RUNS,
    PART_SECONDS,
    PART_SESSIONS,
    PART_TOOLS,
    BrokerPart,
    NodePart,
    RunPart,
    Sample,
    SessionPart,
    State,
    ToolPart,
    Waits,
)
from netra_trio.protocol.messages import RunStatus
from netra_trio.rooms.publisher import ROOM_EVENT_BYTES
from netra_trio.sessions.runner import LiveRun
from netra_trio.sessions.session import Session
from netra_trio.sessions.users import Users
from netra_trio.telemetry.samples import Levels

CONTENT_BYTES = ROOM_EVENT_BYTES - 256  # of JSON: an event has a type and a payload around it


@frozen(kw_only=True)
class LiveParts:
    """The parts of a node that the live page shows.

    Attributes:
        connections: Returns the number of open connections.
        opened_at: When the node was opened, on Trio's clock.
    """

    node: NodeId
    version: str
    settings: Settings
    sessions: Sessions
    users: Users
    capacity: Capacity
    connections: Callable[[], int]
    cluster: Cluster | None
    wall_clock: Callable[[], float]
    opened_at: float

    def levels(self) -> Levels:
        """Return the current quantities; takes time for the sessions with runs only."""
        numbers = self.sessions.statistics()
        running, queued = _counts(live for _, live in self.runs())
        return Levels(
            connections=self.connections(),
            users=len(self.users),
            attached=numbers["sessions"] - numbers["detached"],
            detached=numbers["detached"],
            running=running,
            queued=queued,
        )

    def runs(self) -> list[tuple[Session, LiveRun]]:
        """Return the runs that have not ended, each with its session, which may have ended."""
        busy = {*self.sessions.busy, *self.sessions.left}
        return [(session, live) for session in busy for live in session.live_runs]

    def broker(self, checks: Mapping[str, State]) -> BrokerPart | None:
        """Return the state of the broker; None without one."""
        if self.cluster is None:
            return None
        gauges = self.cluster.gauges()
        return {
            "state": checks.get("broker", "no answer"),
            "lag": round(gauges["broker_lag"], 3),
            "nodes": gauges["nodes"],
        }


def make_part(
    parts: LiveParts, checks: Mapping[str, State], *, loop_lag: float, now: Sample, sample: Any
) -> NodePart:
    """Return the part of a node.

    Args:
        parts: The node.
        checks: The state of each dependency, by name.
        loop_lag: The delay of the event loop in seconds.
        now: The metrics up to now, which has the current quantities too.
        sample: The newest finished sample, which orjson can encode; None before the first one.
    """
    time, sessions = trio.current_time(), parts.sessions
    capacity, all_runs = parts.capacity, parts.runs()
    shown = nsmallest(PART_RUNS, all_runs, key=lambda run: _urgency(run[1], time))
    shown_sessions = _chosen_sessions(sessions, shown)
    count = now["attached"] + now["detached"]
    return {
        "kind": "node",
        "node": parts.node,
        "at": parts.wall_clock(),
        "interval": PART_SECONDS,
        "version": parts.version,
        "pid": getpid(),
        "uptime": round(time - parts.opened_at, 3),
        "draining": capacity.is_draining,
        "loop_lag": loop_lag,
        "memory": now["memory"],
        "capacity": {
            "connections": capacity.slots_used,
            "connections_max": parts.settings.max_connections,
            "runs": now["running"],
            "runs_max": None,
        },
        "broker": parts.broker(checks),
        "store": {"state": checks.get("store", "no answer")},
        "users_by_connections": dict(parts.users.by_connections()),
        "totals": {
            "sessions": count,
            "attached": now["attached"],
            "detached": now["detached"],
            "running": now["running"],
            "queued": now["queued"],
            "users": now["users"],
        },
        "truncated": len(all_runs) > len(shown) or count > len(shown_sessions),
        "sessions": [_session_part(sessions, each, time) for each in shown_sessions],
        "runs": [_run_part(live, time) for _, live in shown],
        "now": now,
        "sample": sample,
    }


def encode(part: NodePart) -> bytes:
    """Return a part as JSON of at most `CONTENT_BYTES`; its lists are cut if it is larger."""
    while len(data := orjson.dumps(part)) > CONTENT_BYTES:
        part["truncated"] = True
        part["sessions"] = part["sessions"][: len(part["sessions"]) // 2]
        part["runs"] = part["runs"][: len(part["runs"]) // 2]
    return data


def _chosen_sessions(sessions: Sessions, runs: list[tuple[Session, LiveRun]]) -> list[Session]:
    """Return the sessions of the runs that have not ended, and then the oldest ones."""
    chosen: dict[SessionId, Session] = {}
    for session, _ in runs:
        if sessions.get(session.id) is session:
            chosen[session.id] = session
    for session in sessions:
        if len(chosen) >= PART_SESSIONS:
            break
        chosen[session.id] = session
    return list(islice(chosen.values(), PART_SESSIONS))


def _urgency(live: LiveRun, now: float) -> tuple[bool, float]:
    """Return the key of a run: smaller for a running one, and for a longer wait."""
    since = _wait_of(live)[1]
    return live.status is RunStatus.QUEUED, now if since is None else since


def _wait_of(live: LiveRun) -> tuple[Waits, float] | tuple[None, None]:
    """Return what a run waits for, and since when on Trio's clock."""
    newest = live.execution.output.waits.newest
    if newest is not None:
        return newest.kind, newest.since
    if live.status is RunStatus.QUEUED:
        return "queue", live.execution.spec.received
    return None, None


def _counts(runs: Iterable[LiveRun]) -> tuple[int, int]:
    """Return the numbers of running and of queued runs."""
    queued = [live.status is RunStatus.QUEUED for live in runs]
    return queued.count(False), queued.count(True)


def _session_part(sessions: Sessions, session: Session, now: float) -> SessionPart:
    numbers, is_attached = session.statistics(), session.events.is_attached
    running, queued = _counts(session.live_runs)
    return {
        "session_id": session.id,
        "user_id": session.user.id,
        "acknowledging": session.events.acknowledging,
        "attached": is_attached,
        "age": round(now - session.opened_at, 3),
        "window": None if is_attached else round(sessions.seconds_left(session), 3),
        "connections": sum(each.session_id == session.id for each in session.user.connections),
        "inbox": numbers["inbox"],
        "runs_running": running,
        "runs_queued": queued,
        "unsent": numbers["unsent"],
        "log_events": numbers["log_events"],
        "log_bytes": numbers["log_bytes"],
    }


def _run_part(live: LiveRun, now: float) -> RunPart:
    execution, message, tools = live.execution, live.message, live.execution.output.waits.tools
    waits_for, since = _wait_of(live)
    return {
        "run_id": live.id,
        "session_id": live.session_id,
        "user_id": message.user_id,
        "thread_id": message.thread_id,
        "agent": message.agent_name,
        "status": "queued" if live.status is RunStatus.QUEUED else "running",
        "age": round(now - execution.spec.received, 3),
        "deadline": None if isinf(execution.deadline) else round(execution.deadline - now, 3),
        "attempt": execution.attempts,
        "waits_for": waits_for,
        "waits": None if since is None else round(now - since, 3),
        "unattended": live.is_unattended,
        "tools": [_tool_part(tool, now) for tool in tools[:PART_TOOLS]],
        "tools_total": len(tools),
    }


def _tool_part(tool: Wait, now: float) -> ToolPart:
    return {"tool_call_id": tool.call_id, "name": tool.name, "age": round(now - tool.since, 3)}
