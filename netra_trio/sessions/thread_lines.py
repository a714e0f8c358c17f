"""The lines of a user's threads: the order of the runs of each thread, over all sessions.

    >>> from unittest.mock import Mock
    >>> session = Mock()
    >>> lines = ThreadLines()
    >>> one, two = lines.enter("r1", "main", session), lines.enter("r2", "main", session)
    >>> lines.start(one); lines.can_start(two)
    False
    >>> lines.leave(one); lines.can_start(two)
    True

A run enters when its message is admitted, and leaves when it has ended. The lines only decide; the
sessions start their runs.
"""

from typing import Protocol

from attrs import define

from netra_trio.broker.threads import SharedAdmission


class LineOwner(Protocol):
    """The session of a run in a line."""

    def wake(self) -> None:
        """Start its due runs, in a moment: one of them has become the first of its thread."""
        ...

    def interrupt(self, run: str) -> None:
        """Cancel an active run, because another one of its thread comes next."""
        ...


@define(eq=False)
class Place:
    """The place of one run in the line of its thread.

    Attributes:
        owner: Is woken when the run becomes the first of its thread.
        shared: Keeps the line over all nodes; None if there is only this one.
        is_waiting: Whether it waits in the schedule of its session: its message is recorded, and it
            has not started.
        is_active: Whether it has started.
        is_granted: Whether all runs ahead of it have ended, on every node; None if this process
            decides alone.
        is_refused: Whether its message was not recorded, so that its rate slot is given back.
        position: From 1, as all nodes count it; None if this process decides alone.
    """

    run: str
    thread: str
    owner: LineOwner
    shared: SharedAdmission | None = None
    is_waiting: bool = False
    is_active: bool = False
    is_granted: bool | None = None
    is_refused: bool = False
    position: int | None = None

    def wake(self) -> None:
        """Start the run if it is due, in a moment."""
        if self.is_waiting:
            self.owner.wake()

    def interrupt(self) -> None:
        """Cancel the active run, because another one comes next."""
        self.owner.interrupt(self.run)


class ThreadLines:
    """The lines of the threads of one user, in this process."""

    __slots__ = ("_active", "_waiting")

    def __init__(self) -> None:
        self._active: dict[str, Place] = {}  # by thread
        self._waiting: dict[str, list[Place]] = {}  # by thread, next first; no list is empty

    def is_busy(self, thread: str) -> bool:
        """Whether the thread has a run, active or not."""
        return thread in self._active or thread in self._waiting

    def enter(
        self,
        run: str,
        thread: str,
        owner: LineOwner,
        *,
        first: bool = False,
        shared: SharedAdmission | None = None,
    ) -> Place:
        """Add a run at the end of its line; or `first`, ahead of all that are not active."""
        place = Place(run, thread, owner, shared)
        if shared is not None:
            place.is_granted = False
        line = self._waiting.get(thread)
        if line is None:
            self._waiting[thread] = [place]
        else:
            line.insert(0 if first else len(line), place)
        return place

    def can_start(self, place: Place) -> bool:
        """Whether the thread is free and this run is its next."""
        thread = place.thread
        if thread in self._active:
            return False
        if place.is_granted is None:
            return self._waiting[thread][0] is place
        return place.is_granted

    def start(self, place: Place) -> None:
        """Make a run active."""
        self._remove_waiting(place)
        place.is_waiting, place.is_active = False, True
        self._active[place.thread] = place

    def active(self, thread: str) -> Place | None:
        """Return the active run of a thread."""
        return self._active.get(thread)

    def position(self, place: Place) -> int:
        """Return the place of a run among those that are not active, from 1."""
        return place.position or self._waiting[place.thread].index(place) + 1

    def leave(self, place: Place) -> None:
        """Remove a run, and wake the session of the next one.

        A session that has just removed a run of its schedule starts its due runs anyway.
        """
        thread, was_scheduled = place.thread, place.is_waiting or place.is_active
        if place.is_active:
            del self._active[thread]
        else:
            self._remove_waiting(place)
        if place.shared is not None:
            place.shared.leave(place)
        line = self._waiting.get(thread)
        if line is None or thread in self._active:
            return
        following = line[0]
        if following.owner is not place.owner or not was_scheduled:
            following.wake()

    def _remove_waiting(self, place: Place) -> None:
        line = self._waiting[place.thread]
        if len(line) == 1:
            del self._waiting[place.thread]
        else:
            line.remove(place)
