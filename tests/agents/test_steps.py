"""The steps of a run: always within their bound, valid JSON, and in order."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from orjson import Fragment, dumps, loads

from netra_trio.agents.steps import STEPS_BYTES, Steps
from netra_trio.ids import QuestionId, RunId, ToolCallId
from netra_trio.protocol.messages import (
    AgentAsking,
    AgentThinking,
    AgentUsage,
    Event,
    QuestionKind,
    ToolCompleted,
    ToolExecuting,
)

RUN = RunId("run_1")
FRAME = len(dumps([{"type": "thought", "at": 0, "thought": ""}]))
TEXTS = st.one_of(st.text(max_size=30), st.text("aé😀\n\x00", max_size=6).map(lambda t: t * 800))
VALUES = st.one_of(TEXTS, st.lists(TEXTS, max_size=2), st.dictionaries(TEXTS, st.integers(0, 99)))


def think(thought: str, step: int | None = None, total: int | None = None) -> AgentThinking:
    return AgentThinking(RUN, thought, step, total)


def call(number: int, arguments: Any) -> ToolExecuting:
    return ToolExecuting(RUN, ToolCallId(f"c{number}"), "find", Fragment(dumps(arguments)))


def done(number: int, result: Any = None, error: str | None = None) -> ToolCompleted:
    call_id = ToolCallId(f"c{number}")
    return ToolCompleted(RUN, call_id, "find", error is None, 7, Fragment(dumps(result)), error)


def ask(number: int) -> AgentAsking:
    return AgentAsking(RUN, QuestionId(f"q{number}"), QuestionKind.QUESTION, "Which?", 1.0)


def noted(*events: Event | str) -> list[dict[str, Any]]:
    """Return the steps of events and deltas (`str`), as history has them."""
    steps, at = Steps(), 0
    for event in events:
        if isinstance(event, str):
            at += len(event)
        else:
            steps.note(event, at)
    encoded = steps.encode()
    assert len(encoded) <= STEPS_BYTES
    found: list[dict[str, Any]] = loads(encoded)
    return found


def test_the_fields_of_each_step() -> None:
    assert noted(
        think("first", 1, 2),
        "Hi ",
        "😀",
        call(1, {"path": "x"}),
        ask(1),
        done(1, {"found": 3}),
        "!",
        call(2, {}),
        done(2, error="The tool failed."),
        call(3, {}),
        think("a lone one"),
    ) == [
        {"type": "thought", "at": 0, "thought": "first", "step_number": 1, "total_steps": 2},
        {
            "type": "tool",
            "at": 4,
            "tool_call_id": "c1",
            "tool_name": "find",
            "arguments": {"path": "x"},
            "success": True,
            "result": {"found": 3},
            "duration_ms": 7,
        },
        {"type": "question", "at": 4, "question_id": "q1"},
        {
            "type": "tool",
            "at": 5,
            "tool_call_id": "c2",
            "tool_name": "find",
            "arguments": {},
            "success": False,
            "error": "The tool failed.",
            "duration_ms": 7,
        },
        {"type": "tool", "at": 5, "tool_call_id": "c3", "tool_name": "find", "arguments": {}},
        {"type": "thought", "at": 5, "thought": "a lone one"},
    ]


def test_each_event_is_reverted() -> None:
    begin: list[Event] = [think("a"), call(1, {"n": 1}), ask(1), think("a")]
    events = [*begin, done(1, [1]), think("b"), call(2, 2)]
    for count in range(len(events) + 1):
        steps, expected = Steps(), Steps()
        for at, event in enumerate(events):
            steps.note(event, at)
            if at < count:
                expected.note(event, at)
        for event in reversed(events[count:]):
            steps.revert(event)
        assert steps.encode() == expected.encode()
        steps.note(done(1, [1]), 9)  # the call is open again
        expected.note(done(1, [1]), 9)
        assert steps.encode() == expected.encode()


def test_events_of_dropped_and_shortened_steps_are_reverted() -> None:
    steps = Steps()
    steps.note(think("a" * STEPS_BYTES * 5), 0)
    for event in (think("b"), call(1, 1), done(1), ask(1), AgentUsage(RUN, "m", 1, 1)):
        steps.revert(event)
    assert len(loads(steps.encode())) == 1
    steps.revert(think("a" * STEPS_BYTES * 5))
    assert steps.encode() == b"[]"


def test_events_without_a_step() -> None:
    assert noted(AgentUsage(RUN, "m", 1, 1), done(9, 1)) == []


def test_a_text_that_is_cut_on_the_wire_is_marked() -> None:
    cut = ToolExecuting(RUN, ToolCallId("c1"), "find", '{"a', truncated=True)
    ended = ToolCompleted(RUN, ToolCallId("c2"), "find", True, 1, "[1", truncated=True)
    assert [step.get("truncated") for step in noted(cut, call(2, {}), ended)] == [True, True]


@pytest.mark.parametrize("beyond", [0, 1])
def test_at_the_bound_and_one_byte_beyond(beyond: int) -> None:
    [step] = noted(think("x" * (STEPS_BYTES - FRAME + beyond)))
    assert step.get("truncated", False) is bool(beyond)
    assert step["thought"] == "x" * len(step["thought"])
    assert len(step["thought"]) > STEPS_BYTES - FRAME - 40


@pytest.mark.parametrize("beyond", [0, 1])
def test_two_steps_at_the_bound(beyond: int) -> None:
    second = STEPS_BYTES - FRAME - len(dumps({"type": "thought", "at": 0, "thought": "ab"})) - 1
    steps = noted(think("ab"), think("x" * (second + beyond)))
    assert steps[0] == {"type": "thought", "at": 0, "thought": "ab"}
    assert ("truncated" in steps[1]) is bool(beyond)


def test_results_are_shortened_first() -> None:
    steps = noted(
        call(1, {"query": "a" * 4000}),
        done(1, ["b" * 30_000]),
        think("c" * 4000),
        call(2, {}),
        done(2, "d" * 100),
        call(3, {}),
        done(3, error="e" * 9000),
    )
    assert steps[0]["arguments"] == {"query": "a" * 4000}
    assert steps[0]["result"].startswith('["bbb')  # a text: the beginning of its JSON
    assert steps[0]["truncated"] is True
    assert steps[1]["thought"] == "c" * 4000
    assert steps[2]["result"] == "d" * 100  # a short one stays as it is
    assert "truncated" not in steps[2]
    assert steps[3]["error"] == "e" * len(steps[3]["error"])
    assert len(steps[3]["error"]) == pytest.approx(len(steps[0]["result"]), abs=10)
    assert len(dumps(steps)) > STEPS_BYTES - 100


def test_then_arguments_and_thoughts_and_then_the_last_steps_go() -> None:
    steps = noted(call(1, "a" * 9000), done(1, "r" * 9000), think("t" * 9000), ask(1))
    assert len(steps[0]["result"]) < 64
    assert len(steps[0]["arguments"]) == pytest.approx(len(steps[1]["thought"]), abs=10)
    assert len(steps[0]["arguments"]) > 7000
    assert steps[2]["type"] == "question"

    steps = noted(*(think(f"{number} " + "t" * 200) for number in range(500)), "…", think("last"))
    assert [int(step["thought"].split()[0]) for step in steps] == list(range(len(steps)))
    assert 100 < len(steps) < 200
    assert all(step["truncated"] for step in steps)


def test_a_long_run_keeps_little_and_its_first_steps() -> None:
    steps = Steps()
    for number in range(3000):
        steps.note(call(number, {"n": "x" * 500}), number)
        steps.note(done(number - 1, "y" * 500), number)
        assert steps._size <= 5 * STEPS_BYTES
    steps.note(done(2999, "late"), 3000)
    found = loads(steps.encode())
    assert [step["tool_call_id"] for step in found] == [f"c{n}" for n in range(len(found))]
    assert [step["at"] for step in found] == list(range(len(found)))
    assert len(found) > 50


EVENTS = st.lists(
    st.one_of(
        TEXTS,
        st.builds(think, TEXTS, st.none() | st.integers(-(2**53), 2**53), st.none()),
        st.builds(call, st.integers(0, 20), VALUES),
        st.builds(done, st.integers(0, 20), VALUES),
        st.builds(done, st.integers(0, 20), st.none(), TEXTS),
        st.builds(ask, st.integers(0, 9)),
    ),
    max_size=60,
)


@given(EVENTS)
def test_any_run(events: list[Event | str]) -> None:
    """Within the bound, in order, and complete unless `is_exact` is false."""
    expected: list[tuple[str, int, Any]] = []
    at = 0
    for event in events:
        if isinstance(event, str):
            at += len(event)
        elif isinstance(event, AgentThinking):
            expected.append(("thought", at, event.thought))
        elif isinstance(event, ToolExecuting):
            expected.append(("tool", at, loads(dumps(event.arguments))))
        elif isinstance(event, AgentAsking):
            expected.append(("question", at, event.question_id))
    steps = noted(*events)
    assert len(steps) <= len(expected)
    for step, (kind, place, text) in zip(steps, expected, strict=False):
        assert (step["type"], step["at"]) == (kind, place)
        shown: Any = step.get("thought", step.get("arguments", step.get("question_id")))
        if not step.get("truncated"):
            assert shown == text
        elif shown != text:
            assert (text if isinstance(text, str) else dumps(text).decode()).startswith(shown)
    if len(steps) < len(expected):
        assert len(dumps(steps)) > STEPS_BYTES / 2
