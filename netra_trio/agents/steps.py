"""The steps of a run, each with its position in the text, for the history and for a resume.

    >>> from netra_trio.ids import QuestionId, RunId
    >>> steps = Steps()
    >>> steps.note(AgentThinking(RunId("r1"), "a greeting first"), len("Hello "))
    >>> steps.encode()
    b'[{"type":"thought","at":6,"thought":"a greeting first"}]'

They have at most `STEPS_BYTES` of JSON. Beyond that, the results of tools are shortened first, the
longest ones most, then arguments and thoughts. Then the last steps are dropped.
"""

from collections.abc import Iterable, Iterator, Sequence

from attrs import define, field
from orjson import Fragment, dumps, loads

from netra_trio.ids import ToolCallId
from netra_trio.protocol.binary import AnyEvent
from netra_trio.protocol.fields import JsonObject
from netra_trio.protocol.messages import (
    AgentAsking,
    AgentThinking,
    Event,
    ToolCompleted,
    ToolExecuting,
)
from netra_trio.protocol.text import cut_json, fair_limit

STEPS_BYTES = 16 * 1024  # JSON, of all steps of a run: docs/protocol.md, get_thread_history
_KEPT_BYTES = 4 * STEPS_BYTES  # during the run; more is shortened at once
_SHORTEST = 64  # bytes of a shortened text, including its mark
_MARK = len(b'"truncated":true,')
_TEXTS = ("thought", "arguments")
_RESULTS = ("result", "error")

STEP_EVENTS = frozenset({AgentThinking, ToolExecuting, ToolCompleted, AgentAsking})
"""The classes of the events that belong to a step."""


@define(eq=False)
class _Step:
    """A step.

    Attributes:
        fields: Its short fields.
        texts: Its arguments or its thought, as JSON.
        results: Its result or its error, as JSON.
    """

    fields: JsonObject
    texts: dict[str, bytes] = field(factory=dict)
    results: dict[str, bytes] = field(factory=dict)

    @property
    def frame_size(self) -> int:
        """The bytes of its JSON without its texts and results, and of a comma."""
        names = (*self.texts, *self.results)
        return len(dumps(self.fields)) + sum(len(name) + len('"":,') for name in names) + 1

    @property
    def size(self) -> int:
        """The bytes of its JSON, and of a comma."""
        return self.frame_size + sum(_sizes([self.texts, self.results]))

    def shorten(self, texts: dict[str, bytes], limit: int) -> None:
        """Shorten some of its texts to `limit` bytes each, the mark included."""
        for name, data in texts.items():
            if len(data) > limit:
                value = loads(data) if data.startswith(b'"') else Fragment(data)
                texts[name] = cut_json(value, limit - _MARK)[0]
                self.fields["truncated"] = True

    def json(self) -> JsonObject:
        """Return it as a value that orjson can encode."""
        long = {**self.texts, **self.results}
        return {**self.fields, **{name: Fragment(data) for name, data in long.items()}}


