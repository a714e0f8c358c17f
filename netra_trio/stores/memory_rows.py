"""The rows of the store in memory: threads, messages, runs and questions."""

from heapq import heappop, heappush

from attrs import define, field

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
from netra_trio.protocol.messages import HistoryMessage, HistoryQuestion, HistoryRun, RunStatus
from netra_trio.stores.base import (
    NewQuestion,
    QuestionEnd,
    StoredEnd,
    StoredQuestion,
    listed_question,
    outcome_of,
    questions_size,
    questions_within,
)

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
    status: RunStatus = RunStatus.QUEUED
    completed: bytes | None = None
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

    @property
    def questions_size(self) -> int:
        """The bytes that its questions take in history, at most."""
        total = sum(question.size for question in self.questions.values())
        return questions_size(total, len(self.questions))


@define(eq=False, repr=False)
class Message:
    """A message, linked with the older and the newer one of its thread.

    Attributes:
        number: Its position in the order of recording, over all threads.
        text: In UTF-8: in a `str`, one emoji makes every character take four bytes.
        run: The run that it started; None for an agent's message.
    """

    number: int
    thread: "Thread"
    id: MessageId
    text: bytes
    created_at: float
    run: Run | None = None
    truncated: bool = False
    older: "Message | None" = None
    newer: "Message | None" = None

    @property
    def size(self) -> int:
        """The bytes that count against the bound: its text, questions, and end for duplicates."""
        return len(self.text) + (0 if self.run is None else self.run.size)

    def listed(self) -> HistoryMessage:
        """Return the message as an item of history."""
        text, run = self.text.decode(), self.run
        if run is None:
            truncated = self.truncated or None
            return HistoryMessage(self.id, "agent", text, self.created_at, truncated=truncated)
        return HistoryMessage(
            self.id, "user", text, self.created_at, run.correlation_id, run.listed()
        )


@define(eq=False, repr=False)
class Thread:
    """A thread of a user, with its messages as a doubly linked list.

    Attributes:
        loose: The messages that may be dropped, as a heap by number: a run may end before an older
            run of the thread.
        held: How many messages may not be dropped.
    """

    key: ThreadKey
    messages: dict[MessageId, Message] = field(factory=dict)
    newest: Message | None = None
    loose: list[tuple[int, Message]] = field(factory=list)
    held: int = 0

    def append(self, message: Message) -> None:
        """Add the newest message."""
        message.older = self.newest
        if self.newest is not None:
            self.newest.newer = message
        self.newest = message
        self.messages[message.id] = message

    def loosen(self, message: Message) -> None:
        """Note that a message may be dropped."""
        heappush(self.loose, (message.number, message))

    def drop_oldest(self) -> Message:
        """Remove the oldest message that may be dropped, and return it."""
        _, message = heappop(self.loose)
        if message.newer is None:
            self.newest = message.older
        else:
            message.newer.older = message.older
        if message.older is not None:
            message.older.newer = message.newer
        del self.messages[message.id]
        return message
