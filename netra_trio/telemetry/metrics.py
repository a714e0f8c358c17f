"""What is counted and measured, in plain numbers: the hot paths add to them, a scrape reads them.

    >>> metrics = Metrics()
    >>> metrics.loop_lag.observe(0.002)
    >>> metrics.loop_lag.count
    1

One object for each application. `METRICS` is the table of what it knows: names, meanings, labels
and buckets, which the Prometheus endpoint, `/ws/stats` and the documentation all read. No label has
a value that a client could choose, and each is there from the start, at zero.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate, product
from typing import Any, Literal, cast, get_args

import trio
from attrs import define, field, frozen

from netra_trio.protocol.codes import EndReason, ErrorCode
from netra_trio.protocol.messages import (
    INBOUND,
    AuthExpiring,
    AuthOk,
    ConnectionEstablished,
    Event,
    Heartbeat,
    Pong,
    RunStatus,
    ServerDraining,
    ThreadHistory,
    Verdict,
)
from netra_trio.telemetry.events import (
    SESSION_ENDS,
    TOOL_OUTCOMES,
    ConnectionEnded,
    ConnectionOpened,
    ConnectionResumed,
    OpeningRefused,
    RequestAnswered,
    RunEnded,
    RunStarted,
    SessionEnded,
    TelemetryEvent,
    ToolEnded,
    UpgradeFailed,
)

Key = str | tuple[str, ...]
"""The value of a metric's label, or those of its labels."""

FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds of what a user waits for: a millisecond is the least that a network lets one see."""

QUICK = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5)
"""Seconds of what the server does by itself: a frame takes some tens of microseconds."""

LONG = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0)
"""Seconds of runs and absences: 120 is the resume window, 300 the time of a run, by default."""

LIVES = (1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 4 * 3600.0, 12 * 3600.0, 24 * 3600.0)
"""Seconds of a connection's life: from a failed page to a tab that stays open over night."""

INVALID = "invalid"  # the type of a frame that is no message
VERDICTS = ("new", "exact", "gap", "reset_unknown", "reset_ahead")
CONNECTIONS = ("1", "2", "3", "4", "5", "6-10", "11+")
"""How many connections a user has; 5 is the limit, by default."""

ENDED = (
    RunStatus.COMPLETED,
    RunStatus.FAILED,
    RunStatus.CANCELLED,
    RunStatus.TIMED_OUT,
    RunStatus.INTERRUPTED,
)
RATE_EVENTS = (
    ("messages", "delayed"),
    ("messages", "refused"),
    ("control", "refused"),
    ("history", "refused"),
    ("requests", "refused"),
)
RECOVERIES = tuple(product(("connection", "frame", "run"), ("recovered", "failed")))
EVENTS = tuple(kind.TYPE for kind in get_args(Event))
_CONTROL = (
    ConnectionEstablished,
    Pong,
    Heartbeat,
    AuthOk,
    AuthExpiring,
    ServerDraining,
    ThreadHistory,
)
CONTROL = (*(kind.TYPE for kind in _CONTROL), "error")


