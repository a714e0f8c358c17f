"""The files of users: uploads and the files of agents, from their bytes to their deletion.

files = Files(storage, store, settings=settings, wall_clock=time.time)
stored = await files.upload(user_id, chunks, name="report.pdf")
async with files.read(stored.file_id) as chunks:
    async for chunk in chunks:
        ...
"""

from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

import structlog
import trio

from netra_trio.config.settings import Settings
from netra_trio.errors import FilesFull, StorageUnavailable, StoreUnavailable, leaves
from netra_trio.files.base import FileStorage
from netra_trio.files.names import safe_name
from netra_trio.files.spool import CLEANUP_SECONDS, Content, Spool
from netra_trio.ids import FileId, UserId, new_file_id
from netra_trio.stores.files import DELETED_PAGE, UNFINISHED_SECONDS, FileStore, StoredFile

COLLECT_SECONDS = 300.0  # between two searches for files whose content is to be deleted
DELETES = 8  # of content at the same time
FAILURES = 1000  # of one search, after which it ends

_log = structlog.get_logger(__name__)


class Files:
    """The files of users.

    Args:
        storage: Keeps their content.
        store: Keeps their rows.
        settings: The limits.
        wall_clock: Returns Unix seconds.
    """

    def __init__(
        self,
        storage: FileStorage,
        store: FileStore,
        *,
        settings: Settings,
        wall_clock: Callable[[], float],
    ) -> None:
        self._storage = storage
        self._store = store
        self._settings = settings
        self._wall_clock = wall_clock
        self._wanted = trio.Event()
        self._is_reported = False
        self._is_available = True

    def open(self) -> AbstractAsyncContextManager[None]:
        """Hold the storage open; entered once, before any other call."""
        return self._storage.open()

    async def check(self) -> None:
        """Return if the storage can be read and written now.

        Raises:
            StorageUnavailable: It cannot; the first time after a success it is logged.
        """
        try:
            await self._storage.check()
        except StorageUnavailable as error:
            if self._is_available:
                _log.warning("files_unavailable", reason=str(error))
            self._is_available = False
            raise
        if not self._is_available:
            _log.info("files_available")
        self._is_available = True

    async def upload(
        self,
        user_id: UserId,
        chunks: AsyncIterable[bytes],
        *,
        name: str = "",
        media_type: str | None = None,
    ) -> StoredFile:
        """Store a file. Cancelling is safe: a file that is not finished is deleted.

        Args:
            user_id: The user who has it.
            chunks: Its content; an exception of iterating is raised, and nothing is stored.
            name: Its name, which may have a path; it is cleaned.
            media_type: Its type, if its source is to be trusted; by default it is detected.

        Raises:
            FileTooLarge: It has more bytes than a file may have.
            FilesFull: The user would have more bytes than permitted.
            NotStorable: The user or the name can never be stored.
            StorageUnavailable: The storage cannot store it now.
            StoreUnavailable: The store cannot answer now.
        """
        name, folder = safe_name(name), self._storage.spool_folder
        limit = self._settings.files_max_bytes
        async with Spool(folder, limit=limit, threads=self._storage.threads) as spool:
            async for chunk in chunks:
                await spool.write(chunk)
            content = await spool.finish(name)
            if media_type is not None:
                content = Content(media_type, content.size, content.sha256)
            return await self._store_content(user_id, name, content, spool)

    async def find(self, user_id: UserId, file_id: FileId) -> StoredFile | None:
        """Return a file of a user; None if the user has none of this id.

        Raises:
            StoreUnavailable: The store cannot answer now.
        """
        found = await self._store.find_files(user_id, [file_id])
        return found[0] if found else None

    @asynccontextmanager
    async def read(
        self, file_id: FileId, *, start: int = 0, size: int | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Read the content of a file in chunks; leaving the block ends the transfer.

        Args:
            file_id: The file.
            start: The first byte, before the end of the content; 0 if it is empty.
            size: How many bytes, which the content has; None for all that follow.

        Raises:
            ContentMissing: On entering, if there is no such content.
            StorageUnavailable: The storage cannot be read now.
        """
        async with self._storage.read(file_id, start=start, size=size) as chunks:
            yield chunks

    async def read_bytes(self, file_id: FileId, max_bytes: int) -> bytes:
        """Return the first bytes of a file, at most `max_bytes`.

        Raises:
            ContentMissing: There is no such content.
            StorageUnavailable: The storage cannot be read now.
        """
        found = bytearray()
        async with self.read(file_id) as chunks:
            async for chunk in chunks:
                found += chunk
                if len(found) >= max_bytes:
                    break
        return bytes(found[:max_bytes])

    def collect_soon(self) -> None:
        """Delete the content of deleted files soon, without waiting for the next interval."""
        self._wanted.set()

    async def run(self) -> None:
        """Delete the content of deleted files, until cancelled. Other nodes may do so as well."""
        with suppress(StorageUnavailable):  # it is logged: an operator learns of it at the start
            await self.check()
        while True:
            await self.collect()
            with trio.move_on_after(COLLECT_SECONDS):
                await self._wanted.wait()
            self._wanted = trio.Event()

    async def collect(self) -> None:
        """Delete the content of deleted files, and temporary files of killed processes."""
        try:
            await self._sweep()
            await self._delete_all()
        except* (StorageUnavailable, StoreUnavailable) as failed:
            if not self._is_reported:
                reason = next(leaves(failed))
                _log.warning("files_not_deleted", reason=str(reason))
            self._is_reported = True
        else:
            self._is_reported = False

    async def _delete_all(self) -> None:
        """Delete what can be deleted; up to `FAILURES` that cannot do not block the others.

        Raises:
            StorageUnavailable: Some was not deleted.
            StoreUnavailable: The store cannot answer now.
        """
        failures: dict[FileId, StorageUnavailable] = {}
        while len(failures) < FAILURES:
            page = await self._store.deleted_files(DELETED_PAGE + len(failures))
            if failures.keys() >= set(page):
                break
            limiter, deleted = trio.CapacityLimiter(DELETES), list[FileId]()
            async with trio.open_nursery() as nursery:
                for file_id in page:
                    if file_id not in failures:
                        nursery.start_soon(self._delete, file_id, limiter, deleted, failures)
            await self._store.forget_files(deleted)
            if not deleted:
                await self._storage.check()  # one that cannot be used is not tried with the others
        if failures:
            raise next(iter(failures.values()))

    async def _sweep(self) -> None:
        deleted = await self._storage.sweep(UNFINISHED_SECONDS)
        if deleted:
            _log.info("uploads_deleted", count=deleted)

    async def _delete(
        self,
        file_id: FileId,
        limiter: trio.CapacityLimiter,
        deleted: list[FileId],
        failures: dict[FileId, StorageUnavailable],
    ) -> None:
        async with limiter:
            try:
                await self._storage.delete(file_id)
            except StorageUnavailable as failure:
                failures[file_id] = failure
            else:
                deleted.append(file_id)

    async def _store_content(
        self, user_id: UserId, name: str, content: Content, spool: Spool
    ) -> StoredFile:
        file = StoredFile(
            file_id=new_file_id(),
            user_id=user_id,
            name=name,
            media_type=content.media_type,
            size=content.size,
            sha256=content.sha256,
            created_at=self._wall_clock(),
        )
        limit = self._settings.files_user_max_bytes
        try:
            has_room = await self._store.reserve_file(file, max_bytes=limit)
            if has_room:
                await self._storage.put(file.file_id, spool.path)
        except BaseException:
            await self._drop(file.file_id)
            raise
        if not has_room:
            raise FilesFull(limit)
        # If this fails the file may be finished: then it is deleted as one that no message names.
        if not await self._store.finish_file(file.file_id):
            await self._drop(file.file_id)
            raise StorageUnavailable("the content took too long to be stored")
        return file

    async def _drop(self, file_id: FileId) -> None:
        """Delete a file that was not finished; `collect` later deletes what fails here."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLEANUP_SECONDS):
            try:
                await self._storage.delete(file_id)
                await self._store.forget_files([file_id])
            except (StorageUnavailable, StoreUnavailable):
                return
