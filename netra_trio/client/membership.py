"""The state of a client in one room: the requests to the server, and their answers.

    membership.add(member)
    text = membership.next_frame(now)       # join_room, join_room again, leave_room
    membership.take_joined(joined, key)

At most one of these frames is unanswered at a time, so the order of answers is known. Nothing in
this module waits. `RoomMembership` and `WatchMembership` process the events.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from math import inf
from typing import Any, Self

import trio
from attrs import define, field, frozen

from netra_trio.client.errors import ClientError, MessageRefused
from netra_trio.client.event import Event, InvalidEvent
from netra_trio.client.feed import Feed
from netra_trio.client.refusals import TEMPORARY, Spacing, wait_seconds
from netra_trio.client.reply import Reply
from netra_trio.ids import new_correlation_id


@frozen
class Place:
    """A position in the events of a room: those with a larger offset follow.

    Attributes:
        epoch: The epoch; None if unknown.
    """

    offset: int
    epoch: str | None = None


@frozen
class Joined:
    """The payload of `room_joined`.

    Attributes:
        payload: The whole payload.
        place: The position after which events follow.
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
            InvalidEvent: A required field is missing.
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
        after: The position to begin after; None for new events only.
        started: The answer to its join, or the error.
        place: The position of its newest event; None before its start.
    """

    feed: Feed
    after: Place | None = None
    started: Reply[Joined] = field(factory=Reply)
    place: Place | None = None

    def start(self, joined: Joined) -> None:
        """Start it at a position; the events after that follow."""
        self.place = joined.place
        self.started.settle(joined)


@frozen
class _Unanswered:
    """An unanswered frame.

    Attributes:
        after: The position of a join; None for new events only, and for a leave.
        member: The member that starts with this join; None for a repeated join.
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
        room: The name of the room; None before the first answer.
        wall_clock: Returns Unix seconds.
        own_thread: The watched thread, if it belongs to the client's own user.

    Attributes:
        members: The blocks in the room, or joining it.
        is_joined: Whether the connection is in the room.
        is_behind: Whether events may be missing, so that a repeated join is needed.
        left: Set when the room was left, or the connection has ended.
    """

    def __init__(
        self, room: str | None, wall_clock: Callable[[], float], own_thread: str | None = None
    ) -> None:
        self.room = room
        self._wall_clock = wall_clock
        self.own_thread = own_thread
        self.members: list[Member] = []
        self.is_joined = False
        self.is_behind = False
        self.left = trio.Event()
        self._unanswered: _Unanswered | None = None
        self._not_before = -inf
        self._refusals = 0  # one after the other
        self._losses = Spacing()  # of joins after losses
        self._rejoin_at: float | None = None  # when the next one is due

    # For the kinds of rooms.

    @abstractmethod
    def join_frame(self, key: str, after: Place | None) -> str:
        """Return the frame that joins."""

    @abstractmethod
    def leave_frame(self, key: str) -> str:
        """Return the frame that leaves."""

    @abstractmethod
    def place(self) -> Place | None:
        """Return the position after which started members need events; None for new ones only."""

    @abstractmethod
    def start_here(self, member: Member) -> None:
        """Start a member at the position of the started ones."""

    @abstractmethod
    def receive_joined(self, joined: Joined, after: Place | None, member: Member | None) -> None:
        """Take the answer to a join.

        Args:
            joined: The answer.
            after: The requested position.
            member: The member that starts with it; None for a repeated join.
        """

    @abstractmethod
    def receive_other_joined(self, joined: Joined) -> None:
        """Take the answer to another membership of this client in the same room.

        A connection is in each room once, so this membership begins at that position, too.
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
    def unanswered_key(self) -> str | None:
        """The correlation id of the unanswered frame; None if there is none."""
        return None if self._unanswered is None else self._unanswered.key

    @property
    def is_over(self) -> bool:
        """Whether there is no frame to send, and no answer to wait for."""
        return not self.members and not self.is_joined and self._unanswered is None

    @property
    def next_at(self) -> float:
        """When there is a frame to write; infinity if there will be none."""
        frame = self._next_unanswered()
        if self._unanswered is not None or frame is None:
            return inf
        if self._rejoin_at is not None and self._is_rejoin(frame):
            return max(self._not_before, self._rejoin_at)
        return self._not_before

    def next_frame(self, now: float) -> str | None:
        """Return the frame to write now; None if there is none."""
        if self._unanswered is not None or now < self._not_before:
            return None
        frame = self._next_unanswered()
        if frame is None:
            return None
        if self._is_rejoin(frame):
            # A server that answers each join with another loss must not drive a loop.
            if self._rejoin_at is None:
                self._rejoin_at = now + self._losses.start(now)
            if now < self._rejoin_at:
                return None
            self._rejoin_at = None
        self._unanswered = frame
        if frame.is_leave:
            return self.leave_frame(frame.key)
        return self.join_frame(frame.key, frame.after)

    def _is_rejoin(self, frame: _Unanswered) -> bool:
        """Return whether a frame joins again after a loss on the same connection."""
        is_join = frame.member is None and not frame.is_leave
        return is_join and self.is_joined and self.is_behind

    def _next_unanswered(self) -> _Unanswered | None:
        if not self.members:
            return _Unanswered(is_leave=True) if self.is_joined else None
        if self.started and (not self.is_joined or self.is_behind):
            return _Unanswered(self.place())
        waiting = next((each for each in self.members if each.place is None), None)
        return None if waiting is None else _Unanswered(waiting.after, waiting)

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
        """Remove a member; no effect if it was removed before."""
        if member in self.members:
            self.members.remove(member)
        self.left = trio.Event()

    # From the server.

    def take_joined(self, joined: Joined) -> None:
        """Take the answer to the unanswered join."""
        frame, self._unanswered = self._unanswered, None
        assert frame is not None  # noqa: S101 - the caller has found it by its key
        self.room = joined.room
        self.is_joined = True
        self._refusals = 0
        if frame.member is None:
            self.is_behind = False
        # A member that was removed meanwhile does not start.
        member = frame.member if frame.member in self.members else None
        if self.members:
            self.receive_joined(joined, frame.after, member)
        self._start_waiting()

    def take_left(self) -> None:
        """Take the answer to the unanswered leave."""
        self._unanswered = None
        self.is_joined = False
        self.left.set()

    def take_refusal(self, refusal: MessageRefused, now: float) -> None:
        """Take an error in answer to the unanswered frame."""
        frame, self._unanswered = self._unanswered, None
        assert frame is not None  # noqa: S101 - the caller has found it by its key
        if refusal.code in TEMPORARY:
            self._not_before = now + wait_seconds(refusal.retry_after_ms, self._refusals)
            self._refusals += 1
        elif frame.is_leave:
            self.take_left()
        else:
            for member in self.started if frame.member is None else [frame.member]:
                self._end(member, refusal)
            self.is_behind = False

    def take_removal(self, left: Event, size: int) -> None:
        """Take a `room_left` without a request: the membership ends."""
        self.is_joined = False
        for member in self.started:
            member.feed.push(left, size)
            self._end(member)

    def end_connection(self) -> None:
        """Reset the state of the connection."""
        self._unanswered = None
        self._not_before = -inf
        self._refusals = 0
        self._rejoin_at = None
        self.is_joined = False
        self.left.set()

    def fail(self, failure: ClientError | None, for_tasks: ClientError) -> None:
        """End each member with `failure`, and with `for_tasks` if it has not started."""
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
        """Deliver an event to each started member."""
        for member in self.started:
            member.feed.push(event, size)

    def make_event(self, kind: str, payload: dict[str, Any], place: Place) -> Event:
        """Return an event of the client itself, at a position."""
        now = self._wall_clock()
        return Event(kind, payload, timestamp=now, offset=place.offset, epoch=place.epoch)

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
            member.feed.finish(failure)
