"""The scheduler of a session: a limited number of active runs, the others in order.

    >>> from unittest.mock import Mock
    >>> session = Mock()
    >>> schedule = Scheduler(ThreadLines(), max_active=8, max_waiting=32)
    >>> for run in ("r1", "r2"):
    ...     place = schedule.enter(run, "main", session)
    ...     schedule.add(run, starts_at=0.0)
    >>> schedule.start_due(0.0)
    ['r1']
    >>> schedule.position("r2")
    1
    >>> schedule.ended("r1"); schedule.start_due(0.0)
    ['r2']

The lines of the threads are those of the user: the runs of all sessions are in them. The scheduler
only decides; the caller starts the runs. Times are seconds of the caller's clock.
"""

from enum import Enum
from math import inf

from attrs import define

from netra_trio.broker.threads import SharedAdmission
from netra_trio.sessions.thread_lines import LineOwner, Place, ThreadLines


class AdmissionDecision(Enum):
    """Whether the run of a message would start, wait, or be refused."""

    START = "start"
    WAIT = "wait"
    BUSY = "busy"
    FULL = "full"


@define(eq=False)
class _Waiting:
    place: Place
    starts_at: float
    interrupts: bool


class Scheduler:
    """The waiting and the active runs of one session.

    Args:
        lines: The lines of the user's threads.
        max_active: The maximum number of active runs, over all threads.
        max_waiting: The maximum number of waiting runs.
    """

    __slots__ = (
        "_active",
        "_entered",
        "_lines",
        "_max_active",
        "_max_waiting",
        "_waiting",
    )

    def __init__(self, lines: ThreadLines, *, max_active: int, max_waiting: int) -> None:
        self._lines = lines
        self._max_active = max_active
        self._max_waiting = max_waiting
        self._entered: dict[str, Place] = {}  # runs whose messages are being recorded
        self._waiting: list[_Waiting] = []
        self._active: dict[str, Place] = {}

    def decide(
        self, run: str, *, starts_at: float, now: float, reject_if_busy: bool
    ) -> AdmissionDecision:
        """Return the decision for an entered run that the rate allows to start at `starts_at`.

        If it is refused, `ended` has to follow.
        """
        can_start = self._lines.can_start(self._entered[run])
        if reject_if_busy and not can_start:
            return AdmissionDecision.BUSY
        free = self._max_active - len(self._active)
        if free > 0 and can_start and starts_at <= now and self._due(now) < free:
            return AdmissionDecision.START
        is_full = len(self._waiting) >= self._max_waiting
        return AdmissionDecision.FULL if is_full else AdmissionDecision.WAIT

    @property
    def has_waiting(self) -> bool:
        """Whether there are waiting runs."""
        return bool(self._waiting)

    @property
    def active(self) -> list[str]:
        """The active runs."""
        return list(self._active)

    def enter(
        self,
        run: str,
        thread: str,
        owner: LineOwner,
        *,
        first: bool = False,
        shared: SharedAdmission | None = None,
    ) -> Place:
        """Enter a run into the line of its thread, before its message is recorded.

        Args:
            run: The run.
            thread: Its thread.
            owner: The session, which is woken when the run becomes the first of its thread.
            first: Whether it comes next, ahead of the runs that are not active.
            shared: Keeps the line over all nodes.

        Returns:
            Its place. The run cannot start before `start_if_free` or `add`.
        """
        place = self._lines.enter(run, thread, owner, first=first, shared=shared)
        self._entered[run] = place
        return place

    def start_if_free(self, run: str, *, starts_at: float, now: float) -> bool:
        """Make an entered run active if none waits and it can start; return whether it is active.

        If not, `add` has to follow.
        """
        if self._waiting or starts_at > now or len(self._active) >= self._max_active:
            return False
        place = self._entered[run]
        if not self._lines.can_start(place):
            return False
        self._start(self._entered.pop(run))
        return True

    def add(self, run: str, *, starts_at: float, first: bool = False) -> None:
        """Let an entered run wait; if it is `first`, it interrupts the thread's active run."""
        place = self._entered.pop(run)
        place.is_waiting = True
        index = 0 if first else len(self._waiting)
        self._waiting.insert(index, _Waiting(place, starts_at, first))

    def to_interrupt(self, now: float) -> list[Place]:
        """Return the waiting runs that interrupt the active run of their thread; each only once."""
        interrupting = []
        for waiting in self._waiting:
            if waiting.interrupts and waiting.starts_at <= now:
                waiting.interrupts = False
                interrupting.append(waiting.place)
        return interrupting

    def position(self, run: str) -> int | None:
        """Return the place of a waiting run among the waiting runs of its thread, from 1.

        If the thread has an active run, it is the number of runs ahead. None if it does not wait.
        """
        places = (waiting.place for waiting in self._waiting)
        mine = next((place for place in places if place.run == run), None)
        return None if mine is None else self._lines.position(mine)

    def start_due(self, now: float) -> list[str]:
        """Make the due runs active, and return them."""
        started = []
        for waiting in tuple(self._waiting):
            if len(self._active) >= self._max_active:
                break
            if waiting.starts_at <= now and self._lines.can_start(waiting.place):
                self._waiting.remove(waiting)
                self._start(waiting.place)
                started.append(waiting.place.run)
        return started

    def _start(self, place: Place) -> None:
        self._lines.start(place)
        self._active[place.run] = place

    def next_start(self, now: float) -> float:
        """Return the earliest future start time of a waiting run; `inf` if there is none."""
        if not self._waiting:
            return inf
        return min((w.starts_at for w in self._waiting if w.starts_at > now), default=inf)

    def ended(self, run: str) -> None:
        """Remove an active run, or one that does not wait yet; no effect if it was removed."""
        place = self._active.pop(run, None) or self._entered.pop(run, None)
        if place is not None:
            self._lines.leave(place)

    def withdraw(self, run: str) -> bool:
        """Remove a waiting run; return whether it was waiting."""
        for waiting in self._waiting:
            if waiting.place.run == run:
                self._waiting.remove(waiting)
                self._lines.leave(waiting.place)
                return True
        return False

    def withdraw_all(self, *, moving: bool = False) -> list[str]:
        """Remove all waiting runs and return them, in order.

        Args:
            moving: Whether they keep their places in the lines over all nodes, for another node.
        """
        places = [waiting.place for waiting in self._waiting]
        self._waiting.clear()
        for place in places:
            if moving and place.shared is not None:
                place.shared.release(place)
            self._lines.leave(place)
        return [place.run for place in places]

    def statistics(self) -> dict[str, int]:
        """Return the numbers of active and of waiting runs."""
        return {"active": len(self._active), "waiting": len(self._waiting)}

    def _due(self, now: float) -> int:
        """Return the number of waiting runs that could start now."""
        can_start = self._lines.can_start
        return sum(w.starts_at <= now and can_start(w.place) for w in self._waiting)
