"""What one socket has yet to write: control frames, and a bell that says the log has news.

    >>> outbox = Outbox()
    >>> outbox.ring(); outbox.ring()
    >>> outbox.offer(b"{}")
    True
    >>> outbox.take()
    [b'{}']

Everybody who has something for the socket meets its writer here. Control frames wait in a queue
that is bounded in frames and in bytes. Events stay in the session's log; the bell says that it has
news, however many.
"""

import trio

CONTROL_FRAMES = 256  # a full second of the control rate and what a beat adds, twice over
TURNS = 2  # of the loop that a write waits for more to join it
CONTROL_BYTES = 64 * 1024  # what one write carries of events, too; one larger frame may wait alone


class Outbox:
    """The joint between a session, a connection's tasks and its writer."""

    def __init__(self) -> None:
        self._frames: list[bytes] = []
        self._bytes = 0
        self._has_news = False
        self._is_settled = True
        self._closed = False
        self._writer = trio.lowlevel.ParkingLot()
        self._room = trio.lowlevel.ParkingLot()

    def ring(self, *, is_last: bool = False) -> None:
        """Say that the log has news; `is_last` if no more of it is to be expected soon."""
        self._is_settled = is_last
        if not self._has_news and not self._closed:
            self._has_news = True
            self._writer.unpark()

    def offer(self, frame: bytes) -> bool:
        """Put a control frame in, if there is room; a closed outbox takes and forgets it."""
        if self._closed:
            return True
        if len(self._frames) >= CONTROL_FRAMES:
            return False
        if self._bytes and self._bytes + len(frame) > CONTROL_BYTES:
            return False
        self._frames.append(frame)
        self._bytes += len(frame)
        self._writer.unpark()
        return True

    async def put(self, frame: bytes) -> None:
        """Put a control frame in, when there is room; a closed outbox takes and forgets it.

        Cancelling is safe: the frame is in or it is not. Without a checkpoint where there is room.
        """
        while not self.offer(frame):
            await self._room.park()

    def close(self) -> None:
        """Take nothing more; what is in can still be taken out."""
        self._closed = True
        self._writer.unpark()
        self._room.unpark_all()

    async def wait(self) -> list[bytes]:
        """Wait until there is something for the writer, and take the control frames of it.

        Cancelling loses nothing: what is taken is returned.

        Raises:
            trio.EndOfChannel: If it is closed and empty.
        """
        while not self._is_awake():
            if self._closed:
                raise trio.EndOfChannel
            await self._writer.park()
        # Writes are the dearest thing a connection does, so what comes during this turn of the
        # loop goes out in the same one; and during the next turn, if anything did: of several runs
        # some begin in the one and end in the other.
        for _ in range(TURNS):
            if self._is_settled:
                break
            self._has_news, frames = False, len(self._frames)
            await trio.lowlevel.checkpoint()
            if not self._has_news and len(self._frames) == frames:
                break
        return self.take()

    def take(self) -> list[bytes]:
        """Take the control frames that are there now, and hear the bell."""
        frames, self._frames = self._frames, []
        self._has_news = False
        if frames:
            self._bytes = 0
            self._room.unpark_all()
        return frames

    def _is_awake(self) -> bool:
        return self._has_news or bool(self._frames)
