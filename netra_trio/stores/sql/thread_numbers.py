"""The primary keys of the threads that were written to last, so that a batch need not select them.

numbers = ThreadNumbers()
found = numbers.find(connection, messages)
numbers.keep(found)  # after the commit
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping

from sqlalchemy import Connection, select, tuple_

from netra_trio.ids import ThreadId, UserId
from netra_trio.stores.base import NewMessage
from netra_trio.stores.sql.rows import insert_missing
from netra_trio.stores.sql.schema import threads

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
        missing: dict[ThreadKey, float] = {}
        for message in messages:
            key = (message.user_id, message.thread_id)
            number = known.get(key)
            if number is None:
                missing.setdefault(key, message.created_at)
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


def _create(connection: Connection, missing: Mapping[ThreadKey, float]) -> dict[ThreadKey, int]:
    rows = [
        {"user_id": user_id, "thread_id": thread_id, "created_at": created_at}
        for (user_id, thread_id), created_at in missing.items()
    ]
    connection.execute(insert_missing(connection, threads), rows)
    these = tuple_(threads.c.user_id, threads.c.thread_id).in_(list(missing))
    return {
        (UserId(row.user_id), ThreadId(row.thread_id)): row.number
        for row in connection.execute(select(threads).where(these))
    }
