"""Presence: the users in each room, over all nodes, and the changes for members.

    presence = Presence(rooms, broker, time.time)
    presence.connect(peers)                 # if there are other nodes
    nursery.start_soon(presence.run)
    users = await presence.find("team:red")

A user joins a room with its first connection there, and leaves ten seconds after its last one. Each
node keeps a table of the rooms that have members at this node, and sends changes to these members:
to those that may see others, except those of the user itself.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from heapq import heappop, heappush
from itertools import count, islice
from math import inf

import trio
from attrs import evolve

from netra_trio.broker.base import Broker
from netra_trio.errors import StoreUnavailable
from netra_trio.ids import UserId
from netra_trio.protocol.codec import encode
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.problem import Refused
from netra_trio.protocol.rooms import PresenceChange, PresenceChanged, PresentUser
from netra_trio.rooms.feed import Change, RoomFeed
from netra_trio.rooms.membership import Membership
from netra_trio.rooms.permission import Action
from netra_trio.rooms.presence_room import JoinRecord, PendingChange, PresentRoom
from netra_trio.rooms.presence_sharing import Peers, Sharing
from netra_trio.rooms.rooms import Rooms
from netra_trio.rooms.tasks import start_contained

GRACE_SECONDS = 10.0  # docs/protocol.md, Rooms
SEE_SECONDS = 60.0  # for which the result of a permission check is used
CHECKS_AT_ONCE = 16  # concurrent permission checks for one change
SENT_AT_ONCE = 500  # changes for members, before other tasks of the process run
LARGE_ROOM = 100  # members: in a room with more, changes are collected
LARGE_ROOM_SECONDS = 0.2

_UNKNOWN = (False, -inf)  # whether a user may see others, and until when that is used


class Presence:
    """The users in the rooms that have members at this node.

    Args:
        rooms: Report the joins and leaves at this node.
        broker: Carries the changes between nodes.
        wall_clock: Returns Unix seconds.
    """

    def __init__(self, rooms: Rooms, broker: Broker, wall_clock: Callable[[], float]) -> None:
        self._all_rooms = rooms
        self._broker = broker
        self._wall_clock = wall_clock
        self._rooms: dict[str, PresentRoom] = {}
        self._sharing: Sharing | None = None
        self._numbers = count(1)  # of joins and changes
        self._due: list[tuple[float, int, PresentRoom, UserId]] = []
        self._has_due = trio.Event()
        self._nursery: trio.Nursery | None = None
        rooms.observers.append(self)

    def connect(self, peers: Peers) -> Sharing:
        """Share the presence with other nodes; called before `run`."""
        self._sharing = Sharing(self, peers, self._all_rooms, self._broker)
        return self._sharing

    async def run(self) -> None:
        """Send changes to members and to other nodes, until it is cancelled."""
        async with trio.open_nursery() as self._nursery:
            if self._sharing is not None:
                self._nursery.start_soon(self._sharing.run)
            for room in self._rooms.values():
                self._send_soon(room)
                if self._sharing is not None:
                    self._sharing.work_soon(room)
            await self._expire()

    def start_soon(self, function: Callable[..., Awaitable[object]], *args: object) -> bool:
        """Start a task, if `run` is running; return whether it was started."""
        return start_contained(self._nursery, function, *args)

    async def find(self, name: str, feed: RoomFeed | None = None) -> tuple[PresentUser, ...]:
        """Return the users in a room over all nodes, by their id. Cancelling is safe.

        Args:
            name: The room.
            feed: The feed of the connection that requests them.

        Raises:
            Refused: SERVICE_UNAVAILABLE if another node does not answer.
        """
        room = self._rooms.get(name)
        if self._sharing is None:
            totals = {} if room is None else room.table.totals()
        else:
            totals = await self._sharing.totals(name, room)
        record = None if room is None or feed is None else room.members.get(feed)
        if record is not None:
            record.read = next(self._numbers)
        return tuple(PresentUser(user_id, totals[user_id]) for user_id in sorted(totals))

    def rooms(self) -> Iterable[PresentRoom]:
        """Return the rooms that have members at this node, or had some a moment ago."""
        return list(self._rooms.values())

    def get(self, name: str) -> PresentRoom | None:
        """Return a room that has members at this node, or had some a moment ago."""
        return self._rooms.get(name)

    def forget(self, room: PresentRoom) -> None:
        """Forget a room without members at this node."""
        if not room.members and self._rooms.get(room.name) is room:
            del self._rooms[room.name]

    # The members at this node.

    def joined(self, membership: Membership) -> None:
        """Note that a connection has joined a room."""
        name, user_id = membership.room, membership.user_id
        room = self._rooms.get(name)
        if room is None:
            room = self._rooms[name] = PresentRoom(name)
        now = trio.current_time()
        room.members[membership.feed] = JoinRecord(next(self._numbers), now)
        room.since.setdefault(user_id, now)
        room.table.add_own(user_id, 1)
        self._changed(room, user_id)

    def left(self, membership: Membership) -> None:
        """Note that a connection has left a room, or has ended."""
        room, user_id = self._rooms[membership.room], membership.user_id
        del room.members[membership.feed]  # an earlier membership may have added it
        if not room.table.add_own(user_id, -1):
            del room.since[user_id]
            room.can_see.pop(user_id, None)
        self._changed(room, user_id)

    def _changed(self, room: PresentRoom, user_id: UserId) -> None:
        self.note(room, [user_id])
        if self._sharing is not None:
            room.shared.dirty.add(user_id)
            self._sharing.work_soon(room)
        elif not room.members:
            self.forget(room)

    # Changes.

    def note(self, room: PresentRoom, users: Iterable[UserId]) -> None:
        """Note that the counts of users may have changed."""
        for user_id in users:
            if room.table.count(user_id):
                since = room.table.mark_present(user_id)
                if since is not None:
                    self._joins(room, user_id, since)
            else:
                number = next(self._numbers)
                if room.early.pop(user_id, None) is not None:
                    room.table.remove(user_id)  # its join was not sent
                elif room.table.mark_absent(user_id, number):
                    due = trio.current_time() + GRACE_SECONDS
                    heappush(self._due, (due, number, room, user_id))
                    self._has_due.set()

    def settle(self, room: PresentRoom) -> None:
        """Send the joins that waited until the counts of all nodes are known.

        Users of other nodes were present before the first member of this node, unless they joined
        while the counts of the other nodes were requested.
        """
        early, found = room.early, room.found
        room.early, room.found = {}, {}
        for user_id, number in early.items():
            if not room.table.is_elsewhere(user_id):
                self._add(room, user_id, PendingChange(PresenceChange.JOINED, number))
        for user_id, time in found.items():
            before = [record.number for record in room.members.values() if record.time < time]
            if before and room.table.is_elsewhere(user_id) and user_id not in room.table.own:
                self._add(room, user_id, PendingChange(PresenceChange.JOINED, max(before) + 1))

    def _joins(self, room: PresentRoom, user_id: UserId, since: int) -> None:
        number = next(self._numbers)
        if self._sharing is None or room.shared.is_settled:
            self._add(room, user_id, PendingChange(PresenceChange.JOINED, number, since))
        elif user_id in room.table.own:
            room.early[user_id] = number

    def _add(self, room: PresentRoom, user_id: UserId, change: PendingChange) -> None:
        pending = room.pending.pop(user_id, None)
        if pending is not None and pending.kind is change.kind:
            change = evolve(change, since=min(pending.since, change.since))
        elif pending is not None and not pending.since:
            return  # the two changes cancel each other
        room.pending[user_id] = change
        self._send_soon(room)

    async def _expire(self) -> None:
        """Remove users after `GRACE_SECONDS` without a connection."""
        while True:
            self._has_due = trio.Event()
            now = trio.current_time()
            while self._due and self._due[0][0] <= now:
                _, number, room, user_id = heappop(self._due)
                if room.table.expire(user_id, number):
                    self._add(room, user_id, PendingChange(PresenceChange.LEFT, number))
            with trio.move_on_at(self._due[0][0] if self._due else inf):
                await self._has_due.wait()

    # Sending.

    def _send_soon(self, room: PresentRoom) -> None:
        if room.pending and not room.is_sending:
            room.is_sending = self.start_soon(self._send_pending, room)

    async def _send_pending(self, room: PresentRoom) -> None:
        """Send the changes of a room to its members, in their order."""
        try:
            while room.pending:
                if len(room.members) > LARGE_ROOM:
                    await trio.sleep(LARGE_ROOM_SECONDS)
                pending = dict(islice(room.pending.items(), SENT_AT_ONCE))
                await self._check_permissions(room, self._viewers(room, pending))
                # Meanwhile an opposite change may have replaced it.
                changes = {
                    user_id: each
                    for user_id, each in pending.items()
                    if room.pending.get(user_id) is each
                }
                for user_id in changes:
                    del room.pending[user_id]
                await self._send_to_members(room, changes)
        finally:
            room.is_sending = False

    async def _send_to_members(
        self, room: PresentRoom, changes: Mapping[UserId, PendingChange]
    ) -> None:
        """Send changes to the members that may see others."""
        frames = {
            user_id: Change(user_id, each.kind, self._encode(room, user_id, each.kind))
            for user_id, each in changes.items()
        }
        sent = 0
        for membership in self._all_rooms.members(room.name):
            record = room.members.get(membership.feed)
            if record is None or not room.can_see.get(membership.user_id, _UNKNOWN)[0]:
                continue
            for user_id, each in changes.items():
                if _concerns(each, user_id, record, membership):
                    membership.change_presence(frames[user_id])
                    sent += 1
            if sent >= SENT_AT_ONCE:
                sent = 0
                await trio.lowlevel.checkpoint()

    def _encode(self, room: PresentRoom, user_id: UserId, kind: PresenceChange) -> bytes:
        return encode(PresenceChanged(room.name, user_id, kind), self._wall_clock())

    def _viewers(
        self, room: PresentRoom, changes: Mapping[UserId, PendingChange]
    ) -> list[Membership]:
        """Return the members that get a change, if they may see others."""
        return [
            membership
            for membership in self._all_rooms.members(room.name)
            # A member without a record joined after this room was removed; another object has it.
            if (record := room.members.get(membership.feed)) is not None
            and any(
                _concerns(each, user_id, record, membership) for user_id, each in changes.items()
            )
        ]

    async def _check_permissions(self, room: PresentRoom, members: Iterable[Membership]) -> None:
        """Check whether these members may see others, unless the result is known."""
        now = trio.current_time()
        users = {membership.user_id for membership in members}
        unknown = [each for each in users if room.can_see.get(each, _UNKNOWN)[1] <= now]
        if not unknown:
            await trio.lowlevel.checkpoint()
            return
        limiter = trio.CapacityLimiter(CHECKS_AT_ONCE)
        async with trio.open_nursery() as nursery:
            for user_id in unknown:
                await limiter.acquire_on_behalf_of(user_id)
                nursery.start_soon(self._check_permission, room, user_id, limiter)

    async def _check_permission(
        self, room: PresentRoom, user_id: UserId, limiter: trio.CapacityLimiter
    ) -> None:
        before = room.can_see.get(user_id, _UNKNOWN)[0]
        until = trio.current_time() + SEE_SECONDS
        try:
            try:
                is_lasting = await self._all_rooms.access.check(user_id, room.name, Action.SEE)
                result = (True, inf if is_lasting else until)
            except Refused as refused:
                is_forbidden = refused.problem.code is ErrorCode.FORBIDDEN
                result = (False, until) if is_forbidden else (before, -inf)
            except StoreUnavailable:
                result = (before, -inf)
            if user_id in room.table.own:
                room.can_see[user_id] = result
        finally:
            limiter.release_on_behalf_of(user_id)


def _concerns(
    change: PendingChange, user_id: UserId, record: JoinRecord, membership: Membership
) -> bool:
    """Whether a member gets a change of a user, if it may see others."""
    if membership.user_id == user_id or record.number >= change.number:
        return False
    return record.seen > change.since
