"""The live page of a node: it publishes its part to the room while any node has a member in it.

    view = LiveView(parts, samples, broker, …)
    rooms.observers.append(view)
    nursery.start_soon(view.run)

A node with members announces this to all other nodes, at each join and every `ANNOUNCE_SECONDS`.
Without a known member a node computes and publishes nothing.
"""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

import orjson
import trio

from netra_trio.broker.base import Broker, HistoryLimits
from netra_trio.cluster.mailbox import Mailbox
from netra_trio.cluster.membership import Membership as Nodes
from netra_trio.errors import BrokerUnavailable
from netra_trio.ids import NodeId
from netra_trio.node.live_part import CONTENT_BYTES, LiveParts, encode, make_part
from netra_trio.protocol.admin import (
    ADMIN_ROOM,
    PART_SECONDS,
    SAMPLE_SECONDS,
    NodeGone,
    NodeHistory,
    State,
)
from netra_trio.protocol.fields import JsonObject
from netra_trio.protocol.rooms import RoomMessage
from netra_trio.rooms.event import pack
from netra_trio.rooms.membership import Membership
from netra_trio.telemetry.samples import Samples

ANNOUNCE_SECONDS = 2.0  # between two announcements of a node with members
INTEREST_SECONDS = 5.0  # for which another node publishes after an announcement
SHORTEST_SECONDS = 0.25  # between two parts, however often members join
CHECKS_SECONDS = 5.0  # between two checks of the store and the broker
FIRST_CHECK_SECONDS = 0.25  # for which the first part waits for the first check
STOP_SECONDS = 1.0  # to publish that this node ends
SAMPLES_BYTES = CONTENT_BYTES - 1024  # of the samples of one event
WATCHED = "admin_watched"

# An event is of use until the next one: the room keeps few, so that repairs find the newest.
LIMITS = HistoryLimits(events=16, seconds=10.0)


