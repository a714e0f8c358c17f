"""Logs telemetry events; repeated refusals are summarized.

    log_sink = LogSink()
    log_sink.note(ConnectionEnded("peer_closed", 1000, 1.5, 3, 12))

The first refusals of a cause have a line each. Further ones are counted, and summarized in one line
every `INTERVAL` seconds while they continue, so that a flood cannot fill a disk.
"""

from collections.abc import Callable
from operator import attrgetter
from typing import Any, get_args

import trio
from attrs import define, evolve

from netra_trio.telemetry.events import OpeningRefused, TelemetryEvent, logged_fields
from netra_trio.telemetry.logs import EventLog

INTERVAL = 10.0  # seconds that one summary covers
FIRST = 5  # refusals of a cause that have a line each: as many as a person causes by hand
CAUSES = 256  # tracked separately; beyond it all refusals with one code are one cause

_event_log = EventLog(__name__)

_LOGGED: dict[type[Any], tuple[str, tuple[str, ...], Callable[[Any], tuple[Any, ...]]]] = {
    kind: (kind.LEVEL, names, attrgetter(*names))
    for kind in get_args(TelemetryEvent)
    if kind.LEVEL is not None and kind is not OpeningRefused
    for names in [logged_fields(kind)]
}
_REFUSAL_FIELDS = logged_fields(OpeningRefused)

_Cause = tuple[Any, ...]


@define
class _Repeated:
    """The refusals of one cause since its last line."""

    logged_at: float
    last: OpeningRefused
    lines: int = 1
    count: int = 0


class LogSink:
    """Logs telemetry events."""

    def __init__(self) -> None:
        self._causes: dict[_Cause, _Repeated] = {}

    def note(self, event: TelemetryEvent) -> None:
        """Log an event, unless it has no level."""
        if isinstance(event, OpeningRefused):
            self._log_refusal(event)
            return
        logged = _LOGGED.get(type(event))
        if logged is not None:
            level, names, values = logged
            _event_log.log(level, event.EVENT, names, values(event))

    def write_summaries(self, now: float) -> None:
        """Write a line for each cause that was repeated and whose interval is over."""
        for cause, repeated in list(self._causes.items()):
            if now < repeated.logged_at + INTERVAL:
                continue
            if repeated.count:
                _write(evolve(repeated.last, repeated=repeated.count - 1))
                repeated.logged_at, repeated.count = now, 0
            else:
                del self._causes[cause]

    def _log_refusal(self, event: OpeningRefused) -> None:
        now = trio.current_time()
        cause: _Cause = (event.code, event.status, event.upgrade, event.origin, event.peer)
        if cause not in self._causes and len(self._causes) >= CAUSES:
            cause = (event.code, event.status)
        repeated = self._causes.get(cause)
        if repeated is None:
            self._causes[cause] = _Repeated(now, event)
            _write(event)
        elif repeated.lines < FIRST:
            repeated.lines += 1
            _write(event)
        else:
            repeated.last, repeated.count = event, repeated.count + 1


def _write(event: OpeningRefused) -> None:
    _event_log.log(
        "warning",
        event.EVENT,
        _REFUSAL_FIELDS,
        tuple(getattr(event, name) for name in _REFUSAL_FIELDS),
    )
