"""The outgoing side of a connection: the memory channels to its writer.

    outgoing = Outgoing(feed)
    outgoing.offer(frame)                  # control: from the reader and the heartbeat
    await outgoing.wait()
    frames = outgoing.take_control()       # before any event
    entries = outgoing.feed.take(max_bytes=65536)
    frames = outgoing.take_rooms(max_bytes=65536)

Four channels, each with a bound: control frames, large replies, the feed of the session's events,
and the feed of its rooms. The writer waits on the feed of the session only. A sender of a control
frame or of a room frame therefore wakes it there; control frames are written before all events, and
room frames behind them.
"""

from collections.abc import Callable, Collection

import trio

from netra_trio.ids import SessionId, UserId
from netra_trio.rooms.feed import RoomFeed
from netra_trio.rooms.rooms import Rooms
from netra_trio.sessions.event_feed import EventFeed
from netra_trio.transports.frames import SharedPayload

CONTROL_FRAMES = 64  # of at most 2 KiB each; if the channel is full, the reader waits
CONTROL_BYTES = 2048  # a larger frame uses the channel for large replies
LARGE_REPLIES = 0  # the sender of a large reply waits until the writer takes it


class Outgoing:
    """The frames and events to write on a connection.

    Args:
        feed: The events of the session.
    """

    __slots__ = (
        "_closed",
        "_control",
        "_has_control",
        "_has_rest",
        "_large",
        "_rooms",
        "_waits",
        "_written",
        "feed",
    )

    def __init__(self, feed: EventFeed) -> None:
        self.feed = feed
        self._control: trio.MemorySendChannel[bytes]
        self._written: trio.MemoryReceiveChannel[bytes]
        self._control, self._written = trio.open_memory_channel(CONTROL_FRAMES)
        # Opened for the first large reply, because most connections have none.
        self._large: (
            tuple[trio.MemorySendChannel[bytes], trio.MemoryReceiveChannel[bytes]] | None
        ) = None
        self._rooms: RoomFeed | None = None  # opened for the first room
        self._has_control = False
        self._has_rest = False
        self._waits = False
        self._closed = False

    def offer(self, frame: bytes) -> bool:
        """Send a control frame if there is room; return whether there was.

        A frame for a connection that has ended is dropped, and counts as sent.
        """
        try:
            self._control.send_nowait(frame)
        except trio.WouldBlock:
            return False
        except trio.ClosedResourceError:
            return True
        self._has_control = True
        self.feed.wake()
        return True

    async def put(self, frame: bytes) -> None:
        """Send a control frame; waits for room. Cancelling is safe: a cancelled frame is not sent.

        No checkpoint if there is room. A frame for a connection that has ended is dropped.
        """
        if len(frame) > CONTROL_BYTES:
            await self._put_large(frame)
        elif not self.offer(frame):
            try:
                await self._control.send(frame)
            except trio.ClosedResourceError:
                return
            self._has_control = True
            self.feed.wake()

    async def _put_large(self, frame: bytes) -> None:
        """Send a large reply; waits until the writer takes it, so that few are in memory."""
        if self._large is None:
            self._large = trio.open_memory_channel(LARGE_REPLIES)
            if self._closed:
                self._large[0].close()
        self._has_control = True
        self.feed.wake()
        try:
            await self._large[0].send(frame)
        except trio.ClosedResourceError:
            return

    def statistics(self) -> dict[str, int]:
        """Return the numbers of control frames and of large replies that wait for the writer."""
        large = 0 if self._large is None else self._large[0].statistics().tasks_waiting_send
        return {"control": self._control.statistics().current_buffer_used, "large": large}

    def close(self) -> None:
        """Accept no more frames; the control frames that were sent can still be taken."""
        self._closed = True
        self._control.close()
        if self._large is not None:
            self._large[0].close()
        if self._rooms is not None:
            self._rooms.close()
        self.feed.close()

    def open_rooms(
        self,
        rooms: Rooms,
        user_id: UserId,
        session_id: SessionId,
        send_now: Callable[[SharedPayload], bool] | None,
        permissions: Callable[[], Collection[str]],
    ) -> RoomFeed:
        """Return the feed of the rooms of this connection, which is closed with it."""
        if self._rooms is None:
            self._rooms = rooms.open_feed(
                user_id,
                session_id,
                wake=self._wake_for_rooms,
                send_now=send_now,
                permissions=permissions,
            )
            if self._closed:
                self._rooms.close()
        return self._rooms

    @property
    def rooms(self) -> RoomFeed | None:
        """The feed of the rooms; None before the first room."""
        return self._rooms

    def _wake_for_rooms(self) -> None:
        if self._waits:  # otherwise the writer checks before it waits
            self._waits = False
            self.feed.wake()

    def flush(self) -> None:
        """Wake the writer to send the rest of a frame that the transport has sent in part."""
        self._has_rest = True
        self._wake_for_rooms()

    def take_rest(self) -> bool:
        """Return whether `flush` was called since the last call."""
        has_rest, self._has_rest = self._has_rest, False
        return has_rest

    async def wait(self) -> None:
        """Wait until there may be something to write. Cancelling is safe.

        Raises:
            trio.EndOfChannel: If the connection has ended; there may still be control frames.
        """
        has_frames = self._has_control or self._has_rest
        has_frames |= self._rooms is not None and self._rooms.has_pending
        if not has_frames or self._closed:
            self._waits = True
            await self.feed.wait()
            self._waits = False

    def take_control(self) -> list[bytes]:
        """Return the control frames in the channel, and at most one large reply."""
        if not self._has_control:
            return []
        self._has_control = False
        frames: list[bytes] = []
        try:
            while True:
                frames.append(self._written.receive_nowait())
        except (trio.WouldBlock, trio.EndOfChannel):
            pass
        if self._large is not None:
            try:
                frames.append(self._large[1].receive_nowait())
            except (trio.WouldBlock, trio.EndOfChannel):
                pass
            else:
                self._has_control = True  # there may be another large reply
        return frames

    def take_rooms(self, *, max_bytes: int, lags: bool) -> list[bytes]:
        """Return the next room frames (see `RoomFeed.take`)."""
        return [] if self._rooms is None else self._rooms.take(max_bytes=max_bytes, lags=lags)
