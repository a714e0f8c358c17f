"""The rows of the store in memory: threads, messages, runs and questions."""

import itertools
from collections.abc import Iterator
from heapq import heappop, heappush

from attrs import define, field
from orjson import loads

from netra_trio.ids import (
    CorrelationId,
    MessageId,
    NodeId,
    QuestionId,
    RunId,
    SessionId,
    ThreadId,
    UserId,
)
from netra_trio.protocol.messages import (
    HistoryFeedback,
    HistoryMessage,
    HistoryQuestion,
    HistoryRun,
    RunStatus,
)
from netra_trio.stores.base import StoredEnd
from netra_trio.stores.files import StoredFile
from netra_trio.stores.questions import (
    NewQuestion,
    QuestionEnd,
    StoredQuestion,
    listed_question,
    outcome_of,
    questions_size,
    questions_within,
)
from netra_trio.stores.threads import StoredThread, UnfinishedRun

ThreadKey = tuple[UserId, ThreadId]


@define(eq=False, repr=False)
class Question:
    """A question, kept as long as its run; `end` is how it was closed."""

    asked: NewQuestion
    end: QuestionEnd | None = None

    @property
    def size(self) -> int:
        """The bytes of its texts and of its answer."""
        return self.asked.size + (0 if self.end is None else self.end.size)

    def stored(self, run: "Run") -> StoredQuestion:
        """Return the question of a run as it is found."""
        outcome = outcome_of(None if self.end is None else self.end.outcome, run.status)
        return StoredQuestion(outcome, run.owner)

    def listed(self, status: RunStatus) -> HistoryQuestion:
        """Return the question of a run with this status as history lists it."""
        return listed_question(self.asked, self.end, status)


@define(eq=False, repr=False)
class Run:
    """A run, kept as long as its message.

    Attributes:
        owner: The node that has it; None once it has ended.
        session_id: Its session, if another node may take that over.
    """

    id: RunId
    agent_name: str
    correlation_id: CorrelationId
    key: CorrelationId | None
    fingerprint: bytes
    owner: NodeId | None
    session_id: SessionId | None
    is_unattended: bool = False
    status: RunStatus = RunStatus.QUEUED
    completed: bytes | None = None
    duration_ms: int = 0
    questions: dict[QuestionId, Question] = field(factory=dict)

    @property
    def end(self) -> StoredEnd | None:
        """Its end, None while it is unfinished."""
        if self.completed is None:
            return None
        return StoredEnd(self.id, self.status, self.completed)

    @property
    def size(self) -> int:
        """The bytes of its end and of its questions."""
        completed = 0 if self.completed is None else len(self.completed)
        return completed + sum(question.size for question in self.questions.values())

    def listed(self) -> HistoryRun:
        """Return the run as history lists it."""
        asked = [(each.listed(self.status), each.size) for each in self.questions.values()]
        return HistoryRun(self.id, self.agent_name, self.status, questions_within(asked))

    def answering(self) -> HistoryRun:
        """Return the run, as in the history of the agent's message."""
        return HistoryRun(self.id, self.agent_name, self.status, duration_ms=self.duration_ms)

    def unfinished(self, thread: ThreadKey, owner: NodeId, created_at: float) -> UnfinishedRun:
        """Return the run of a message in a thread as an unfinished one."""
        return UnfinishedRun(
            self.id, *thread, self.agent_name, self.status, owner, self.is_unattended, created_at
        )

    @property
    def asks(self) -> bool:
        """Whether one of its questions is open."""
        return any(question.end is None for question in self.questions.values())

    @property
    def questions_size(self) -> int:
        """The bytes that its questions take in history, at most."""
        total = sum(question.size for question in self.questions.values())
        return questions_size(total, len(self.questions))


