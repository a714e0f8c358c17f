"""Questions that a run asks: for an answer of its user, or for the approval of a tool call.

    questions = Questions(message, output=output, …)
    closed = await questions.ask(QuestionKind.QUESTION, "Which one?", expires=300)
    closed.outcome, closed.answer

A question is stored before it is sent. It is closed once: by the first valid answer, by its expiry,
or with its run. The first one decides, also if another one arrives while the end is being stored.
"""

from collections.abc import Callable, MutableMapping
from contextlib import AbstractContextManager
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Protocol, Self

import trio
from attrs import define, field, frozen
from orjson import OPT_SORT_KEYS, Fragment, dumps

from netra_trio.agents.answer_schema import compile_schema, find_misfit
from netra_trio.ids import QuestionId, RunId, UserId, new_question_id
from netra_trio.protocol.codec import payload_of
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.fields import JsonObject
from netra_trio.protocol.messages import (
    AgentAnswered,
    AgentAsking,
    Answer,
    Event,
    QuestionKind,
    QuestionOutcome,
)
from netra_trio.protocol.problem import Refused, problem
from netra_trio.protocol.text import json_size
from netra_trio.stores.base import NewMessage, Store
from netra_trio.stores.notifications import Notification
from netra_trio.stores.questions import NewQuestion, QuestionEnd
from netra_trio.telemetry.events import QuestionClosed, TelemetryEvent

if TYPE_CHECKING:
    from jsonschema_rs import Draft202012Validator

EXPIRES_MAX = 86_400.0  # seconds: docs/protocol.md, Questions
OPEN_QUESTIONS = 8  # of a run at the same time: docs/protocol.md, Limits
RUN_QUESTIONS = 100  # of a run altogether, because history shows all of them: likewise
PROMPT_BYTES = 8 * 1024  # UTF-8: likewise
SCHEMA_BYTES = 16 * 1024  # JSON: likewise
ARGUMENTS_BYTES = 64 * 1024  # JSON, of a tool call that is approved: likewise
ANSWER_BYTES = 64 * 1024  # JSON: likewise
STORE_SECONDS = 2.0  # for the end of a question; it is sent after that time, stored or not


class QuestionOutput(Protocol):
    """Sends the events of a run."""

    async def append(
        self, event: Event, size: int, on_append: Callable[[], None] | None = None
    ) -> None:
        """Append an event; waits for room. `on_append` is called right before it is appended."""
        ...

    def append_now(self, event: Event, size: int) -> None:
        """Append an event without waiting for room, also after the end of the run."""
        ...

    def show_question(self, run_id: RunId, question: JsonObject) -> None:
        """Show an open question to a client that resumes the session."""
        ...

    def hide_question(self, run_id: RunId, question_id: QuestionId) -> None:
        """Show a question no longer, because it is closed."""
        ...

    def is_for(self, reader: object) -> bool:
        """Whether the events go to this session."""
        ...

    @property
    def is_closed(self) -> bool:
        """Whether the run has ended."""
        ...


class QuestionReader(Protocol):
    """Receives a copy of how a question was closed: the session of the user who answered."""

    def append_now(self, event: Event, size: int, correlation_id: str | None) -> None:
        """Append an event of another session, without waiting for room."""
        ...


class RunClock(Protocol):
    """The deadline of a run."""

    @property
    def is_cut_off(self) -> bool:
        """Whether the run was stopped or has reached its deadline."""
        ...

    def paused(self) -> AbstractContextManager[None]:
        """Let the deadline stand still while the block runs."""
        ...


@frozen
class ToolCall:
    """A tool call that a user approves.

    Attributes:
        arguments: As JSON, with sorted keys.
        digest: The SHA-256 of the name and the arguments.
    """

    name: str
    arguments: bytes
    digest: bytes

    @classmethod
    def of(cls, name: str, arguments: JsonObject) -> Self:
        """Return the call of a tool with arguments as they are now.

        Raises:
            TypeError: If the arguments cannot be encoded as JSON.
        """
        encoded = dumps(arguments, option=OPT_SORT_KEYS)
        return cls(name, encoded, sha256(dumps(name) + encoded).digest())