class Steps:
    """The steps of one run."""

    __slots__ = ("_is_full", "_open", "_size", "_steps")

    def __init__(self) -> None:
        self._steps: list[_Step] = []
        self._open: dict[ToolCallId, _Step] = {}
        self._size = 1  # two brackets, minus the comma that the first step does not need
        self._is_full = False

    @classmethod
    def restored(cls, steps: Iterable[JsonObject]) -> "Steps":
        """Return the steps that `encode` has returned, decoded."""
        restored = cls()
        for each in steps:
            fields = dict(each)
            step = _Step(fields)
            for texts, names in ((step.texts, _TEXTS), (step.results, _RESULTS)):
                texts |= {name: dumps(fields.pop(name)) for name in names if name in fields}
            restored._steps.append(step)
            restored._size += step.size
            if fields["type"] == "tool" and "success" not in fields:
                restored._open[fields["tool_call_id"]] = step
        return restored

    def note(self, event: AnyEvent, at: int) -> None:
        """Note an event of the run; events without a step have no effect.

        Args:
            event: The event.
            at: The number of characters that were emitted before it.
        """
        if isinstance(event, ToolCompleted):
            self._complete(event)
        elif not self._is_full:
            self._add(event, at)
        if self._size > _KEPT_BYTES:
            self._shorten()

    def revert(self, event: Event) -> None:
        """Revert the newest event that was noted; no effect if its step was dropped."""
        if isinstance(event, ToolCompleted):
            self._reopen(event.tool_call_id)
            return
        for index in range(len(self._steps) - 1, -1, -1):
            if _is_of(self._steps[index], event):
                self._size -= self._steps.pop(index).size
                return

    def encode(self) -> bytes:
        """Return the steps as JSON: an array of objects, of at most `STEPS_BYTES`."""
        if self._size > STEPS_BYTES:
            self._shorten()
        return dumps([step.json() for step in self._steps])

    def _add(self, event: AnyEvent, at: int) -> None:
        step = _Step({"type": "", "at": at})
        fields = step.fields
        if isinstance(event, AgentThinking):
            fields["type"] = "thought"
            step.texts["thought"] = dumps(event.thought)
            if event.step_number is not None:
                fields["step_number"] = event.step_number
            if event.total_steps is not None:
                fields["total_steps"] = event.total_steps
        elif isinstance(event, ToolExecuting):
            fields["type"] = "tool"
            fields["tool_call_id"], fields["tool_name"] = event.tool_call_id, event.tool_name
            step.texts["arguments"] = dumps(event.arguments)
            if event.truncated:
                fields["truncated"] = True
            self._open[event.tool_call_id] = step
        elif isinstance(event, AgentAsking):
            fields["type"], fields["question_id"] = "question", event.question_id
        else:
            return
        self._steps.append(step)
        self._size += step.size

    def _complete(self, event: ToolCompleted) -> None:
        step = self._open.pop(event.tool_call_id, None)
        if step is None:
            return
        before = step.size
        step.fields["success"], step.fields["duration_ms"] = event.success, event.duration_ms
        if event.success:
            step.results["result"] = dumps(event.result)
        else:
            step.results["error"] = dumps(event.error)
        if event.truncated:
            step.fields["truncated"] = True
        self._size += step.size - before

    def _reopen(self, tool_call_id: ToolCallId) -> None:
        for step in self._steps:
            if step.fields.get("tool_call_id") == tool_call_id and "success" in step.fields:
                before = step.size
                del step.fields["success"], step.fields["duration_ms"]
                step.results.clear()
                self._open[tool_call_id] = step
                self._size += step.size - before

    def _shorten(self) -> None:
        """Shorten all, so that the steps have at most `STEPS_BYTES`."""
        steps = self._steps
        left = STEPS_BYTES - 1 - sum(step.frame_size for step in steps)
        texts = list(_sizes(step.texts for step in steps))
        results = list(_sizes(step.results for step in steps))
        limit = max(fair_limit(results, left - sum(texts)), _SHORTEST)
        for step in steps:
            step.shorten(step.results, limit)
        left -= sum(min(size, limit) for size in results)
        limit = max(fair_limit(texts, left), _SHORTEST)
        for step in steps:
            step.shorten(step.texts, limit)
        self._size = 1 + sum(step.size for step in steps)
        while self._size > STEPS_BYTES:
            self._is_full = True
            self._size -= steps.pop().size


def _is_of(step: _Step, event: Event) -> bool:
    """Whether a step was added for an event; its thought may be shortened."""
    fields = step.fields
    if isinstance(event, AgentThinking):
        thought = step.texts.get("thought")
        return thought is not None and event.thought.startswith(loads(thought))
    if isinstance(event, ToolExecuting):
        return bool(fields.get("tool_call_id") == event.tool_call_id)
    return isinstance(event, AgentAsking) and fields.get("question_id") == event.question_id


def _sizes(texts: Iterator[dict[str, bytes]] | Sequence[dict[str, bytes]]) -> Iterator[int]:
    return (len(data) for each in texts for data in each.values())
