"""The broker on Valkey or Redis."""

import secrets
from collections import deque
from collections.abc import Sequence
from typing import Any

import trio
from attrs import define, field

from netra_trio.broker.base import (
    DELIVERIES,
    EMPTY_ROOM_SECONDS,
    INTERNAL,
    KEY_SECONDS,
    ROOM_SECONDS,
    Delivery,
    History,
    HistoryLimits,
    Published,
)
from netra_trio.broker.valkey import keys, scripts
from netra_trio.broker.valkey.calls import Calls, checked, evaluation, milliseconds
from netra_trio.broker.valkey.connection import Command, Connection
from netra_trio.broker.valkey.dialing import Dialer
from netra_trio.broker.valkey.lasting import LastingConnection
from netra_trio.broker.valkey.listening import Listening
from netra_trio.ids import NodeId

CHANNELS = 500  # of one command
ROOMS = 20  # whose missed events are read at once

MESSAGE = b"message"


@define(eq=False)
class ValkeyBroker:
    """The `Broker` of one node, and the listener of its events."""

    node: NodeId
    _calls: Calls
    _database: int
    _dialer: Dialer
    listening: Listening = field(factory=Listening)
    lasting: LastingConnection = field(init=False)
    _rooms: dict[bytes, str] = field(factory=dict)  # by channel
    _seen: dict[str, tuple[str, int]] = field(factory=dict)
    _held: deque[Delivery] | None = None
    _deliveries: deque[Delivery] = field(factory=lambda: deque(maxlen=DELIVERIES))
    _arrived: trio.Event = field(factory=trio.Event)

    def __attrs_post_init__(self) -> None:
        self.lasting = LastingConnection(
            "events", self._dialer, use=self._listen, on_push=self._on_push
        )

    async def publish(
        self, room: str, data: bytes, *, limits: HistoryLimits, key: str | None = None
    ) -> Published:
        """Append an event to a room, and deliver it."""
        epoch, offset, is_duplicate = await self._calls.run(
            scripts.PUBLISH,
            [keys.room(room), keys.events(room), keys.published(room, key or "")],
            [
                secrets.token_urlsafe(9),
                data,
                limits.events,
                milliseconds(limits.seconds),
                0 if key is None else milliseconds(KEY_SECONDS),
                milliseconds(ROOM_SECONDS),
                keys.room_channel(self._database, room),
            ],
            is_bulk=True,
        )
        return Published(epoch.decode(), offset, bool(is_duplicate))

    async def forget(self, room: str) -> None:
        """Drop the events of a room; its next event is the first of a new epoch."""
        await self._calls.run_all([("DEL", keys.room(room), keys.events(room))])

    async def subscribe(self, room: str) -> History:
        """Receive the events of a room from now on."""
        channel = keys.room_channel(self._database, room)
        self._rooms[channel.encode()] = room
        await self._command("SUBSCRIBE", channel)
        history = await self.history(room, epoch="", after=0)
        epoch, offset = self._seen.get(room, ("", 0))
        if epoch != history.epoch or offset < history.offset:
            self._seen[room] = (history.epoch, history.offset)
        return History(history.epoch, history.offset, (), is_exact=True)

    async def unsubscribe(self, room: str) -> None:
        """Receive the events of a room no longer."""
        channel = keys.room_channel(self._database, room)
        self._rooms.pop(channel.encode(), None)
        _, offset = self._seen.pop(room, ("", 0))
        await self._command("UNSUBSCRIBE", channel)
        is_internal = room.startswith(INTERNAL)
        if is_internal or not offset:
            await self._calls.run(
                scripts.ABANDON,
                [keys.room(room), keys.events(room)],
                [channel, milliseconds(EMPTY_ROOM_SECONDS), int(is_internal)],
            )

    async def _command(self, name: str, channel: str) -> None:
        for value in await self.lasting.subscribe((name, channel)):
            checked(value)

    async def history(self, room: str, *, epoch: str, after: int) -> History:
        """Return the events of a room after an offset."""
        command = self._history_command(room, epoch, after)
        return _history(room, epoch, after, (await self._calls.run_all([command]))[0])

    def _history_command(self, room: str, epoch: str, after: int) -> Command:
        return evaluation(
            scripts.HISTORY,
            [keys.room(room), keys.events(room)],
            [secrets.token_urlsafe(9), milliseconds(ROOM_SECONDS), epoch, after],
        )

    async def receive(self) -> Sequence[Delivery]:
        """Wait for events of the subscribed rooms."""
        await trio.lowlevel.checkpoint()
        while not self._deliveries:
            self._arrived = trio.Event()
            await self._arrived.wait()
        taken = list(self._deliveries)
        self._deliveries.clear()
        return taken

    # The listener.

    async def _listen(self, connection: Connection) -> None:
        """Subscribe to all rooms again, deliver what was missed, and hold the connection."""
        # What arrives now waits until what was missed has been delivered.
        self._held = deque(maxlen=DELIVERIES)
        channels = [keys.node_channel(self._database, self.node).encode(), *self._rooms]
        for at in range(0, len(channels), CHANNELS):
            command: list[bytes | str | int] = ["SUBSCRIBE", *channels[at : at + CHANNELS]]
            for value in await connection.subscribe(command):
                checked(value)
        seen = [(room, *place) for room, place in self._seen.items()]
        for at in range(0, len(seen), ROOMS):
            await self._catch_up(seen[at : at + ROOMS])
        held, self._held = self._held, None
        for delivery in held:
            self._deliver(delivery)
        await trio.sleep_forever()

    async def _catch_up(self, seen: Sequence[tuple[str, str, int]]) -> None:
        """Deliver the events after these places: each is a room, its epoch, and an offset."""
        values = await self._calls.run_all([self._history_command(*each) for each in seen])
        for each, value in zip(seen, values, strict=True):
            missed = _history(*each, value)
            if missed.epoch == each[1] and missed.offset < each[2]:
                # A fail-over to older data: the next events must not reuse offsets.
                await self.forget(each[0])
            if missed.epoch != each[1]:  # all events of the new epoch are missed ones
                missed = await self.history(each[0], epoch=missed.epoch, after=0)
            for delivery in missed.events:
                self._deliver(delivery)

    def _on_push(self, value: list[Any]) -> None:
        """Take a push message."""
        kind, channel, payload, *_ = (*value, b"")
        if kind != MESSAGE:
            return
        self.listening.note_received()
        room = self._rooms.get(channel)
        if room is None:  # a probe, or an event of a room that was left
            return
        epoch, offset, data = payload.split(b" ", 2)
        delivery = Delivery(room, epoch.decode(), int(offset), data)
        if self._held is not None:
            self._held.append(delivery)
        else:
            self._deliver(delivery)

    def _deliver(self, delivery: Delivery) -> None:
        epoch, offset = self._seen.get(delivery.room, ("", 0))
        if epoch == delivery.epoch and offset >= delivery.offset:
            return  # it was among those that were missed
        self._seen[delivery.room] = (delivery.epoch, delivery.offset)
        self._deliveries.append(delivery)
        self._arrived.set()


def _history(room: str, epoch: str, after: int, value: Any) -> History:
    """Return what the script has found after an offset of an epoch."""
    current, offset, entries = value[0].decode(), value[1], value[2]
    events = tuple(
        Delivery(room, current, int(entry_id.partition(b"-")[2]), pairs[1])
        for entry_id, pairs in reversed(entries)
    )
    is_exact = epoch == current and len(events) == offset - after
    return History(current, offset, events, is_exact)
