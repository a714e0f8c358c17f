"""How much may come in: a sliding window for messages, a token bucket for control frames.

    >>> window = SlidingWindow(rate=2, waiting=1)
    >>> [window.take(0.0), window.take(1.0), window.take(2.0), window.take(3.0)]
    [0.0, 1.0, 60.0, None]
    >>> window.retry_after(3.0)
    57.0

The caller brings `now`, in seconds of any clock that does not run backwards.
"""

from collections import deque

WINDOW = 60.0  # seconds: the contract's limit is per minute
_SLOTS = 512  # a window remembers at most about this many points in time, whatever its rate


class SlidingWindow:
    """At most `rate` turns in any 60 seconds, and `waiting` more that get a later turn.

    A turn is the time at which a message may start. The next turn after a full window is known
    exactly, 60 seconds after the turn that has to leave it, so a message that waits is given its
    turn when it arrives: nothing has to be woken in order, whatever connection it came by.

    Memory is bounded whatever the rate: turns closer together than a 512th of the window share a
    slot, which counts as the latest of them. That can only make the limit stricter, by 0.2 %.
    """

    def __init__(self, *, rate: int, waiting: int) -> None:
        self._rate = rate
        self._waiting = waiting
        self._grain = 0.0 if rate <= _SLOTS else WINDOW / _SLOTS
        self._slots: deque[list[float]] = deque()  # [time of the latest turn in it, turns]
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
            if self._slots and turn - self._slots[-1][0] < self._grain:
                self._slots[-1][0] = turn
                self._slots[-1][1] += 1
            else:
                self._slots.append([turn, 1])
            self._turns += 1
        return turn

    def retry_after(self, now: float) -> float:
        """Return after how many seconds a message that may not wait now would be taken."""
        if self.turn(now) is not None:
            return 0.0
        if not self._waiting:
            return self._frees(self._turns - self._rate + 1) - now
        return next(time for time, _ in self._slots if time > now) - now

    def is_idle(self, now: float) -> bool:
        """Whether the window has forgotten every turn, so that a new one would say the same."""
        self._forget(now)
        return not self._turns

    def _forget(self, now: float) -> None:
        while self._slots and self._slots[0][0] + WINDOW <= now:
            self._turns -= int(self._slots.popleft()[1])

    def _count_after(self, now: float) -> int:
        count = 0
        for time, turns in reversed(self._slots):
            if time <= now:
                break
            count += int(turns)
        return count

    def _frees(self, turns: int) -> float:
        """Return when the oldest `turns` turns have left the window."""
        left = turns
        for time, count in self._slots:
            left -= int(count)
            if left <= 0:
                return time + WINDOW
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
