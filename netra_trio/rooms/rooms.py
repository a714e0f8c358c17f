"""The rooms of one node: joins, leaves, kicks, and the delivery of events.

    rooms = Rooms(broker, store.find_room, limits=HistoryLimits(), may=may, …)
    nursery.start_soon(rooms.run)
    feed = rooms.open_feed(user_id, session_id, wake=…)       # one for each connection
    await rooms.join(feed, "news", after=41, epoch="x")
    await rooms.leave(feed, "news")

All events come from the broker, also those of this node: all members get them in the same order.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any, Protocol

import orjson
import structlog
import trio

from netra_trio.broker.base import Broker, Delivery, History, HistoryLimits
from netra_trio.errors import BrokerUnavailable
from netra_trio.ids import SessionId, UserId
from netra_trio.protocol.admin import ADMIN_ROOM, ADMINISTRATOR
from netra_trio.protocol.fields import JsonObject
from netra_trio.protocol.problem import Refused, broker_unavailable
from netra_trio.protocol.rooms import check_room_name
from netra_trio.rooms.access import Access, FindRoom, forbidden
from netra_trio.rooms.feed import DirectSends, RoomFeed
from netra_trio.rooms.joining import SMALL_BYTES, Join
from netra_trio.rooms.membership import Membership
from netra_trio.rooms.permission import Action, PermissionCheck
from netra_trio.rooms.rechecks import Rechecks
from netra_trio.rooms.room import Room
from netra_trio.rooms.snapshot import TakeSnapshot
from netra_trio.rooms.tasks import start_contained
from netra_trio.telemetry.metrics import Metrics
from netra_trio.transports.frames import SharedPayload

KICKS = ":kicks"  # an internal room: clients cannot name it
DELIVERED = 1000  # to members, before other tasks of the process run

Listener = Callable[[Delivery], None]

_log = structlog.get_logger(__name__)


class MemberObserver(Protocol):
    """Observes the members of the rooms of this node."""

    def joined(self, membership: Membership) -> None:
        """Note that a connection has joined a room; not called for a repeated join."""
        ...

    def left(self, membership: Membership) -> None:
        """Note that a connection has left a room, or has ended."""
        ...


class Rooms:
    """The rooms of one node.

    Args:
        broker: Delivers the events; no other object receives from it.
        find_room: Finds the user and the thread of a room, as `Store.find_room` does.
        limits: How much of each room is kept.
        may: The application's function; None if there are only the server's own rooms.
        metrics: Counts the events.
        wall_clock: Returns Unix seconds.

    Attributes:
        access: Checks the permissions of users.
        observers: Called for each member that joins or leaves.
    """

    def __init__(
        self,
        broker: Broker,
        find_room: FindRoom,
        *,
        limits: HistoryLimits,
        may: PermissionCheck | None,
        metrics: Metrics,
        wall_clock: Callable[[], float],
    ) -> None:
        self.access = Access(may, find_room)
        self.observers: list[MemberObserver] = []
        self._broker = broker
        self._limits = limits
        self._nursery: trio.Nursery | None = None
        self._metrics = metrics
        self._wall_clock = wall_clock
        self._rooms: dict[str, Room] = {}
        self._memberships: dict[RoomFeed, dict[str, Membership]] = {}
        self._listeners: dict[str, Listener] = {}
        self._rechecks = Rechecks(self.access, self._remove)
        self._has_rechecks = False
        self._kicks = trio.Lock()
        self._direct = DirectSends()

    async def run(self) -> None:
        """Deliver events, and repeat permission checks, until it is cancelled."""
        async with trio.open_nursery() as self._nursery:
            while True:
                delivered = 0
                deliveries = await self._broker.receive()
                self._direct.renew()
                for delivery in deliveries:
                    delivered += 1 + self._deliver(delivery)
                    if delivered >= DELIVERED:
                        delivered = 0
                        await trio.lowlevel.checkpoint()
                        self._direct.renew()

    def _start_soon(self, function: Callable[..., Awaitable[object]], *args: object) -> None:
        start_contained(self._nursery, function, *args)

    def _deliver(self, delivery: Delivery) -> int:
        """Deliver an event to its listener or its members; return the number of receivers."""
        try:
            listener = self._listeners.get(delivery.room)
            if listener is not None:
                listener(delivery)
                return 1
            room = self._rooms.get(delivery.room)
            if room is None:
                return 0
            self._metrics.room_events["received"] += 1
            room.deliver(delivery)
            return len(room.members)
        except Exception:  # one malformed event must not end all rooms
            _log.exception("room_event_failed", room=delivery.room)
            return 0

    # Members.

    def open_feed(
        self,
        user_id: UserId,
        session_id: SessionId,
        *,
        wake: Callable[[], None],
        send_now: Callable[[SharedPayload], bool] | None = None,
        permissions: Callable[[], Collection[str]] = frozenset,
    ) -> RoomFeed:
        """Return the feed of a connection; when it is closed, the connection leaves all rooms.

        Args:
            user_id: The user of the connection.
            session_id: Its session.
            wake: Wakes its writer.
            send_now: Sends a WebSocket frame at once, if possible; None where it never is.
            permissions: Returns the permissions of the newest token of the connection.
        """
        feed = RoomFeed(
            user_id,
            session_id,
            wake=wake,
            wall_clock=self._wall_clock,
            metrics=self._metrics,
            send_now=send_now,
            direct=self._direct,
            permissions=permissions,
        )
        self._memberships[feed] = {}
        feed.on_close = lambda: self._leave_all(feed)
        return feed

    async def join(
        self,
        feed: RoomFeed,
        name: str,
        *,
        after: int | None = None,
        epoch: str | None = None,
        correlation_id: str | None = None,
        take_snapshot: TakeSnapshot | None = None,
        is_own: bool = False,
        hold: AbstractAsyncContextManager[None] | None = None,
    ) -> None:
        """Join a room: the reply and all later frames go into the feed.

        Waits while the feed is full. A membership of the connection in this room is replaced.
        Cancelling is safe: then the connection is not in the room.

        Args:
            feed: The feed of the connection.
            name: The room.
            after: The newest offset that the client has; None for new events only.
            epoch: The epoch of that offset; None for the current one.
            correlation_id: The correlation id of the reply.
            take_snapshot: Takes a snapshot of the runs of a thread; None for another room.
            is_own: Whether it is a room of the user, which needs no permission check.
            hold: Entered when the join is permitted, before the room is subscribed; exited when
                the connection has joined.

        Raises:
            Refused: QUEUE_FULL, FORBIDDEN or SERVICE_UNAVAILABLE; an earlier membership stays.
            StoreUnavailable: If the store cannot answer now.
        """
        with feed.reserve(name):
            lasting = is_own or await self.access.check(
                feed.user_id, name, Action.JOIN, feed.permissions()
            )
            membership = Membership(feed, name, lasting)
            try:
                async with feed.joins, hold or nullcontext(), self._subscribed(name) as room:
                    join = Join(
                        room, self._broker, membership, after, epoch, correlation_id, take_snapshot
                    )
                    try:
                        await join.run(self._attach)
                    except BaseException:
                        self._end(membership)
                        raise
            except BrokerUnavailable:
                raise Refused(broker_unavailable()) from None

    async def leave(self, feed: RoomFeed, name: str, *, correlation_id: str | None = None) -> None:
        """Leave a room, and reply; without a membership, only reply.

        Waits while the feed is full. Cancelling is safe: the membership then stays or ends.
        """
        await feed.wait_for_space(SMALL_BYTES)
        membership = self._memberships.get(feed, {}).get(name) or Membership(feed, name)
        membership.send_left(correlation_id)
        self._end(membership)

    def members(self, name: str) -> Sequence[Membership]:
        """Return the members of a room at this node, without unfinished joins."""
        room = self._rooms.get(name)
        members = () if room is None else room.members
        return [each for each in members if self._is_attached(each)]

    async def kick(self, name: str, user_id: UserId) -> None:
        """Remove a user from a room, on all nodes. The user may join again if permitted.

        Raises:
            ValueError: If the name of the room is not valid.
            BrokerUnavailable: If the broker does not answer.
        """
        check_room_name(name)
        data = orjson.dumps({"room": name, "user_id": user_id})
        await self._broker.publish(KICKS, data, limits=self._limits)

    def _on_kick(self, delivery: Delivery) -> None:
        kick: JsonObject = orjson.loads(delivery.data)
        room = self._rooms.get(kick["room"])
        if room is not None:
            for membership in list(room.members):
                if membership.user_id == kick["user_id"]:
                    self._remove(membership)

    def note_permissions(self, feed: RoomFeed) -> None:
        """End the memberships for which a new token of the connection lacks the permission."""
        membership = self._memberships.get(feed, {}).get(ADMIN_ROOM)
        if membership is not None and not self._may_attach(membership):
            self._remove(membership)

    def _may_attach(self, membership: Membership) -> bool:
        """Return whether the newest token of the connection has the permission for the room."""
        is_admin = membership.room == ADMIN_ROOM
        return not is_admin or ADMINISTRATOR in membership.feed.permissions()

    def _remove(self, membership: Membership) -> None:
        """End a membership, and send `room_left` to the member."""
        if self._is_attached(membership):
            membership.send_left()
        self._end(membership)

    def _attach(self, membership: Membership) -> None:
        """Make this the membership of its connection in its room; it replaces an earlier one.

        Raises:
            Refused: FORBIDDEN, if the newest token lacks the permission.
        """
        memberships = self._memberships.get(membership.feed)
        if memberships is None:  # the connection has ended
            self._end(membership)
            return
        if not self._may_attach(membership):  # there was a new token during the join
            raise forbidden()
        replaced = memberships.get(membership.room)
        memberships[membership.room] = membership
        if not membership.is_lasting:
            self._schedule_recheck(membership)
        if replaced is None:
            membership.feed.hold(membership.room)
            for observer in self.observers:
                observer.joined(membership)
        else:
            self._forget(replaced)

    def _schedule_recheck(self, membership: Membership) -> None:
        """Schedule the next check of a permission."""
        self._rechecks.add(membership)
        if not self._has_rechecks:
            self._has_rechecks = True
            self._start_soon(self._rechecks.run)

    def _is_attached(self, membership: Membership) -> bool:
        memberships = self._memberships.get(membership.feed, {})
        return memberships.get(membership.room) is membership

    def _end(self, membership: Membership) -> None:
        """End a membership, attached or not."""
        if self._is_attached(membership):
            del self._memberships[membership.feed][membership.room]
            membership.feed.release(membership.room)
            for observer in self.observers:
                observer.left(membership)
        self._forget(membership)

    def _forget(self, membership: Membership) -> None:
        membership.is_ended = True
        membership.feed.forget(membership.state)
        room = self._rooms.get(membership.room)
        if room is not None:
            room.members.pop(membership, None)
            self._close_soon(room)

    def _leave_all(self, feed: RoomFeed) -> None:
        for membership in list(self._memberships[feed].values()):
            self._end(membership)
        del self._memberships[feed]

    # Subscriptions.

    @asynccontextmanager
    async def _subscribed(self, name: str) -> AsyncIterator[Room]:
        """Keep a room subscribed during the block, and as long as it has members.

        Raises:
            BrokerUnavailable: If the broker does not answer.
        """
        async with self._kicks:
            if KICKS not in self._listeners:
                await self.listen(KICKS, self._on_kick)
        while True:
            room = self._rooms.get(name)
            if room is None:
                room = self._rooms[name] = Room(name, self._broker, self._start_soon)
            room.uses += 1
            try:
                async with room.lock:
                    is_current = self._rooms.get(name) is room
                    if is_current:
                        await room.subscribe()
                if is_current:
                    yield room
                    return
            finally:
                room.uses -= 1
                self._close_soon(room)

    def _close_soon(self, room: Room) -> None:
        if not room.is_used and self._rooms.get(room.name) is room:
            self._start_soon(self._close, room)

    async def _close(self, room: Room) -> None:
        """Unsubscribe from a room, unless it is used again."""
        async with room.lock:
            if room.is_used or self._rooms.get(room.name) is not room:
                return
            try:
                await self._broker.unsubscribe(room.name)
            except BrokerUnavailable:
                pass  # its events are ignored, and a new connection does not subscribe to it
            finally:
                del self._rooms[room.name]

    async def listen(self, name: str, listener: Listener) -> History:
        """Call a function with each event of an internal room, whose name begins with ":".

        Events may be missing after a lost connection to the broker. Returns the position of the
        room, without events.

        Raises:
            BrokerUnavailable: If the broker does not answer; then nothing is delivered.
        """
        self._listeners[name] = listener
        try:
            return await self._broker.subscribe(name)
        except BaseException:
            self._listeners.pop(name, None)
            raise

    async def unlisten(self, name: str) -> None:
        """Undo a `listen`.

        Raises:
            BrokerUnavailable: If the broker does not answer; still, nothing more is delivered.
        """
        self._listeners.pop(name, None)
        await self._broker.unsubscribe(name)

    def statistics(self) -> dict[str, int]:
        """Return the numbers of rooms with members at this node, and of their members."""
        members = sum(len(each) for each in self._memberships.values())
        return {"rooms": len(self._rooms), "members": members}

    def gauges(self) -> dict[str, Any]:
        """Return the gauges of the metrics."""
        statistics = self.statistics()
        return {"rooms": statistics["rooms"], "room_members": statistics["members"]}
