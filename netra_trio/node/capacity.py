"""The capacity of a node: connection slots, the connections of each user, and the drain.

with capacity.connection_slot():            # from the first check of an upgrade to its end
    evicted = capacity.connection_to_evict(user, replaced)
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from netra_trio.config.settings import Settings
from netra_trio.protocol.codes import EndReason, ErrorCode
from netra_trio.protocol.problem import Problem, Refused, problem
from netra_trio.sessions.refusals import RECONNECT_AFTER_MS
from netra_trio.sessions.users import ClosableConnection, User

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
        self, user: User, replaced: ClosableConnection | None
    ) -> ClosableConnection | None:
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
            raise Refused(self._limit_problem(retry_after_ms=FULL_RETRY_MS))
        return staying[0]

    def evict(self, connection: ClosableConnection) -> None:
        """End a connection because of the limit of its user."""
        connection.end(EndReason.EVICTED, self._limit_problem(recoverable=False))

    def _limit_problem(self, **more: Any) -> Problem:
        limit = self._settings.max_connections_per_user
        text = f"A user may have {limit} connections at once."
        return problem(ErrorCode.CONNECTION_LIMIT_EXCEEDED, text, **more)
