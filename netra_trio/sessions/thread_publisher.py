"""Publishes the events of the runs of one watched thread to its room, in order.

    publisher = ThreadPublisher(room, broker, node=node, …)
    publisher.add(b"…")
    publisher.add_delta(run_id, "Hel", 3, session_id)
    place = await publisher.flush()         # of the newest published event

A run never waits for it. While an event is being published, the following deltas are merged. Beyond
its bounds, the waiting events are dropped, and the members of the room get a `room_gap`.
"""

from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

import structlog
import trio
from attrs import define, field, frozen

from netra_trio.broker.base import Broker, HistoryLimits
from netra_trio.errors import BrokerUnavailable
from netra_trio.ids import NodeId, RunId, SessionId
from netra_trio.protocol.messages import PartialResult
from netra_trio.rooms.event import pack, pack_missing

WAITING_EVENTS, WAITING_BYTES = 1000, 1024 * 1024  # of one thread: docs/protocol.md, Limits
MERGED_BYTES = 64 * 1024  # of the text of merged deltas
RETRY_SECONDS = 0.25  # while the broker does not answer

_log = structlog.get_logger(__name__)


@frozen
class Place:
    """The position of an event in its room; the offset is 0 before the first event."""

    epoch: str = ""
    offset: int = 0


@define(eq=False)
class _Event:
    """A waiting event, encoded."""

    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    def encode(self) -> bytes:
        return self.data


@define(eq=False)
class _Deltas:
    """Waiting adjacent deltas of one run."""

    run_id: RunId
    session_id: SessionId | None
    timestamp: float
    pieces: list[str]
    size: int

    def encode(self) -> bytes:
        payload = {"run_id": self.run_id, "content": "".join(self.pieces)}
        return pack(
            PartialResult.TYPE, payload, timestamp=self.timestamp, session_id=self.session_id
        )


@define(eq=False)
class _Barrier:
    """A call of `flush`, which waits for the events before it."""

    place: Place = field(factory=Place)
    passed: trio.Event = field(factory=trio.Event)


class ThreadPublisher:
    """Publishes the events of the runs of one thread at this node.

    Args:
        room: The room of the thread.
        broker: The broker.
        node: This node.
        limits: How much of the room is kept.
        wall_clock: Returns Unix seconds.
        start_soon: Starts a task of the node.
    """

    __slots__ = (
        "_broker",
        "_context",
        "_is_closed",
        "_is_lossy",
        "_limits",
        "_node",
        "_place",
        "_queue",
        "_room",
        "_running",
        "_size",
        "_start_soon",
        "_wall_clock",
    )

    def __init__(
        self,
        room: str,
        broker: Broker,
        *,
        node: NodeId,
        limits: HistoryLimits,
        wall_clock: Callable[[], float],
        start_soon: Callable[..., Any],
    ) -> None:
        self._room = room
        self._broker = broker
        self._node = node
        self._limits = limits
        self._wall_clock = wall_clock
        self._start_soon = start_soon
        self._context = (
            copy_context()
        )  # that of the node, instead of that of the run that adds an event
        self._queue: deque[_Event | _Deltas | _Barrier] = deque()
        self._size = 0
        self._is_lossy = False  # whether a `room_gap` has to precede the waiting events
        self._running: trio.Event | None = None  # the end of the task that publishes
        self._is_closed = False
        self._place = Place()

    @property
    def is_idle(self) -> bool:
        """Whether everything is published."""
        return self._running is None

    def add(self, kind: str, payload: Any, session_id: SessionId | None) -> None:
        """Publish an event other than a delta; see `rooms.event.pack` for the arguments."""
        timestamp = self._wall_clock()
        self._put(_Event(pack(kind, payload, timestamp=timestamp, session_id=session_id)))

    def add_delta(self, run_id: RunId, text: str, size: int, session_id: SessionId | None) -> None:
        """Publish a delta of `size` bytes; it may be merged with the one before."""
        last = self._queue[-1] if self._queue else None
        if (
            type(last) is _Deltas
            and last.run_id == run_id
            and last.session_id == session_id
            and last.size + size <= MERGED_BYTES
            and self._size + size <= WAITING_BYTES
        ):
            last.pieces.append(text)
            last.size += size
            self._size += size
        else:
            self._put(_Deltas(run_id, session_id, self._wall_clock(), [text], size))

    def add_missing(self) -> None:
        """Publish that events may be missing here."""
        self._drop()
        self._start()

    async def flush(self) -> Place:
        """Wait until all events that were added before are published; cancelling is safe.

        Returns:
            The position of the newest published event; `Place()` if there is none.
        """
        if self.is_idle:
            await trio.lowlevel.checkpoint()
            return self._place
        barrier = _Barrier()
        self._queue.append(barrier)
        await barrier.passed.wait()
        return barrier.place

    async def finish(self) -> None:
        """Publish all waiting events, also if the tasks of the node are cancelled; at its end."""
        while self._running is not None:
            await self._running.wait()
        self._running = trio.Event()
        await self._publish_all()

    def close(self) -> None:
        """Publish the waiting events without retries, because the thread is no longer watched."""
        self._is_closed = True

    def reopen(self) -> None:
        """Continue after `close`, because the thread is watched again."""
        self._is_closed = False

    def _put(self, entry: _Event | _Deltas) -> None:
        if len(self._queue) >= WAITING_EVENTS or self._size + entry.size > WAITING_BYTES:
            self._drop()
        self._queue.append(entry)
        self._size += entry.size
        self._start()

    def _drop(self) -> None:
        """Drop all waiting events; the calls of `flush` stay."""
        barriers = [entry for entry in self._queue if type(entry) is _Barrier]
        self._queue.clear()
        self._queue.extend(barriers)
        self._size = 0
        self._is_lossy = True

    def _start(self) -> None:
        if self._running is None:
            self._running = trio.Event()
            self._context.run(self._start_soon, self._publish_all)

    async def _publish_all(self) -> None:
        """Publish until no event waits."""
        try:
            while self._queue or self._is_lossy:
                await self._publish_next()
        finally:
            running, self._running = self._running, None
            if running is not None:
                running.set()

    async def _publish_next(self) -> None:
        """Publish the next event."""
        if self._is_lossy:
            self._is_lossy = False
            data = pack_missing(timestamp=self._wall_clock(), node=self._node)
        else:
            entry = self._queue.popleft()
            if isinstance(entry, _Barrier):
                entry.place = self._place
                entry.passed.set()
                return
            self._size -= entry.size
            data = entry.encode()
        if not await self._publish(data):
            if self._is_closed:
                self._drop()
                self._is_lossy = False
            else:
                await trio.sleep(RETRY_SECONDS)

    async def _publish(self, data: bytes) -> bool:
        """Publish an event; if that fails, it may have been published all the same."""
        try:
            published = await self._broker.publish(self._room, data, limits=self._limits)
        except BrokerUnavailable:
            self._is_lossy = True
        except Exception:
            _log.exception("publish_failed", room=self._room)
            self._is_lossy = True
        except trio.Cancelled:
            self._is_lossy = True
            raise
        else:
            self._place = Place(published.epoch, published.offset)
            return True
        return False
