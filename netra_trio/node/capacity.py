"""The capacity of a node: connection slots, the connections of each user, and the drain.

with capacity.connection_slot():            # from the first check of an upgrade to its end
    with await limit.admit(user_id, connection_id, resumed) as place:
        place.evict()
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, Self

import trio

from netra_trio.config.settings import Settings
from netra_trio.connections.connection import Connection
from netra_trio.ids import ConnectionId, NodeId, SessionId, UserId
from netra_trio.protocol.codes import EndReason, ErrorCode
from netra_trio.protocol.problem import Problem, Refused, problem
from netra_trio.sessions.refusals import RECONNECT_AFTER_MS
from netra_trio.sessions.users import User, UserConnection, Users

FULL_RETRY_MS = 5000  # before a client without a slot retries: by then other connections may end


class Capacity:
    """Decides whether a new connection is accepted.

    Args:
        settings: The limits.

    Attributes:
        is_draining: Whether new connections are refused because the server drains.
        slots_used: How many connections and upgrades in progress there are.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.is_draining = False
        self.slots_used = 0

    def check_open(self) -> None:
        """Refuse every request while the server drains.

        Raises:
            Refused: SERVER_DRAINING.
        """
        if self.is_draining:
            text = "The server is about to restart."
            raise Refused(
                problem(ErrorCode.SERVER_DRAINING, text, retry_after_ms=RECONNECT_AFTER_MS)
            )

    def check_room(self) -> None:
        """Refuse an upgrade while the server drains, or is full.

        Raises:
            Refused: SERVER_DRAINING or SERVER_FULL.
        """
        self.check_open()
        if self.slots_used >= self._settings.max_connections:
            text = f"All {self._settings.max_connections} places are taken."
            raise Refused(problem(ErrorCode.SERVER_FULL, text, retry_after_ms=FULL_RETRY_MS))

    @contextmanager
    def connection_slot(self) -> Iterator[None]:
        """Hold a connection slot.

        Raises:
            Refused: SERVER_DRAINING or SERVER_FULL.
        """
        self.check_room()
        self.slots_used += 1
        try:
            yield
        finally:
            self.slots_used -= 1

    def connection_to_evict(
        self, user: User, replaced: UserConnection | None
    ) -> UserConnection | None:
        """Return the connection that a new connection of a user evicts; None if it evicts none.

        Args:
            user: The user.
            replaced: The connection that the new one replaces, on the same session.

        Raises:
            Refused: CONNECTION_LIMIT_EXCEEDED, if the policy is to reject the new connection.
        """
        # A connection that is ending does not count: a reconnect must not evict another connection.
        staying = [
            connection
            for connection in user.connections
            if connection.reason is None and connection is not replaced
        ]
        if len(staying) < self._settings.max_connections_per_user:
            return None
        if self._settings.connection_limit_policy == "reject":
            raise self.too_many_connections()
        return staying[0]

    def too_many_connections(self) -> Refused:
        """Return the error for a new connection beyond the limit of its user."""
        return Refused(self._limit_problem(retry_after_ms=FULL_RETRY_MS))

    def evict(self, connection: UserConnection) -> None:
        """End a connection because of the limit of its user."""
        connection.end(EndReason.EVICTED, self._limit_problem(recoverable=False))

    def _limit_problem(self, **more: Any) -> Problem:
        limit = self._settings.max_connections_per_user
        text = f"A user may have {limit} connections at once."
        return problem(ErrorCode.CONNECTION_LIMIT_EXCEEDED, text, **more)


class Place(Protocol):
    """The place of one connection among those of its user.

    It is given back at the end of the `with` block, or when its connection ends.
    """

    def __enter__(self) -> Self:
        """Enter the block."""
        ...

    def __exit__(self, *_: object) -> None:
        """Give the place back."""
        ...

    def evict(self) -> None:
        """End the connections that make room for this one."""
        ...

    def hold(self, connection: Connection) -> None:
        """Let a connection have it until the connection ends."""
        ...

    def relay(self, session_id: SessionId, owner: NodeId) -> None:
        """Let a connection have it that is relayed to another node, until the end of the block."""
        ...


class ConnectionLimit(Protocol):
    """Counts the connections of each user, and their openings over several nodes."""

    async def take_opening(self, user_id: UserId) -> float | None:
        """Count an opening of a user over all nodes. Cancelling is safe.

        Returns:
            0, or the seconds until there may be one; None if this node has to count it alone.
        """
        ...

    async def admit(
        self, user_id: UserId, connection_id: ConnectionId, resumed: SessionId | None
    ) -> Place:
        """Return a place for a new connection. Cancelling is safe.

        Args:
            user_id: The user.
            connection_id: The id of the new connection.
            resumed: The session that it resumes: it replaces the connection of this session.

        Raises:
            Refused: CONNECTION_LIMIT_EXCEEDED, if the policy is to reject the new connection.
        """
        ...


class LocalPlace:
    """A `Place` on one node, which counts the connections that it has."""

    __slots__ = ("_capacity", "_evicted")

    def __init__(self, capacity: Capacity, evicted: UserConnection | None) -> None:
        self._capacity = capacity
        self._evicted = evicted

    def __enter__(self) -> Self:
        """Enter the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing: only open connections count."""

    def evict(self) -> None:
        """End the connection that makes room for this one."""
        if self._evicted is not None:
            self._capacity.evict(self._evicted)

    def hold(self, connection: Connection) -> None:
        """Do nothing: only open connections count."""

    def relay(self, session_id: SessionId, owner: NodeId) -> None:
        """Do nothing: only the connections of this node count."""


class LocalConnectionLimit:
    """The `ConnectionLimit` of one node; its methods have no checkpoint.

    A connection counts from its first frame to the first reason to end it.

    Args:
        capacity: The limits.
        users: The users of this node.
        newest: The newest connection of each session of this node.
    """

    def __init__(
        self, capacity: Capacity, users: Users, newest: Mapping[SessionId, Connection]
    ) -> None:
        self._capacity = capacity
        self._users = users
        self._newest = newest

    async def take_opening(self, user_id: UserId) -> None:
        """Return None: there is no other node."""

    async def admit(
        self,
        user_id: UserId,
        connection_id: ConnectionId,  # noqa: ARG002 - a node finds its connections itself
        resumed: SessionId | None,
    ) -> LocalPlace:
        """Return a place for a new connection.

        Raises:
            Refused: CONNECTION_LIMIT_EXCEEDED, if the policy is to reject the new connection.
        """
        user = self._users.get(user_id, trio.current_time())
        replaced = None if resumed is None else self._newest.get(resumed)
        return LocalPlace(self._capacity, self._capacity.connection_to_evict(user, replaced))
