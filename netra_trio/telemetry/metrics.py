"""The metrics, as plain numbers: hot paths add to them, a scrape reads them.

    >>> metrics = Metrics()
    >>> metrics.loop_lag.observe(0.002)
    >>> metrics.loop_lag.count
    1

Each application has one `Metrics`. `netra_trio.telemetry.metric_table` gives the numbers their
names, labels and meanings. No label has a value that a client can choose, and every value of a
label exists from the start, at zero.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate, product
from typing import Any, get_args

import trio
from attrs import define, field, frozen

from netra_trio.protocol.admin import AdminAction
from netra_trio.protocol.codes import EndReason, ErrorCode
from netra_trio.protocol.doors import DOOR_PATHS
from netra_trio.protocol.inbound import INBOUND
from netra_trio.protocol.messages import (
    AuthExpiring,
    AuthOk,
    ConnectionEstablished,
    Event,
    Heartbeat,
    Pong,
    QuestionKind,
    QuestionOutcome,
    RunStatus,
    ServerDraining,
    ThreadHistory,
    Verdict,
)
from netra_trio.protocol.rooms import Presence, RoomConfirmed
from netra_trio.protocol.threads import ThreadChanged, ThreadList
from netra_trio.protocol.usage import UsageWarning
from netra_trio.telemetry.events import (
    SESSION_ENDS,
    TOOL_OUTCOMES,
    AdminActed,
    ConnectionEnded,
    ConnectionOpened,
    ConnectionResumed,
    DoorAnswered,
    DoorOutcome,
    FileSent,
    FileUploaded,
    NotificationDropped,
    NotificationFailed,
    NotificationSent,
    OpeningRefused,
    QuestionClosed,
    RequestAnswered,
    RunEnded,
    RunStarted,
    SessionEnded,
    TelemetryEvent,
    ToolEnded,
    UpgradeFailed,
    UploadRefused,
    UsageReported,
)

Key = str | tuple[str, ...]
"""The value of the only label of a metric, or the values of its labels."""

FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Buckets in seconds for what a user waits for: less than a millisecond is not noticeable."""

QUICK = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5)
"""Buckets in seconds for work inside the server: a frame takes some tens of microseconds."""

LONG = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0)
"""Buckets in seconds for runs and absences.

By default 120 is the resume window and 300 the time limit of a run.
"""

LIVES = (1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 4 * 3600.0, 12 * 3600.0, 24 * 3600.0)
"""Buckets in seconds for connections: from a failed page to a tab that stays open overnight."""

INVALID = "invalid"  # the type label of a frame that is not a valid message
VERDICTS = ("new", "exact", "gap", "reset_unknown", "reset_ahead")
CONNECTIONS = ("1", "2", "3", "4", "5", "6-10", "11+")
"""Labels for the number of connections of a user; 5 is the limit by default."""

WORKERS = ("ready", "starting", "silent")

ENDED = (
    RunStatus.COMPLETED,
    RunStatus.FAILED,
    RunStatus.CANCELLED,
    RunStatus.TIMED_OUT,
    RunStatus.INTERRUPTED,
)
COMPRESSED = tuple(product(("sent", "received"), ("plain", "compressed")))
RATE_EVENTS = (
    ("messages", "delayed"),
    ("messages", "refused"),
    ("control", "refused"),
    ("history", "refused"),
    ("requests", "refused"),
)
QUESTIONS = tuple(product(QuestionKind, QuestionOutcome))
ROOM_EVENTS = ("received", "delivered", "merged", "dropped")
ADMIN_ACTIONS = tuple(product(AdminAction, ("done", "refused")))
UPLOADS = ("stored", "refused", "failed")
FILE_BYTES = ("received", "sent")
NOTIFICATIONS = ("sent", "failed", "dropped")
FALLBACKS = ("connections", "messages", "sessions", "usage")
RECOVERIES = tuple(product(("connection", "frame", "run"), ("recovered", "failed")))
EVENTS = tuple(kind.TYPE for kind in get_args(Event))
SERVER_ERRORS = 500  # the lowest HTTP status of them
_CONTROL = (
    ConnectionEstablished,
    Pong,
    Heartbeat,
    AuthOk,
    AuthExpiring,
    ServerDraining,
    UsageWarning,
    ThreadHistory,
    ThreadList,
    ThreadChanged,
    RoomConfirmed,
    Presence,
)
CONTROL = (*(kind.TYPE for kind in _CONTROL), "error")


