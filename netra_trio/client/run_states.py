"""The state of runs that have not ended, from their events: text so far, questions, status.

>>> runs = RunStates()
>>> runs.apply(Event("agent_started", {"run_id": "run_1", "agent_name": "echo"}))
>>> runs.apply(Event("partial_result", {"run_id": "run_1", "content": "Hel"}))
>>> runs.apply(Event("partial_result", {"run_id": "run_1", "content": "lo"}))
>>> [(run["status"], run["content"]) for run in runs.listed()]
[('running', 'Hello')]

For threads that are watched: a block that begins later gets the same states without the server.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from attrs import define, field

from netra_trio.client.event import ANSWERED, DELTA, END, Event

TEXT_CHARACTERS = 256 * 1024  # of one run; more is cut at the front, as by the server


@define(eq=False)
class _Run:
    """The state of a run: as the server lists it, and the text that has been appended."""

    state: dict[str, Any]
    thread_id: str | None = None
    pieces: list[str] = field(factory=list)
    characters: int = 0

    def append(self, text: str) -> None:
        self.pieces.append(text)
        self.characters += len(text)
        if self.characters > 2 * TEXT_CHARACTERS:  # so that each character is moved once at most
            self.pieces = [self.text()[-TEXT_CHARACTERS:]]
            self.characters = TEXT_CHARACTERS
            self.state["truncated"] = True

    def text(self) -> str:
        self.pieces = ["".join(self.pieces)]
        return self.pieces[0]

    def listed(self) -> dict[str, Any]:
        """Return the state as the server lists it."""
        text = self.text()
        listed = {**self.state, "questions": list(self.state.get("questions", ()))}
        if len(text) > TEXT_CHARACTERS:
            text, listed["truncated"] = text[-TEXT_CHARACTERS:], True
        return {**listed, "content": text}


class RunStates:
    """Runs that have not ended, in the order in which they became known."""

    def __init__(self) -> None:
        self._runs: dict[str, _Run] = {}

    def __contains__(self, run_id: str | None) -> bool:
        return run_id in self._runs

    def thread_of(self, run_id: str | None) -> str | None:
        """Return the thread of a run; None if it is not known."""
        run = self._runs.get(run_id or "")
        return None if run is None else run.thread_id

    def threads(self) -> set[str]:
        """Return the threads of the runs."""
        return {run.thread_id for run in self._runs.values() if run.thread_id is not None}

    def replace(self, listed: Iterable[Mapping[str, Any]]) -> None:
        """Take the states that the server lists instead of all others.

        What they don't say is kept.
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

    def discard(self, run_id: str | None) -> None:
        """Forget a run."""
        self._runs.pop(run_id or "", None)

    def apply(self, event: Event) -> None:
        """Take an event of a run; others have no effect."""
        if event.run_id is None:
            return
        payload = event.payload
        if event.type == "user_message":
            self._add(event.run_id, message_id=payload.get("message_id"), status="queued")
        elif event.type == "message_confirmed":
            self._add(event.run_id, message_id=payload.get("message_id"), status="queued")
            self._runs[event.run_id].thread_id = payload.get("thread_id")
        elif event.type == "agent_started":
            started = self._runs.get(event.run_id) or self._add(event.run_id)
            started.state |= {"agent_name": payload.get("agent_name"), "status": "running"}
            started.thread_id = payload.get("thread_id")
        elif event.type == END:
            self.discard(event.run_id)
        elif (run := self._runs.get(event.run_id)) is not None:
            _apply(run, event)

    def listed(self, thread_id: str | None = None) -> list[dict[str, Any]]:
        """Return the states as the server lists them; of one thread if it is given."""
        return [
            run.listed()
            for run in self._runs.values()
            if thread_id is None or run.thread_id == thread_id
        ]

    def _add(self, run_id: str, **state: Any) -> _Run:
        run = self._runs[run_id] = _Run({"run_id": run_id, "questions": [], **state})
        return run


def _apply(run: _Run, event: Event) -> None:
    """Take an event that is neither the beginning nor the end of a run."""
    questions: list[dict[str, Any]] = run.state["questions"]
    if event.type == DELTA:
        run.append(str(event.payload.get("content", "")))
    elif event.type == "agent_asking":
        questions.append({name: it for name, it in event.payload.items() if name != "run_id"})
    elif event.type == ANSWERED:
        question_id = event.payload.get("question_id")
        questions[:] = [each for each in questions if each.get("question_id") != question_id]
