"""The transcript: the texts and statuses of runs whose end the client may not have, for `resume`.

    >>> from netra_trio.ids import CorrelationId, QuestionId, RunId, ThreadId
    >>> transcript = Transcript()
    >>> transcript.begin(RunId("r1"), ThreadId("main"), CorrelationId("c1"))
    >>> [run["status"].value for run in transcript.runs()]
    ['queued']

The events that are in the log are replayed. So the transcript needs the text and the steps that are
not in the log any more: those of removed events. A run is removed when its end is removed from the
log.
"""

from collections.abc import Iterable, Sequence
from typing import Any, cast

from attrs import define, field, fields_dict
from orjson import dumps, loads

from netra_trio.agents.steps import STEP_EVENTS, Steps
from netra_trio.ids import CorrelationId, QuestionId, RunId, ThreadId
from netra_trio.protocol.codec import Encoded
from netra_trio.protocol.fields import JsonObject
from netra_trio.protocol.messages import (
    AgentAnswered,
    AgentAsking,
    AgentCompleted,
    AgentStarted,
    Confirmation,
    Event,
    MessageConfirmed,
    PartialResult,
    RunStatus,
)
from netra_trio.protocol.text import TextTail, cut_front, fair_limit
from netra_trio.sessions.event_log import Entry

RUNS_BYTES = 192 * 1024  # of all texts together: docs/protocol.md, Limits
QUESTIONS_BYTES = 64 * 1024  # of all open questions together: likewise
ALL_STEPS_BYTES = 64 * 1024  # of the steps of all runs together: likewise
_STEP_EVENTS: dict[str, Any] = {cast("Any", each).TYPE: each for each in STEP_EVENTS}


@define(eq=False)
class _RunText:
    """The text and the steps of one run that are not in the log any more, and its status.

    Attributes:
        length: The number of characters of the whole text.
    """

    thread_id: ThreadId
    correlation_id: CorrelationId
    status: RunStatus = RunStatus.QUEUED
    text: TextTail = field(factory=lambda: TextTail(RUNS_BYTES))
    questions: dict[QuestionId, JsonObject] = field(factory=dict)
    length: int = 0
    steps: Steps | None = None

    def add(self, text: str, size: int) -> None:
        """Append a text of `size` bytes."""
        self.text.add(text, size)
        self.length += len(text)

    def note(self, event: Event) -> None:
        """Note a step."""
        if self.steps is None:
            self.steps = Steps()
        self.steps.note(event, self.length)


class Transcript:
    """The runs of a session whose end the client may not have received."""

    __slots__ = ("_runs",)

    def __init__(self) -> None:
        self._runs: dict[RunId, _RunText] = {}

    def begin(self, run_id: RunId, thread_id: ThreadId, correlation_id: CorrelationId) -> None:
        """Add a run, with the status `queued`."""
        self._runs[run_id] = _RunText(thread_id, correlation_id)

    def note(self, run_id: RunId, status: RunStatus) -> None:
        """Set the status of a run; no effect if the run is not in the transcript."""
        if run_id in self._runs:
            self._runs[run_id].status = status

    def show_question(self, run_id: RunId, question: JsonObject) -> None:
        """Add an open question of a run."""
        if run_id in self._runs:
            self._runs[run_id].questions[question["question_id"]] = question

    def hide_question(self, run_id: RunId, question_id: QuestionId) -> None:
        """Remove a question, because it is closed."""
        if run_id in self._runs:
            self._runs[run_id].questions.pop(question_id, None)

    def add_removed(self, entries: Iterable[Entry]) -> None:
        """Add the texts and steps of entries that were removed from the log; remove ended runs."""
        run_id, run_text = None, None
        for entry in entries:
            event = entry.event
            if type(event) is PartialResult:
                if event.run_id != run_id:
                    run_id, run_text = event.run_id, self._runs.get(event.run_id)
                if run_text is not None:
                    run_text.add(event.content, entry.size)
            elif event.TYPE == AgentCompleted.TYPE:
                self._runs.pop(event.run_id, None)
            elif is_step(event.TYPE) and event.run_id in self._runs:
                self._runs[event.run_id].note(_decoded(event))

    def mark_cut(self, run_ids: Iterable[RunId]) -> None:
        """Mark the texts of runs as truncated: another node has sent more than is known here."""
        for run_id in run_ids:
            self._runs[run_id].text.is_cut = True

    def unfinished(self) -> list[tuple[RunId, ThreadId, CorrelationId]]:
        """Return the runs that have not ended, each with its thread and its correlation id."""
        return [
            (run_id, run_text.thread_id, run_text.correlation_id)
            for run_id, run_text in self._runs.items()
            if run_text.status in {RunStatus.QUEUED, RunStatus.RUNNING}
        ]

    def hide_questions(self, run_id: RunId) -> None:
        """Remove all questions of a run, because it has ended."""
        if run_id in self._runs:
            self._runs[run_id].questions.clear()

    def dump(self) -> list[JsonObject]:
        """Return everything, as JSON, for `load` on another node."""
        return [
            {
                "run_id": run_id,
                "thread_id": run_text.thread_id,
                "correlation_id": run_text.correlation_id,
                "status": run_text.status,
                "content": run_text.text.text,
                "is_cut": run_text.text.is_cut,
                "questions": list(run_text.questions.values()),
                "length": run_text.length,
                "steps": [] if run_text.steps is None else loads(run_text.steps.encode()),
            }
            for run_id, run_text in self._runs.items()
        ]

    def load(self, dumped: Iterable[JsonObject]) -> None:
        """Fill a new transcript with what `dump` returned."""
        for run in dumped:
            self._runs[RunId(run["run_id"])] = _RunText(
                ThreadId(run["thread_id"]),
                CorrelationId(run["correlation_id"]),
                RunStatus(run["status"]),
                TextTail(RUNS_BYTES, [run["content"]], is_cut=run["is_cut"]),
                {QuestionId(each["question_id"]): each for each in run["questions"]},
                run["length"],
                Steps.restored(run["steps"]) if run["steps"] else None,
            )

    def replay(self, entries: Iterable[Entry]) -> None:
        """Note what the entries of a log say about runs; their texts stay in the log."""
        for entry in entries:
            event = entry.event
            if type(event) is not Encoded:
                continue
            payload = loads(event.payload)
            if event.TYPE == MessageConfirmed.TYPE:
                if payload["status"] != Confirmation.DUPLICATE and event.run_id not in self._runs:
                    correlation_id = CorrelationId(entry.correlation_id or "")
                    self.begin(event.run_id, ThreadId(payload["thread_id"]), correlation_id)
            elif event.TYPE == AgentStarted.TYPE:
                self.note(event.run_id, RunStatus.RUNNING)
            elif event.TYPE == AgentAsking.TYPE:
                self.show_question(event.run_id, payload)
            elif event.TYPE == AgentAnswered.TYPE:
                self.hide_question(event.run_id, QuestionId(payload["question_id"]))
            elif event.TYPE == AgentCompleted.TYPE:
                self.note(event.run_id, RunStatus(payload["status"]))
                self.hide_questions(event.run_id)

    def runs(self) -> tuple[JsonObject, ...]:
        """Return the runs for `resume.runs`; their texts have at most `RUNS_BYTES` together.

        The places of the steps are in the returned text, which may lack its beginning.
        """
        texts = fit_texts([run_text.text for run_text in self._runs.values()])
        questions = QuestionList()
        steps = StepsList()
        listed = []
        for (run_id, run_text), (content, is_cut) in zip(self._runs.items(), texts, strict=True):
            run: dict[str, Any] = {
                "run_id": run_id,
                "thread_id": run_text.thread_id,
                "correlation_id": run_text.correlation_id,
                "status": run_text.status,
                "content": content,
            }
            if is_cut:
                run["truncated"] = True
            if run_text.questions:
                run["questions"] = questions.fit(run_text.questions.values())
            if run_text.steps is not None:
                fitting = steps.fit(loads(run_text.steps.encode()))
                if fitting:
                    run["steps"] = placed_in(content, run_text.length, fitting)
            listed.append(run)
        return tuple(listed)


