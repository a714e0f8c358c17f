"""The files of users, and the messages that name them.

    is_reserved = reserve(connection, file, max_bytes=1024)     # each in a transaction
    name_files(connection, [NamedFiles(number, user_id, file_ids)])
    file_ids = files_of(connection, messages.c.thread == thread)
    ...                                                         # the messages are deleted
    release(connection, file_ids, DELETED)

A file is `reserved` until its content is written, then `unnamed` until a message names it, `named`
until its last message is deleted, and `deleted` until its content is. Transactions that name a
file, or that delete a message of it, lock the row of the file, in the order of the ids, and after
all other rows: each of them finds what the earlier one has changed, and they cannot deadlock.
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

from attrs import frozen
from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    and_,
    delete,
    exists,
    func,
    insert,
    literal_column,
    or_,
    select,
    text,
    update,
)

from netra_trio.ids import FileId, UserId
from netra_trio.stores.files import ORPHAN_SECONDS, UNFINISHED_SECONDS, StoredFile
from netra_trio.stores.sql.errors import Overtaken
from netra_trio.stores.sql.rows import Insert
from netra_trio.stores.sql.schema import exact, files, message_files, messages

RESERVED, UNNAMED, NAMED, DELETED = "reserved", "unnamed", "named", "deleted"
"""The states of a file."""

KEYS = 500  # of a statement: half of the parameters that the oldest SQLite accepts

_T = TypeVar("_T")

_INSERT_NAMES = Insert(message_files)
_LOCK_USER = text("SELECT pg_advisory_xact_lock(:key)")

is_readable: ColumnElement[bool] = files.c.state.in_([UNNAMED, NAMED])
# In the words of the index: with a parameter, SQLite would not use it.
_is_not_named: ColumnElement[Any] = literal_column("files.state <> 'named'")
_has_message = exists().where(message_files.c.file_id == files.c.file_id)


@frozen
class NamedFiles:
    """The files that a message names.

    Attributes:
        message: The number of the message.
        user_id: The user who must have the files.
        is_complete: Whether all of them must exist; otherwise those that are missing are left out.
    """

    message: int
    user_id: UserId
    file_ids: Sequence[FileId]
    is_complete: bool = True


def reserve(connection: Connection, file: StoredFile, *, max_bytes: int) -> bool:
    """Record a file whose content is not written yet; return whether its user has room for it."""
    if connection.dialect.name == "postgresql":
        connection.execute(_LOCK_USER, {"key": _lock_key(file.user_id)})
    known = select(files.c.file_id).where(files.c.file_id == file.file_id)
    if connection.scalar(known) is not None:  # by an earlier attempt, whose answer was lost
        return True
    if count_bytes(connection, file.user_id) + file.size > max_bytes:
        return False
    row = {
        "file_id": file.file_id,
        "user_id": file.user_id,
        "name": file.name,
        "media_type": file.media_type,
        "bytes": file.size,
        "sha256": file.sha256,
        "created_at": file.created_at,
        "state": RESERVED,
    }
    connection.execute(insert(files).values(row))
    return True


def _lock_key(user_id: UserId) -> int:
    """Return the key of PostgreSQL's advisory lock of a user."""
    digest = hashlib.sha256(b"files " + exact(user_id).encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def finish(connection: Connection, file_id: FileId) -> bool:
    """Make a file readable; return False if it was deleted."""
    this = files.c.file_id == file_id
    reserved = update(files).where(this, files.c.state == RESERVED)
    connection.execute(reserved.values(state=UNNAMED))
    return connection.scalar(select(files.c.file_id).where(this, is_readable)) is not None


def find(connection: Connection, file_ids: Iterable[FileId]) -> dict[FileId, StoredFile]:
    """Return those of the files that can be read."""
    found: dict[FileId, StoredFile] = {}
    for some in _pieces(file_ids):
        rows = connection.execute(select(files).where(files.c.file_id.in_(some), is_readable))
        found.update((FileId(row.file_id), stored_file(row)) for row in rows)
    return found


def stored_file(row: Row[Any]) -> StoredFile:
    """Return a row of `files`."""
    return StoredFile(
        FileId(row.file_id),
        UserId(row.user_id),
        row.name,
        row.media_type,
        row.bytes,
        row.sha256,
        row.created_at,
    )


def count_bytes(connection: Connection, user_id: UserId) -> int:
    """Return the bytes of all files of a user that are not deleted."""
    these = (files.c.user_id == user_id, files.c.state != DELETED)
    total = connection.scalar(select(func.sum(files.c.bytes)).where(*these))
    return 0 if total is None else int(total)


def is_any_due(connection: Connection, *, moment: float) -> bool:
    """Return whether there is a file whose content is to be deleted."""
    return connection.scalar(select(files.c.file_id).where(_is_due(moment)).limit(1)) is not None


def take_deleted(connection: Connection, *, moment: float, limit: int) -> list[FileId]:
    """Delete files that are too old; return those whose content is to be deleted, oldest first.

    Args:
        connection: In a transaction.
        moment: Unix seconds.
        limit: How many, at most.
    """
    due = select(files.c.file_id).where(_is_due(moment)).order_by(files.c.created_at)
    # A locked file is being named, or returned to another node.
    page = due.limit(limit).with_for_update(skip_locked=True, key_share=True)
    found = [FileId(file_id) for file_id in connection.scalars(page)]
    if found:
        old = update(files).where(files.c.file_id.in_(found), files.c.state != DELETED)
        connection.execute(old.values(state=DELETED))
    return found


def _is_due(moment: float) -> ColumnElement[bool]:
    state, created_at = files.c.state, files.c.created_at
    return and_(
        _is_not_named,
        or_(
            state == DELETED,
            and_(state == UNNAMED, created_at <= moment - ORPHAN_SECONDS),
            and_(state == RESERVED, created_at <= moment - UNFINISHED_SECONDS),
        ),
    )


def forget(connection: Connection, file_ids: Iterable[FileId]) -> None:
    """Delete the rows of files whose content is deleted, or was never completely written."""
    for some in _pieces(file_ids):
        these = (files.c.file_id.in_(some), files.c.state.in_([RESERVED, DELETED]))
        connection.execute(delete(files).where(*these))


def missing_files(
    connection: Connection, wanted: Sequence[tuple[UserId, Sequence[FileId]]]
) -> list[tuple[FileId, ...]]:
    """Return, for each of some users' messages, the files that it cannot name."""
    found = find(connection, sorted({file_id for _, file_ids in wanted for file_id in file_ids}))
    owners = {file_id: file.user_id for file_id, file in found.items()}
    return [
        tuple(each for each in file_ids if owners.get(each) != user_id)
        for user_id, file_ids in wanted
    ]


def name_files(connection: Connection, named: Sequence[NamedFiles]) -> None:
    """Store which files messages name.

    Raises:
        Overtaken: If one was deleted since it was found by `missing_files`.
    """
    wanted = sorted({file_id for each in named for file_id in each.file_ids})
    owners: dict[str, str] = {}
    for some in _pieces(wanted):
        these = select(files.c.file_id, files.c.user_id).where(
            files.c.file_id.in_(some), is_readable
        )
        rows = connection.execute(_locked(these))
        owners.update((row.file_id, row.user_id) for row in rows)
    values: list[object] = []
    kept: set[FileId] = set()
    for each in named:
        its = [key for key in dict.fromkeys(each.file_ids) if owners.get(key) == each.user_id]
        if each.is_complete and len(its) < len(each.file_ids):
            raise Overtaken("a file was deleted")
        kept.update(its)
        for position, file_id in enumerate(its):
            values += (each.message, position, exact(file_id))
    _INSERT_NAMES.execute(connection, values)
    _set_state(connection, kept, NAMED, files.c.state == UNNAMED)


def files_of(connection: Connection, *these: ColumnElement[bool]) -> list[FileId]:
    """Return the files that messages name, which are about to be deleted."""
    query = (
        select(message_files.c.file_id)
        .join(messages, messages.c.number == message_files.c.message)
        .where(*these)
        .distinct()
    )
    return [FileId(file_id) for file_id in connection.scalars(query)]


def release(connection: Connection, file_ids: Collection[FileId], state: str) -> None:
    """Set the state of those of these files that no message names any more.

    Args:
        connection: In the transaction that has deleted messages.
        file_ids: The files that these messages named.
        state: `DELETED`, or `UNNAMED` if another message may name them.
    """
    for some in _pieces(sorted(file_ids)):
        # Of two transactions that delete the last messages, the second one finds none any more.
        connection.execute(_locked(select(files.c.file_id).where(files.c.file_id.in_(some)))).all()
    _set_state(connection, file_ids, state, files.c.state == NAMED, ~_has_message)


def delete_unnamed(connection: Connection, user_id: UserId) -> None:
    """Delete the files of a user that no message names, also those that are not finished."""
    these = (files.c.user_id == user_id, files.c.state.in_([RESERVED, UNNAMED]))
    found = connection.scalars(_locked(select(files.c.file_id).where(*these))).all()
    _set_state(connection, found, DELETED, files.c.state != NAMED)


def files_of_messages(
    connection: Connection, numbers: Sequence[int]
) -> dict[int, list[StoredFile]]:
    """Return the files of messages by their numbers, each in the order of its message."""
    found: dict[int, list[StoredFile]] = {}
    query = (
        select(message_files.c.message, files)
        .join(files, files.c.file_id == message_files.c.file_id)
        .where(message_files.c.message.in_(numbers))
        .order_by(message_files.c.message, message_files.c.position)
    )
    for row in connection.execute(query):
        found.setdefault(row.message, []).append(stored_file(row))
    return found


def _locked(query: Any) -> Any:
    """Return a query of files that locks their rows, in one order for all transactions."""
    return query.order_by(files.c.file_id).with_for_update(of=files, key_share=True)


def _set_state(
    connection: Connection, file_ids: Iterable[str], state: str, *these: ColumnElement[bool]
) -> None:
    for some in _pieces(sorted(file_ids)):
        change = update(files).where(files.c.file_id.in_(some), *these)
        connection.execute(change.values(state=state))


def _pieces(keys: Iterable[_T]) -> Iterator[list[_T]]:
    """Return keys in the pieces of a statement."""
    left = iter(keys)
    while some := list(islice(left, KEYS)):
        yield some
