"""A join: finds the missed events, replies, and delivers all events in order and once.

join = Join(room, broker, membership, after=41, epoch="x")
await join.run(attach)
"""

from collections.abc import Callable, Sequence
from itertools import chain

import trio
from attrs import define, frozen

from netra_trio.broker.base import Broker, History
from netra_trio.errors import BrokerUnavailable
from netra_trio.protocol.fields import JsonObject
from netra_trio.protocol.messages import Verdict
from netra_trio.protocol.problem import Refused, broker_unavailable
from netra_trio.protocol.rooms import RoomJoined
from netra_trio.rooms.access import forbidden
from netra_trio.rooms.event import RoomEvent
from netra_trio.rooms.feed import FEED_EVENTS
from netra_trio.rooms.membership import Held, Membership
from netra_trio.rooms.room import Room
from netra_trio.rooms.snapshot import Snapshot, TakeSnapshot

SMALL_BYTES = 512  # of a reply without runs, at most
CATCH_UP_SECONDS = 1.0  # for the events that a snapshot includes
TRIES = 3  # to find the current epoch


@frozen
class _Missed:
    """The history for a member that joins again.

    Attributes:
        is_exact: Whether nothing is missing after the client's offset.
        after: The offset after which events were requested.
    """

    history: History
    is_exact: bool
    after: int


@frozen
class _Start:
    """The start of a membership.

    Attributes:
        following: The events after its offset, oldest first, which the member gets.
    """

    verdict: Verdict
    offset: int
    following: Sequence[RoomEvent] = ()


@define(eq=False)
class Join:
    """One join of a room, which is subscribed during the join.

    Args:
        room: The room.
        broker: Has its history.
        membership: The membership, which is new.
        after: The newest offset that the client has; None for new events only.
        epoch: The epoch of that offset; None for the current one.
        correlation_id: The correlation id of the reply.
        take_snapshot: Takes a snapshot of the runs of a thread; None for another room.
    """

    room: Room
    broker: Broker
    membership: Membership
    after: int | None = None
    epoch: str | None = None
    correlation_id: str | None = None
    take_snapshot: TakeSnapshot | None = None

    async def run(self, attach: Callable[[Membership], None]) -> None:
        """Reply, and deliver what follows. The caller removes the membership if this raises.

        Args:
            attach: Called with the reply: the membership replaces an earlier one.

        Raises:
            Refused: FORBIDDEN if the membership was ended meanwhile, or `attach` refuses it;
                SERVICE_UNAVAILABLE if the runs of the thread change too fast.
            BrokerUnavailable: If the broker does not answer.
        """
        membership, room, feed = self.membership, self.room, self.membership.feed
        if self.after is None and self.take_snapshot is None:
            await feed.wait_for_space(SMALL_BYTES)
            room.members[membership] = None
            membership.start(room.epoch, room.offset)
            attach(membership)
            feed.add_reply(membership.state, self._reply(_Start(Verdict.NEW, room.offset), None))
            return
        membership.held = held = Held()
        room.members[membership] = None
        start, runs = await self._find_start(held)
        reply = self._reply(start, runs)
        membership.start(room.epoch, start.offset)
        held.restrict()
        await feed.wait_for_space(len(reply))
        if self._is_ended():
            raise forbidden()
        attach(membership)
        feed.add_reply(membership.state, reply)
        for event in chain(start.following, held.take(FEED_EVENTS)):
            await feed.wait_for_space(len(event.data))
            if self._is_ended():
                return
            membership.enqueue(event)
        membership.release(room.epoch, room.offset)

    def _is_ended(self) -> bool:
        return self.membership.is_ended  # it may have changed at each checkpoint

    def _reply(self, start: _Start, runs: tuple[JsonObject, ...] | None) -> bytes:
        joined = RoomJoined(
            self.room.name,
            self.room.epoch,
            start.offset,
            start.verdict,
            sum(not each.is_missing for each in self._visible(start)),
            runs,
        )
        return self.membership.feed.encode(joined, self.correlation_id)

    def _visible(self, start: _Start) -> list[RoomEvent]:
        """Return the events that the connection gets after the reply."""
        return [each for each in start.following if self.membership.is_visible(each)]

    async def _find_start(self, held: Held) -> tuple[_Start, tuple[JsonObject, ...] | None]:
        """Return the start of the membership, and the runs as of its offset."""
        room = self.room
        since = (room.epoch, room.offset)
        snapshot, missed = None, None
        if self.take_snapshot is not None:
            snapshot = await self.take_snapshot()
            await self._wait_for(snapshot)
        if self.after is not None:
            missed = await self._find_missed(self.after)
        # No checkpoint from here on, so the position of the room does not change.
        held.keep_only(room.epoch, after=0)  # others have an earlier epoch
        known = {each.offset: each for each in held.events}
        newest = room.offset
        if missed is not None:
            newest = max(newest, missed.history.offset)
            for delivery in missed.history.events:
                known.setdefault(delivery.offset, RoomEvent.unpack(delivery))
        held.keep_only(room.epoch, after=newest)
        events = [known[offset] for offset in sorted(known)]
        start = _start_of(missed, events, newest)
        if snapshot is None:
            return start, None
        if not held.is_complete or since[0] != room.epoch:
            raise Refused(broker_unavailable("The runs of the thread change too fast."))
        for event in events:
            if event.offset > since[1]:
                snapshot.apply(event)
        return start, snapshot.runs(without=self._visible(start))

    async def _wait_for(self, snapshot: Snapshot) -> None:
        """Wait until the room has received the events that a snapshot includes."""
        with trio.move_on_after(CATCH_UP_SECONDS):
            await self.room.wait_for(snapshot.offset)
            return
        await self.room.catch_up()

    async def _find_missed(self, after: int) -> _Missed:
        """Read the events after an offset, in the epoch of the room at this node."""
        room, broker = self.room, self.broker
        for _ in range(TRIES):
            wanted = self.epoch or room.epoch
            history = await broker.history(room.name, epoch=wanted, after=after)
            is_exact, since = history.is_exact, after
            if history.epoch != wanted or after > history.offset:
                since = 0  # another epoch, or the broker has lost the offset
                history = await broker.history(room.name, epoch=history.epoch, after=0)
            if history.epoch == room.epoch:
                return _Missed(history, is_exact, since)
            await room.catch_up()
        raise BrokerUnavailable(f"the room {room.name} has no lasting epoch")


def _start_of(missed: _Missed | None, events: Sequence[RoomEvent], newest: int) -> _Start:
    """Return the start of a membership for the known events, oldest first."""
    if missed is None:
        return _Start(Verdict.NEW, newest)
    following = [each for each in events if each.offset > missed.after]
    if missed.is_exact:
        return _Start(Verdict.EXACT, missed.after, following)
    oldest = following[0].offset - 1 if following else newest
    return _Start(Verdict.GAP, oldest, following)
