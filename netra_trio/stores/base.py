"""What you may implement, on one page: a transport, a store, an instrument.

The first two come with a contract suite that any implementation has to pass (`tests/transports`,
`tests/stores`).
"""

from collections.abc import Awaitable, Generator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from netra_trio.ids import CorrelationId, MessageId, RunId, ThreadId, UserId
from netra_trio.protocol.messages import HistoryMessage, RunStatus
from netra_trio.values import frozen

HISTORY_TEXT_BYTES = 64 * 1024  # of an agent's message in history, the contract's bound, section 3
HISTORY_LISTED_BYTES = 512  # of a message beside its text: ids, times and names, rounded up
HISTORY_PAGE_BYTES = 256 * 1024  # of a page of history, the contract's bound, section 3


@frozen
class User:
    """A row of the users table."""

    id: UserId
    enabled: bool = True


@frozen
class NewMessage:
    """A message to record together with the run it starts.

    Attributes:
        key: The client's idempotency key; None where it gave none.
        fingerprint: What has to be equal for the same key to mean the same message.
        content: The text that history shows.
        created_at: Unix seconds.
    """

    user_id: UserId
    thread_id: ThreadId
    message_id: MessageId
    run_id: RunId
    agent_name: str
    correlation_id: CorrelationId
    key: CorrelationId | None
    fingerprint: bytes
    content: str
    created_at: float


@frozen
class RunEnd:
    """How a run ended.

    Attributes:
        text: What the agent emitted, at most 64 KiB in UTF-8.
        truncated: Whether `text` was cut.
        completed: The payload of its `agent_completed` as JSON, for a duplicate of its message.
    """

    run_id: RunId
    status: RunStatus
    message_id: MessageId
    text: str
    truncated: bool
    created_at: float
    completed: bytes


@frozen
class Duplicate:
    """A message that was recorded before.

    Attributes:
        completed: The payload of its run's `agent_completed` as JSON, None while the run goes on.
    """

    message_id: MessageId
    run_id: RunId
    thread_id: ThreadId
    status: RunStatus
    completed: bytes | None


class _Stored:
    """What is awaited where there is nothing to wait for; any number of times."""

    def __await__(self) -> Generator[Any, Any, None]:
        yield from ()


STORED: Awaitable[None] = _Stored()
"""What `Store.end_run` may return to say that it is done: the server then need not even look."""


class Store(Protocol):
    """Users, threads, messages and runs.

    A method raises `StoreUnavailable` if the store cannot answer now, unless it says otherwise.
    What a call asked for that raised, or was cancelled, may be done all the same.
    """

    def open(self) -> AbstractAsyncContextManager[None]:
        """Hold the store open for as long as a server uses it; entered once, before any question.

        Entering does not wait for a store that does not answer, and ends the runs that servers
        which are gone have left unfinished: `interrupted`. On leaving, what was written behind is
        stored.
        """
        ...

    async def check(self) -> None:
        """Return if the store can answer now; for health."""
        ...

    async def get_user(self, user_id: UserId) -> User | None:
        """Return the user, None if there is none."""
        ...

    async def create_user(self, user_id: UserId) -> User:
        """Create the user, enabled, and return it; return the one there is, if there is one."""
        ...

    async def set_user_enabled(self, user_id: UserId, *, enabled: bool) -> bool:
        """Enable or disable the user; return whether there is such a user."""
        ...

    async def record(self, message: NewMessage) -> Duplicate | None:
        """Record a message and its run, `queued`; create the thread where there is none yet.

        With a key it returns when both are stored for good; without one it waits for nothing but
        room to write behind, and 3 seconds at most. Returns what was recorded before if the key is
        known and the fingerprint is the same; then nothing is recorded. If it raises or is
        cancelled, the message is not stored, or is taken back before its key is asked for again.

        Raises:
            KeyConflict: If the key is known with another fingerprint.
        """
        ...

    async def find(self, message: NewMessage) -> Duplicate | None:
        """Return what was recorded before under the message's key; record nothing.

        Raises:
            KeyConflict: If the key is known with another fingerprint.
        """
        ...

    def start_run(self, run_id: RunId) -> None:
        """Note that the run is `running`; written behind, so it neither waits nor fails."""
        ...

    def end_run(self, end: RunEnd) -> Awaitable[None]:
        """Note how the run ended, with the agent's message; an async function, or `STORED`.

        Awaiting what it returns ends when that is stored for good, if its message had a key, and
        else at once; from the call on `record` and `find` tell of it. It does not raise
        `StoreUnavailable`, and cancelling the wait does not take the end back: what the store
        cannot write now it writes when it can.
        """
        ...

    async def history(
        self,
        user_id: UserId,
        thread_id: ThreadId,
        *,
        limit: int,
        before: MessageId | None = None,
    ) -> tuple[Sequence[HistoryMessage], bool] | None:
        """Return the newest `limit` messages strictly before `before`, oldest first.

        The second value says whether older ones were left out, for `limit` or for the page's
        256 KiB. None if the user has no such thread.

        Raises:
            MessageNotFound: If `before` is no message of the thread.
        """
        ...