def placed_in(content: str, length: int, steps: Iterable[JsonObject]) -> list[JsonObject]:
    """Return steps of a text of `length` characters, with their places in its end `content`."""
    missing = length - len(content)
    return [{**step, "at": min(max(step["at"] - missing, 0), len(content))} for step in steps]


def _decoded(event: Any) -> Event:
    """Return an event of a step, which is encoded in the copy of another node's log."""
    if type(event) is not Encoded:
        return cast("Event", event)
    return step_event(event.TYPE, loads(event.payload))


def is_step(kind: str) -> bool:
    """Whether events of a type belong to steps."""
    return kind in _STEP_EVENTS


def step_event(kind: str, payload: JsonObject) -> Event:
    """Return the event of a step; fields of newer nodes are ignored."""
    of_kind = _STEP_EVENTS[kind]
    known = fields_dict(of_kind).keys() & payload.keys()
    return cast("Event", of_kind(**{name: payload[name] for name in known}))


def fit_texts(texts: Sequence[TextTail]) -> list[tuple[str, bool]]:
    """Return the ends of texts, `RUNS_BYTES` together, and of each whether it was cut in front."""
    whole = [tail.text for tail in texts]
    limit = fair_limit([len(text.encode()) for text in whole], RUNS_BYTES)
    fitting = [cut_front(text, limit) for text in whole]
    return [
        (text, tail.is_cut or len(text) < len(before))
        for text, before, tail in zip(fitting, whole, texts, strict=True)
    ]


class QuestionList:
    """Lists the questions of several runs; shortens those beyond `QUESTIONS_BYTES`."""

    def __init__(self) -> None:
        self._left = QUESTIONS_BYTES

    def fit(self, questions: Iterable[JsonObject]) -> list[JsonObject]:
        """Return the questions of the next run."""
        fitting = []
        for question in questions:
            size = len(dumps(question))
            if size <= self._left:
                self._left -= size
                fitting.append(question)
            else:
                fitting.append(shortened(question))
        return fitting


class StepsList:
    """Lists the steps of several runs; leaves out those of the runs beyond `ALL_STEPS_BYTES`."""

    def __init__(self) -> None:
        self._left = ALL_STEPS_BYTES

    def fit(self, steps: Sequence[JsonObject]) -> Sequence[JsonObject]:
        """Return the steps of the next run, or none."""
        size = len(dumps(steps)) if steps else 0
        if size > self._left:
            return ()  # those of a later run may still fit
        self._left -= size
        return steps


def shortened(question: JsonObject) -> JsonObject:
    """Return a question without its texts, which are in the thread's history."""
    kept = ("question_id", "kind", "expires_at")
    return {**{name: question[name] for name in kept}, "truncated": True}
