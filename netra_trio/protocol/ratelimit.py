"""Rate limits: a sliding window for messages, a token bucket for control frames.

    >>> window = SlidingWindow(rate=2, waiting=1)
    >>> [window.take(0.0), window.take(1.0), window.take(2.0), window.take(3.0)]
    [0.0, 1.0, 60.0, None]
    >>> window.retry_after(3.0)
    57.0

The caller passes `now`, in seconds of any monotonic clock.
"""

from attrs import define

WINDOW = 60.0  # seconds: the limit is for each minute
_GROUPS = 512  # about the largest number of times that a window stores, whatever its rate


def group_seconds(rate: int) -> float:
    """Return the length of the groups of slots of a window with this rate; 0 if it has none."""
    return 0.0 if rate <= _GROUPS else WINDOW / _GROUPS


@define(eq=False)
class _Group:
    first: float
    latest: float
    used: int = 1


class SlidingWindow:
    """At most `rate` messages in any 60 seconds, and `waiting` more that start later.

    Each message uses a slot: the time at which it may start. The next slot of a full window is 60
    seconds after the slot that has to expire first, so a message gets its start time when it
    arrives, and no task has to wake waiting messages.

    Memory is bounded for any rate: slots that start within a 512th of the window are stored as one
    group, and count as the latest slot of the group. This makes the limit stricter by at most
    0.2 %. The length of a group is measured from its first slot: measured from its latest, a group
    with a steady stream of messages would never expire.
    """

    __slots__ = (
        "_group_seconds",
        "_groups",
        "_rate",
        "_used",
        "_waiting",
    )

    def __init__(self, *, rate: int, waiting: int) -> None:
        self._rate = rate
        self._waiting = waiting
        self._group_seconds = group_seconds(rate)
        self._groups: list[_Group] = []
        self._used = 0

    def next_slot(self, now: float) -> float | None:
        """Return when a message that arrives now may start; None if it may not wait either."""
        groups = self._groups
        if groups and groups[0].latest + WINDOW <= now:
            self._drop_expired(now)
        if self._used < self._rate:
            return now
        if self._count_after(now) >= self._waiting:
            return None
        return self._time_when_free(self._used - self._rate + 1)

    def use(self, slot: float) -> None:
        """Use a slot that `next_slot` has just returned."""
        # Slots are in order; this one comes before others if it was given back earlier.
        groups = self._groups
        place = len(groups)
        while place and groups[place - 1].first > slot:
            place -= 1
        before = groups[place - 1] if place else None
        if before is not None and slot - before.first < self._group_seconds:
            before.latest = max(before.latest, slot)
            before.used += 1
        else:
            groups.insert(place, _Group(first=slot, latest=slot))
        self._used += 1

    def take(self, now: float) -> float | None:
        """Use the next slot, and return it; None if there is none."""
        slot = self.next_slot(now)
        if slot is not None:
            self.use(slot)
        return slot

    def take_now(self, now: float) -> float:
        """Use a slot for a message that may not wait.

        Returns:
            0; or the seconds until there is such a slot, and none is used.
        """
        self._drop_expired(now)
        if self._used < self._rate:
            self.use(now)
            return 0.0
        return self._time_when_free(self._used - self._rate + 1) - now

    def give_back(self, slot: float) -> None:
        """Give back a slot that was not needed; no effect if it has expired."""
        for group in reversed(self._groups):
            if group.first <= slot <= group.latest:
                group.used -= 1
                self._used -= 1
                if not group.used:
                    self._groups.remove(group)
                return

    def retry_after(self, now: float) -> float:
        """Return the seconds after which a message that may not wait now would be accepted."""
        if self.next_slot(now) is not None:
            return 0.0
        if not self._waiting:
            return self._time_when_free(self._used - self._rate + 1) - now
        return next(group.latest for group in self._groups if group.latest > now) - now

    def is_idle(self, now: float) -> bool:
        """Whether no slot is in use, so that the window can be dropped."""
        self._drop_expired(now)
        return not self._used

    def _drop_expired(self, now: float) -> None:
        while self._groups and self._groups[0].latest + WINDOW <= now:
            self._used -= self._groups.pop(0).used

    def _count_after(self, now: float) -> int:
        count = 0
        for group in reversed(self._groups):
            if group.latest <= now:
                break
            count += group.used
        return count

    def _time_when_free(self, slots: int) -> float:
        """Return when the oldest `slots` slots have expired."""
        left = slots
        for group in self._groups:
            left -= group.used
            if left <= 0:
                return group.latest + WINDOW
        raise AssertionError("the window has fewer slots")


class TokenBucket:
    """A token bucket: `rate` tokens per second, at most `burst` in stock."""

    __slots__ = (
        "_at",
        "_burst",
        "_rate",
        "_tokens",
    )

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
