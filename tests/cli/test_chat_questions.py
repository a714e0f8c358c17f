"""The questions of an agent in the chat: how they are shown, and which lines answer them."""

import io
from typing import Any, cast

import pytest

from netra_trio.cli.chat_questions import ChatQuestions, Unreadable, parse, shown
from netra_trio.cli.line_editor import History
from netra_trio.cli.line_input import LineInput
from netra_trio.cli.terminal import Screen
from netra_trio.client import Client, Event

Schema = dict[str, Any]
COLOURS: Schema = {"enum": ["red", "blue", 3]}


def question(schema: Any = None) -> dict[str, Any]:
    asked = {"question_id": "q_1", "kind": "question", "prompt": "Which?"}
    return asked if schema is None else {**asked, "schema": schema}


def approval(arguments: Any) -> dict[str, Any]:
    asked = {"question_id": "q_1", "kind": "approval", "prompt": "Allow the call of delete?"}
    return {**asked, "tool_name": "delete", "arguments": arguments}


@pytest.mark.parametrize(
    ("schema", "line", "answer"),
    [
        (None, " any text ", "any text"),
        (None, "5", "5"),
        ({"type": "string"}, "5", "5"),
        ({"type": "boolean"}, "Y", True),
        ({"type": "boolean"}, "no", False),
        ({"type": "integer"}, "5", 5),
        ({"type": "number"}, "-0.5", -0.5),
        ({"type": "array"}, "[1, 2]", [1, 2]),
        ({"type": "object"}, '{"a": 1}', {"a": 1}),
        (COLOURS, "blue", "blue"),
        (COLOURS, '"blue"', "blue"),
        (COLOURS, "3", 3),
        (True, '"text"', "text"),
    ],
)
def test_a_line_that_answers(schema: Any, line: str, answer: Any) -> None:
    given = parse(question(schema), line)
    assert given == {"answer": answer}
    assert type(given["answer"]) is type(answer)


@pytest.mark.parametrize(
    ("schema", "line", "why"),
    [
        ({"type": "boolean"}, "perhaps", "Type y or n."),
        ({"type": "integer"}, "five", "Expected a JSON integer."),
        ({"type": ["integer", "null"]}, "five", "Expected JSON, such as a text in quotes."),
        (COLOURS, "green", "Expected JSON, such as a text in quotes."),
        (True, "text", "Expected JSON, such as a text in quotes."),
        ({"type": "object"}, "null", "Null is no answer."),
    ],
)
def test_a_line_that_does_not(schema: Any, line: str, why: str) -> None:
    with pytest.raises(Unreadable, match=f"^{why}$"):
        parse(question(schema), line)


@pytest.mark.parametrize(
    ("line", "approve"), [("y", True), ("YES", True), (" n ", False), ("no", False)]
)
def test_an_approval(line: str, approve: bool) -> None:
    assert parse(approval({}), line) == {"approve": approve}


@pytest.mark.parametrize("line", ["", "ok", "j", "yy"])
def test_what_is_no_approval(line: str) -> None:
    with pytest.raises(Unreadable, match="Type y or n"):
        parse(approval({}), line)


def test_the_arguments_to_approve_are_shown_in_full() -> None:
    long = "x" * 5_000
    assert shown(approval({"path": long})) == (
        f'Allow the call of delete?\n[delete] {{"path":"{long}"}}\ny or n?'
    )


@pytest.mark.parametrize(
    ("schema", "hint"),
    [
        (None, ""),
        ({"type": "string"}, ""),
        (True, ""),
        ({"type": "boolean"}, "\ny or n?"),
        (COLOURS, "\nOne of: red, blue, 3"),
        ({"type": "integer"}, '\nJSON of this schema: {"type":"integer"}'),
    ],
)
def test_what_to_type(schema: Any, hint: str) -> None:
    assert shown(question(schema)) == f"Which?{hint}"


async def test_a_gap_has_the_questions_as_they_stand() -> None:
    out = io.StringIO()
    screen = Screen(out)
    asked = ChatQuestions(cast("Client", None), screen, LineInput(screen, History()))
    asked.note(Event("agent_asking", question()))
    other = {**question(), "question_id": "q_2"}
    cut = {"question_id": "q_3", "kind": "question", "truncated": True}
    asked.note(Event("gap", {"run_id": "run_1", "questions": [other, cut]}))
    assert list(asked._open) == ["q_2"]
    assert out.getvalue() == "(the question is closed)\n"
    asked.note(Event("gap", {"run_id": "run_1"}))
    assert asked._open == {}
