"""The rooms of a client: joined, joined again on each connection, and left.

    membership = memberships.get(("room", "news"), lambda: RoomMembership("news"))
    memberships.enter(membership, member)
    memberships.receive(frame, size)        # from the server
    text = memberships.next_frame(now)      # to the server

A room has one membership for all blocks of the application. Nothing in this module waits, except
`entered` and `leave`.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from math import inf
from typing import Any, TypeVar

import trio

from netra_trio.client.errors import ClientError, MessageRefused
from netra_trio.client.event import Event, InvalidEvent
from netra_trio.client.membership import Joined, Member, Membership
from netra_trio.client.run_states import RunStates

LEAVE_SECONDS = 2.0  # for the answer to `leave_room`: bounds the end of a block
ROOM_FRAMES = frozenset({"room_joined", "room_event", "room_gap", "room_left", "presence_changed"})

Key = tuple[str, ...]
M = TypeVar("M", bound=Membership)


class Memberships:
    """The memberships of a client.

    Args:
        notify: Called when there is a frame to write.

    Attributes:
        own_runs: The runs of the client's own session, whose events are not room events.
    """

    def __init__(self, notify: Callable[[], None]) -> None:
        self._notify = notify
        self._memberships: dict[Key, Membership] = {}
        self._by_room: dict[str, list[Membership]] = {}
        self._by_thread: dict[str | None, list[Membership]] = {}
        self._due: set[Membership] = set()
        self._paused_until = -inf
        self.own_runs = RunStates()

    def __len__(self) -> int:
        return len(self._memberships)

    # For the application.

    def get(self, key: Key, make: Callable[[], M]) -> M:
        """Return the membership of a key; a new one if there is none."""
        found = self._memberships.get(key)
        if found is None:
            found = self._memberships[key] = make()
            self._index()
        return found  # type: ignore[return-value] # a key has one kind

    @asynccontextmanager
    async def entered(self, membership: Membership, member: Member) -> AsyncIterator[Joined]:
        """Have a member in a membership during the block, which returns the answer to its join.

        Cancelling is safe: the room is still left.

        Raises:
            MessageRefused: The server refused the join.
            ClientError: The client ended first.
        """
        self.enter(membership, member)
        try:
            joined = await member.started.result()
            assert joined is not None  # noqa: S101 - it is settled with an answer or an error
            yield joined
        finally:
            member.feed.finish()
            await self.leave(membership, member)

    def enter(self, membership: Membership, member: Member) -> None:
        """Add a member to a membership; it starts when `Member.started` is settled."""
        membership.add(member)
        self._changed(membership)

    def remove(self, membership: Membership, member: Member) -> None:
        """Remove a member; after the last one the room is left."""
        membership.remove(member)
        self._changed(membership)

    async def leave(self, membership: Membership, member: Member) -> None:
        """Remove a member; after the last one wait for the answer, `LEAVE_SECONDS` at most.

        Cancelling is safe: the room is still left.
        """
        self.remove(membership, member)
        if not membership.members and membership.is_joined:
            with trio.move_on_after(LEAVE_SECONDS):
                await membership.left.wait()

    def fail(self, failure: ClientError | None, for_tasks: ClientError) -> None:
        """End each member; see `ClientSession.fail`."""
        for membership in self._each():
            membership.fail(failure, for_tasks)
            self._changed(membership)

    def resume(self) -> None:
        """Continue after `fail`."""
        for membership in self._each():
            membership.resume()

    # For the connection.

    def end_connection(self) -> None:
        """Note that the connection has ended: each room is joined again on the next one."""
        for membership in self._each():
            membership.end_connection()
            self._changed(membership)

    def pause(self, until: float) -> None:
        """Join no room before `until`, or before `end_pause`.

        A thread is watched after the replay of the own session: the server also lists runs of the
        own session, which the client cannot recognize before.
        """
        self._paused_until = until

    def end_pause(self) -> None:
        """End the pause."""
        self._paused_until = -inf

    def next_frame(self, now: float) -> str | None:
        """Return the next frame to write; None if there is none."""
        if now < self._paused_until:
            return None
        for membership in list(self._due):
            text = membership.next_frame(now)
            self._settle(membership)
            if text is not None:
                return text
        return None

    def next_at(self) -> float:
        """Return when the next frame has to be written, without further events."""
        due = min((membership.next_at for membership in self._due), default=inf)
        return max(due, self._paused_until)

    def receive(self, frame: Event, size: int) -> None:
        """Take a frame of a room.

        Raises:
            InvalidEvent: A required field is missing.
        """
        room = frame.payload.get("room")
        if not isinstance(room, str):
            raise InvalidEvent("$.payload.room: expected a string")
        asked = self._find_unanswered(frame.correlation_id)
        if frame.type == "room_joined":
            if asked is not None:
                self._receive_joined(asked, Joined.parse(frame))
        elif frame.type == "room_left" and asked is not None:
            asked.take_left()
            self._changed(asked)
        else:
            self._pass_on(frame, size, room)

    def refuse(self, refusal: MessageRefused, now: float) -> bool:
        """Take an error; return whether it was the answer to a frame of a room."""
        asked = self._find_unanswered(refusal.correlation_id)
        if asked is not None:
            asked.take_refusal(refusal, now)
            self._changed(asked)
        return asked is not None

    def receive_own(self, event: Event, size: int, shown: Event | None = None) -> None:
        """Take an event of a run of the client's own session, which is not a room event.

        Args:
            event: The event.
            size: Its bytes.
            shown: The event for the members; None for the event itself.
        """
        thread_id = self.own_runs.apply(event)
        if thread_id not in self._by_thread:
            return
        for membership in self._by_thread[thread_id]:
            membership.receive_own(event if shown is None else shown, size)
            self._changed(membership)

    def lose_own(self, listed: Sequence[Mapping[str, Any]] | None) -> None:
        """Note that events of the own session are lost.

        Args:
            listed: Its runs in the listing of the server; None if the session itself is lost.
        """
        self.own_runs.replace(listed or ())
        for membership in self._each():
            membership.lose_own(is_new_session=listed is None)
            self._changed(membership)

    def _receive_joined(self, asked: Membership, joined: Joined) -> None:
        is_new = asked.room != joined.room
        asked.take_joined(joined)
        if is_new:
            self._index()
        self._changed(asked)
        for other in self._by_room.get(joined.room, ()):
            if other is not asked and other.started:
                other.receive_other_joined(joined)
                self._changed(other)

    def _pass_on(self, frame: Event, size: int, room: str) -> None:
        for membership in self._by_room.get(room, ()):
            if frame.type == "room_left":
                membership.take_removal(frame, size)
            elif frame.type == "room_gap":
                membership.receive_gap(frame, *_range_of(frame))
            elif frame.type == "room_event":
                membership.receive_event(_event_of(frame), size)
            else:
                membership.push(frame, size)
            self._changed(membership)

    def _find_unanswered(self, key: str | None) -> Membership | None:
        """Return the membership whose unanswered frame has this key."""
        if key is None:
            return None
        return next(
            (each for each in self._memberships.values() if each.unanswered_key == key), None
        )

    def _changed(self, membership: Membership) -> None:
        """Update the index after a change of a membership, and have its next frame written."""
        self._settle(membership)
        if membership in self._due:
            self._notify()

    def _settle(self, membership: Membership) -> None:
        if not membership.members and membership.is_joined and self._is_shared(membership):
            membership.is_joined = False  # another membership needs the room
        if membership.is_over:
            self._due.discard(membership)
            membership.left.set()
            for key, each in list(self._memberships.items()):
                if each is membership:
                    del self._memberships[key]
                    self._index()
        elif membership.next_at < inf:
            self._due.add(membership)
        else:
            self._due.discard(membership)

    def _is_shared(self, membership: Membership) -> bool:
        others = self._by_room.get(membership.room or "", ())
        return any(other is not membership and other.members for other in others)

    def _index(self) -> None:
        self._by_room, self._by_thread = {}, {}
        for membership in self._memberships.values():
            if membership.room is not None:
                self._by_room.setdefault(membership.room, []).append(membership)
            if membership.own_thread is not None:
                self._by_thread.setdefault(membership.own_thread, []).append(membership)

    def _each(self) -> list[Membership]:
        return list(self._memberships.values())


def _event_of(frame: Event) -> Event:
    """Return the event in a `room_event`."""
    payload = frame.payload
    try:
        event, offset_from = payload["event"], payload.get("offset_from")
        return Event(
            str(event["type"]),
            dict(event.get("payload", {})),
            timestamp=float(payload["timestamp"]),
            offset=int(payload["offset"]),
            offset_from=None if offset_from is None else int(offset_from),
            epoch=str(payload["epoch"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise InvalidEvent("a room_event lacks a required field") from None


def _range_of(frame: Event) -> tuple[int, int]:
    """Return the first and the last offset of a `room_gap`."""
    try:
        return int(frame.payload["from"]), int(frame.payload["to"])
    except (KeyError, TypeError, ValueError):
        raise InvalidEvent("a room_gap lacks a required field") from None
