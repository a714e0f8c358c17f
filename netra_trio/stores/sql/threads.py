"""The list of a user's threads, titles, read marks, and feedback on answers.

page, has_more = list_threads(connection, user_id, limit=50, before=None, query=None)
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    Text,
    and_,
    case,
    delete,
    exists,
    func,
    literal,
    or_,
    select,
    update,
)

from netra_trio.errors import MessageNotFound, ThreadNotFound
from netra_trio.ids import UNLISTED, MessageId, NodeId, RunId, ThreadId, UserId
from netra_trio.protocol.messages import HistoryFeedback, RunStatus
from netra_trio.stores.search import pattern_of
from netra_trio.stores.sql.branches import is_answer, is_listed, of_question, question
from netra_trio.stores.sql.ends import is_unfinished, locked
from netra_trio.stores.sql.files import DELETED, files_of, release
from netra_trio.stores.sql.leases import now
from netra_trio.stores.sql.rows import insert_missing
from netra_trio.stores.sql.schema import (
    SEARCH,
    deleted_keys,
    exact,
    messages,
    questions,
    runs,
    threads,
)
from netra_trio.stores.threads import StoredThread, UnfinishedRun

CHUNK = 5000  # messages of one statement: about a second, and the time limit is two

_UNREAD = (
    select(func.count())
    .select_from(messages)
    .join(question, of_question)
    .where(
        messages.c.thread == threads.c.number,
        messages.c.place > threads.c.read_mark,
        messages.c.number > messages.c.place,  # an answer; its index has both
        is_listed,
    )
    .correlate(threads)
    .scalar_subquery()
)
_LISTED: Select[Any] = select(
    threads.c.number,
    threads.c.thread_id,
    threads.c.title,
    threads.c.created_at,
    threads.c.updated_at,
    _UNREAD.label("unread"),
)
_IS_IN_LIST = threads.c.thread_id.not_like(f"{UNLISTED.replace('_', '$_')}%", escape="$")
_IS_ASKING = exists().where(questions.c.run_id == runs.c.run_id, questions.c.outcome.is_(None))
_ACTIVE: Select[Any] = (
    select(
        messages.c.thread,
        func.count().label("runs"),
        func.max(case((_IS_ASKING, 1), else_=0)).label("asks"),
    )
    .join_from(runs, messages, messages.c.number == runs.c.message)
    .where(is_unfinished)
    .group_by(messages.c.thread)
)


def list_threads(
    connection: Connection,
    user_id: UserId,
    *,
    limit: int,
    before: ThreadId | None,
    query: str | None,
) -> tuple[Sequence[StoredThread], bool]:
    """Return threads, newest update first, and whether there are more.

    Raises:
        ThreadNotFound: If `before` is not a thread of the user.
    """
    these = and_(threads.c.user_id == user_id, _IS_IN_LIST)
    if before is not None:
        cursor = connection.execute(
            select(threads.c.number, threads.c.updated_at).where(_this(user_id, before))
        ).one_or_none()
        if cursor is None:
            raise ThreadNotFound(before)
        # The first condition gives the range of the index; PostgreSQL derives none from an OR.
        these &= threads.c.updated_at <= cursor.updated_at
        these &= or_(threads.c.updated_at < cursor.updated_at, threads.c.number < cursor.number)
    if query is not None:
        these &= _has_text(connection, query)
    rows = connection.execute(
        _LISTED.where(these)
        .order_by(threads.c.updated_at.desc(), threads.c.number.desc())
        .limit(limit + 1)
    ).all()
    return _stored(connection, user_id, rows[:limit]), len(rows) > limit


def _has_text(connection: Connection, query: str) -> ColumnElement[bool]:
    """Return the condition that a thread has a text, in any case, in its title or a message."""
    in_message = (
        select(literal(1))
        .select_from(messages)
        .join(question, of_question)
        .where(
            messages.c.thread == threads.c.number,
            is_listed,
            _contains(connection, messages.c.content, query),
        )
        .limit(1)
        .correlate(threads)
        .scalar_subquery()
    )
    # Not EXISTS: PostgreSQL may search the messages of all users once, instead of each thread.
    return or_(_contains(connection, threads.c.title, query), in_message.is_not(None))


def _contains(
    connection: Connection, column: ColumnElement[Any], query: str
) -> ColumnElement[bool]:
    if connection.dialect.name == "sqlite":
        function: Any = getattr(func, SEARCH)
        has_text: ColumnElement[bool] = function(column, literal(query, Text)) == 1
        return has_text
    return column.op("~", is_comparison=True)(literal(stored_pattern(query), Text))


def stored_pattern(query: str) -> str:
    """Return the pattern of a text among texts as `exact` stores them."""
    # Without the first part, "1" would be found in U+001A, which is stored with a 1 behind it.
    first = "(?<!\x1a)" if query[0] in "01" else ""
    return first + pattern_of(exact(query))


def get_thread(connection: Connection, user_id: UserId, thread_id: ThreadId) -> StoredThread | None:
    """Return a listed thread, None if there is none."""
    rows = connection.execute(_LISTED.where(_this(user_id, thread_id))).all()
    return next(iter(_stored(connection, user_id, rows)), None)


def _this(user_id: UserId, thread_id: ThreadId) -> ColumnElement[bool]:
    return and_(threads.c.user_id == user_id, threads.c.thread_id == thread_id)


def _stored(
    connection: Connection, user_id: UserId, rows: Sequence[Row[Any]]
) -> Sequence[StoredThread]:
    """Return threads, with the state of their unfinished runs."""
    if not rows:
        return ()
    active: Mapping[int, Row[Any]] = {
        row.thread: row for row in connection.execute(_ACTIVE.where(runs.c.user_id == user_id))
    }
    found: list[StoredThread] = []
    for row in rows:
        state = active.get(row.number)
        found.append(
            StoredThread(
                ThreadId(row.thread_id),
                row.title,
                row.created_at,
                row.updated_at,
                runs_active=0 if state is None else state.runs,
                asks=state is not None and bool(state.asks),
                unread=row.unread,
            )
        )
    return found


def find_room(connection: Connection, room: str) -> tuple[UserId, ThreadId] | None:
    """Return the user and the thread of a room, or None."""
    row = connection.execute(
        select(threads.c.user_id, threads.c.thread_id).where(threads.c.room == room)
    ).one_or_none()
    return None if row is None else (UserId(row.user_id), ThreadId(row.thread_id))


def set_title(
    connection: Connection, user_id: UserId, thread_id: ThreadId, title: str, *, by_user: bool
) -> bool:
    """Set the title of a thread; return whether it was set."""
    change = update(threads).where(_this(user_id, thread_id))
    if not by_user:
        change = change.where(~threads.c.titled_by_user)
    values = {"title": title, "titled_by_user": by_user}
    return bool(connection.execute(change.values(values)).rowcount)


def mark_read(
    connection: Connection, user_id: UserId, thread_id: ThreadId, message_id: MessageId
) -> bool:
    """Move the read mark forward to a message; return whether there is such a thread.

    Raises:
        MessageNotFound: If the message is not in the thread.
    """
    thread = connection.scalar(select(threads.c.number).where(_this(user_id, thread_id)))
    if thread is None:
        return False
    this = (messages.c.message_id == message_id, messages.c.thread == thread)
    row = connection.execute(
        select(messages.c.place, is_answer.label("is_answer")).where(*this)
    ).one_or_none()
    if row is None:
        raise MessageNotFound(message_id)
    # The answer of a read question may be stored later.
    read = row.place if row.is_answer else row.place - 1
    forward = (threads.c.number == thread, threads.c.read_mark < read)
    connection.execute(update(threads).where(*forward).values(read_mark=read))
    return True


def set_feedback(
    connection: Connection,
    user_id: UserId,
    message_id: MessageId,
    feedback: HistoryFeedback | None,
) -> ThreadId | None:
    """Store, replace or remove the feedback on an answer; return its thread."""
    row = connection.execute(
        select(messages.c.number, threads.c.thread_id)
        .join(threads, threads.c.number == messages.c.thread)
        .where(messages.c.message_id == message_id, threads.c.user_id == user_id, is_answer)
    ).one_or_none()
    if row is None:
        return None
    given = (None, None) if feedback is None else (str(feedback.rating), feedback.comment)
    change = update(messages).where(messages.c.number == row.number)
    connection.execute(change.values(rating=given[0], comment=given[1]))
    return ThreadId(row.thread_id)


def unfinished_runs(
    connection: Connection, user_id: UserId | None, thread_id: ThreadId | None
) -> Sequence[UnfinishedRun]:
    """Return the runs that have not ended, oldest first: all, a user's, or a thread's."""
    these = [is_unfinished, runs.c.owner.is_not(None)]
    if user_id is not None:
        these.append(runs.c.user_id == user_id)
    if thread_id is not None:
        these.append(threads.c.thread_id == thread_id)
    # Sorted here: to sort them, SQLite would read all runs by their primary key.
    rows = connection.execute(_UNFINISHED.where(*these)).all()
    return [
        UnfinishedRun(
            RunId(row.run_id),
            UserId(row.user_id),
            ThreadId(row.thread_id),
            row.agent_name,
            RunStatus(row.status),
            NodeId(row.owner),
            row.unattended,
            row.created_at,
        )
        for row in sorted(rows, key=lambda row: row.message)
    ]


_UNFINISHED: Select[Any] = (
    select(
        runs.c.message,
        runs.c.run_id,
        runs.c.user_id,
        threads.c.thread_id,
        runs.c.agent_name,
        runs.c.status,
        runs.c.owner,
        runs.c.unattended,
        messages.c.created_at,
    )
    .join_from(runs, messages, messages.c.number == runs.c.message)
    .join(threads, threads.c.number == messages.c.thread)
)


def count_unattended(connection: Connection, user_id: UserId) -> int:
    """Return the number of a user's unattended runs that have not ended."""
    these = (runs.c.user_id == user_id, is_unfinished, runs.c.unattended)
    return connection.scalar(select(func.count()).select_from(runs).where(*these)) or 0


