"""Writes batches to a database: which failures are tried again, and which are final.

writer = BatchWriter(database, upkeep)
writes = WriteBehind(writer.write)
"""

from collections.abc import Mapping, Sequence

import structlog

from netra_trio.errors import DatabaseUnusable, StoreUnavailable
from netra_trio.stores.sql.batch import Batch
from netra_trio.stores.sql.database import Database, reason
from netra_trio.stores.sql.entries import Known, RecordMessage
from netra_trio.stores.sql.thread_numbers import ThreadNumbers
from netra_trio.stores.sql.upkeep import Upkeep
from netra_trio.stores.sql.write_behind import Entry

ATTEMPTS = 3  # at a batch that meets another process's: one of them succeeds each time

_log = structlog.get_logger(__name__)


class BatchWriter:
    """Writes batches, one at a time.

    Attributes:
        numbers: The threads that were written to last.
    """

    def __init__(self, database: Database, upkeep: Upkeep) -> None:
        self.numbers = ThreadNumbers()
        self._database = database
        self._upkeep = upkeep
        self._may_be_partial = False

    async def write(self, entries: Sequence[Entry]) -> None:
        """Write a batch; an empty one tests whether writing works.

        Raises:
            StoreUnavailable: If the database cannot do it now; the batch may be stored all the
                same, and `write` is called with its entries again.
        """
        try:
            if not self._upkeep.is_ready:
                await self._upkeep.prepare()
            elif self._may_be_partial or not entries:
                await self._upkeep.renew()
            if entries:
                await self._write_batch(entries)
            else:
                # A renewed lease needs no room on a full disk; a message does.
                await self._upkeep.probe()
        except StoreUnavailable:
            self._may_be_partial = True
            raise
        except DatabaseUnusable as error:
            if not self._upkeep.is_ready:
                raise
            self._may_be_partial = True
            raise StoreUnavailable(str(error)) from error
        self._may_be_partial = False

    async def write_one(self, entry: Entry) -> None:
        """Write one entry of a store that is not open, past the queue."""
        await self._database.write(self._batch([entry]).write)

    async def _write_batch(self, entries: Sequence[Entry]) -> None:
        error: Exception | None = None
        for _ in range(ATTEMPTS):
            batch = self._batch(entries)
            try:
                known = await self._database.write(batch.write)
            except (StoreUnavailable, DatabaseUnusable):
                raise
            except Exception as refused:
                # A key that another process recorded, or a thread that it deleted, in between:
                # the next attempt finds that.
                error = refused
                self.numbers.clear()
                continue
            self.numbers.keep(batch.threads)
            _set_known(known)
            return
        if len(entries) > 1:
            for entry in entries:
                await self._write_batch([entry])
        elif error is not None:
            self._refuse(entries[0], error)

    def _batch(self, entries: Sequence[Entry]) -> Batch:
        return Batch(entries, self._upkeep.lease.id, self.numbers, self._may_be_partial)

    def _refuse(self, entry: Entry, error: Exception) -> None:
        """Drop an entry that the database never accepts, so that it does not delay the others."""
        _log.error("write_refused", write=type(entry).__name__, reason=reason(error))
        completion = entry.completion
        if completion is not None:
            completion.withdraw(StoreUnavailable("the database refuses it"))


def _set_known(known: Mapping[RecordMessage, Known]) -> None:
    for entry, found in known.items():
        entry.known = found