@define(eq=False, repr=False)
class Message:
    """A message of a user, or an agent's answer to one.

    Attributes:
        number: Its position in the order of recording, over all threads.
        text: In UTF-8: in a `str`, one emoji makes every character take four bytes.
        run: The run that it started; None for an answer.
        question: The message that an answer belongs to; None for a user's message.
        answer: The answer to a user's message.
        files: The files that it names.
        is_hidden: Whether a later message of the user has replaced this one.
        older, newer: Of a user's message, the adjacent messages of the user in the thread.
    """

    number: int
    thread: "Thread"
    id: MessageId
    text: bytes
    created_at: float
    run: Run | None = None
    truncated: bool = False
    question: "Message | None" = None
    answer: "Message | None" = None
    steps: bytes | None = None
    feedback: HistoryFeedback | None = None
    files: tuple[StoredFile, ...] = ()
    is_hidden: bool = False
    older: "Message | None" = None
    newer: "Message | None" = None

    @property
    def size(self) -> int:
        """The bytes that count against the bound: its texts, questions, end for duplicates."""
        return self._texts_size + (0 if self.run is None else self.run.size)

    @property
    def listed_size(self) -> int:
        """The maximum bytes that it has in the history."""
        files = sum(file.listed_size for file in self.files)
        return self._texts_size + files + (0 if self.run is None else self.run.questions_size)

    @property
    def _texts_size(self) -> int:
        comment = None if self.feedback is None else self.feedback.comment
        return len(self.text) + len(self.steps or b"") + len((comment or "").encode())

    def listed(self) -> HistoryMessage:
        """Return the message as an item of history."""
        text, run, question = self.text.decode(), self.run, self.question
        attachments = tuple(file.file_id for file in self.files) or None
        files = tuple(file.listed() for file in self.files) or None
        if run is not None:
            return HistoryMessage(
                self.id,
                "user",
                text,
                self.created_at,
                run.correlation_id,
                run.listed(),
                attachments=attachments,
                files=files,
            )
        return HistoryMessage(
            self.id,
            "agent",
            text,
            self.created_at,
            run=None if question is None or question.run is None else question.run.answering(),
            truncated=self.truncated or None,
            reply_to=None if question is None else question.id,
            steps=None if self.steps is None else loads(self.steps),
            feedback=self.feedback,
            attachments=attachments,
            files=files,
        )

    @property
    def place(self) -> tuple[int, int]:
        """Its position in the history: an answer follows its question."""
        return (self.number if self.question is None else self.question.number, self.number)

    def with_answer(self) -> "tuple[Message, ...]":
        """Return a user's message, and its answer if there is one."""
        return (self,) if self.answer is None else (self, self.answer)


@define(eq=False, repr=False)
class Thread:
    """A thread of a user, with the user's messages as a doubly linked list.

    Attributes:
        number: Its position in the order of creation.
        title: See `StoredThread`.
        is_titled_by_user: Whether the user has set the title; agents do not replace it.
        read: The number of the newest message of the user whose answer is read.
        messages: All messages, answers included.
        loose: The user's messages that may be dropped, with their answers, as a heap by number: a
            run may end before an older run of the thread.
        held: The messages whose runs have not ended; they may not be dropped.
    """

    number: int
    key: ThreadKey
    title: str
    created_at: float
    updated_at: float
    is_titled_by_user: bool = False
    read: int = -1
    messages: dict[MessageId, Message] = field(factory=dict)
    newest: Message | None = None
    loose: list[tuple[int, Message]] = field(factory=list)
    held: dict[RunId, Message] = field(factory=dict)

    def newest_first(self) -> Iterator[Message]:
        """Return the user's messages that are listed, from the newest to the oldest."""
        message = self.newest
        while message is not None:
            if not message.is_hidden:
                yield message
            message = message.older

    def append(self, message: Message) -> None:
        """Add the newest message of the user."""
        message.older = self.newest
        if self.newest is not None:
            self.newest.newer = message
        self.newest = message
        self._add(message)

    def answer(self, question: Message, message: Message) -> None:
        """Add the answer to a message."""
        question.answer = message
        self._add(message)

    def _add(self, message: Message) -> None:
        self.messages[message.id] = message
        self.updated_at = max(self.updated_at, message.created_at)

    def hide_from(self, number: int) -> None:
        """Remove the user's messages from a number on from the history, with their answers."""
        for message in self.newest_first():
            if message.number < number:
                break
            message.is_hidden = True

    def loosen(self, message: Message) -> None:
        """Note that a message may be dropped."""
        heappush(self.loose, (message.number, message))

    def drop_oldest(self) -> Message:
        """Remove the oldest message that may be dropped, with its answer, and return it."""
        _, message = heappop(self.loose)
        if message.newer is None:
            self.newest = message.older
        else:
            message.newer.older = message.older
        if message.older is not None:
            message.older.newer = message.newer
        for each in message.with_answer():
            del self.messages[each.id]
        return message

    def stored(self) -> StoredThread:
        """Return the listed thread."""
        unread = itertools.takewhile(lambda each: each.number > self.read, self.newest_first())
        runs = (message.run for message in self.held.values())
        return StoredThread(
            self.key[1],
            self.title,
            self.created_at,
            self.updated_at,
            runs_active=len(self.held),
            asks=any(run is not None and run.asks for run in runs),
            unread=sum(each.answer is not None for each in unread),
        )
