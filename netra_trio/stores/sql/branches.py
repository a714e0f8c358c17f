"""Branches of threads: messages that later ones have replaced, and messages that are deleted.

branch = find_branch(connection, message)           # in the transaction of a batch
hide_branch(connection, branch, number)
"""

from collections.abc import Collection, Mapping

from attrs import frozen
from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    delete,
    exists,
    func,
    literal_column,
    select,
    update,
)

from netra_trio.stores.base import NewMessage
from netra_trio.stores.sql.files import files_of, release
from netra_trio.stores.sql.schema import messages, threads

USER, AGENT = "user", "agent"
"""The roles of messages."""

question = messages.alias("question")
"""The message that a message belongs to: an answer's question, or the message itself."""

is_listed: ColumnElement[bool] = question.c.replaced_by.is_(None)
"""Whether a message is in the history; the query joins it with its question."""

of_question: ColumnElement[bool] = question.c.number == messages.c.place
"""The condition of that join."""

is_answer: ColumnElement[bool] = messages.c.role == literal_column(f"'{AGENT}'")


@frozen
class Branch:
    """A message to replace, with all later messages.

    Attributes:
        thread: The number of its thread.
        place: The number of its question.
    """

    thread: int
    place: int


def find_branch(connection: Connection, message: NewMessage) -> Branch | None:
    """Return the branch that a message replaces, None if its thread has no such message."""
    row = connection.execute(
        select(messages.c.thread, messages.c.place, messages.c.role)
        .join(threads, threads.c.number == messages.c.thread)
        .where(
            messages.c.message_id == message.replaces,
            threads.c.user_id == message.user_id,
            threads.c.thread_id == message.thread_id,
        )
    ).one_or_none()
    if row is None:
        return None
    place = connection.scalar(
        select(func.max(messages.c.place)).where(
            messages.c.thread == row.thread, messages.c.place <= row.place, ~is_answer
        )
    )
    return Branch(row.thread, row.place if place is None else place)


def hide_branch(connection: Connection, branch: Branch, number: int) -> None:
    """Remove a branch from the history; the message with this number has replaced it."""
    these = (
        messages.c.thread == branch.thread,
        messages.c.place.between(branch.place, number - 1),
        messages.c.number == messages.c.place,
        messages.c.replaced_by.is_(None),
    )
    connection.execute(update(messages).where(*these).values(replaced_by=number))


def delete_messages(
    connection: Connection, numbers: Mapping[int, int], *, files_become: str
) -> None:
    """Delete messages of users with their answers; messages that they replaced are listed again.

    Args:
        connection: In a transaction.
        numbers: The numbers of the messages, each with that of its thread.
        files_become: The state of the files that no other message names.
    """
    in_threads = messages.c.thread.in_(set(numbers.values()))
    replaced = and_(in_threads, messages.c.replaced_by.in_(list(numbers)))
    connection.execute(update(messages).where(replaced).values(replaced_by=None))
    with_answers = and_(in_threads, messages.c.place.in_(list(numbers)))
    named = files_of(connection, with_answers)
    connection.execute(delete(messages).where(with_answers))
    delete_empty(connection, set(numbers.values()))
    if named:
        release(connection, named, files_become)


def delete_empty(connection: Connection, numbers: Collection[int]) -> None:
    """Delete those of these threads that have no message.

    A transaction that inserts a message locks its thread until the commit. If this waited for that
    lock, the thread would still look empty, and be deleted with the message that was inserted.
    """
    these = select(threads.c.number).where(threads.c.number.in_(numbers))
    free = connection.scalars(these.with_for_update(skip_locked=True)).all()
    is_empty = ~exists().where(messages.c.thread == threads.c.number)
    connection.execute(delete(threads).where(threads.c.number.in_(free), is_empty))
