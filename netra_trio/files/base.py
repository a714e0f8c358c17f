"""The interface `FileStorage`: where the content of files is kept.

    async with storage.open():
        await storage.put(file_id, path)
        async with storage.read(file_id, start=0) as chunks:
            async for chunk in chunks:
                ...

An implementation needs no base class; `tests/files/test_storage_contract.py` checks each one.
"""

import re
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

from netra_trio.errors import ContentMissing
from netra_trio.files.threads import StorageThreads
from netra_trio.ids import FileId

CHUNK_BYTES = 64 * 1024  # of content in memory at once, for each transfer

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def check_id(file_id: FileId) -> None:
    """Check that a text has the form of a file id: no other text becomes a path or a key.

    Raises:
        ContentMissing: It is not.
    """
    if not _ID.fullmatch(file_id):
        raise ContentMissing(f"{file_id!a} is not the id of a file")


class FileStorage(Protocol):
    """The content of files, by their ids. Content is written once and never changed.

    Every method raises `StorageUnavailable` if the storage cannot do it now. Cancelling is always
    safe: `put` then may or may not have stored the content, which `delete` removes. What is stored
    after that, because a call could not be stopped, `put` removes itself.
    """

    @property
    def threads(self) -> StorageThreads:
        """The threads for calls of the file system on temporary files."""
        ...

    def open(self) -> AbstractAsyncContextManager[None]:
        """Hold the storage open while a server uses it; entered once, before any other call.

        It does not wait for a storage that does not answer.
        """
        ...

    def location(self, file_id: FileId) -> str:
        """Return where content is kept, for people: a path, or an address."""
        ...

    async def check(self) -> None:
        """Return if the storage can be read and written now; for health."""
        ...

    @property
    def spool_folder(self) -> Path:
        """The folder for the temporary files that `put` takes."""
        ...

    async def put(self, file_id: FileId, path: Path) -> None:
        """Store the content of a temporary file below `spool_folder`, which may be moved.

        Returns once it is stored permanently: all of it, or nothing.
        """
        ...

    def read(
        self, file_id: FileId, *, start: int = 0, size: int | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Read content in chunks of at most `CHUNK_BYTES`; leaving the block ends the transfer.

        Args:
            file_id: The file.
            start: The first byte, before the end of the content; 0 if it is empty.
            size: How many bytes, which the content has; None for all that follow.

        Raises:
            ContentMissing: On entering, if there is no such content.
        """
        ...

    async def delete(self, file_id: FileId) -> None:
        """Delete content; no effect if there is none."""
        ...

    async def sweep(self, older_than: float) -> int:
        """Delete the temporary files that killed processes have left; return how many.

        Args:
            older_than: Seconds since the last write to such a file.
        """
        ...
