"""Files in memory, as runs use them: no thread and no folder, for a virtual clock."""

import hashlib
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager

import trio
from attrs import define, field

from netra_trio.errors import ContentMissing, StorageUnavailable
from netra_trio.files.base import CHUNK_BYTES
from netra_trio.ids import FileId, UserId, new_file_id
from netra_trio.stores.files import StoredFile


@define(eq=False)
class KeptFiles:
    """An implementation of `agents.attachments.FileAccess`.

    Attributes:
        files: The files and their content.
        is_down: Whether nothing can be read or stored.
        reads: The first byte of each transfer.
        open_reads: How many transfers are open.
        stores: How many files were stored, finished or not.
        awaits: How often it has waited.
        cancelled: The scope that is cancelled at one of its awaits, counted from 1; None for none.
    """

    files: dict[FileId, tuple[StoredFile, bytes]] = field(factory=dict)
    is_down: bool = False
    reads: list[int] = field(factory=list)
    open_reads: int = 0
    stores: int = 0
    awaits: int = 0
    cancelled: tuple[trio.CancelScope, int] | None = None

    def put(
        self, data: bytes, name: str = "", media_type: str = "text/plain", user: str = "alice"
    ) -> StoredFile:
        """Add a file."""
        file = StoredFile(
            new_file_id(),
            UserId(user),
            name,
            media_type,
            len(data),
            hashlib.sha256(data).hexdigest(),
            0.0,
        )
        self.files[file.file_id] = (file, data)
        return file

    async def find(self, user_id: UserId, file_id: FileId) -> StoredFile | None:
        """Return a file of a user."""
        await self._checkpoint()
        file, _ = self.files.get(file_id, (None, b""))
        return file if file is not None and file.user_id == user_id else None

    async def upload(
        self,
        user_id: UserId,
        chunks: AsyncIterable[bytes],
        *,
        name: str = "",
        media_type: str | None = None,
    ) -> StoredFile:
        """Store a file."""
        self.stores += 1
        data = b""
        async for chunk in chunks:
            await self._checkpoint()
            data += chunk
        self._check()
        await self._checkpoint()
        return self.put(data, name, media_type or "text/plain", user_id)

    @asynccontextmanager
    async def read(
        self, file_id: FileId, *, start: int = 0, size: int | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Read content."""
        self._check()
        self.reads.append(start)
        await self._checkpoint()
        if file_id not in self.files:
            raise ContentMissing(file_id)
        _, data = self.files[file_id]
        assert start < len(data) or start == 0, "the contract of FileStorage.read"
        self.open_reads += 1
        try:
            yield self._chunks(data[start:] if size is None else data[start : start + size])
        finally:
            self.open_reads -= 1

    async def _chunks(self, data: bytes) -> AsyncIterator[bytes]:
        for at in range(0, len(data), CHUNK_BYTES):
            await self._checkpoint()
            self._check()
            yield data[at : at + CHUNK_BYTES]

    def _check(self) -> None:
        if self.is_down:
            raise StorageUnavailable("down")

    async def _checkpoint(self) -> None:
        self.awaits += 1
        if self.cancelled is not None and self.cancelled[1] == self.awaits:
            self.cancelled[0].cancel()
        await trio.lowlevel.checkpoint()
