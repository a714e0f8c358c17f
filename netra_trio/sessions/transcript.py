"""The transcript: the texts and statuses of runs whose end the client may not have, for `resume`.

    >>> from netra_trio.ids import CorrelationId, QuestionId, RunId, ThreadId
    >>> transcript = Transcript()
    >>> transcript.begin(RunId("r1"), ThreadId("main"), CorrelationId("c1"))
    >>> [run["status"].value for run in transcript.runs()]
    ['queued']

The events that are in the log are replayed. So the transcript needs the text that is not in the
log any more: the text of removed events. A run is removed when its end is removed from the log.
"""

from collections.abc import Iterable
from typing import Any

from attrs import define, field
from orjson import dumps

from netra_trio.ids import CorrelationId, QuestionId, RunId, ThreadId
from netra_trio.protocol.messages import AgentCompleted, JsonObject, PartialResult, RunStatus
from netra_trio.protocol.text import cut_front
from netra_trio.sessions.event_log import Entry

RUNS_BYTES = 192 * 1024  # of all texts together: docs/protocol.md, Limits
QUESTIONS_BYTES = 64 * 1024  # of all open questions together: likewise
_CUT_ABOVE = RUNS_BYTES + 64 * 1024  # so that a long text is not cut at each delta


@define(eq=False)
class _RunText:
    """The text of one run that is not in the log any more, and its status."""

    thread_id: ThreadId
    correlation_id: CorrelationId
    status: RunStatus = RunStatus.QUEUED
    chunks: list[str] = field(factory=list)
    size: int = 0
    is_cut: bool = False
    questions: dict[QuestionId, JsonObject] = field(factory=dict)

    def add(self, text: str, size: int) -> None:
        self.chunks.append(text)
        self.size += size
        if self.size > _CUT_ABOVE:
            kept = cut_front("".join(self.chunks), RUNS_BYTES)
            self.chunks, self.is_cut = [kept], True
            self.size = len(kept.encode())


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
        """Add the texts of entries that were removed from the log; remove runs that ended."""
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

    def runs(self) -> tuple[JsonObject, ...]:
        """Return the runs for `resume.runs`; their texts have at most `RUNS_BYTES` together."""
        texts = {run_id: "".join(run_text.chunks) for run_id, run_text in self._runs.items()}
        limit = _fair_limit([len(text.encode()) for text in texts.values()])
        questions_left = QUESTIONS_BYTES
        listed = []
        for run_id, run_text in self._runs.items():
            content = cut_front(texts[run_id], limit)
            run: dict[str, Any] = {
                "run_id": run_id,
                "thread_id": run_text.thread_id,
                "correlation_id": run_text.correlation_id,
                "status": run_text.status,
                "content": content,
            }
            if run_text.is_cut or len(content) < len(texts[run_id]):
                run["truncated"] = True
            if run_text.questions:
                run["questions"] = questions = []
                for question in run_text.questions.values():
                    questions_left -= len(dumps(question))
                    questions.append(question if questions_left >= 0 else _shortened(question))
            listed.append(run)
        return tuple(listed)


def _shortened(question: JsonObject) -> JsonObject:
    """Return a question without its texts, which are in the thread's history."""
    kept = ("question_id", "kind", "expires_at")
    return {**{name: question[name] for name in kept}, "truncated": True}


def _fair_limit(sizes: list[int]) -> int:
    """Return the maximum size of each text, so that all together have at most `RUNS_BYTES`."""
    left = RUNS_BYTES
    for count, size in zip(range(len(sizes), 0, -1), sorted(sizes), strict=True):
        if size * count > left:
            return left // count
        left -= size
    return RUNS_BYTES
