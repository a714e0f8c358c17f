"""Facts as lines of the log: the story of a connection and of a run, and refusals in bounds.

    story = LogSink()
    story.note(ConnectionEnded("peer_closed", 1000, 1.5, 3, 12))

The first refusals of a cause are told one by one. More of it are counted, and told in one line
every `INTERVAL` seconds for as long as they come, so that a flood of them cannot fill a disk.
"""

from collections.abc import Callable
from operator import attrgetter
from typing import Any, get_args

import structlog
import trio
from attrs import define, evolve

from netra_trio.telemetry.events import OpeningRefused, TelemetryEvent, logged_fields

INTERVAL = 10.0  # seconds of refusals in one line: soon enough for whoever looks on
FIRST = 5  # refusals of a cause, each in a line of its own: what somebody tries by hand
CAUSES = 256  # kept apart; beyond it those of one code are one cause, whoever they come from

_log = structlog.get_logger(__name__)

_SHOWN: dict[type[Any], tuple[str, tuple[str, ...], Callable[[Any], tuple[Any, ...]]]] = {
    kind: (kind.LEVEL, names, attrgetter(*names))
    for kind in get_args(TelemetryEvent)
    if kind.LEVEL is not None and kind is not OpeningRefused
    for names in [logged_fields(kind)]
}
_REFUSAL = logged_fields(OpeningRefused)

_Cause = tuple[Any, ...]


@define
class _Repeated:
    """What came of one cause since its last line."""

    told_at: float
    last: OpeningRefused
    told: int = 1
    count: int = 0


class LogSink:
    """Writes facts to the log."""

    def __init__(self) -> None:
        self._causes: dict[_Cause, _Repeated] = {}

    def note(self, event: TelemetryEvent) -> None:
        """Write a fact, if the log has it."""
        if isinstance(event, OpeningRefused):
            self._note_refusal(event)
            return
        shown = _SHOWN.get(type(event))
        if shown is not None:
            level, names, values = shown
            getattr(_log, level)(event.EVENT, **dict(zip(names, values(event), strict=True)))

    def sum_up(self, now: float) -> None:
        """Write a line for each cause that came again, once its interval is over."""
        for cause, repeated in list(self._causes.items()):
            if now < repeated.told_at + INTERVAL:
                continue
            if repeated.count:
                _tell(evolve(repeated.last, repeated=repeated.count - 1))
                repeated.told_at, repeated.count = now, 0
            else:
                del self._causes[cause]

    def _note_refusal(self, event: OpeningRefused) -> None:
        now = trio.current_time()
        cause: _Cause = (event.code, event.status, event.upgrade, event.origin, event.peer)
        if cause not in self._causes and len(self._causes) >= CAUSES:
            cause = (event.code, event.status)
        repeated = self._causes.get(cause)
        if repeated is None:
            self._causes[cause] = _Repeated(now, event)
            _tell(event)
        elif repeated.told < FIRST:
            repeated.told += 1
            _tell(event)
        else:
            repeated.last, repeated.count = event, repeated.count + 1


def _tell(event: OpeningRefused) -> None:
    _log.warning(event.EVENT, **{name: getattr(event, name) for name in _REFUSAL})
