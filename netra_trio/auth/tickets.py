"""Tickets: each replaces a token once, within 30 seconds."""

import secrets
from collections import deque

from netra_trio.auth.identity import Identity, invalid_token
from netra_trio.ids import UserId
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.problem import Refused, problem

TICKET_SECONDS = 30  # documented in docs/protocol.md
TICKETS_PER_USER = 20  # ten tabs that connect twice within the lifetime of a ticket
TICKETS = 20_000  # two for each connection that the default limit allows


class Tickets:
    """The issued and unused tickets, within bounds.

    The oldest ticket of a user is dropped when there are more than `TICKETS_PER_USER`.
    """

    def __init__(self) -> None:
        self._tickets: dict[str, tuple[Identity, float]] = {}  # ordered by expiry
        self._by_user: dict[UserId, deque[str]] = {}

    def issue(self, identity: Identity, now: float) -> str:
        """Return a new ticket, valid once within 30 seconds; `now` is seconds of any clock.

        Raises:
            Refused: SERVICE_UNAVAILABLE, if there are too many unused tickets.
        """
        self._drop_expired(now)
        own = self._by_user.get(identity.user_id)
        if own is not None and len(own) >= TICKETS_PER_USER:
            self._remove(own[0])
        if len(self._tickets) >= TICKETS:
            raise Refused(
                problem(
                    ErrorCode.SERVICE_UNAVAILABLE,
                    "Too many tickets are waiting to be used.",
                    retry_after_ms=TICKET_SECONDS * 1000,
                )
            )
        ticket = secrets.token_urlsafe(24)
        self._tickets[ticket] = (identity, now + TICKET_SECONDS)
        self._by_user.setdefault(identity.user_id, deque()).append(ticket)
        return ticket

    def redeem(self, ticket: str, now: float) -> Identity:
        """Return the identity of a ticket, and invalidate the ticket.

        Raises:
            Refused: INVALID_TOKEN, if it was used, has expired or never existed.
        """
        self._drop_expired(now)
        if ticket not in self._tickets:
            raise invalid_token("The ticket was used already, has expired, or never existed.")
        return self._remove(ticket)

    def __len__(self) -> int:
        return len(self._tickets)

    def _drop_expired(self, now: float) -> None:
        while self._tickets:
            oldest = next(iter(self._tickets))
            if self._tickets[oldest][1] > now:
                break
            self._remove(oldest)

    def _remove(self, ticket: str) -> Identity:
        identity, _ = self._tickets.pop(ticket)
        own = self._by_user[identity.user_id]
        own.remove(ticket)
        if not own:
            del self._by_user[identity.user_id]
        return identity
