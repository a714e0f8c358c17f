"""A room of a client: the result of `Client.room`.

async with client.room("news") as room:
    await room.send({"headline": "It rains."})
    async for event in room:
        print(event.type, event.payload, event.offset)
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from attrs import frozen

from netra_trio.client.event import Event
from netra_trio.client.feed import Events
from netra_trio.client.frames import frame_of
from netra_trio.client.membership import Joined, Member, Membership, Place
from netra_trio.client.session import ClientSession
from netra_trio.protocol.messages import Verdict

JOIN, GAP = "join_room", "room_gap"
KEY_SECONDS = 300.0  # the server keeps the key of a message (docs/protocol.md)


@frozen
class Published:
    """The confirmation of a message to a room.

    Attributes:
        offset: Its offset in the room.
        status: `accepted`, or `duplicate` if a message with this key was published before.
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
    async with rooms.entered(membership, member) as joined:
        yield Room(name, session, member, joined)


class Room:
    """A joined room.

    Iterating over it returns its events, in order and once: those of users and of the application,
    `room_gap` in place of lost events, `presence_changed`, and `lagged` if events were dropped
    because the iteration is too slow. After a `room_left` the server has ended the membership, and
    the iteration ends. It raises `MessageRefused` if the server refuses the join after a
    reconnection, and `ClientError` if the client fails. One task at a time may iterate.

    Attributes:
        name: Its name.
        verdict: `new`, or with `after`: `exact`, or `gap` if events between are lost.
        offset: The offset of the last event that the iteration has returned; at first the offset
            after which events follow.
        epoch: The epoch of `offset`. Both together are the position to resume from.
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
        return Events(self._feed, self._note)

    def _note(self, event: Event) -> None:
        """Store the position of an event that an iteration returns."""
        if event.offset is not None and event.epoch is not None:
            self.offset, self.epoch = event.offset, event.epoch

    async def send(self, content: Mapping[str, Any] | str, key: str | None = None) -> Published:
        """Publish a message; return its confirmation.

        Waits while there is no connection, and repeats the request after a temporary error. If the
        connection is lost, the message is sent again under its key, so it is published once.
        Cancelling is safe; the message may have been sent.

        Args:
            content: A text, or a JSON object.
            key: The key: a second message with it within 300 seconds is a duplicate. A new one if
                None.

        Raises:
            MessageRefused: The user has no permission to publish, or the message is too large.
            MessageUncertain: The connection was lost for longer than the server keeps the key.
            ClientError: The client ended first.
        """
        payload = {"room": self.name, "content": content}
        answer = await self._session.ask("room_message", payload, key=key, key_seconds=KEY_SECONDS)
        return Published(answer.payload["offset"], answer.payload["status"])

    async def presence(self) -> list[dict[str, Any]]:
        """Return the users in the room: `user_id` and `connections` of each.

        Cancelling is safe.

        Raises:
            MessageRefused: The user has no permission to see them.
            ClientError: The client ended first.
        """
        answer = await self._session.ask("get_presence", {"room": self.name})
        members: list[dict[str, Any]] = answer.payload["members"]
        return members


def _join(name: str, after: Place | None) -> dict[str, Any]:
    place = {} if after is None else {"after": after.offset, "epoch": after.epoch}
    return {"room": name, **place}


class RoomMembership(Membership):
    """The members of this client in a room; each one has its own position."""

    def __init__(self, name: str, wall_clock: Callable[[], float]) -> None:
        super().__init__(name, wall_clock)
        self._name = name
        self._restart_pushed: set[Member] = set()  # until the next event, which has the new epoch

    def join_frame(self, key: str, after: Place | None) -> str:
        """See `Membership`."""
        return frame_of(JOIN, _join(self._name, after), key)

    def leave_frame(self, key: str) -> str:
        """See `Membership`."""
        return frame_of("leave_room", {"room": self._name}, key)

    def place(self) -> Place | None:
        """Return the earliest position of the members."""
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
            self._follow(each, joined, is_requested=member is None)
        if member is None:
            return
        member.start(joined)
        if joined.verdict == Verdict.GAP:
            self._push_gap(member, after, joined.place)

    def receive_other_joined(self, joined: Joined) -> None:
        """See `Membership`."""
        for each in self.started:
            self._follow(each, joined, is_requested=False)

    def receive_event(self, event: Event, size: int) -> None:
        """See `Membership`."""
        for member in self.started:
            self._give(member, event, size)
        self._restart_pushed.clear()

    def receive_gap(self, gap: Event, first: int, last: int) -> None:
        """See `Membership`."""
        for member in self.started:
            place = member.place
            assert place is not None  # noqa: S101 - it has started
            if first == 1 and (place.offset or not last):
                member.feed.push(gap)
                self._restart_pushed.add(member)
            elif first > place.offset:
                member.place = Place(max(place.offset, last), place.epoch)
                self._push_gap(member, Place(first - 1, place.epoch), member.place)
            elif last > place.offset:
                member.place = Place(last, place.epoch)
                self._push_gap(member, place, member.place)

    def _follow(self, member: Member, joined: Joined, *, is_requested: bool) -> None:
        """Take a join for a started member.

        Args:
            member: The member.
            joined: The answer.
            is_requested: Whether the join requested the events after the position of the member.
        """
        place = member.place
        assert place is not None  # noqa: S101 - it has started
        if place.epoch == joined.place.epoch and place.offset >= joined.place.offset:
            return
        if place.epoch == joined.place.epoch and not is_requested:
            # The connection has a later position now: this member needs the events in between.
            self.is_behind = True
            return
        member.place = joined.place
        self._push_gap(member, place, joined.place)

    def _give(self, member: Member, event: Event, size: int) -> None:
        place, offset, first = member.place, event.offset, event.first_offset
        assert place is not None  # noqa: S101 - it has started
        assert offset is not None  # noqa: S101 - and the event is one of a room
        assert first is not None  # noqa: S101 - likewise
        now = Place(offset, event.epoch)
        if place.epoch != event.epoch:
            if member not in self._restart_pushed:
                self._push_gap(member, place, Place(first - 1, event.epoch))
        elif offset <= place.offset:
            return
        elif first <= place.offset:
            # Merged with events that this member has: it cannot be split.
            member.place = now
            self._push_gap(member, place, now)
            return
        member.place = now
        member.feed.push(event, size)

    def _push_gap(self, member: Member, before: Place | None, after: Place) -> None:
        """Push a `room_gap` for the events between two positions."""
        first = 1
        if before is not None and before.offset <= after.offset:
            first += before.offset if before.epoch in {after.epoch, None} else 0
        payload = {"room": self._name, "from": first, "to": after.offset}
        member.feed.push(self.make_event(GAP, payload, after))
