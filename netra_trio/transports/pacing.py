"""Fairness between connections: a flood of small frames must not delay the other tasks.

    turns = Turns()                 # one for the process
    pacer = FramePacer(turns)       # one for each connection
    if pacer.is_due:                # before each frame
        await pacer.wait()
    pacer.count(size, is_message=False)

A connection that has more frames than `FRAMES_IN_A_ROW` to handle takes a turn for every further
`FRAMES_IN_A_ROW` of them. Turns are handed out one in each pass of the scheduler, whatever the
number of connections, so a pass lasts a millisecond longer at most. Small frames that are no
messages are also limited by a token bucket: beyond it the connection is not read for a moment, and
its peer is slowed down by TCP.
"""

import trio

from netra_trio.protocol.ratelimit import TokenBucket

FRAMES_IN_A_ROW = 16  # of one connection, before other tasks run
PONGS = 16  # answered one by one; of more pings that came together the last ones are answered
SMALL_BYTES = 64  # of a payload: the cost of larger frames is bounded by the size of the message
SMALL_RATE = 200  # small frames a second that are no messages: pings, pongs, fragments
SMALL_BURST = 1000
PAUSE = 0.05  # seconds without reading, at least, when the bucket is empty


class Turns:
    """One turn in each pass of the scheduler, in the order in which tasks asked for it."""

    def __init__(self) -> None:
        self._lock = trio.Lock()  # is handed on to the next task, which runs in the next pass

    async def take(self) -> None:
        """Wait for a turn; always a checkpoint."""
        async with self._lock:
            pass


class FramePacer:
    """The pace of the frames of one connection.

    Args:
        turns: The turns that all connections of the process share.
        in_a_row: How many frames are handled before other tasks run.
    """

    def __init__(self, turns: Turns, *, in_a_row: int = FRAMES_IN_A_ROW) -> None:
        self._turns = turns
        self._most = in_a_row
        self._in_a_row = 0
        self._wait = 0.0
        self._bucket: TokenBucket | None = None  # most connections never need one

    def has_waited(self) -> None:
        """Note that the connection has waited for its peer, so that other tasks have run."""
        self._in_a_row = 0

    def count(self, size: int, *, is_message: bool) -> None:
        """Count a frame that was handled.

        Args:
            size: Bytes of its payload.
            is_message: Whether it is, or ends, a message.
        """
        self._in_a_row += 1
        if is_message or size >= SMALL_BYTES:
            return
        self._wait = self._take()

    def _take(self) -> float:
        now = trio.current_time()
        if self._bucket is None:
            self._bucket = TokenBucket(rate=SMALL_RATE, burst=SMALL_BURST, now=now)
        return self._bucket.take(now)

    @property
    def is_due(self) -> bool:
        """Whether `wait` has to be called before the next frame."""
        return self._wait > 0 or self._in_a_row >= self._most

    async def wait(self) -> None:
        """Wait until the next frame may be handled. Cancelling is safe."""
        if self._wait:
            await trio.sleep(max(self._wait, PAUSE))
            self._wait = self._take()  # the token of the frame that was handled without one
        if self._in_a_row >= self._most:
            await self._turns.take()
            self._in_a_row = 0
