"""A model of the store in memory in its simplest form, for `test_memory_model.py`.

model = Model()
assert model.record(new("hello"))
"""

import itertools

from attrs import define, field

from netra_trio.ids import MessageId, ThreadId, UserId
from netra_trio.protocol.messages import RunStatus
from netra_trio.stores.base import NewMessage, RunEnd
from netra_trio.stores.threads import StoredThread, auto_title

MAX_USERS, MAX_THREADS, MAX_MESSAGES, MAX_BYTES = 3, 3, 6, 24

Key = tuple[UserId, ThreadId]


@define(eq=False)
class Kept:
    """A message; `run` is the message of a user, None for the answer to one."""

    number: int
    id: MessageId
    thread: Key
    text: str
    run: NewMessage | None
    question: "Kept | None" = None
    status: RunStatus | None = None
    completed: bytes | None = None
    rating: str | None = None
    comment: str = ""
    is_hidden: bool = False

    @property
    def size(self) -> int:
        texts = len(self.text.encode()) + len(self.comment.encode())
        return texts + len(self.completed or b"")

    @property
    def is_held(self) -> bool:
        return self.status in {RunStatus.QUEUED, RunStatus.RUNNING}


@define
class Named:
    """The properties of a thread besides its messages."""

    number: int
    title: str
    created_at: float
    updated_at: float
    is_titled_by_user: bool = False
    read: int = -1


@define
class Model:
    """The behaviour of the store."""

    users: dict[UserId, bool] = field(factory=dict)
    kept: list[Kept] = field(factory=list)
    named: dict[Key, Named] = field(factory=dict)
    written: list[Key] = field(factory=list)
    deleted: dict[tuple[UserId, str], bytes] = field(factory=dict)
    number: "itertools.count[int]" = field(factory=itertools.count)

    def threads(self) -> list[Key]:
        """Return the threads with a message, the least recently written one first."""
        return [thread for thread in self.written if any(k.thread == thread for k in self.kept)]

    def is_held(self, thread: Key) -> bool:
        return any(k.is_held for k in self.kept if k.thread == thread)

    def touch(self, thread: Key) -> None:
        if thread in self.written:
            self.written.remove(thread)
        self.written.append(thread)

    def create_user(self, user: UserId) -> bool:
        if user not in self.users and len(self.users) >= MAX_USERS:
            owners = {owner for owner, _ in self.threads()}
            free = [u for u, enabled in self.users.items() if enabled and u not in owners]
            if not free:
                return False
            del self.users[free[0]]
        self.users.setdefault(user, True)
        return True

    # Messages

    def known(self, message: NewMessage) -> Kept | None:
        for kept in self.kept:
            run = kept.run
            if run and message.key and (run.user_id, run.key) == (message.user_id, message.key):
                return kept
        return None

    def find(self, thread: Key, message_id: MessageId | None) -> Kept | None:
        """Return a message of a thread."""
        return next((k for k in self.kept if (k.thread, k.id) == (thread, message_id)), None)

    def record(self, message: NewMessage) -> bool:
        thread = (message.user_id, message.thread_id)
        branch = self.find(thread, message.replaces)
        kept = Kept(
            next(self.number), message.message_id, thread, message.content, message, None, _QUEUED
        )
        held = [k for k in self.kept if k.is_held]
        if len(held) >= MAX_MESSAGES or sum(k.size for k in held) + kept.size > MAX_BYTES:
            return False
        if thread not in self.threads():
            if len({k.thread for k in held}) >= MAX_THREADS:
                return False
            if len(self.threads()) >= MAX_THREADS:
                gone = next(t for t in self.threads() if not self.is_held(t))
                self.drop([k for k in self.kept if k.thread == gone])
        self.touch(thread)
        title, at = auto_title(message.content), message.created_at
        self.kept.append(kept)
        self.make_room()
        if [k for k in self.kept if k.thread == thread] == [kept]:  # it lost all others
            self.named.pop(thread, None)
        named = self.named.setdefault(thread, Named(kept.number, title, at, at))
        named.updated_at = max(named.updated_at, at)
        if branch is not None:
            first = (branch.question or branch).number
            for each in self.kept:
                if each.thread == thread and each.run and first <= each.number < kept.number:
                    each.is_hidden = True
        return True

    def end(self, end: RunEnd) -> None:
        kept = next(k for k in self.kept if k.run and k.run.run_id == end.run_id)
        kept.status, kept.completed = end.status, end.completed
        if end.text:
            self.kept.append(
                Kept(next(self.number), end.message_id, kept.thread, end.text, None, kept)
            )
            named = self.named[kept.thread]
            named.updated_at = max(named.updated_at, end.created_at)
        self.touch(kept.thread)
        self.make_room()

    def make_room(self) -> None:
        while len(self.kept) > MAX_MESSAGES or sum(k.size for k in self.kept) > MAX_BYTES:
            loose = [k for k in self.kept if k.run and not k.is_held]
            order = [t for t in self.threads() if any(k.thread == t for k in loose)]
            self.drop([next(k for k in loose if k.thread == order[0])])

    def drop(self, these: list[Kept]) -> None:
        """Drop messages with their answers, and threads without messages."""
        self.kept = [k for k in self.kept if k not in these and k.question not in these]
        self.named = {t: named for t, named in self.named.items() if t in self.threads()}

    def listed(self, thread: Key) -> list[Kept]:
        """Return the history of a thread."""
        found: list[Kept] = []
        for question in self.kept:
            if question.thread == thread and question.run and not question.is_hidden:
                found += [question, *(k for k in self.kept if k.question is question)]
        return found

    # Threads

    def stored(self, thread: Key) -> StoredThread:
        named = self.named[thread]
        answers = [k for k in self.listed(thread) if k.question is not None]
        return StoredThread(
            thread[1],
            named.title,
            named.created_at,
            named.updated_at,
            runs_active=sum(k.is_held for k in self.kept if k.thread == thread),
            asks=False,
            unread=sum(k.question is not None and k.question.number > named.read for k in answers),
        )

    def list_threads(self, user: UserId) -> list[Key]:
        """Return the threads of a user, the newest update first."""
        these = [thread for thread in self.named if thread[0] == user]
        return sorted(
            these, key=lambda t: (self.named[t].updated_at, self.named[t].number), reverse=True
        )

    def delete_thread(self, thread: Key) -> bool:
        these = [k for k in self.kept if k.thread == thread]
        for kept in these:
            if kept.run and kept.run.key:
                self.deleted[thread[0], kept.run.key] = kept.run.fingerprint
        self.drop(these)
        return bool(these)


_QUEUED = RunStatus.QUEUED
