"""A room at this node: subscribed while it has members, with one position for all of them.

    room = Room("news", broker, start_soon)
    async with room.lock:
        await room.subscribe()
    room.members[membership] = None

The broker delivers the events of a room in order. A jump of the offset shows that deliveries were
lost; another epoch shows that the broker has lost the room. Then later deliveries are held until
the history of the room has been read. Events that are not in it are a gap for each member.
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

REPAIRS = 3  # that fail, before missing events become a gap
REPAIR_SECONDS = 1.0  # between two repairs

_log = structlog.get_logger(__name__)


@define(eq=False)
class Room:
    """A room with members at this node.

    Attributes:
        name: Its name.
        epoch: The epoch of its position.
        offset: The newest offset that was delivered to its members.
        members: Its members, and the unfinished joins.
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
        """Whether it has members, or tasks that need its subscription."""
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
        """Receive a delivery of the broker."""
        event = RoomEvent.unpack(delivery)
        if self._held is not None:
            self._held.append(event)
        elif event.epoch == self.epoch and event.offset <= self.offset + 1:
            self._deliver_new(event)
        else:
            self._held = deque((event,), DELIVERIES)
            self._settle_soon()

    async def wait_for(self, offset: int) -> None:
        """Wait until an offset was delivered to its members. Cancelling is safe."""
        while self.offset < offset:
            if self._moved is None:
                self._moved = trio.Event()
            await self._moved.wait()

    async def catch_up(self) -> None:
        """Read the history after its position, and deliver it to its members. Cancelling is safe.

        Raises:
            BrokerUnavailable: If the broker does not answer.
        """
        broker, name, epoch = self._broker, self.name, self.epoch
        history = await broker.history(name, epoch=epoch, after=self.offset)
        if history.epoch != epoch:
            history = await broker.history(name, epoch=history.epoch, after=0)
        for delivery in history.events:
            self._deliver_new(RoomEvent.unpack(delivery))
        if history.epoch != self.epoch or history.offset > self.offset:
            self._move(history.epoch, history.offset)
            for member in self.members:
                member.advance(history.epoch, history.offset)

    def _deliver_new(self, event: RoomEvent) -> None:
        """Deliver a new event to all members."""
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
        """Deliver the held events that continue the position; return whether none is left."""
        held = self._held
        while held:
            event = held[0]
            if event.epoch != self.epoch or event.offset > self.offset + 1:
                return False
            self._deliver_new(held.popleft())
        self._held = None
        return True

    async def _repair(self) -> None:
        """Read the missing events before the held ones, and deliver both."""
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
            except Exception:  # a malformed event: the others are still delivered
                has_failed = True
                _log.exception("room_not_repaired", room=self.name)
            if (self.epoch, self.offset) == before and self._held:
                # The history does not have the missing events: the members note a gap.
                event = self._held.popleft()
                if event.epoch == self.epoch or has_failed:
                    self._deliver_new(event)  # otherwise it has an earlier epoch
