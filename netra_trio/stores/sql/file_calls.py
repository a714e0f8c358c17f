"""The calls of `SqlStore` about files."""

from collections.abc import Callable, Collection, Sequence
from functools import partial

from sqlalchemy import Connection

from netra_trio.errors import DatabaseUnusable, StoreUnavailable
from netra_trio.ids import FileId, UserId
from netra_trio.stores.files import DELETED_PAGE, StoredFile
from netra_trio.stores.sql.files import (
    count_bytes,
    find,
    finish,
    forget,
    is_any_due,
    reserve,
    take_deleted,
)
from netra_trio.stores.sql.leases import now
from netra_trio.stores.sql.thread_calls import ThreadCalls


class FileCalls(ThreadCalls):
    """A part of `SqlStore`, which sets the attributes."""

    _wall_clock: Callable[[], float]

    async def reserve_file(self, file: StoredFile, *, max_bytes: int) -> bool:
        """Record a file whose content is not written yet; return whether there is room for it."""
        try:
            return await self.database.write_repeatable(
                partial(reserve, file=file, max_bytes=max_bytes)
            )
        except DatabaseUnusable as error:  # it was usable at the start
            raise StoreUnavailable(str(error)) from error

    async def finish_file(self, file_id: FileId) -> bool:
        """Make a file readable; return False if it was deleted."""
        return await self._write_now(partial(finish, file_id=file_id))

    async def get_file(self, file_id: FileId) -> StoredFile | None:
        """Return a file that can be read, None if there is none."""
        return (await self.database.read(partial(find, file_ids=[file_id]))).get(file_id)

    async def find_files(
        self, user_id: UserId, file_ids: Collection[FileId]
    ) -> Sequence[StoredFile]:
        """Return those of the files that this user has and that can be read."""
        found = await self.database.read(partial(find, file_ids=file_ids))
        these = (found.get(file_id) for file_id in file_ids)
        return [file for file in these if file is not None and file.user_id == user_id]

    async def count_file_bytes(self, user_id: UserId) -> int:
        """Return the bytes of all files of a user that are not deleted."""
        return await self.database.read(partial(count_bytes, user_id=user_id))

    async def deleted_files(self, limit: int = DELETED_PAGE) -> Sequence[FileId]:
        """Return files whose content is to be deleted, oldest first."""
        await self._writes.flush()  # a message that names a file may be queued
        if not await self.database.read(self._is_any_due):
            return []
        return await self._write_now(partial(self._take_deleted, limit=limit))

    async def forget_files(self, file_ids: Collection[FileId]) -> None:
        """Delete the rows of files whose content is deleted."""
        await self._write_now(partial(forget, file_ids=file_ids))

    def _is_any_due(self, connection: Connection) -> bool:
        return is_any_due(connection, moment=self._moment(connection))

    def _take_deleted(self, connection: Connection, *, limit: int) -> list[FileId]:
        return take_deleted(connection, moment=self._moment(connection), limit=limit)

    def _moment(self, connection: Connection) -> float:
        """Return the earlier of two clocks: one that is ahead must not delete recent files."""
        return min(self._wall_clock(), now(connection))
