"""The presence of several nodes: each one publishes its counts, and asks for those of the others.

The counts of a room are published in a room of the nodes, which each node with members listens to.
They are absolute, so a repeated one does no harm. A node whose first member joins asks the other
nodes for their counts; so does one that has lost an event. Each answer and each event has a number
of its node, which tells what is newer.
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

PREFIX = ":presence:"  # of the rooms of the nodes: clients cannot name them
KEPT = HistoryLimits(events=100, seconds=3600.0)  # for nodes that have lost their connection
CHECK_SECONDS = 30.0  # between two looks whether an event is lost
RETRY_SECONDS = 1.0  # before the broker, or a node, is asked again
ANSWER_SECONDS = 2.0  # for the counts of all nodes, until a client is refused
USERS = 500  # in one event

Step = Callable[[PresentRoom], Awaitable[None]]


@frozen
class Counts:
    """The counts of one node.

    Attributes:
        number: Greater than that of each event which the node has published before.
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
        rooms: Listens to the rooms of the nodes.
        broker: Publishes in them.
    """

    def __init__(self, host: Host, peers: Peers, rooms: Rooms, broker: Broker) -> None:
        self._host = host
        self._peers = peers
        self._rooms = rooms
        self._broker = broker
        self._numbers = count(1)
        self._forgotten: set[NodeId] = set()

    async def run(self) -> None:
        """Repair what no event shows, until it is cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._forget_strangers)
            nursery.start_soon(self._check_all)

    async def _forget_strangers(self) -> None:
        """Forget nodes that have gone before this node has noticed them."""
        before: set[NodeId] = set()
        while True:
            await trio.sleep(LEASE_SECONDS)
            known = {node for room in self._host.rooms() for node in room.table.others}
            strangers = known - set(self._peers.live())
            for node in strangers & before:
                self.forget(node)
            before = strangers

    async def _check_all(self) -> None:
        """Look whether the newest event of a room is lost: only a later one would show that."""
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
            self._ask_again(room)
            self.work_soon(room)

    def own_counts(self, room: PresentRoom | None) -> Counts:
        """Return the counts of this node, for another node."""
        if room is None:
            return Counts(next(self._numbers), {}, {})
        now = trio.current_time()
        ages = {user_id: now - time for user_id, time in room.since.items()}
        return Counts(next(self._numbers), dict(room.table.own), ages)

    def announce_all(self) -> None:
        """Publish all counts again: other nodes may have taken this one for gone."""
        for room in self._host.rooms():
            room.shared.dirty.update(room.table.own)
            self.work_soon(room)

    def meet(self, node: NodeId) -> None:
        """Ask a live node for its counts, if they were forgotten: it was not gone after all."""
        if node in self._forgotten:
            self._forgotten.remove(node)
            for room in self._host.rooms():
                if room.shared.is_listening:
                    room.shared.asked.setdefault(node, {})
                    self.work_soon(room)

    def forget(self, node: NodeId) -> None:
        """Forget the counts of a node that is gone."""
        self._forgotten.add(node)
        for room in self._host.rooms():
            room.shared.numbers.pop(node, None)
            room.shared.asked.pop(node, None)
            self._host.note(room, room.table.others.pop(node, {}))
            self._settle(room)

    async def totals(self, name: str, room: PresentRoom | None) -> dict[UserId, int]:
        """Return the number of connections of each user in a room, over all nodes.

        Args:
            name: The room.
            room: What this node knows of it; None if it has no members here.

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
        """Ask all nodes for a room without members at this one."""
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

    # What has to be done for a room, by one task at a time.

    def work_soon(self, room: PresentRoom) -> None:
        """Share a room, if there is something to share."""
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
            return self._ask if shared.asked else None
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
        self._ask_again(room)
        self._settle(room)

    async def _unlisten(self, room: PresentRoom) -> None:
        shared = room.shared
        shared.is_listening = shared.is_settled = False
        shared.asked.clear()
        shared.numbers.clear()
        room.table = PresenceTable()  # without members, its users are those of other nodes
        try:
            await self._rooms.unlisten(PREFIX + room.name)
        except BrokerUnavailable:
            return  # nothing is delivered all the same

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

    async def _ask(self, room: PresentRoom) -> None:
        asked = room.shared.asked

        async def ask(node: NodeId) -> None:
            sent = trio.current_time()
            try:
                counts = await self._peers.ask(node, room.name)
            except BrokerUnavailable:
                return
            if node in asked:  # otherwise it has gone meanwhile
                now = trio.current_time()
                later = asked.pop(node)
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
            for node in list(asked):
                nursery.start_soon(ask, node)
        if asked:
            raise BrokerUnavailable("a node did not answer")

    def _ask_again(self, room: PresentRoom) -> None:
        for node in self._peers.live():
            room.shared.asked.setdefault(node, {})

    def _settle(self, room: PresentRoom) -> None:
        """Note that the counts of all nodes are known, if they are."""
        if room.shared.is_current:
            room.shared.notify()
            if not room.shared.is_settled:
                room.shared.is_settled = True
                self._host.settle(room)

    def _deliver(self, room: PresentRoom, delivery: Delivery) -> None:
        """Take an event with counts."""
        shared, before = room.shared, room.shared.position
        if before is None or before[0] != delivery.epoch or before[1] < delivery.offset:
            shared.position = (delivery.epoch, delivery.offset)
            if before is not None and before != (delivery.epoch, delivery.offset - 1):
                self._ask_again(room)
                self.work_soon(room)
        message: JsonObject = orjson.loads(delivery.data)
        node, number, users = NodeId(message["node"]), message["number"], message["users"]
        if node == self._peers.node:
            return
        later = shared.asked.get(node)
        if later is not None:
            later.update({user_id: (number, users[user_id]) for user_id in users})
        elif number > shared.numbers.get(node, 0):
            if not shared.is_settled:
                for user_id in users:
                    _find(room, user_id, trio.current_time())
            room.table.update(node, users)
            self._host.note(room, users)


def _find(room: PresentRoom, user_id: UserId, time: float) -> None:
    """Note when a user of another node came, before this node knows all nodes."""
    room.found[user_id] = min(time, room.found.get(user_id, time))