def delete_thread(connection: Connection, user_id: UserId, thread_id: ThreadId) -> bool:
    """Delete a thread with all that belongs to it; return whether there was such a thread.

    Its unfinished runs are locked first, like in a batch that ends them.
    """
    number = connection.scalar(select(threads.c.number).where(_this(user_id, thread_id)))
    if number is None:
        return False
    in_thread = messages.c.thread == number
    of_thread = select(runs.c.message).join(messages, messages.c.number == runs.c.message)
    connection.execute(
        locked(of_thread.where(in_thread, runs.c.user_id == user_id, is_unfinished))
    ).close()
    this = select(threads.c.number).where(threads.c.number == number).with_for_update()
    if connection.scalar(this) is None:
        return False
    keys = (
        select(runs.c.correlation_id, runs.c.user_id, runs.c.fingerprint, literal(now(connection)))
        .join(messages, messages.c.number == runs.c.message)
        .where(in_thread, runs.c.keyed)
    )
    connection.execute(
        insert_missing(connection, deleted_keys).from_select([*deleted_keys.columns.keys()], keys)
    )
    named = files_of(connection, in_thread)
    some = select(messages.c.number).where(in_thread).limit(CHUNK)
    while connection.execute(delete(messages).where(messages.c.number.in_(some))).rowcount:
        pass
    connection.execute(delete(threads).where(threads.c.number == number))
    if named:
        release(connection, named, DELETED)
    return True
