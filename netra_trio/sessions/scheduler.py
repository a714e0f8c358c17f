"""Which run starts when: one at a time per thread, so many side by side, the rest in order.

    >>> schedule = Scheduler(max_active=8, max_waiting=32)
    >>> schedule.add("r1", "main", starts_at=0.0); schedule.add("r2", "main", starts_at=0.0)
    >>> schedule.start_due(0.0)
    ['r1']
    >>> schedule.position("r2", 0.0)
    1
    >>> schedule.ended("r1"); schedule.start_due(0.0)
    ['r2']

A plain object that decides; the session acts. Times are seconds of the caller's clock.
"""

from enum import Enum
from math import inf

from attrs import define


class AdmissionDecision(Enum):
    """What would become of a message, were it taken now."""

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
    """The runs of one session that wait, and those that are active.

    Args:
        max_active: Runs side by side, over all threads.
        max_waiting: Runs that may wait.
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
        """Say what would become of a message that the rate lets start at `starts_at`."""
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
        """Whether the thread has a run that is active or waits."""
        return thread in self._active.values() or any(w.thread == thread for w in self._waiting)

    @property
    def has_waiting(self) -> bool:
        """Whether a run waits."""
        return bool(self._waiting)

    @property
    def active(self) -> list[str]:
        """The runs that are active."""
        return list(self._active)

    def add(self, run: str, thread: str, *, starts_at: float, first: bool = False) -> None:
        """Let a run wait: last, or `first`, to interrupt what is active and come next."""
        place = 0 if first else len(self._waiting)
        self._waiting.insert(place, _Waiting(run, thread, starts_at, first))

    def start_if_free(self, run: str, thread: str, *, starts_at: float, now: float) -> bool:
        """Start a run at once, if nothing waits and nothing is in its way; return whether it is."""
        active = self._active
        if self._waiting or starts_at > now or len(active) >= self._max_active:
            return False
        if thread in active.values():
            return False
        active[run] = thread
        return True

    def to_interrupt(self, now: float) -> list[str]:
        """Return the active runs that a waiting one interrupts, once for each."""
        threads = set()
        for waiting in self._waiting:
            if waiting.interrupts and waiting.starts_at <= now:
                waiting.interrupts = False
                threads.add(waiting.thread)
        if not threads:
            return []
        return [run for run, thread in self._active.items() if thread in threads]

    def position(self, run: str, now: float) -> int | None:
        """Return a waiting run's place, from 1, among those that must start before it; or None."""
        if not self._waiting:
            return None
        ahead = 0
        mine = next((w for w in self._waiting if w.run == run), None)
        if mine is None:
            return None
        crowded = len(self._active) >= self._max_active
        seen = set(self._active.values())  # threads in which somebody else goes first
        for other in self._waiting:
            if other is mine:
                break
            takes_a_place = crowded and other.thread not in seen and other.starts_at <= now
            ahead += (
                other.thread == mine.thread
                or (other.starts_at > now and mine.starts_at > now)
                or takes_a_place
            )
            seen.add(other.thread)
        return ahead + 1

    def start_due(self, now: float) -> list[str]:
        """Return the runs to start now, which are active from here on."""
        started = []
        taken = set(self._active.values())
        for waiting in tuple(self._waiting):
            if len(self._active) >= self._max_active:
                break
            if waiting.starts_at <= now and waiting.thread not in taken:
                self._waiting.remove(waiting)
                self._active[waiting.run] = waiting.thread
                started.append(waiting.run)
            taken.add(waiting.thread)  # whoever comes behind in this thread waits for this one
        return started

    def next_start(self, now: float) -> float:
        """Return when time alone makes a waiting run due, `inf` for never."""
        if not self._waiting:
            return inf
        return min((w.starts_at for w in self._waiting if w.starts_at > now), default=inf)

    def ended(self, run: str) -> None:
        """Forget an active run; one that was abandoned ends once more."""
        self._active.pop(run, None)

    def withdraw(self, run: str) -> bool:
        """Forget a waiting run; return whether it waited."""
        for waiting in self._waiting:
            if waiting.run == run:
                self._waiting.remove(waiting)
                return True
        return False

    def withdraw_all(self) -> list[str]:
        """Forget every waiting run and return them, in order."""
        runs = [waiting.run for waiting in self._waiting]
        self._waiting.clear()
        return runs

    def statistics(self) -> dict[str, int]:
        """Return how many runs are active and how many wait."""
        return {"active": len(self._active), "waiting": len(self._waiting)}

    def _due(self, now: float) -> int:
        """Count the threads whose first waiting run is due: they come before a new one."""
        if not self._waiting:
            return 0
        heads: dict[str, float] = {}
        for waiting in self._waiting:
            heads.setdefault(waiting.thread, waiting.starts_at)
        active = set(self._active.values())
        return sum(starts_at <= now and thread not in active for thread, starts_at in heads.items())
