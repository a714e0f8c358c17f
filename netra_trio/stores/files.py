"""The part of the interface `Store` for files: their users, and the messages that name them.

The content of a file is kept elsewhere (`netra_trio.files.base.FileStorage`). Its row exists before
its content is written and until its content is deleted, so content without a row never exists:

1. `reserve_file`: the row counts for the limit of the user; the file cannot be read yet.
2. The content is written.
3. `finish_file`: the file can be read, and named by messages of its user.
4. A thread is deleted, or the file is too old: it can neither be read nor named any more.
5. `deleted_files` returns it, its content is deleted, and `forget_files` deletes the row.
"""

from collections.abc import Collection, Sequence
from typing import Protocol

from netra_trio.ids import FileId, UserId
from netra_trio.protocol.messages import ListedFile
from netra_trio.protocol.text import json_size
from netra_trio.values import frozen

ORPHAN_SECONDS = 86_400.0  # after which a file that no message names is deleted
UNFINISHED_SECONDS = 3600.0  # after which a file whose content was not written is deleted
DELETED_PAGE = 100  # files of one call of `deleted_files`, by default
LISTED_BYTES = 256  # of a file in history without its name and type: twice its id, and the keys


@frozen
class StoredFile:
    """A file without its content.

    Attributes:
        user_id: The user who has uploaded it, or whose run has attached it.
        name: Its name, without a path; may be empty.
        media_type: Its type, detected from its content.
        size: Bytes of its content.
        sha256: The digest of its content, in hexadecimal digits.
        created_at: Unix seconds.
    """

    file_id: FileId
    user_id: UserId
    name: str
    media_type: str
    size: int
    sha256: str
    created_at: float

    @property
    def listed_size(self) -> int:
        """The maximum bytes that it has in the history."""
        return LISTED_BYTES + json_size(self.name) + json_size(self.media_type)

    def listed(self) -> ListedFile:
        """Return the file as an item of history."""
        return ListedFile(self.file_id, self.name, self.media_type, self.size)


class FileStore(Protocol):
    """The files of users. The rules of `Store` hold: errors, cancelling, several nodes."""

    async def reserve_file(self, file: StoredFile, *, max_bytes: int) -> bool:
        """Record a file whose content is not written yet.

        Args:
            file: The file.
            max_bytes: The bytes that all files of its user may have together; also for several
                calls at once, on several nodes.

        Returns:
            Whether it was recorded. If not, it would exceed `max_bytes`.

        Raises:
            NotStorable: If it can never be stored.
        """
        ...

    async def finish_file(self, file_id: FileId) -> bool:
        """Make a file readable; return False if it is too late, because it was deleted."""
        ...

    async def get_file(self, file_id: FileId) -> StoredFile | None:
        """Return a file that can be read; None if there is none."""
        ...

    async def find_files(
        self, user_id: UserId, file_ids: Collection[FileId]
    ) -> Sequence[StoredFile]:
        """Return those of the files that this user has and that can be read, in the given order."""
        ...

    async def count_file_bytes(self, user_id: UserId) -> int:
        """Return the bytes of all files of a user that are not deleted."""
        ...

    async def deleted_files(self, limit: int = DELETED_PAGE) -> Sequence[FileId]:
        """Return up to `limit` files whose content is to be deleted, oldest first.

        They are those whose last message was deleted, those that no message has named for
        `ORPHAN_SECONDS` after they were created, and those that were not finished within
        `UNFINISHED_SECONDS`. From this call on no message can name them. Several nodes may get the
        same ones.
        """
        ...

    async def forget_files(self, file_ids: Collection[FileId]) -> None:
        """Delete the rows of files whose content is deleted; no effect for unknown ones.

        Also of files that are not finished, so that a failed upload leaves nothing. The row of any
        other file is kept, because a message may name it.
        """
        ...
