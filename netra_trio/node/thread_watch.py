"""The watched threads of a node: the interests of all nodes, and the runs of all nodes.

    watch = ThreadWatch(services, users, node=node, start_soon=…, mailbox=…, membership=…)
    async with watch.hold(user_id, thread_id):
        snapshot = await watch.take_snapshot(user_id, thread_id, with_ended=False)

A node with watchers of a thread announces its interest to all other nodes. Each node mirrors its
runs of the thread to the room while a node is interested. Interests are announced again every
`ANNOUNCE_SECONDS`, and end `LINGER_SECONDS` after the last announcement, so that a client that has
lost its connection watches again without a gap. Then the room is removed from the broker, and the
next watcher begins a new epoch: events in between are not published, and are a gap for a client
with an earlier offset.
"""

from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager, suppress
from math import inf
from typing import Any

import trio
from attrs import define, field

from netra_trio.broker.base import MAIL_BYTES, Broker, HistoryLimits
from netra_trio.cluster.cluster import Cluster
from netra_trio.cluster.mailbox import Mailbox
from netra_trio.cluster.membership import Membership as Nodes
from netra_trio.errors import BrokerUnavailable, StoreUnavailable
from netra_trio.ids import NodeId, ThreadId, UserId, new_node_id
from netra_trio.node.lost_runs import Key, LostRuns
from netra_trio.protocol.fields import JsonObject
from netra_trio.protocol.problem import Refused, broker_unavailable
from netra_trio.protocol.rooms import THREAD_PREFIX, thread_room
from netra_trio.rooms.event import pack_missing
from netra_trio.rooms.membership import Membership
from netra_trio.services import Services, history_limits
from netra_trio.sessions.thread_publisher import ThreadPublisher
from netra_trio.sessions.thread_snapshot import ThreadPart, ThreadSnapshot
from netra_trio.sessions.users import Users
from netra_trio.sessions.watched_thread import WatchedThread
from netra_trio.stores.threads import ThreadStore

ANNOUNCE_SECONDS = 10.0  # between two announcements of all that a node watches
LINGER_SECONDS = 30.0  # for which an interest lasts after its last announcement
TICK_SECONDS = 2.0  # between two checks for ended interests
ASK_SECONDS = 1.0  # for one answer with the part of another node
PATIENCE_SECONDS = 4.0  # for all parts: a lease, and a second; ended nodes are not awaited
RETRY_SECONDS = 0.1
INTEREST_SECONDS = 0.25  # for the answer of another node, which is not necessary
STOP_SECONDS = 1.0  # to publish the last events when the node is closed
ANNOUNCED = 500  # threads of one message, each of at most 1.1 KiB: less than `MAIL_BYTES`
WATCH, WATCHING, UNWATCHED = "watch", "watching", "unwatched"
INTEREST, LEAVING = "interest", "leaving"


@define(eq=False)
class _Local:
    """The room of a thread that connections of this node watch, or have watched recently.

    Attributes:
        key: The thread; None while it is looked up.
        holds: The number of connections that watch it, or are joining.
        until: When the interest ends; `inf` while there are such connections.
        is_announced: Whether the interest was announced to the other nodes.
        lock: Held while the first watcher checks for events of an earlier epoch.
    """

    key: Key | None = None
    holds: int = 0
    until: float = inf
    is_announced: bool = False
    lock: trio.Lock = field(factory=trio.Lock)


