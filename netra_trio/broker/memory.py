"""The broker in memory: for one process, and for several nodes in one process in tests.

    server = MemoryServer()
    one, two = MemoryBackend(new_node_id(), server), MemoryBackend(new_node_id(), server)

The server has what Valkey has in the other implementation, and nothing waits for anything but new
messages. Times are seconds of Trio's clock.
"""

import secrets
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Generator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio
from attrs import Factory, define, evolve, field, frozen

from netra_trio.broker.base import (
    DELIVERIES,
    EMPTY_ROOM_SECONDS,
    INBOX_MAIL,
    INTERNAL,
    KEY_SECONDS,
    LEASE_SECONDS,
    ROOM_SECONDS,
    Appended,
    Batch,
    Delivery,
    Found,
    History,
    HistoryLimits,
    Mail,
    Published,
    SessionRecord,
    check_mail,
)
from netra_trio.broker.memory_limits import LimitsState, MemoryLimits
from netra_trio.broker.memory_threads import MemoryThreads, ThreadsState
from netra_trio.broker.memory_usage import MemoryUsage, UsageState
from netra_trio.ids import NodeId, SessionId, new_node_id

SWEPT = 2  # other rooms that each use of a room examines; a use makes one room at most


@define(eq=False)
class _Session:
    record: SessionRecord
    until: float
    batches: list[Batch]


@define(eq=False)
class _Room:
    epoch: str = field(factory=lambda: secrets.token_urlsafe(9))
    offset: int = 0
    used: float = 0.0
    seconds: float = 0.0  # for which events are kept
    events: deque[tuple[float, Delivery]] = field(factory=deque)
    keys: OrderedDict[str, tuple[float, Published]] = field(factory=OrderedDict)


@define(eq=False)
class _Inbox:
    """Messages or deliveries that wait for a node."""

    waiting: deque[Any]
    arrived: trio.Event = field(factory=trio.Event)

    def put(self, items: Sequence[Any]) -> None:
        self.waiting.extend(items)
        self.arrived.set()

    async def take(self) -> list[Any]:
        while not self.waiting:
            self.arrived = trio.Event()
            await self.arrived.wait()
        await trio.lowlevel.checkpoint()
        taken = list(self.waiting)
        self.waiting.clear()
        return taken


@frozen
class Lease:
    """A lease of a node.

    Attributes:
        until: Until when it is held.
        number: Of its renewal.
    """

    until: float
    is_draining: bool
    number: int


class MemoryServer:
    """The shared state of several nodes."""

    def __init__(self) -> None:
        self.leases: dict[NodeId, Lease] = {}
        self.inboxes: dict[NodeId, _Inbox] = {}
        self.sessions: dict[SessionId, _Session] = {}
        self.rooms: OrderedDict[str, _Room] = OrderedDict()
        self.subscribers: dict[str, dict[NodeId, _Inbox]] = {}
        self.threads = ThreadsState(self.is_live)
        self.limits = LimitsState()
        self.usage = UsageState()

    def clear(self) -> None:
        """Lose everything but the subscriptions, as a server that restarts empty."""
        self.restore({}, {})
        self.rooms.clear()
        self.threads.clear()
        self.limits.clear()
        self.usage.clear()

    def restore(
        self,
        leases: Mapping[NodeId, Lease],
        sessions: Mapping[SessionId, tuple[SessionRecord, float, Sequence[Batch]]],
    ) -> None:
        """Have these leases and sessions, as a server after a fail-over to older data.

        Args:
            leases: Of each node.
            sessions: Of each session its record, until when it is kept, and its batches.
        """
        self.leases = dict(leases)
        self.sessions = {
            session_id: _Session(record, until, list(batches))
            for session_id, (record, until, batches) in sessions.items()
        }
        for inbox in self.inboxes.values():  # a node that waits for messages keeps its inbox
            inbox.waiting.clear()

    def is_live(self, node: NodeId | None) -> bool:
        """Whether a node holds its lease."""
        lease = None if node is None else self.leases.get(node)
        return lease is not None and lease.until > trio.current_time()

    def session(self, session_id: SessionId) -> _Session | None:
        """Return a session that is still kept."""
        session = self.sessions.get(session_id)
        if session is not None and session.until <= trio.current_time():
            del self.sessions[session_id]
            return None
        return session

    def room(self, name: str) -> _Room:
        """Return a room, for a use of it; it is created if it does not exist.

        A room without subscribers is removed `ROOM_SECONDS` after its last use, or after
        `EMPTY_ROOM_SECONDS` if it never had an event. Expired events and keys of a room are removed
        at a later use of any room.
        """
        now = trio.current_time()
        room = self.rooms.get(name)
        if room is not None and self._is_expired(name, room, now):
            room = None
        if room is None:
            room = self.rooms[name] = _Room()
        room.used = now
        for _ in range(min(SWEPT, len(self.rooms))):
            other = next(iter(self.rooms))
            if self._is_expired(other, self.rooms[other], now):
                del self.rooms[other]
            else:
                self.rooms.move_to_end(other)
        return room

    def _is_expired(self, name: str, room: _Room, now: float) -> bool:
        """Drop expired events and keys of a room; return whether the room itself has expired."""
        _trim(room, now)
        is_internal = name.startswith(INTERNAL)
        is_kept = (room.events and not is_internal) or room.keys or name in self.subscribers
        seconds = ROOM_SECONDS if room.offset and not is_internal else EMPTY_ROOM_SECONDS
        return not is_kept and room.used + seconds <= now