class LiveView:
    """Publishes the part of a node; see the module.

    Args:
        parts: The node.
        samples: Its metrics of the last hour.
        broker: Has the room.
        check: Returns the state of each dependency.
        start_soon: Starts a task of the node.
        mailbox: Sends messages to other nodes; None if there are none.
        nodes: The other live nodes; None if there are none.
    """

    def __init__(
        self,
        parts: LiveParts,
        samples: Samples,
        broker: Broker,
        *,
        check: Callable[[], Awaitable[Mapping[str, State]]],
        start_soon: Callable[..., Any],
        mailbox: Mailbox | None = None,
        nodes: Nodes | None = None,
    ) -> None:
        self._parts = parts
        self._samples = samples
        self._broker = broker
        self._check = check
        self._start_soon = start_soon
        self._mailbox = mailbox
        self._nodes = nodes
        self._members = 0
        self._watched_until = float("-inf")  # by other nodes
        self._announced_at = float("-inf")
        self._needs_history = False
        self._changed = trio.Event()
        self._checks: Mapping[str, State] = {}
        self._is_stopped = False
        if mailbox is not None and nodes is not None:
            mailbox.handle_now(WATCHED, self._on_watched)
            nodes.on_new.append(self._on_new)
            nodes.on_gone.append(self._on_gone)

    # Members.

    def joined(self, membership: Membership) -> None:
        """Note that a connection has joined a room; all nodes publish all they have for it."""
        if membership.room == ADMIN_ROOM:
            self._members += 1
            self._announce(fresh=True)
            self._publish_all()

    def left(self, membership: Membership) -> None:
        """Note that a connection has left a room, or has ended."""
        if membership.room == ADMIN_ROOM:
            self._members -= 1

    def is_watched(self) -> bool:
        """Return whether any node is known to have a member."""
        is_watched = self._members > 0 or trio.current_time() < self._watched_until
        return is_watched and not self._is_stopped

    def _publish_all(self) -> None:
        """Publish the part and the history soon."""
        self._needs_history = True
        self._changed.set()

    # Other nodes.

    def _announce(self, *, fresh: bool) -> None:
        """Announce to all other nodes that this one has members.

        Args:
            fresh: Whether one of them has just joined, and has nothing.
        """
        self._announced_at = trio.current_time()
        for node in () if self._nodes is None else self._nodes.peers:
            self._start_soon(self._post, node, {"fresh": fresh})

    async def _post(self, node: NodeId, header: JsonObject) -> None:
        """Announce members to a node; a lost message is repeated."""
        assert self._mailbox is not None  # noqa: S101 - for mypy: there are other nodes
        with suppress(BrokerUnavailable):
            await self._mailbox.post(node, WATCHED, header)

    def _on_watched(self, _sender: NodeId, header: JsonObject, _data: bytes) -> None:
        """Note that another node has members."""
        self._watched_until = trio.current_time() + INTEREST_SECONDS
        if header["fresh"]:
            self._publish_all()
        self._changed.set()

    def _on_new(self, node: NodeId) -> None:
        """Announce the members of this node to a new one."""
        if self._members:
            self._start_soon(self._post, node, {"fresh": True})

    def _on_gone(self, node: NodeId) -> None:
        """Publish to members that a node has ended."""
        if self._members:
            self._start_soon(self._publish_gone, node)

    async def _publish_gone(self, node: NodeId) -> None:
        gone: NodeGone = {"kind": "gone", "node": node, "at": self._parts.wall_clock()}
        # Nodes publish it at the same time.
        await self._publish(orjson.dumps(gone), key=f"gone:{node}")

    # Publishing.

    async def run(self) -> None:
        """Publish while there are members, until cancelled."""
        while True:
            self._changed = trio.Event()
            if not self.is_watched():
                await self._changed.wait()
                continue
            async with trio.open_nursery() as nursery:
                await nursery.start(self._check_always)
                while self.is_watched():
                    await self._publish_once()
                nursery.cancel_scope.cancel()

    async def _publish_once(self) -> None:
        """Publish the part, and the history if a member needs it; then wait for the next time.

        Without the broker, the next part replaces this one, and the history is published again.
        """
        started = trio.current_time()
        self._changed = trio.Event()
        needs_history, self._needs_history = self._needs_history, False
        if self._members and started >= self._announced_at + ANNOUNCE_SECONDS:
            self._announce(fresh=False)
        await self._publish(self._encoded_part())
        if needs_history:
            published = [await self._publish(content) for content in self._encoded_history()]
            if not all(published):
                self._needs_history = True  # a member still has none
        await trio.sleep(SHORTEST_SECONDS)
        with trio.move_on_at(started + PART_SECONDS):
            await self._changed.wait()

    def _encoded_part(self) -> bytes:
        newest, now = self._samples.newest, self._samples.current()
        sample = None if newest is None else orjson.Fragment(newest)
        lag = self._samples.newest_lag()
        return encode(make_part(self._parts, self._checks, loop_lag=lag, now=now, sample=sample))

    def _encoded_history(self) -> list[bytes]:
        """Return the last hour as JSON, in as many parts as an event has room for."""
        parts = self._parts
        groups: list[list[Any]] = [[]]  # of encoded samples
        size = 0
        for sample in self._samples.all:
            if size + len(sample) > SAMPLES_BYTES:
                groups.append([])
                size = 0
            groups[-1].append(orjson.Fragment(sample))
            size += len(sample) + 1
        histories: list[NodeHistory] = [
            {
                "kind": "history",
                "node": parts.node,
                "at": parts.wall_clock(),
                "interval": SAMPLE_SECONDS,
                "samples": group,
            }
            for group in groups
        ]
        return [*map(orjson.dumps, histories)]

    async def _publish(self, content: bytes, *, key: str | None = None) -> bool:
        """Publish a content; return False if the broker is not available."""
        payload = {"content": orjson.Fragment(content)}
        data = pack(RoomMessage.TYPE, payload, timestamp=self._parts.wall_clock())
        with suppress(BrokerUnavailable):
            await self._broker.publish(ADMIN_ROOM, data, limits=LIMITS, key=key)
            return True
        return False

    async def _check_always(
        self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Check the dependencies until cancelled; started after the first check, or a moment."""
        checked = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._check_again, checked)
            with trio.move_on_after(FIRST_CHECK_SECONDS):
                await checked.wait()
            task_status.started()

    async def _check_again(self, checked: trio.Event) -> None:
        while True:
            self._checks = await self._check()
            checked.set()
            await trio.sleep(CHECKS_SECONDS)

    async def stop(self) -> None:
        """Publish to the members at other nodes that this one ends."""
        is_watched, self._is_stopped = self.is_watched(), True
        if is_watched and self._mailbox is not None:
            with trio.move_on_after(STOP_SECONDS, shield=True):
                await self._publish_gone(self._parts.node)