class Histogram:
    """Counts of observations by bucket, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Add one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        """The number of observations."""
        return sum(self.counts)

    def cumulative(self) -> list[tuple[str, int]]:
        """Return each bound with the number of values at or below it, `+Inf` last."""
        names = [*(f"{bound:g}" for bound in self.bounds), "+Inf"]
        return list(zip(names, accumulate(self.counts), strict=True))

    def quantile(self, share: float) -> float | None:
        """Return the lowest bound with at least this share of the values at or below it.

        None without any values, and if the quantile is above the last bound.
        """
        wanted = share * self.count
        found = zip(self.bounds, accumulate(self.counts), strict=False)
        return next((bound for bound, count in found if count >= wanted > 0), None)


def summed(histograms: Iterable[Histogram]) -> Histogram:
    """Return a new histogram with the observations of several ones, which have the same bounds."""
    summands = list(histograms)
    total = Histogram(summands[0].bounds)
    total.counts = [sum(counts) for counts in zip(*(h.counts for h in summands), strict=True)]
    total.total = sum(h.total for h in summands)
    return total


def _zeros(keys: Iterable[Key]) -> dict[Key, int]:
    return dict.fromkeys(keys, 0)


def _histograms(keys: Iterable[Key], bounds: tuple[float, ...]) -> dict[Key, Histogram]:
    return {key: Histogram(bounds) for key in keys}


@frozen
class Gauges:
    """Current quantities, which the node computes when they are read.

    Attributes:
        users: The number of users by their number of connections, one of `CONNECTIONS`.
        log_events: Events in the event logs of all sessions.
        log_events_max: Events in the largest event log.
        workers: The number of processes by state: this one, which is ready.
        broker_lag: The age of the newest sign of life of the broker, in seconds.
        nodes: The live nodes, this one included; 0 without a broker.
        relayed: Open connections of sessions at other nodes, and of sessions here with a socket
            there: both ends are counted.
        uncopied: Sessions with events that wait to be copied to the broker.
        rooms: Rooms with members at this node.
        room_members: Their members at this node.
    """

    connections: int = 0
    users: Mapping[Key, int] = field(factory=lambda: _zeros(CONNECTIONS))
    sessions: Mapping[Key, int] = field(factory=lambda: _zeros(("attached", "detached")))
    runs: Mapping[Key, int] = field(factory=lambda: _zeros(("active", "waiting")))
    log_events: int = 0
    log_events_max: int = 0
    tasks: int = 0
    workers: Mapping[Key, int] = field(factory=lambda: {**_zeros(WORKERS), "ready": 1})
    broker_lag: float = 0.0
    nodes: int = 0
    relayed: int = 0
    uncopied: int = 0
    rooms: int = 0
    room_members: int = 0


@define(eq=False)
class Metrics:
    """The counters and histograms of one application; times are in seconds.

    Attributes:
        agents: The names of its agents, used as label values.
        endpoints: The paths of its HTTP endpoints, used as label values.
        read_gauges: Returns the current gauges.
        events_sent: Events handed to transports, deltas included.
        other_events_sent: Those of them that are not deltas, by type.
        merged: Deltas that were sent in the frame of another delta.
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
    compression_bytes: dict[Key, int] = field(factory=lambda: _zeros(COMPRESSED))
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
    questions: dict[Key, int] = field(factory=lambda: _zeros(QUESTIONS))
    uploads: dict[Key, int] = field(factory=lambda: _zeros(UPLOADS))
    file_bytes: dict[Key, int] = field(factory=lambda: _zeros(FILE_BYTES))
    notifications: dict[Key, int] = field(factory=lambda: _zeros(NOTIFICATIONS))
    usage_tokens: dict[Key, int] = field(init=False)
    usage_cost: dict[Key, float] = field(init=False)
    requests: dict[Key, Histogram] = field(init=False)
    room_events: dict[Key, int] = field(factory=lambda: _zeros(ROOM_EVENTS))
    door_requests: dict[Key, int] = field(
        factory=lambda: _zeros(product(DOOR_PATHS, map(str, DoorOutcome)))
    )
    admin_actions: dict[Key, int] = field(factory=lambda: _zeros(ADMIN_ACTIONS))
    broker_fallbacks: dict[Key, int] = field(factory=lambda: _zeros(FALLBACKS))
    loop_lag: Histogram = field(factory=lambda: Histogram(FAST))

    def __attrs_post_init__(self) -> None:
        self.runs_ended = _zeros(product(self.agents, ENDED))
        self.usage_tokens = _zeros(product(self.agents, ("input", "output")))
        self.usage_cost = dict.fromkeys(self.agents, 0.0)
        self.requests = _histograms([*self.endpoints, "page", "other"], FAST)

    @property
    def sent(self) -> dict[Key, int]:
        """Frames to clients, by type."""
        deltas = self.events_sent - sum(self.other_events_sent.values())
        return {**self.other_events_sent, "partial_result": deltas, **self.control_sent}

    def note_received(self, kind: str, since: float) -> None:
        """Count a processed frame, which was read at `since` on Trio's clock."""
        self.received[kind] += 1
        self.processing[kind].observe(trio.current_time() - since)

    def note_compressed(self, direction: str, plain: int, compressed: int) -> None:
        """Count a compressed message: `sent` or `received`, and its bytes in both forms."""
        self.compression_bytes[direction, "plain"] += plain
        self.compression_bytes[direction, "compressed"] += compressed

    def note_error(self, code: ErrorCode) -> None:
        """Count an error frame."""
        self.errors[str(code)] += 1
        self.control_sent["error"] += 1

    def note(self, event: TelemetryEvent) -> None:
        """Count a telemetry event."""
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


