"""The table of metrics: name, type, labels and meaning of each, and the number that it reads.

>>> [metric.name for metric in METRICS if metric.kind == "gauge"][0]
'netra_connections'

The Prometheus endpoint, `/ws/stats` and the documentation are made from it.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

from attrs import frozen

from netra_trio.telemetry.logs import dropped_lines
from netra_trio.telemetry.metrics import Gauges, Histogram, Key, Metrics

Kind = Literal["counter", "gauge", "histogram"]
Merge = Literal["sum", "max"]
Values = Mapping[Key, int] | Mapping[Key, float] | Mapping[Key, Histogram]


@frozen
class Metric:
    """A row of the table.

    Attributes:
        name: The name in Prometheus.
        kind: The type in Prometheus.
        group: The group in `/ws/stats`.
        labels: The names of its labels.
        meaning: A sentence without its full stop.
        merge: How the values of several workers become one.
        read: Returns its values by the values of its labels, `()` if it has none.
    """

    name: str
    kind: Kind
    group: str
    labels: tuple[str, ...]
    meaning: str
    merge: Merge
    read: Callable[[Metrics, Gauges], Values]


def _row(
    kind: Kind,
    group: str,
    name: str,
    meaning: str,
    read: Callable[[Metrics, Gauges], Any],
    *labels: str,
    merge: Merge = "sum",
) -> Metric:
    def values(metrics: Metrics, gauges: Gauges) -> Values:
        value: Any = read(metrics, gauges)
        return cast("Values", value if labels else {(): value})

    return Metric(f"netra_{name}", kind, group, labels, meaning, merge, values)


METRICS: tuple[Metric, ...] = (
    _row(
        "gauge",
        "connections",
        "connections",
        "Open connections",
        lambda _, g: g.connections,
    ),
    _row(
        "gauge",
        "connections",
        "users",
        "Connected users, by their number of connections",
        lambda _, g: g.users,
        "connections",
    ),
    _row(
        "gauge",
        "connections",
        "sessions",
        "Sessions with a connection (attached) and without one (detached)",
        lambda _, g: g.sessions,
        "state",
    ),
    _row(
        "counter",
        "connections",
        "connections_opened_total",
        "Accepted connections by the verdict on their session; all but new are reconnections",
        lambda m, _: m.opened,
        "verdict",
    ),
    _row(
        "counter",
        "connections",
        "connections_ended_total",
        "Ended connections by reason; send_timeout is a client that accepted no bytes",
        lambda m, _: m.ended,
        "reason",
    ),
    _row(
        "histogram",
        "connections",
        "connection_duration_seconds",
        "Duration of ended connections",
        lambda m, _: m.duration,
    ),
    _row(
        "counter",
        "connections",
        "sessions_ended_total",
        "Ended sessions by reason",
        lambda m, _: m.sessions_ended,
        "reason",
    ),
    _row(
        "counter",
        "messages",
        "messages_received_total",
        "Frames from clients by type; invalid counts those that are not valid messages",
        lambda m, _: m.received,
        "type",
    ),
    _row(
        "counter",
        "messages",
        "messages_sent_total",
        "Frames to clients by type; merged deltas are one frame",
        lambda m, _: m.sent,
        "type",
    ),
    _row(
        "counter",
        "messages",
        "compression_bytes_total",
        "Bytes of the messages that were compressed, before (plain) and after (compressed); "
        "messages that stay as they are do not count",
        lambda m, _: m.compression_bytes,
        "direction",
        "form",
    ),
    _row(
        "histogram",
        "messages",
        "message_processing_seconds",
        "From the arrival of a frame until it was answered, refused or queued, by type",
        lambda m, _: m.processing,
        "type",
    ),
    _row(
        "histogram",
        "messages",
        "message_confirmation_seconds",
        "From the arrival of a message to its confirmation; a message with a key is stored first",
        lambda m, _: m.confirmation,
    ),
    _row(
        "counter",
        "messages",
        "errors_total",
        "Errors sent to clients in frames, refused requests and ends of runs, by code",
        lambda m, _: m.errors,
        "code",
    ),
    _row(
        "counter",
        "messages",
        "rate_limit_events_total",
        "Messages and requests beyond a rate limit, delayed or refused",
        lambda m, _: m.rate_events,
        "limit",
        "outcome",
    ),
    _row(
        "counter",
        "health",
        "openings_total",
        "Requested upgrades by result: opened, failed (an error of the server), or the code of the "
        "refusal",
        lambda m, _: m.openings,
        "result",
    ),
    _row(
        "histogram",
        "health",
        "opening_duration_seconds",
        "From the request of an upgrade until it is accepted: token, user, session",
        lambda m, _: m.opening,
    ),
    _row(
        "histogram",
        "health",
        "reconnection_seconds",
        "Time without a connection of sessions that were resumed",
        lambda m, _: m.away,
    ),
    _row(
        "counter",
        "health",
        "recoveries_total",
        "Errors by outcome, recovered or failed: a lost connection whose session was resumed, "
        "invalid frames before a valid one, a run that was retried",
        lambda m, _: m.recoveries,
        "kind",
        "outcome",
    ),
    _row(
        "counter",
        "connections",
        "door_requests_total",
        "Requests at doors, by door and by how their answer ended",
        lambda m, _: m.door_requests,
        "door",
        "outcome",
    ),
    _row(
        "histogram",
        "health",
        "http_request_duration_seconds",
        "Duration of HTTP requests except streams, downloads and long-polls; /ws/config is service "
        "discovery",
        lambda m, _: m.requests,
        "endpoint",
    ),
    _row(
        "histogram",
        "delivery",
        "first_delta_seconds",
        "From the arrival of a message until the first delta of its run is handed to the transport",
        lambda m, _: m.first_delta,
    ),
    _row(
        "histogram",
        "delivery",
        "delta_gap_seconds",
        "From a write with a delta to the next one of the same run; one in 64 is measured",
        lambda m, _: m.delta_gap,
    ),
    _row(
        "histogram",
        "delivery",
        "stop_seconds",
        "From a stop_agent until the end of the run is handed to the transport",
        lambda m, _: m.stop,
    ),
    _row(
        "counter",
        "delivery",
        "deltas_merged_total",
        "Deltas that were sent in the frame of another delta",
        lambda m, _: m.merged,
    ),
    _row(
        "gauge",
        "delivery",
        "log_events",
        "Events in the event logs of all sessions, unsent or unacknowledged",
        lambda _, g: g.log_events,
    ),
    _row(
        "gauge",
        "delivery",
        "log_events_max",
        "Events in the largest event log; at WEBSOCKET_REPLAY_EVENTS its agents are paused",
        lambda _, g: g.log_events_max,
        merge="max",
    ),
    _row(
        "gauge",
        "runs",
        "runs",
        "Runs that are running (active) and queued (waiting)",
        lambda _, g: g.runs,
        "state",
    ),
    _row(
        "histogram",
        "runs",
        "run_wait_seconds",
        "From the arrival of a message to the start of its run",
        lambda m, _: m.run_wait,
    ),
    _row(
        "histogram",
        "runs",
        "run_duration_seconds",
        "Duration of runs by final status; 0 for a run that never started",
        lambda m, _: m.run_duration,
        "status",
    ),
    _row(
        "counter",
        "runs",
        "runs_ended_total",
        "Ended runs by agent and status",
        lambda m, _: m.runs_ended,
        "agent",
        "status",
    ),
    _row(
        "counter",
        "runs",
        "run_retries_total",
        "Attempts of runs after a failed attempt",
        lambda m, _: m.retries,
    ),
    _row(
        "histogram",
        "runs",
        "tool_duration_seconds",
        "Duration of tool calls by outcome",
        lambda m, _: m.tool_duration,
        "outcome",
    ),
    _row(
        "counter",
        "runs",
        "questions_closed_total",
        "Closed questions of agents by kind and outcome",
        lambda m, _: m.questions,
        "kind",
        "outcome",
    ),
    _row(
        "counter",
        "files",
        "uploads_total",
        "Uploads of files over HTTP by outcome: refused ones are faults of the client, failed ones "
        "of the server or of what it depends on",
        lambda m, _: m.uploads,
        "outcome",
    ),
    _row(
        "counter",
        "files",
        "file_bytes_total",
        "Bytes of files that clients have uploaded and downloaded over HTTP",
        lambda m, _: m.file_bytes,
        "direction",
    ),
    _row(
        "counter",
        "runs",
        "notifications_total",
        "Attempts to notify the webhook of a run, sent or failed, and those that are dropped "
        "because the user has a connection",
        lambda m, _: m.notifications,
        "outcome",
    ),
    _row(
        "counter",
        "runs",
        "usage_tokens_total",
        "Tokens of models that agents have reported, read (input) and written (output)",
        lambda m, _: m.usage_tokens,
        "agent",
        "direction",
    ),
    _row(
        "counter",
        "runs",
        "usage_cost_total",
        "Cost of models that agents have reported, in the currency of the application",
        lambda m, _: m.usage_cost,
        "agent",
    ),
    _row(
        "gauge",
        "server",
        "broker_lag_seconds",
        "The age of the newest sign of life of the broker; above 5 seconds it counts as "
        "unavailable",
        lambda _, g: g.broker_lag,
        merge="max",
    ),
    _row(
        "gauge",
        "server",
        "nodes",
        "Live nodes as this one sees them, itself included; 0 without a broker",
        lambda _, g: g.nodes,
        merge="max",
    ),
    _row(
        "gauge",
        "server",
        "relayed_connections",
        "Connections whose socket and session are at different nodes, counted at both",
        lambda _, g: g.relayed,
    ),
    _row(
        "gauge",
        "server",
        "uncopied_sessions",
        "Sessions with events that wait to be copied to the broker",
        lambda _, g: g.uncopied,
    ),
    _row(
        "counter",
        "server",
        "broker_fallbacks_total",
        "New connections, messages, sessions and budgets that a node decided on alone, because "
        "the broker did not answer",
        lambda m, _: m.broker_fallbacks,
        "limit",
    ),
    _row("gauge", "server", "rooms", "Rooms with members at this node", lambda _, g: g.rooms),
    _row(
        "gauge",
        "server",
        "room_members",
        "Connections in rooms at this node, once for each room",
        lambda _, g: g.room_members,
    ),
    _row(
        "counter",
        "server",
        "room_events_total",
        "Events of rooms: received from the broker, delivered to members, merged into the frame of "
        "another one, or dropped for a member that did not keep up",
        lambda m, _: m.room_events,
        "change",
    ),
    _row(
        "counter",
        "server",
        "admin_actions_total",
        "Actions of administrators that were done, or refused",
        lambda m, _: m.admin_actions,
        "action",
        "result",
    ),
    _row(
        "histogram",
        "server",
        "event_loop_lag_seconds",
        "Delay of a task that asks to be woken; measured twice a second",
        lambda m, _: m.loop_lag,
    ),
    _row(
        "counter",
        "server",
        "log_lines_dropped_total",
        "Log lines of this process that were dropped because the output accepted them too slowly",
        lambda *_: dropped_lines(),
    ),
    _row("gauge", "server", "tasks", "Live Trio tasks", lambda _, g: g.tasks),
    _row(
        "gauge",
        "server",
        "workers",
        "Processes of this server: ready, starting, or without an answer to this scrape (silent)",
        lambda _, g: g.workers,
        "state",
    ),
)
"""Every metric of this server, in the order of the documentation."""
