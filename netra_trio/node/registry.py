"""The registry of sessions, with and without a connection.

A session whose connection has ended is kept for the resume window. Every session ends in `close`;
after that it cannot be resumed.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import trio
from attrs import frozen

from netra_trio.auth.identity import Identity
from netra_trio.config.settings import Settings
from netra_trio.ids import SessionId, UserId
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.messages import ResetReason, ResumeState, RunStatus, Verdict
from netra_trio.protocol.problem import Refused, problem
from netra_trio.protocol.wire_format import WireFormat
from netra_trio.sessions.session import Session
from netra_trio.sessions.users import User
from netra_trio.telemetry.events import SessionEnded
from netra_trio.telemetry.instruments import Instruments
from netra_trio.telemetry.metrics import Key

MOVED = "moved"  # why a session ends that this node has given to another one, or to any
TOO_MANY = "too_many_sessions"  # why a session ends beyond the limit of its user
WINDOW_PASSED = "window_passed"  # the end of a session that no client has resumed in time
CONNECTION_ENDED = "connection_ended"  # the end if sessions are not kept without a connection
NEVER_OPENED = "never_opened"  # the end if its client has not received its id

OUTLIVED = frozenset({TOO_MANY, WINDOW_PASSED, CONNECTION_ENDED, NEVER_OPENED})
"""The ends after which unattended runs continue: no client can resume the session."""

POLL_SECONDS = 1.0  # between two checks for cancelled runs that are still running


@frozen
class ResumeRequest:
    """The session that a client asks to resume.

    Attributes:
        last_seq: The last number that the client has; 0 for none.
    """

    session_id: SessionId
    last_seq: int


class SessionWatch(Protocol):
    """Counts the sessions of each user over all nodes."""

    @property
    def is_counting(self) -> bool:
        """Whether it can count now; otherwise each node applies the limit to its own sessions."""
        ...

    async def is_attached_elsewhere(self, user_id: UserId) -> bool:
        """Return whether a user has a session with a connection at another node.

        False if it is not known.
        """
        ...

    def added(self, session: Session) -> None:
        """Note a new session, or one that this node has taken over."""
        ...

    def changed(self, session: Session) -> None:
        """Note that a session was attached or detached, or has no run any more."""
        ...

    def released(self, session: Session) -> None:
        """Note that another node has a session, or may take it."""
        ...

    def ended(self, session: Session) -> None:
        """Note that a session has ended."""
        ...


class Sessions:
    """The sessions of this process.

    Args:
        settings: The limits.
        instruments: Receive a telemetry event when a session ends.

    Attributes:
        on_close: Called for each session that ends or moves.
        watch: Counts the sessions over all nodes; None if there is one node.
    """

    def __init__(self, settings: Settings, instruments: Instruments) -> None:
        self.watch: SessionWatch | None = None
        self._instruments = instruments
        self._window = settings.resume_window_ms / 1000
        self._max_per_user = settings.max_sessions_per_user
        self._all: dict[SessionId, Session] = {}
        # When the resume window of each ends; in the order in which they were detached.
        self._detached: dict[SessionId, float] = {}
        self._followers: Counter[SessionId] = Counter()
        self._busy: set[Session] = set()
        self._left: set[Session] = set()
        self.on_close: Callable[[Session], None] = _ignore
        self._has_detached = trio.Event()
        self._has_busy = trio.Event()

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._all.values()))

    @property
    def left(self) -> list[Session]:
        """The ended sessions whose unattended runs continue."""
        return list(self._left)

    @property
    def busy(self) -> list[Session]:
        """The sessions with an agent task: among them each one that has a run."""
        return list(self._busy)

    def find(self, wanted: ResumeRequest | None, identity: Identity) -> Session | None:
        """Return the session of a resume request, if it is live and belongs to the user."""
        session = None if wanted is None else self._all.get(wanted.session_id)
        if session is None:
            return None
        is_theirs = is_of(identity, session.user.id, is_anonymous=session.is_anonymous)
        return session if is_theirs else None

    def add(self, session: Session) -> None:
        """Add a new session, which has a connection; beyond the limit a detached one is ended."""
        if self.watch is None or not self.watch.is_counting:
            self.end_excess(session.user, places=self._max_per_user - 1)
        session.user.sessions.add(session.id)
        self._all[session.id] = session
        if self.watch is not None:
            self.watch.added(session)

    def end_excess(self, user: User, *, places: int) -> None:
        """End the oldest detached sessions of a user, until there are no more than `places`."""
        mine = user.sessions
        while len(mine) > places and (oldest := self._oldest_detached(mine)):
            self.close(oldest, TOO_MANY)

    def end_detached(self, session_id: SessionId) -> None:
        """End a session because its user has too many, if it is without a connection and unread."""
        if session_id in self._detached and session_id not in self._followers:
            self.close(self._all[session_id], TOO_MANY)

    def detached_for(self, session: Session) -> float | None:
        """Return the seconds that a session is without a connection; None if it has one."""
        until = self._detached.get(session.id)
        return None if until is None else trio.current_time() - (until - self._window)

    def attach(self, session: Session) -> float | None:
        """Register that a session has a connection.

        Returns:
            The seconds that it was without a connection; None if it was not.
        """
        away = self.detached_for(session)
        self._detached.pop(session.id, None)
        self._note_changed(session)
        return away

    def detach(self, session: Session) -> None:
        """Keep a session without a connection for the resume window."""
        if not self._window:
            self.close(session, CONNECTION_ENDED)
        elif session.id in self._all:
            self._detached[session.id] = trio.current_time() + self._window
            self._has_detached.set()
            self._note_changed(session)

    @contextmanager
    def followed(self, session_id: SessionId) -> Iterator[None]:
        """Keep a session while a client follows a run of it over the connection of another one.

        Its resume window begins when the last such client has left.
        """
        self._followers[session_id] += 1
        self._note_followed(session_id)
        try:
            yield
        finally:
            self._followers[session_id] -= 1
            if not self._followers[session_id]:
                del self._followers[session_id]
                self._note_followed(session_id)
                self._restart_window(session_id)

    def _note_followed(self, session_id: SessionId) -> None:
        session = self._all.get(session_id)
        if session is not None:
            session.events.note_followed(session_id in self._followers)

    def _restart_window(self, session_id: SessionId) -> None:
        if self._detached.pop(session_id, None) is not None:
            self.detach(self._all[session_id])

    def close(self, session: Session, why: str, status: RunStatus = RunStatus.CANCELLED) -> None:
        """End a session: its runs end with `status`, and it cannot be resumed any more.

        If no client can resume it, its unattended runs continue; closing it again ends them.
        """
        if self._all.pop(session.id, None) is None:
            if session in self._left:
                self._left.discard(session)
                session.close(status)
            return
        self._detached.pop(session.id, None)
        if self.watch is not None:
            self.watch.ended(session)
        self._end(session, why, status)

    def _end(self, session: Session, why: str, status: RunStatus) -> None:
        session.user.sessions.discard(session.id)
        self.on_close(session)
        unattended = session.leave() if why in OUTLIVED else 0
        self._instruments.note(
            SessionEnded(
                session.id,
                session.user.id,
                why,
                seconds=round(trio.current_time() - session.opened_at, 3),
                unattended=unattended,
                was_lost=session.is_lost,
            )
        )
        if unattended:
            self._left.add(session)
        else:
            session.close(status)

    def get(self, session_id: SessionId) -> Session | None:
        """Return a session by its id."""
        return self._all.get(session_id)

    def seconds_left(self, session: Session) -> float:
        """Return for how long a session is kept, if no client resumes it from now on."""
        until = self._detached.get(session.id)
        return self._window if until is None else max(until - trio.current_time(), 0.0)

    def adopt(self, session: Session) -> None:
        """Add a session that another node had; it has no connection yet."""
        session.user.sessions.add(session.id)
        self._all[session.id] = session
        if self.watch is not None:
            self.watch.added(session)
        self.detach(session)

    def hold(self, session: Session) -> float:
        """Take a session out, so that nothing but its move ends it; return its seconds left."""
        seconds = self.seconds_left(session)
        del self._all[session.id]
        self._detached.pop(session.id, None)
        return seconds

    def unhold(self, session: Session, seconds: float, *, is_attached: bool) -> None:
        """Put a session back that was held, and does not move."""
        self._all[session.id] = session
        if not is_attached:
            self._detached[session.id] = trio.current_time() + seconds
            self._has_detached.set()
        self._note_changed(session)

    def end_held(self, session: Session, why: str) -> None:
        """End a session that was held: another node has it now."""
        session.is_lost = False  # its client resumes it there
        if self.watch is not None and why == MOVED:
            self.watch.released(session)
        elif self.watch is not None:  # the node that took it has reported it
            self.watch.ended(session)
        self._end(session, why, RunStatus.INTERRUPTED)

    def note_busy(self, session: Session) -> None:
        """Poll a session that has an agent task, until it is suspended."""
        self._busy.add(session)
        self._has_busy.set()

    def note_served(self, session: Session) -> None:
        """Forget a session that is closed, and whose tasks have ended."""
        self._busy.discard(session)
        self._left.discard(session)

    async def expire(self) -> None:
        """End the sessions whose resume window has passed, until cancelled."""
        while True:
            if not self._detached:
                await self._has_detached.wait()
            self._has_detached = trio.Event()
            await trio.sleep_until(next(iter(self._detached.values()), 0.0))
            now = trio.current_time()
            due = [session_id for session_id, until in self._detached.items() if until <= now]
            for session_id in due:
                if session_id in self._followers:
                    self._restart_window(session_id)
                else:
                    self.close(self._all[session_id], WINDOW_PASSED)

    async def reap(self) -> None:
        """End cancelled runs whose tasks do not end, and suspend idle sessions, until cancelled."""
        while True:
            if not self._busy:
                self._has_busy = trio.Event()
                await self._has_busy.wait()
            await trio.sleep(POLL_SECONDS)
            for session in list(self._busy):
                session.abandon_overdue()
                if session.suspend():
                    self._busy.discard(session)
                    self._note_changed(session)

    def statistics(self) -> dict[str, int]:
        """Return the number of sessions, and of those without a connection."""
        return {"sessions": len(self._all), "detached": len(self._detached)}

    def run_statistics(self) -> dict[Key, int]:
        """Return the numbers of active and of waiting runs, also of runs without a session."""
        each = [session.statistics() for session in [*self._all.values(), *self._left]]
        return {state: sum(runs[state] for runs in each) for state in ("active", "waiting")}

    def _note_changed(self, session: Session) -> None:
        if self.watch is not None and session.id in self._all:
            self.watch.changed(session)

    def _oldest_detached(self, mine: set[SessionId]) -> Session | None:
        """Return the session that is detached longest; one without a run, if there is one.

        A session whose run is followed over another connection is kept.
        """
        detached = mine.intersection(self._detached).difference(self._followers)
        waiting = [self._all[session_id] for session_id in self._detached if session_id in detached]
        return next((session for session in waiting if session.is_idle), None) or next(
            iter(waiting), None
        )


def _ignore(_session: Session) -> None:
    """Do nothing."""


def is_of(identity: Identity, user_id: UserId, *, is_anonymous: bool) -> bool:
    """Whether a session of this user belongs to an identity.

    Args:
        identity: The identity.
        user_id: The user of the session.
        is_anonymous: Whether that user was not authenticated.
    """
    # The id cannot be guessed, and nothing else identifies an anonymous user.
    return user_id == identity.user_id or (identity.is_anonymous and is_anonymous)


def check_kind(wire: WireFormat, *, acknowledging: bool) -> None:
    """Check that a wire format is the one of a session.

    Args:
        wire: The wire format.
        acknowledging: Whether the client of the session acknowledges events.

    Raises:
        Refused: BAD_REQUEST, if it is not.
    """
    if acknowledging is not wire.acknowledges:
        kind = "offer netra.v2 or netra.v1" if acknowledging else "offer no subprotocol"
        text = f"The session has another wire format; {kind} to resume it."
        raise Refused(problem(ErrorCode.BAD_REQUEST, text))


def resume(
    session: Session | None,
    wanted: ResumeRequest | None,
    missing: ResetReason = ResetReason.UNKNOWN,
) -> tuple[Session | None, ResumeState]:
    """Return the session that a connection resumes, None for a new session, and the result.

    Args:
        session: The session that was found.
        wanted: The session that the client asks for.
        missing: Why none was found.
    """
    if wanted is None:
        return None, ResumeState(Verdict.NEW)
    if session is None:
        return None, ResumeState(Verdict.RESET, missing)
    state = session.events.resume(wanted.last_seq)
    return (None if state.verdict is Verdict.RESET else session), state
