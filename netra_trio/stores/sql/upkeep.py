"""The maintenance of the database by a server: schema, lease, retention.

upkeep = Upkeep(database, retention_days=30, wall_clock=time.time)
await upkeep.prepare()
nursery.start_soon(upkeep.run, report)
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import structlog
import trio
from sqlalchemy import Connection

from netra_trio.errors import DatabaseUnusable, StoreUnavailable, place_of
from netra_trio.ids import NodeId
from netra_trio.protocol.usage import day_of
from netra_trio.stores.sql.database import Database
from netra_trio.stores.sql.errors import reason
from netra_trio.stores.sql.known_keys import forget_deleted
from netra_trio.stores.sql.leases import RENEW_SECONDS, Lease, now
from netra_trio.stores.sql.migrate import migrate
from netra_trio.stores.sql.retention import CHUNK, DAY, USAGE_DAYS, delete_old, delete_old_usage

RETENTION_SECONDS = 3600.0  # between two deletions of what is too old

_T = TypeVar("_T")

_log = structlog.get_logger(__name__)


class _Failed(StoreUnavailable):
    """The failure is not the database's."""


class Upkeep:
    """Keeps the schema, this process's lease and the history of a database up to date.

    Args:
        database: The database.
        retention_days: For how long messages are kept; 0 for ever.
        wall_clock: Returns Unix seconds.
        owner: The id of this process's lease.

    Attributes:
        lease: The lease of this process.
        is_ready: Whether the schema is up to date and the lease was taken.
    """

    def __init__(
        self,
        database: Database,
        *,
        retention_days: int,
        wall_clock: Callable[[], float],
        owner: NodeId,
    ) -> None:
        self.lease = Lease(owner)
        self.is_ready = False
        self._database = database
        self._retention_days = retention_days
        self._wall_clock = wall_clock

    async def prepare(self) -> None:
        """Bring the schema up to date, and take the lease.

        Raises:
            StoreUnavailable: If the database does not answer.
            DatabaseUnusable: If it can never work, for example with a newer schema.
        """
        await self.migrate()
        await self.renew()
        self.is_ready = True

    async def migrate(self) -> None:
        """Bring the schema up to date; raises as `prepare` does."""
        await self._write_usable(migrate)

    async def run(self, report: Callable[[str], None]) -> None:
        """Renew the lease and delete what is too old, until cancelled.

        Args:
            report: Called with the reason if the database is unavailable.
        """
        retention_due = trio.current_time()
        while True:
            is_due = trio.current_time() >= retention_due
            if is_due and await self._try(self._delete_old_or_skip, report):
                retention_due = trio.current_time() + RETENTION_SECONDS
            await trio.sleep(RENEW_SECONDS)
            await self._try(self.renew, report)

    async def renew(self) -> None:
        """Renew the lease, end the runs of ended processes, and delete old keys.

        Raises:
            StoreUnavailable: If the database cannot do it now.
        """
        ended = await self._write(self._renew)
        if ended:
            _log.warning("runs_interrupted", runs=ended)

    def _renew(self, connection: Connection) -> int:
        ended = self.lease.renew(connection)
        forget_deleted(connection)
        return ended

    async def probe(self) -> None:
        """Return if there is room for a large message; raises as `renew` does."""
        await self._write(self.lease.probe_space)

    async def release(self) -> None:
        """End the runs that this process has left, and give the lease up; raises as `renew`."""
        await self._write(self.lease.release)

    async def delete_old(self) -> None:
        """Delete what is older than the retention time; raises as `renew` does."""
        if not self._retention_days:
            return
        # The earlier of two clocks: a clock that is ahead must not delete recent messages.
        moment = min(self._wall_clock(), await self._write(now))
        work = partial(delete_old, older_than=moment - self._retention_days * DAY)
        deleted = found = await self._write(work)
        while found == CHUNK:
            found = await self._write(work)
            deleted += found
        if deleted:
            _log.info("history_deleted", messages=deleted, days=self._retention_days)
        first = day_of(moment - max(self._retention_days, USAGE_DAYS) * DAY)
        while await self._write(partial(delete_old_usage, before=first)) == CHUNK:
            pass

    async def _delete_old_or_skip(self) -> None:
        """Delete what is too old; raise only if the database cannot do it now.

        Any other failure is logged, and ignored: messages can still be stored.
        """
        try:
            await self.delete_old()
        except _Failed:
            return

    async def _try(
        self, work: Callable[[], Awaitable[None]], report: Callable[[str], None]
    ) -> bool:
        """Do work that can be done later as well; return whether it was done."""
        if not self.is_ready:
            return False
        try:
            await work()
        except StoreUnavailable as unavailable:
            report(str(unavailable))
            return False
        return True

    async def _write(self, work: Callable[[Connection], _T]) -> _T:
        """Write something that belongs to no message: every failure may be over the next time."""
        try:
            return await self._write_usable(work)
        except DatabaseUnusable as error:  # it was usable at the start
            raise StoreUnavailable(str(error)) from error

    async def _write_usable(self, work: Callable[[Connection], _T]) -> _T:
        """Run work that may be repeated; raises as `prepare` does."""
        try:
            return await self._database.write_repeatable(work)
        except (StoreUnavailable, DatabaseUnusable):
            raise
        except Exception as error:
            # Without the text of the error, because it may quote a user.
            _log.error("store_failed", fault=type(error).__name__, where=place_of(error))
            raise _Failed(reason(error)) from error
