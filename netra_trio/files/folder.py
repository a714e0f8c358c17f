"""A `FileStorage` in a folder of this machine, or in one that several nodes share.

    storage = FolderStorage(Path(".netra/files"))

A file is below one of 4096 folders, so that none of them gets too large to list. Calls of the file
system run in threads: a folder in the network may take long to answer.
"""

import hashlib
import os
import secrets
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from netra_trio.errors import ContentMissing, StorageUnavailable
from netra_trio.files.base import check_id
from netra_trio.files.chunks import Chunks
from netra_trio.files.folders import make_private, sweep_folder, sync_folder
from netra_trio.files.threads import OpenFile, StorageThreads
from netra_trio.ids import FileId

FOLDER_DIGITS = 3  # hexadecimal: 4096 folders


class FolderStorage:
    """The content of files below a folder, which is created when it is needed.

    Only the user of the server can open the folder and its files.

    Args:
        folder: The folder.
        is_temporary: Whether it is on a disk of this machine, and deleted when the storage is
            closed.

    Attributes:
        is_temporary: As above.
        threads: Call the file system.
    """

    def __init__(self, folder: Path, *, is_temporary: bool = False) -> None:
        self._folder = folder
        self.is_temporary = is_temporary
        self.threads = StorageThreads(is_inline=is_temporary)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Hold the storage open; a temporary folder is deleted at the end of the block."""
        try:
            yield
        finally:
            if self.is_temporary:
                shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def spool_folder(self) -> Path:
        """The folder for temporary files, in the same file system."""
        return self._folder / "spool"

    def location(self, file_id: FileId) -> str:
        """Return the path of the content."""
        return str(self._path(file_id))

    async def check(self) -> None:
        """Return if a file can be written into the folder, or the folder can be made."""
        await self.threads.run(self._check)

    async def put(self, file_id: FileId, path: Path) -> None:
        """Write the content permanently to the disk, then move the file to its place."""
        target = self._path(file_id)
        await self.threads.run_undoable(
            partial(self._put, target, path), partial(target.unlink, missing_ok=True)
        )

    @asynccontextmanager
    async def read(
        self, file_id: FileId, *, start: int = 0, size: int | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Read content in chunks; leaving the block closes the file."""
        path = self._path(file_id)
        with OpenFile() as content:
            try:
                await self.threads.run(content.open, path)
            except StorageUnavailable as error:
                if isinstance(error.__cause__, FileNotFoundError):
                    raise ContentMissing(f"there is no content of {file_id}") from None
                raise

            async def read(start: int, size: int) -> bytes:
                return await self.threads.run(content.read, start, size)

            yield Chunks(read, start, size)

    async def delete(self, file_id: FileId) -> None:
        """Delete content; no effect if there is none."""
        await self.threads.run(self._path(file_id).unlink, True)

    async def sweep(self, older_than: float) -> int:
        """Delete temporary files that killed processes have left; return how many."""
        if self.is_temporary:
            await trio.lowlevel.checkpoint()
            return 0
        return await self.threads.run(sweep_folder, self.spool_folder, older_than)

    def _path(self, file_id: FileId) -> Path:
        check_id(file_id)
        digest = hashlib.blake2b(file_id.encode(), digest_size=8).hexdigest()
        return self._folder / digest[:FOLDER_DIGITS] / file_id

    def _check(self) -> None:
        if not self._folder.exists():
            parents = (parent for parent in self._folder.absolute().parents if parent.exists())
            # The permissions do not tell: root may write everywhere, and a disk may be read-only.
            probe = next(parents) / f".netra-trio-{secrets.token_hex(8)}"
            probe.mkdir(mode=0o700)
            probe.rmdir()
            return
        make_private(self.spool_folder)
        probe = self.spool_folder / f"probe-{secrets.token_hex(8)}"
        try:
            probe.touch(mode=0o600, exist_ok=False)
        finally:
            probe.unlink(missing_ok=True)

    def _put(self, target: Path, path: Path) -> None:
        make_private(target.parent)
        with path.open("rb") as content:
            os.fsync(content.fileno())
        path.replace(target)
        sync_folder(target.parent)
