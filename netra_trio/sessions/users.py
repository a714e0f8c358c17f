"""The users of this process: for each user the connections, sessions, live runs and message rate.

>>> users = Users(rate=60, waiting=20)
>>> alice = users.get(UserId("alice"), now=0.0)
>>> alice.window.take(0.0)
0.0
>>> users.get(UserId("alice"), now=59.0) is alice
True
"""

from collections.abc import Callable
from heapq import nlargest
from typing import Any, Protocol, TypeAlias

from attrs import define, field

from netra_trio.agents.questions import Question
from netra_trio.ids import QuestionId, RunId, SessionId, ThreadId, UserId
from netra_trio.protocol.codes import EndReason
from netra_trio.protocol.messages import Outbound
from netra_trio.protocol.problem import Problem
from netra_trio.protocol.ratelimit import SlidingWindow
from netra_trio.sessions.thread_lines import ThreadLines
from netra_trio.sessions.watched_thread import WatchedRun, WatchedThread
from netra_trio.stores.base import RunEnd
from netra_trio.telemetry.metrics import CONNECTIONS, Key


class UserConnection(Protocol):
    """The part of a connection that its user, and the limit of connections, use."""

    @property
    def session_id(self) -> SessionId:
        """Its session."""
        ...

    def try_send(self, message: Outbound) -> bool:
        """Send a control frame if there is space; return whether it was sent."""
        ...

    @property
    def reason(self) -> EndReason | None:
        """Why it ends; None while it is open."""
        ...

    def end(self, reason: EndReason, problem: Problem | None = None) -> None:
        """End it, with an error as its last frame."""
        ...


WatchedThreads: TypeAlias = dict[tuple[UserId, ThreadId], WatchedThread]
"""The watched threads of all users; the watchers may be at any node."""


class LiveRun(WatchedRun, Protocol):
    """The part of a live run that other sessions of its user use.

    Attributes:
        watchers: Called once with its end, for sessions that sent its message again.
    """

    watchers: dict[SessionId, Callable[[RunEnd], None]]

    @property
    def is_unattended(self) -> bool:
        """Whether it outlives its session."""
        ...

    def stop(self, error: Problem | None = None) -> None:
        """Stop it; its `agent_completed` is the reply, with the error that says why."""
        ...


@define(eq=False)
class User:
    """One user.

    Attributes:
        window: The rate limit of the user's messages.
        connections: The user's open connections, oldest first.
        sessions: The user's sessions, with and without a connection.
        runs: The user's runs that have not ended.
        threads: The order of these runs in their threads.
        questions: The open questions of these runs.
        watched: The watched threads of all users.
    """

    id: UserId
    window: SlidingWindow
    connections: list[UserConnection] = field(factory=list)
    sessions: set[SessionId] = field(factory=set)
    runs: dict[RunId, LiveRun] = field(factory=dict)
    threads: ThreadLines = field(factory=ThreadLines)
    questions: dict[QuestionId, Question] = field(factory=dict)
    watched: WatchedThreads = field(factory=dict)

    def is_idle(self, now: float) -> bool:
        """Whether the user can be removed without losing anything."""
        in_use = self.connections or self.sessions or self.runs
        return not in_use and self.window.is_idle(now)


class Users:
    """The users with a connection, a session, a live run, or a message in the last minute.

    A user is removed when none of these is left. So the rate limit is kept over a reconnect, and
    memory is bounded by the number of users of the last minute.

    Attributes:
        watched: The threads that are watched.
    """

    def __init__(self, *, rate: int, waiting: int) -> None:
        self.watched: WatchedThreads = {}
        self._rate = rate
        self._waiting = waiting
        self._users: dict[UserId, User] = {}

    def get(self, user_id: UserId, now: float) -> User:
        """Return the user, or a new one."""
        self._remove_idle(now)
        user = self._users.pop(user_id, None)
        if user is None:
            window = SlidingWindow(rate=self._rate, waiting=self._waiting)
            user = User(user_id, window, watched=self.watched)
        self._users[user_id] = user
        return user

    def find(self, user_id: UserId) -> User | None:
        """Return the user; None if it is not known."""
        return self._users.get(user_id)

    def find_run(self, run_id: RunId) -> LiveRun | None:
        """Return a live run of any user; None if it is not live here."""
        found = (user.runs.get(run_id) for user in self._users.values())
        return next((live for live in found if live is not None), None)

    def runs_of(self, user_id: UserId, thread_id: ThreadId) -> dict[RunId, LiveRun]:
        """Return the live runs of a thread."""
        user = self._users.get(user_id)
        runs = {} if user is None else user.runs
        return {
            run_id: live for run_id, live in runs.items() if live.message.thread_id == thread_id
        }

    @property
    def have_runs(self) -> bool:
        """Whether any user has a live run."""
        return any(user.runs for user in self._users.values())

    def __len__(self) -> int:
        return len(self._users)

    def by_connections(self) -> dict[Key, int]:
        """Return the numbers of users with 1, 2, … connections, for the metrics."""
        counts: dict[Key, int] = dict.fromkeys(CONNECTIONS, 0)
        for user in self._users.values():
            if user.connections:
                counts[_class_of(len(user.connections))] += 1
        return counts

    def largest(self, limit: int) -> tuple[dict[str, Any], ...]:
        """Return the `limit` users with the most connections, each with its numbers."""
        found = nlargest(limit, self._users.values(), key=lambda user: len(user.connections))
        return tuple(
            {
                "user_id": user.id,
                "connections": len(user.connections),
                "sessions": len(user.sessions),
                "runs": len(user.runs),
            }
            for user in found
        )

    def _remove_idle(self, now: float) -> None:
        """Check the two users that were not used longest; two for each new one keeps up."""
        for user_id in list(self._oldest(2)):
            user = self._users.pop(user_id)
            if not user.is_idle(now):
                self._users[user_id] = user

    def _oldest(self, count: int) -> list[UserId]:
        return [user_id for user_id, _ in zip(self._users, range(count), strict=False)]


def _class_of(connections: int) -> str:
    """Return the label in `CONNECTIONS` for a number of connections."""
    if connections <= 5:  # noqa: PLR2004 - up to the default limit each number has a label
        return str(connections)
    return "6-10" if connections <= 10 else "11+"  # noqa: PLR2004 - the labels have the numbers
