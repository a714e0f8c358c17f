"""Files of the tests of stores, and messages that name them.

file = await upload(store)
message = naming(file)
"""

import time
from collections.abc import Sequence

from attrs import evolve
from stores.samples import ALICE, MAIN, end_of, new, page_of

from netra_trio.ids import FileId, ThreadId, UserId, new_file_id
from netra_trio.protocol.messages import HistoryMessage
from netra_trio.stores.base import NewMessage, RunEnd, Store
from netra_trio.stores.files import StoredFile

ROOM = 1_000_000  # bytes that the files of a user may have together


def a_file(
    size: int = 10, *, user: UserId = ALICE, name: str = "a\x00é.txt", age: float = 0.0
) -> StoredFile:
    """Return a file that is so many seconds old."""
    created_at = time.time() - age
    return StoredFile(new_file_id(), user, name, "text/plain", size, "0" * 64, created_at)


async def upload(store: Store, file: StoredFile | None = None) -> StoredFile:
    """Store a file, so that it can be read and named."""
    file = a_file() if file is None else file
    assert await store.reserve_file(file, max_bytes=ROOM)
    assert await store.finish_file(file.file_id)
    return file


def naming(
    *files: StoredFile, thread: ThreadId = MAIN, user: UserId = ALICE, key: str | None = None
) -> NewMessage:
    """Return a message that names files."""
    message = new(thread=thread, user=user, key=key)
    return evolve(message, attachments=tuple(file.file_id for file in files))


def answering(message: NewMessage, *files: StoredFile, text: str = "answer") -> RunEnd:
    """Return an end of the message's run whose answer names files."""
    return evolve(end_of(message, text), attachments=tuple(file.file_id for file in files))


async def is_there(store: Store, file: StoredFile) -> bool:
    """Return whether a file can be read."""
    return await store.get_file(file.file_id) is not None


async def page(store: Store, thread: ThreadId = MAIN) -> list[HistoryMessage]:
    """Return the messages of Alice's thread."""
    return (await page_of(store, thread=thread))[0]


def ids(files: Sequence[StoredFile]) -> list[FileId]:
    """Return the ids of files."""
    return [file.file_id for file in files]
