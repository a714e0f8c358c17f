"""The data of the store in memory, which the stores of several nodes may share.

data = MemoryData(users=10, threads=10, messages=100, text_bytes=1024, files=100)
data.record(message, owner=node)

No method waits, so each call is atomic.
"""

import itertools
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence

import trio
from attrs import evolve

from netra_trio.errors import KeyConflict, MessageNotFound, StoreUnavailable, ThreadDeleted
from netra_trio.ids import (
    CorrelationId,
    MessageId,
    NodeId,
    QuestionId,
    RunId,
    SessionId,
    ThreadId,
    UserId,
    new_node_id,
)
from netra_trio.protocol.messages import HistoryFeedback, HistoryMessage, RunStatus
from netra_trio.stores.base import (
    HAND_OVER_SECONDS,
    Duplicate,
    NewMessage,
    RunEnd,
    RunOwner,
    StoredEnd,
    interrupted,
)
from netra_trio.stores.bounds import HISTORY_LISTED_BYTES, HISTORY_PAGE_BYTES
from netra_trio.stores.files import StoredFile
from netra_trio.stores.memory_files import MemoryFiles
from netra_trio.stores.memory_notifications import MemoryNotifications
from netra_trio.stores.memory_rows import Message, Question, Run, Thread, ThreadKey
from netra_trio.stores.memory_threads import MemoryThreads
from netra_trio.stores.memory_uncopied import MemoryUncopied
from netra_trio.stores.memory_usage import MemoryUsage
from netra_trio.stores.memory_users import MemoryUsers
from netra_trio.stores.questions import NewQuestion, QuestionEnd, StoredQuestion
from netra_trio.stores.threads import DELETED_KEY_SECONDS, StoredThread, UnfinishedRun

Key = tuple[UserId, CorrelationId]

KEY_HOURS = 24  # for which docs/protocol.md promises that a key is known

_NO_ROOM = "no room for {} bytes beside messages of unfinished runs"