class ThreadWatch:
    """The watched threads; see the module.

    Args:
        users: The users of this node, with their live runs and the watched threads.
        broker: The broker of the rooms.
        store: Finds the user and the thread of a room, and the runs of nodes that are gone.
        node: This node.
        limits: How much of a room is kept.
        wall_clock: Returns Unix seconds.
        start_soon: Starts a task of the node.
        mailbox: Sends messages to other nodes; None if there are none.
        nodes: The other live nodes; None if there are none.

    Attributes:
        on_lost: Called with each thread, watched or not, in which the store has ended the runs of
            a killed node.
    """

    def __init__(
        self,
        users: Users,
        broker: Broker,
        store: ThreadStore,
        *,
        node: NodeId,
        limits: HistoryLimits,
        wall_clock: Callable[[], float],
        start_soon: Callable[..., Any],
        mailbox: Mailbox | None = None,
        nodes: Nodes | None = None,
    ) -> None:
        self._users = users
        self._watched = users.watched
        self._broker = broker
        self.on_lost: Callable[[UserId, ThreadId], None] = lambda _user_id, _thread_id: None
        self._find_room = store.find_room
        self._lost = LostRuns(store)
        self._node = node
        self._limits = limits
        self._wall_clock = wall_clock
        self._start_soon = start_soon
        self._mailbox = mailbox
        self._nodes = nodes
        self._local: dict[str, _Local] = {}
        # The end of each node's interest in a thread, on Trio's clock; also of this node.
        self._interests: dict[Key, dict[NodeId, float]] = {}
        self._ending: dict[Key, WatchedThread] = {}  # with events that are not published yet
        self._has_interests = trio.Event()
        self._left: set[NodeId] = set()  # nodes that have announced their end, without runs
        if mailbox is not None and nodes is not None:
            mailbox.handle(WATCH, self._on_watch)
            mailbox.handle(INTEREST, self._on_interest)
            mailbox.handle_now(WATCHING, self._on_watching)
            mailbox.handle_now(UNWATCHED, self._on_unwatched)
            mailbox.handle_now(LEAVING, self._on_leaving)
            nodes.on_new.append(self._on_new)
            nodes.on_gone.append(self._on_gone)

    # For the connections of this node.

    @asynccontextmanager
    async def hold(self, user_id: UserId, thread_id: ThreadId) -> AsyncIterator[None]:
        """Hold the interest in a thread during the block, and while a connection is in its room.

        The room is subscribed in the block, and not before.

        Raises:
            BrokerUnavailable: If the broker does not answer.
        """
        key, room = (user_id, thread_id), thread_room(user_id, thread_id)
        local = self._hold(room)
        try:
            async with local.lock:
                if local.key is None:
                    if key not in self._interests:
                        await self._begin_epoch(key, room)
                    local.key = key
                    self._begin(key, self._node, inf, may_miss=False)
            yield
        finally:
            self._release(room)

    async def _begin_epoch(self, key: Key, room: str) -> None:
        """Forget a room that has events, unless another node has watchers of it.

        It was not forgotten when the interests had ended, or the interest of another node is not
        known here yet.
        """
        position = await self._broker.history(room, epoch="", after=0)
        if not position.offset:
            return
        if self._nodes is not None:
            await self._nodes.look()
        async with trio.open_nursery() as nursery:
            for node in self._peers:
                nursery.start_soon(self._request_interest, node, key)
        if key not in self._interests:
            await self._broker.forget(room)

    async def _request_interest(self, node: NodeId, key: Key) -> None:
        """Request whether a node is interested in a thread."""
        assert self._mailbox is not None  # noqa: S101 - for mypy: there are other nodes
        with suppress(BrokerUnavailable):
            header = {"thread": key}
            answer = await self._mailbox.ask(node, INTEREST, header, seconds=INTEREST_SECONDS)
            if answer.header["is_interested"]:
                until = trio.current_time() + LINGER_SECONDS
                self._begin(key, node, until, may_miss=False)

    async def _on_interest(self, sender: NodeId, header: JsonObject, _data: bytes) -> None:
        """Answer whether this node is interested in a thread."""
        assert self._mailbox is not None  # noqa: S101 - for mypy: it has received this
        is_interested = self._node in self._interests.get(_key_of(header["thread"]), {})
        await self._mailbox.answer(sender, header, {"is_interested": is_interested})

    async def take_snapshot(
        self, user_id: UserId, thread_id: ThreadId, *, with_ended: bool
    ) -> ThreadSnapshot:
        """Return the runs of a held thread, on all nodes. Cancelling is safe.

        Args:
            user_id: The user of the thread.
            thread_id: The thread.
            with_ended: Whether the client watches again, and may get events of ended runs.

        Raises:
            Refused: SERVICE_UNAVAILABLE, if a live node does not answer in time.
            BrokerUnavailable: If the broker does not answer.
        """
        key, local = (user_id, thread_id), self._local[thread_room(user_id, thread_id)]
        header = {"thread": key, "ended": with_ended, "held": local.is_announced}
        parts: list[ThreadPart] = []
        silent: list[NodeId] = []
        if self._nodes is not None:
            await self._nodes.look()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._add_own_part, key, with_ended, parts, silent)
            for node in self._peers:
                nursery.start_soon(self._request_part, node, header, parts, silent)
        if silent:
            raise Refused(broker_unavailable("Another node does not answer now."))
        local.is_announced = True
        return ThreadSnapshot(parts)

    async def _add_own_part(
        self, key: Key, with_ended: bool, parts: list[ThreadPart], silent: list[NodeId]
    ) -> None:
        """Get the part of this node."""
        with trio.move_on_after(PATIENCE_SECONDS):
            parts.append(await self._watched[key].part(with_ended=with_ended))
            return
        silent.append(self._node)

    async def _request_part(
        self, node: NodeId, header: JsonObject, parts: list[ThreadPart], silent: list[NodeId]
    ) -> None:
        """Request the part of a node, until it answers or has ended."""
        assert self._mailbox is not None  # noqa: S101 - for mypy: there are other nodes
        deadline = trio.current_time() + PATIENCE_SECONDS
        while node in self._peers:
            with suppress(BrokerUnavailable):
                answer = await self._mailbox.ask(node, WATCH, header, seconds=ASK_SECONDS)
                parts.append(ThreadPart.decode(answer.data))
                return
            if trio.current_time() + RETRY_SECONDS >= deadline:
                silent.append(node)
                return
            await trio.sleep(RETRY_SECONDS)

    @property
    def _peers(self) -> Collection[NodeId]:
        """The other live nodes."""
        return () if self._nodes is None else self._nodes.peers

    def joined(self, membership: Membership) -> None:
        """Note that a connection has joined a room."""
        room = membership.room
        if room.startswith(THREAD_PREFIX) and self._hold(room).key is None:
            self._start_soon(self._find_key, room)  # joined by `join_room`

    def left(self, membership: Membership) -> None:
        """Note that a connection has left a room, or has ended."""
        if membership.room.startswith(THREAD_PREFIX):
            self._release(membership.room)

    def _hold(self, room: str) -> _Local:
        local = self._local.setdefault(room, _Local())
        local.holds += 1
        local.until = inf
        return local

    def _release(self, room: str) -> None:
        local = self._local[room]
        local.holds -= 1
        if not local.holds:
            local.until = trio.current_time() + LINGER_SECONDS
            if local.key is None:
                del self._local[room]

    async def _find_key(self, room: str) -> None:
        """Find the thread of a room after a `join_room`, and begin the interest in it."""
        local, found = self._local.get(room), None
        while local is not None and local.key is None:
            try:
                found = await self._find_room(room)
            except StoreUnavailable:
                await trio.sleep(TICK_SECONDS)
                continue
            local = self._local.get(room)
            if found is None or local is None or local.key is not None:
                return
            local.key = found
            self._begin(found, self._node, inf, may_miss=True)
            local.is_announced = True
            self._post_all(WATCHING, [found], held=True, asks=False)

    # Interests.

    def _begin(self, key: Key, node: NodeId, until: float, *, may_miss: bool) -> None:
        """Note that a node is interested in a thread; mirror its runs if none was before.

        Args:
            key: The thread.
            node: The node.
            until: When the interest ends.
            may_miss: Whether connections of the node may miss earlier events.
        """
        self._interests.setdefault(key, {})[node] = until
        self._has_interests.set()
        if key in self._watched:
            return
        thread = self._ending.pop(key, None) or self._make(key)
        self._watched[key] = thread
        thread.begin(self._users.runs_of(*key).values(), may_miss=may_miss)

    def _make(self, key: Key) -> WatchedThread:
        publisher = ThreadPublisher(
            thread_room(*key),
            self._broker,
            node=self._node,
            limits=self._limits,
            wall_clock=self._wall_clock,
            start_soon=self._start_soon,
        )
        return WatchedThread(self._node, publisher)

    def _end(self, key: Key, node: NodeId) -> None:
        """Note that a node is no longer interested in a thread."""
        interests = self._interests.get(key, {})
        if interests.pop(node, None) is None or interests:
            return
        del self._interests[key]
        self._start_soon(self._forget, key)
        thread = self._watched.pop(key)
        thread.end()
        if not thread.publisher.is_idle:
            self._ending[key] = thread

    async def _forget(self, key: Key) -> None:
        """Remove the room of a thread without interests from the broker."""
        if key not in self._interests:
            with suppress(BrokerUnavailable):  # the next watcher removes it
                await self._broker.forget(thread_room(*key))

    async def run(self) -> None:
        """End interests, and announce those of this node, until cancelled."""
        announced = -inf
        while True:
            if not self._interests:
                self._has_interests = trio.Event()
                await self._has_interests.wait()
            await trio.sleep(TICK_SECONDS)
            now = trio.current_time()
            self._expire(now)
            if now >= announced + ANNOUNCE_SECONDS:
                announced = now
                announced_keys = [
                    local.key
                    for local in self._local.values()
                    if local.key is not None and local.is_announced
                ]
                # A node without an earlier announcement may not have published its events.
                self._post_all(WATCHING, announced_keys, held=True, asks=False)

    def _expire(self, now: float) -> None:
        """End expired interests."""
        ended = [room for room, local in self._local.items() if local.until <= now]
        keys = [key for room in ended if (key := self._local.pop(room).key) is not None]
        for key in keys:
            self._end(key, self._node)
        self._post_all(UNWATCHED, keys)
        for key, interests in list(self._interests.items()):
            for node in [node for node, until in interests.items() if until <= now]:
                self._end(key, node)
        for key in [key for key, thread in self._ending.items() if thread.publisher.is_idle]:
            del self._ending[key]

    def _held(self) -> list[Key]:
        """Return the threads that this node is interested in."""
        return [local.key for local in self._local.values() if local.key is not None]

    async def stop(self) -> None:
        """Publish waiting events, and announce to the other nodes that all runs have ended."""
        if self._mailbox is None:
            return
        with trio.move_on_after(STOP_SECONDS, shield=True):
            for thread in (*self._watched.values(), *self._ending.values()):
                await thread.publisher.finish()
            for node in self._peers:
                with suppress(BrokerUnavailable):
                    await self._mailbox.post(node, LEAVING, {})

    # Other nodes.

    def _post_all(self, kind: str, keys: list[Key], **header: bool) -> None:
        """Send threads to all other nodes; see `_on_watching` for the header."""
        if keys:
            for node in self._peers:
                self._start_soon(self._post, node, kind, keys, header)

    async def _post(self, node: NodeId, kind: str, keys: list[Key], header: JsonObject) -> None:
        """Send threads to a node; a lost message is repeated, or the interest expires."""
        assert self._mailbox is not None  # noqa: S101 - for mypy: there are other nodes
        with suppress(BrokerUnavailable):
            for at in range(0, max(len(keys), 1), ANNOUNCED):
                some = {"threads": keys[at : at + ANNOUNCED]}
                await self._mailbox.post(node, kind, {**header, **some})

    def _on_new(self, node: NodeId) -> None:
        """Announce the interests of this node to a new one, and request its interests."""
        self._left.discard(node)
        header = {"held": False, "asks": True}
        self._start_soon(self._post, node, WATCHING, self._held(), header)

    def _on_gone(self, node: NodeId) -> None:
        """Report to members that events of a killed node are missing; its interests expire."""
        if node in self._left:
            self._left.discard(node)
            return
        self._start_soon(self._note_gone, node)

    async def _note_gone(self, node: NodeId) -> None:
        """Report missing events of a killed node to members, and again when its runs have ended.

        Ends before the first report are in the history that a member then reads.
        """
        lost = await self._lost.find(node)
        for room, local in self._local.items():
            if local.holds:
                self._start_soon(self._note_missing, room, node, f"gone:{node}")
        async for key in self._lost.ended(node, self._held() if lost is None else lost):
            room = thread_room(*key)
            if room in self._local and self._local[room].holds:
                self._start_soon(self._note_missing, room, node, f"ended:{node}")
            self.on_lost(*key)

    async def _note_missing(self, room: str, node: NodeId, key: str) -> None:
        """Publish that events of a node are missing; only one node publishes it."""
        data = pack_missing(timestamp=self._wall_clock(), node=node)
        with suppress(
            BrokerUnavailable
        ):  # another node publishes it, or the members get a new epoch
            await self._broker.publish(room, data, limits=self._limits, key=key)

    async def _on_watch(self, sender: NodeId, header: JsonObject, _data: bytes) -> None:
        """Answer with the runs of this node; the sender is interested in the thread."""
        assert self._mailbox is not None  # noqa: S101 - for mypy: it has received this
        key = _key_of(header["thread"])
        until = trio.current_time() + LINGER_SECONDS
        self._begin(key, sender, until, may_miss=header["held"])
        with trio.move_on_after(ASK_SECONDS):
            part = await self._watched[key].part(with_ended=header["ended"])
            # The header of the mail has a few bytes.
            await self._mailbox.answer(sender, header, {}, part.encode(MAIL_BYTES - 1024))

    def _on_watching(self, sender: NodeId, header: JsonObject, _data: bytes) -> None:
        """Note the interests of another node.

        `held`: they were announced before. `asks`: the node requests those of this one.
        """
        until = trio.current_time() + LINGER_SECONDS
        for each in header["threads"]:
            self._begin(_key_of(each), sender, until, may_miss=header["held"])
        if header["asks"]:
            answer = {"held": False, "asks": False}
            self._start_soon(self._post, sender, WATCHING, self._held(), answer)

    def _on_unwatched(self, sender: NodeId, header: JsonObject, _data: bytes) -> None:
        """Note that interests of another node have ended."""
        for each in header["threads"]:
            self._end(_key_of(each), sender)

    def _on_leaving(self, sender: NodeId, _header: JsonObject, _data: bytes) -> None:
        """Note that a node ends, and that all its events are published."""
        if sender in self._peers:
            self._left.add(sender)


def _key_of(value: list[str]) -> Key:
    user_id, thread_id = value
    return UserId(user_id), ThreadId(thread_id)


def watch_threads(
    services: Services, users: Users, cluster: Cluster | None, start_soon: Callable[..., Any]
) -> ThreadWatch:
    """Return the watched threads of a node.

    Args:
        services: The services of the application.
        users: The users of the node.
        cluster: Its part in a cluster; None without other nodes.
        start_soon: Starts a task of the node.
    """
    return ThreadWatch(
        users,
        services.broker,
        services.store,
        node=new_node_id() if cluster is None else cluster.node,
        limits=history_limits(services.settings),
        wall_clock=services.wall_clock,
        start_soon=start_soon,
        mailbox=None if cluster is None else cluster.mailbox,
        nodes=None if cluster is None else cluster.membership,
    )
