"""Duplicates: messages that were sent again under the same key; each gets the end of its run.

    duplicates.confirm(known, message)

The confirmation names the run that the first message started. Its end follows: at once if there is
one; with the run, if it is live here or in another session of the user; or from the store, which is
asked again and again while another server executes it.
"""

from collections.abc import Callable

import trio

from netra_trio.errors import KeyConflict, StoreUnavailable
from netra_trio.ids import RunId, SessionId
from netra_trio.protocol.messages import Confirmation, MessageConfirmed
from netra_trio.sessions.event_stream import EventStream
from netra_trio.sessions.runner import Runner, has_ended, lean_copy
from netra_trio.sessions.users import User
from netra_trio.stores.base import Duplicate, NewMessage, RunEnd, Store

FOLLOW_SECONDS = 1.0  # until the store is asked for the end of a foreign run; doubles each time
FOLLOW_MAX_SECONDS = 10.0  # at most: as often as servers look at each other's runs


class Duplicates:
    """The duplicates of one session.

    Args:
        session_id: The session.
        user: The user, whose live runs are looked up.
        events: Takes confirmations and ends.
        runner: The session's own runs.
        store: Asked for the ends of runs of other servers.
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
        """Confirm a message that was recorded before, and let the end of its run follow."""
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
            self._events.release(1)  # its end will come here already
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
        """Wait for no end any more."""
        self._closed = True
        for live in self._user.runs.values():
            live.watchers.pop(self._session_id, None)
        for following in self._followed.values():
            following.cancel()

    def disconnect(self) -> None:
        """Drop the references to the session, which has ended."""
        self._spawn = has_ended

    async def _follow(self, run_id: RunId, message: NewMessage) -> None:
        """Ask for the end of a run of another server, until there is one."""
        wait = FOLLOW_SECONDS
        with self._followed[run_id]:
            await trio.sleep(wait)
            while not await self._find_end(message):
                wait = min(2 * wait, FOLLOW_MAX_SECONDS)
                await trio.sleep(wait)
        del self._followed[run_id]

    async def _find_end(self, message: NewMessage) -> bool:
        """Append the end that is stored under a key; return whether the wait is over."""
        try:
            known = await self._store.find(message)
        except StoreUnavailable:
            return False
        except KeyConflict:
            known = None
        if known is None:  # the history is not kept that long
            self._events.release(1)
        elif known.completed is None:
            return False
        else:
            self._copy_end(known.run_id, known.completed, message)
        return True

    def _copy_end(self, run_id: RunId, completed: bytes, message: NewMessage) -> None:
        if self._events.is_over_bytes:
            completed = lean_copy(completed)
        self._events.copy_end(run_id, completed, message.correlation_id)
