"""Duplicates: messages that were sent again under the same key; each one gets the end of its run.

    duplicates.confirm(known, message)

The confirmation has the ids of the run that the first message started. A copy of its end follows:
at once if it has ended; when it ends, if it is live in this process; otherwise the store is polled,
because another server executes the run.
"""

from collections.abc import Callable

import trio

from netra_trio.errors import KeyConflict, StoreUnavailable, ThreadDeleted
from netra_trio.ids import RunId, SessionId
from netra_trio.protocol.messages import Confirmation, MessageConfirmed
from netra_trio.sessions.event_stream import EventStream
from netra_trio.sessions.run_end import shorten_payload
from netra_trio.sessions.runner import Runner, raise_session_ended
from netra_trio.sessions.users import User
from netra_trio.stores.base import Duplicate, NewMessage, RunEnd, Store

FOLLOW_SECONDS = 1.0  # before the first poll of the store; doubles with each poll
FOLLOW_MAX_SECONDS = 10.0  # between two polls: servers check the runs of other servers as often


class Duplicates:
    """The duplicates of one session.

    Args:
        session_id: The session.
        user: The user, with the live runs of this process.
        events: Receives confirmations and ends.
        runner: The runs of the session.
        store: Polled for the ends of runs of other servers.
        spawn: Starts a task of the session.
    """

    __slots__ = (
        "_closed",
        "_events",
        "_followed",
        "_runner",
        "_session_id",
        "_spawn",
        "_store",
        "_user",
    )

    def __init__(
        self,
        session_id: SessionId,
        *,
        user: User,
        events: EventStream,
        runner: Runner,
        store: Store,
        spawn: Callable[..., None],
    ) -> None:
        self._session_id = session_id
        self._user = user
        self._events = events
        self._runner = runner
        self._store = store
        self._spawn = spawn
        self._followed: dict[RunId, trio.CancelScope] = {}
        self._closed = False

    def confirm(self, known: Duplicate, message: NewMessage) -> None:
        """Confirm a message that was recorded before; a copy of the end of its run follows."""
        run_id, live = known.run_id, self._user.runs.get(known.run_id)
        status = known.status if live is None or known.completed is not None else live.status
        self._events.confirm(
            MessageConfirmed(
                known.message_id,
                run_id,
                known.thread_id,
                Confirmation.DUPLICATE,
                run_status=status,
            ),
            message.correlation_id,
        )
        if self._closed:
            self._events.release(1)
        elif known.completed is not None:
            self._copy_end(run_id, known.completed, message)
        elif self._runner.has(run_id) or run_id in self._followed:
            self._events.release(1)  # this session gets the end of the run anyway
        elif live is None:
            self._followed[run_id] = trio.CancelScope()
            self._spawn(self._follow, run_id, message)
        elif self._session_id in live.watchers:
            self._events.release(1)
        else:

            def copy(end: RunEnd) -> None:
                self._copy_end(end.run_id, end.completed, message)

            live.watchers[self._session_id] = copy

    def close(self) -> None:
        """Stop waiting for the ends of runs."""
        self._closed = True
        for live in self._user.runs.values():
            live.watchers.pop(self._session_id, None)
        for following in self._followed.values():
            following.cancel()

    def disconnect(self) -> None:
        """Drop the references to the session, which has ended."""
        self._spawn = raise_session_ended

    async def _follow(self, run_id: RunId, message: NewMessage) -> None:
        """Poll the store for the end of a run of another server, until there is one."""
        wait = FOLLOW_SECONDS
        with self._followed[run_id]:
            await trio.sleep(wait)
            while not await self._append_end_if_stored(message):
                wait = min(2 * wait, FOLLOW_MAX_SECONDS)
                await trio.sleep(wait)
        del self._followed[run_id]

    async def _append_end_if_stored(self, message: NewMessage) -> bool:
        """Append a copy of the run's end if it is stored; return whether polling is finished."""
        try:
            known = await self._store.find(message)
        except StoreUnavailable:
            return False
        except (KeyConflict, ThreadDeleted):
            known = None
        if known is None:  # the retention of the store, or its user, has removed the message
            self._events.release(1)
        elif known.completed is None:
            return False
        else:
            self._copy_end(known.run_id, known.completed, message)
        return True

    def _copy_end(self, run_id: RunId, completed: bytes, message: NewMessage) -> None:
        if self._events.is_over_bytes:
            completed = shorten_payload(completed)
        self._events.copy_end(run_id, completed, message.correlation_id)