class Histogram:
    """How many observations fell below which bound, and their sum."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Take in one value."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        """How many observations there were."""
        return sum(self.counts)

    def cumulative(self) -> list[tuple[str, int]]:
        """Return each bound with how many were at or below it, `+Inf` at the end."""
        names = [*(f"{bound:g}" for bound in self._bounds), "+Inf"]
        return list(zip(names, accumulate(self.counts), strict=True))

    def quantile(self, share: float) -> float | None:
        """Return the lowest bound that so great a share is at or below.

        None where there is nothing yet, and where it is beyond the last bound.
        """
        wanted = share * self.count
        found = zip(self._bounds, accumulate(self.counts), strict=False)
        return next((bound for bound, count in found if count >= wanted > 0), None)


def _zeros(keys: Iterable[Key]) -> dict[Key, int]:
    return dict.fromkeys(keys, 0)


def _histograms(keys: Iterable[Key], bounds: tuple[float, ...]) -> dict[Key, Histogram]:
    return {key: Histogram(bounds) for key in keys}


@frozen
class Gauges:
    """What there is right now; the hub tells.

    Attributes:
        users: How many users have how many connections.
        log_events: Events in the logs of all sessions.
        log_events_max: Events in the fullest log.
    """

    connections: int = 0
    users: Mapping[Key, int] = field(factory=lambda: _zeros(CONNECTIONS))
    sessions: Mapping[Key, int] = field(factory=lambda: _zeros(("attached", "detached")))
    runs: Mapping[Key, int] = field(factory=lambda: _zeros(("active", "waiting")))
    log_events: int = 0
    log_events_max: int = 0
    tasks: int = 0


@define(eq=False)
class Metrics:
    """The figures of one application, a sink of its facts; all times are seconds.

    Attributes:
        agents: The names of its agents: values of a label.
        endpoints: The paths of its HTTP endpoints, likewise.
        read_levels: Tells what there is right now.
        events_sent: Events handed to transports, deltas and all.
        other_events_sent: Of them, those that are no deltas, by type.
        merged: Deltas that went out as a part of another's frame.
    """

    agents: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()
    read_gauges: Callable[[], Gauges] = Gauges
    events_sent: int = 0
    merged: int = 0
    retries: int = 0
    other_events_sent: dict[Key, int] = field(factory=lambda: _zeros(EVENTS))
    control_sent: dict[Key, int] = field(factory=lambda: _zeros(CONTROL))
    received: dict[Key, int] = field(factory=lambda: _zeros([*INBOUND, INVALID]))
    processing: dict[Key, Histogram] = field(
        factory=lambda: _histograms([*INBOUND, INVALID], QUICK)
    )
    confirmation: Histogram = field(factory=lambda: Histogram(FAST))
    errors: dict[Key, int] = field(factory=lambda: _zeros(map(str, ErrorCode)))
    rate_events: dict[Key, int] = field(factory=lambda: _zeros(RATE_EVENTS))
    openings: dict[Key, int] = field(
        factory=lambda: _zeros(["opened", "failed", *map(str, ErrorCode)])
    )
    opening: Histogram = field(factory=lambda: Histogram(FAST))
    opened: dict[Key, int] = field(factory=lambda: _zeros(VERDICTS))
    ended: dict[Key, int] = field(factory=lambda: _zeros(reason.label for reason in EndReason))
    duration: Histogram = field(factory=lambda: Histogram(LIVES))
    away: Histogram = field(factory=lambda: Histogram(LONG))
    sessions_ended: dict[Key, int] = field(factory=lambda: _zeros(SESSION_ENDS))
    recoveries: dict[Key, int] = field(factory=lambda: _zeros(RECOVERIES))
    first_delta: Histogram = field(factory=lambda: Histogram(FAST))
    delta_gap: Histogram = field(factory=lambda: Histogram(FAST))
    stop: Histogram = field(factory=lambda: Histogram(FAST))
    run_wait: Histogram = field(factory=lambda: Histogram(FAST))
    run_duration: dict[Key, Histogram] = field(factory=lambda: _histograms(ENDED, LONG))
    runs_ended: dict[Key, int] = field(init=False)
    tool_duration: dict[Key, Histogram] = field(factory=lambda: _histograms(TOOL_OUTCOMES, LONG))
    requests: dict[Key, Histogram] = field(init=False)
    loop_lag: Histogram = field(factory=lambda: Histogram(FAST))

    def __attrs_post_init__(self) -> None:
        self.runs_ended = _zeros(product(self.agents, ENDED))
        self.requests = _histograms([*self.endpoints, "page", "other"], FAST)

    @property
    def sent(self) -> dict[Key, int]:
        """Frames to clients, by type."""
        deltas = self.events_sent - sum(self.other_events_sent.values())
        return {**self.other_events_sent, "partial_result": deltas, **self.control_sent}

    def note_received(self, kind: str, since: float) -> None:
        """Count a frame that was read at `since` of Trio's clock and has been dealt with."""
        self.received[kind] += 1
        self.processing[kind].observe(trio.current_time() - since)

    def note_error(self, code: ErrorCode) -> None:
        """Count an error frame."""
        self.errors[str(code)] += 1
        self.control_sent["error"] += 1

    def note(self, event: TelemetryEvent) -> None:
        """Count what a fact says."""
        count = _COUNTED.get(type(event))
        if count is not None:
            count(self, event)


def _opening_refused(metrics: Metrics, event: OpeningRefused) -> None:
    metrics.errors[str(event.code)] += 1
    if event.upgrade:
        metrics.openings[str(event.code)] += 1


def _opening_failed(metrics: Metrics, _: UpgradeFailed) -> None:
    metrics.openings["failed"] += 1


def _opened(metrics: Metrics, verdict: str, seconds: float | None) -> None:
    metrics.openings["opened"] += 1
    metrics.opened[verdict] += 1
    if seconds is not None:
        metrics.opening.observe(seconds)


def _connection_opened(metrics: Metrics, event: ConnectionOpened) -> None:
    verdict = "new" if event.verdict is Verdict.NEW else f"reset_{event.reason}"
    _opened(metrics, verdict, event.opening_seconds)


