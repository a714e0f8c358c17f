"""The `Limits` in memory: for several nodes in one process. Times are seconds of Trio's clock."""

from collections.abc import Collection, Sequence

import trio
from attrs import define, field, frozen

from netra_trio.broker.limits import KeptSession, KnownSession, OpenedConnection, UserUpdate
from netra_trio.ids import ConnectionId, NodeId, SessionId, UserId


@frozen
class _Connection:
    node: NodeId
    session_id: SessionId | None
    opened_at: float


@frozen
class _Session:
    node: NodeId
    detached_at: float | None
    is_busy: bool


@frozen
class _Ticket:
    user_id: UserId
    data: bytes
    until: float


@define(eq=False)
class LimitsState:
    """The state that the limits of all nodes share."""

    connections: dict[UserId, dict[ConnectionId, _Connection]] = field(factory=dict)
    sessions: dict[UserId, dict[SessionId, _Session]] = field(factory=dict)
    tickets: dict[str, _Ticket] = field(factory=dict)
    file_tickets: dict[str, _Ticket] = field(factory=dict)
    openings: dict[UserId, float] = field(factory=dict)
    uploads: dict[UserId, list[float]] = field(factory=dict)

    def clear(self) -> None:
        """Lose everything, as a server that restarts empty."""
        self.connections.clear()
        self.sessions.clear()
        self.tickets.clear()
        self.file_tickets.clear()
        self.openings.clear()
        self.uploads.clear()


@define(eq=False)
class MemoryLimits:
    """The `Limits` of one node."""

    node: NodeId
    _state: LimitsState

    async def open_connection(
        self,
        user_id: UserId,
        connection_id: ConnectionId,
        *,
        session_id: SessionId | None,
        limit: int,
        evicts: bool,
        gone: Collection[NodeId] | None = None,
    ) -> OpenedConnection:
        """Count a new connection of a user, if the limit permits it."""
        await trio.lowlevel.checkpoint()
        mine = self._state.connections.get(user_id, {})
        counted = {
            other: connection
            for other, connection in mine.items()
            if connection.node not in (gone or ())
            and other != connection_id
            and (session_id is None or connection.session_id != session_id)
        }
        oldest: list[ConnectionId] = []
        if len(counted) >= limit:
            others = frozenset(each.node for each in counted.values()) - {self.node}
            if gone is None and others:
                return OpenedConnection(is_accepted=False, undecided=others)
            if not evicts:
                return OpenedConnection(is_accepted=False)
            by_age = sorted(counted, key=lambda other: (counted[other].opened_at, other))
            oldest = by_age[: len(counted) - limit + 1]
        evicted = tuple((other, counted.pop(other).node) for other in oldest)
        counted[connection_id] = _Connection(self.node, session_id, trio.current_time())
        self._state.connections[user_id] = counted
        return OpenedConnection(is_accepted=True, evicted=evicted)

    async def take_opening(self, user_id: UserId, *, rate: int, burst: int) -> float:
        """Count an opening of a user; return 0, or the seconds until there may be one."""
        await trio.lowlevel.checkpoint()
        now, openings = trio.current_time(), self._state.openings
        for old in [old for old, free_at in openings.items() if free_at <= now]:
            del openings[old]
        # When all places of the burst are free again: each opening takes one for 1 / rate.
        free_at = max(openings.get(user_id, now), now) + 1 / rate
        wait = free_at - now - burst / rate
        if wait > 0:
            return wait
        openings[user_id] = free_at
        return 0.0

    async def take_upload(self, user_id: UserId, *, limit: int, seconds: float) -> float:
        """Count an upload of a user; return 0, or the seconds until there may be one."""
        await trio.lowlevel.checkpoint()
        now, uploads = trio.current_time(), self._state.uploads
        counted = [begun for begun in uploads.get(user_id, ()) if begun + seconds > now]
        if len(counted) >= limit:
            return counted[-limit] + seconds - now
        uploads[user_id] = [*counted, now]
        return 0.0

    async def update(self, updates: Sequence[UserUpdate]) -> Sequence[Sequence[KnownSession]]:
        """Report changes; return the sessions of each user that has more than its limit."""
        await trio.lowlevel.checkpoint()
        return [self._update(update) for update in updates]

    def _update(self, update: UserUpdate) -> Sequence[KnownSession]:
        now, user_id = trio.current_time(), update.user_id
        connections = self._state.connections.setdefault(user_id, {})
        for opened in update.connections:
            known = connections.get(opened.connection_id)
            at = now - opened.seconds if known is None else known.opened_at
            connections[opened.connection_id] = _Connection(self.node, opened.session_id, at)
        for connection_id in update.closed_connections:
            connections.pop(connection_id, None)
        if not connections:
            del self._state.connections[user_id]
        sessions = self._state.sessions.setdefault(user_id, {})
        for kept in update.sessions:
            self._keep(sessions, kept, now)
        for session_id in update.closed_sessions:
            if session_id in sessions and sessions[session_id].node == self.node:
                del sessions[session_id]
        for session_id in update.gone_sessions:
            sessions.pop(session_id, None)
        if not sessions:
            del self._state.sessions[user_id]
        if update.max_sessions is None or len(sessions) <= update.max_sessions:
            return ()
        return [
            KnownSession(
                session_id,
                each.node,
                None if each.detached_at is None else now - each.detached_at,
                each.is_busy,
            )
            for session_id, each in sessions.items()
        ]

    def _keep(self, sessions: dict[SessionId, _Session], kept: KeptSession, now: float) -> None:
        known = sessions.get(kept.session_id)
        if known is not None and known.node != self.node and not kept.is_claimed:
            return
        if known is None and kept.is_released:
            return
        at = None if kept.detached is None else now - kept.detached
        sessions[kept.session_id] = _Session(self.node, at, kept.is_busy)

    async def add_ticket(
        self, user_id: UserId, digest: str, data: bytes, *, seconds: float, per_user: int
    ) -> None:
        """Keep a ticket until it is taken."""
        await trio.lowlevel.checkpoint()
        until = trio.current_time() + seconds
        _add(self._state.tickets, digest, _Ticket(user_id, data, until), per_user)

    async def take_ticket(self, digest: str) -> bytes | None:
        """Remove a ticket; return its data."""
        await trio.lowlevel.checkpoint()
        return _valid(self._state.tickets.pop(digest, None))

    async def add_file_ticket(
        self, user_id: UserId, digest: str, data: bytes, *, seconds: float, per_user: int
    ) -> None:
        """Keep a ticket for a file."""
        await trio.lowlevel.checkpoint()
        until = trio.current_time() + seconds
        _add(self._state.file_tickets, digest, _Ticket(user_id, data, until), per_user)

    async def find_file_ticket(self, digest: str) -> bytes | None:
        """Return the data of a ticket for a file."""
        await trio.lowlevel.checkpoint()
        return _valid(self._state.file_tickets.get(digest))


def _add(tickets: dict[str, _Ticket], digest: str, ticket: _Ticket, per_user: int) -> None:
    now = trio.current_time()
    for old in [old for old, other in tickets.items() if other.until <= now]:
        del tickets[old]
    own = [old for old, other in tickets.items() if other.user_id == ticket.user_id]
    for oldest in own[: max(0, len(own) - per_user + 1)]:
        del tickets[oldest]
    tickets[digest] = ticket


def _valid(ticket: _Ticket | None) -> bytes | None:
    if ticket is None or ticket.until <= trio.current_time():
        return None
    return ticket.data
