"""Carries the changes of threads between nodes: a room of the nodes for each user.

    shared = SharedChanges(rooms, broker, node, deliver=changes.deliver, start_soon=…, has_peers=…)
    changes.relay = shared.publish
    shared.watch(user_id)       # a node listens while a session of the user is attached

What is published while the broker does not answer is published later, once for each thread.
"""

from collections.abc import Callable
from typing import Any, Protocol

import orjson
import trio
from attrs import define, field

from netra_trio.broker.base import Broker, Delivery, HistoryLimits
from netra_trio.errors import BrokerUnavailable
from netra_trio.ids import NodeId, SessionId, ThreadId, UserId
from netra_trio.node.thread_changes import Change
from netra_trio.protocol.threads import ThreadChange

KEPT = HistoryLimits(events=100, seconds=60.0)  # for a node whose connection was lost
UNSENT_CHANGES = 10_000  # while the broker does not answer; the oldest are dropped beyond it
PUBLISHED = 50  # at the same time
RETRY_SECONDS = 1.0  # before the broker is asked again
READY_SECONDS = 1.0  # to wait for the broker before a list is read


class Listening(Protocol):
    """Gives the events of rooms of the nodes to functions: `Rooms`."""

    async def listen(self, name: str, listener: Callable[[Delivery], None]) -> object:
        """Have the events of a room given to a function; raises `BrokerUnavailable`."""
        ...

    async def unlisten(self, name: str) -> None:
        """Take back a `listen`; raises `BrokerUnavailable`."""
        ...


def changes_room(user_id: UserId) -> str:
    """Return the name of the room of a user, which clients cannot name."""
    return f":user:{user_id}"


@define(eq=False)
class _Link:
    """The room of a user, as this node listens to it.

    Attributes:
        ready: Set while it listens.
        is_switching: Whether a task makes it listen, or stops that.
    """

    is_listening: bool = False
    is_switching: bool = False
    ready: trio.Event = field(factory=trio.Event)


class SharedChanges:
    """The changes of threads from and to other nodes.

    Args:
        rooms: Receives them.
        broker: Publishes them.
        node: This node, which does not need its own.
        deliver: Tells the sessions of this node.
        is_attached: Whether a user has a connection at this node.
        has_peers: Whether there are other nodes now.
        start_soon: Starts a task that ends with the node.
    """

    def __init__(
        self,
        rooms: Listening,
        broker: Broker,
        node: NodeId,
        *,
        deliver: Callable[[Change], None],
        is_attached: Callable[[UserId], bool],
        has_peers: Callable[[], bool],
        start_soon: Callable[..., Any],
    ) -> None:
        self._rooms = rooms
        self._broker = broker
        self._node = node
        self._deliver = deliver
        self._is_attached = is_attached
        self._has_peers = has_peers
        self._start_soon = start_soon
        self._links: dict[UserId, _Link] = {}
        self._unsent: dict[object, Change] = {}
        self._is_sending = False

    def publish(self, change: Change) -> None:
        """Tell the other nodes about a change; does not wait."""
        if not self._has_peers():
            return
        known = self._unsent.pop(change.key, None)
        self._unsent[change.key] = change if known is None else known.merged(change)
        if len(self._unsent) > UNSENT_CHANGES:
            del self._unsent[next(iter(self._unsent))]
        if not self._is_sending:
            self._is_sending = True
            self._start_soon(self._send)

    def watch(self, user_id: UserId) -> None:
        """Note that a user has one connection more or less at this node."""
        link = self._links.get(user_id)
        if link is None:
            if not self._is_attached(user_id):
                return
            link = self._links[user_id] = _Link()
        if not link.is_switching:
            link.is_switching = True
            self._start_soon(self._switch, user_id, link)

    async def wait_until_ready(self, user_id: UserId) -> None:
        """Wait until changes of other nodes are received, for a second at most."""
        link = self._links.get(user_id)
        if link is not None:
            with trio.move_on_after(READY_SECONDS):
                await link.ready.wait()

    async def _switch(self, user_id: UserId, link: _Link) -> None:
        """Listen, or no longer, as it is needed."""
        room = changes_room(user_id)
        while (is_needed := self._is_attached(user_id)) is not link.is_listening:
            try:
                if is_needed:
                    await self._rooms.listen(room, self._receive)
                    link.ready.set()
                else:
                    link.ready = trio.Event()
                    link.is_listening = False
                    await self._rooms.unlisten(room)
            except BrokerUnavailable:  # what is unlistened to is ignored all the same
                if is_needed:
                    await trio.sleep(RETRY_SECONDS)
            else:
                link.is_listening = is_needed
        link.is_switching = False
        if not link.is_listening:
            del self._links[user_id]

    def _receive(self, delivery: Delivery) -> None:
        told = orjson.loads(delivery.data)
        if told["node"] == self._node:
            return
        but = told["but"]
        self._deliver(
            Change(
                UserId(delivery.room.removeprefix(changes_room(UserId("")))),
                ThreadId(told["thread"]),
                ThreadChange(told["change"]),
                None if but is None else SessionId(but),
            )
        )

    async def _send(self) -> None:
        """Publish what is unsent, until nothing is."""
        try:
            while self._unsent:
                keys = list(self._unsent)[:PUBLISHED]
                failed: list[Change] = []
                async with trio.open_nursery() as nursery:
                    for key in keys:
                        nursery.start_soon(self._publish, self._unsent.pop(key), failed)
                for change in failed:
                    later = self._unsent.get(change.key)
                    self._unsent[change.key] = change if later is None else change.merged(later)
                if failed:
                    await trio.sleep(RETRY_SECONDS)
        finally:
            self._is_sending = False

    async def _publish(self, change: Change, failed: list[Change]) -> None:
        told = {
            "node": self._node,
            "thread": change.thread_id,
            "change": change.change,
            "but": change.but,
        }
        try:
            await self._broker.publish(
                changes_room(change.user_id), orjson.dumps(told), limits=KEPT
            )
        except BrokerUnavailable:
            failed.append(change)
