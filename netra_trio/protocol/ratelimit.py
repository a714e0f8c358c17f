"""How much may come in: a sliding window for messages, a token bucket for control frames.

    >>> window = SlidingWindow(rate=2, waiting=1)
    >>> [window.take(0.0), window.take(1.0), window.take(2.0), window.take(3.0)]
    [0.0, 1.0, 60.0, None]
    >>> window.retry_after(3.0)
    57.0

The caller brings `now`, in seconds of any clock that does not run backwards.
"""

from attrs import define

WINDOW = 60.0  # seconds: the contract's limit is per minute
_SLOTS = 512  # a window remembers at most about this many points in time, whatever its rate


@define(eq=False)
class _Slot:
    first: float
    latest: float
    turns: int = 1


class SlidingWindow:
    """At most `rate` turns in any 60 seconds, and `waiting` more that get a later turn.

    A turn is the time at which a message may start. The next turn after a full window is known
    exactly, 60 seconds after the turn that has to leave it, so a message that waits is given its
    turn when it arrives: nothing has to be woken in order, whatever connection it came by.

    Memory is bounded whatever the rate: turns less than a 512th of the window after the first of a
    slot share it, and it counts as the latest of them. That can only make the limit stricter, by
    0.2 %. (Measured from the latest, a slot that is fed steadily would never leave the window.)
    """

    def __init__(self, *, rate: int, waiting: int) -> None:
        self._rate = rate
        self._waiting = waiting
        self._grain = 0.0 if rate <= _SLOTS else WINDOW / _SLOTS
        self._slots: list[_Slot] = []
        self._turns = 0

    def turn(self, now: float) -> float | None:
        """Return when a message that came now might start, None where it may not even wait."""
        self._forget(now)
        if self._turns < self._rate:
            return now
        if self._count_after(now) >= self._waiting:
            return None
        return self._frees(self._turns - self._rate + 1)

    def take(self, now: float) -> float | None:
        """Take that turn, and return it."""
        turn = self.turn(now)
        if turn is not None:
            self._insert(turn)
            self._turns += 1
        return turn

    def give_back(self, turn: float) -> None:
        """Give back a turn that was not used after all; nothing happens if it is forgotten."""
        for slot in reversed(self._slots):
            if slot.first <= turn <= slot.latest:
                slot.turns -= 1
                self._turns -= 1
                if not slot.turns:
                    self._slots.remove(slot)
                return

    def retry_after(self, now: float) -> float:
        """Return after how many seconds a message that may not wait now would be taken."""
        if self.turn(now) is not None:
            return 0.0
        if not self._waiting:
            return self._frees(self._turns - self._rate + 1) - now
        return next(slot.latest for slot in self._slots if slot.latest > now) - now

    def is_idle(self, now: float) -> bool:
        """Whether the window has forgotten every turn, so that a new one would say the same."""
        self._forget(now)
        return not self._turns

    def _insert(self, turn: float) -> None:
        # At the end, but for a turn that was given back ahead of some that are still to come.
        place = len(self._slots)
        while place and self._slots[place - 1].first > turn:
            place -= 1
        before = self._slots[place - 1] if place else None
        if before is not None and turn - before.first < self._grain:
            before.latest = max(before.latest, turn)
            before.turns += 1
        else:
            self._slots.insert(place, _Slot(first=turn, latest=turn))

    def _forget(self, now: float) -> None:
        while self._slots and self._slots[0].latest + WINDOW <= now:
            self._turns -= self._slots.pop(0).turns

    def _count_after(self, now: float) -> int:
        count = 0
        for slot in reversed(self._slots):
            if slot.latest <= now:
                break
            count += slot.turns
        return count

    def _frees(self, turns: int) -> float:
        """Return when the oldest `turns` turns have left the window."""
        left = turns
        for slot in self._slots:
            left -= slot.turns
            if left <= 0:
                return slot.latest + WINDOW
        raise AssertionError("more turns asked for than the window holds")


class TokenBucket:
    """A steady `rate` per second, with a `burst` on top for who has been quiet."""

    def __init__(self, *, rate: float, burst: int, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = float(burst)
        self._at = now

    def take(self, now: float) -> float:
        """Take one token; return 0, or the seconds until there is one (and take none)."""
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1:
            return (1 - self._tokens) / self._rate
        self._tokens -= 1
        return 0.0
