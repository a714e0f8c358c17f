"""The part of the interface `Store` for notifications that wait to be sent, and for stops of runs.

await store.add_notification(notification)
for due in await store.take_notifications(limit=10, seconds=30):
    await send(due.notification)
    await store.drop_notification(due.notification.id)
"""

from collections.abc import Sequence
from typing import Protocol

from netra_trio.ids import NotificationId, QuestionId, RunId, ThreadId, UserId
from netra_trio.protocol.messages import RunStatus
from netra_trio.values import frozen

NOTIFICATION_SECONDS = 86_400.0  # for which a notification that cannot be sent is kept
STOP_SECONDS = 3600.0  # for which a request to stop a run is known


@frozen
class Notification:
    """What a webhook is told of a run.

    Attributes:
        type: "agent_completed" or "agent_asking".
        status: Of a run that has ended.
        question_id: Of the question that a run asks.
    """

    id: NotificationId
    type: str
    user_id: UserId
    thread_id: ThreadId
    run_id: RunId
    status: RunStatus | None = None
    question_id: QuestionId | None = None


@frozen
class DueNotification:
    """A notification to send now.

    Attributes:
        attempts: How often it was taken before.
    """

    notification: Notification
    attempts: int


class NotificationStore(Protocol):
    """Notifications that are sent at least once, and requests to stop runs of any node.

    The rules of `Store` hold: errors, cancelling, several nodes. A notification can also be stored
    together with what it tells of: `RunEnd.notification`, `NewQuestion.notification`.
    """

    async def add_notification(self, notification: Notification) -> None:
        """Store a notification, due at once; it replaces one with the same id, if there is one.

        So does the notification of a run's end or of a question. It is gone after
        `NOTIFICATION_SECONDS`, sent or not.
        """
        ...

    async def take_notifications(self, *, limit: int, seconds: float) -> Sequence[DueNotification]:
        """Take notifications that are due, those that are due for the longest time first.

        No node takes them again for `seconds`, unless they are postponed to an earlier time. If
        none is due, this is one cheap query.

        Args:
            limit: The most notifications to take.
            seconds: For how long they are this node's: longer than sending them takes.
        """
        ...

    async def postpone_notification(
        self, notification_id: NotificationId, *, seconds: float
    ) -> None:
        """Make a notification due again in some seconds; one that is gone is ignored."""
        ...

    async def drop_notification(self, notification_id: NotificationId) -> None:
        """Delete a notification: it was sent, or must not be; one that is gone is ignored."""
        ...

    async def run_status(self, run_id: RunId) -> RunStatus | None:
        """Return the status of a run, None if it is unknown."""
        ...

    async def request_stop(self, run_id: RunId) -> bool:
        """Ask the node of a run to stop it; the store need not be open.

        Returns:
            Whether there is such a run, and it has not ended.
        """
        ...

    async def stop_requests(self, after: int) -> tuple[int, Sequence[RunId]]:
        """Return the runs whose stop was requested after a request; one cheap query.

        Requests are known for `STOP_SECONDS` at least. Each run is named once.

        Args:
            after: The number of that request; -1 for the newest number only.

        Returns:
            The newest number, to pass the next time, and the runs. Every request with a number up
            to it is visible to later calls of all nodes.
        """
        ...
