"""Writes batches to a database, and decides which failures are final.

writer = BatchWriter(database, upkeep)
writes = WriteBehind(writer.write)
"""

from collections.abc import Mapping, Sequence

import structlog
from attrs import evolve

from netra_trio.errors import DatabaseUnusable, NotStorable, StoreUnavailable, place_of
from netra_trio.stores.sql.batch import Batch
from netra_trio.stores.sql.database import Database
from netra_trio.stores.sql.entries import EndRun, Known, RecordMessage
from netra_trio.stores.sql.errors import AnswerLost, Fault, fault_of, reason
from netra_trio.stores.sql.thread_numbers import ThreadNumbers
from netra_trio.stores.sql.upkeep import Upkeep
from netra_trio.stores.sql.write_behind import Entry

ATTEMPTS = 3  # for a batch that conflicts with another process

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
            try:
                await self._write_once(entries)
            except AnswerLost:
                self._may_be_partial = True  # the next attempt skips what is stored already
                await self._write_once(entries)
        except StoreUnavailable:
            self._may_be_partial = True
            raise
        except DatabaseUnusable as error:
            if not self._upkeep.is_ready:
                raise
            self._may_be_partial = True
            raise StoreUnavailable(str(error)) from error
        self._may_be_partial = False

    async def _write_once(self, entries: Sequence[Entry]) -> None:
        if not self._upkeep.is_ready:
            await self._upkeep.prepare()
        elif self._may_be_partial or not entries:
            await self._upkeep.renew()
        if entries:
            await self._write_batch(entries)
        else:
            # On a full disk a lease can still be renewed, but a message cannot be stored.
            await self._upkeep.probe()

    async def write_one(self, entry: Entry) -> None:
        """Write one entry of a store that is not open, past the queue."""
        await self._database.write_repeatable(self._batch([entry]).write)

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
                if fault_of(refused) is Fault.CONFLICT:
                    continue
                break
            self.numbers.keep(batch.threads)
            _set_known(known)
            return
        if len(entries) > 1:
            for entry in entries:
                await self._write_batch([entry])
        elif error is not None:
            await self._refuse(entries[0], error)

    def _batch(self, entries: Sequence[Entry]) -> Batch:
        return Batch(entries, self._upkeep.lease.id, self.numbers, self._may_be_partial)

    async def _refuse(self, entry: Entry, error: Exception) -> None:
        """Drop an entry that the database rejects, so that it does not block the others."""
        _log.error("write_refused", write=type(entry).__name__, reason=_where_and_why(error))
        if isinstance(entry, EndRun) and entry.end.has_answer:
            # Store the end without the agent's message; else the run would stay `running`.
            plain = EndRun(evolve(entry.end, text="", truncated=True, steps=None, attachments=()))
            plain.completion = entry.completion
            await self._write_batch([plain])
            entry.stood = plain.stood
            return
        completion = entry.completion
        if completion is not None:
            may_succeed = fault_of(error) is Fault.CONFLICT
            told = StoreUnavailable if may_succeed else NotStorable
            completion.withdraw(told("the database refuses it"))


def _where_and_why(error: Exception) -> str:
    """Return why a write failed.

    For a program error return only the place, because its text may quote a user.
    """
    if fault_of(error) is Fault.OTHER:
        return f"{type(error).__name__} at {place_of(error)}"
    return reason(error)


def _set_known(known: Mapping[RecordMessage, Known]) -> None:
    for entry, found in known.items():
        entry.known = found
