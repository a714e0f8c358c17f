"""The limits of users over all nodes, as one node applies them.

    shared = SharedLimits(backend, parts, local=…, send=…, discard=…)
    with await shared.admit(user_id, connection_id, resumed) as place:   # a `ConnectionLimit`
        place.evict()
    sessions.watch = shared                                              # a `SessionWatch`
    nursery.start_soon(shared.run)

A new connection is counted before it is accepted. One task reports everything else in the
background: a place that is given back a moment later only makes the limit stricter. The state of
sessions may also be reported in the background, because it only decides which session ends: the
node of that session checks its present state, and ends it only if it is without a connection.

While the broker does not answer, the node applies the limits to what it has itself, and reports
everything afterwards.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Self

import structlog
import trio
from attrs import define, evolve, field, frozen

from netra_trio.broker.base import Backend, SessionRecord
from netra_trio.broker.limits import (
    USER_SECONDS,
    KeptSession,
    KnownSession,
    OpenConnection,
    OpenedConnection,
    UserUpdate,
)
from netra_trio.config.settings import Settings
from netra_trio.connections.connection import Connection
from netra_trio.errors import BrokerUnavailable
from netra_trio.ids import ConnectionId, NodeId, SessionId, UserId
from netra_trio.node.capacity import Capacity, LocalConnectionLimit, LocalPlace
from netra_trio.node.registry import Sessions
from netra_trio.node.remote_runs import Send
from netra_trio.protocol.fields import JsonObject
from netra_trio.sessions.session import Session
from netra_trio.sessions.users import Users
from netra_trio.telemetry.metrics import Metrics

REPORT_SECONDS = USER_SECONDS / 3  # between two reports of everything
EVICT, EVICT_RELAYED, RECOUNT, END_SESSION = "evict", "evict_relayed", "recount", "end_session"
RETRY_SECONDS = 1.0  # before the broker is asked again
BATCH = 200  # users of one report: some milliseconds of the server

_log = structlog.get_logger(__name__)


@frozen(kw_only=True)
class NodeParts:
    """The parts of a node to which the limits apply.

    Attributes:
        connections: Its open connections.
        newest: The newest connection of each session.
    """

    settings: Settings
    capacity: Capacity
    users: Users
    sessions: Sessions
    connections: Mapping[ConnectionId, Connection]
    newest: Mapping[SessionId, Connection]
    metrics: Metrics


@define(eq=False)
class _Changes:
    """The changes of one user since the last report.

    Attributes:
        claimed_sessions: Those that this node has just made or taken over.
        released_sessions: Those that another node has, or may take.
        gone_sessions: Those that the directory does not have any more.
        is_repeated: Whether a report of some of it has failed, which may have arrived all the same.
    """

    connections: set[ConnectionId] = field(factory=set)
    closed_connections: set[ConnectionId] = field(factory=set)
    sessions: set[SessionId] = field(factory=set)
    claimed_sessions: set[SessionId] = field(factory=set)
    closed_sessions: set[SessionId] = field(factory=set)
    released_sessions: set[SessionId] = field(factory=set)
    gone_sessions: set[SessionId] = field(factory=set)
    is_repeated: bool = False

    def add(self, other: "_Changes") -> None:
        """Add the changes of a report that failed."""
        self.connections |= other.connections
        self.closed_connections |= other.closed_connections
        self.sessions |= other.sessions
        self.claimed_sessions |= other.claimed_sessions
        self.closed_sessions |= other.closed_sessions
        self.released_sessions |= other.released_sessions
        self.gone_sessions |= other.gone_sessions
        self.is_repeated = True


class SharedPlace:
    """The `Place` of a connection among those of all nodes.

    Attributes:
        is_known: Whether the server may count the connection.
        owner: The node of the session, if this node relays the connection to it.
    """

    __slots__ = (
        "_evicted",
        "_limits",
        "_local",
        "connection_id",
        "is_known",
        "opened_at",
        "owner",
        "session_id",
        "user_id",
    )

    def __init__(
        self,
        limits: "SharedLimits",
        user_id: UserId,
        connection_id: ConnectionId,
        *,
        evicted: Sequence[tuple[ConnectionId, NodeId]] = (),
        local: LocalPlace | None = None,
    ) -> None:
        self._limits = limits
        self._evicted = evicted
        self._local = local
        self.user_id = user_id
        self.connection_id = connection_id
        self.is_known = local is None
        self.session_id: SessionId | None = None
        self.owner: NodeId | None = None
        self.opened_at = trio.current_time()

    def __enter__(self) -> Self:
        """Enter the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give the place back; connections that were not evicted count again."""
        self._limits.recount(self._evicted, self.user_id)
        self._give_back()

    def evict(self) -> None:
        """End the connections that make room for this one, on whichever node they are."""
        if self._local is not None:
            self._local.evict()
        self._limits.evict(self._evicted, self.user_id)
        self._evicted = ()

    def hold(self, connection: Connection) -> None:
        """Let a connection have it until the connection ends."""
        self.session_id = connection.session.id
        self._limits.keep(self)
        connection.on_end = self._give_back

    def relay(self, session_id: SessionId, owner: NodeId) -> None:
        """Let a connection have it that is relayed to another node."""
        self.session_id, self.owner = session_id, owner
        self._limits.keep(self)

    def _give_back(self) -> None:
        self._limits.give_back(self)


class SharedLimits:
    """The limits of users over all nodes: a `ConnectionLimit` and a `SessionWatch`.

    Args:
        backend: The state that the nodes share.
        parts: The parts of this node.
        local: The limit of this node alone.
        send: Sends messages to other nodes.
        discard: Forgets a session that this node has taken from a node that is gone; ends its runs.
    """

    def __init__(
        self,
        backend: Backend,
        parts: NodeParts,
        *,
        local: LocalConnectionLimit,
        send: Send,
        discard: Callable[[SessionRecord], Awaitable[None]],
    ) -> None:
        self._backend = backend
        self._limits = backend.limits
        self._directory = backend.directory
        self._node = backend.directory.node
        self._parts = parts
        self._local = local
        self._send = send
        self._discard = discard
        self._places: dict[UserId, dict[ConnectionId, SharedPlace]] = {}
        self._changes: dict[UserId, _Changes] = {}
        self._changed = trio.Event()
        self.is_counting = True

    # Connections.

    async def take_opening(self, user_id: UserId) -> float | None:
        """Count an opening of a user over all nodes.

        Returns:
            0, or the seconds until there may be one; None if the broker does not answer.
        """
        if not self.is_counting:
            return None
        rate, burst = self._parts.settings.opening_rate, self._parts.settings.opening_burst
        try:
            return await self._limits.take_opening(user_id, rate=rate, burst=burst)
        except BrokerUnavailable as error:
            self._note_unavailable(error)
            return None

    async def admit(
        self, user_id: UserId, connection_id: ConnectionId, resumed: SessionId | None
    ) -> SharedPlace:
        """Return a place for a new connection; count it, before it is accepted.

        Raises:
            Refused: CONNECTION_LIMIT_EXCEEDED, if the policy is to reject the new connection.
        """
        if not self.is_counting:
            return await self._admit_locally(user_id, connection_id, resumed)
        try:
            try:
                opened = await self._open(user_id, connection_id, resumed)
            except BrokerUnavailable as error:
                self._note_unavailable(error)
                place = await self._admit_locally(user_id, connection_id, resumed)
                place.is_known = True
                return place
        except BaseException:  # a cancellation too: the server may count it all the same
            self._changes_of(user_id).closed_connections.add(connection_id)
            raise
        if not opened.is_accepted:
            raise self._parts.capacity.too_many_connections()
        return SharedPlace(self, user_id, connection_id, evicted=opened.evicted)

    async def _admit_locally(
        self, user_id: UserId, connection_id: ConnectionId, resumed: SessionId | None
    ) -> SharedPlace:
        self._parts.metrics.broker_fallbacks["connections"] += 1
        local = await self._local.admit(user_id, connection_id, resumed)
        return SharedPlace(self, user_id, connection_id, local=local)

    async def _open(
        self, user_id: UserId, connection_id: ConnectionId, resumed: SessionId | None
    ) -> OpenedConnection:
        settings, gone = self._parts.settings, None
        while True:
            opened = await self._limits.open_connection(
                user_id,
                connection_id,
                session_id=resumed,
                limit=settings.max_connections_per_user,
                evicts=settings.connection_limit_policy != "reject",
                gone=gone,
            )
            if not opened.undecided:
                return opened
            # Looked up after their connections were seen, so that a node that has just started is
            # not taken for one that is gone.
            gone = await self._gone(opened.undecided)

    async def _gone(self, nodes: Collection[NodeId]) -> Collection[NodeId]:
        """Return those nodes that are gone."""
        live = await self._directory.nodes()
        # Without a lease of this node the server may have lost everything, and no node is known.
        return [node for node in nodes if node not in live] if self._node in live else []

    def evict(self, evicted: Sequence[tuple[ConnectionId, NodeId]], user_id: UserId) -> None:
        """End connections because of the limit of their user."""
        for connection_id, node in evicted:
            if node == self._node:
                self._evict(user_id, connection_id)
            else:
                self._send(node, EVICT, {"connection": connection_id, "user": user_id})

    def _evict(self, user_id: UserId, connection_id: ConnectionId) -> None:
        place = self._places.get(user_id, {}).get(connection_id)
        connection = self._parts.connections.get(connection_id)
        if connection is not None:
            self._parts.capacity.evict(connection)
        elif place is not None and place.owner is not None:
            self._send(place.owner, EVICT_RELAYED, {"session": place.session_id})

    def recount(self, evicted: Sequence[tuple[ConnectionId, NodeId]], user_id: UserId) -> None:
        """Count connections again that were not evicted, because the new one was not opened."""
        for node in {node for _, node in evicted}:
            if node == self._node:
                self._report_user(user_id)
            else:
                self._send(node, RECOUNT, {"user": user_id})

    def keep(self, place: SharedPlace) -> None:
        """Count a connection until it ends, also after the server has lost everything."""
        self._places.setdefault(place.user_id, {})[place.connection_id] = place
        self._changes_of(place.user_id).connections.add(place.connection_id)

    def give_back(self, place: SharedPlace) -> None:
        """Count a connection no longer; a second call has no effect."""
        mine = self._places.get(place.user_id, {})
        is_kept = mine.pop(place.connection_id, None) is not None
        if not mine:
            self._places.pop(place.user_id, None)
        if place.is_known and (is_kept or place.session_id is None):
            self._changes_of(place.user_id).closed_connections.add(place.connection_id)

    async def is_attached_elsewhere(self, user_id: UserId) -> bool:
        """Return whether a user has a session with a connection at another node.

        False if it is not known, because the broker does not answer.
        """
        if not self.is_counting:
            return False
        try:
            [known] = await self._limits.update([UserUpdate(user_id, max_sessions=0)])
            live = await self._directory.nodes() if known else {}
        except BrokerUnavailable as error:
            self._note_unavailable(error)
            return False
        return any(
            session.detached is None and session.node in live and session.node != self._node
            for session in known
        )

    # Sessions.

    def added(self, session: Session) -> None:
        """Note a new session, or one that this node has taken over."""
        changes = self._changes_of(session.user.id)
        changes.sessions.add(session.id)
        changes.claimed_sessions.add(session.id)

    def released(self, session: Session) -> None:
        """Note that another node has a session, or may take it.

        It counts as one without a connection, until the other node reports it.
        """
        self._changes_of(session.user.id).released_sessions.add(session.id)

    def changed(self, session: Session) -> None:
        """Note that a session was attached or detached, or has no run any more."""
        self._changes_of(session.user.id).sessions.add(session.id)

    def ended(self, session: Session) -> None:
        """Note that a session has ended."""
        changes = self._changes_of(session.user.id)
        if session.id in changes.claimed_sessions and not changes.is_repeated:
            changes.claimed_sessions.discard(session.id)  # no node has heard of it
        else:
            changes.closed_sessions.add(session.id)

    # Messages of other nodes.

    async def on_evict(self, _sender: NodeId, header: JsonObject, _data: bytes) -> None:
        """End a connection that another node has evicted."""
        self._evict(UserId(header["user"]), ConnectionId(header["connection"]))

    async def on_evict_relayed(self, _sender: NodeId, header: JsonObject, _data: bytes) -> None:
        """End a connection that another node relays to this one, and that was evicted."""
        connection = self._parts.newest.get(SessionId(header["session"]))
        if connection is not None:
            self._parts.capacity.evict(connection)

    async def on_recount(self, _sender: NodeId, header: JsonObject, _data: bytes) -> None:
        """Report the connections of a user again."""
        self._report_user(UserId(header["user"]))

    async def on_end_session(self, _sender: NodeId, header: JsonObject, _data: bytes) -> None:
        """End a session whose user has too many, unless it has a connection by now."""
        session_id = SessionId(header["session"])
        self._parts.sessions.end_detached(session_id)
        if self._parts.sessions.get(session_id) is None:
            self._changes_of(UserId(header["user"])).closed_sessions.add(session_id)

    # Reports.

    def report_all(self) -> None:
        """Report everything that this node has, because the server may have lost it."""
        for user_id in self._places:
            self._report_user(user_id)
        for session in self._parts.sessions:
            self.changed(session)

    def _report_user(self, user_id: UserId) -> None:
        if mine := self._places.get(user_id):
            self._changes_of(user_id).connections.update(mine)

    def _changes_of(self, user_id: UserId) -> _Changes:
        self._changed.set()
        return self._changes.setdefault(user_id, _Changes())

    async def run(self) -> None:
        """Report changes until cancelled."""
        report_all_at = trio.current_time() + REPORT_SECONDS
        while True:
            with trio.move_on_at(report_all_at):
                await self._changed.wait()
            if trio.current_time() >= report_all_at:
                report_all_at = trio.current_time() + REPORT_SECONDS
                self.report_all()
            batch = [user_id for user_id, _ in zip(self._changes, range(BATCH), strict=False)]
            changes = {user_id: self._changes.pop(user_id) for user_id in batch}
            if not self._changes:
                self._changed = trio.Event()
            try:
                if not self.is_counting:
                    await self._backend.check()
                await self._report(changes)
            except BrokerUnavailable as error:
                self._note_unavailable(error)
                self._put_back(changes)
                self._changed.set()  # to ask again, also with nothing to report
                await trio.sleep(RETRY_SECONDS)
            else:
                self._note_available()

    async def _report(self, changes: Mapping[UserId, _Changes]) -> None:
        updates = [self._update(user_id, each) for user_id, each in changes.items()]
        for update, known in zip(updates, await self._limits.update(updates), strict=True):
            if known:
                await self._end_excess(update.user_id, known)

    def _update(self, user_id: UserId, changes: _Changes) -> UserUpdate:
        mine, sessions = self._places.get(user_id, {}), self._parts.sessions
        now = trio.current_time()
        kept = [
            KeptSession(
                session.id,
                sessions.detached_for(session),
                not session.is_idle,
                session.id in changes.claimed_sessions,
            )
            for session_id in changes.sessions
            if (session := sessions.get(session_id)) is not None
        ]
        kept += [
            KeptSession(session_id, 0.0, is_busy=False, is_released=True)
            for session_id in changes.released_sessions
            if sessions.get(session_id) is None
        ]
        connections = []
        for connection_id in changes.connections:
            place = mine.get(connection_id)
            if place is not None and place.session_id is not None:
                place.is_known = True
                seconds = now - place.opened_at
                connections.append(OpenConnection(connection_id, place.session_id, seconds))
        return UserUpdate(
            user_id,
            connections=connections,
            closed_connections=list(changes.closed_connections),
            sessions=kept,
            # A session that has ended here may have come back meanwhile.
            closed_sessions=[
                each for each in changes.closed_sessions if sessions.get(each) is None
            ],
            gone_sessions=[each for each in changes.gone_sessions if sessions.get(each) is None],
            max_sessions=(
                self._parts.settings.max_sessions_per_user if changes.claimed_sessions else None
            ),
        )

    def _put_back(self, changes: Mapping[UserId, _Changes]) -> None:
        """Keep the changes of a report that failed; apply the limit of sessions to this node's."""
        for user_id, each in changes.items():
            self._changes_of(user_id).add(each)
            user = self._parts.users.find(user_id)
            if each.claimed_sessions and user is not None:
                self._parts.metrics.broker_fallbacks["sessions"] += 1
                limit = self._parts.settings.max_sessions_per_user
                self._parts.sessions.end_excess(user, places=limit)

    def _note_unavailable(self, error: BrokerUnavailable) -> None:
        if self.is_counting:
            self.is_counting = False
            self._changed.set()  # to ask again, also with nothing to report
            _log.warning("limits_local", reason=str(error))

    def _note_available(self) -> None:
        if not self.is_counting:
            self.is_counting = True
            _log.info("limits_shared")
            self.report_all()

    # The limit of sessions.

    async def _end_excess(self, user_id: UserId, known: Sequence[KnownSession]) -> None:
        """End sessions of a user that has too many: first those without a run, the oldest first."""
        live = await self._directory.nodes()
        if self._node not in live:  # the server may have lost everything, and no node is known
            return
        found = [await self._present(user_id, each, live) for each in known]
        present = [each for each in found if each is not None]
        excess = len(present) - self._parts.settings.max_sessions_per_user
        detached = [each for each in present if each[0].detached is not None]
        detached.sort(key=lambda each: (each[0].is_busy, -(each[0].detached or 0.0)))
        for session, record in detached[: max(0, excess)]:
            await self._end(user_id, session, record)

    async def _present(
        self, user_id: UserId, known: KnownSession, live: Mapping[NodeId, bool]
    ) -> tuple[KnownSession, SessionRecord | None] | None:
        """Return the present state of a session, and its record if no node has it.

        None if the session has ended.
        """
        session_id, sessions = known.session_id, self._parts.sessions
        here = sessions.get(session_id)
        if here is not None:
            detached = sessions.detached_for(here)
            return evolve(known, detached=detached, is_busy=not here.is_idle), None
        if known.node == self._node:  # its end was not reported
            self._changes_of(user_id).closed_sessions.add(session_id)
            return None
        if live.get(known.node) is False:  # it lives, and does not drain
            return known, None
        record = (await self._directory.find(session_id)).record
        if record is None:
            self._changes_of(user_id).gone_sessions.add(session_id)
            return None
        if record.owner in live:  # its present owner reports it in a moment
            return evolve(known, detached=None), None
        # When its connection ended is not known, if its node was killed.
        is_busy = known.is_busy or bool(record.waiting)
        return evolve(known, detached=known.detached or 0.0, is_busy=is_busy), record

    async def _end(
        self, user_id: UserId, session: KnownSession, record: SessionRecord | None
    ) -> None:
        session_id = session.session_id
        if record is not None:
            if await self._directory.take(session_id, owner=record.owner, epoch=record.epoch):
                await self._discard(evolve(record, owner=self._node, epoch=record.epoch + 1))
                self._changes_of(user_id).gone_sessions.add(session_id)
        elif self._parts.sessions.get(session_id) is not None:
            self._parts.sessions.end_detached(session_id)
        else:
            header = {"session": session_id, "user": user_id}
            self._send(session.node, END_SESSION, header)
