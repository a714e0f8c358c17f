"""What is kept per user while there is something to keep: connections, rate, runs.

>>> users = Users(rate=60, waiting=20)
>>> alice = users.get(UserId("alice"), now=0.0)
>>> alice.window.take(0.0)
0.0
>>> users.get(UserId("alice"), now=59.0) is alice
True
"""

from collections.abc import Callable
from heapq import nlargest
from typing import Any, Protocol

from attrs import define, field

from netra_trio.ids import RunId, SessionId, UserId
from netra_trio.protocol.codes import EndReason
from netra_trio.protocol.messages import RunStatus
from netra_trio.protocol.problem import Problem
from netra_trio.protocol.ratelimit import SlidingWindow
from netra_trio.stores.base import RunEnd
from netra_trio.telemetry.metrics import CONNECTIONS, Key


class ClosableConnection(Protocol):
    """A connection, as far as its user's limit is concerned."""

    @property
    def reason(self) -> EndReason | None:
        """Why it ends, None while it does not."""
        ...

    def end(self, reason: EndReason, problem: Problem | None = None) -> None:
        """End it, for a reason and with a last word."""
        ...


class LiveRun(Protocol):
    """A run that has not ended, where the other sessions of its user can find it.

    Attributes:
        watchers: Called with its end, once each: sessions that sent its message again.
    """

    watchers: dict[SessionId, Callable[[RunEnd], None]]

    @property
    def status(self) -> RunStatus:
        """Whether it waits or runs."""
        ...

    def stop(self) -> None:
        """Stop it; its `agent_completed` is the answer."""
        ...


@define(eq=False)
class User:
    """One user, over all connections and sessions.

    Attributes:
        window: The rate of the user's messages.
        connections: The user's open connections, oldest first.
        sessions: The user's sessions, with and without a connection.
        runs: The user's runs that have not ended.
    """

    id: UserId
    window: SlidingWindow
    connections: list[ClosableConnection] = field(factory=list)
    sessions: set[SessionId] = field(factory=set)
    runs: dict[RunId, LiveRun] = field(factory=dict)

    def is_idle(self, now: float) -> bool:
        """Whether nothing would be lost by forgetting this user."""
        in_use = self.connections or self.sessions or self.runs
        return not in_use and self.window.is_idle(now)


class Users:
    """The users about whom there is something to remember.

    A user is forgotten once the rate window is empty and nothing is open, so that the rate limit
    outlasts a reconnect, and memory is bounded by who was there in the last minute.
    """

    def __init__(self, *, rate: int, waiting: int) -> None:
        self._rate = rate
        self._waiting = waiting
        self._users: dict[UserId, User] = {}

    def get(self, user_id: UserId, now: float) -> User:
        """Return the user, made anew if there was nothing to remember."""
        self._forget_some(now)
        user = self._users.pop(user_id, None)
        if user is None:
            user = User(user_id, SlidingWindow(rate=self._rate, waiting=self._waiting))
        self._users[user_id] = user
        return user

    def __len__(self) -> int:
        return len(self._users)

    def by_connections(self) -> dict[Key, int]:
        """Return how many users have how many connections, as the figures have it."""
        counts: dict[Key, int] = dict.fromkeys(CONNECTIONS, 0)
        for user in self._users.values():
            if user.connections:
                counts[_class_of(len(user.connections))] += 1
        return counts

    def largest(self, limit: int) -> tuple[dict[str, Any], ...]:
        """Return so many users, those with the most connections first, and what each has."""
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

    def _forget_some(self, now: float) -> None:
        """Look at the two that were asked for longest ago: faster than they come in."""
        for user_id in list(self._oldest(2)):
            user = self._users.pop(user_id)
            if not user.is_idle(now):
                self._users[user_id] = user

    def _oldest(self, count: int) -> list[UserId]:
        return [user_id for user_id, _ in zip(self._users, range(count), strict=False)]


def _class_of(connections: int) -> str:
    """Return which of `CONNECTIONS` a user with so many belongs to."""
    if connections <= 5:  # noqa: PLR2004 - up to the default limit each number is a class
        return str(connections)
    return "6-10" if connections <= 10 else "11+"  # noqa: PLR2004 - the class says it
