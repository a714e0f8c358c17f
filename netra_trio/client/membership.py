"""One room of a client: what is asked of the server, and what was answered.

    membership.add(member)
    text = membership.next_frame(now)       # join_room, join_room again, leave_room
    membership.take_joined(joined, key)

At most one of these frames is unanswered at a time, so none of them overtakes another. Nothing in
here waits. `RoomMembership` and `WatchMembership` say what becomes of the events.
"""

from abc import ABC, abstractmethod
from math import inf
from typing import Any, Self

import trio
from attrs import define, field, frozen

from netra_trio.client.errors import ClientError, MessageRefused
from netra_trio.client.event import Event, InvalidEvent
from netra_trio.client.feed import Feed
from netra_trio.client.refusals import TEMPORARY, wait_seconds
from netra_trio.client.reply import Reply
from netra_trio.ids import new_correlation_id


@frozen
class Place:
    """A place in the events of a room: those with a larger offset follow.

    Attributes:
        epoch: The numbering; None if it is not known.
    """

    offset: int
    epoch: str | None = None


@frozen
class Joined:
    """The payload of `room_joined`.

    Attributes:
        payload: The whole of it.
        place: The events after this follow.
        runs: The runs of a watched thread that have not ended.
    """

    payload: dict[str, Any]
    room: str
    place: Place
    verdict: str
    runs: list[dict[str, Any]]

    @classmethod
    def parse(cls, frame: Event) -> Self:
        """Read a frame.

        Raises:
            InvalidEvent: It lacks a required field.
        """
        payload = frame.payload
        try:
            return cls(
                payload=payload,
                room=str(payload["room"]),
                place=Place(int(payload["offset"]), str(payload["epoch"])),
                verdict=str(payload["verdict"]),
                runs=[dict(run) for run in payload.get("runs", ())],
            )
        except (KeyError, TypeError, ValueError):
            raise InvalidEvent(f"{frame.type} lacks a required field") from None


@define(eq=False)
class Member:
    """A block of the application that is in the room.

    Attributes:
        feed: The events for it.
        after: Where it wants to begin; None for now.
        started: The answer to its join, or the error.
        place: The last event that it was given; None before its start.
        is_expelled: Whether the server has ended its membership.
    """

    feed: Feed
    after: Place | None = None
    started: Reply[Joined] = field(factory=Reply)
    place: Place | None = None
    is_expelled: bool = False

    def start(self, joined: Joined) -> None:
        """Give it its place; the events after that follow."""
        self.place = joined.place
        self.started.settle(joined)


@frozen
class _Asked:
    """A frame that is not answered.

    Attributes:
        after: After which place a join asks for events; None for a leave, and for now.
        member: The member that starts with this join; None if it is for those that have started.
        is_leave: Whether it leaves the room.
        key: Its correlation id.
    """

    after: Place | None = None
    member: Member | None = None
    is_leave: bool = False
    key: str = field(factory=new_correlation_id)


