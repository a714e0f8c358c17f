"""The content of files of a server in memory, which outlives a killed server as its store does.

storage = KeptFolder()
async with storage.hold():
    ...
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from netra_trio.files.folder import FolderStorage
from netra_trio.files.folders import new_temporary


class KeptFolder(FolderStorage):
    """A temporary folder; its files are read and written without threads."""

    def __init__(self) -> None:
        super().__init__(new_temporary(), is_temporary=True)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Keep the folder at the end of the block, for the next server."""
        yield

    def hold(self) -> AbstractAsyncContextManager[None]:
        """Keep the folder; it is deleted at the end of the block."""
        return super().open()
