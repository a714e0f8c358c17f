"""The primary keys of the threads that were written to last, so that a batch need not select them.

numbers = ThreadNumbers()
found = numbers.find(connection, messages)
numbers.keep(found)  # after the commit
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, Select, select

from netra_trio.ids import ThreadId, UserId
from netra_trio.protocol.rooms import thread_room
from netra_trio.stores.base import NewMessage
from netra_trio.stores.sql.rows import insert_missing
from netra_trio.stores.sql.schema import threads
from netra_trio.stores.threads import auto_title

THREADS_KNOWN = 10_000  # some 3 MB: one thread for each connection of a full server

ThreadKey = tuple[UserId, ThreadId]


class ThreadNumbers:
    """A cache of thread numbers, least recently used first out.

    A number is kept only after its thread was committed, and is never given to another thread.
    """

    def __init__(self) -> None:
        self._numbers: OrderedDict[ThreadKey, int] = OrderedDict()

    def find(self, connection: Connection, messages: Iterable[NewMessage]) -> dict[ThreadKey, int]:
        """Return the numbers of these messages' threads; create the threads that are missing."""
        known = self._numbers
        found: dict[ThreadKey, int] = {}
        missing: dict[ThreadKey, NewMessage] = {}
        for message in messages:
            key = (message.user_id, message.thread_id)
            number = known.get(key)
            if number is None:
                missing.setdefault(key, message)
            else:
                found[key] = number
        if missing:
            found.update(_create(connection, missing))
        return found

    def keep(self, numbers: Mapping[ThreadKey, int]) -> None:
        """Keep numbers of threads that are committed."""
        known = self._numbers
        for key, number in numbers.items():
            known[key] = number
            known.move_to_end(key)
        while len(known) > THREADS_KNOWN:
            known.popitem(last=False)

    def clear(self) -> None:
        """Forget all numbers: another process may have deleted a thread."""
        self._numbers.clear()


def note_updates(connection: Connection, updated: Mapping[int, float]) -> None:
    """Note when threads got their newest messages, in one statement.

    Args:
        connection: In a transaction.
        updated: Unix seconds by the numbers of the threads.
    """
    if not updated:
        return
    if connection.dialect.name == "sqlite":
        rows: list[tuple[object, ...]] = [(time, number, time) for number, time in updated.items()]
        connection.exec_driver_sql(_UPDATE_SQLITE, rows)
    else:
        values = (list(updated), list(updated.values()))
        connection.exec_driver_sql(_UPDATE_POSTGRESQL, values)


_UPDATE_SQLITE = "UPDATE threads SET updated_at = ? WHERE number = ? AND updated_at < ?"
# The rows are locked in the order of their numbers: two transactions that update the same threads
# cannot deadlock.
_UPDATE_POSTGRESQL = (
    "UPDATE threads SET updated_at = new.time FROM ("
    "SELECT threads.number, given.time FROM unnest(%s::bigint[], %s::float8[]) "
    "AS given (number, time) JOIN threads ON threads.number = given.number "
    "WHERE threads.updated_at < given.time ORDER BY threads.number FOR NO KEY UPDATE OF threads"
    ") AS new WHERE threads.number = new.number"
)

_KEYS: Select[Any] = select(threads.c.number, threads.c.user_id, threads.c.thread_id)


def _create(
    connection: Connection, missing: Mapping[ThreadKey, NewMessage]
) -> dict[ThreadKey, int]:
    rows = [
        {
            "user_id": user_id,
            "thread_id": thread_id,
            "created_at": first.created_at,
            "room": thread_room(user_id, thread_id),
            "title": auto_title(first.content),
            "updated_at": first.created_at,
        }
        # In one order: two transactions that create the same threads cannot deadlock.
        for (user_id, thread_id), first in sorted(missing.items(), key=lambda item: item[0])
    ]
    connection.execute(insert_missing(connection, threads), rows)
    # By their rooms: with a condition on pairs, SQLite may read all threads.
    these = threads.c.room.in_([row["room"] for row in rows])
    return {
        (UserId(row.user_id), ThreadId(row.thread_id)): row.number
        for row in connection.execute(_KEYS.where(these))
    }
