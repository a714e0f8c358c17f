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
STALL_SECONDS = 0.5  # a poll that is later than this shows that this process was blocked
LEEWAY = 10.0  # seconds of clock difference allowed: docs/protocol.md, Opening a connection
EXPIRY_WARNING = 60.0  # seconds before a token ends: docs/protocol.md, Limits


class LivenessStatus(Enum):
    """The result of a poll."""

    QUIET = "quiet"
    HEARTBEAT_DUE = "heartbeat_due"
    LOST = "lost"


class Liveness:
    """Whether the peer is alive: any frame from it counts.

    A late poll means that this process was blocked. Frames of the peer may have arrived and not
    have been read. Therefore the peer's time starts again after a late poll.
    """

    __slots__ = (
        "_interval",
        "_last_frame",
        "_next_heartbeat",
    )

    def __init__(self, *, interval: float, now: float) -> None:
        self._interval = interval
        self._next_heartbeat = now + interval
        self._last_frame = now

    def note_frame(self, now: float) -> None:
        """Record that a frame was received."""
        self._last_frame = now

    @property
    def next_poll(self) -> float:
        """The latest time of the next poll."""
        return min(self._next_heartbeat, self._last_frame + MISSED_INTERVALS * self._interval)

    def poll(self, now: float) -> LivenessStatus:
        """Return what is due now; a heartbeat that is due counts as sent."""
        if now - self.next_poll > STALL_SECONDS:
            self._last_frame = now
        if now >= self._last_frame + MISSED_INTERVALS * self._interval:
            return LivenessStatus.LOST
        if now >= self._next_heartbeat:
            # Counted from now, so that one heartbeat is sent after a stall, not several.
            self._next_heartbeat = now + self._interval
            return LivenessStatus.HEARTBEAT_DUE
        return LivenessStatus.QUIET


class TokenLife:
    """When a token expires, and when its client is warned; `now` is Unix seconds.

    A token that was accepted after its `exp`, within the leeway, ends when the leeway ends. Any
    other token ends at its `exp`.
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
        """Return the seconds until the latest time of the next check."""
        due = self.ends_at if self._warned else self.ends_at - EXPIRY_WARNING
        return max(0.0, due - now)

    def has_ended(self, now: float) -> bool:
        """Whether the token has ended."""
        return now >= self.ends_at

    def warn(self, now: float) -> bool:
        """Return whether to warn the client now; True only once."""
        if self._warned or now < self.ends_at - EXPIRY_WARNING:
            return False
        self._warned = True
        return True
