"""A store as one server sees it: when that server is killed, nothing of it arrives any more.

access = Access(store)
access.is_cut = True
"""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

from attrs import define

from netra_trio.errors import StoreUnavailable
from netra_trio.ids import MessageId, RunId, ThreadId, UserId
from netra_trio.protocol.messages import HistoryMessage
from netra_trio.stores.base import Duplicate, NewMessage, RunEnd, Store, User


@define
class Access:
    """Any store, until it is cut off.

    Attributes:
        is_cut: Whether the server is dead: what it writes is lost, and what it asks fails.
    """

    store: Store
    is_cut: bool = False

    def open(self) -> AbstractAsyncContextManager[None]:
        """Hold the store open."""
        return self.store.open()

    async def check(self) -> None:
        """Return if the store can answer now."""
        await self._reached().check()

    async def get_user(self, user_id: UserId) -> User | None:
        """Return the user."""
        return await self._reached().get_user(user_id)

    async def create_user(self, user_id: UserId) -> User:
        """Create the user."""
        return await self._reached().create_user(user_id)

    async def set_user_enabled(self, user_id: UserId, *, enabled: bool) -> bool:
        """Enable or disable the user."""
        return await self._reached().set_user_enabled(user_id, enabled=enabled)

    async def record(self, message: NewMessage) -> Duplicate | None:
        """Record a message and its run."""
        return await self._reached().record(message)

    async def find(self, message: NewMessage) -> Duplicate | None:
        """Return what was recorded before."""
        return await self._reached().find(message)

    def start_run(self, run_id: RunId) -> None:
        """Note that the run is `running`."""
        if not self.is_cut:
            self.store.start_run(run_id)

    async def end_run(self, end: RunEnd) -> None:
        """Note how the run ended."""
        if not self.is_cut:
            await self.store.end_run(end)

    async def history(
        self,
        user_id: UserId,
        thread_id: ThreadId,
        *,
        limit: int,
        before: MessageId | None = None,
    ) -> tuple[Sequence[HistoryMessage], bool] | None:
        """Return a page of a thread."""
        return await self._reached().history(user_id, thread_id, limit=limit, before=before)

    def _reached(self) -> Store:
        if self.is_cut:
            raise StoreUnavailable("the server was killed")
        return self.store
