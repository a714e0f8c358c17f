"""The input of the `ag-ui` door: what is taken of it, and the faults with their paths."""

from typing import Any

import pytest
from support.ag_ui import run_input

from netra_trio.endpoints.doors.ag_ui_input import (
    MESSAGES,
    RESUME_ENTRIES,
    Held,
    ResumeEntry,
    read_answer,
    read_input,
    read_stop,
)
from netra_trio.protocol.fields import CORRELATION_ID_CHARACTERS
from netra_trio.protocol.problem import Refused

ENTRY = {"interruptId": "q_1", "status": "resolved", "payload": 5}


def fault(body: Any) -> str:
    with pytest.raises(Refused) as error:
        read_input(body)
    assert error.value.problem.status == 400
    return error.value.problem.error


def test_the_newest_message_of_the_user_is_taken() -> None:
    more: list[dict[str, Any]] = [
        {"id": "a-1", "role": "assistant", "content": "hi"},
        {"id": "m-2", "role": "user", "content": [{"type": "text", "text": part} for part in "ab"]},
        {"id": "run_1-0", "role": "assistant", "content": "Hel"},
        {"id": "run_1-1", "role": "assistant"},
        {"id": "run_1-1-thought", "role": "reasoning", "content": "hm"},
        {
            "id": "c1",
            "role": "assistant",
            "toolCalls": [{"id": "c1", "function": {"name": "add", "arguments": "{}"}}, {}, 5],
        },
        {"id": "c2", "role": "assistant", "toolCalls": [{"id": "c2", "function": {}}]},
        {"id": "c1-result", "role": "tool", "toolCallId": "c1", "content": "3"},
        {"id": "x", "role": "tool"},
        {"role": "assistant"},
    ]
    found = read_input(run_input(more=more, tools=[{"name": "t"}], state=1, context=5, extra=1))
    assert (found.message_id, found.text, found.place) == ("m-2", "a\nb", "$.messages[2]")
    texts = {"run_1-0": "Hel", "run_1-1": "", "run_1-1-thought": "hm", "c1": "", "c2": ""}
    assert found.held == Held(texts, {"c1": "{}", "c2": ""}, frozenset({"c1"}))
    assert not found.regenerates
    assert found.resume == ()


def test_answers_to_interrupts() -> None:
    cancelled = {"interruptId": "q_2", "status": "cancelled"}
    entries = (
        ResumeEntry("$.resume[0]", "q_1", False, 5),
        ResumeEntry("$.resume[1]", "q_2", True),
    )
    assert read_input(run_input(resume=[ENTRY, cancelled])).resume == entries
    for without in (
        {"threadId": "t", "runId": "r", "resume": [ENTRY]},
        run_input(None, resume=[ENTRY]),
    ):
        found = read_input(without)
        assert found.message_id is None
        assert found.resume == entries[:1]


def test_a_message_that_is_run_again_has_another_key_for_each_run() -> None:
    first = read_input(run_input(forwardedProps={"regenerate": True}))
    second = read_input(run_input(run="r-2", forwardedProps={"regenerate": True}))
    assert first.regenerates
    assert first.regenerated_key != second.regenerated_key
    assert len(first.regenerated_key) <= CORRELATION_ID_CHARACTERS
    for key in (first.regenerated_key, second.regenerated_key, "m-1"):
        assert first.is_message({"role": "user", "correlation_id": key})
    assert not first.is_message({"role": "agent", "correlation_id": "m-1"})
    assert not first.is_message({"role": "user", "correlation_id": "m-2"})
    assert not first.is_message({"role": "user"})
    assert not read_input(run_input(None, resume=[ENTRY])).is_message({"role": "user"})
    for props in (None, 5, {"regenerate": "yes"}):
        assert not read_input(run_input(forwardedProps=props)).regenerates


LONGEST = "x" * CORRELATION_ID_CHARACTERS


