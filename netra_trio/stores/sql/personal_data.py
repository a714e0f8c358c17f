"""The stored data of one user: read for an export, and deleted.

for row in read_threads(connection, user_id, after=0): ...
is_known = remove_user(connection, user_id)             # in a transaction
"""

from collections.abc import Sequence
from typing import Any

from orjson import loads
from sqlalchemy import ColumnElement, Connection, Row, Select, Table, delete, exists, select

from netra_trio.ids import FileId, UserId
from netra_trio.stores.sql.branches import is_listed, of_question, question
from netra_trio.stores.sql.files import DELETED, files_of_messages
from netra_trio.stores.sql.schema import (
    files,
    messages,
    notifications,
    questions,
    runs,
    threads,
    usage,
    users,
)
from netra_trio.stores.sql.user_changes import CHANGES

CHUNK = 500  # rows of one transaction that deletes: some ms
PAGE = 100  # rows that are read at once: 7 MB at most, if all are the longest messages


def read_user(connection: Connection, user_id: UserId) -> dict[str, Any] | None:
    """Return the row of a user, None if there is none."""
    row = connection.execute(select(users).where(users.c.user_id == user_id)).one_or_none()
    if row is None:
        return None
    return {"user_id": row.user_id, "enabled": bool(row.enabled), "created_at": row.created_at}


def read_threads(
    connection: Connection, user_id: UserId, *, after: int
) -> Sequence[tuple[int, dict[str, Any]]]:
    """Return the next threads of a user, each behind its number.

    Args:
        connection: A connection.
        user_id: The user.
        after: The number of the last thread that was read; 0 before the first one.
    """
    this = (threads.c.user_id == user_id, threads.c.number > after)
    page = select(threads).where(*this).order_by(threads.c.number).limit(PAGE)
    return [
        (
            row.number,
            {
                "thread_id": row.thread_id,
                "title": row.title,
                "created_at": row.created_at,
                "updated_at": row.updated_at,
            },
        )
        for row in connection.execute(page)
    ]


def read_messages(
    connection: Connection, thread: int, *, after: tuple[int, int]
) -> Sequence[tuple[tuple[int, int], dict[str, Any]]]:
    """Return the next messages of a thread with their feedback, each behind its place and number.

    Messages that were replaced are among them.

    Args:
        connection: A connection.
        thread: The number of the thread.
        after: The place and number of the last message that was read; zeros before the first one.
    """
    place, number = after
    later = (
        messages.c.thread == thread,
        messages.c.place >= place,
        (messages.c.place > place) | (messages.c.number > number),
    )
    page = _MESSAGES.where(*later).order_by(messages.c.place, messages.c.number).limit(PAGE)
    rows = connection.execute(page).all()
    named = files_of_messages(connection, [row.number for row in rows])
    return [
        (
            (row.place, row.number),
            _message(row, [file.file_id for file in named.get(row.number, ())]),
        )
        for row in rows
    ]


def read_questions_of(connection: Connection, run_ids: Sequence[str]) -> list[dict[str, Any]]:
    """Return the questions of runs with their answers, oldest first."""
    these = select(questions).where(questions.c.run_id.in_(run_ids))
    ordered = these.order_by(questions.c.created_at, questions.c.question_id)
    return [
        {
            "question_id": row.question_id,
            "run_id": row.run_id,
            "kind": row.kind,
            "prompt": row.prompt,
            "created_at": row.created_at,
            "expires_at": row.expires_at,
            **_given("tool_name", row.tool_name),
            **_given("arguments", _json(row.arguments)),
            **_given("outcome", row.outcome),
            **_given("answer", _json(row.answer)),
            **_given("answered_by", row.answered_by),
        }
        for row in connection.execute(ordered)
    ]


