"""The scheduler: one active run in each thread, a limited number in all, the others in order.

    >>> schedule = Scheduler(max_active=8, max_waiting=32)
    >>> schedule.add("r1", "main", starts_at=0.0); schedule.add("r2", "main", starts_at=0.0)
    >>> schedule.start_due(0.0)
    ['r1']
    >>> schedule.position("r2", 0.0)
    1
    >>> schedule.ended("r1"); schedule.start_due(0.0)
    ['r2']

The scheduler only decides; the caller starts the runs. Times are seconds of the caller's clock.
"""

from enum import Enum
from math import inf

from attrs import define


class AdmissionDecision(Enum):
    """Whether the run of a message would start, wait, or be refused."""

    START = "start"
    WAIT = "wait"
    BUSY = "busy"
    FULL = "full"


@define(eq=False)
class _Waiting:
    run: str
    thread: str
    starts_at: float
    interrupts: bool


class Scheduler:
    """The waiting and the active runs of one session.

    Args:
        max_active: The maximum number of active runs, over all threads.
        max_waiting: The maximum number of waiting runs.
    """

    __slots__ = (
        "_active",
        "_max_active",
        "_max_waiting",
        "_waiting",
    )

    def __init__(self, *, max_active: int, max_waiting: int) -> None:
        self._max_active = max_active
        self._max_waiting = max_waiting
        self._waiting: list[_Waiting] = []
        self._active: dict[str, str] = {}  # run to thread

    def decide(
        self, thread: str, *, starts_at: float, now: float, reject_if_busy: bool
    ) -> AdmissionDecision:
        """Return the decision for a message that the rate allows to start at `starts_at`."""
        busy = self.is_busy(thread)
        if busy and reject_if_busy:
            return AdmissionDecision.BUSY
        free = self._max_active - len(self._active)
        if free > 0 and not busy and starts_at <= now and self._due(now) < free:
            return AdmissionDecision.START
        return (
            AdmissionDecision.FULL
            if len(self._waiting) >= self._max_waiting
            else AdmissionDecision.WAIT
        )

    def is_busy(self, thread: str) -> bool:
        """Whether the thread has an active or a waiting run."""
        return thread in self._active.values() or any(w.thread == thread for w in self._waiting)

    @property
    def has_waiting(self) -> bool:
        """Whether there are waiting runs."""
        return bool(self._waiting)

    @property
    def active(self) -> list[str]:
        """The active runs."""
        return list(self._active)

    def add(self, run: str, thread: str, *, starts_at: float, first: bool = False) -> None:
        """Add a waiting run at the end; or `first`, which interrupts the thread's active run."""
        place = 0 if first else len(self._waiting)
        self._waiting.insert(place, _Waiting(run, thread, starts_at, first))

    def start_if_free(self, run: str, thread: str, *, starts_at: float, now: float) -> bool:
        """Make a run active if no run waits and it can start now; return whether it is active."""
        active = self._active
        if self._waiting or starts_at > now or len(active) >= self._max_active:
            return False
        if thread in active.values():
            return False
        active[run] = thread
        return True

    def to_interrupt(self, now: float) -> list[str]:
        """Return the active runs that a waiting run interrupts; each only once."""
        threads = set()
        for waiting in self._waiting:
            if waiting.interrupts and waiting.starts_at <= now:
                waiting.interrupts = False
                threads.add(waiting.thread)
        if not threads:
            return []
        return [run for run, thread in self._active.items() if thread in threads]

    def position(self, run: str, now: float) -> int | None:
        """Return the position of a waiting run, from 1, among those that start before it.

        None if the run does not wait.
        """
        if not self._waiting:
            return None
        ahead = 0
        mine = next((w for w in self._waiting if w.run == run), None)
        if mine is None:
            return None
        is_full = len(self._active) >= self._max_active
        seen = set(self._active.values())  # threads with an earlier run
        for other in self._waiting:
            if other is mine:
                break
            takes_a_place = is_full and other.thread not in seen and other.starts_at <= now
            ahead += (
                other.thread == mine.thread
                or (other.starts_at > now and mine.starts_at > now)
                or takes_a_place
            )
            seen.add(other.thread)
        return ahead + 1

    def start_due(self, now: float) -> list[str]:
        """Make the due runs active, and return them."""
        started = []
        taken = set(self._active.values())
        for waiting in tuple(self._waiting):
            if len(self._active) >= self._max_active:
                break
            if waiting.starts_at <= now and waiting.thread not in taken:
                self._waiting.remove(waiting)
                self._active[waiting.run] = waiting.thread
                started.append(waiting.run)
            taken.add(waiting.thread)  # later runs of this thread wait for this one
        return started

    def next_start(self, now: float) -> float:
        """Return the earliest future start time of a waiting run; `inf` if there is none."""
        if not self._waiting:
            return inf
        return min((w.starts_at for w in self._waiting if w.starts_at > now), default=inf)

    def ended(self, run: str) -> None:
        """Remove an active run; no effect if it was removed before."""
        self._active.pop(run, None)

    def withdraw(self, run: str) -> bool:
        """Remove a waiting run; return whether it was waiting."""
        for waiting in self._waiting:
            if waiting.run == run:
                self._waiting.remove(waiting)
                return True
        return False

    def withdraw_all(self) -> list[str]:
        """Remove all waiting runs and return them, in order."""
        runs = [waiting.run for waiting in self._waiting]
        self._waiting.clear()
        return runs

    def statistics(self) -> dict[str, int]:
        """Return the numbers of active and of waiting runs."""
        return {"active": len(self._active), "waiting": len(self._waiting)}

    def _due(self, now: float) -> int:
        """Return the number of threads whose first waiting run is due and precedes a new run."""
        if not self._waiting:
            return 0
        heads: dict[str, float] = {}
        for waiting in self._waiting:
            heads.setdefault(waiting.thread, waiting.starts_at)
        active = set(self._active.values())
        return sum(starts_at <= now and thread not in active for thread, starts_at in heads.items())
