"""Which transport the next attempt to connect uses. Rules only; the caller passes the time.

>>> policy = TransportPolicy()
>>> for now in (0.0, 1.0):
...     policy.not_opened(policy.choose(now))
>>> policy.choose(now=2.0), policy.choose(now=302.0)
(<Transport.SSE: 'sse'>, <Transport.WEBSOCKET: 'websocket'>)

Only attempts whose failure nothing explains count. An attempt that the server has refused, or a
server that is down, says nothing about what is between the client and the server. The rules choose
the transport only: when an attempt begins is decided by the back-off.
"""

from enum import StrEnum
from math import inf

FAILURES = 2  # attempts in a row that did not open
SHORT_SECONDS = 15.0  # after its opening: something killed the connection at once
SHORT_LIVES = 3  # connections in a row
RETURN_SECONDS = 300.0  # after the last WebSocket; then the next attempt is one again


class Transport(StrEnum):
    """The transport between client and server."""

    WEBSOCKET = "websocket"
    SSE = "sse"
    LONG_POLL = "long-poll"


_NEXT = {
    Transport.WEBSOCKET: Transport.SSE,
    Transport.SSE: Transport.LONG_POLL,
    Transport.LONG_POLL: Transport.WEBSOCKET,
}
"""After the last transport the first one is tried again."""


class TransportPolicy:
    """Chooses transports for the attempts of one client."""

    def __init__(self) -> None:
        self._transport = Transport.WEBSOCKET
        self._previous: Transport | None = None  # that a WebSocket replaced, until that one lasted
        self._failures = 0  # in a row
        self._short_lives = 0  # in a row
        self._tried_at = -inf  # when a WebSocket was tried last

    def choose(self, now: float) -> Transport:
        """Return the transport of an attempt that begins now."""
        is_fallback = self._transport is not Transport.WEBSOCKET
        if is_fallback and now - self._tried_at < RETURN_SECONDS:
            return self._transport
        self._tried_at = now
        return Transport.WEBSOCKET

    def explained(self) -> None:
        """Note an attempt whose failure something else explains."""
        self._failures = 0

    def established(self, transport: Transport) -> None:
        """Note the first frame of a connection."""
        self._failures = 0
        if transport is Transport.WEBSOCKET and self._transport is not transport:
            self._previous, self._transport = self._transport, transport

    def not_opened(self, transport: Transport, *, is_late: bool = False) -> None:
        """Note an attempt that failed without an explanation.

        Args:
            transport: Its transport.
            is_late: Whether it had enough time for its first frame: a proxy collects the stream.
        """
        if transport is not self._transport:
            return  # a WebSocket that was tried in place of the fallback
        self._failures += 1
        if self._failures >= FAILURES or (is_late and transport is Transport.SSE):
            self._use(_NEXT[transport])

    def lost(self, transport: Transport, lasted: float, now: float) -> None:
        """Note the end of a connection without a close frame, after so many seconds."""
        if lasted >= SHORT_SECONDS:
            self.lasted(transport)
            return
        self._short_lives += 1
        if transport is Transport.WEBSOCKET:
            self._tried_at = now
            if self._previous is not None:
                self._use(self._previous)
                return
        if self._short_lives >= SHORT_LIVES:
            self._use(_NEXT[transport])

    def lasted(self, transport: Transport) -> None:
        """Note that a connection was of use."""
        self._failures = self._short_lives = 0
        if transport is Transport.WEBSOCKET:
            self._previous = None

    def _use(self, transport: Transport) -> None:
        self._transport, self._previous = transport, None
        self._failures = self._short_lives = 0
