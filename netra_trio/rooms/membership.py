"""A membership: one connection in one room, with the position of what it was given.

    membership = Membership(feed, "news")
    membership.held = Held()               # a join begins: events are kept aside
    membership.start(epoch, offset)        # as the reply says
    membership.deliver(event)              # what the room receives
    membership.release()                   # the events that were kept aside, and all later ones

Each membership has its own position, so a room gives all members the same event, and each one skips
what it has and notes what it lacks.
"""

from collections import deque
from collections.abc import Iterator

from attrs import define, field

from netra_trio.ids import UserId
from netra_trio.protocol.rooms import RoomLeft
from netra_trio.rooms.event import RoomEvent
from netra_trio.rooms.feed import FEED_BYTES, FEED_EVENTS, Change, Lane, RoomFeed

HELD_EVENTS = 10_000  # during a join, until its reply is known: that takes some seconds at most
HELD_BYTES = 4 * FEED_BYTES


@define(eq=False)
class Held:
    """Events that are kept aside; beyond the bounds, the oldest are dropped.

    Attributes:
        events: The events, oldest first.
        is_complete: Whether none was dropped.
    """

    events: deque[RoomEvent] = field(factory=deque)
    is_complete: bool = True
    _bytes: int = 0
    _max_events: int = HELD_EVENTS
    _max_bytes: int = HELD_BYTES

    def add(self, event: RoomEvent) -> None:
        """Keep one more event."""
        self.events.append(event)
        self._bytes += len(event.data)
        self._trim()

    def restrict(self) -> None:
        """Have the bounds of a feed from now on, as the peer decides how long this takes."""
        self._max_events, self._max_bytes = FEED_EVENTS, FEED_BYTES
        self._trim()

    def take(self, limit: int) -> Iterator[RoomEvent]:
        """Yield and remove the oldest events, those that are added meanwhile too."""
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
        is_lasting: Whether its permission is not asked for again.
        epoch: The epoch of its position.
        offset: The newest offset that it was given, that it skips, or that it was told is missing.
        held: The events that are kept aside; None unless it is joining.
        is_ended: Whether it gets nothing more.
    """

    feed: RoomFeed
    room: str
    is_lasting: bool = False
    epoch: str = ""
    offset: int = 0
    held: Held | None = None
    is_ended: bool = False
    _lane: Lane = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._lane = Lane(self.room)

    @property
    def user_id(self) -> UserId:
        """The user of the connection."""
        return self.feed.user_id

    @property
    def lane(self) -> Lane:
        """Its state in the feed."""
        return self._lane

    def start(self, epoch: str, offset: int) -> None:
        """Set its position."""
        self.epoch, self.offset = epoch, offset

    def release(self, epoch: str, offset: int) -> None:
        """Give what was kept aside, up to the position of its room, and everything later."""
        held, self.held = self.held, None
        if held is not None:
            for event in held.events:
                self.deliver(event)
        self.advance(epoch, offset)

    def is_given(self, event: RoomEvent) -> bool:
        """Whether an event is shown to this connection: it has those of its own runs already."""
        return event.session_id is None or event.session_id != self.feed.session_id

    def deliver(self, event: RoomEvent) -> None:
        """Take an event of the room."""
        if self.held is not None:
            self.held.add(event)
        elif not self.is_ended:
            self.give(event)

    def give(self, event: RoomEvent) -> None:
        """Put an event into the feed, unless the member has it; note what is missing before it."""
        first = event.first
        if event.epoch != self.epoch:
            self.epoch, self.offset = event.epoch, first - 1
            self.feed.note_restart(self._lane, first - 1)
        if event.offset <= self.offset:
            return
        if first > self.offset + 1:
            self.feed.note_gap(self._lane, self.offset + 1, first - 1)
        self.offset = event.offset
        if event.is_missing:
            self.feed.note_gap(self._lane, event.offset, event.offset)
        elif self.is_given(event):
            self.feed.add_event(self._lane, event)

    def advance(self, epoch: str, offset: int) -> None:
        """Note that everything up to an offset is missing, unless the member has it."""
        if self.is_ended or self.held is not None:
            return
        if epoch != self.epoch:
            self.epoch, self.offset = epoch, offset
            self.feed.note_restart(self._lane, offset)
        elif offset > self.offset:
            first, self.offset = self.offset + 1, offset
            self.feed.note_gap(self._lane, first, offset)

    def change_presence(self, change: Change) -> None:
        """Tell the member that a user has come or gone."""
        if not self.is_ended:
            self.feed.add_presence(self._lane, change)

    def tell_left(self, correlation_id: str | None = None) -> None:
        """Tell the member that it has left, as its last frame of the room."""
        left = self.feed.encode(RoomLeft(self.room), correlation_id)
        self.feed.add_notice(self._lane, left)
