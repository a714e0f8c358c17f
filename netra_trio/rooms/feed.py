"""The feed of a connection's rooms: a bounded queue of frames between its rooms and its writer.

    feed = RoomFeed(user_id, session_id, wake=…, wall_clock=…, metrics=…)
    state = MemberState("news")             # one for each membership
    feed.add_event(state, event)           # never waits
    await feed.wait_for_space(len(reply))  # replies wait
    feed.add_reply(state, reply)
    frames = feed.take(max_bytes=65536, lags=False)

A slow member must not slow a room. Beyond the bounds, deltas in the queue are merged; if that does
not help, the event is dropped, and the member gets a `room_gap` in its place.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterator
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
from netra_trio.transports.frames import SharedPayload

FEED_EVENTS = 1000  # docs/protocol.md, Rooms: over all rooms of a connection
FEED_BYTES = 1024 * 1024  # of these events together
MERGED_BYTES = 64 * 1024  # of the text of a merged delta
COMPACTED_EVENTS = 128  # new ones before the queue is searched for deltas to merge again
ROOMS = 100  # of one connection
JOINS = 4  # at the same time: each may hold the history of a room in memory
DIRECT_SENDS = 1000  # of all connections together, before other tasks run
RETRY_MS = 1000


@define(eq=False)
class MemberState:
    """The state of one membership in the feed of its connection.

    Attributes:
        room: The name of the room.
        gap: The first and last missing offset; its `room_gap` is not in the queue yet.
        last: The newest event in the queue, if a delta may be merged into it.
    """

    room: str
    gap: tuple[int, int] | None = None
    last: "_Event | None" = None


@define(eq=False)
class DirectSends:
    """The number of frames that may be sent directly before other tasks run: 10 ms of work.

    Attributes:
        left: The remaining number; at 0, the writers send.
    """

    left: int = DIRECT_SENDS

    def renew(self) -> None:
        """Reset the number, because other tasks have run."""
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
    """A frame in the queue that is not an event.

    Attributes:
        size: The bytes that count against the bound.
        slots: 1 if it counts as an event, else 0.
    """

    state: MemberState
    data: bytes
    size: int
    slots: int


@define(eq=False)
class _Event:
    """An event in the queue.

    Attributes:
        size: The bytes that count against the bound.
        first: The first offset that it covers.
        texts: The texts of a merged delta; None for any other event.
    """

    state: MemberState
    event: RoomEvent
    size: int
    first: int
    slots: int = 1
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
        wake: Wakes the writer, because the queue has a frame.
        wall_clock: Returns Unix seconds.
        metrics: Counts the events.
        send_now: Sends a frame at once and returns whether it was sent; None where that is not
            possible.
        direct: Bounds the frames that are sent in this way, for all feeds of the process.
        permissions: Returns the permissions of the newest token of the connection.

    Attributes:
        user_id: The user of the connection.
        session_id: Its session, which gets no copies of the events of its own runs.
        joins: Limits the concurrent joins.
        is_closed: Whether the connection has ended.
        on_close: Called when it is closed.
        permissions: Returns the permissions of the newest token of the connection.
    """

    def __init__(
        self,
        user_id: UserId,
        session_id: SessionId,
        *,
        wake: Callable[[], None],
        wall_clock: Callable[[], float],
        metrics: Metrics,
        send_now: Callable[[SharedPayload], bool] | None = None,
        direct: DirectSends | None = None,
        permissions: Callable[[], Collection[str]] = frozenset,
    ) -> None:
        self.user_id = user_id
        self.session_id = session_id
        self.permissions = permissions
        self.joins = trio.Semaphore(JOINS)
        self.is_closed = False
        self.on_close: Callable[[], None] | None = None
        self._wake = wake
        self._send_now = send_now
        self._direct = DirectSends() if direct is None else direct
        self._wall_clock = wall_clock
        self._metrics = metrics
        self._rooms: dict[str, int] = {}  # the memberships and joins of each
        self._queue: deque[_Event | _Frame] = deque()
        self._slots = 0
        self._bytes = 0
        self._gaps: dict[MemberState, None] = {}
        self._presence: dict[tuple[MemberState, UserId], Change] = {}  # while the queue is full
        self._not_compacted = 0
        self._taken: trio.Event | None = None

    # The rooms of the connection.

    @contextmanager
    def reserve(self, room: str) -> Iterator[None]:
        """Reserve one of the rooms of the connection during a join.

        Raises:
            Refused: QUEUE_FULL if the connection already has `ROOMS` other rooms.
        """
        self.hold(room)
        try:
            yield
        finally:
            self.release(room)

    def hold(self, room: str) -> None:
        """Count a room; each call is followed by a `release`.

        Raises:
            Refused: QUEUE_FULL if the connection already has `ROOMS` other rooms.
        """
        if room not in self._rooms and len(self._rooms) >= ROOMS:
            text = f"The connection is in {ROOMS} rooms already."
            help_ = "Leave a room and join again."
            fault = problem(ErrorCode.QUEUE_FULL, text, help=help_, retry_after_ms=RETRY_MS)
            raise Refused(fault)
        self._rooms[room] = self._rooms.get(room, 0) + 1

    def release(self, room: str) -> None:
        """Undo a `hold`."""
        count = self._rooms.pop(room) - 1
        if count:
            self._rooms[room] = count

    # Into the queue.

    def encode(self, message: Outbound, correlation_id: str | None = None) -> bytes:
        """Return a frame for this connection."""
        return encode(message, self._wall_clock(), correlation_id)

    async def wait_for_space(self, size: int) -> None:
        """Wait until `size` bytes fit into the queue, or the connection has ended.

        No checkpoint if there is space. Cancelling is safe.
        """
        while not self._has_space(size):
            if self._taken is None:
                self._taken = trio.Event()
            await self._taken.wait()

    def add_reply(self, state: MemberState, data: bytes) -> None:
        """Append a reply, after `wait_for_space`."""
        self._flush_gap(state)
        self._append(_Frame(state, data, len(data), slots=1))

    def add_notice(self, state: MemberState, data: bytes) -> None:
        """Append a frame outside of the bounds; at most one for each membership."""
        self._flush_gap(state)
        self._append(_Frame(state, data, 0, slots=0))

    def add_event(self, state: MemberState, event: RoomEvent) -> None:
        """Append an event, merge it, or drop it and note a gap; never waits."""
        if self.is_closed or self._send_directly(event):
            return
        size = len(event.data)
        while not self._has_space(size):
            if self._merge_into_last(state, event, size):
                return
            if not self._compact():
                self._metrics.room_events["dropped"] += 1
                self.note_gap(state, event.first, event.offset)
                return
        self._flush_gap(state)
        entry = _Event(state, event, size, event.first)
        state.last = entry
        self._not_compacted += 1
        self._append(entry)

    def _send_directly(self, event: RoomEvent) -> bool:
        """Send an event without the queue, if that is empty; return whether it was sent.

        Waking a writer costs several times as much as a write.
        """
        direct = self._direct
        if self._send_now is None or self._queue or self._gaps or direct.left <= 0:
            return False
        direct.left -= 1
        if not self._send_now(event.frame):
            return False
        self._metrics.room_events["delivered"] += 1
        return True

    def note_gap(self, state: MemberState, first: int, last: int) -> None:
        """Note that offsets are missing; a `room_gap` precedes the next event."""
        start = first if state.gap is None else min(state.gap[0], first)
        state.gap = (start, last)
        state.last = None
        self._gaps[state] = None
        if not self._queue:
            self._flush_gap(state)

    def note_restart(self, state: MemberState, last: int) -> None:
        """Note that a new epoch has begun; it replaces a gap of the previous epoch."""
        state.gap = None
        self.note_gap(state, 1, last)

    def add_presence(self, state: MemberState, change: Change) -> None:
        """Append a change of presence; in a full queue, two opposite changes cancel each other."""
        if self.is_closed:
            return
        if not self._presence and self._has_space(0):
            self._append_presence(state, change)
            return
        key = (state, change.user_id)
        if self._presence.pop(key, change).kind is change.kind:
            self._presence[key] = change  # otherwise the two changes cancel each other

    def forget(self, state: MemberState) -> None:
        """Remove the state of an ended membership; its frames in the queue stay."""
        self._gaps.pop(state, None)
        for key in [key for key in self._presence if key[0] is state]:
            del self._presence[key]

    def close(self) -> None:
        """Drop all frames, because the connection has ended; waiting calls return."""
        self.is_closed = True
        self._queue.clear()
        self._gaps.clear()
        self._presence.clear()
        self._slots = self._bytes = 0
        self._notify()
        if self.on_close is not None:
            self.on_close()

    # Out of the queue.

    @property
    def has_pending(self) -> bool:
        """Whether there are frames to take."""
        return bool(self._queue)

    def take(self, *, max_bytes: int, lags: bool) -> list[bytes]:
        """Return the next frames, at least one if there are any.

        Args:
            max_bytes: The size of all of them together.
            lags: Whether the transport blocked in the previous write: adjacent deltas are
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
                if entry.state.last is entry:
                    entry.state.last = None
                self._metrics.room_events["delivered"] += 1
                data = entry.encode()
            else:
                data = entry.data
            frames.append(data)
            size += len(data)
        if not queue:
            for state in list(self._gaps):
                self._flush_gap(state)
        if self._presence:
            self._flush_presence()
        self._notify()
        return frames

    def statistics(self) -> dict[str, int]:
        """Return the number of waiting events, their bytes, and the number of rooms."""
        return {"events": self._slots, "bytes": self._bytes, "rooms": len(self._rooms)}

    def _merges_next(self, entry: _Event, following: "_Event | _Frame") -> bool:
        return (
            isinstance(following, _Event)
            and following.state is entry.state
            and entry.merge(following.event, following.texts, following.size)
        )

    def _has_space(self, size: int) -> bool:
        if self.is_closed or not self._slots:
            return True
        return self._slots < FEED_EVENTS and self._bytes + size <= FEED_BYTES

    def _append(self, entry: "_Event | _Frame") -> None:
        if self.is_closed:
            return
        was_empty = not self._queue
        if isinstance(entry, _Frame):
            entry.state.last = None  # no event is merged across it
        self._queue.append(entry)
        self._slots += entry.slots
        self._bytes += entry.size
        if was_empty:
            self._wake()

    def _pop(self) -> None:
        entry = self._queue.popleft()
        self._slots -= entry.slots
        self._bytes -= entry.size

    def _flush_gap(self, state: MemberState) -> None:
        if state.gap is None:
            return
        first, last = state.gap
        state.gap = None
        self._gaps.pop(state, None)
        self._append(_Frame(state, self.encode(RoomGap(state.room, first, last)), 0, slots=0))

    def _flush_presence(self) -> None:
        while self._presence and self._has_space(0):
            state, user_id = next(iter(self._presence))
            self._append_presence(state, self._presence.pop((state, user_id)))

    def _append_presence(self, state: MemberState, change: Change) -> None:
        last = state.last
        self._append(_Frame(state, change.frame, len(change.frame), slots=1))
        state.last = last  # it has no offset: events before and after it may be merged

    def _notify(self) -> None:
        if self._taken is not None:
            self._taken.set()
            self._taken = None

    def _merge_into_last(self, state: MemberState, event: RoomEvent, size: int) -> bool:
        """Merge a new event into the newest one of its room in the queue, if that is possible."""
        last = state.last
        if last is None or state.gap is not None or self._bytes + size > FEED_BYTES:
            return False
        before = last.size
        if not last.merge(event, None, size):
            return False
        self._bytes += last.size - before
        self._metrics.room_events["merged"] += 1
        return True

    def _compact(self) -> bool:
        """Merge all deltas in the queue; return False if too few were added since the last time."""
        if self._not_compacted < COMPACTED_EVENTS:
            return False
        self._not_compacted = 0
        kept: deque[_Event | _Frame] = deque()
        newest: dict[MemberState, _Event | None] = {}
        for entry in self._queue:
            if isinstance(entry, _Frame):
                newest[entry.state] = None
                kept.append(entry)
                continue
            last = newest.get(entry.state)
            if last is not None and last.merge(entry.event, entry.texts, entry.size):
                self._metrics.room_events["merged"] += 1
                continue
            newest[entry.state] = entry
            kept.append(entry)
        for state, last in newest.items():
            state.last = last
        self._queue = kept
        self._slots = sum(entry.slots for entry in kept)
        self._bytes = sum(entry.size for entry in kept)
        return True


def _text_bytes(texts: list[str]) -> int:
    return sum(len(text.encode()) for text in texts)
