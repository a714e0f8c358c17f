"""Bounds repeated log lines: the first ones are written, further ones are counted and summarized.

    sampler = Sampler(write, causes=256)
    sampler.add(("INVALID_TOKEN", "10.0.0.1"), event, now)
    sampler.write_summaries(now)

The first `FIRST` events of a cause have a line each. Further ones are summarized in one line every
`INTERVAL` seconds while they continue, so that a flood cannot fill a disk.
"""

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from attrs import define

INTERVAL = 10.0  # seconds that one summary covers
FIRST = 5  # events of a cause that have a line each: as many as a person causes by hand

Event = TypeVar("Event")


@define
class _Repeated(Generic[Event]):
    """The events of one cause since its last line."""

    logged_at: float
    last: Event
    lines: int = 1
    count: int = 0


class Sampler(Generic[Event]):
    """Decides which events have a line, by their cause.

    Args:
        write: Writes a line for an event that stands for so many more of the same cause.
        causes: The number of causes that are tracked separately.
    """

    def __init__(self, write: Callable[[Event, int], None], *, causes: int) -> None:
        self._write = write
        self._max_causes = causes
        self._causes: dict[Hashable, _Repeated[Event]] = {}

    def add(self, cause: Hashable, common_cause: Hashable, event: Event, now: float) -> None:
        """Write a line for an event, or count it.

        Args:
            cause: What makes events alike.
            common_cause: Is used instead when the number of causes is at its bound.
            event: The event.
            now: Seconds of any clock.
        """
        if cause not in self._causes and len(self._causes) >= self._max_causes:
            cause = common_cause
        repeated = self._causes.get(cause)
        if repeated is None:
            self._causes[cause] = _Repeated(now, event)
            self._write(event, 0)
        elif repeated.lines < FIRST:
            repeated.lines += 1
            self._write(event, 0)
        else:
            repeated.last, repeated.count = event, repeated.count + 1

    def write_summaries(self, now: float) -> None:
        """Write a line for each cause that was repeated and whose interval is over."""
        for cause, repeated in list(self._causes.items()):
            if now < repeated.logged_at + INTERVAL:
                continue
            if repeated.count:
                self._write(repeated.last, repeated.count - 1)
                repeated.logged_at, repeated.count = now, 0
            else:
                del self._causes[cause]
