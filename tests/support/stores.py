"""A store with scripted failures, which records its calls about runs.

store = ScriptedStore()
store.is_down = True          # every call raises StoreUnavailable
store.hold()                  # every call waits until `store.release()`
"""

from collections import Counter
from collections.abc import Collection, Sequence

import trio

from netra_trio.errors import StoreUnavailable
from netra_trio.ids import FileId, MessageId, RunId, ThreadId, UserId
from netra_trio.protocol.messages import HistoryMessage, RunStatus
from netra_trio.stores.base import Duplicate, NewMessage, RunEnd, StoredEnd, User
from netra_trio.stores.files import DELETED_PAGE, StoredFile
from netra_trio.stores.memory import MemoryStore


class ScriptedStore(MemoryStore):
    """A store in memory that waits like a real one, and fails if it is told to.

    Attributes:
        is_down: Whether every call raises `StoreUnavailable`.
        fault: The exception that every call raises; None for no exception.
        user_checks: The times of the calls of `get_user`.
        recorded: The runs whose message was recorded.
        started: The runs that were started.
        ends: How often the end of each run was stored.
        statuses: The final status of each run.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_down = False
        self.fault: Exception | None = None
        self.user_checks: list[float] = []
        self.recorded: list[RunId] = []
        self.started: list[RunId] = []
        self.ends: Counter[RunId] = Counter()
        self.statuses: dict[RunId, RunStatus] = {}
        self._open = trio.Event()
        self._open.set()

    def hold(self) -> None:
        """Make every call wait."""
        self._open = trio.Event()

    def release(self) -> None:
        """Let all calls continue."""
        self._open.set()

    async def get_user(self, user_id: UserId) -> User | None:
        """Return the user."""
        self.user_checks.append(trio.current_time())
        await self._wait_or_fail()
        return await super().get_user(user_id)

    async def remove_user(self, user_id: UserId) -> None:
        """Remove the user, as an administrator does."""
        del self._data.users.rows[user_id]

    async def record(self, message: NewMessage) -> Duplicate | None:
        """Record a message and its run."""
        await self._wait_or_fail()
        known = await super().record(message)
        if known is None:
            self.recorded.append(message.run_id)
        with trio.CancelScope(shield=True):  # the message is recorded, so the call must return
            await trio.lowlevel.checkpoint()
        return known

    def start_run(self, run_id: RunId) -> None:
        """Record that the run has started."""
        self.started.append(run_id)
        super().start_run(run_id)

    async def end_run(self, end: RunEnd) -> StoredEnd | None:
        """Record the end of the run; with a checkpoint, as a database has."""
        self.ends[end.run_id] += 1
        self.statuses[end.run_id] = end.status
        stood = await super().end_run(end)
        await trio.lowlevel.checkpoint()
        return stood

    async def history(
        self,
        user_id: UserId,
        thread_id: ThreadId,
        *,
        limit: int,
        before: MessageId | None = None,
    ) -> tuple[Sequence[HistoryMessage], bool] | None:
        """Return a page."""
        await self._wait_or_fail()
        return await super().history(user_id, thread_id, limit=limit, before=before)

    async def reserve_file(self, file: StoredFile, *, max_bytes: int) -> bool:
        """Record a file whose content is not written yet."""
        await self._wait_or_fail()
        return await super().reserve_file(file, max_bytes=max_bytes)

    async def finish_file(self, file_id: FileId) -> bool:
        """Make a file readable."""
        await self._wait_or_fail()
        return await super().finish_file(file_id)

    async def get_file(self, file_id: FileId) -> StoredFile | None:
        """Return a file."""
        await self._wait_or_fail()
        return await super().get_file(file_id)

    async def find_files(
        self, user_id: UserId, file_ids: Collection[FileId]
    ) -> Sequence[StoredFile]:
        """Return the files of a user."""
        await self._wait_or_fail()
        return await super().find_files(user_id, file_ids)

    async def count_file_bytes(self, user_id: UserId) -> int:
        """Return the bytes of the files of a user."""
        await self._wait_or_fail()
        return await super().count_file_bytes(user_id)

    async def deleted_files(self, limit: int = DELETED_PAGE) -> Sequence[FileId]:
        """Return the files whose content is to be deleted."""
        await self._wait_or_fail()
        return await super().deleted_files(limit)

    async def forget_files(self, file_ids: Collection[FileId]) -> None:
        """Delete the rows of files."""
        await self._wait_or_fail()
        await super().forget_files(file_ids)

    async def _wait_or_fail(self) -> None:
        await trio.lowlevel.checkpoint()
        await self._open.wait()
        if self.is_down:
            raise StoreUnavailable("scripted")
        if self.fault is not None:
            raise self.fault
