"""A membership: one connection in one room, with its position in the events of the room.

    membership = Membership(feed, "news")
    membership.held = Held()               # a join begins: events are held
    membership.start(epoch, offset)        # as in the reply
    membership.deliver(event)              # of the room
    membership.release(epoch, offset)      # the held events, and all later ones

Each membership has its own position. So a room delivers the same event to all members; each one
skips events that it already has, and notes missing offsets.
"""

from collections import deque
from collections.abc import Iterator

from attrs import define, field

from netra_trio.ids import UserId
from netra_trio.protocol.rooms import RoomLeft
from netra_trio.rooms.event import RoomEvent
from netra_trio.rooms.feed import FEED_BYTES, FEED_EVENTS, Change, MemberState, RoomFeed

HELD_EVENTS = 10_000  # during a join, until its reply is ready: some seconds at most
HELD_BYTES = 4 * FEED_BYTES


@define(eq=False)
class Held:
    """Events that are held during a join; beyond the bounds, the oldest are dropped.

    Attributes:
        events: The events, oldest first.
        is_complete: Whether no event was dropped.
    """

    events: deque[RoomEvent] = field(factory=deque)
    is_complete: bool = True
    _bytes: int = 0
    _max_events: int = HELD_EVENTS
    _max_bytes: int = HELD_BYTES

    def add(self, event: RoomEvent) -> None:
        """Hold one more event."""
        self.events.append(event)
        self._bytes += len(event.data)
        self._trim()

    def restrict(self) -> None:
        """Use the bounds of a feed from now on: the peer decides how long the rest takes."""
        self._max_events, self._max_bytes = FEED_EVENTS, FEED_BYTES
        self._trim()

    def take(self, limit: int) -> Iterator[RoomEvent]:
        """Yield and remove at most `limit` of the oldest events, also those added meanwhile."""
        while self.events and limit:
            event = self.events.popleft()
            self._bytes -= len(event.data)
            limit -= 1
            yield event

    def keep_only(self, epoch: str, *, after: int) -> None:
        """Drop the events of other epochs, and those up to an offset."""
        kept = [each for each in self.events if each.epoch == epoch and each.offset > after]
        self.events = deque(kept)
        self._bytes = sum(len(each.data) for each in kept)

    def _trim(self) -> None:
        while len(self.events) > self._max_events or self._bytes > self._max_bytes:
            self._bytes -= len(self.events.popleft().data)
            self.is_complete = False


@define(eq=False)
class Membership:
    """One connection in one room.

    Attributes:
        feed: The feed of the connection.
        room: The name of the room.
        is_lasting: Whether its permission needs no repeated check.
        epoch: The epoch of its position.
        offset: The newest offset that was delivered, skipped or noted as missing.
        held: The held events; None unless it is joining.
        is_ended: Whether it has ended: no more events follow.
    """

    feed: RoomFeed
    room: str
    is_lasting: bool = False
    epoch: str = ""
    offset: int = 0
    held: Held | None = None
    is_ended: bool = False
    _state: MemberState = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._state = MemberState(self.room)

    @property
    def user_id(self) -> UserId:
        """The user of the connection."""
        return self.feed.user_id

    @property
    def state(self) -> MemberState:
        """Its state in the feed."""
        return self._state

    def start(self, epoch: str, offset: int) -> None:
        """Set its position."""
        self.epoch, self.offset = epoch, offset

    def release(self, epoch: str, offset: int) -> None:
        """Deliver the held events, up to the position of the room, and all later ones directly."""
        held, self.held = self.held, None
        if held is not None:
            for event in held.events:
                self.deliver(event)
        self.advance(epoch, offset)

    def is_visible(self, event: RoomEvent) -> bool:
        """Whether the member gets an event: the session's log has those of its own runs."""
        return event.session_id is None or event.session_id != self.feed.session_id

    def deliver(self, event: RoomEvent) -> None:
        """Receive an event of the room."""
        if self.held is not None:
            self.held.add(event)
        elif not self.is_ended:
            self.enqueue(event)

    def enqueue(self, event: RoomEvent) -> None:
        """Put a new event into the feed; note missing offsets before it."""
        first = event.first
        if event.epoch != self.epoch:
            self.epoch, self.offset = event.epoch, first - 1
            self.feed.note_restart(self._state, first - 1)
        if event.offset <= self.offset:
            return
        if first > self.offset + 1:
            self.feed.note_gap(self._state, self.offset + 1, first - 1)
        self.offset = event.offset
        if event.is_missing:
            self.feed.note_gap(self._state, event.offset, event.offset)
        elif self.is_visible(event):
            self.feed.add_event(self._state, event)

    def advance(self, epoch: str, offset: int) -> None:
        """Move to an offset; note the offsets in between as missing."""
        if self.is_ended or self.held is not None:
            return
        if epoch != self.epoch:
            self.epoch, self.offset = epoch, offset
            self.feed.note_restart(self._state, offset)
        elif offset > self.offset:
            first, self.offset = self.offset + 1, offset
            self.feed.note_gap(self._state, first, offset)

    def change_presence(self, change: Change) -> None:
        """Send the member a change of presence."""
        if not self.is_ended:
            self.feed.add_presence(self._state, change)

    def send_left(self, correlation_id: str | None = None) -> None:
        """Send `room_left`, the last frame of the room for this member."""
        left = self.feed.encode(RoomLeft(self.room), correlation_id)
        self.feed.add_notice(self._state, left)