def _question_closed(metrics: Metrics, event: QuestionClosed) -> None:
    metrics.questions[event.kind, event.outcome] += 1


def _file_uploaded(metrics: Metrics, event: FileUploaded) -> None:
    metrics.uploads["stored"] += 1
    metrics.file_bytes["received"] += event.bytes


def _upload_refused(metrics: Metrics, event: UploadRefused) -> None:
    metrics.uploads["failed" if event.status >= SERVER_ERRORS else "refused"] += 1


def _file_sent(metrics: Metrics, event: FileSent) -> None:
    metrics.file_bytes["sent"] += event.bytes


def _notification_sent(metrics: Metrics, _: NotificationSent) -> None:
    metrics.notifications["sent"] += 1


def _notification_failed(metrics: Metrics, _: NotificationFailed) -> None:
    metrics.notifications["failed"] += 1


def _notification_dropped(metrics: Metrics, _: NotificationDropped) -> None:
    metrics.notifications["dropped"] += 1


def _usage_reported(metrics: Metrics, event: UsageReported) -> None:
    metrics.usage_tokens[event.agent, "input"] += event.input_tokens
    metrics.usage_tokens[event.agent, "output"] += event.output_tokens
    metrics.usage_cost[event.agent] += event.cost or 0.0


def _admin_acted(metrics: Metrics, event: AdminActed) -> None:
    metrics.admin_actions[event.action, "done" if event.result == "done" else "refused"] += 1


def _door_answered(metrics: Metrics, event: DoorAnswered) -> None:
    metrics.door_requests[event.door, str(event.outcome)] += 1


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
    QuestionClosed: _question_closed,
    FileUploaded: _file_uploaded,
    UploadRefused: _upload_refused,
    FileSent: _file_sent,
    NotificationSent: _notification_sent,
    NotificationFailed: _notification_failed,
    NotificationDropped: _notification_dropped,
    UsageReported: _usage_reported,
    RequestAnswered: _request_answered,
    DoorAnswered: _door_answered,
    AdminActed: _admin_acted,
}
