"""Logs telemetry events; those that a client can cause at will are sampled.

log_sink = LogSink()
log_sink.note(ConnectionEnded("peer_closed", 1000, 1.5, 3, 12))
"""

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, get_args

import trio
from attrs import evolve, frozen

from netra_trio.telemetry.events import (
    ConnectionEnded,
    ConnectionOpened,
    ConnectionResumed,
    ListenerCrowded,
    OpeningRefused,
    SessionEnded,
    TelemetryEvent,
    logged_fields,
)
from netra_trio.telemetry.log_context import LOG_CONTEXT
from netra_trio.telemetry.logs import EventLog
from netra_trio.telemetry.sampling import Sampler

REFUSAL_CAUSES = 256  # tracked separately; beyond it all refusals with one code are one cause
USERS = 4096  # tracked separately; beyond it the lines of one event are one cause for all users

_event_log = EventLog(__name__)

_LOGGED: dict[type[Any], tuple[str, tuple[str, ...], Callable[[Any], tuple[Any, ...]]]] = {
    kind: (kind.LEVEL, names, attrgetter(*names))
    for kind in get_args(TelemetryEvent)
    if kind.LEVEL is not None
    for names in [logged_fields(kind)]
}


@frozen
class _Sampled:
    """An event with the ids of the task that caused it: a summary is written by another task."""

    event: Any
    ids: Mapping[str, str]


def _write(event: Any, ids: Mapping[str, str] | None = None) -> None:
    level, names, values = _LOGGED[type(event)]
    shown = values(event) if len(names) > 1 else (values(event),)
    _event_log.log(level, event.EVENT, names, shown, ids)


def _write_sampled(sampled: _Sampled, repeated: int) -> None:
    event = evolve(sampled.event, repeated=repeated) if repeated else sampled.event
    _write(event, sampled.ids)


class LogSink:
    """Logs telemetry events."""

    def __init__(self) -> None:
        self._refusals = Sampler(_write_sampled, causes=REFUSAL_CAUSES)
        self._connections = Sampler(_write_sampled, causes=USERS)

    def note(self, event: TelemetryEvent) -> None:
        """Log an event, unless it has no level."""
        sample = _SAMPLED.get(type(event))
        if sample is not None:
            sample(self, event)
        elif type(event) in _LOGGED:
            _write(event)

    def write_summaries(self, now: float) -> None:
        """Write a line for each cause that was repeated and whose interval is over."""
        self._refusals.write_summaries(now)
        self._connections.write_summaries(now)

    def sample_refusal(self, event: OpeningRefused) -> None:
        """Log a refusal, or count it with those of the same code, origin and peer."""
        cause = (event.code, event.status, event.upgrade, event.origin, event.peer)
        self._add(self._refusals, cause, (event.code, event.status), event)

    def sample_connection(
        self, event: ConnectionOpened | ConnectionResumed | ConnectionEnded | SessionEnded
    ) -> None:
        """Log a change of a connection or session, or count it with those of the same user."""
        user = getattr(event, "user_id", None) or LOG_CONTEXT.get().get("user_id")
        self._add(self._connections, (event.EVENT, user), event.EVENT, event)

    def sample_crowded(self, event: ListenerCrowded) -> None:
        """Log that no connection can be accepted, or count it with those of the same reason."""
        self._add(self._refusals, (event.EVENT, event.reason), event.EVENT, event)

    def _add(self, sampler: Sampler[_Sampled], cause: Any, common: Any, event: Any) -> None:
        sampler.add(cause, common, _Sampled(event, LOG_CONTEXT.get()), trio.current_time())


_SAMPLED: dict[type[Any], Callable[[LogSink, Any], None]] = {
    OpeningRefused: LogSink.sample_refusal,
    ConnectionOpened: LogSink.sample_connection,
    ConnectionResumed: LogSink.sample_connection,
    ConnectionEnded: LogSink.sample_connection,
    SessionEnded: LogSink.sample_connection,
    ListenerCrowded: LogSink.sample_crowded,
}
