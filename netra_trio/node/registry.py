"""The registry of sessions: those with a connection, and those that wait for their next one.

A session that lost its connection stays for the resume window. Every session ends in `close`, after
which no opening finds it.
"""

from collections.abc import Iterator

import trio
from attrs import frozen

from netra_trio.auth.identity import Identity
from netra_trio.config.settings import Settings
from netra_trio.ids import SessionId
from netra_trio.protocol.messages import ResetReason, ResumeState, RunStatus, Verdict
from netra_trio.sessions.session import Session
from netra_trio.telemetry.events import SessionEnded
from netra_trio.telemetry.instruments import Instruments

POLL_SECONDS = 1.0  # between two looks for runs whose tasks do not end


@frozen
class ResumeRequest:
    """The session that a client asks to resume.

    Attributes:
        last_seq: The last number that the client has; 0 for none.
    """

    session_id: SessionId
    last_seq: int


class Sessions:
    """The sessions of this process.

    Args:
        settings: The limits.
        instruments: What is told of each session's end.
    """

    def __init__(self, settings: Settings, instruments: Instruments) -> None:
        self._instruments = instruments
        self._window = settings.resume_window_ms / 1000
        self._max_per_user = settings.max_sessions_per_user
        self._all: dict[SessionId, Session] = {}
        self._detached: dict[SessionId, float] = {}  # until when; in the order they lost theirs
        self._busy: set[Session] = set()
        self._detached_one = trio.Event()
        self._busy_one = trio.Event()

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._all.values()))

    def find(self, wanted: ResumeRequest | None, identity: Identity) -> Session | None:
        """Return the session that is asked for, if it is live and this user's."""
        session = None if wanted is None else self._all.get(wanted.session_id)
        if session is None or session.user.id == identity.user_id:
            return session
        # The id cannot be guessed, and nothing else identifies an anonymous user.
        is_theirs = identity.is_anonymous and session.is_anonymous
        return session if is_theirs else None

    def add(self, session: Session) -> None:
        """Add a new session, which has a connection; it may end a detached one of its user."""
        mine = session.user.sessions
        while len(mine) >= self._max_per_user and (oldest := self._oldest_detached(mine)):
            self.close(oldest, "too_many_sessions")
        mine.add(session.id)
        self._all[session.id] = session

    def attach(self, session: Session) -> float | None:
        """Note that a session has a connection; return the seconds it had none, if it had none."""
        until = self._detached.pop(session.id, None)
        return None if until is None else trio.current_time() - (until - self._window)

    def detach(self, session: Session) -> None:
        """Let a session that lost its connection wait for the next one."""
        if not self._window:
            self.close(session, "connection_ended")
        elif session.id in self._all:
            self._detached[session.id] = trio.current_time() + self._window
            self._detached_one.set()

    def close(self, session: Session, why: str, status: RunStatus = RunStatus.CANCELLED) -> None:
        """End a session: its runs end with `status`, and no opening finds it any more."""
        if self._all.pop(session.id, None) is None:
            return
        self._detached.pop(session.id, None)
        session.user.sessions.discard(session.id)
        self._instruments.note(
            SessionEnded(
                session.id,
                session.user.id,
                why,
                seconds=round(trio.current_time() - session.opened_at, 3),
                was_lost=session.is_lost,
            )
        )
        session.close(status)

    def note_busy(self, session: Session) -> None:
        """Watch a session that has something to do, until it rests."""
        self._busy.add(session)
        self._busy_one.set()

    async def expire(self) -> None:
        """End the sessions whose resume window has passed; runs until it is cancelled."""
        while True:
            if not self._detached:
                await self._detached_one.wait()
            self._detached_one = trio.Event()
            await trio.sleep_until(next(iter(self._detached.values()), 0.0))
            now = trio.current_time()
            due = [session_id for session_id, until in self._detached.items() if until <= now]
            for session_id in due:
                self.close(self._all[session_id], "window_passed")

    async def reap(self) -> None:
        """End cancelled runs whose tasks do not end, and let idle sessions rest."""
        while True:
            if not self._busy:
                self._busy_one = trio.Event()
                await self._busy_one.wait()
            await trio.sleep(POLL_SECONDS)
            for session in list(self._busy):
                session.abandon_overdue()
                if session.rest():
                    self._busy.discard(session)

    def statistics(self) -> dict[str, int]:
        """Return how many sessions there are, and how many of them have no connection."""
        return {"sessions": len(self._all), "detached": len(self._detached)}

    def _oldest_detached(self, mine: set[SessionId]) -> Session | None:
        """Return the session that goes first: without a run, and longest without a connection."""
        waiting = [self._all[session_id] for session_id in self._detached if session_id in mine]
        return next((session for session in waiting if session.is_idle), None) or next(
            iter(waiting), None
        )


def resume(
    session: Session | None, wanted: ResumeRequest | None
) -> tuple[Session | None, ResumeState]:
    """Return the session that a connection goes on with, None for a new one, and the verdict."""
    if wanted is None:
        return None, ResumeState(Verdict.NEW)
    if session is None:
        return None, ResumeState(Verdict.RESET, ResetReason.UNKNOWN)
    state = session.events.resume(wanted.last_seq)
    return (None if state.verdict is Verdict.RESET else session), state
