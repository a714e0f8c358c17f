"""The feed of a connection's rooms: a bounded queue of frames between its rooms and its writer.

    feed = RoomFeed(user_id, session_id, wake=…, wall_clock=…, metrics=…)
    lane = Lane("news")                    # one for each membership
    feed.add_event(lane, event)            # never waits
    await feed.wait_for_room(len(reply))   # replies wait
    feed.add_reply(lane, reply)
    frames = feed.take(max_bytes=65536, lags=False)

A slow member must not slow a room. Beyond the bounds, deltas in the queue are merged; if that does
not help, the event is dropped, and the member gets a `room_gap` in its place.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import orjson
import trio
from attrs import define, frozen

from netra_trio.ids import SessionId, UserId
from netra_trio.protocol.codec import encode
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.messages import Outbound
from netra_trio.protocol.problem import Refused, problem
from netra_trio.protocol.rooms import PresenceChange, RoomGap
from netra_trio.rooms.event import RoomEvent
from netra_trio.telemetry.metrics import Metrics

FEED_EVENTS = 1000  # docs/protocol.md, Rooms: over all rooms of a connection
FEED_BYTES = 1024 * 1024  # of these events together
MERGED_BYTES = 64 * 1024  # of the text of a merged delta
COMPACTED_EVENTS = 128  # new ones before the queue is searched for deltas to merge again
ROOMS = 100  # of one connection
JOINS = 4  # at the same time: each may hold the history of a room in memory
DIRECT_SENDS = 1000  # of all connections together, in one pass of the event loop
RETRY_MS = 1000


@define(eq=False)
class Lane:
    """The state of one membership in the feed.

    Attributes:
        room: The name of the room.
        gap: The first and last offset that is missing, which the member was not told yet.
        last: The newest event in the queue, if a delta may be merged into it.
    """

    room: str
    gap: tuple[int, int] | None = None
    last: "_Event | None" = None


@define(eq=False)
class DirectSends:
    """How many frames may be sent directly before other tasks get their turn: 10 ms of work.

    Attributes:
        left: How many are left; beyond it the writers send.
    """

    left: int = DIRECT_SENDS

    def renew(self) -> None:
        """Start afresh, because other tasks had their turn."""
        self.left = DIRECT_SENDS


@frozen
class Change:
    """A change of presence.

    Attributes:
        kind: Whether the user has joined or left.
        frame: Its frame, the same one for all members.
    """

    user_id: UserId
    kind: PresenceChange
    frame: bytes


@define(eq=False)
class _Frame:
    """A frame in the queue that is no event.

    Attributes:
        size: The bytes that count against the bound.
        places: 1 if it counts as an event, else 0.
    """

    lane: Lane
    data: bytes
    size: int
    places: int


@define(eq=False)
class _Event:
    """An event in the queue.

    Attributes:
        size: The bytes that count against the bound.
        first: The first offset that it stands for.
        texts: The texts of a merged delta; None for any other event.
    """

    lane: Lane
    event: RoomEvent
    size: int
    first: int
    places: int = 1
    texts: list[str] | None = None

    def merge(self, event: RoomEvent, texts: list[str] | None, size: int) -> bool:
        """Append a later event, if both are deltas of one run; return whether they are."""
        mine = self.event
        if not (mine.is_delta and event.is_delta and mine.epoch == event.epoch):
            return False
        payload, other = mine.event["payload"], event.event["payload"]
        if payload["run_id"] != other["run_id"] or self.size + size > MERGED_BYTES:
            return False
        if self.texts is None:
            self.texts = [payload["content"]]
            self.size = _text_bytes(self.texts)
        if texts is None:
            texts = [other["content"]]
            size = _text_bytes(texts)
        self.texts += texts
        self.size += size
        self.event = event
        return True

    def encode(self) -> bytes:
        """Return the frame."""
        event = self.event
        if self.texts is None:
            return event.frame
        payload = {**event.event["payload"], "content": "".join(self.texts)}
        merged = RoomEvent(
            event.room,
            event.epoch,
            event.offset,
            orjson.dumps({**event.event, "payload": payload}),
            event.timestamp,
            event.session_id,
            offset_from=self.first,
        )
        return merged.frame


class RoomFeed:
    """The frames of all rooms of one connection.

    Args:
        wake: Wakes the writer, because there is something to take.
        wall_clock: Returns Unix seconds.
        metrics: Count the events.
        send_now: Sends a WebSocket frame at once and returns whether it did; None where that is
            not possible.
        direct: Bounds the frames that are sent so, for all feeds of the process.

    Attributes:
        user_id: The user of the connection.
        session_id: Its session, which gets no copies of the events of its own runs.
        joins: Limits the joins at the same time.
        is_closed: Whether the connection has ended.
        on_close: Called when it is closed.
    """

    def __init__(
        self,
        user_id: UserId,
        session_id: SessionId,
        *,
        wake: Callable[[], None],
        wall_clock: Callable[[], float],
        metrics: Metrics,
        send_now: Callable[[bytes], bool] | None = None,
        direct: DirectSends | None = None,
    ) -> None:
        self.user_id = user_id
        self.session_id = session_id
        self.joins = trio.Semaphore(JOINS)
        self.is_closed = False
        self.on_close: Callable[[], None] | None = None
        self._wake = wake
        self._send_now = send_now
        self._direct = DirectSends() if direct is None else direct
        self._wall_clock = wall_clock
        self._metrics = metrics
        self._rooms: dict[str, int] = {}  # how many memberships and joins of each
        self._queue: deque[_Event | _Frame] = deque()
        self._places = 0
        self._bytes = 0
        self._gaps: dict[Lane, None] = {}
        self._presence: dict[tuple[Lane, UserId], Change] = {}  # that have found no room
        self._not_compacted = 0
        self._taken: trio.Event | None = None

    # The rooms of the connection.

    @contextmanager
    def reserve(self, room: str) -> Iterator[None]:
        """Hold a place for a room during a join.

        Raises:
            Refused: QUEUE_FULL if the connection has as many other rooms as it may have.
        """
        self.hold(room)
        try:
            yield
        finally:
            self.release(room)

    def hold(self, room: str) -> None:
        """Count a room; each call is followed by a `release`.

        Raises:
            Refused: QUEUE_FULL if the connection has as many other rooms as it may have.
        """
        if room not in self._rooms and len(self._rooms) >= ROOMS:
            text = f"The connection is in {ROOMS} rooms already."
            help_ = "Leave a room and join again."
            fault = problem(ErrorCode.QUEUE_FULL, text, help=help_, retry_after_ms=RETRY_MS)
            raise Refused(fault)
        self._rooms[room] = self._rooms.get(room, 0) + 1

    def release(self, room: str) -> None:
        """Take back a `hold`."""
        count = self._rooms.pop(room) - 1
        if count:
            self._rooms[room] = count

    # Into the queue.

    def encode(self, message: Outbound, correlation_id: str | None = None) -> bytes:
        """Return a frame for this connection."""
        return encode(message, self._wall_clock(), correlation_id)

    async def wait_for_room(self, size: int) -> None:
        """Wait until so many bytes fit into the queue, or the connection has ended.

        No checkpoint if there is room. Cancelling is safe.
        """
        while not self._has_room(size):
            if self._taken is None:
                self._taken = trio.Event()
            await self._taken.wait()

    def add_reply(self, lane: Lane, data: bytes) -> None:
        """Append a reply, after `wait_for_room`."""
        self._flush_gap(lane)
        self._append(_Frame(lane, data, len(data), places=1))

    def add_notice(self, lane: Lane, data: bytes) -> None:
        """Append a frame that needs no place; there is at most one for each membership."""
        self._flush_gap(lane)
        self._append(_Frame(lane, data, 0, places=0))

    def add_event(self, lane: Lane, event: RoomEvent) -> None:
        """Append an event, merge it, or drop it and note a gap; never waits."""
        if self.is_closed or self._sends_directly(event):
            return
        size = len(event.data)
        while not self._has_room(size):
            if self._merge_into_last(lane, event, size):
                return
            if not self._compact():
                self._metrics.room_events["dropped"] += 1
                self.note_gap(lane, event.first, event.offset)
                return
        self._flush_gap(lane)
        entry = _Event(lane, event, size, event.first)
        lane.last = entry
        self._not_compacted += 1
        self._append(entry)

    def _sends_directly(self, event: RoomEvent) -> bool:
        """Send an event past the queue, if nothing waits; return whether it was sent.

        Waking a writer costs several times as much as a write.
        """
        direct = self._direct
        if self._send_now is None or self._queue or self._gaps or direct.left <= 0:
            return False
        direct.left -= 1
        if not self._send_now(event.framed):
            return False
        self._metrics.room_events["delivered"] += 1
        return True

    def note_gap(self, lane: Lane, first: int, last: int) -> None:
        """Note that offsets are missing; the member is told before its next event."""
        start = first if lane.gap is None else min(lane.gap[0], first)
        lane.gap = (start, last)
        lane.last = None
        self._gaps[lane] = None
        if not self._queue:
            self._flush_gap(lane)

    def note_restart(self, lane: Lane, last: int) -> None:
        """Note that the numbers started again: what was missing of the old ones is among that."""
        lane.gap = None
        self.note_gap(lane, 1, last)

    def add_presence(self, lane: Lane, change: Change) -> None:
        """Append a change of presence; where the queue is full, the opposite takes it back."""
        if self.is_closed:
            return
        if not self._presence and self._has_room(0):
            self._append_presence(lane, change)
            return
        key = (lane, change.user_id)
        if self._presence.pop(key, change).kind is change.kind:
            self._presence[key] = change  # otherwise both changes together are none

    def forget(self, lane: Lane) -> None:
        """Forget a membership that has ended; its frames in the queue stay."""
        self._gaps.pop(lane, None)
        for key in [key for key in self._presence if key[0] is lane]:
            del self._presence[key]

    def close(self) -> None:
        """Drop everything, because the connection has ended; calls that wait return."""
        self.is_closed = True
        self._queue.clear()
        self._gaps.clear()
        self._presence.clear()
        self._places = self._bytes = 0
        self._notify()
        if self.on_close is not None:
            self.on_close()

    # Out of the queue.

    @property
    def has_pending(self) -> bool:
        """Whether there is something to take."""
        return bool(self._queue)

    def take(self, *, max_bytes: int, lags: bool) -> list[bytes]:
        """Return the next frames, at least one if there are any.

        Args:
            max_bytes: The size of all of them together.
            lags: Whether the transport blocked in the previous write: neighbouring deltas are
                merged.
        """
        frames: list[bytes] = []
        queue, size = self._queue, 0
        while queue:
            entry = queue[0]
            if frames and size + entry.size > max_bytes:
                break
            self._pop()
            if isinstance(entry, _Event):
                while lags and queue and self._merges_next(entry, queue[0]):
                    self._pop()
                    self._metrics.room_events["merged"] += 1
                if entry.lane.last is entry:
                    entry.lane.last = None
                self._metrics.room_events["delivered"] += 1
                data = entry.encode()
            else:
                data = entry.data
            frames.append(data)
            size += len(data)
        if not queue:
            for lane in list(self._gaps):
                self._flush_gap(lane)
        if self._presence:
            self._flush_presence()
        self._notify()
        return frames

    def statistics(self) -> dict[str, int]:
        """Return how much waits for the writer."""
        return {"events": self._places, "bytes": self._bytes, "rooms": len(self._rooms)}

    def _merges_next(self, entry: _Event, following: "_Event | _Frame") -> bool:
        return (
            isinstance(following, _Event)
            and following.lane is entry.lane
            and entry.merge(following.event, following.texts, following.size)
        )

    def _has_room(self, size: int) -> bool:
        if self.is_closed or not self._places:
            return True
        return self._places < FEED_EVENTS and self._bytes + size <= FEED_BYTES

    def _append(self, entry: "_Event | _Frame") -> None:
        if self.is_closed:
            return
        was_empty = not self._queue
        if isinstance(entry, _Frame):
            entry.lane.last = None  # no event is merged across it
        self._queue.append(entry)
        self._places += entry.places
        self._bytes += entry.size
        if was_empty:
            self._wake()

    def _pop(self) -> None:
        entry = self._queue.popleft()
        self._places -= entry.places
        self._bytes -= entry.size

    def _flush_gap(self, lane: Lane) -> None:
        if lane.gap is None:
            return
        first, last = lane.gap
        lane.gap = None
        self._gaps.pop(lane, None)
        self._append(_Frame(lane, self.encode(RoomGap(lane.room, first, last)), 0, places=0))

    def _flush_presence(self) -> None:
        while self._presence and self._has_room(0):
            lane, user_id = next(iter(self._presence))
            self._append_presence(lane, self._presence.pop((lane, user_id)))

    def _append_presence(self, lane: Lane, change: Change) -> None:
        last = lane.last
        self._append(_Frame(lane, change.frame, len(change.frame), places=1))
        lane.last = last  # it has no offset: events before and after it may be merged

    def _notify(self) -> None:
        if self._taken is not None:
            self._taken.set()
            self._taken = None

    def _merge_into_last(self, lane: Lane, event: RoomEvent, size: int) -> bool:
        """Merge a new event into the newest one of its room in the queue, if that is possible."""
        last = lane.last
        if last is None or lane.gap is not None or self._bytes + size > FEED_BYTES:
            return False
        before = last.size
        if not last.merge(event, None, size):
            return False
        self._bytes += last.size - before
        self._metrics.room_events["merged"] += 1
        return True

    def _compact(self) -> bool:
        """Merge all deltas in the queue; return whether there was something to try."""
        if self._not_compacted < COMPACTED_EVENTS:
            return False
        self._not_compacted = 0
        kept: deque[_Event | _Frame] = deque()
        newest: dict[Lane, _Event | None] = {}
        for entry in self._queue:
            if isinstance(entry, _Frame):
                newest[entry.lane] = None
                kept.append(entry)
                continue
            last = newest.get(entry.lane)
            if last is not None and last.merge(entry.event, entry.texts, entry.size):
                self._metrics.room_events["merged"] += 1
                continue
            newest[entry.lane] = entry
            kept.append(entry)
        for lane, last in newest.items():
            lane.last = last
        self._queue = kept
        self._places = sum(entry.places for entry in kept)
        self._bytes = sum(entry.size for entry in kept)
        return True


def _text_bytes(texts: list[str]) -> int:
    return sum(len(text.encode()) for text in texts)