@define(eq=False)
class Question:
    """An open question.

    Attributes:
        asking: The event that shows it.
        output: Sends the events of its run.
        closed: How it was closed; None while it is open.
        woken: Set once it is closed.
        encoded: The answer as JSON, if there is one.
        is_shown: Whether the event was appended.
        is_end_stored: Whether its end was given to the store.
        readers: Who receives a copy of `closed`, each with the correlation id of its answer.
        asked_at: On Trio's clock.
        validator: Of the answer; None if any answer fits.
    """

    asking: AgentAsking
    output: QuestionOutput
    asked_at: float
    validator: "Draft202012Validator | None" = None
    closed: AgentAnswered | None = None
    encoded: bytes | None = None
    woken: trio.Event = field(factory=trio.Event)
    is_shown: bool = False
    is_end_stored: bool = False
    readers: list[tuple[QuestionReader, str | None]] = field(factory=list)

    def answer(
        self,
        given: Answer,
        *,
        user_id: UserId,
        reader: QuestionReader,
        correlation_id: str | None = None,
    ) -> None:
        """Close it with an answer, if that fits.

        Args:
            given: The answer.
            user_id: The user who answers.
            reader: The session that answers; it gets a copy unless the question is its own.
            correlation_id: The correlation id of the answer.

        Raises:
            Refused: ANSWER_REJECTED.
        """
        if self.closed is not None:
            raise rejected(self.closed.outcome)
        encoded = None if given.answer is None else dumps(given.answer)
        outcome = self._outcome(given, encoded)
        self.encoded = encoded
        self.close(outcome, given.answer, user_id)
        if not self.output.is_for(reader):
            self.readers.append((reader, correlation_id))

    def close(
        self, outcome: QuestionOutcome, answer: Any = None, user_id: UserId | None = None
    ) -> AgentAnswered:
        """Close it, unless it is closed already; return how it was closed."""
        if self.closed is None:
            asking = self.asking
            self.closed = AgentAnswered(asking.run_id, asking.question_id, outcome, answer, user_id)
            self.woken.set()
        return self.closed

    @property
    def end_size(self) -> int:
        """The bytes of the answer."""
        return 0 if self.encoded is None else len(self.encoded)

    def _outcome(self, given: Answer, encoded: bytes | None) -> QuestionOutcome:
        """Return the outcome of an answer that fits.

        Raises:
            Refused: ANSWER_REJECTED.
        """
        if self.asking.kind is QuestionKind.APPROVAL:
            if given.approve is None or given.answer is not None:
                raise _refusal("$.payload.approve: an approval takes this, and no answer")
            return QuestionOutcome.APPROVED if given.approve else QuestionOutcome.DENIED
        if encoded is None or given.approve is not None:
            raise _refusal("$.payload.answer: a question takes this, and no approval")
        if len(encoded) > ANSWER_BYTES:
            raise _refusal(f"$.payload.answer: at most {ANSWER_BYTES} bytes of JSON")
        if self.validator is not None and (text := find_misfit(given.answer, self.validator)):
            raise _refusal(f"$.payload.answer{text}")
        return QuestionOutcome.ANSWERED


