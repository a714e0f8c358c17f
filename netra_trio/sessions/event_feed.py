"""The feed: the memory channel from the runs of a session to the writer of one connection.

Each event is sent into the channel when it is appended to the log. If the channel is full, the
agent waits in `emit`: this is the backpressure of a client that does not read. The writer takes the
events out of the log, in order, and removes them from the channel. So it also gets the events that
were never in the channel: replayed events, and ends that were appended while the channel was full.
"""

from contextlib import suppress
from typing import Protocol

import trio

from netra_trio.sessions.event_log import Entry

FEED_EVENTS = 256  # room for a burst of 200 tokens; if the channel is full, the agent waits


class Source(Protocol):
    """The event stream of a feed."""

    @property
    def has_pending(self) -> bool:
        """Whether there are events that the connection has not written yet."""
        ...

    def is_read_by(self, feed: "EventFeed") -> bool:
        """Whether this feed is the one that is attached now."""
        ...

    def take(self, *, max_bytes: int, merge: bool) -> list[Entry]:
        """Return the next events for the connection, at least one if there are any."""
        ...


class EventFeed:
    """The events of a session for one connection.

    Attributes:
        merges: Whether the next events are merged, because the log was full.
    """

    __slots__ = ("_closed", "_in", "_out", "_pushed", "_received", "_source", "_was_full", "merges")

    def __init__(self, source: Source) -> None:
        self._source = source
        self._in: trio.MemorySendChannel[Entry | None]
        self._out: trio.MemoryReceiveChannel[Entry | None]
        self._in, self._out = trio.open_memory_channel(FEED_EVENTS)
        self._closed = False
        # Event numbers. They show that the channel is empty without the cost of a WouldBlock.
        self._pushed = self._received = 0
        self._was_full = False  # since it was last empty
        self.merges = False

    # The session's side.

    def push(self, entry: Entry) -> bool:
        """Send an event if there is room; return False if there is none.

        An event for a connection that has ended counts as sent, because the log keeps it.
        """
        try:
            self._in.send_nowait(entry)
        except trio.WouldBlock:
            self._was_full = True
            return False
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            return True
        self._pushed = entry.seq
        return True

    async def wait_to_push(self, entry: Entry) -> None:
        """Wait for room and send an event, or return when the connection ends.

        Cancelling is safe.
        """
        with suppress(trio.ClosedResourceError, trio.BrokenResourceError):
            await self._in.send(entry)

    # The connection's side.

    def wake(self) -> None:
        """Wake the writer, because there is a control frame to write."""
        # If the channel is full or closed, the writer is awake already.
        with suppress(trio.WouldBlock, trio.ClosedResourceError, trio.BrokenResourceError):
            self._in.send_nowait(None)

    def close(self) -> None:
        """Close the feed: `wait` raises from now on, and agents no longer wait for room."""
        self._closed = True
        self._in.close()

    async def wait(self) -> None:
        """Wait until there may be something to write. Cancelling is safe.

        No checkpoint if there is an event to write.

        Raises:
            trio.EndOfChannel: If the feed is closed.
        """
        if self._closed:
            raise trio.EndOfChannel
        if not self.has_pending:
            entry = await self._out.receive()
            if entry is not None:
                self._received = entry.seq

    @property
    def has_pending(self) -> bool:
        """Whether there is an event to write on this connection."""
        return self._source.is_read_by(self) and self._source.has_pending

    def take(self, *, max_bytes: int, lags: bool = False) -> list[Entry]:
        """Return the next events; none if another connection has replaced this one.

        Args:
            max_bytes: The size of all of them together, as the log counts it.
            lags: Whether the transport blocked in the previous write.
        """
        if not self.has_pending:
            return []
        merge, self.merges = lags or self.merges, False
        entries = self._source.take(max_bytes=max_bytes, merge=merge)
        self._drain_channel_to(entries[-1].seq)
        return entries

    def _drain_channel_to(self, seq: int) -> None:
        """Remove the events up to `seq` from the channel, because they were taken from the log."""
        while self._received < seq and (self._was_full or self._received < self._pushed):
            try:
                entry = self._out.receive_nowait()
            except trio.WouldBlock:
                self._was_full = False
                return
            if entry is not None:
                self._received = entry.seq
