"""Pages of history: the newest messages of a thread, or the newest before one of them.

Each answer is listed directly after its question.
"""

from collections.abc import Sequence
from typing import Any

from orjson import loads
from sqlalchemy import Connection, Row, Select, and_, func, or_, select

from netra_trio.errors import MessageNotFound
from netra_trio.ids import CorrelationId, MessageId, RunId, ThreadId, UserId
from netra_trio.protocol.messages import (
    HistoryFeedback,
    HistoryMessage,
    HistoryQuestion,
    HistoryRun,
    RunStatus,
)
from netra_trio.stores.bounds import HISTORY_LISTED_BYTES, HISTORY_PAGE_BYTES
from netra_trio.stores.files import StoredFile
from netra_trio.stores.sql.branches import USER, is_listed, of_question, question
from netra_trio.stores.sql.files import files_of_messages
from netra_trio.stores.sql.questions import read_questions, read_sizes
from netra_trio.stores.sql.schema import messages, runs, threads


def read_page(
    connection: Connection,
    user_id: UserId,
    thread_id: ThreadId,
    *,
    limit: int,
    before: MessageId | None,
) -> tuple[Sequence[HistoryMessage], bool] | None:
    """Return a page, oldest first, and whether older messages were left out; None for no thread.

    Raises:
        MessageNotFound: If `before` is no message of the thread.
    """
    this = (threads.c.user_id == user_id, threads.c.thread_id == thread_id)
    thread = connection.scalar(select(threads.c.number).where(*this))
    if thread is None:
        return None
    earlier = and_(messages.c.thread == thread, is_listed)
    if before is not None:
        cursor = connection.execute(
            select(messages.c.place, messages.c.number).where(
                messages.c.thread == thread, messages.c.message_id == before
            )
        ).one_or_none()
        if cursor is None:
            raise MessageNotFound(before)
        # The first condition gives the range of the index; PostgreSQL derives none from an OR.
        earlier &= messages.c.place <= cursor.place
        earlier &= or_(messages.c.place < cursor.place, messages.c.number < cursor.number)
    # Sizes are read before texts: a hundred of the longest texts are 25 times the size of a page.
    newest = connection.execute(
        _SIZES.where(earlier)
        .order_by(messages.c.place.desc(), messages.c.number.desc())
        .limit(limit + 1)
    ).all()
    asked = read_sizes(connection, [row.number for row in newest[:limit]]) if newest else {}
    files = files_of_messages(connection, [row.number for row in newest[:limit]])
    sizes = [
        row.size
        + asked.get(row.number, 0)
        + sum(file.listed_size for file in files.get(row.number, ()))
        for row in newest[:limit]
    ]
    count = _how_many_fit(sizes)
    if not count:  # the only message of the thread was deleted: there is no such thread
        return None if before is None else ((), False)
    these = messages.c.number.in_([row.number for row in newest[:count]])
    page = connection.execute(_LISTED.where(these)).all()
    statuses = {RunId(row.run_id): RunStatus(row.status) for row in page if row.role == USER}
    questions = read_questions(connection, statuses) if asked else {}
    messages_of_page = [
        _listed(row, questions.get(row.run_id), files.get(row.number, ())) for row in page
    ]
    return messages_of_page, count < len(newest)


def _how_many_fit(sizes: Sequence[int]) -> int:
    """Return how many of the newest messages fit in a page: at least one, whatever its size."""
    total = 0
    for count, size in enumerate(sizes):
        total += size + HISTORY_LISTED_BYTES
        if count and total > HISTORY_PAGE_BYTES:
            return count
    return len(sizes)


# Characters of a comment, mostly of one byte; the page is cut by bytes later.
_SIZES: Select[Any] = (
    select(
        messages.c.number,
        (messages.c.bytes + func.coalesce(func.length(messages.c.comment), 0)).label("size"),
    )
    .select_from(messages)
    .join(question, of_question)
)

_LISTED: Select[Any] = (
    select(
        messages.c.number,
        messages.c.message_id,
        messages.c.role,
        messages.c.content,
        messages.c.truncated,
        messages.c.created_at,
        messages.c.steps,
        messages.c.rating,
        messages.c.comment,
        question.c.message_id.label("reply_to"),
        runs.c.run_id,
        runs.c.correlation_id,
        runs.c.agent_name,
        runs.c.status,
        runs.c.duration_ms,
    )
    .select_from(messages)
    .join(question, of_question)
    .outerjoin(runs, runs.c.message == messages.c.place)
    .order_by(messages.c.place, messages.c.number)
)


def _listed(
    row: Row[Any], questions: tuple[HistoryQuestion, ...] | None, files: Sequence[StoredFile]
) -> HistoryMessage:
    message_id = MessageId(row.message_id)
    attachments = tuple(file.file_id for file in files) or None
    listed_files = tuple(file.listed() for file in files) or None
    if row.role == USER:
        return HistoryMessage(
            message_id,
            row.role,
            row.content,
            row.created_at,
            CorrelationId(row.correlation_id),
            HistoryRun(RunId(row.run_id), row.agent_name, RunStatus(row.status), questions),
            attachments=attachments,
            files=listed_files,
        )
    run: HistoryRun | None = None
    reply_to: MessageId | None = None
    if row.run_id is not None:
        status, duration_ms = RunStatus(row.status), row.duration_ms
        run = HistoryRun(RunId(row.run_id), row.agent_name, status, duration_ms=duration_ms)
        reply_to = MessageId(row.reply_to)
    return HistoryMessage(
        message_id,
        row.role,
        row.content,
        row.created_at,
        run=run,
        truncated=row.truncated or None,
        reply_to=reply_to,
        steps=None if row.steps is None else loads(row.steps),
        feedback=None if row.rating is None else HistoryFeedback(row.rating, row.comment),
        attachments=attachments,
        files=listed_files,
    )
