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

NOTIFICATIONS = 10_000  # that wait; beyond it, the oldest is dropped


@define
class _Waiting:
    """A notification that waits; its times are Trio's."""

    due: DueNotification
    due_at: float
    gone_at: float


class MemoryNotifications:
    """Notifications that wait to be sent, and requests to stop runs."""

    def __init__(self) -> None:
        self._waiting: dict[NotificationId, _Waiting] = {}
        self._stops: dict[RunId, tuple[int, float]] = {}  # its number and time, the oldest first
        self._stopped = 0  # the number of the newest one

    def add(self, notification: Notification) -> None:
        """Add a notification, due at once, in place of one with its id."""
        now = trio.current_time()
        new = _Waiting(DueNotification(notification, 0), now, now + NOTIFICATION_SECONDS)
        self._waiting.pop(notification.id, None)
        self._waiting[notification.id] = new
        if len(self._waiting) > NOTIFICATIONS:
            del self._waiting[next(iter(self._waiting))]

    def take(self, *, limit: int, seconds: float) -> list[DueNotification]:
        """Take notifications that are due; they are due again in some seconds."""
        now = trio.current_time()
        gone = [key for key, each in self._waiting.items() if each.gone_at <= now]
        for key in gone:
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
        """Make a notification due again in some seconds."""
        waiting = self._waiting.get(notification_id)
        if waiting is not None:
            waiting.due_at = trio.current_time() + seconds

    def drop(self, notification_id: NotificationId) -> None:
        """Forget a notification."""
        self._waiting.pop(notification_id, None)

    def request_stop(self, run_id: RunId) -> None:
        """Add a request to stop a run, and forget those that are too old."""
        now = trio.current_time()
        self._stopped += 1
        self._stops.pop(run_id, None)
        self._stops = {
            run_id: stop for run_id, stop in self._stops.items() if stop[1] + STOP_SECONDS > now
        }
        self._stops[run_id] = (self._stopped, now)

    def stops(self, after: int) -> tuple[int, list[RunId]]:
        """Return the newest request, and the runs that were named after another one; -1: none."""
        runs: list[RunId] = []
        if after >= 0:
            newest_first = reversed(self._stops.items())
            later = itertools.takewhile(lambda stop: stop[1][0] > after, newest_first)
            runs = [run_id for run_id, _ in later]
        return self._stopped, runs[::-1]