def _connection_resumed(metrics: Metrics, event: ConnectionResumed) -> None:
    _opened(metrics, str(event.verdict), event.opening_seconds)
    if event.away is not None:
        metrics.away.observe(event.away)
    if event.was_lost:
        metrics.recoveries["connection", "recovered"] += 1


def _connection_ended(metrics: Metrics, event: ConnectionEnded) -> None:
    metrics.ended[event.reason] += 1
    metrics.duration.observe(event.seconds)


def _session_ended(metrics: Metrics, event: SessionEnded) -> None:
    metrics.sessions_ended[event.reason] += 1
    if event.was_lost:
        metrics.recoveries["connection", "failed"] += 1


def _run_started(metrics: Metrics, event: RunStarted) -> None:
    metrics.run_wait.observe(event.waited)


def _run_ended(metrics: Metrics, event: RunEnded) -> None:
    metrics.run_duration[event.status].observe(event.seconds)
    key = (event.agent, event.status)
    metrics.runs_ended[key] = metrics.runs_ended.get(key, 0) + 1
    if event.code is not None:
        metrics.errors[event.code] += 1
    if event.attempts > 1:
        metrics.retries += event.attempts - 1
        outcome = "recovered" if event.status is RunStatus.COMPLETED else "failed"
        metrics.recoveries["run", outcome] += 1


def _tool_ended(metrics: Metrics, event: ToolEnded) -> None:
    metrics.tool_duration[event.outcome].observe(event.seconds)


def _request_answered(metrics: Metrics, event: RequestAnswered) -> None:
    metrics.requests[event.endpoint].observe(event.seconds)


_COUNTED: dict[type[Any], Callable[[Metrics, Any], None]] = {
    OpeningRefused: _opening_refused,
    UpgradeFailed: _opening_failed,
    ConnectionOpened: _connection_opened,
    ConnectionResumed: _connection_resumed,
    ConnectionEnded: _connection_ended,
    SessionEnded: _session_ended,
    RunStarted: _run_started,
    RunEnded: _run_ended,
    ToolEnded: _tool_ended,
    RequestAnswered: _request_answered,
}

Kind = Literal["counter", "gauge", "histogram"]
Values = Mapping[Key, int] | Mapping[Key, Histogram]


@frozen
class Metric:
    """A row of the table.

    Attributes:
        name: As Prometheus has it.
        group: Where `/ws/stats` has it.
        labels: Their names.
        meaning: A sentence without its full stop.
        read: Returns its values by those of its labels; `()` where it has none.
    """

    name: str
    kind: Kind
    group: str
    labels: tuple[str, ...]
    meaning: str
    read: Callable[[Metrics, Gauges], Values]


def _row(
    kind: Kind,
    group: str,
    name: str,
    meaning: str,
    read: Callable[[Metrics, Gauges], Any],
    *labels: str,
) -> Metric:
    def values(metrics: Metrics, levels: Gauges) -> Values:
        value: Any = read(metrics, levels)
        return cast("Values", value if labels else {(): value})

    return Metric(f"netra_{name}", kind, group, labels, meaning, values)