def test_an_id_of_the_longest_size_and_one_character_more() -> None:
    assert read_input(run_input(LONGEST)).message_id == LONGEST
    assert fault(run_input(LONGEST + "x")).startswith("$.messages[0].id: expected a string of 1")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (5, "$: expected an object, got 5"),
        ({}, "$.threadId: missing"),
        ({**run_input(), "threadId": 5}, "$.threadId: expected a string of 1 to 1024 characters"),
        ({**run_input(), "runId": ""}, "$.runId: expected a string"),
        ({"threadId": "t", "runId": "r"}, "$.messages: missing"),
        ({**run_input(), "messages": {}}, "$.messages: expected an array, got an object"),
        ({**run_input(), "messages": []}, "$.messages: expected a message with the role user"),
        ({**run_input(), "messages": [5]}, "$.messages[0]: expected an object, got 5"),
        ({**run_input(), "messages": [{}]}, "$.messages[0].role: missing"),
        (
            {**run_input(), "messages": [{}] * (MESSAGES + 1)},
            f"$.messages: expected at most {MESSAGES} elements",
        ),
        ({**run_input(), "messages": [{"role": "user"}]}, "$.messages[0].id: missing"),
        (run_input(text=" "), "$.messages[0].content: expected a text that is not blank"),
        ({**run_input(text=None)}, "$.messages[0].content: expected a string or an array"),
        (run_input(text=[]), "$.messages[0].content: expected a text that is not blank"),
        (run_input(text=[5]), "$.messages[0].content[0]: expected an object"),
        (
            run_input(text=[{"type": "image"}]),
            "$.messages[0].content[0].source: expected an object, got null",
        ),
        (
            run_input(text=[{"type": "text", "text": 5}]),
            "$.messages[0].content[0].text: expected a string, got 5",
        ),
        (run_input(resume={}), "$.resume: expected an array"),
        (run_input(resume=[5]), "$.resume[0]: expected an object"),
        (run_input(resume=[{}]), "$.resume[0].interruptId: missing"),
        (
            run_input(resume=[ENTRY, {**ENTRY, "status": "denied"}]),
            '$.resume[1].status: expected one of "cancelled", "resolved", got "denied"',
        ),
        (
            run_input(resume=[ENTRY] * (RESUME_ENTRIES + 1)),
            f"$.resume: expected at most {RESUME_ENTRIES} elements",
        ),
    ],
)
def test_faults(body: Any, text: str) -> None:
    assert fault(body).startswith(text)


@pytest.mark.parametrize(
    ("kind", "payload", "fields"),
    [
        ("question", 5, {"answer": 5}),
        ("question", {"a": 1}, {"answer": {"a": 1}}),
        ("approval", {"approved": True}, {"approve": True}),
        ("approval", {"approved": False, "editedArgs": None}, {"approve": False}),
        ("approval", True, {"approve": True}),
    ],
)
def test_an_answer(kind: str, payload: Any, fields: dict[str, Any]) -> None:
    assert read_answer(ResumeEntry("$.resume[0]", "q_1", False, payload), kind) == fields


@pytest.mark.parametrize(
    ("kind", "payload", "text"),
    [
        ("question", None, "$.resume[0].payload: expected the answer, got null"),
        ("approval", "yes", "$.resume[0].payload: expected true or false"),
        ("approval", {}, "$.resume[0].payload.approved: expected true or false, got null"),
        ("approval", {"approved": True, "editedArgs": {}}, "$.resume[0].payload.editedArgs: the"),
    ],
)
def test_a_wrong_answer(kind: str, payload: Any, text: str) -> None:
    with pytest.raises(Refused) as error:
        read_answer(ResumeEntry("$.resume[0]", "q_1", False, payload), kind)
    assert error.value.problem.error.startswith(text)


def test_a_stop() -> None:
    stop = read_stop({"threadId": "t", "messageId": "m-1", "more": 5})
    assert (stop.thread_id, stop.message_id) == ("t", "m-1")
    assert read_stop({"threadId": "t"}).message_id is None
    for wrong in ({}, {"threadId": "t", "messageId": 5}):
        with pytest.raises(Refused):
            read_stop(wrong)