@define(eq=False)
class MemoryDirectory:
    """The `Directory` of one node."""

    node: NodeId
    _server: MemoryServer
    _renewals: int = 0

    async def renew(self, *, draining: bool = False) -> bool:
        """Take or renew the lease of this node; return whether it held it."""
        await trio.lowlevel.checkpoint()
        leases, known = self._server.leases, self._server.leases.get(self.node)
        was_held = False
        if known is not None and known.until > trio.current_time():
            was_held = known.number == self._renewals  # otherwise the server has older data
        self._renewals += 1
        leases[self.node] = Lease(trio.current_time() + LEASE_SECONDS, draining, self._renewals)
        return was_held

    async def resign(self, node: NodeId | None = None) -> None:
        """Delete the lease of this node, or of another one."""
        await trio.lowlevel.checkpoint()
        self._server.leases.pop(node or self.node, None)
        self._server.inboxes.pop(node or self.node, None)

    async def nodes(self) -> Mapping[NodeId, bool]:
        """Return the live nodes; for each, whether it drains."""
        await trio.lowlevel.checkpoint()
        now = trio.current_time()
        leases = self._server.leases.items()
        return {node: lease.is_draining for node, lease in leases if lease.until > now}

    async def post(self, node: NodeId, mail: Sequence[Mail]) -> None:
        """Put messages into the inbox of a node."""
        check_mail(mail)
        await trio.lowlevel.checkpoint()
        self._inbox(node).put(mail)

    async def receive(self) -> Sequence[Mail]:
        """Wait for messages to this node."""
        return await self._inbox(self.node).take()

    def _inbox(self, node: NodeId) -> _Inbox:
        inboxes = self._server.inboxes
        if node not in inboxes:
            inboxes[node] = _Inbox(deque(maxlen=INBOX_MAIL))
        return inboxes[node]

    async def find(self, session_id: SessionId) -> Found:
        """Look a session up."""
        await trio.lowlevel.checkpoint()
        session = self._server.session(session_id)
        record = None if session is None else session.record
        owner_is_live = record is not None and self._server.is_live(record.owner)
        return Found(record, owner_is_live, self._server.is_live(self.node))

    def append(self, batches: Sequence[Batch]) -> Awaitable[Sequence[Appended]]:
        """Append batches to the logs of sessions that this node owns."""
        return _Completed([self._append(batch) for batch in batches])

    def _append(self, batch: Batch) -> Appended:
        record, known = batch.record, self._server.session(batch.record.session_id)
        until = trio.current_time() + batch.seconds
        if known is not None:
            stored = known.record
            is_other = stored.epoch == record.epoch and stored.owner != self.node
            if is_other or stored.epoch > record.epoch:
                return Appended.FENCED
        if batch.previous is None:
            self._server.sessions[record.session_id] = _Session(record, until, [batch])
            return Appended.STORED
        if known is None or known.record.epoch != record.epoch:
            return Appended.STALE
        place = (batch.previous, batch.last)
        if any((each.previous, each.last) == place for each in known.batches):
            return Appended.STORED
        if known.batches[-1].last != batch.previous:
            return Appended.STALE
        known.until = until
        known.batches.append(batch)
        return Appended.STORED

    async def read(self, session_id: SessionId) -> Sequence[bytes]:
        """Return the batches of the log of a session."""
        await trio.lowlevel.checkpoint()
        session = self._server.session(session_id)
        return [] if session is None else [batch.data for batch in session.batches]

    async def take(self, session_id: SessionId, *, owner: NodeId | None, epoch: int) -> bool:
        """Make this node the owner of a session, with the next epoch."""
        await trio.lowlevel.checkpoint()
        session = self._server.session(session_id)
        if session is None or (session.record.owner, session.record.epoch) != (owner, epoch):
            return False
        session.record = evolve(session.record, owner=self.node, epoch=epoch + 1)
        return True

    async def release(
        self,
        record: SessionRecord,
        *,
        to: NodeId | None,
        lease: NodeId,
        waiting: bytes = b"",
        seconds: float,
    ) -> bool:
        """Give a session of this node to another node, or to any node that asks for it."""
        await trio.lowlevel.checkpoint()
        session = self._owned(record)
        if session is None:
            return False
        session.record = evolve(
            session.record, owner=to, epoch=record.epoch + 1, lease=lease, waiting=waiting
        )
        session.until = trio.current_time() + seconds
        return True

    async def keep(self, sessions: Mapping[SessionId, float]) -> None:
        """Keep sessions for that many seconds from now."""
        await trio.lowlevel.checkpoint()
        for session_id, seconds in sessions.items():
            session = self._server.session(session_id)
            if session is not None and session.record.owner == self.node:
                session.until = trio.current_time() + seconds

    async def drop(self, records: Sequence[SessionRecord]) -> None:
        """Forget sessions that have ended."""
        await trio.lowlevel.checkpoint()
        for record in records:
            if self._owned(record) is not None:
                del self._server.sessions[record.session_id]

    def _owned(self, record: SessionRecord) -> _Session | None:
        session = self._server.session(record.session_id)
        if session is None:
            return None
        known = session.record
        return session if (known.owner, known.epoch) == (self.node, record.epoch) else None


