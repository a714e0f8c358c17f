"""What one socket has yet to write: control frames, and a bell that says the log has news.

    >>> outbox = Outbox()
    >>> outbox.ring(); outbox.ring()
    >>> outbox.offer(b"{}")
    True
    >>> outbox.take()
    [b'{}']

One bounded memory channel joins everybody who has something for the socket with its writer. Events
stay in the session's log, so the channel carries a bell for them instead, at most one at a time.
"""

import trio

CONTROL_FRAMES = 256  # a full second of the control rate and what a beat adds, twice over
CONTROL_BYTES = 64 * 1024  # what one write carries of events, too; one larger frame may wait alone
_BELL = b""


class Outbox:
    """The joint between a session, a connection's tasks and its writer."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[bytes](CONTROL_FRAMES)
        self._rung = False
        self._bytes = 0
        self._closed = False
        self._room = trio.lowlevel.ParkingLot()

    def ring(self) -> None:
        """Say that the log has news."""
        if not self._rung:
            # A full channel needs no bell: its writer will take what is in it and look at the log.
            self._rung = self.offer(_BELL)

    def offer(self, frame: bytes) -> bool:
        """Put a control frame in, if there is room; a closed outbox takes and forgets it."""
        if self._closed:
            return True
        if self._bytes and self._bytes + len(frame) > CONTROL_BYTES:
            return False
        try:
            self._send.send_nowait(frame)
        except trio.WouldBlock:
            return False
        self._bytes += len(frame)
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
        self._send.close()
        self._room.unpark_all()

    async def wait(self) -> list[bytes]:
        """Wait until there is something for the writer, and take the control frames of it.

        Cancelling may lose what was taken, so only the connection's own end cancels it.

        Raises:
            trio.EndOfChannel: If it is closed and empty.
        """
        first = await self._receive.receive()
        # One turn of the loop before the rest is taken: what is put in during this turn goes out
        # in the same write, and writes are the dearest thing a connection does.
        await trio.lowlevel.checkpoint()
        frames = self.take()
        if first == _BELL:
            self._rung = False
            return frames
        self._free(first)
        return [first, *frames]

    def take(self) -> list[bytes]:
        """Take the control frames that are there now."""
        frames: list[bytes] = []
        while True:
            try:
                frame = self._receive.receive_nowait()
            except (trio.WouldBlock, trio.EndOfChannel):
                return frames
            if frame != _BELL:
                frames.append(frame)
                self._free(frame)
            else:
                self._rung = False

    def _free(self, frame: bytes) -> None:
        self._bytes -= len(frame)
        self._room.unpark_all()
