"""The interface `Limits`, and the values that it takes and returns: what is counted over all nodes.

    opened = await limits.open_connection(
        user_id, connection_id, session_id=None, limit=5, evicts=True
    )
    await limits.update([UserUpdate(user_id, closed_connections=[connection_id])])

Each node reports the connections and sessions that it has. A report about a user is kept for
`USER_SECONDS`, so a node reports everything again more often than that. The suite
`tests/broker/test_limits_contract.py` checks each implementation.

Every method raises `BrokerUnavailable` if the server does not answer in time. Cancelling is always
safe. After a call that raised or was cancelled, its change may have been made all the same.
"""

from collections.abc import Collection, Sequence
from typing import Protocol

from attrs import frozen

from netra_trio.ids import ConnectionId, NodeId, SessionId, UserId

USER_SECONDS = 1800.0  # three times as long as the time after which nodes report everything again


@frozen
class OpenedConnection:
    """The answer to a new connection.

    Attributes:
        is_accepted: Whether it is counted now.
        evicted: The connections that make room for it, each with its node; they are no longer
            counted. More than one if the limit was exceeded before.
        undecided: The other nodes whose connections reach the limit, if it was not known which
            nodes are gone. Nothing has changed then.
    """

    is_accepted: bool
    evicted: tuple[tuple[ConnectionId, NodeId], ...] = ()
    undecided: frozenset[NodeId] = frozenset()


@frozen
class OpenConnection:
    """A connection that a node has.

    Attributes:
        seconds: How long it is open.
    """

    connection_id: ConnectionId
    session_id: SessionId
    seconds: float


@frozen
class KeptSession:
    """A session that a node has.

    Attributes:
        detached: How many seconds it is without a connection; None if it has one.
        is_busy: Whether it has a run.
        is_claimed: Whether this node has just made it or taken it over. Otherwise a session that
            another node has reported since stays with that node.
        is_released: Whether this node has given it away. That changes a report of this node only:
            another node may have reported the session, and its end.
    """

    session_id: SessionId
    detached: float | None
    is_busy: bool
    is_claimed: bool = False
    is_released: bool = False


@frozen
class KnownSession:
    """A session of a user, as its node reported it last.

    Attributes:
        detached: How many seconds it is without a connection; None if it has one.
    """

    session_id: SessionId
    node: NodeId
    detached: float | None
    is_busy: bool


@frozen
class UserUpdate:
    """The changes of a user on this node.

    Attributes:
        connections: New and changed connections.
        closed_connections: Connections that have ended.
        sessions: New and changed sessions.
        closed_sessions: Sessions that have ended. One that another node has reported is kept.
        gone_sessions: Sessions that no node has any more.
        max_sessions: The limit; all sessions are returned if there are more. None: do not return
            them.
    """

    user_id: UserId
    connections: Sequence[OpenConnection] = ()
    closed_connections: Sequence[ConnectionId] = ()
    sessions: Sequence[KeptSession] = ()
    closed_sessions: Sequence[SessionId] = ()
    gone_sessions: Sequence[SessionId] = ()
    max_sessions: int | None = None


class Limits(Protocol):
    """The counts over all nodes, as one node sees them."""

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
        """Count a new connection of a user, if the limit permits it.

        Connections of nodes that are gone count until this knows of it. So a call without `gone`
        that reaches the limit because of other nodes decides nothing; the caller then looks up
        which of them are gone, and calls again.

        Args:
            user_id: The user.
            connection_id: The connection.
            session_id: The session that it resumes; connections of this session do not count.
            limit: Connections of the user at the same time.
            evicts: Whether the oldest connections make room beyond the limit.
            gone: Nodes that are gone; None if it is not known.
        """
        ...

    async def take_opening(self, user_id: UserId, *, rate: int, burst: int) -> float:
        """Count an opening of a user; return 0, or the seconds until there may be one.

        Args:
            user_id: The user.
            rate: Openings in a second, after the burst.
            burst: Openings at once.
        """
        ...

    async def take_upload(self, user_id: UserId, *, limit: int, seconds: float) -> float:
        """Count an upload of a user; return 0, or the seconds until there may be one.

        Args:
            user_id: The user.
            limit: Uploads in any period.
            seconds: The period.
        """
        ...

    async def update(self, updates: Sequence[UserUpdate]) -> Sequence[Sequence[KnownSession]]:
        """Report changes; each user is updated at once or not at all.

        Returns:
            For each update, all sessions of its user, if there are more than its limit.
        """
        ...

    async def add_ticket(
        self, user_id: UserId, digest: str, data: bytes, *, seconds: float, per_user: int
    ) -> None:
        """Keep a ticket until it is taken.

        Args:
            user_id: The user.
            digest: The digest of the ticket.
            data: What it stands for.
            seconds: How long it is kept.
            per_user: Beyond this number of tickets, the oldest one of the user is dropped.
        """
        ...

    async def take_ticket(self, digest: str) -> bytes | None:
        """Remove a ticket; return its data, None if it is unknown. Only one caller gets them."""
        ...

    async def add_file_ticket(
        self, user_id: UserId, digest: str, data: bytes, *, seconds: float, per_user: int
    ) -> None:
        """Keep a ticket for a file, which may be used again until it expires.

        The arguments are those of `add_ticket`; the tickets of the two kinds do not count together.
        """
        ...

    async def find_file_ticket(self, digest: str) -> bytes | None:
        """Return the data of a ticket for a file; None if it is unknown."""
        ...
