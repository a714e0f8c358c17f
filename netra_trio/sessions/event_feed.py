"""The feed: the memory channel that brings the events of a session to one socket's writer.

Each event enters the channel when it is appended to the log. When the channel is full an agent
waits in `emit`: that is the backpressure of a client that does not read. What the writer takes
comes out of the log in order, and leaves the channel with it. So events that never were in the
channel are not missed: those that a resume replays, and ends that found the channel full.
"""

from contextlib import suppress
from typing import Protocol

import trio

from netra_trio.sessions.event_log import Entry

FEED_EVENTS = 256  # events: a run's burst of 200 tokens passes without a wait; more wait in emit


class Source(Protocol):
    """The events that a feed brings: an event stream."""

    @property
    def has_pending(self) -> bool:
        """Whether the socket has yet to write an event."""
        ...

    def is_read_by(self, feed: "EventFeed") -> bool:
        """Whether this feed is the one that is attached now."""
        ...

    def take(self, *, max_bytes: int, merge: bool) -> list[Entry]:
        """Return the next events for the socket, at least one if there is any."""
        ...


class EventFeed:
    """The events of a session on their way to one socket.

    Attributes:
        merges: Whether the next events are merged, because a run found the log full.
    """

    __slots__ = ("_closed", "_crowded", "_in", "_out", "_pushed", "_received", "_source", "merges")

    def __init__(self, source: Source) -> None:
        self._source = source
        self._in: trio.MemorySendChannel[Entry | None]
        self._out: trio.MemoryReceiveChannel[Entry | None]
        self._in, self._out = trio.open_memory_channel(FEED_EVENTS)
        self._closed = False
        # Numbers, so that an empty channel is not asked: that would cost an exception a write.
        self._pushed = self._received = 0
        self._crowded = False  # whether an event has found the channel full since it was empty
        self.merges = False

    # The session's side.

    def push(self, entry: Entry) -> bool:
        """Send an event if there is room; return False if there is none.

        An event for a socket that has ended counts as sent: the log keeps it.
        """
        try:
            self._in.send_nowait(entry)
        except trio.WouldBlock:
            self._crowded = True
            return False
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            return True
        self._pushed = entry.seq
        return True

    async def push_when_possible(self, entry: Entry) -> None:
        """Send an event when there is room, or return when the socket ends. Cancelling is safe."""
        with suppress(trio.ClosedResourceError, trio.BrokenResourceError):
            await self._in.send(entry)

    # The connection's side.

    def wake(self) -> None:
        """Wake the writer, which has something to write that is no event."""
        # A full channel wakes it as well, and so does a closed one.
        with suppress(trio.WouldBlock, trio.ClosedResourceError, trio.BrokenResourceError):
            self._in.send_nowait(None)

    def close(self) -> None:
        """End the feed: `wait` raises from now on, and no agent waits for this socket."""
        self._closed = True
        self._in.close()

    async def wait(self) -> None:
        """Wait until there may be something to write. Cancelling is safe.

        Without a checkpoint if there is an event to write.

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
        """Whether there is an event to write for this socket."""
        return self._source.is_read_by(self) and self._source.has_pending

    def take(self, *, max_bytes: int, lags: bool = False) -> list[Entry]:
        """Return the next events; none for a socket that was replaced by another one.

        Args:
            max_bytes: Of all of them together, as the log counts.
            lags: Whether the transport blocked in the write before.
        """
        if not self.has_pending:
            return []
        merge, self.merges = lags or self.merges, False
        entries = self._source.take(max_bytes=max_bytes, merge=merge)
        self._leave(entries[-1].seq)
        return entries

    def _leave(self, seq: int) -> None:
        """Let the events up to `seq` leave the channel: they are taken."""
        while self._received < seq and (self._crowded or self._received < self._pushed):
            try:
                entry = self._out.receive_nowait()
            except trio.WouldBlock:
                self._crowded = False
                return
            if entry is not None:
                self._received = entry.seq
