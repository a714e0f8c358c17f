"""Keepalive rules: when to send a heartbeat, when a peer is lost, when a token ends.

>>> life = Liveness(interval=30.0, now=0.0)
>>> life.next_poll
30.0
>>> life.poll(30.0)
<LivenessStatus.HEARTBEAT_DUE: 'heartbeat_due'>
>>> life.poll(60.0), life.poll(75.0)
(<LivenessStatus.HEARTBEAT_DUE: 'heartbeat_due'>, <LivenessStatus.LOST: 'lost'>)

The caller passes `now`.
"""

from enum import Enum

MISSED_INTERVALS = 2.5  # without a frame from the peer: docs/protocol.md, Limits
STALL_SECONDS = 0.5  # that a poll may be late: more is a stall of this process, not the peer's
LEEWAY = 10.0  # seconds that a token's times may be off: docs/protocol.md, Opening a connection
EXPIRY_WARNING = 60.0  # seconds before a token ends: docs/protocol.md, Limits


class LivenessStatus(Enum):
    """The result of a poll."""

    QUIET = "quiet"
    HEARTBEAT_DUE = "heartbeat_due"
    LOST = "lost"


class Liveness:
    """Whether the peer is alive: any frame from it counts.

    A poll that comes late was held up by this process, not by the peer. What the peer sent
    meanwhile may lie unread. So after a stall the peer gets its whole time again.
    """

    __slots__ = (
        "_heard",
        "_interval",
        "_next_heartbeat",
    )

    def __init__(self, *, interval: float, now: float) -> None:
        self._interval = interval
        self._next_heartbeat = now + interval
        self._heard = now

    def heard(self, now: float) -> None:
        """Note that a frame has come."""
        self._heard = now

    @property
    def next_poll(self) -> float:
        """When to poll again, at the latest."""
        return min(self._next_heartbeat, self._heard + MISSED_INTERVALS * self._interval)

    def poll(self, now: float) -> LivenessStatus:
        """Return what is due now; a heartbeat that is due counts as sent."""
        if now - self.next_poll > STALL_SECONDS:
            self._heard = now
        if now >= self._heard + MISSED_INTERVALS * self._interval:
            return LivenessStatus.LOST
        if now >= self._next_heartbeat:
            # From now, not from when it was due: after a stall one heartbeat is sent, not many.
            self._next_heartbeat = now + self._interval
            return LivenessStatus.HEARTBEAT_DUE
        return LivenessStatus.QUIET


class TokenLife:
    """When a token ends, and when its client is warned; `now` is Unix seconds.

    A token that was accepted within the leeway ends with the leeway; any other at its `exp`.
    """

    __slots__ = (
        "_warned",
        "ends_at",
        "expires_at",
    )

    def __init__(self, *, expires_at: float, now: float) -> None:
        self.expires_at = expires_at
        self.ends_at = expires_at if expires_at > now else expires_at + LEEWAY
        self._warned = False

    def seconds_to_poll(self, now: float) -> float:
        """Return after how many seconds to look again, at the latest."""
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