METRICS: tuple[Metric, ...] = (
    _row(
        "gauge",
        "connections",
        "connections",
        "Connections that are open",
        lambda _, n: n.connections,
    ),
    _row(
        "gauge",
        "connections",
        "users",
        "Users that are connected, by how many connections each has",
        lambda _, n: n.users,
        "connections",
    ),
    _row(
        "gauge",
        "connections",
        "sessions",
        "Sessions, with a connection (attached) and waiting for theirs (detached)",
        lambda _, n: n.sessions,
        "state",
    ),
    _row(
        "counter",
        "connections",
        "connections_opened_total",
        "Connections that came in, by the verdict on their session: all but new are reconnections",
        lambda f, _: f.opened,
        "verdict",
    ),
    _row(
        "counter",
        "connections",
        "connections_ended_total",
        "Connections that ended, by reason; send_timeout is a client that took nothing",
        lambda f, _: f.ended,
        "reason",
    ),
    _row(
        "histogram",
        "connections",
        "connection_duration_seconds",
        "How long connections were open that have ended",
        lambda f, _: f.duration,
    ),
    _row(
        "counter",
        "connections",
        "sessions_ended_total",
        "Sessions that ended, by reason",
        lambda f, _: f.sessions_ended,
        "reason",
    ),
    _row(
        "counter",
        "messages",
        "messages_received_total",
        "Frames from clients, by type; invalid is one that is no message",
        lambda f, _: f.received,
        "type",
    ),
    _row(
        "counter",
        "messages",
        "messages_sent_total",
        "Frames to clients, by type; a merged event is one",
        lambda f, _: f.sent,
        "type",
    ),
    _row(
        "histogram",
        "messages",
        "message_processing_seconds",
        "From a frame's arrival until it was answered, refused or handed on, by type",
        lambda f, _: f.processing,
        "type",
    ),
    _row(
        "histogram",
        "messages",
        "message_confirmation_seconds",
        "From a message's arrival to its confirmation: recorded, with a key for good",
        lambda f, _: f.confirmation,
    ),
    _row(
        "counter",
        "messages",
        "errors_total",
        "Errors told to clients, in frames, refused requests and the ends of runs, by code",
        lambda f, _: f.errors,
        "code",
    ),
    _row(
        "counter",
        "messages",
        "rate_limit_events_total",
        "Messages and requests beyond a rate: delayed until their turn, or refused",
        lambda f, _: f.rate_events,
        "limit",
        "outcome",
    ),
    _row(
        "counter",
        "health",
        "openings_total",
        "Upgrades that were asked for: opened, failed for a fault of the server, or the code that "
        "refused them",
        lambda f, _: f.openings,
        "result",
    ),
    _row(
        "histogram",
        "health",
        "opening_duration_seconds",
        "From an upgrade's request until it may come in: token, user, session",
        lambda f, _: f.opening,
    ),
    _row(
        "histogram",
        "health",
        "reconnection_seconds",
        "How long sessions were without a connection that got one again",
        lambda f, _: f.away,
    ),
    _row(
        "counter",
        "health",
        "recoveries_total",
        "Errors after which it went on (recovered) or not (failed): a lost connection whose "
        "session was resumed, bad frames before a good one, a run that was tried again",
        lambda f, _: f.recoveries,
        "kind",
        "outcome",
    ),
    _row(
        "histogram",
        "health",
        "http_request_duration_seconds",
        "How long an answer over HTTP took; the one of /ws/config is service discovery",
        lambda f, _: f.requests,
        "endpoint",
    ),
    _row(
        "histogram",
        "delivery",
        "first_delta_seconds",
        "From a message's arrival until the first delta of its run is handed to the transport",
        lambda f, _: f.first_delta,
    ),
    _row(
        "histogram",
        "delivery",
        "delta_gap_seconds",
        "From a write with a delta to the next one of the same run; one in 64 is looked at",
        lambda f, _: f.delta_gap,
    ),
    _row(
        "histogram",
        "delivery",
        "stop_seconds",
        "From a stop_agent until the run's end is handed to the transport",
        lambda f, _: f.stop,
    ),
    _row(
        "counter",
        "delivery",
        "deltas_merged_total",
        "Deltas that went out as a part of another's frame",
        lambda f, _: f.merged,
    ),
    _row(
        "gauge",
        "delivery",
        "log_events",
        "Events in the logs of all sessions: to be written, or kept",
        lambda _, n: n.log_events,
    ),
    _row(
        "gauge",
        "delivery",
        "log_events_max",
        "Events in the fullest log; WEBSOCKET_REPLAY_EVENTS is where agents wait",
        lambda _, n: n.log_events_max,
    ),
    _row(
        "gauge",
        "runs",
        "runs",
        "Runs that are at work (active) and that wait for their turn (waiting)",
        lambda _, n: n.runs,
        "state",
    ),
    _row(
        "histogram",
        "runs",
        "run_wait_seconds",
        "From a message's arrival to the start of its run",
        lambda f, _: f.run_wait,
    ),
    _row(
        "histogram",
        "runs",
        "run_duration_seconds",
        "How long runs took, by the status of their end; 0 for one that never started",
        lambda f, _: f.run_duration,
        "status",
    ),
    _row(
        "counter",
        "runs",
        "runs_ended_total",
        "Runs that ended, by agent and status",
        lambda f, _: f.runs_ended,
        "agent",
        "status",
    ),
    _row(
        "counter",
        "runs",
        "run_retries_total",
        "Attempts of runs that followed a failed one",
        lambda f, _: f.retries,
    ),
    _row(
        "histogram",
        "runs",
        "tool_duration_seconds",
        "How long tools took, by how they ended",
        lambda f, _: f.tool_duration,
        "outcome",
    ),
    _row(
        "histogram",
        "server",
        "event_loop_lag_seconds",
        "How much later than it asked for a task is woken; asked twice a second",
        lambda f, _: f.loop_lag,
    ),
    _row("gauge", "server", "tasks", "Trio tasks that are alive", lambda _, n: n.tasks),
)
"""Every metric of this server, in the order of the documentation."""
