"""A temporary file for content, whose size, digest and type are found while it is written.

    async with Spool(folder, limit=25_000_000, threads=threads) as spool:
        async for chunk in chunks:
            await spool.write(chunk)
        content = await spool.finish("report.pdf")

It is deleted at the end of the block, unless it was moved.
"""

import hashlib
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Self

import trio
from attrs import frozen

from netra_trio.errors import FileTooLarge
from netra_trio.files.detection import Detection
from netra_trio.files.folders import SPOOL_PREFIX, make_private
from netra_trio.files.threads import StorageThreads

WRITE_BYTES = 256 * 1024  # of one call in a thread, which costs as much as to hash some kilobytes
# To delete a temporary file, or its copy in a storage; a later sweep deletes what is left. Two of
# them are shorter than the time that the tasks of a cancelled run have to end.
CLEANUP_SECONDS = 0.9


@frozen
class Content:
    """The type, size and digest of the content of a spool.

    Attributes:
        size: In bytes.
        sha256: In hexadecimal digits.
    """

    media_type: str
    size: int
    sha256: str


class Spool:
    """A temporary file.

    Args:
        folder: The folder for it, which is created if necessary.
        limit: Its maximum size in bytes.
        threads: Write it.

    Attributes:
        path: Where it is.
    """

    def __init__(self, folder: Path, *, limit: int, threads: StorageThreads) -> None:
        self.path = folder / f"{SPOOL_PREFIX}{secrets.token_hex(16)}"
        self._limit = limit
        self._threads = threads
        self._size = 0
        self._pending = bytearray()  # a list of small chunks would have many times their bytes
        self._digest = hashlib.sha256()
        self._detection = Detection()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLEANUP_SECONDS):
            await self._threads.run(self._delete)

    async def write(self, data: bytes) -> None:
        """Add content.

        Raises:
            FileTooLarge: It exceeds the limit.
            StorageUnavailable: It cannot be written, for example because the disk is full.
        """
        self._size += len(data)
        if self._size > self._limit:
            await trio.lowlevel.checkpoint()
            raise FileTooLarge(self._limit)
        self._pending += data
        if len(self._pending) >= WRITE_BYTES:
            await self._flush()
        else:
            await trio.lowlevel.checkpoint()

    async def finish(self, name: str = "") -> Content:
        """Write the pending bytes, and return the type, size and digest of the whole content.

        Raises:
            StorageUnavailable: It cannot be written.
        """
        await self._flush()
        return Content(self._detection.media_type(name), self._size, self._digest.hexdigest())

    async def _flush(self) -> None:
        data, self._pending = self._pending, bytearray()
        await self._threads.run(self._append, data)

    def _append(self, data: bytearray) -> None:
        self._digest.update(data)
        self._detection.feed(data)
        make_private(self.path.parent)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(self.path, flags, 0o600)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
        finally:
            os.close(descriptor)

    def _delete(self) -> None:
        with suppress(OSError):  # it was moved, or a sweep deletes it
            self.path.unlink()
