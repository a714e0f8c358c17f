"""The notifications of the store in memory, and its requests to stop runs.

notifications = MemoryNotifications()
notifications.add(notification)
due = notifications.take(limit=10, seconds=30.0)
"""

import itertools

import trio
from attrs import define, evolve

from netra_trio.ids import NotificationId, RunId
from netra_trio.stores.notifications import (
    NOTIFICATION_SECONDS,
    STOP_SECONDS,
    DueNotification,
    Notification,
)

NOTIFICATIONS = 10_000  # waiting ones; beyond it, the oldest is dropped


@define
class _Waiting:
    """A waiting notification, with times on Trio's clock."""

    due: DueNotification
    due_at: float
    expires_at: float


class MemoryNotifications:
    """Notifications that wait to be sent, and requests to stop runs."""

    def __init__(self) -> None:
        self._waiting: dict[NotificationId, _Waiting] = {}
        self._stops: dict[
            RunId, tuple[int, float]
        ] = {}  # number and time of each request, oldest first
        self._stopped = 0  # the number of the newest request

    def add(self, notification: Notification) -> None:
        """Add a notification, due at once; it replaces one with its id."""
        now = trio.current_time()
        new = _Waiting(DueNotification(notification, 0), now, now + NOTIFICATION_SECONDS)
        self._waiting.pop(notification.id, None)
        self._waiting[notification.id] = new
        if len(self._waiting) > NOTIFICATIONS:
            del self._waiting[next(iter(self._waiting))]

    def take(self, *, limit: int, seconds: float) -> list[DueNotification]:
        """Take due notifications; they are due again in `seconds`."""
        now = trio.current_time()
        expired = [key for key, each in self._waiting.items() if each.expires_at <= now]
        for key in expired:
            del self._waiting[key]
        due = sorted(
            (each for each in self._waiting.values() if each.due_at <= now),
            key=lambda each: each.due_at,
        )
        taken: list[DueNotification] = []
        for each in due[:limit]:
            taken.append(each.due)
            each.due_at = now + seconds
            each.due = evolve(each.due, attempts=each.due.attempts + 1)
        return taken

    def postpone(self, notification_id: NotificationId, *, seconds: float) -> None:
        """Make a notification due again in `seconds`."""
        waiting = self._waiting.get(notification_id)
        if waiting is not None:
            waiting.due_at = trio.current_time() + seconds

    def drop(self, notification_id: NotificationId) -> None:
        """Remove a notification."""
        self._waiting.pop(notification_id, None)

    def request_stop(self, run_id: RunId) -> None:
        """Add a request to stop a run, and remove expired requests."""
        now = trio.current_time()
        self._stopped += 1
        self._stops.pop(run_id, None)
        self._stops = {
            run_id: stop for run_id, stop in self._stops.items() if stop[1] + STOP_SECONDS > now
        }
        self._stops[run_id] = (self._stopped, now)

    def stops(self, after: int) -> tuple[int, list[RunId]]:
        """Return the newest number of a request, and the runs of later requests; none for -1."""
        runs: list[RunId] = []
        if after >= 0:
            newest_first = reversed(self._stops.items())
            later = itertools.takewhile(lambda stop: stop[1][0] > after, newest_first)
            runs = [run_id for run_id, _ in later]
        return self._stopped, runs[::-1]
