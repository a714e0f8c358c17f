"""The presence of several nodes: each one publishes its counts, and requests those of the others.

The counts of a room are published in an internal room; each node with members listens to it. They
are absolute values, so repeating them is harmless. A node requests the counts of the other nodes
when its first member joins, and after a lost event. Each answer and each event has a number of its
node, which orders them.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable
from functools import partial
from itertools import count, islice
from typing import Protocol

import orjson
import trio
from attrs import frozen

from netra_trio.broker.base import LEASE_SECONDS, Broker, Delivery, HistoryLimits
from netra_trio.errors import BrokerUnavailable
from netra_trio.ids import NodeId, UserId
from netra_trio.protocol.fields import JsonObject
from netra_trio.protocol.problem import Refused, broker_unavailable
from netra_trio.rooms.presence_room import PresentRoom
from netra_trio.rooms.presence_table import PresenceTable, total_of
from netra_trio.rooms.rooms import Rooms

PREFIX = ":presence:"  # of these internal rooms: clients cannot name them
KEPT = HistoryLimits(events=100, seconds=3600.0)  # for nodes that had no connection
CHECK_SECONDS = 30.0  # between two checks for lost events
RETRY_SECONDS = 1.0  # before a request to the broker or a node is repeated
ANSWER_SECONDS = 2.0  # for the counts of all nodes; then a client is refused
USERS = 500  # in one event

Step = Callable[[PresentRoom], Awaitable[None]]


@frozen
class Counts:
    """The counts of one node.

    Attributes:
        number: Greater than that of each earlier event of the node.
        users: The number of connections of each user.
        ages: The seconds since the presence of each user at this node began.
    """

    number: int
    users: dict[UserId, int]
    ages: dict[UserId, float]


class Peers(Protocol):
    """The other nodes."""

    @property
    def node(self) -> NodeId:
        """The id of this node."""
        ...

    def live(self) -> Collection[NodeId]:
        """Return the other live nodes."""
        ...

    async def ask(self, node: NodeId, room: str) -> Counts:
        """Return the counts of another node.

        Raises:
            BrokerUnavailable: If it does not answer.
        """
        ...


class Host(Protocol):
    """The presence of this node."""

    def rooms(self) -> Iterable[PresentRoom]:
        """Return the rooms that have members at this node, or had some a moment ago."""
        ...

    def note(self, room: PresentRoom, users: Iterable[UserId]) -> None:
        """Note that the counts of users may have changed."""
        ...

    def settle(self, room: PresentRoom) -> None:
        """Note that the counts of all nodes are known."""
        ...

    def forget(self, room: PresentRoom) -> None:
        """Forget a room without members at this node."""
        ...

    def start_soon(self, function: Callable[..., Awaitable[object]], *args: object) -> bool:
        """Start a task; return whether it was started."""
        ...


class Sharing:
    """Shares the presence of one node with the others.

    Args:
        host: The presence of this node.
        peers: The other nodes.
        rooms: Listens to the internal rooms.
        broker: Publishes to them.
    """

    def __init__(self, host: Host, peers: Peers, rooms: Rooms, broker: Broker) -> None:
        self._host = host
        self._peers = peers
        self._rooms = rooms
        self._broker = broker
        self._numbers = count(1)
        self._forgotten: set[NodeId] = set()

    async def run(self) -> None:
        """Detect lost events and missed ends of nodes, until it is cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._forget_unknown_nodes)
            nursery.start_soon(self._check_all)

    async def _forget_unknown_nodes(self) -> None:
        """Remove nodes that ended before this node has seen them live."""
        before: set[NodeId] = set()
        while True:
            await trio.sleep(LEASE_SECONDS)
            known = {node for room in self._host.rooms() for node in room.table.others}
            unknown = known - set(self._peers.live())
            for node in unknown & before:
                self.forget(node)
            before = unknown

    async def _check_all(self) -> None:
        """Check whether the newest event of a room is lost: else only a later one shows that."""
        while True:
            await trio.sleep(CHECK_SECONDS)
            for room in self._host.rooms():
                try:
                    await self._check(room)
                except BrokerUnavailable:
                    break

    async def _check(self, room: PresentRoom) -> None:
        shared, known = room.shared, room.shared.position
        if known is None or not shared.is_listening:
            return
        epoch, offset = known
        found = await self._broker.history(PREFIX + room.name, epoch=epoch, after=offset)
        newest = (found.epoch, found.offset)
        if newest != known == shared.position:
            shared.position = newest
            self._request_again(room)
            self.work_soon(room)

    def own_counts(self, room: PresentRoom | None) -> Counts:
        """Return the counts of this node, for another node."""
        if room is None:
            return Counts(next(self._numbers), {}, {})
        now = trio.current_time()
        ages = {user_id: now - time for user_id, time in room.since.items()}
        return Counts(next(self._numbers), dict(room.table.own), ages)

    def announce_all(self) -> None:
        """Publish all counts again: other nodes may have removed this one."""
        for room in self._host.rooms():
            room.shared.dirty.update(room.table.own)
            self.work_soon(room)

    def request_forgotten(self, node: NodeId) -> None:
        """Request the counts of a live node, if they were removed: it has not ended."""
        if node in self._forgotten:
            self._forgotten.remove(node)
            for room in self._host.rooms():
                if room.shared.is_listening:
                    room.shared.awaited.setdefault(node, {})
                    self.work_soon(room)

    def forget(self, node: NodeId) -> None:
        """Remove the counts of a node that has ended."""
        self._forgotten.add(node)
        for room in self._host.rooms():
            room.shared.numbers.pop(node, None)
            room.shared.awaited.pop(node, None)
            self._host.note(room, room.table.others.pop(node, {}))
            self._settle(room)

    async def totals(self, name: str, room: PresentRoom | None) -> dict[UserId, int]:
        """Return the number of connections of each user in a room, over all nodes.

        Args:
            name: The room.
            room: Its presence at this node; None if it has no members here.

        Raises:
            Refused: SERVICE_UNAVAILABLE if a node does not answer.
        """
        try:
            with trio.fail_after(ANSWER_SECONDS):
                if room is None or not room.members:
                    return await self._gather(name)
                await room.shared.wait_until_current()
        except (BrokerUnavailable, trio.TooSlowError):
            raise Refused(broker_unavailable()) from None
        return room.table.totals()

    async def _gather(self, name: str) -> dict[UserId, int]:
        """Request the counts of all nodes, for a room without members at this one."""
        answers: list[Counts] = []
        failures: list[BrokerUnavailable] = []

        async def ask(node: NodeId) -> None:
            try:
                answers.append(await self._peers.ask(node, name))
            except BrokerUnavailable as unavailable:
                failures.append(unavailable)

        async with trio.open_nursery() as nursery:
            for node in self._peers.live():
                nursery.start_soon(ask, node)
        if failures:
            raise failures[0]
        return total_of([each.users for each in answers])

    # The work for a room, by one task at a time.

    def work_soon(self, room: PresentRoom) -> None:
        """Start the task that shares a room, unless it is running."""
        if not room.shared.is_working:
            room.shared.is_working = self._host.start_soon(self._work, room)

    async def _work(self, room: PresentRoom) -> None:
        try:
            while (step := self._next_step(room)) is not None:
                try:
                    await step(room)
                except BrokerUnavailable:
                    await trio.sleep(RETRY_SECONDS)
        finally:
            room.shared.is_working = False

    def _next_step(self, room: PresentRoom) -> Step | None:
        shared = room.shared
        if room.members and not shared.is_listening:
            return self._listen
        if shared.dirty:
            return self._publish
        if room.members:
            return self._request_counts if shared.awaited else None
        if shared.is_listening:
            return self._unlisten
        self._host.forget(room)
        return None

    async def _listen(self, room: PresentRoom) -> None:
        shared = room.shared
        shared.position = None
        history = await self._rooms.listen(PREFIX + room.name, partial(self._deliver, room))
        if shared.position is None:
            shared.position = (history.epoch, history.offset)
        shared.is_listening = True
        self._request_again(room)
        self._settle(room)

    async def _unlisten(self, room: PresentRoom) -> None:
        shared = room.shared
        shared.is_listening = shared.is_settled = False
        shared.awaited.clear()
        shared.numbers.clear()
        room.table = PresenceTable()  # without members, it has users of other nodes only
        try:
            await self._rooms.unlisten(PREFIX + room.name)
        except BrokerUnavailable:
            return  # still, nothing more is delivered

    async def _publish(self, room: PresentRoom) -> None:
        dirty = set(islice(room.shared.dirty, USERS))
        room.shared.dirty -= dirty
        own = room.table.own
        message = {
            "node": self._peers.node,
            "number": next(self._numbers),
            "users": {user_id: own.get(user_id, 0) for user_id in dirty},
        }
        try:
            await self._broker.publish(PREFIX + room.name, orjson.dumps(message), limits=KEPT)
        except BaseException:
            room.shared.dirty |= dirty
            raise

    async def _request_counts(self, room: PresentRoom) -> None:
        awaited = room.shared.awaited

        async def ask(node: NodeId) -> None:
            sent = trio.current_time()
            try:
                counts = await self._peers.ask(node, room.name)
            except BrokerUnavailable:
                return
            if node in awaited:  # otherwise the node has ended meanwhile
                now = trio.current_time()
                later = awaited.pop(node)
                newer = {user: each[1] for user, each in later.items() if each[0] > counts.number}
                if not room.shared.is_settled:
                    answered = (sent + now) / 2
                    for user_id, age in counts.ages.items():
                        _find(room, user_id, answered - age)
                    for user_id in newer:
                        _find(room, user_id, now)
                room.shared.numbers[node] = counts.number
                self._host.note(room, room.table.replace(node, counts.users | newer))
                self._settle(room)

        async with trio.open_nursery() as nursery:
            for node in list(awaited):
                nursery.start_soon(ask, node)
        if awaited:
            raise BrokerUnavailable("a node did not answer")

    def _request_again(self, room: PresentRoom) -> None:
        for node in self._peers.live():
            room.shared.awaited.setdefault(node, {})

    def _settle(self, room: PresentRoom) -> None:
        """Note that the counts of all nodes are known, if they are."""
        if room.shared.is_current:
            room.shared.notify()
            if not room.shared.is_settled:
                room.shared.is_settled = True
                self._host.settle(room)

    def _deliver(self, room: PresentRoom, delivery: Delivery) -> None:
        """Receive an event with counts."""
        shared, before = room.shared, room.shared.position
        if before is None or before[0] != delivery.epoch or before[1] < delivery.offset:
            shared.position = (delivery.epoch, delivery.offset)
            if before is not None and before != (delivery.epoch, delivery.offset - 1):
                self._request_again(room)
                self.work_soon(room)
        message: JsonObject = orjson.loads(delivery.data)
        node, number, users = NodeId(message["node"]), message["number"], message["users"]
        if node == self._peers.node:
            return
        later = shared.awaited.get(node)
        if later is not None:
            later.update({user_id: (number, users[user_id]) for user_id in users})
        elif number > shared.numbers.get(node, 0):
            if not shared.is_settled:
                for user_id in users:
                    _find(room, user_id, trio.current_time())
            room.table.update(node, users)
            self._host.note(room, users)


def _find(room: PresentRoom, user_id: UserId, time: float) -> None:
    """Note when a user of another node joined, before the counts of all nodes are known."""
    room.found[user_id] = min(time, room.found.get(user_id, time))