class Membership(ABC):
    """A room, and the members of this client in it.

    Args:
        room: The name of the room; None until the server has told it.
        own_thread: The thread of the client's own user whose runs it follows, if it does.

    Attributes:
        members: The blocks that are in the room, or about to be.
        is_joined: Whether the connection is in the room.
        is_behind: Whether events may be missing that a further join would bring.
        left: Set when the room was left, or there is no connection to leave it on.
    """

    def __init__(self, room: str | None, own_thread: str | None = None) -> None:
        self.room = room
        self.own_thread = own_thread
        self.members: list[Member] = []
        self.is_joined = False
        self.is_behind = False
        self.left = trio.Event()
        self._asked: _Asked | None = None
        self._not_before = -inf

    # What the kinds of rooms decide.

    @abstractmethod
    def join_frame(self, key: str, after: Place | None) -> str:
        """Return the frame that joins."""

    @abstractmethod
    def leave_frame(self, key: str) -> str:
        """Return the frame that leaves."""

    @abstractmethod
    def place(self) -> Place | None:
        """Return the place after which the members that have started need events; None for now."""

    @abstractmethod
    def start_here(self, member: Member) -> None:
        """Start a member that begins now, at the place of those that have started."""

    @abstractmethod
    def receive_joined(self, joined: Joined, after: Place | None, member: Member | None) -> None:
        """Take the answer to a join.

        Args:
            joined: The answer.
            after: What was asked for.
            member: The member that starts with it; None if it is for those that have started.
        """

    @abstractmethod
    def receive_other_joined(self, joined: Joined) -> None:
        """Take the answer to another membership of this client in the same room.

        The connection is in each room once, so this one begins anew there, too.
        """

    @abstractmethod
    def receive_event(self, event: Event, size: int) -> None:
        """Take an event with an offset."""

    @abstractmethod
    def receive_gap(self, gap: Event, first: int, last: int) -> None:
        """Take a `room_gap` from `first` to `last`."""

    def receive_own(self, event: Event, size: int) -> None:  # noqa: B027 - only for a watched thread
        """Take an event of a run of the client's own session in the thread."""

    def lose_own(self, *, is_new_session: bool) -> None:  # noqa: B027 - likewise
        """Note that events of the own session are lost, or the session itself."""

    # The frames to the server.

    @property
    def asked_key(self) -> str | None:
        """The correlation id of the unanswered frame; None if there is none."""
        return None if self._asked is None else self._asked.key

    @property
    def is_over(self) -> bool:
        """Whether nothing is wanted of the server, and nothing is expected."""
        return not self.members and not self.is_joined and self._asked is None

    @property
    def next_at(self) -> float:
        """When there is a frame to write; infinity if there will be none."""
        return inf if self._asked is not None or self._wanted() is None else self._not_before

    def next_frame(self, now: float) -> str | None:
        """Return the frame to write now; None if there is none."""
        if self._asked is not None or now < self._not_before:
            return None
        asked = self._wanted()
        if asked is None:
            return None
        self._asked = asked
        if asked.is_leave:
            return self.leave_frame(asked.key)
        return self.join_frame(asked.key, asked.after)

    def _wanted(self) -> _Asked | None:
        if not self.members:
            return _Asked(is_leave=True) if self.is_joined else None
        if self.started and (not self.is_joined or self.is_behind):
            return _Asked(self.place())
        waiting = next((each for each in self.members if each.place is None), None)
        return None if waiting is None else _Asked(waiting.after, waiting)

    @property
    def started(self) -> list[Member]:
        """The members that have started."""
        return [member for member in self.members if member.place is not None]

    # For the application.

    def add(self, member: Member) -> None:
        """Add a member."""
        self.members.append(member)
        self._start_waiting()

    def remove(self, member: Member) -> None:
        """Remove a member; does nothing if it is none."""
        if member in self.members:
            self.members.remove(member)
        self.left = trio.Event()

    # What the server says.

    def take_joined(self, joined: Joined) -> None:
        """Take the answer to the join that is unanswered."""
        asked, self._asked = self._asked, None
        assert asked is not None  # noqa: S101 - the caller has found this by its key
        self.room = joined.room
        self.is_joined = True
        if asked.member is None:
            self.is_behind = False
        # A member that was removed meanwhile does not start.
        member = asked.member if asked.member in self.members else None
        if self.members:
            self.receive_joined(joined, asked.after, member)
        self._start_waiting()

    def take_left(self) -> None:
        """Take the answer to the leave that is unanswered."""
        self._asked = None
        self.is_joined = False
        self.left.set()

    def take_refusal(self, refusal: MessageRefused, now: float) -> None:
        """Take an error in answer to the frame that is unanswered."""
        asked, self._asked = self._asked, None
        assert asked is not None  # noqa: S101 - the caller has found this by its key
        if refusal.code in TEMPORARY:
            self._not_before = now + wait_seconds(refusal.retry_after_ms)
        elif asked.is_leave:
            self.take_left()
        else:
            for member in self.started if asked.member is None else [asked.member]:
                self._end(member, refusal)
            self.is_behind = False

    def take_expulsion(self, left: Event, size: int) -> None:
        """Take a `room_left` that is no answer: the membership ends."""
        self.is_joined = False
        for member in self.started:
            member.feed.push(left, size)
            self._end(member)

    def end_connection(self) -> None:
        """Forget what the connection knew."""
        self._asked = None
        self._not_before = -inf
        self.is_joined = False
        self.left.set()

    def fail(self, failure: ClientError | None, for_tasks: ClientError) -> None:
        """End each member: with `failure`, or with `for_tasks` one that has not started."""
        for member in list(self.members):
            if member.place is None:
                self._end(member, for_tasks)
            else:
                member.feed.finish(failure)

    def resume(self) -> None:
        """Continue after `fail`."""
        for member in self.members:
            member.feed.resume()

    def push(self, event: Event, size: int = 0) -> None:
        """Deliver an event to each member that has started."""
        for member in self.started:
            member.feed.push(event, size)

    def _start_waiting(self) -> None:
        if not self.started or not self.is_joined or self.is_behind:
            return
        for member in self.members:
            if member.place is None and member.after is None:
                self.start_here(member)

    def _end(self, member: Member, failure: ClientError | None = None) -> None:
        if member in self.members:
            self.members.remove(member)
        if member.place is None:
            member.started.settle(failure=failure)
        else:
            member.is_expelled = True
            member.feed.finish(failure)
