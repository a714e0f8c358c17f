"""A room at this node: subscribed while it has members, with one position for all of them.

    async with rooms.used("news") as room:     # subscribed meanwhile
        room.members[membership] = None

The broker delivers the events of a room in order. A jump of the offset shows that deliveries were
lost, and another epoch that the broker has lost the room. Then later deliveries are held until the
history of the room has been read; what the history does not have is a gap for each member.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

import structlog
import trio
from attrs import define, field

from netra_trio.broker.base import DELIVERIES, Broker, Delivery
from netra_trio.errors import BrokerUnavailable
from netra_trio.rooms.event import RoomEvent
from netra_trio.rooms.membership import Membership

REPAIRS = 3  # that fail, before what is missing is given up
REPAIR_SECONDS = 1.0  # between two of them

_log = structlog.get_logger(__name__)


@define(eq=False)
class Room:
    """A room with members at this node.

    Attributes:
        name: Its name.
        epoch: The epoch of its position.
        offset: The newest offset that its members were given.
        members: Its members, and the joins that have not ended.
        uses: The number of tasks that need its subscription.
        lock: Held while it is subscribed or unsubscribed.
        is_subscribed: Whether the broker delivers its events.
    """

    name: str
    _broker: Broker
    _start_soon: Callable[..., Any]
    epoch: str = ""
    offset: int = 0
    members: dict[Membership, None] = field(factory=dict)
    uses: int = 0
    lock: trio.Lock = field(factory=trio.Lock)
    is_subscribed: bool = False
    _held: deque[RoomEvent] | None = field(factory=lambda: deque(maxlen=DELIVERIES))
    _moved: trio.Event | None = None

    @property
    def is_used(self) -> bool:
        """Whether it has members, or tasks that need it."""
        return bool(self.members or self.uses)

    async def subscribe(self) -> None:
        """Subscribe, unless it is subscribed; call with the lock held. Cancelling is safe.

        Raises:
            BrokerUnavailable: If the broker does not answer.
        """
        if not self.is_subscribed:
            position = await self._broker.subscribe(self.name)
            self.epoch, self.offset = position.epoch, position.offset
            self.is_subscribed = True
            self._settle_soon()

    def deliver(self, delivery: Delivery) -> None:
        """Take a delivery of the broker."""
        event = RoomEvent.unpack(delivery)
        if self._held is not None:
            self._held.append(event)
        elif event.epoch == self.epoch and event.offset <= self.offset + 1:
            self._give(event)
        else:
            self._held = deque((event,), DELIVERIES)
            self._settle_soon()

    async def wait_for(self, offset: int) -> None:
        """Wait until its members were given an offset. Cancelling is safe."""
        while self.offset < offset:
            if self._moved is None:
                self._moved = trio.Event()
            await self._moved.wait()

    async def catch_up(self) -> None:
        """Read what its members were not given, and give it to them. Cancelling is safe.

        Raises:
            BrokerUnavailable: If the broker does not answer.
        """
        broker, name, epoch = self._broker, self.name, self.epoch
        history = await broker.history(name, epoch=epoch, after=self.offset)
        if history.epoch != epoch:
            history = await broker.history(name, epoch=history.epoch, after=0)
        for delivery in history.events:
            self._give(RoomEvent.unpack(delivery))
        if history.epoch != self.epoch or history.offset > self.offset:
            self._move(history.epoch, history.offset)
            for member in self.members:
                member.advance(history.epoch, history.offset)

    def _give(self, event: RoomEvent) -> None:
        """Give an event to all members, unless they were given it."""
        if event.epoch == self.epoch and event.offset <= self.offset:
            return
        self._move(event.epoch, event.offset)
        for member in self.members:
            member.deliver(event)

    def _move(self, epoch: str, offset: int) -> None:
        self.epoch, self.offset = epoch, offset
        if self._moved is not None:
            self._moved.set()
            self._moved = None

    def _settle_soon(self) -> None:
        if not self._settle():
            self._start_soon(self._repair)

    def _settle(self) -> bool:
        """Give the held events that continue the position; return whether none is left."""
        held = self._held
        while held:
            event = held[0]
            if event.epoch != self.epoch or event.offset > self.offset + 1:
                return False
            self._give(held.popleft())
        self._held = None
        return True

    async def _repair(self) -> None:
        """Read what is missing before the held events, and give them."""
        failures = 0
        while not self._settle():
            before, has_failed = (self.epoch, self.offset), False
            try:
                await self.catch_up()
            except BrokerUnavailable as unavailable:
                failures += 1
                if failures < REPAIRS:
                    await trio.sleep(REPAIR_SECONDS)
                    continue
                has_failed = True
                _log.warning("room_not_repaired", room=self.name, reason=str(unavailable))
            except Exception:  # an event that is not as it should be: the others go on
                has_failed = True
                _log.exception("room_not_repaired", room=self.name)
            if (self.epoch, self.offset) == before and self._held:
                # The history does not have it: the members note the jump.
                event = self._held.popleft()
                if event.epoch == self.epoch or has_failed:
                    self._give(event)  # otherwise it is one of an epoch before
