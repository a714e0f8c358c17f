"""The part of the interface `Store` for waiting notifications, and for stops of runs.

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

NOTIFICATION_SECONDS = 86_400.0  # for which an unsent notification is kept
STOP_SECONDS = 3600.0  # for which a request to stop a run is valid


@frozen
class Notification:
    """The content of a request to the webhook, about a run.

    Attributes:
        type: "agent_completed" or "agent_asking".
        status: The status of an ended run.
        question_id: The id of a question.
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
        attempts: The number of earlier attempts.
    """

    notification: Notification
    attempts: int


class NotificationStore(Protocol):
    """Notifications that are sent at least once, and requests to stop runs of any node.

    The rules of `Store` hold: errors, cancelling, several nodes. A notification can also be stored
    together with its end or question: `RunEnd.notification`, `NewQuestion.notification`.
    """

    async def add_notification(self, notification: Notification) -> None:
        """Store a notification, due at once; it replaces one with the same id.

        The same applies to `RunEnd.notification` and `NewQuestion.notification`. A notification is
        deleted after `NOTIFICATION_SECONDS`, sent or not.
        """
        ...

    async def take_notifications(self, *, limit: int, seconds: float) -> Sequence[DueNotification]:
        """Take due notifications, in the order of the times at which they were due.

        No node takes them again for `seconds`, unless they are postponed to an earlier time. If
        none is due, this is one cheap query.

        Args:
            limit: The most notifications to take.
            seconds: How long this node keeps them: longer than sending them takes.
        """
        ...

    async def postpone_notification(
        self, notification_id: NotificationId, *, seconds: float
    ) -> None:
        """Make a notification due again in `seconds`; a deleted one is ignored."""
        ...

    async def drop_notification(self, notification_id: NotificationId) -> None:
        """Delete a notification, because it was sent or is not needed; a deleted one is ignored."""
        ...

    async def run_status(self, run_id: RunId) -> RunStatus | None:
        """Return the status of a run, None if it is unknown."""
        ...

    async def request_stop(self, run_id: RunId) -> bool:
        """Request that the node of a run stops it; the store need not be open.

        Returns:
            Whether there is such a run that has not ended.
        """
        ...

    async def stop_requests(self, after: int) -> tuple[int, Sequence[RunId]]:
        """Return the runs whose stop was requested after a request; one cheap query.

        Requests are kept for `STOP_SECONDS` at least. Each run is named once.

        Args:
            after: The number of that request; -1 for the newest number only.

        Returns:
            The newest number, to pass the next time, and the runs. Every request with a number up
            to it is visible to later calls of all nodes.
        """
        ...
