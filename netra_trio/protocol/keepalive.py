"""When to beat, when to give up, when a token ends: rules to which the caller brings `now`.

>>> life = Liveness(interval=30.0, now=0.0)
>>> life.next_look
30.0
>>> life.look(30.0)
<LivenessStatus.BEAT: 'beat'>
>>> life.look(75.0)
<LivenessStatus.LOST: 'lost'>
"""

from enum import Enum

MISSED_INTERVALS = 2.5  # without a sign of life, the contract's bound, section 6
LEEWAY = 10.0  # seconds that a token's times may be off, the contract's bound, section 2
EXPIRY_WARNING = 60.0  # seconds before a token ends, the contract's bound, section 6


class LivenessStatus(Enum):
    """What a look at the line says."""

    QUIET = "quiet"
    BEAT = "beat"
    LOST = "lost"


class Liveness:
    """Whether the peer is still there: any frame from it counts."""

    def __init__(self, *, interval: float, now: float) -> None:
        self._interval = interval
        self._next_beat = now + interval
        self._heard = now

    def heard(self, now: float) -> None:
        """Note a sign of life."""
        self._heard = now

    @property
    def next_look(self) -> float:
        """When to look again, at the latest."""
        return min(self._next_beat, self._heard + MISSED_INTERVALS * self._interval)

    def look(self, now: float) -> LivenessStatus:
        """Say what is due now; a beat that is due is taken as sent."""
        if now >= self._heard + MISSED_INTERVALS * self._interval:
            return LivenessStatus.LOST
        if now >= self._next_beat:
            # From now, not from the beat that was due: after a stall one beat goes out, not many.
            self._next_beat = now + self._interval
            return LivenessStatus.BEAT
        return LivenessStatus.QUIET


class TokenLife:
    """When a token ends, and when to say so; `now` is Unix seconds.

    A token that was let in within the leeway ends with the leeway; any other at its `exp`.
    """

    def __init__(self, *, expires_at: float, now: float) -> None:
        self.expires_at = expires_at
        self.ends_at = expires_at if expires_at > now else expires_at + LEEWAY
        self._warned = False

    def seconds_to_look(self, now: float) -> float:
        """Return after how many seconds there is something to say, at the latest."""
        due = self.ends_at if self._warned else self.ends_at - EXPIRY_WARNING
        return max(0.0, due - now)

    def has_ended(self, now: float) -> bool:
        """Whether the token has ended."""
        return now >= self.ends_at

    def warn(self, now: float) -> bool:
        """Whether to warn now; True once."""
        if self._warned or now < self.ends_at - EXPIRY_WARNING:
            return False
        self._warned = True
        return True