class Questions:
    """The questions of one run.

    Args:
        message: The message of the run.
        output: Sends the events.
        store: Stores the questions.
        clock: The deadline, which stands still while a question is open.
        open_questions: The open questions of the user, by id, for the answers.
        wall_clock: Returns Unix seconds.
        note: Receives the telemetry events.
        changed: Called when a question is opened or closed, which changes the list of threads.
        notification_of: Returns the notification of a question, None for none.
    """

    def __init__(
        self,
        message: NewMessage,
        *,
        output: QuestionOutput,
        store: Store,
        clock: RunClock,
        open_questions: MutableMapping[QuestionId, Question],
        wall_clock: Callable[[], float],
        note: Callable[[TelemetryEvent], None],
        changed: Callable[[], None],
        notification_of: Callable[[QuestionId], Notification | None],
    ) -> None:
        self._message = message
        self._output = output
        self._store = store
        self._clock = clock
        self._of_user = open_questions
        self._wall_clock = wall_clock
        self._note = note
        self._changed = changed
        self._notification_of = notification_of
        self._open: dict[QuestionId, Question] = {}
        self._places = trio.Semaphore(OPEN_QUESTIONS)
        self._asked = 0

    @property
    def asking(self) -> list[QuestionId]:
        """The questions that are not closed, also those that are being stored."""
        return [each for each, question in self._open.items() if question.closed is None]

    async def ask(
        self,
        kind: QuestionKind,
        prompt: str,
        *,
        expires: float,
        schema: JsonObject | None = None,
        call: ToolCall | None = None,
    ) -> AgentAnswered:
        """Ask, and wait until the question is closed; return how.

        While the run has `OPEN_QUESTIONS`, this first waits until one of them is closed, in the
        order of the calls. If it is cancelled, the question is closed as `cancelled`.

        Args:
            kind: What is asked for.
            prompt: The text for the user.
            expires: Seconds until the question expires.
            schema: The JSON Schema of the answer.
            call: The tool call to approve.

        Raises:
            TypeError: If an argument has the wrong type.
            ValueError: If one is too long or not valid.
            RuntimeError: If the run has asked too many questions.
            StoreUnavailable: If the question cannot be stored.
            trio.ClosedResourceError: If the run has ended.
        """
        _check(prompt, expires)
        shown_schema = None if schema is None else _encoded(schema)
        validator = None if schema is None else compile_schema(schema)
        if self._asked >= RUN_QUESTIONS:
            raise RuntimeError(f"a run asks at most {RUN_QUESTIONS} questions")
        self._asked += 1
        async with self._places:
            if self._output.is_closed:
                raise trio.ClosedResourceError("the run has ended")
            new = self._new(kind, prompt, expires, shown_schema, call)
            return await self._ask(new, validator)

    def _new(
        self,
        kind: QuestionKind,
        prompt: str,
        expires: float,
        schema: bytes | None,
        call: ToolCall | None,
    ) -> NewQuestion:
        now, question_id = self._wall_clock(), new_question_id()
        return NewQuestion(
            question_id,
            self._message.run_id,
            self._message.user_id,
            kind,
            prompt,
            now,
            now + expires,
            schema,
            None if call is None else call.name,
            None if call is None else call.arguments,
            None if call is None else call.digest,
            self._notification_of(question_id),
        )

    async def _ask(
        self, new: NewQuestion, validator: "Draft202012Validator | None"
    ) -> AgentAnswered:
        question = Question(_asking(new), self._output, trio.current_time(), validator)
        self._open[new.question_id] = question
        try:
            with self._clock.paused():
                await self._store.record_question(new)
                with trio.move_on_after(new.expires_at - self._wall_clock()):
                    await self._show(question, new.size)
                    await question.woken.wait()
            closed = question.close(QuestionOutcome.EXPIRED)
            await self._store_end(question)
            await self._send_end(question)
        except trio.Cancelled:
            # The end of a run closes its questions in the store too; another cancellation does not.
            if question.closed is not None or not self._clock.is_cut_off:
                question.close(QuestionOutcome.CANCELLED)
                await self._store_end(question)
            raise
        finally:
            self._cancel(question)
        return closed

    def cancel_all(self) -> None:
        """Close the open questions as `cancelled`, because the run ends."""
        for question in list(self._open.values()):
            self._cancel(question)

    async def _show(self, question: Question, size: int) -> None:
        asking = question.asking

        def shown() -> None:
            question.is_shown = True
            self._of_user[asking.question_id] = question
            self._output.show_question(asking.run_id, listed(asking))
            self._changed()

        await self._output.append(asking, size, shown)

    async def _store_end(self, question: Question) -> None:
        """Store how a question was closed, once; cancelling does not interrupt it."""
        closed = question.closed
        if closed is None or question.is_end_stored:
            return
        question.is_end_stored = True
        end = QuestionEnd(
            closed.question_id, closed.run_id, closed.outcome, question.encoded, closed.user_id
        )
        deadline = trio.current_time() + STORE_SECONDS
        with trio.CancelScope(shield=True, deadline=deadline):
            await self._store.end_question(end)

    async def _send_end(self, question: Question) -> None:
        if question.is_shown and question.closed is not None:
            closed = question.closed
            await self._output.append(closed, question.end_size, lambda: self._forget(question))

    def _cancel(self, question: Question) -> None:
        """Send how a question was closed, unless that was sent; `cancelled` if it is open."""
        if question.asking.question_id not in self._open:
            return
        closed = question.close(QuestionOutcome.CANCELLED)
        if question.is_shown:
            self._output.append_now(closed, question.end_size)
        self._forget(question)

    def _forget(self, question: Question) -> None:
        asking, closed = question.asking, question.closed
        del self._open[asking.question_id]
        if not question.is_shown or closed is None:
            return
        del self._of_user[asking.question_id]
        self._output.hide_question(asking.run_id, asking.question_id)
        self._changed()
        for reader, correlation_id in question.readers:
            reader.append_now(closed, question.end_size, correlation_id)
        seconds = round(trio.current_time() - question.asked_at, 3)
        self._note(
            QuestionClosed(asking.run_id, asking.question_id, asking.kind, closed.outcome, seconds)
        )


def rejected(outcome: QuestionOutcome | None) -> Refused:
    """Return the error for an answer to a question that is closed, or that does not exist."""
    if outcome is None:
        text = "There is no open question of that id."
    else:
        text = f"The question is closed: {outcome}."
    return _refusal(text)


def _refusal(text: str) -> Refused:
    return Refused(problem(ErrorCode.ANSWER_REJECTED, text))


def _check(prompt: str, expires: float) -> None:
    """Check the arguments of `ask`."""
    if not isinstance(prompt, str):
        raise TypeError(f"a prompt is a str, got {type(prompt).__name__}")
    if json_size(prompt) > PROMPT_BYTES:
        raise ValueError(f"a prompt has at most {PROMPT_BYTES} bytes")
    if isinstance(expires, bool) or not isinstance(expires, int | float):
        raise TypeError(f"expires is a number of seconds, got {type(expires).__name__}")
    if not 0 < expires <= EXPIRES_MAX:
        raise ValueError(f"expires is more than 0 and at most {EXPIRES_MAX:g} s, got {expires}")


def _encoded(schema: JsonObject) -> bytes:
    encoded = dumps(schema)
    if len(encoded) > SCHEMA_BYTES:
        raise ValueError(f"a schema has at most {SCHEMA_BYTES} bytes of JSON")
    return encoded


def _asking(new: NewQuestion) -> AgentAsking:
    return AgentAsking(
        new.run_id,
        new.question_id,
        new.kind,
        new.prompt,
        new.expires_at,
        None if new.schema is None else Fragment(new.schema),
        new.tool_name,
        None if new.arguments is None else Fragment(new.arguments),
    )


def listed(asking: AgentAsking) -> JsonObject:
    """Return an open question as `resume` lists it."""
    payload: JsonObject = payload_of(asking)
    del payload["run_id"]
    return payload
