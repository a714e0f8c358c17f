"""The limits on Valkey or Redis."""

from collections.abc import Collection, Sequence

from attrs import define

from netra_trio.broker.limits import USER_SECONDS, KnownSession, OpenedConnection, UserUpdate
from netra_trio.broker.valkey import keys, scripts
from netra_trio.broker.valkey.calls import Calls, evaluation, milliseconds
from netra_trio.broker.valkey.connection import Command
from netra_trio.ids import ConnectionId, NodeId, SessionId, UserId

ATTACHED = "-"


@define(eq=False)
class ValkeyLimits:
    """The `Limits` of one node."""

    node: NodeId
    _calls: Calls

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
        of_user = keys.of_user(user_id)
        result, *values = await self._calls.run(
            scripts.OPEN_CONNECTION,
            [of_user["connections"], of_user["members"]],
            [
                connection_id,
                self.node,
                session_id or "",
                limit,
                int(evicts),
                int(gone is not None),
                milliseconds(USER_SECONDS),
                *(gone or ()),
            ],
        )
        names = [value.decode() for value in values]
        if result == b"undecided":
            nodes = frozenset(NodeId(node) for node in names)
            return OpenedConnection(is_accepted=False, undecided=nodes)
        evicted = tuple(
            (ConnectionId(connection), NodeId(node))
            for connection, node in zip(names[::2], names[1::2], strict=True)
        )
        return OpenedConnection(is_accepted=result == b"accepted", evicted=evicted)

    async def take_opening(self, user_id: UserId, *, rate: int, burst: int) -> float:
        """Count an opening of a user; return 0, or the seconds until there may be one."""
        openings = keys.of_user(user_id)["openings"]
        wait: int = await self._calls.run(scripts.TAKE_OPENING, [openings], [rate, burst])
        return wait / 1_000_000

    async def take_upload(self, user_id: UserId, *, limit: int, seconds: float) -> float:
        """Count an upload of a user; return 0, or the seconds until there may be one."""
        uploads, period = keys.of_user(user_id)["uploads"], milliseconds(seconds) * 1000
        wait: int = await self._calls.run(scripts.TAKE_UPLOAD, [uploads], [limit, period])
        return wait / 1_000_000

    async def update(self, updates: Sequence[UserUpdate]) -> Sequence[Sequence[KnownSession]]:
        """Report changes; return the sessions of each user that has more than its limit."""
        if not updates:
            return []
        answers = await self._calls.run_all([self._update(update) for update in updates])
        return [_sessions(*answer) if answer else () for answer in answers]

    def _update(self, update: UserUpdate) -> Command:
        of_user = keys.of_user(update.user_id)
        opened: list[str | int] = []
        for connection in update.connections:
            age = milliseconds(connection.seconds)
            opened += [connection.connection_id, connection.session_id, age]
        kept: list[str | int] = []
        for session in update.sessions:
            detached = ATTACHED if session.detached is None else milliseconds(session.detached)
            kind = "claimed" if session.is_claimed else "kept"
            kind = "released" if session.is_released else kind
            kept += [session.session_id, detached, int(session.is_busy), kind]
        lists: Sequence[Sequence[str | int]] = [
            opened,
            update.closed_connections,
            kept,
            update.closed_sessions,
            update.gone_sessions,
        ]
        return evaluation(
            scripts.UPDATE_USER,
            [of_user["connections"], of_user["members"], of_user["sessions"]],
            [
                self.node,
                milliseconds(USER_SECONDS),
                "" if update.max_sessions is None else update.max_sessions,
                *(value for each in lists for value in (len(each), *each)),
            ],
        )

    async def add_ticket(
        self, user_id: UserId, digest: str, data: bytes, *, seconds: float, per_user: int
    ) -> None:
        """Keep a ticket until it is taken."""
        await self._calls.run(
            scripts.ADD_TICKET,
            [keys.of_user(user_id)["tickets"], keys.ticket(digest)],
            [digest, data, milliseconds(seconds), per_user, keys.TICKET_PREFIX],
        )

    async def take_ticket(self, digest: str) -> bytes | None:
        """Remove a ticket; return its data."""
        data: bytes | None = await self._calls.run(
            scripts.TAKE_TICKET, [keys.ticket(digest)], [digest]
        )
        return data

    async def add_file_ticket(
        self, user_id: UserId, digest: str, data: bytes, *, seconds: float, per_user: int
    ) -> None:
        """Keep a ticket for a file."""
        await self._calls.run(
            scripts.ADD_TICKET,
            [keys.of_user(user_id)["file_tickets"], keys.file_ticket(digest)],
            [digest, data, milliseconds(seconds), per_user, keys.FILE_TICKET_PREFIX],
        )

    async def find_file_ticket(self, digest: str) -> bytes | None:
        """Return the data of a ticket for a file."""
        data: bytes | None = await self._calls.run(
            scripts.FIND_TICKET, [keys.file_ticket(digest)], []
        )
        return data


def _sessions(pairs: Sequence[bytes], now: bytes) -> Sequence[KnownSession]:
    found = []
    for session_id, value in zip(pairs[::2], pairs[1::2], strict=True):
        node, since, is_busy = value.decode().split(" ")
        found.append(
            KnownSession(
                SessionId(session_id.decode()),
                NodeId(node),
                None if since == ATTACHED else (int(now) - int(since)) / 1000,
                is_busy == "1",
            )
        )
    return found