class MemoryData:
    """Threads, messages, runs and questions, within bounds.

    Args:
        users: The bound on users.
        threads: The bound on threads of all users.
        messages: The bound on messages of all threads.
        text_bytes: The bound on bytes of their texts and of the ends of their runs, in UTF-8.
        files: The bound on files.
        wall_clock: Returns Unix seconds.

    Attributes:
        users: The users.
        threads: The threads.
        files: The files.
        notifications: The waiting notifications, and the requests to stop runs.
        uncopied: The sessions that sent events without copies.
        usage: The usage of the newest day.
        openings: How many servers hold the store open.
    """

    def __init__(
        self,
        *,
        users: int,
        threads: int,
        messages: int,
        text_bytes: int,
        files: int,
        wall_clock: Callable[[], float],
    ) -> None:
        self.openings = 0
        self.files = MemoryFiles(files, wall_clock)
        self._max_threads = threads
        self._max_messages = messages
        self._max_bytes = text_bytes
        self._number = itertools.count()

        self.threads = MemoryThreads()
        self.users = MemoryUsers(users, self.threads.by_user)
        # Both in the order of their threads' last write: those with a loose message, and those
        # without a held one. The second one needs no sorting: a message removes a thread from it,
        # and an end adds it.
        self._droppable: OrderedDict[Thread, None] = OrderedDict()
        self._idle: OrderedDict[Thread, None] = OrderedDict()

        self._keys: dict[Key, Message] = {}
        self._deleted_keys: dict[Key, tuple[bytes, float]] = {}  # a fingerprint, and its expiry
        self._questions: dict[QuestionId, Run] = {}
        self._held: dict[RunId, tuple[Message, Run]] = {}
        self._ended: dict[RunId, Run] = {}
        self.notifications = MemoryNotifications()
        self.uncopied = MemoryUncopied()
        self.usage = MemoryUsage()
        self._leases: dict[NodeId, float] = {}  # of runs that were handed over
        self._held_bytes = self._messages = self._bytes = 0
        self._messages_dropped = self._early_keys_dropped = 0

    def statistics(self) -> dict[str, int]:
        """Return how much is kept, how many runs have not ended, and how much was dropped."""
        return {
            "users": len(self.users.rows),
            "threads": len(self.threads.by_key),
            "messages": self._messages,
            "text_bytes": self._bytes,
            "keys": len(self._keys),
            "files": len(self.files),
            "runs": len(self._held),
            "users_dropped": self.users.dropped,
            "messages_dropped": self._messages_dropped,
            "early_keys_dropped": self._early_keys_dropped,
        }

    # Messages and runs.

    def record(self, message: NewMessage, owner: NodeId) -> Duplicate | None:
        """Record a message and its run, or return the earlier message of the key.

        Raises:
            KeyConflict: If the key is known with another fingerprint.
            ThreadDeleted: If the key belongs to a message of a deleted thread.
            MessageNotFound: If the replaced message is not in the thread.
            FilesNotFound: If the user does not have a finished file that the message names.
            StoreUnavailable: If the messages of unfinished runs leave no room.
        """
        known = self.find(message)
        if known is not None:
            return known
        text = message.content.encode()
        key = (message.user_id, message.thread_id)
        branch = None
        if message.replaces is not None:
            branch = self._message_of(key, message.replaces)
        self.files.check(message.user_id, message.attachments)
        self._check_room(key, len(text))
        # Before messages are dropped that may name the same files.
        files = self.files.name(message.user_id, message.attachments)
        self._make_room_for_thread(key, message.created_at)
        self._touch(key)
        self._make_room(1, len(text), message.created_at)
        thread = self.threads.add(key, message.content, message.created_at)
        if branch is not None:
            thread.hide_from((branch.question or branch).number)
        self._insert(message, text, files, thread, owner)
        return None

    def find(self, message: NewMessage) -> Duplicate | None:
        """Return the message that was recorded earlier under this message's key.

        Raises:
            KeyConflict: If the key is known with another fingerprint.
            ThreadDeleted: If the key belongs to a message of a deleted thread.
        """
        self._end_leases()
        if message.key is None:
            return None
        key = (message.user_id, message.key)
        known = self._keys.get(key)
        if known is not None:
            return _duplicate(known, message.fingerprint)
        fingerprint, until = self._deleted_keys.get(key, (None, 0.0))
        if fingerprint is None or until <= trio.current_time():
            return None
        raise ThreadDeleted if fingerprint == message.fingerprint else KeyConflict

    def start_run(self, run_id: RunId, owner: NodeId) -> None:
        """Set the status of a node's run to `running`."""
        _, run = self._held.get(run_id, (None, None))
        if run is not None and run.owner == owner:
            run.status = RunStatus.RUNNING

    def end_run(self, end: RunEnd, owner: NodeId) -> StoredEnd | None:
        """Store how a node's run ended; return the end that stands instead, None if there is none.

        The end of an unknown run is ignored.
        """
        self._end_leases()
        message, run = self._held.get(end.run_id, (None, None))
        if message is None or run is None:
            ended = self._ended.get(end.run_id)
            stands = None if ended is None else ended.end
            is_own = stands == StoredEnd(end.run_id, end.status, end.completed)
            return None if is_own else stands
        if run.owner == owner:
            run.duration_ms = end.duration_ms
            self._end(message, run, StoredEnd(end.run_id, end.status, end.completed))
            if end.has_answer:
                self._answer(message, end)
            self._settle(message.thread, end.created_at)
            if end.notification is not None:
                self.notifications.add(end.notification)
        return None

    def _end(self, message: Message, run: Run, end: StoredEnd) -> None:
        """End a run, and make its message loose."""
        thread = message.thread
        del self._held[run.id]
        self._ended[run.id] = run
        self._held_bytes -= message.size
        del thread.held[run.id]
        run.owner = None
        run.status = end.status
        run.completed = end.completed
        self._bytes += len(end.completed)
        thread.loosen(message)

    def _settle(self, thread: Thread, now: float) -> None:
        """Note that a run of a thread has ended, and make room for what it added."""
        self._droppable[thread] = None
        if not thread.held:
            self._idle[thread] = None
        self._touch(thread.key)
        self._make_room(0, 0, now)

    # Runs of several nodes.

    def interrupt_all(self) -> None:
        """End all unfinished runs: their nodes are gone."""
        self._interrupt(list(self._held.values()))

    def end_runs_of(self, owner: NodeId) -> int:
        """End the unfinished runs of a node that is gone; return how many there were."""
        these = list(self._runs_of(owner))
        self._interrupt(these)
        return len(these)

    def take_over(
        self,
        session_id: SessionId,
        *,
        owner: NodeId,
        taker: NodeId,
        asked: Collection[RunId],
        waiting: Collection[RunId],
    ) -> dict[RunId, StoredEnd | None]:
        """Adopt the queued ones of `waiting`, and end the other runs of a session of `owner`."""
        self._end_leases()
        these = [pair for pair in self._runs_of(owner) if pair[1].session_id == session_id]
        kept = [run for _, run in these if run.id in waiting and run.status is RunStatus.QUEUED]
        for run in kept:
            run.owner = taker
        self._interrupt([(message, run) for message, run in these if run.owner == owner])
        found = ((run_id, self._run(run_id)) for run_id in asked)
        return {run_id: run.end for run_id, run in found if run is not None}

    def hand_over(self, run_ids: Collection[RunId], owner: NodeId, seconds: float) -> NodeId:
        """Give the queued ones of these runs of a node to a lease, which is returned."""
        lease = new_node_id()
        self._leases[lease] = trio.current_time() + min(seconds, HAND_OVER_SECONDS)
        for _, run in self._runs_of(owner):
            if run.id in run_ids and run.status is RunStatus.QUEUED:
                run.owner = lease
        return lease

    def find_run(self, user_id: UserId, run_id: RunId) -> RunOwner | None:
        """Return the node of an unfinished run of this user, None if there is none."""
        self._end_leases()
        message, run = self._held.get(run_id, (None, None))
        if message is None or run is None or message.thread.key[0] != user_id:
            return None
        return None if run.owner is None else RunOwner(run.owner, run.status)

    def run_status(self, run_id: RunId) -> RunStatus | None:
        """Return the status of a run, None if it is unknown."""
        self._end_leases()
        run = self._run(run_id)
        return None if run is None else run.status

    def interrupt_run(self, run_id: RunId, owner: NodeId) -> StoredEnd | None:
        """End a run if `owner` still has it; return its end, None if it has none."""
        self._end_leases()
        self._interrupt([pair for pair in self._runs_of(owner) if pair[1].id == run_id])
        run = self._run(run_id)
        return None if run is None else run.end

    def _runs_of(self, owner: NodeId) -> Iterator[tuple[Message, Run]]:
        return (pair for pair in self._held.values() if pair[1].owner == owner)

    def _run(self, run_id: RunId) -> Run | None:
        _, held = self._held.get(run_id, (None, None))
        return self._ended.get(run_id) if held is None else held

    def _interrupt(self, these: Sequence[tuple[Message, Run]]) -> None:
        for message, run in these:
            self._end(message, run, interrupted(run.id))
            self._settle(message.thread, message.created_at)

    def _end_leases(self) -> None:
        """End the runs that were handed over, and that no node has taken in time."""
        if self._leases:
            now = trio.current_time()
            for lease in [lease for lease, until in self._leases.items() if until <= now]:
                del self._leases[lease]
                self.end_runs_of(lease)

    # Questions.

    def record_question(self, question: NewQuestion, owner: NodeId) -> None:
        """Record a question of a node's run.

        Raises:
            StoreUnavailable: If the messages and questions of unfinished runs leave no room.
        """
        _, run = self._held.get(question.run_id, (None, None))
        if run is None or run.owner != owner:
            return
        new = Question(question)
        if self._held_bytes + new.size > self._max_bytes:
            raise StoreUnavailable(_NO_ROOM.format(new.size))
        self._make_room(0, new.size, question.created_at)
        run.questions[question.question_id] = new
        self._questions[question.question_id] = run
        self._hold(new.size)
        if question.notification is not None:
            self.notifications.add(question.notification)

    def end_question(self, end: QuestionEnd, owner: NodeId) -> None:
        """Store how a question was closed, without its answer if there is no room for that."""
        _, run = self._held.get(end.run_id, (None, None))
        is_own = run is not None and run.owner == owner
        question = run.questions.get(end.question_id) if run is not None and is_own else None
        if question is None or question.end is not None:
            return
        size = end.size
        if self._held_bytes + size > self._max_bytes:
            end, size = evolve(end, answer=None), 0
        self._make_room(0, size, question.asked.created_at)
        question.end = end
        self._hold(size)

    def _hold(self, size: int) -> None:
        self._bytes += size
        self._held_bytes += size

    def find_question(self, user_id: UserId, question_id: QuestionId) -> StoredQuestion | None:
        """Return a question that this user may answer, None if there is none."""
        self._end_leases()
        run = self._questions.get(question_id)
        if run is None or run.questions[question_id].asked.user_id != user_id:
            return None
        return run.questions[question_id].stored(run)

    def find_question_thread(self, question_id: QuestionId) -> tuple[UserId, ThreadId] | None:
        """Return the user and the thread of a question of an unfinished run, or None."""
        self._end_leases()
        run = self._questions.get(question_id)
        held = None if run is None else self._held.get(run.id)
        return None if held is None else held[0].thread.key

    # History.

    def history(
        self, user_id: UserId, thread_id: ThreadId, *, limit: int, before: MessageId | None
    ) -> tuple[Sequence[HistoryMessage], bool] | None:
        """Return a page, oldest first, and whether older messages were left out.

        Raises:
            MessageNotFound: If `before` is no message of the thread, or was dropped.
        """
        self._end_leases()
        thread = self.threads.by_key.get((user_id, thread_id))
        if thread is None:
            return None
        listed = (
            message
            for question in thread.newest_first()
            for message in reversed(question.with_answer())
        )
        if before is not None:
            end = self._message_of(thread.key, before).place
            listed = (message for message in listed if message.place < end)
        page: list[HistoryMessage] = []
        size = 0
        for message in listed:
            size += message.listed_size + HISTORY_LISTED_BYTES
            if len(page) == limit or (page and size > HISTORY_PAGE_BYTES):
                return page[::-1], True
            page.append(message.listed())
        return page[::-1], False

    def _message_of(self, key: ThreadKey, message_id: MessageId) -> Message:
        """Return a message of a thread.

        Raises:
            MessageNotFound: If there is none.
        """
        thread = self.threads.by_key.get(key)
        message = None if thread is None else thread.messages.get(message_id)
        if message is None:
            raise MessageNotFound(message_id)
        return message

    # Threads.

    def set_feedback(
        self, user_id: UserId, message_id: MessageId, feedback: HistoryFeedback | None
    ) -> ThreadId | None:
        """Store, replace or remove the feedback on an answer; return its thread."""
        for thread in self.threads.by_user.get(user_id, {}).values():
            message = thread.messages.get(message_id)
            if message is not None and message.question is not None:
                self._bytes -= message.size
                message.feedback = feedback
                self._bytes += message.size
                self._make_room(0, 0, message.created_at)
                return thread.key[1]
        return None

    def list_threads(
        self, user_id: UserId, *, limit: int, before: ThreadId | None, query: str | None
    ) -> tuple[list[StoredThread], bool]:
        """Return threads, newest update first, and whether there are more.

        Raises:
            ThreadNotFound: If `before` is not a thread of the user.
        """
        self._end_leases()
        return self.threads.listed(user_id, limit=limit, before=before, query=query)

    def get_thread(self, key: ThreadKey) -> StoredThread | None:
        """Return a listed thread, None if there is none."""
        self._end_leases()
        thread = self.threads.by_key.get(key)
        return None if thread is None else thread.stored()

    def unfinished_runs(
        self, user_id: UserId | None, thread_id: ThreadId | None
    ) -> list[UnfinishedRun]:
        """Return the runs that have not ended, oldest first."""
        self._end_leases()
        found: list[UnfinishedRun] = []
        for message, run in self._held.values():
            user, thread = message.thread.key
            if user_id in {None, user} and thread_id in {None, thread} and run.owner is not None:
                found.append(run.unfinished(message.thread.key, run.owner, message.created_at))
        return found

    def request_stop(self, run_id: RunId) -> bool:
        """Add a request to stop a run; return whether the run is unfinished."""
        self._end_leases()
        if run_id not in self._held:
            return False
        self.notifications.request_stop(run_id)
        return True

    def delete_thread(self, key: ThreadKey) -> bool:
        """Delete a thread with all that belongs to it; return whether there was such a thread."""
        thread = self.threads.by_key.get(key)
        if thread is None:
            return False
        moment = trio.current_time()
        self._deleted_keys = {k: v for k, v in self._deleted_keys.items() if v[1] > moment}
        for message in thread.messages.values():
            run = message.run
            if run is not None:
                if self._held.pop(run.id, None) is not None:
                    self._held_bytes -= message.size
                if run.key is not None:
                    until = moment + DELETED_KEY_SECONDS
                    self._deleted_keys[key[0], run.key] = (run.fingerprint, until)
            self._forget(message)
        self._droppable.pop(thread, None)
        self._forget_thread(thread)
        return True

    def _insert(
        self,
        new: NewMessage,
        text: bytes,
        files: tuple[StoredFile, ...],
        thread: Thread,
        owner: NodeId,
    ) -> None:
        run = Run(
            new.run_id,
            new.agent_name,
            new.correlation_id,
            new.key,
            new.fingerprint,
            owner,
            new.session_id,
            new.unattended,
        )
        number = next(self._number)
        message = Message(number, thread, new.message_id, text, new.created_at, run, files=files)
        thread.append(message)
        self._count(message)
        self._idle.pop(thread, None)
        thread.held[new.run_id] = message
        self._held[new.run_id] = (message, run)
        self._held_bytes += message.size
        if new.key is not None:
            self._keys[new.user_id, new.key] = message

    def _answer(self, question: Message, end: RunEnd) -> None:
        message = Message(
            next(self._number),
            question.thread,
            end.message_id,
            end.text.encode(),
            end.created_at,
            truncated=end.truncated,
            question=question,
            steps=end.steps,
            files=self.files.name(question.thread.key[0], end.attachments),
        )
        question.thread.answer(question, message)
        self._count(message)

    def _count(self, message: Message) -> None:
        self._messages += 1
        self._bytes += message.size

    def _touch(self, key: ThreadKey) -> None:
        """Make the thread the most recently written one."""
        thread = self.threads.by_key.get(key)
        if thread is not None and thread in self._droppable:
            self._droppable.move_to_end(thread)

    # Room.

    def _check_room(self, key: ThreadKey, size: int) -> None:
        """Raise `StoreUnavailable` if dropping every loose message would not make room."""
        if len(self._held) >= self._max_messages:
            raise StoreUnavailable(f"all {self._max_messages} messages have unfinished runs")
        if self._held_bytes + size > self._max_bytes:
            raise StoreUnavailable(_NO_ROOM.format(size))
        busy = len(self.threads.by_key) - len(self._idle)
        if key not in self.threads.by_key and busy >= self._max_threads:
            raise StoreUnavailable(f"all {self._max_threads} threads have unfinished runs")

    def _make_room_for_thread(self, key: ThreadKey, now: float) -> None:
        if key not in self.threads.by_key and len(self.threads.by_key) >= self._max_threads:
            thread = next(iter(self._idle))
            while thread.messages:
                self._drop_message(thread, now)

    def _make_room(self, messages: int, size: int, now: float) -> None:
        while (
            self._messages + messages > self._max_messages or self._bytes + size > self._max_bytes
        ):
            self._drop_message(next(iter(self._droppable)), now)

    def _drop_message(self, thread: Thread, now: float) -> None:
        message = thread.drop_oldest()
        if message.run is not None and message.run.key is not None:
            self._early_keys_dropped += now - message.created_at < KEY_HOURS * 3600
        for each in message.with_answer():
            self._messages_dropped += 1
            self._forget(each)
        if not thread.loose:
            del self._droppable[thread]
        if not thread.messages:
            self._forget_thread(thread)

    def _forget(self, message: Message) -> None:
        """Remove the data of a message that is removed from its thread."""
        self._messages -= 1
        self._bytes -= message.size
        self.files.release(message.files)
        run = message.run
        if run is not None:
            if run.key is not None:
                del self._keys[message.thread.key[0], run.key]
            self._ended.pop(run.id, None)
            for question_id in run.questions:
                del self._questions[question_id]

    def _forget_thread(self, thread: Thread) -> None:
        self._idle.pop(thread, None)
        self.threads.remove(thread)
        self.users.reconsider(thread.key[0])


def _duplicate(known: Message, fingerprint: bytes) -> Duplicate:
    """Return the duplicate of a known key.

    Raises:
        KeyConflict: If the fingerprint differs.
    """
    run = known.run
    if run is None or run.fingerprint != fingerprint:
        raise KeyConflict
    return Duplicate(known.id, run.id, known.thread.key[1], run.status, run.completed)
