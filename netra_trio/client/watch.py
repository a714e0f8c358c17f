"""A watched thread of a client: the result of `Client.watch`.

async with client.watch("main") as thread:
    async for event in thread:
        print(event.type, event.payload)
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from netra_trio.client.event import Event
from netra_trio.client.feed import Events
from netra_trio.client.frames import frame_of
from netra_trio.client.membership import Joined, Member, Membership, Place
from netra_trio.client.memberships import Memberships
from netra_trio.client.run_states import RunStates
from netra_trio.client.session import ClientSession
from netra_trio.protocol.messages import Verdict

WATCH, UNWATCH = "watch_thread", "unwatch_thread"
BEGIN, GAP = "room_joined", "gap"


@asynccontextmanager
async def watched_thread(
    session: ClientSession, thread_id: str, owner: str | None
) -> AsyncIterator["Watch"]:
    """Watch a thread during the block; see `Client.watch`."""
    session.check_size(WATCH, {"thread_id": thread_id, "owner": owner})
    owner = None if owner == session.user_id else owner
    member = Member(session.new_room_feed())
    rooms = session.rooms
    membership = rooms.get(
        ("thread", thread_id, owner or ""),
        lambda: WatchMembership(thread_id, owner, rooms, session.wall_clock),
    )
    async with rooms.entered(membership, member) as joined:
        yield Watch(thread_id, membership, member, joined)


class Watch:
    """A watched thread.

    Iterating over it returns `room_joined`, with the unfinished runs, and then every event of every
    run of the thread, of any session: `user_message`, `agent_started`, …, `agent_completed`. Deltas
    are in order, without gaps, and each once. After lost events, a `gap` has the current `runs`,
    which replace all earlier states. After a `room_left` the server has ended the membership, and
    the iteration ends. It raises `MessageRefused` if the server refuses to watch again after a
    reconnection, and `ClientError` if the client fails. One task at a time may iterate.

    Attributes:
        thread_id: The thread.
        room: The name of its room.
        runs: The runs that have not ended, as the last `room_joined` or `gap` that the iteration
            has taken lists them: `run_id`, `message_id`, `agent_name`, `status`, `content` (the
            text so far), `questions` (those that are open) and `steps` (if there are any, in order)
            of each.
    """

    def __init__(
        self, thread_id: str, membership: "WatchMembership", member: Member, joined: Joined
    ) -> None:
        self.thread_id = thread_id
        self.room = joined.room
        self.runs = joined.runs
        self._membership = membership
        self._member = member

    def __repr__(self) -> str:
        return f"<Watch {self.thread_id}>"

    def __aiter__(self) -> Events:
        return Events(self._member.feed, self._note)

    def _note(self, event: Event) -> None:
        """Store the listed runs of an event that an iteration returns."""
        if event.type in {BEGIN, GAP}:
            self.runs = event.payload["runs"]
        elif event.type == "lagged":
            self._membership.restart(self._member)


class WatchMembership(Membership):
    """The members of this client that watch a thread; they all have the same position.

    The events of runs of the own session are not room events; they are inserted in between.
    """

    def __init__(
        self,
        thread_id: str,
        owner: str | None,
        rooms: Memberships,
        wall_clock: Callable[[], float],
    ) -> None:
        super().__init__(None, wall_clock, thread_id if owner is None else None)
        self._thread = {"thread_id": thread_id, "owner": owner}
        self._rooms = rooms
        self._runs = RunStates()  # of other sessions
        self._place: Place | None = None  # None: events are lost, until the next listing

    def join_frame(self, key: str, after: Place | None) -> str:
        """See `Membership`."""
        place = {} if after is None else {"after": after.offset, "epoch": after.epoch}
        return frame_of(WATCH, {**self._thread, **place}, key)

    def leave_frame(self, key: str) -> str:
        """See `Membership`."""
        return frame_of(UNWATCH, self._thread, key)

    def place(self) -> Place | None:
        """See `Membership`."""
        return self._place

    def start_here(self, member: Member) -> None:
        """See `Membership`."""
        place = self._place
        assert place is not None  # noqa: S101 - otherwise it is behind
        payload = {
            "room": self.room,
            "epoch": place.epoch,
            "offset": place.offset,
            "verdict": Verdict.NEW.value,
            "replayed": 0,
        }
        self._start(member, Joined(payload, self.room or "", place, Verdict.NEW, []))

    def receive_joined(self, joined: Joined, after: Place | None, member: Member | None) -> None:
        """See `Membership`."""
        if after is not None and self._place is None and joined.verdict == Verdict.EXACT:
            self.is_behind = True  # events were lost after this request
            return
        if joined.verdict != Verdict.EXACT or after != joined.place:
            self._place = joined.place
            own = self._rooms.own_runs
            self._runs.replace(run for run in joined.runs if run.get("run_id") not in own)
            self._push_gap()
        if member is not None:
            self._start(member, joined)

    def receive_other_joined(self, joined: Joined) -> None:
        """See `Membership`."""
        place = self._place
        if place is None:
            return
        if place.epoch != joined.place.epoch or place.offset < joined.place.offset:
            self.is_behind = True

    def receive_event(self, event: Event, size: int) -> None:
        """See `Membership`."""
        offset, first = event.offset, event.first_offset
        assert offset is not None  # noqa: S101 - it is an event of a room
        assert first is not None  # noqa: S101 - likewise
        if self._place is None:
            return
        if event.epoch != self._place.epoch:
            self._note_loss()
        elif first > self._place.offset:
            self._place = Place(offset, event.epoch)
            self._runs.apply(event)
            self.push(event, size)
        elif offset > self._place.offset:  # merged with known events: it cannot be split
            self._note_loss()

    def receive_gap(self, gap: Event, first: int, last: int) -> None:  # noqa: ARG002
        """See `Membership`."""
        is_restart = first == 1
        if self._place is not None and (last > self._place.offset or is_restart):
            self._note_loss()

    def receive_own(self, event: Event, size: int) -> None:
        """See `Membership`."""
        if self._place is None:
            return
        listed_text = self._runs.text_of(event.run_id)
        self._runs.discard(event.run_id)
        if listed_text:
            # It was listed before its first event: its current state replaces the listed one.
            self._push_gap()
        else:
            self.push(event, size)

    def lose_own(self, *, is_new_session: bool) -> None:
        """See `Membership`."""
        if is_new_session:
            # The runs of the old session now belong to another session.
            self._note_loss()
        elif self._place is not None:
            self._push_gap()

    def restart(self, member: Member) -> None:
        """Push the current runs to a member whose events were dropped; later events follow."""
        if member.feed.is_finished:
            return
        member.feed.clear()
        if self._place is not None:  # otherwise another `gap` follows
            member.feed.push(self._gap())

    def _note_loss(self) -> None:
        self._place = None
        self.is_behind = True

    def _start(self, member: Member, joined: Joined) -> None:
        runs = self._listed()
        payload = {**joined.payload, "runs": runs}
        member.start(Joined(payload, joined.room, joined.place, joined.verdict, runs))
        member.feed.push(self.make_event(BEGIN, payload, joined.place))

    def _push_gap(self) -> None:
        gap = self._gap()
        self.push(gap, sum(len(str(run["content"])) for run in gap.payload["runs"]))

    def _gap(self) -> Event:
        place = self._place
        assert place is not None  # noqa: S101 - the callers have checked
        return self.make_event(GAP, {"room": self.room, "runs": self._listed()}, place)

    def _listed(self) -> list[dict[str, Any]]:
        own = self._rooms.own_runs
        mine = [] if self.own_thread is None else own.listed(self.own_thread)
        return [*self._runs.listed(), *mine]
