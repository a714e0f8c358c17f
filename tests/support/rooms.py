"""The rooms of several nodes on one broker in memory, and members without a connection.

async with open_rooms(nodes=2) as (one, two):
    member = one.member("alice")
    await member.join("news")
    await two.say("news", "hello")
    await settled()
    assert member.contents() == ["hello"]
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import orjson
import trio
from attrs import define, field
from trio.testing import wait_all_tasks_blocked

from netra_trio.broker.base import Delivery, History, HistoryLimits
from netra_trio.broker.memory import MemoryBroker, MemoryServer
from netra_trio.errors import BrokerUnavailable
from netra_trio.ids import SessionId, ThreadId, UserId, new_node_id
from netra_trio.rooms.event import pack
from netra_trio.rooms.feed import RoomFeed
from netra_trio.rooms.permission import PermissionCheck
from netra_trio.rooms.publisher import Publisher
from netra_trio.rooms.rooms import Rooms
from netra_trio.telemetry.metrics import Metrics

Payload = dict[str, Any]


async def anyone(_user: str, _room: str, _action: str) -> bool:
    """Allow everything."""
    return True


async def no_room(_room: str) -> tuple[UserId, ThreadId] | None:
    """Find no thread."""
    return None


async def settled() -> None:
    """Wait until everything that was published is delivered."""
    await wait_all_tasks_blocked()


@define(eq=False)
class FaultyBroker(MemoryBroker):
    """A broker that loses deliveries, and does not answer.

    Attributes:
        lost: How many of the next deliveries are lost.
        is_up: Whether it answers.
        histories: How often a history was read.
        before_answer: Called before each history is answered.
    """

    lost: int = 0
    is_up: bool = True
    histories: int = 0
    before_answer: Callable[[], Awaitable[object]] | None = None

    async def receive(self) -> Sequence[Delivery]:
        while True:
            deliveries = await super().receive()
            lost = min(self.lost, len(deliveries))
            self.lost -= lost
            if deliveries[lost:]:
                return deliveries[lost:]

    async def subscribe(self, room: str) -> History:
        self._check()
        return await super().subscribe(room)

    async def unsubscribe(self, room: str) -> None:
        self._check()
        await super().unsubscribe(room)

    async def history(self, room: str, *, epoch: str, after: int) -> History:
        self.histories += 1
        self._check()
        history = await super().history(room, epoch=epoch, after=after)
        if self.before_answer is not None:
            await self.before_answer()
        return history

    def _check(self) -> None:
        if not self.is_up:
            raise BrokerUnavailable("down")


@define(eq=False)
class RoomsNode:
    """The rooms of one node.

    Attributes:
        broker: Its broker; the one in memory is a `FaultyBroker`.
        metrics: Of the node.
        rooms: Its rooms.
        publisher: Publishes at this node.
    """

    broker: Any
    limits: HistoryLimits = field(factory=HistoryLimits)
    may: PermissionCheck | None = anyone
    metrics: Metrics = field(factory=Metrics)
    rooms: Rooms = field(init=False)
    publisher: Publisher = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.rooms = Rooms(
            self.broker,
            no_room,
            limits=self.limits,
            may=self.may,
            metrics=self.metrics,
            wall_clock=trio.current_time,
        )
        self.publisher = Publisher(self.broker, self.limits, trio.current_time)

    @property
    def server(self) -> MemoryServer:
        """The server that the nodes in memory share."""
        server: MemoryServer = self.broker._server
        return server

    def member(self, user: str = "alice", session: str | None = None) -> "Member":
        """Return a member without a connection."""
        return Member(self, user, session or f"session of {user}")

    async def say(self, room: str, *contents: Any) -> list[int]:
        """Publish messages; return their offsets."""
        texts = [content if isinstance(content, dict) else str(content) for content in contents]
        return [(await self.publisher.publish(room, text)).offset for text in texts]

    async def emit(self, room: str, run: str, *texts: str, session: str | None = None) -> list[int]:
        """Publish deltas of a run; return their offsets."""
        owner = None if session is None else SessionId(session)
        offsets = []
        for text in texts:
            payload = {"run_id": run, "content": text}
            data = pack("partial_result", payload, timestamp=0.0, session_id=owner)
            published = await self.broker.publish(room, data, limits=self.limits)
            offsets.append(published.offset)
        return offsets


@define(eq=False)
class Member:
    """A client of one node: it reads on request, and checks its frames.

    Attributes:
        node: The node.
        feed: Its feed.
        positions: By room: the epoch and the newest offset that it has, or that is missing.
        frames: All frames that it has read.
        wakes: How often its writer was woken.
    """

    node: RoomsNode
    user: str
    session: str
    feed: RoomFeed = field(init=False)
    positions: dict[str, tuple[str | None, int]] = field(factory=dict)
    frames: list[Payload] = field(factory=list)
    wakes: int = 0

    def __attrs_post_init__(self) -> None:
        self.connect(self.node)

    def connect(self, node: RoomsNode) -> None:
        """Connect to a node, in place of the last connection."""
        self.node = node
        user, session = UserId(self.user), SessionId(self.session)
        self.feed = node.rooms.open_feed(user, session, wake=self._wake)

    def _wake(self) -> None:
        self.wakes += 1

    def cut(self) -> None:
        """End its connection, with everything that it has not read."""
        self.feed.close()

    async def join(self, room: str = "news", **options: Any) -> Payload:
        """Join a room, reading meanwhile; return the payload of the reply."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read_always)
            await self.node.rooms.join(self.feed, room, **options)
            nursery.cancel_scope.cancel()
        joined = next(
            frame["payload"]
            for frame in reversed([*self.frames, *self.read()])
            if frame["type"] == "room_joined"
        )
        assert joined["room"] == room
        return dict(joined)

    async def rejoin(self, room: str = "news") -> Payload:
        """Join a room with what it has."""
        epoch, offset = self.positions[room]
        return await self.join(room, after=offset, epoch=epoch)

    async def _read_always(self) -> None:
        while True:
            self.read()
            await trio.sleep(0.001)

    def read(self, *, max_bytes: int = 1 << 30, lags: bool = False) -> list[Payload]:
        """Read the next frames, and check that nothing is lost in silence or doubled."""
        frames: list[Payload] = []
        while self.feed.has_pending:
            taken = self.feed.take(max_bytes=max_bytes, lags=lags)
            frames += [orjson.loads(bytes(frame)) for frame in taken]
            if max_bytes < 1 << 30:
                break
        for frame in frames:
            self._check(frame["type"], frame["payload"])
        self.frames += frames
        return frames

    def _check(self, kind: str, payload: Payload) -> None:
        room = payload["room"]
        epoch: str | None
        epoch, offset = self.positions.get(room, ("", 0))
        if kind == "room_joined":
            if payload["verdict"] == "exact":
                assert offset == payload["offset"] or room not in self.positions
            self.positions[room] = (payload["epoch"], payload["offset"])
        elif kind == "room_event":
            first: int = payload.get("offset_from") or payload["offset"]
            if epoch is None:  # the numbers have started again
                epoch = payload["epoch"]
            assert epoch == payload["epoch"]
            number: int = payload["offset"]
            assert offset < first <= number, (payload, offset)
            self.positions[room] = (epoch, payload["offset"])
        elif kind == "room_gap":
            if payload["from"] == 1 and offset > 0:
                self.positions[room] = (None, payload["to"])
            else:
                assert payload["from"] > offset, (payload, offset)
                assert payload["to"] >= payload["from"]
                self.positions[room] = (epoch, payload["to"])

    def events(self, room: str = "news") -> list[Payload]:
        """Return the payloads of all events that it has read, after reading what there is."""
        self.read()
        return [
            frame["payload"]
            for frame in self.frames
            if frame["type"] == "room_event" and frame["payload"]["room"] == room
        ]

    def contents(self, room: str = "news") -> list[Any]:
        """Return the contents of all events that it has read, after reading what there is."""
        return [each["event"]["payload"]["content"] for each in self.events(room)]

    def offsets(self, room: str = "news") -> list[int]:
        """Return the offsets of all events that it has read, after reading what there is."""
        return [each["offset"] for each in self.events(room)]

    def gaps(self, room: str = "news") -> list[tuple[int, int]]:
        """Return all gaps that it has read, after reading what there is."""
        self.read()
        return [
            (frame["payload"]["from"], frame["payload"]["to"])
            for frame in self.frames
            if frame["type"] == "room_gap" and frame["payload"]["room"] == room
        ]

    def missing(self, room: str = "news") -> set[int]:
        """Return the offsets that are missing by a `room_gap`."""
        return {offset for first, last in self.gaps(room) for offset in range(first, last + 1)}


@asynccontextmanager
async def open_rooms(
    nodes: int = 1, *, limits: HistoryLimits | None = None, may: PermissionCheck | None = anyone
) -> AsyncIterator[list[RoomsNode]]:
    """Open the rooms of some nodes."""
    server = MemoryServer()
    async with trio.open_nursery() as nursery:
        brokers = [FaultyBroker(new_node_id(), server) for _ in range(nodes)]
        opened = [RoomsNode(broker, limits or HistoryLimits(), may) for broker in brokers]
        for node in opened:
            nursery.start_soon(node.rooms.run)
        await wait_all_tasks_blocked()
        yield opened
        nursery.cancel_scope.cancel()