@define(eq=False)
class MemoryBroker:
    """The `Broker` of one node."""

    node: NodeId
    _server: MemoryServer
    _deliveries: _Inbox = field(factory=lambda: _Inbox(deque(maxlen=DELIVERIES)))

    async def publish(
        self, room: str, data: bytes, *, limits: HistoryLimits, key: str | None = None
    ) -> Published:
        """Append an event to a room, and deliver it."""
        await trio.lowlevel.checkpoint()
        now, state = trio.current_time(), self._server.room(room)
        state.seconds = limits.seconds
        _trim(state, now)
        if key is not None and key in state.keys:
            published = state.keys[key][1]
            return evolve(published, is_duplicate=True)
        state.offset += 1
        delivery = Delivery(room, state.epoch, state.offset, data)
        published = Published(state.epoch, state.offset)
        state.events.append((now, delivery))
        _trim(state, now)
        while len(state.events) > limits.events:
            state.events.popleft()
        if key is not None:
            state.keys[key] = (now, published)
        for inbox in self._server.subscribers.get(room, {}).values():
            inbox.put([delivery])
        return published

    async def forget(self, room: str) -> None:
        """Drop the events of a room and their keys; its next event is the first of a new epoch."""
        await trio.lowlevel.checkpoint()
        self._server.rooms.pop(room, None)

    async def subscribe(self, room: str) -> History:
        """Receive the events of a room from now on."""
        await trio.lowlevel.checkpoint()
        self._server.subscribers.setdefault(room, {})[self.node] = self._deliveries
        state = self._server.room(room)
        return History(state.epoch, state.offset, (), is_exact=True)

    async def unsubscribe(self, room: str) -> None:
        """Receive the events of a room no longer."""
        await trio.lowlevel.checkpoint()
        subscribers = self._server.subscribers.get(room, {})
        subscribers.pop(self.node, None)
        if not subscribers:
            self._server.subscribers.pop(room, None)

    async def history(self, room: str, *, epoch: str, after: int) -> History:
        """Return the events of a room after an offset."""
        await trio.lowlevel.checkpoint()
        state = self._server.room(room)
        if epoch != state.epoch or after > state.offset:
            return History(state.epoch, state.offset, (), is_exact=False)
        events = tuple(each for _, each in state.events if each.offset > after)
        is_exact = len(events) == state.offset - after
        return History(state.epoch, state.offset, events, is_exact)

    async def receive(self) -> Sequence[Delivery]:
        """Wait for events of the subscribed rooms."""
        return await self._deliveries.take()


@define(eq=False)
class MemoryBackend:
    """The directory, the broker and the limits of one node, on a server in this process."""

    node: NodeId = field(factory=new_node_id)
    server: MemoryServer = field(factory=MemoryServer)
    directory: MemoryDirectory = field(
        init=False, default=Factory(lambda self: MemoryDirectory(self.node, self.server), True)
    )
    broker: MemoryBroker = field(
        init=False, default=Factory(lambda self: MemoryBroker(self.node, self.server), True)
    )
    threads: MemoryThreads = field(
        init=False,
        default=Factory(lambda self: MemoryThreads(self.node, self.server.threads), True),
    )
    limits: MemoryLimits = field(
        init=False, default=Factory(lambda self: MemoryLimits(self.node, self.server.limits), True)
    )
    usage: MemoryUsage = field(
        init=False, default=Factory(lambda self: MemoryUsage(self.node, self.server.usage), True)
    )

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Hold it open; there is nothing to open."""
        yield

    async def check(self) -> None:
        """Return at once."""
        await trio.lowlevel.checkpoint()

    def statistics(self) -> Mapping[str, float]:
        """Return figures for the metrics."""
        return {"lag": 0.0}


def _trim(room: _Room, now: float) -> None:
    events = room.events
    while events and events[0][0] + room.seconds <= now:
        events.popleft()
    keys = room.keys
    while keys and next(iter(keys.values()))[0] + KEY_SECONDS <= now:
        keys.popitem(last=False)


@frozen
class _Completed:
    """An awaitable answer; unlike a coroutine, it need not be awaited."""

    results: Sequence[Appended]

    def __await__(self) -> Generator[Any, None, Sequence[Appended]]:
        yield from trio.lowlevel.checkpoint().__await__()  # noqa: ASYNC105 - it is awaited here
        return self.results
