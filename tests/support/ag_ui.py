"""Helpers for tests of the `ag-ui` door: inputs, parsed answers, and the rules of a stream."""

from collections.abc import Iterable
from typing import Any, TypeAlias

import orjson

Event: TypeAlias = dict[str, Any]

_PAIRS = {
    "TEXT_MESSAGE_START": ("TEXT_MESSAGE_END", "messageId"),
    "REASONING_START": ("REASONING_END", "messageId"),
    "REASONING_MESSAGE_START": ("REASONING_MESSAGE_END", "messageId"),
    "TOOL_CALL_START": ("TOOL_CALL_END", "toolCallId"),
}
_INSIDE = {
    "TEXT_MESSAGE_CONTENT": "TEXT_MESSAGE_START",
    "REASONING_MESSAGE_CONTENT": "REASONING_MESSAGE_START",
    "TOOL_CALL_ARGS": "TOOL_CALL_START",
}


def run_input(
    message_id: str | None = "m-1",
    text: Any = "hello",
    *,
    thread: str = "t-1",
    run: str = "r-1",
    more: Iterable[dict[str, Any]] = (),
    **fields: Any,
) -> dict[str, Any]:
    """Return a `RunAgentInput`; `more` are messages behind that of the user."""
    messages = [] if message_id is None else [{"id": message_id, "role": "user", "content": text}]
    return {"threadId": thread, "runId": run, "messages": [*messages, *more], **fields}


def parsed(data: bytes) -> list[tuple[str, Event]]:
    """Return the ids and the events of translated bytes."""
    found = []
    for block in data.decode().split("\n\n"):
        if block:
            first, second = block.split("\n")
            found.append((first.removeprefix("id: "), orjson.loads(second.removeprefix("data: "))))
    return found


def check(events: list[Event]) -> None:
    """Check the rules of a stream: its begin and its end, and that what is opened is closed."""
    assert events[0]["type"] == "RUN_STARTED"
    assert events[-1]["type"] in {"RUN_FINISHED", "RUN_ERROR"}
    opened: set[tuple[str, str]] = set()
    ends = {end: (start, name) for start, (end, name) in _PAIRS.items()}
    for event in events[1:-1]:
        kind = event["type"]
        assert kind not in {"RUN_STARTED", "RUN_FINISHED", "RUN_ERROR"}
        if kind in _PAIRS:
            key = (kind, event[_PAIRS[kind][1]])
            assert key not in opened
            opened.add(key)
        elif kind in ends:
            start, name = ends[kind]
            opened.remove((start, event[name]))
        elif kind in _INSIDE:
            start = _INSIDE[kind]
            assert (start, event[_PAIRS[start][1]]) in opened
            assert event["delta"]
    assert not opened


def summary(events: Iterable[Event]) -> list[Event]:
    """Return events without what depends on the moment: pieces are joined, results come last."""
    found: list[Event] = []
    results: list[Event] = []
    for event in events:
        last = found[-1] if found else {}
        if event["type"] == "TOOL_CALL_RESULT":
            results.append(event)
        elif event["type"] == "TEXT_MESSAGE_CONTENT" == last.get("type"):
            found[-1] = {**last, "delta": last["delta"] + event["delta"]}
        elif event["type"] != "CUSTOM":
            found.append({name: each for name, each in event.items() if name != "usage"})
    return [*found, *sorted(results, key=lambda result: str(result["toolCallId"]))]


def text_of(events: Iterable[Event]) -> str:
    """Return the text of the answer."""
    return "".join(event["delta"] for event in events if event["type"] == "TEXT_MESSAGE_CONTENT")