def read_usage(
    connection: Connection, user_id: UserId, *, after: str
) -> Sequence[tuple[str, dict[str, Any]]]:
    """Return the next reports of a user's usage, each behind its id; the first ones after ""."""
    this = (usage.c.user_id == user_id, usage.c.usage_id > after)
    page = select(usage).where(*this).order_by(usage.c.usage_id).limit(PAGE)
    return [
        (
            row.usage_id,
            {
                "run_id": row.run_id,
                "agent_name": row.agent_name,
                "model": row.model,
                "input_tokens": row.input_tokens,
                "output_tokens": row.output_tokens,
                **_given("cost", row.cost),
                "created_at": row.created_at,
            },
        )
        for row in connection.execute(page)
    ]


def read_files(connection: Connection, user_id: UserId, *, after: str) -> Sequence[dict[str, Any]]:
    """Return the next files of a user that are not deleted; the first ones after ""."""
    this = (files.c.user_id == user_id, files.c.state != DELETED, files.c.file_id > after)
    page = select(files).where(*this).order_by(files.c.file_id).limit(PAGE)
    return [
        {
            "file_id": row.file_id,
            "name": row.name,
            "media_type": row.media_type,
            "bytes": row.bytes,
            "sha256": row.sha256,
            "created_at": row.created_at,
        }
        for row in connection.execute(page)
    ]


def deleted_files_of(connection: Connection, user_id: UserId) -> Sequence[FileId]:
    """Return the next files of a user whose content is to be deleted."""
    this = (files.c.user_id == user_id, files.c.state == DELETED)
    page = select(files.c.file_id).where(*this).limit(PAGE)
    return [FileId(file_id) for file_id in connection.scalars(page)]


def has_data(connection: Connection, user_id: UserId) -> bool:
    """Return whether anything of a user is stored: an anonymous user has no row of its own."""
    tables = (users, threads, files, usage, notifications)
    return any(connection.scalar(select(exists().where(_of(t, user_id)))) for t in tables)


def delete_some_usage(connection: Connection, user_id: UserId) -> int:
    """Delete reports of a user's usage; return how many, at most `CHUNK`."""
    some = select(usage.c.usage_id).where(usage.c.user_id == user_id).limit(CHUNK)
    return connection.execute(delete(usage).where(usage.c.usage_id.in_(some))).rowcount


def remove_user(connection: Connection, user_id: UserId) -> None:
    """Delete the row of a user, and the notifications; the nodes end the user's connections."""
    CHANGES.lock(connection)
    connection.execute(delete(notifications).where(_of(notifications, user_id)))
    if connection.execute(delete(users).where(_of(users, user_id))).rowcount:
        CHANGES.note(connection, user_id)


def _of(table: Table, user_id: UserId) -> ColumnElement[bool]:
    return table.c.user_id == user_id


def _message(row: Row[Any], attachments: list[FileId]) -> dict[str, Any]:
    feedback = {"rating": row.rating, **_given("comment", row.comment)}
    run = {"run_id": row.run_id, "agent_name": row.agent_name, "status": row.status}
    return {
        "message_id": row.message_id,
        "role": row.role,
        "content": row.content,
        "created_at": row.created_at,
        **({} if row.run_id is None else {"run": run}),
        **({"truncated": True} if row.truncated else {}),
        **({} if row.is_listed else {"replaced": True}),
        **_given("attachments", attachments or None),
        **_given("steps", _json(row.steps)),
        **({} if row.rating is None else {"feedback": feedback}),
    }


def _json(stored: bytes | None) -> Any:
    return None if stored is None else loads(stored)


def _given(name: str, value: Any) -> dict[str, Any]:
    return {} if value is None else {name: value}


_MESSAGES: Select[Any] = (
    select(
        messages.c.number,
        messages.c.place,
        messages.c.message_id,
        messages.c.role,
        messages.c.content,
        messages.c.truncated,
        messages.c.created_at,
        messages.c.steps,
        messages.c.rating,
        messages.c.comment,
        is_listed.label("is_listed"),
        runs.c.run_id,
        runs.c.agent_name,
        runs.c.status,
    )
    .select_from(messages)
    .join(question, of_question)
    .outerjoin(runs, runs.c.message == messages.c.place)
)
