"""The content of files of a server in memory, which outlives a killed server as its store does.

storage = KeptFolder()
async with storage.hold():
    ...
"""

import secrets
import tempfile
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from netra_trio.files.folder import FolderStorage


class KeptFolder(FolderStorage):
    """A temporary folder; its files are read and written without threads."""

    def __init__(self) -> None:
        folder = Path(tempfile.gettempdir()) / f"netra-trio-{secrets.token_hex(8)}"
        super().__init__(folder, is_temporary=True)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Keep the folder at the end of the block, for the next server."""
        yield

    def hold(self) -> AbstractAsyncContextManager[None]:
        """Keep the folder; it is deleted at the end of the block."""
        return super().open()
