"""Presence: the users in each room, over all nodes, and the changes for members.

    presence = Presence(rooms, broker, time.time)
    presence.connect(peers)                 # if there are other nodes
    nursery.start_soon(presence.run)
    users = await presence.find("team:red")

A user joins a room with its first connection there, and leaves ten seconds after its last one. Each
node keeps a table of the rooms that have members at this node, and tells these members. A change
goes to the members that may see others, except to those of the user itself.
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
from netra_trio.rooms.presence_room import News, PresentRoom, Seat
from netra_trio.rooms.presence_sharing import Peers, Sharing
from netra_trio.rooms.rooms import Rooms

GRACE_SECONDS = 10.0  # docs/protocol.md, Rooms
SEE_SECONDS = 60.0  # for which an answer of the application is used
ASKED_AT_ONCE = 16  # questions to the application for one change
TOLD_AT_ONCE = 500  # changes for members, before other tasks of the process get their turn
CROWD = 100  # members: in a room with more, changes are told together
CROWD_SECONDS = 0.2

_UNKNOWN = (False, -inf)  # whether a user may see others, and until when that is used


class Presence:
    """The users in the rooms, as this node knows them.

    Args:
        rooms: Tell who joins and leaves at this node.
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
        rooms.watches.append(self)

    def connect(self, peers: Peers) -> Sharing:
        """Share the presence with other nodes; called before `run`."""
        self._sharing = Sharing(self, peers, self._all_rooms, self._broker)
        return self._sharing

    async def run(self) -> None:
        """Tell members, and share with other nodes, until it is cancelled."""
        async with trio.open_nursery() as self._nursery:
            if self._sharing is not None:
                self._nursery.start_soon(self._sharing.run)
            for room in self._rooms.values():
                self._tell_soon(room)
                if self._sharing is not None:
                    self._sharing.work_soon(room)
            await self._expire()

    def start_soon(self, function: Callable[..., Awaitable[object]], *args: object) -> bool:
        """Start a task; return whether it was started, as `run` is running."""
        nursery = self._nursery
        if nursery is None or nursery.cancel_scope.cancel_called:
            return False
        nursery.start_soon(function, *args)
        return True

    async def find(self, name: str, feed: RoomFeed | None = None) -> tuple[PresentUser, ...]:
        """Return the users in a room over all nodes, by their id. Cancelling is safe.

        Args:
            name: The room.
            feed: The feed of the connection that gets them.

        Raises:
            Refused: SERVICE_UNAVAILABLE if another node does not answer.
        """
        room = self._rooms.get(name)
        if self._sharing is None:
            totals = {} if room is None else room.table.totals()
        else:
            totals = await self._sharing.totals(name, room)
        seat = None if room is None or feed is None else room.members.get(feed)
        if seat is not None:
            seat.read = next(self._numbers)
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
        room.members[membership.feed] = Seat(next(self._numbers), now)
        room.since.setdefault(user_id, now)
        room.table.add_own(user_id, 1)
        self._changed(room, user_id)

    def left(self, membership: Membership) -> None:
        """Note that a connection has left a room, or has ended."""
        room, user_id = self._rooms[membership.room], membership.user_id
        del room.members[membership.feed]  # the membership may be one that has replaced another
        if not room.table.add_own(user_id, -1):
            del room.since[user_id]
            room.sees.pop(user_id, None)
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
                since = room.table.come(user_id)
                if since is not None:
                    self._joins(room, user_id, since)
            else:
                number = next(self._numbers)
                if room.early.pop(user_id, None) is not None:
                    room.table.dismiss(user_id)  # its join was not told
                elif room.table.go(user_id, number):
                    due = trio.current_time() + GRACE_SECONDS
                    heappush(self._due, (due, number, room, user_id))
                    self._has_due.set()

    def settle(self, room: PresentRoom) -> None:
        """Tell the joins that waited until the counts of all nodes are known.

        Users of other nodes were there before the first member of this node, unless they came
        while the other nodes were asked.
        """
        early, found = room.early, room.found
        room.early, room.found = {}, {}
        for user_id, number in early.items():
            if not room.table.is_elsewhere(user_id):
                self._add(room, user_id, News(PresenceChange.JOINED, number))
        for user_id, time in found.items():
            before = [seat.number for seat in room.members.values() if seat.time < time]
            if before and room.table.is_elsewhere(user_id) and user_id not in room.table.own:
                self._add(room, user_id, News(PresenceChange.JOINED, max(before) + 1))

    def _joins(self, room: PresentRoom, user_id: UserId, since: int) -> None:
        number = next(self._numbers)
        if self._sharing is None or room.shared.is_settled:
            self._add(room, user_id, News(PresenceChange.JOINED, number, since))
        elif user_id in room.table.own:
            room.early[user_id] = number

    def _add(self, room: PresentRoom, user_id: UserId, news: News) -> None:
        pending = room.pending.pop(user_id, None)
        if pending is not None and pending.kind is news.kind:
            news = evolve(news, since=min(pending.since, news.since))
        elif pending is not None and not pending.since:
            return  # both changes together are none
        room.pending[user_id] = news
        self._tell_soon(room)

    async def _expire(self) -> None:
        """Let users leave who have no connection for long enough."""
        while True:
            self._has_due = trio.Event()
            now = trio.current_time()
            while self._due and self._due[0][0] <= now:
                _, number, room, user_id = heappop(self._due)
                if room.table.expire(user_id, number):
                    self._add(room, user_id, News(PresenceChange.LEFT, number))
            with trio.move_on_at(self._due[0][0] if self._due else inf):
                await self._has_due.wait()

    # Telling.

    def _tell_soon(self, room: PresentRoom) -> None:
        if room.pending and not room.is_telling:
            room.is_telling = self.start_soon(self._tell, room)

    async def _tell(self, room: PresentRoom) -> None:
        """Tell the members of a room its changes, in their order."""
        try:
            while room.pending:
                if len(room.members) > CROWD:
                    await trio.sleep(CROWD_SECONDS)
                pending = dict(islice(room.pending.items(), TOLD_AT_ONCE))
                await self._ask(room, self._viewers(room, pending))
                # Meanwhile the opposite of a change may have happened.
                news = {
                    user_id: each
                    for user_id, each in pending.items()
                    if room.pending.get(user_id) is each
                }
                for user_id in news:
                    del room.pending[user_id]
                await self._give(room, news)
        finally:
            room.is_telling = False

    async def _give(self, room: PresentRoom, news: Mapping[UserId, News]) -> None:
        """Tell changes to the members that may see them."""
        changes = {
            user_id: Change(user_id, each.kind, self._encode(room, user_id, each.kind))
            for user_id, each in news.items()
        }
        told = 0
        for membership in self._viewers(room, news):
            seat = room.members.get(membership.feed)
            if seat is None or not room.sees.get(membership.user_id, _UNKNOWN)[0]:
                continue
            for user_id, each in news.items():
                if _concerns(each, user_id, seat, membership):
                    membership.change_presence(changes[user_id])
                    told += 1
            if told >= TOLD_AT_ONCE:
                told = 0
                await trio.lowlevel.checkpoint()

    def _encode(self, room: PresentRoom, user_id: UserId, kind: PresenceChange) -> bytes:
        return encode(PresenceChanged(room.name, user_id, kind), self._wall_clock())

    def _viewers(self, room: PresentRoom, news: Mapping[UserId, News]) -> list[Membership]:
        """Return the members that have to be told a change, if they may see others."""
        return [
            membership
            for membership in self._all_rooms.members(room.name)
            # One without a seat has come after this room was forgotten, and has a later one.
            if (seat := room.members.get(membership.feed)) is not None
            and any(_concerns(each, user_id, seat, membership) for user_id, each in news.items())
        ]

    async def _ask(self, room: PresentRoom, members: Iterable[Membership]) -> None:
        """Ask whether these members may see others, unless that is known."""
        now = trio.current_time()
        users = {membership.user_id for membership in members}
        unknown = [each for each in users if room.sees.get(each, _UNKNOWN)[1] <= now]
        if not unknown:
            await trio.lowlevel.checkpoint()
            return
        limiter = trio.CapacityLimiter(ASKED_AT_ONCE)
        async with trio.open_nursery() as nursery:
            for user_id in unknown:
                await limiter.acquire_on_behalf_of(user_id)
                nursery.start_soon(self._ask_for, room, user_id, limiter)

    async def _ask_for(
        self, room: PresentRoom, user_id: UserId, limiter: trio.CapacityLimiter
    ) -> None:
        before = room.sees.get(user_id, _UNKNOWN)[0]
        until = trio.current_time() + SEE_SECONDS
        try:
            try:
                is_lasting = await self._all_rooms.access.check(user_id, room.name, Action.SEE)
                answer = (True, inf if is_lasting else until)
            except Refused as refused:
                is_forbidden = refused.problem.code is ErrorCode.FORBIDDEN
                answer = (False, until) if is_forbidden else (before, -inf)
            except StoreUnavailable:
                answer = (before, -inf)
            if user_id in room.table.own:
                room.sees[user_id] = answer
        finally:
            limiter.release_on_behalf_of(user_id)


def _concerns(news: News, user_id: UserId, seat: Seat, membership: Membership) -> bool:
    """Whether a change of a user has to be told to a member, if it may see others."""
    if membership.user_id == user_id or seat.number >= news.number:
        return False
    return seat.knows > news.since
