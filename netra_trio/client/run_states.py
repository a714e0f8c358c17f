"""The states of unfinished runs, from their events: text so far, steps, questions, status.

>>> runs = RunStates()
>>> runs.apply(Event("agent_started", {"run_id": "run_1", "agent_name": "echo"}))
>>> runs.apply(Event("partial_result", {"run_id": "run_1", "content": "Hel"}))
>>> runs.apply(Event("partial_result", {"run_id": "run_1", "content": "lo"}))
>>> [(run["status"], run["content"]) for run in runs.listed()]
[('running', 'Hello')]

For watched threads: a later block gets the same states without a request to the server.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from attrs import define, field

from netra_trio.client.event import ANSWERED, DELTA, END, Event
from netra_trio.client.run_steps import RunSteps

TEXT_CHARACTERS = 256 * 1024  # of one run; a longer text is cut at the beginning, as by the server


@define(eq=False)
class _Run:
    """The state of a run: the listing of the server, and the appended text and steps.

    Attributes:
        characters: Of the kept text.
        length: The characters of the text from the listing on, also those that were cut.
    """

    state: dict[str, Any]
    thread_id: str | None = None
    pieces: list[str] = field(factory=list)
    characters: int = 0
    length: int = 0
    steps: RunSteps = field(factory=RunSteps)

    def append(self, text: str) -> None:
        self.pieces.append(text)
        self.length += len(text)
        self.characters += len(text)
        if self.characters > 2 * TEXT_CHARACTERS:  # so each character is copied at most once
            self.pieces = [self.text()[-TEXT_CHARACTERS:]]
            self.characters = TEXT_CHARACTERS
            self.state["truncated"] = True

    def text(self) -> str:
        self.pieces = ["".join(self.pieces)]
        return self.pieces[0]

    def listed(self) -> dict[str, Any]:
        """Return the state in the format of the server's listing."""
        text = self.text()
        listed = {**self.state, "questions": list(self.state.get("questions", ()))}
        if len(text) > TEXT_CHARACTERS:
            text, listed["truncated"] = text[-TEXT_CHARACTERS:], True
        steps = self.steps.listed(text, self.length)
        return {**listed, "content": text, **({"steps": steps} if steps else {})}


class RunStates:
    """Unfinished runs, in the order in which they became known."""

    def __init__(self) -> None:
        self._runs: dict[str, _Run] = {}

    def __contains__(self, run_id: str | None) -> bool:
        return run_id in self._runs

    def text_of(self, run_id: str | None) -> str:
        """Return the text of a run so far; empty if the run is not known."""
        run = self._runs.get(run_id or "")
        return "" if run is None else run.text()

    def replace(self, listed: Iterable[Mapping[str, Any]]) -> None:
        """Replace all states by those of a listing.

        Fields that the listing does not have are kept.
        """
        before, self._runs = self._runs, {}
        for state in listed:
            run_id = str(state.get("run_id"))
            known = before.get(run_id)
            run = self._runs[run_id] = _Run(
                {**({} if known is None else known.state), "questions": [], **state},
                state.get("thread_id") or (None if known is None else known.thread_id),
            )
            run.append(str(run.state.pop("content", "")))
            run.steps = RunSteps(run.state.pop("steps", ()))

    def discard(self, run_id: str | None) -> None:
        """Forget a run."""
        self._runs.pop(run_id or "", None)

    def apply(self, event: Event) -> str | None:
        """Apply an event of a run; other events have no effect. Return the thread of the run."""
        run_id, payload = event.run_id, event.payload
        if run_id is None:
            return None
        run = self._runs.get(run_id)
        if run is not None and event.type == DELTA:
            run.append(str(payload.get("content", "")))
        elif event.type in {"user_message", "message_confirmed"}:
            run = self._add(run_id, message_id=payload.get("message_id"), status="queued")
            run.thread_id = payload.get("thread_id")
        elif event.type == "agent_started":
            run = run or self._add(run_id)
            run.state |= {"agent_name": payload.get("agent_name"), "status": "running"}
            run.thread_id = payload.get("thread_id")
        elif event.type == END:
            self.discard(run_id)
        elif run is not None:
            run.steps.apply(event, run.length)
            _apply_question(run.state["questions"], event)
        return None if run is None else run.thread_id

    def listed(self, thread_id: str | None = None) -> list[dict[str, Any]]:
        """Return the states in the format of the server's listing; of one thread if it is given."""
        return [
            run.listed()
            for run in self._runs.values()
            if thread_id is None or run.thread_id == thread_id
        ]

    def _add(self, run_id: str, **state: Any) -> _Run:
        run = self._runs[run_id] = _Run({"run_id": run_id, "questions": [], **state})
        return run


def _apply_question(questions: list[dict[str, Any]], event: Event) -> None:
    """Note that a question was asked or closed."""
    if event.type == "agent_asking":
        questions.append({name: it for name, it in event.payload.items() if name != "run_id"})
    elif event.type == ANSWERED:
        question_id = event.payload.get("question_id")
        questions[:] = [each for each in questions if each.get("question_id") != question_id]
