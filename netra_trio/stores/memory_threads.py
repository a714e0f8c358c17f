"""The threads of the store in memory, indexed by user, id and room.

>>> threads = MemoryThreads()
>>> threads.add((UserId("alice"), ThreadId("main")), "Hello", 0.0).stored().title
'Hello'
>>> threads.listed(UserId("bob"), limit=10, before=None, query=None)
([], False)
"""

import itertools

from netra_trio.errors import MessageNotFound, ThreadNotFound
from netra_trio.ids import MessageId, ThreadId, UserId, is_listed
from netra_trio.protocol.rooms import thread_room
from netra_trio.stores.memory_rows import Thread, ThreadKey
from netra_trio.stores.search import Matcher
from netra_trio.stores.threads import StoredThread, auto_title


class MemoryThreads:
    """Threads by user and id, and by room.

    Attributes:
        by_key: All threads.
        by_user: The threads of each user; users without threads are absent.
    """

    def __init__(self) -> None:
        self.by_key: dict[ThreadKey, Thread] = {}
        self.by_user: dict[UserId, dict[ThreadId, Thread]] = {}
        self._by_room: dict[str, ThreadKey] = {}
        self._number = itertools.count()

    def add(self, key: ThreadKey, content: str, created_at: float) -> Thread:
        """Return the thread of a key; a new one is created with its first message."""
        thread = self.by_key.get(key)
        if thread is None:
            title = auto_title(content)
            thread = Thread(next(self._number), key, title, created_at, created_at)
            self.by_key[key] = thread
            self.by_user.setdefault(key[0], {})[key[1]] = thread
            self._by_room[thread_room(*key)] = key
        return thread

    def remove(self, thread: Thread) -> None:
        """Remove a thread."""
        user_id, thread_id = thread.key
        del self.by_key[thread.key]
        del self._by_room[thread_room(user_id, thread_id)]
        of_user = self.by_user[user_id]
        del of_user[thread_id]
        if not of_user:
            del self.by_user[user_id]

    def find_room(self, room: str) -> ThreadKey | None:
        """Return the user and the thread of a room, or None."""
        return self._by_room.get(room)

    def listed(
        self, user_id: UserId, *, limit: int, before: ThreadId | None, query: str | None
    ) -> tuple[list[StoredThread], bool]:
        """Return threads, newest update first, and whether there are more.

        Raises:
            ThreadNotFound: If `before` is not a thread of the user.
        """
        listed = (
            thread
            for thread_id, thread in self.by_user.get(user_id, {}).items()
            if is_listed(thread_id)
        )
        these = sorted(listed, key=_place, reverse=True)
        if before is not None:
            cursor = self.by_key.get((user_id, before))
            if cursor is None:
                raise ThreadNotFound(before)
            these = [thread for thread in these if _place(thread) < _place(cursor)]
        matching = iter(these)
        if query is not None:
            matcher = Matcher(query)
            matching = (thread for thread in these if _has_text(thread, matcher))
        page = [thread.stored() for thread in itertools.islice(matching, limit)]
        return page, next(matching, None) is not None

    def set_title(self, key: ThreadKey, title: str, *, by_user: bool) -> bool:
        """Set the title of a thread; return whether it was set."""
        thread = self.by_key.get(key)
        if thread is None or (thread.is_titled_by_user and not by_user):
            return False
        thread.title, thread.is_titled_by_user = title, by_user
        return True

    def mark_read(self, key: ThreadKey, message_id: MessageId) -> bool:
        """Move the read mark forward to a message; return whether there is such a thread.

        Raises:
            MessageNotFound: If the message is not in the thread.
        """
        thread = self.by_key.get(key)
        if thread is None:
            return False
        message = thread.messages.get(message_id)
        if message is None:
            raise MessageNotFound(message_id)
        # The answer of a read message may be stored later.
        read = message.number - 1 if message.question is None else message.question.number
        thread.read = max(thread.read, read)
        return True


def _place(thread: Thread) -> tuple[float, int]:
    return thread.updated_at, thread.number


def _has_text(thread: Thread, matcher: Matcher) -> bool:
    return matcher.matches(thread.title) or any(
        matcher.matches(each.text.decode())
        for message in thread.newest_first()
        for each in message.with_answer()
    )
