"""The notifications that wait to be sent.

add_notifications(connection, [notification])               # in a transaction
if is_any_due(connection):
    due = take_notifications(connection, limit=10, seconds=30.0)
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, delete, select, update

from netra_trio.ids import NotificationId, QuestionId, RunId, ThreadId, UserId
from netra_trio.protocol.messages import RunStatus
from netra_trio.stores.notifications import (
    NOTIFICATION_SECONDS,
    DueNotification,
    Notification,
)
from netra_trio.stores.sql.leases import now
from netra_trio.stores.sql.rows import replace_or_insert
from netra_trio.stores.sql.schema import notifications


def add_notifications(connection: Connection, new: Sequence[Notification]) -> None:
    """Store notifications, due at once; they replace those with the same ids."""
    moment = now(connection)
    rows = [
        {
            "notification_id": each.id,
            "type": each.type,
            "user_id": each.user_id,
            "thread_id": each.thread_id,
            "run_id": each.run_id,
            "status": None if each.status is None else str(each.status),
            "question_id": each.question_id,
            "attempts": 0,
            "created_at": moment,
            "due_at": moment,
        }
        for each in new
    ]
    connection.execute(replace_or_insert(connection, notifications), rows)


def is_any_due(connection: Connection) -> bool:
    """Return whether a notification is due."""
    first = select(notifications.c.due_at).order_by(notifications.c.due_at).limit(1)
    due_at = connection.scalar(first)
    return due_at is not None and due_at <= now(connection)


def take_notifications(
    connection: Connection, *, limit: int, seconds: float
) -> list[DueNotification]:
    """Take due notifications, and delete expired ones."""
    moment = now(connection)
    due = (
        select(notifications)
        .where(notifications.c.due_at <= moment)
        .order_by(notifications.c.due_at, notifications.c.notification_id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    rows = connection.execute(due).all()
    first = moment - NOTIFICATION_SECONDS
    old = [row.notification_id for row in rows if row.created_at <= first]
    taken = [row for row in rows if row.created_at > first]
    this = notifications.c.notification_id
    if old:
        connection.execute(delete(notifications).where(this.in_(old)))
    if taken:
        connection.execute(
            update(notifications)
            .where(this.in_([row.notification_id for row in taken]))
            .values(due_at=moment + seconds, attempts=notifications.c.attempts + 1)
        )
    return [_due(row) for row in taken]


def postpone(connection: Connection, notification_id: NotificationId, *, seconds: float) -> None:
    """Make a notification due again in `seconds`."""
    this = notifications.c.notification_id == notification_id
    change = update(notifications).where(this).values(due_at=now(connection) + seconds)
    connection.execute(change)


def drop(connection: Connection, notification_id: NotificationId) -> None:
    """Delete a notification."""
    this = notifications.c.notification_id == notification_id
    connection.execute(delete(notifications).where(this))


def _due(row: Row[Any]) -> DueNotification:
    notification = Notification(
        NotificationId(row.notification_id),
        row.type,
        UserId(row.user_id),
        ThreadId(row.thread_id),
        RunId(row.run_id),
        None if row.status is None else RunStatus(row.status),
        None if row.question_id is None else QuestionId(row.question_id),
    )
    return DueNotification(notification, row.attempts)
