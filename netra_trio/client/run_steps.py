"""The steps of an unfinished run, from a listing of the server and the events that follow it.

>>> steps = RunSteps([{"type": "thought", "at": 0, "thought": "hm"}])
>>> started = {"run_id": "run_1", "tool_call_id": "c", "tool_name": "add", "arguments": {}}
>>> steps.apply(Event("tool_executing", started), 5)
>>> [(step["type"], step["at"]) for step in steps.listed("lo", 5)]
[('thought', 0), ('tool', 2)]
"""

from collections.abc import Iterable, Mapping
from typing import Any

from orjson import dumps

from netra_trio.client.event import Event

STEPS_BYTES = 256 * 1024  # of one run, as JSON; the server lists at most 16 KiB
_FIELDS = {
    "agent_thinking": ("thought", "step_number", "total_steps"),
    "tool_executing": ("tool_call_id", "tool_name", "arguments", "truncated"),
    "agent_asking": ("question_id",),
}
_TYPES = {"agent_thinking": "thought", "tool_executing": "tool", "agent_asking": "question"}
_ENDED = ("success", "duration_ms", "result", "error", "truncated")


class RunSteps:
    """The steps of one run. Parts that do not fit into `STEPS_BYTES` are left out.

    Args:
        listed: The steps that the server has listed.
    """

    def __init__(self, listed: Iterable[Mapping[str, Any]] = ()) -> None:
        self._steps = [dict(step) for step in listed]
        self._left = STEPS_BYTES - sum(len(dumps(step)) for step in self._steps)

    def apply(self, event: Event, at: int) -> None:
        """Apply an event of the run; events without a step have no effect.

        Args:
            event: The event.
            at: The number of characters of the text before it.
        """
        payload = event.payload
        if event.type == "tool_completed":
            self._complete(payload)
        elif event.type in _TYPES:
            fields = {name: payload[name] for name in _FIELDS[event.type] if name in payload}
            step = {"type": _TYPES[event.type], "at": at, **fields}
            if self._takes(len(dumps(step))):
                self._steps.append(step)

    def listed(self, text: str, length: int) -> list[dict[str, Any]]:
        """Return the steps, with their positions in `text`: the end of `length` characters."""
        missing = length - len(text)
        return [{**step, "at": max(int(step["at"]) - missing, 0)} for step in self._steps]

    def _complete(self, payload: Mapping[str, Any]) -> None:
        ended = {name: payload[name] for name in _ENDED if name in payload}
        if not self._takes(len(dumps(ended))):
            ended = {"success": payload.get("success"), "truncated": True}
        for step in self._steps:
            if step.get("tool_call_id") == payload.get("tool_call_id"):
                step.update(ended)

    def _takes(self, size: int) -> bool:
        if size > self._left:
            return False
        self._left -= size
        return True
