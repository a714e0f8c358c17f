"""Pages of history: the newest messages of a thread, or the newest before one of them."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, Select, select

from netra_trio.errors import MessageNotFound
from netra_trio.ids import CorrelationId, MessageId, RunId, ThreadId, UserId
from netra_trio.protocol.messages import HistoryMessage, HistoryQuestion, HistoryRun, RunStatus
from netra_trio.stores.base import HISTORY_LISTED_BYTES, HISTORY_PAGE_BYTES
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
    earlier = messages.c.thread == thread
    if before is not None:
        cursor = connection.scalar(
            select(messages.c.number).where(earlier, messages.c.message_id == before)
        )
        if cursor is None:
            raise MessageNotFound(before)
        earlier &= messages.c.number < cursor
    # Sizes are read before texts: a hundred of the longest texts are 25 times the size of a page.
    newest = connection.execute(
        select(messages.c.number, messages.c.bytes)
        .where(earlier)
        .order_by(messages.c.number.desc())
        .limit(limit + 1)
    ).all()
    asked = read_sizes(connection, [row.number for row in newest[:limit]]) if newest else {}
    count = _how_many_fit([row.bytes + asked.get(row.number, 0) for row in newest[:limit]])
    if not count:  # the only message of the thread was deleted: there is no such thread
        return None if before is None else ((), False)
    numbers = messages.c.number.between(newest[count - 1].number, newest[0].number)
    page = connection.execute(_LISTED.where(messages.c.thread == thread, numbers)).all()
    statuses = {RunId(row.run_id): RunStatus(row.status) for row in page if row.run_id is not None}
    questions = read_questions(connection, statuses) if asked else {}
    return [_listed(row, questions.get(row.run_id)) for row in page], count < len(newest)


def _how_many_fit(sizes: Sequence[int]) -> int:
    """Return how many of the newest messages fit in a page: at least one, whatever its size."""
    total = 0
    for count, size in enumerate(sizes):
        total += size + HISTORY_LISTED_BYTES
        if count and total > HISTORY_PAGE_BYTES:
            return count
    return len(sizes)


_LISTED: Select[Any] = (
    select(
        messages.c.message_id,
        messages.c.role,
        messages.c.content,
        messages.c.truncated,
        messages.c.created_at,
        runs.c.run_id,
        runs.c.correlation_id,
        runs.c.agent_name,
        runs.c.status,
    )
    .outerjoin(runs, runs.c.message == messages.c.number)
    .order_by(messages.c.number)
)


def _listed(row: Row[Any], questions: tuple[HistoryQuestion, ...] | None) -> HistoryMessage:
    message_id = MessageId(row.message_id)
    if row.run_id is None:
        truncated = row.truncated or None
        return HistoryMessage(
            message_id, row.role, row.content, row.created_at, truncated=truncated
        )
    run = HistoryRun(RunId(row.run_id), row.agent_name, RunStatus(row.status), questions)
    correlation_id = CorrelationId(row.correlation_id)
    return HistoryMessage(message_id, row.role, row.content, row.created_at, correlation_id, run)
