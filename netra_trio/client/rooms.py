"""A room as a client sees it: what `Client.room` gives.

async with client.room("news") as room:
    await room.send({"headline": "It rains."})
    async for event in room:
        print(event.type, event.payload, event.offset)
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from netra_trio.client.event import Event
from netra_trio.client.feed import Events, Feed
from netra_trio.client.frames import frame_of
from netra_trio.client.membership import Joined, Member, Membership, Place
from netra_trio.client.session import ClientSession
from netra_trio.protocol.messages import Verdict

JOIN, GAP = "join_room", "room_gap"
KEY_SECONDS = 300.0  # how long a server keeps the key of a room's message (docs/protocol.md)


class Published(NamedTuple):
    """The confirmation of a message to a room.

    Attributes:
        offset: Its place among the events of the room.
        status: `accepted`, or `duplicate` if the room has a message with this key already.
    """

    offset: int
    status: str


@asynccontextmanager
async def entered_room(
    session: ClientSession, name: str, after: Place | None
) -> AsyncIterator["Room"]:
    """Enter a room during the block; see `Client.room`."""
    session.check_size(JOIN, _join(name, after))
    member = Member(session.new_room_feed(), after)
    rooms = session.rooms
    membership = rooms.get(("room", name), lambda: RoomMembership(name, session.wall_clock))
    rooms.enter(membership, member)
    try:
        joined = await member.started.result()
        assert joined is not None  # noqa: S101 - it is settled with an answer or an error
        yield Room(name, session, member, joined)
    finally:
        member.feed.finish()
        await rooms.leave(membership, member)


class Room:
    """A room that the client is in.

    Iterating over it gives its events, in order, each once: those that users and the application
    publish, `room_gap` where events are lost, `presence_changed`, and `lagged` if more events came
    than are kept for a reader. After a `room_left` the server has ended the membership, and the
    iteration ends. It raises `MessageRefused` if the server refuses to let the client in again
    after a reconnection, and `ClientError` if the client fails. One task at a time may iterate.

    Attributes:
        name: Its name.
        verdict: `new`, or with `after`: `exact`, or `gap` if events between are lost.
        offset: The place of the last event that the iteration has taken; at first the place after
            which events follow.
        epoch: The numbering of `offset`. Both together are the place to resume from.
    """

    def __init__(self, name: str, session: ClientSession, member: Member, joined: Joined) -> None:
        self.name = name
        self.verdict = joined.verdict
        self.offset = joined.place.offset
        self.epoch = joined.place.epoch or ""
        self._session = session
        self._feed = member.feed

    def __repr__(self) -> str:
        return f"<Room {self.name}>"

    def __aiter__(self) -> Events:
        return _RoomEvents(self._feed, self)

    async def send(self, content: Mapping[str, Any] | str, key: str | None = None) -> Published:
        """Publish a message; return when the server has it.

        While there is no connection it waits, and after a temporary error it tries again. If the
        connection is lost, the message is sent again under its key, so it is published once.
        Cancelling is safe; the message may have been sent.

        Args:
            content: A text, or a JSON object.
            key: The key: for 300 seconds a second message with it is a duplicate. A new one if
                None.

        Raises:
            MessageRefused: The client may not publish here, or the message is too large.
            MessageUncertain: The connection was lost for longer than the server keeps the key.
            ClientError: The client ended first.
        """
        payload = {"room": self.name, "content": content}
        answer = await self._session.ask("room_message", payload, key=key, key_seconds=KEY_SECONDS)
        return Published(answer.payload["offset"], answer.payload["status"])

    async def presence(self) -> list[dict[str, Any]]:
        """Return the users that are in the room: `user_id` and `connections` of each.

        Cancelling is safe.

        Raises:
            MessageRefused: The client may not see them.
            ClientError: The client ended first.
        """
        answer = await self._session.ask("get_presence", {"room": self.name})
        members: list[dict[str, Any]] = answer.payload["members"]
        return members


class _RoomEvents(Events):
    """An iteration that notes in the room how far it has come."""

    def __init__(self, feed: Feed, room: Room) -> None:
        super().__init__(feed)
        self._room = room

    async def __anext__(self) -> Event:
        event = await super().__anext__()
        if event.offset is not None and event.epoch is not None:
            self._room.offset, self._room.epoch = event.offset, event.epoch
        return event


def _join(name: str, after: Place | None) -> dict[str, Any]:
    place = {} if after is None else {"after": after.offset, "epoch": after.epoch}
    return {"room": name, **place}


class RoomMembership(Membership):
    """The members of this client in a room; each has a place of its own."""

    def __init__(self, name: str, wall_clock: Callable[[], float]) -> None:
        super().__init__(name)
        self._name = name
        self._wall_clock = wall_clock
        self._restart_told: set[Member] = set()  # until the next event, which has the new epoch

    def join_frame(self, key: str, after: Place | None) -> str:
        """See `Membership`."""
        return frame_of(JOIN, _join(self._name, after), key)

    def leave_frame(self, key: str) -> str:
        """See `Membership`."""
        return frame_of("leave_room", {"room": self._name}, key)

    def place(self) -> Place | None:
        """Return the place of the member that is furthest behind."""
        places = [member.place for member in self.started if member.place is not None]
        return min(places, key=lambda place: place.offset)

    def start_here(self, member: Member) -> None:
        """See `Membership`."""
        places = [other.place for other in self.started if other.place is not None]
        place = max(places, key=lambda place: place.offset)
        payload = {"room": self._name, "epoch": place.epoch, "offset": place.offset}
        member.start(Joined(payload, self._name, place, Verdict.NEW, []))

    def receive_joined(self, joined: Joined, after: Place | None, member: Member | None) -> None:
        """See `Membership`."""
        for each in self.started:
            self._follow(each, joined, is_asked=member is None)
        if member is None:
            return
        member.start(joined)
        if joined.verdict == Verdict.GAP:
            self._tell_gap(member, after, joined.place)

    def receive_other_joined(self, joined: Joined) -> None:
        """See `Membership`."""
        for each in self.started:
            self._follow(each, joined, is_asked=False)

    def receive_event(self, event: Event, size: int) -> None:
        """See `Membership`."""
        for member in self.started:
            self._give(member, event, size)
        self._restart_told.clear()

    def receive_gap(self, gap: Event, first: int, last: int) -> None:
        """See `Membership`."""
        for member in self.started:
            place = member.place
            assert place is not None  # noqa: S101 - it has started
            if first == 1 and (place.offset or not last):
                member.feed.push(gap)
                self._restart_told.add(member)
            elif first > place.offset:
                member.place = Place(max(place.offset, last), place.epoch)
                self._tell_gap(member, Place(first - 1, place.epoch), member.place)
            elif last > place.offset:
                member.place = Place(last, place.epoch)
                self._tell_gap(member, place, member.place)

    def _follow(self, member: Member, joined: Joined, *, is_asked: bool) -> None:
        """Take a join for a member that has started.

        Args:
            member: The member.
            joined: The answer.
            is_asked: Whether the server was asked for the events after the member's place.
        """
        place = member.place
        assert place is not None  # noqa: S101 - it has started
        if place.epoch == joined.place.epoch and place.offset >= joined.place.offset:
            return
        if place.epoch == joined.place.epoch and not is_asked:
            # The connection has begun anew further on: this member needs the events between.
            self.is_behind = True
            return
        member.place = joined.place
        self._tell_gap(member, place, joined.place)

    def _give(self, member: Member, event: Event, size: int) -> None:
        place, offset, first = member.place, event.offset, event.first_offset
        assert place is not None  # noqa: S101 - it has started
        assert offset is not None  # noqa: S101 - and the event is one of a room
        assert first is not None  # noqa: S101 - likewise
        now = Place(offset, event.epoch)
        if place.epoch != event.epoch:
            if member not in self._restart_told:
                self._tell_gap(member, place, Place(first - 1, event.epoch))
        elif offset <= place.offset:
            return
        elif first <= place.offset:
            # Merged across what this member has: it cannot be taken apart.
            member.place = now
            self._tell_gap(member, place, now)
            return
        member.place = now
        member.feed.push(event, size)

    def _tell_gap(self, member: Member, before: Place | None, after: Place) -> None:
        """Tell a member that the events between two places are lost."""
        first = 1
        if before is not None and before.offset <= after.offset:
            first += before.offset if before.epoch in {after.epoch, None} else 0
        payload = {"room": self._name, "from": first, "to": after.offset}
        now = self._wall_clock()
        member.feed.push(Event(GAP, payload, timestamp=now, offset=after.offset, epoch=after.epoch))
