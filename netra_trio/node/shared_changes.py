"""Carries the changes of threads between nodes: a room of the nodes for each user.

    shared = SharedChanges(rooms, broker, node, deliver=changes.deliver, start_soon=…, nodes=…)
    changes.relay = shared.publish
    shared.watch(user_id)       # a node listens while a session of the user is attached

Changes while the broker does not answer are published later, once for each thread. Nodes
that listen to the room of a user tell each other, so that nothing is published for a user whose
sessions are all at one node. A node that has just started may listen before the others have seen
its lease: what is changed meanwhile is published when they have.
"""

from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
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
CHANGED, HERE, HERE_TOO, GONE = "changed", "here", "here_too", "gone"
RETRY_SECONDS = 1.0  # before the broker is asked again
READY_SECONDS = 1.0  # to wait for the broker before a list is read
SKIPPED_CHANGES = 8  # of a user, which are published if a node begins to listen a moment later


class Listening(Protocol):
    """Gives the events of rooms of the nodes to functions: `Rooms`."""

    async def listen(self, name: str, listener: Callable[[Delivery], None]) -> object:
        """Have the events of a room given to a function; raises `BrokerUnavailable`."""
        ...

    async def unlisten(self, name: str) -> None:
        """Take back a `listen`; raises `BrokerUnavailable`."""
        ...


class Nodes(Protocol):
    """The other nodes, as this one has seen them last: `Membership`."""

    on_new: list[Callable[[NodeId], None]]

    @property
    def peers(self) -> Collection[NodeId]:
        """The live ones."""
        ...

    async def find_peers(self) -> Collection[NodeId]:
        """Return the live ones now; those known before, if the broker does not answer."""
        ...


def changes_room(user_id: UserId) -> str:
    """Return the name of the room of a user, which clients cannot name."""
    return f":user:{user_id}"


@define(eq=False)
class _Link:
    """The room of a user, as this node listens to it.

    Attributes:
        ready: Set while it listens, and the other nodes know that.
        is_switching: Whether a task makes it listen, or stops that.
        others: The nodes that have said that they listen.
        skipped: The newest changes that were not published, because no node that is known to be
            live listens.
    """

    is_listening: bool = False
    is_switching: bool = False
    ready: trio.Event = field(factory=trio.Event)
    others: set[NodeId] = field(factory=set)
    skipped: dict[object, Change] = field(factory=dict)


class SharedChanges:
    """The changes of threads from and to other nodes.

    Args:
        rooms: Receives them.
        broker: Publishes them.
        node: This node, which does not need its own.
        deliver: Tells the sessions of this node.
        is_attached: Whether a user has a connection at this node.
        nodes: The other nodes.
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
        nodes: Nodes,
        start_soon: Callable[..., Any],
    ) -> None:
        self._rooms = rooms
        self._broker = broker
        self._node = node
        self._deliver = deliver
        self._is_attached = is_attached
        self._nodes = nodes
        nodes.on_new.append(self._meet)
        self._start_soon = start_soon
        self._links: dict[UserId, _Link] = {}
        self._unsent: dict[object, Change] = {}
        self._unseen: dict[object, Change] = {}  # while this node knows no other one
        self._is_sending = False

    def publish(self, change: Change) -> None:
        """Tell the other nodes about a change; does not wait."""
        link = self._links.get(change.user_id)
        is_alone = not self._nodes.peers
        if link is None and is_alone:
            if not self._unseen:
                self._start_soon(self._look_first)
            _keep(self._unseen, change, UNSENT_CHANGES)
        elif link is not None and (
            is_alone or (link.ready.is_set() and not self._has_listener(link))
        ):
            _keep(link.skipped, change, SKIPPED_CHANGES)
        else:
            self._queue(change)

    def _has_listener(self, link: _Link) -> bool:
        return not link.others.isdisjoint(self._nodes.peers)

    async def _look_first(self) -> None:
        """Publish changes of users without a session here if there is another node after all."""
        changes, self._unseen = self._unseen, {}
        if await self._nodes.find_peers():
            self._queue_all(changes.values())

    def _meet(self, node: NodeId) -> None:
        """Publish what was skipped before the lease of a node that listens was seen."""
        for link in self._links.values():
            if node in link.others:
                self._publish_skipped(link)

    def _publish_skipped(self, link: _Link) -> None:
        self._queue_all(link.skipped.values())
        link.skipped.clear()

    def _queue_all(self, changes: Iterable[Change]) -> None:
        for change in changes:
            self._queue(change)

    def _queue(self, change: Change) -> None:
        _keep(self._unsent, change, UNSENT_CHANGES)
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
        if link is None:
            return
        with trio.move_on_after(READY_SECONDS):
            await link.ready.wait()
            if self._nodes.peers:  # one of them may have missed it
                with suppress(BrokerUnavailable):
                    await self._say(user_id, HERE)

    async def _switch(self, user_id: UserId, link: _Link) -> None:
        """Listen, or no longer, as it is needed."""
        room = changes_room(user_id)
        while (is_needed := self._is_attached(user_id)) is not link.is_listening:
            try:
                if is_needed:
                    await self._rooms.listen(room, self._receive)
                    await self._say(user_id, HERE)
                    link.ready.set()
                else:
                    link.ready = trio.Event()
                    link.is_listening = False
                    await self._rooms.unlisten(room)
                    if not self._has_listener(link):
                        await self._broker.forget(room)  # it would be kept for a day
                    else:
                        await self._say(user_id, GONE)
            except BrokerUnavailable:  # what is unlistened to is ignored all the same
                if is_needed:
                    await trio.sleep(RETRY_SECONDS)
            else:
                link.is_listening = is_needed
        link.is_switching = False
        if not link.is_listening:
            del self._links[user_id]

    async def _say(self, user_id: UserId, word: str) -> None:
        """Tell the other nodes whether this one listens; raises `BrokerUnavailable`."""
        said = orjson.dumps({"node": self._node, "word": word})
        await self._broker.publish(changes_room(user_id), said, limits=KEPT)

    async def _answer(self, user_id: UserId) -> None:
        with suppress(BrokerUnavailable):  # the other node publishes what it need not
            await self._say(user_id, HERE_TOO)

    def _receive(self, delivery: Delivery) -> None:
        told = orjson.loads(delivery.data)
        node, word = NodeId(told["node"]), told["word"]
        user_id = UserId(delivery.room.removeprefix(changes_room(UserId(""))))
        if node == self._node:
            return
        if word == CHANGED:
            but = told["but"]
            self._deliver(
                Change(
                    user_id,
                    ThreadId(told["thread"]),
                    ThreadChange(told["change"]),
                    None if but is None else SessionId(but),
                )
            )
        elif (link := self._links.get(user_id)) is None:
            return
        elif word == GONE:
            link.others.discard(node)
        else:
            link.others.add(node)
            if node in self._nodes.peers:
                self._publish_skipped(link)
            if word == HERE:
                self._start_soon(self._answer, user_id)

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
            "word": CHANGED,
            "thread": change.thread_id,
            "change": change.change,
            "but": change.excluded,
        }
        try:
            await self._broker.publish(
                changes_room(change.user_id), orjson.dumps(told), limits=KEPT
            )
        except BrokerUnavailable:
            failed.append(change)


def _keep(changes: dict[object, Change], change: Change, limit: int) -> None:
    """Keep a change as the newest of at most `limit`, merged with an earlier one."""
    earlier = changes.pop(change.key, None)
    changes[change.key] = change if earlier is None else earlier.merged(change)
    if len(changes) > limit:
        del changes[next(iter(changes))]
