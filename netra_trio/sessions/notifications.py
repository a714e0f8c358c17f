"""The notifications for the webhook, of the runs that have left one session.

notifications = RunNotifications(services.notifier)
notifications.leave(executions)                       # its runs leave the session
notification = notifications.of_end(message, status)  # to be stored with the end
"""

from collections.abc import Iterable

from netra_trio.agents.execution import Execution
from netra_trio.ids import NotificationId, QuestionId, RunId, new_notification_id
from netra_trio.protocol.messages import AgentAsking, AgentCompleted, RunStatus
from netra_trio.stores.base import NewMessage
from netra_trio.stores.notifications import Notification
from netra_trio.webhook.notifier import Notifier


class RunNotifications:
    """Makes the notifications of the runs that have left one session.

    Args:
        notifier: Sends them; None without a webhook.
    """

    __slots__ = ("_ends", "_has_left", "_notifier")

    def __init__(self, notifier: Notifier | None) -> None:
        self._notifier = notifier
        self._has_left = False
        self._ends: dict[RunId, NotificationId] = {}  # of the runs that have not ended

    def leave(self, executions: Iterable[Execution]) -> None:
        """Send notifications of open questions, and store those of ends, without a status.

        A notification of an end is stored in advance, so that it is sent if this node is killed.
        """
        if self._notifier is None:
            return
        self._has_left = True
        new: list[Notification] = []
        for execution in executions:
            message = execution.spec.message
            self._ends[message.run_id] = notification_id = new_notification_id()
            new.append(_of(message, notification_id, AgentCompleted.TYPE))
            new += [_asking(message, question_id) for question_id in execution.asking]
        self._notifier.add(new)

    def of_end(self, message: NewMessage, status: RunStatus) -> Notification | None:
        """Return the notification to store with the end of a run, if it has left the session."""
        notification_id = self._ends.pop(message.run_id, None)
        if notification_id is None or self._notifier is None:
            return None
        self._notifier.wake()
        return _of(message, notification_id, AgentCompleted.TYPE, status)

    def of_question(self, message: NewMessage, question_id: QuestionId) -> Notification | None:
        """Return the notification to store with a question, if its run has left the session."""
        if not self._has_left or self._notifier is None:
            return None
        self._notifier.wake()
        return _asking(message, question_id)


def _of(
    message: NewMessage,
    notification_id: NotificationId,
    kind: str,
    status: RunStatus | None = None,
    question_id: QuestionId | None = None,
) -> Notification:
    return Notification(
        notification_id,
        kind,
        message.user_id,
        message.thread_id,
        message.run_id,
        status,
        question_id,
    )


def _asking(message: NewMessage, question_id: QuestionId) -> Notification:
    return _of(message, new_notification_id(), AgentAsking.TYPE, question_id=question_id)
