"""The files of the store in memory, within a bound.

files = MemoryFiles(bound=1000, wall_clock=time.time)
files.reserve(file, max_bytes=1024)
files.finish(file.file_id)
named = files.name(user_id, [file.file_id])  # by a message
files.release(named)                         # that message is deleted, and with it the file
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence

from attrs import define

from netra_trio.errors import FilesNotFound, StoreUnavailable
from netra_trio.ids import FileId, UserId
from netra_trio.stores.files import ORPHAN_SECONDS, UNFINISHED_SECONDS, StoredFile


@define(eq=False)
class _FileRow:
    """A file.

    Attributes:
        names: The number of messages that name it.
    """

    file: StoredFile
    is_finished: bool = False
    names: int = 0


class MemoryFiles:
    """The files of users, and how many messages name each of them.

    Args:
        bound: The maximum number of files.
        wall_clock: Returns Unix seconds.
    """

    def __init__(self, bound: int, wall_clock: Callable[[], float]) -> None:
        self._bound = bound
        self._wall_clock = wall_clock
        self._rows: dict[FileId, _FileRow] = {}
        self._unnamed: dict[FileId, _FileRow] = {}  # those that no message names
        self._deleted: dict[FileId, StoredFile] = {}  # whose content is to be deleted
        self._bytes: Counter[UserId] = Counter()

    def __len__(self) -> int:
        """Return the number of files, those included whose content is to be deleted."""
        return len(self._rows) + len(self._deleted)

    def reserve(self, file: StoredFile, max_bytes: int) -> bool:
        """Add a file whose content is not written yet; return whether its user has room for it.

        Raises:
            StoreUnavailable: If there are too many files.
        """
        if self._bytes[file.user_id] + file.size > max_bytes:
            return False
        if len(self) >= self._bound:
            raise StoreUnavailable(f"there are {self._bound} files")
        self._rows[file.file_id] = self._unnamed[file.file_id] = _FileRow(file)
        self._bytes[file.user_id] += file.size
        return True

    def finish(self, file_id: FileId) -> bool:
        """Make a file readable; return False if it was deleted."""
        row = self._rows.get(file_id)
        if row is None:
            return False
        row.is_finished = True
        return True

    def get(self, file_id: FileId) -> StoredFile | None:
        """Return a file that can be read, None if there is none."""
        row = self._rows.get(file_id)
        return row.file if row is not None and row.is_finished else None

    def find(self, user_id: UserId, file_ids: Iterable[FileId]) -> list[StoredFile]:
        """Return those of the files that a user has and that can be read, in the given order."""
        found = (self.get(file_id) for file_id in file_ids)
        return [file for file in found if file is not None and file.user_id == user_id]

    def count_bytes(self, user_id: UserId) -> int:
        """Return the bytes of all files of a user that are not deleted."""
        return self._bytes[user_id]

    def check(self, user_id: UserId, file_ids: Collection[FileId]) -> None:
        """Check that a message of a user can name these files.

        Raises:
            FilesNotFound: If it cannot name all of them.
        """
        found = {file.file_id for file in self.find(user_id, file_ids)}
        if missing := [file_id for file_id in file_ids if file_id not in found]:
            raise FilesNotFound(missing)

    def name(self, user_id: UserId, file_ids: Iterable[FileId]) -> tuple[StoredFile, ...]:
        """Count a message that names files; return those that exist."""
        named = self.find(user_id, dict.fromkeys(file_ids))
        for file in named:
            self._rows[file.file_id].names += 1
            self._unnamed.pop(file.file_id, None)
        return tuple(named)

    def release(self, files: Iterable[StoredFile]) -> None:
        """Note that a message is deleted that named files; delete those that no other one names."""
        for file in files:
            row = self._rows[file.file_id]
            row.names -= 1
            if not row.names:
                self._delete(row)

    def deleted(self, limit: int) -> Sequence[FileId]:
        """Delete files that are too old; return those whose content is to be deleted."""
        now = self._wall_clock()
        for row in list(self._unnamed.values()):
            kept = ORPHAN_SECONDS if row.is_finished else UNFINISHED_SECONDS
            if row.file.created_at + kept <= now:
                self._delete(row)
        oldest = sorted(self._deleted.values(), key=lambda file: file.created_at)
        return [file.file_id for file in oldest[:limit]]

    def forget(self, file_ids: Iterable[FileId]) -> None:
        """Remove files whose content is deleted, or was never completely written."""
        for file_id in file_ids:
            row = self._unnamed.get(file_id)
            if row is not None and not row.is_finished:
                self._delete(row)
            self._deleted.pop(file_id, None)

    def _delete(self, row: _FileRow) -> None:
        file = row.file
        del self._rows[file.file_id]
        self._unnamed.pop(file.file_id, None)
        self._deleted[file.file_id] = file
        self._bytes[file.user_id] -= file.size
        if not self._bytes[file.user_id]:
            del self._bytes[file.user_id]
