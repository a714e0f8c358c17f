"""Tickets: each replaces a token, once within 30 seconds, or for one file within 300 seconds.

    ticket = await tickets.issue(identity, now)
    identity = await tickets.redeem(ticket, now)
    ticket = await tickets.issue_for_file(identity, file_id, now)
    identity = await tickets.check_for_file(ticket, file_id, now)

A ticket for a file opens nothing else, and may be used again: a page may load an image twice.
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
from netra_trio.ids import FileId, UserId
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.problem import Refused, broker_unavailable, problem

TICKET_SECONDS = 30  # documented in docs/protocol.md
TICKETS_PER_USER = 20  # ten tabs that connect twice within the lifetime of a ticket
TICKETS = 20_000  # of one process: two for each connection that the default limit allows
FILE_TICKET_SECONDS = 300  # documented in docs/protocol.md
FILE_TICKETS_PER_USER = 500  # the images of a long thread
FILE_TICKETS = 20_000  # of one process


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

    async def issue_for_file(self, identity: Identity, file_id: FileId, now: float) -> str:
        """Return a new ticket for a file, valid for 300 seconds; `now` is as for `issue`.

        Raises:
            Refused: SERVICE_UNAVAILABLE, if it cannot be kept.
        """
        ...

    async def check_for_file(self, ticket: str, file_id: FileId, now: float) -> Identity:
        """Return the identity of a ticket for this file; the ticket stays valid.

        Raises:
            Refused: INVALID_TOKEN, if it has expired, never existed or is for another file;
                SERVICE_UNAVAILABLE, if that is not known now.
        """
        ...


class _KeptTickets:
    """Tickets of one kind in this process.

    Args:
        seconds: How long each is kept.
        per_user: Beyond this number the oldest ticket of the user is dropped.
        most: How many there may be.
        drops_oldest: Beyond `most` the oldest ticket of all is dropped, and no new one is refused.
    """

    def __init__(
        self, *, seconds: float, per_user: int, most: int, drops_oldest: bool = False
    ) -> None:
        self._seconds = seconds
        self._per_user = per_user
        self._most = most
        self._drops_oldest = drops_oldest
        self._tickets: dict[str, tuple[Identity, float]] = {}  # ordered by expiry
        self._by_user: dict[UserId, deque[str]] = {}

    def __len__(self) -> int:
        return len(self._tickets)

    def add(self, digest: str, identity: Identity, now: float) -> None:
        """Keep a ticket.

        Raises:
            Refused: SERVICE_UNAVAILABLE, if there are too many and none is dropped.
        """
        self._drop_expired(now)
        own = self._by_user.get(identity.user_id)
        if own is not None and len(own) >= self._per_user:
            self.remove(own[0])
        if len(self._tickets) >= self._most and self._drops_oldest:
            self.remove(next(iter(self._tickets)))
        elif len(self._tickets) >= self._most:
            raise Refused(
                problem(
                    ErrorCode.SERVICE_UNAVAILABLE,
                    "Too many tickets are waiting to be used.",
                    retry_after_ms=int(self._seconds * 1000),
                )
            )
        self._tickets[digest] = (identity, now + self._seconds)
        self._by_user.setdefault(identity.user_id, deque()).append(digest)

    def find(self, digest: str, now: float) -> Identity | None:
        """Return the identity of a ticket; None if there is no such ticket."""
        self._drop_expired(now)
        found = self._tickets.get(digest)
        return None if found is None else found[0]

    def remove(self, digest: str) -> None:
        """Remove a ticket that is kept."""
        identity, _ = self._tickets.pop(digest)
        own = self._by_user[identity.user_id]
        own.remove(digest)
        if not own:
            del self._by_user[identity.user_id]

    def _drop_expired(self, now: float) -> None:
        while self._tickets:
            oldest = next(iter(self._tickets))
            if self._tickets[oldest][1] > now:
                break
            self.remove(oldest)


class LocalTickets:
    """The `Tickets` of one process; its methods have no checkpoint."""

    def __init__(self) -> None:
        self._kept = _KeptTickets(seconds=TICKET_SECONDS, per_user=TICKETS_PER_USER, most=TICKETS)
        # Forty users may have this many. A page uses a ticket at once, and would lose its images if
        # new ones were refused until the others expire.
        self._for_files = _KeptTickets(
            seconds=FILE_TICKET_SECONDS,
            per_user=FILE_TICKETS_PER_USER,
            most=FILE_TICKETS,
            drops_oldest=True,
        )

    async def issue(self, identity: Identity, now: float) -> str:
        """Return a new ticket, valid once within 30 seconds; `now` is seconds of any clock.

        Raises:
            Refused: SERVICE_UNAVAILABLE, if there are too many unused tickets.
        """
        ticket = _new_ticket()
        self._kept.add(_digest(ticket), identity, now)
        return ticket

    async def redeem(self, ticket: str, now: float) -> Identity:
        """Return the identity of a ticket, and invalidate the ticket.

        Raises:
            Refused: INVALID_TOKEN, if it was used, has expired or never existed.
        """
        digest = _digest(ticket)
        identity = self._kept.find(digest, now)
        if identity is None:
            raise _used_up()
        self._kept.remove(digest)
        return identity

    async def issue_for_file(self, identity: Identity, file_id: FileId, now: float) -> str:
        """Return a new ticket for a file, valid for 300 seconds.

        The oldest of all is dropped when there are more than `FILE_TICKETS`.
        """
        ticket = _new_ticket()
        self._for_files.add(_digest(ticket, file_id), identity, now)
        return ticket

    async def check_for_file(self, ticket: str, file_id: FileId, now: float) -> Identity:
        """Return the identity of a ticket for this file.

        Raises:
            Refused: INVALID_TOKEN, if it has expired, never existed or is for another file.
        """
        identity = self._for_files.find(_digest(ticket, file_id), now)
        if identity is None:
            raise _not_for_file()
        return identity

    def __len__(self) -> int:
        return len(self._kept)


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

    async def issue_for_file(
        self,
        identity: Identity,
        file_id: FileId,
        now: float,  # noqa: ARG002 - likewise
    ) -> str:
        """Return a new ticket for a file, valid for 300 seconds.

        Raises:
            Refused: SERVICE_UNAVAILABLE, if the broker cannot answer now.
        """
        ticket = _new_ticket()
        try:
            await self._limits.add_file_ticket(
                identity.user_id,
                _digest(ticket, file_id),
                dumps(identity.dump()),
                seconds=FILE_TICKET_SECONDS,
                per_user=FILE_TICKETS_PER_USER,
            )
        except BrokerUnavailable:
            raise Refused(broker_unavailable()) from None
        return ticket

    async def check_for_file(
        self,
        ticket: str,
        file_id: FileId,
        now: float,  # noqa: ARG002 - likewise
    ) -> Identity:
        """Return the identity of a ticket for this file.

        Raises:
            Refused: INVALID_TOKEN, if it has expired, never existed or is for another file;
                SERVICE_UNAVAILABLE, if the broker cannot answer now.
        """
        try:
            data = await self._limits.find_file_ticket(_digest(ticket, file_id))
        except BrokerUnavailable:
            raise Refused(broker_unavailable()) from None
        if data is None:
            raise _not_for_file()
        return Identity.load(loads(data))


def _new_ticket() -> str:
    return secrets.token_urlsafe(24)


def _digest(ticket: str, file_id: FileId | None = None) -> str:
    # A ticket of a client may have any characters, lone surrogates too. The id of a file is of
    # ours, and has no line feed; so no other ticket has the digest of one for a file.
    text = ticket if file_id is None else f"{file_id}\n{ticket}"
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _used_up() -> Refused:
    return invalid_token("The ticket was used already, has expired, or never existed.")


def _not_for_file() -> Refused:
    return invalid_token("The ticket has expired, never existed, or is not for this file.")
