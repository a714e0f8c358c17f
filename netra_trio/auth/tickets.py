"""Tickets: each replaces a token once, within 30 seconds.

    ticket = await tickets.issue(identity, now)
    identity = await tickets.redeem(ticket, now)

`LocalTickets` keeps them in this process, `SharedTickets` where all nodes find them.
"""

import secrets
from collections import deque
from hashlib import sha256
from typing import Protocol

from orjson import dumps, loads

from netra_trio.auth.identity import Identity, invalid_token
from netra_trio.broker.limits import Limits
from netra_trio.errors import BrokerUnavailable
from netra_trio.ids import UserId
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.problem import Refused, broker_unavailable, problem

TICKET_SECONDS = 30  # documented in docs/protocol.md
TICKETS_PER_USER = 20  # ten tabs that connect twice within the lifetime of a ticket
TICKETS = 20_000  # of one process: two for each connection that the default limit allows


class Tickets(Protocol):
    """The issued and unused tickets, within bounds.

    The oldest ticket of a user is dropped when there are more than `TICKETS_PER_USER`. Cancelling
    is safe; a ticket that was being redeemed may then be used up.
    """

    async def issue(self, identity: Identity, now: float) -> str:
        """Return a new ticket, valid once within 30 seconds; `now` is seconds of Trio's clock.

        Raises:
            Refused: SERVICE_UNAVAILABLE, if it cannot be kept.
        """
        ...

    async def redeem(self, ticket: str, now: float) -> Identity:
        """Return the identity of a ticket, and invalidate the ticket.

        Raises:
            Refused: INVALID_TOKEN, if it was used, has expired or never existed;
                SERVICE_UNAVAILABLE, if that is not known now.
        """
        ...


class LocalTickets:
    """The `Tickets` of one process; its methods have no checkpoint."""

    def __init__(self) -> None:
        self._tickets: dict[str, tuple[Identity, float]] = {}  # ordered by expiry
        self._by_user: dict[UserId, deque[str]] = {}

    async def issue(self, identity: Identity, now: float) -> str:
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
        ticket = _new_ticket()
        self._tickets[ticket] = (identity, now + TICKET_SECONDS)
        self._by_user.setdefault(identity.user_id, deque()).append(ticket)
        return ticket

    async def redeem(self, ticket: str, now: float) -> Identity:
        """Return the identity of a ticket, and invalidate the ticket.

        Raises:
            Refused: INVALID_TOKEN, if it was used, has expired or never existed.
        """
        self._drop_expired(now)
        if ticket not in self._tickets:
            raise _used_up()
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


class SharedTickets:
    """The `Tickets` of all nodes; the server that keeps them gets digests, not tickets.

    Args:
        limits: Keeps the tickets.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    async def issue(self, identity: Identity, now: float) -> str:  # noqa: ARG002 - the server has a clock
        """Return a new ticket, valid once within 30 seconds.

        Raises:
            Refused: SERVICE_UNAVAILABLE, if the broker cannot answer now.
        """
        ticket = _new_ticket()
        try:
            await self._limits.add_ticket(
                identity.user_id,
                _digest(ticket),
                dumps(identity.dump()),
                seconds=TICKET_SECONDS,
                per_user=TICKETS_PER_USER,
            )
        except BrokerUnavailable:
            raise Refused(broker_unavailable()) from None
        return ticket

    async def redeem(self, ticket: str, now: float) -> Identity:  # noqa: ARG002 - likewise
        """Return the identity of a ticket, and invalidate the ticket.

        Raises:
            Refused: INVALID_TOKEN, if it was used, has expired or never existed;
                SERVICE_UNAVAILABLE, if the broker cannot answer now.
        """
        try:
            data = await self._limits.take_ticket(_digest(ticket))
        except BrokerUnavailable:
            raise Refused(broker_unavailable()) from None
        if data is None:
            raise _used_up()
        return Identity.load(loads(data))


def _new_ticket() -> str:
    return secrets.token_urlsafe(24)


def _digest(ticket: str) -> str:
    # A ticket of a client may have any characters, lone surrogates too.
    return sha256(ticket.encode("utf-8", "surrogatepass")).hexdigest()


def _used_up() -> Refused:
    return invalid_token("The ticket was used already, has expired, or never existed.")
