"""An answer put together from chunks, in the variants of different providers."""

from typing import Any

import orjson
import pytest
from support.model_server import call_piece, chunk, usage

from netra_trio.agents.checks import TOKENS_MAX
from netra_trio.models import completion as completions
from netra_trio.models.completion import Completion, Delta, ToolCall, Usage
from netra_trio.models.errors import ModelError


def fed(*chunks: Any) -> tuple[Completion, list[Delta]]:
    completion = Completion()
    texts = [each if isinstance(each, str) else orjson.dumps(each).decode() for each in chunks]
    return completion, [completion.feed(text) for text in texts]


def test_text_and_end() -> None:
    completion, deltas = fed(
        chunk(role="assistant", content=""), chunk(content="Hé"), chunk("stop")
    )
    assert [delta.text for delta in deltas] == ["", "Hé", ""]
    assert (completion.text, completion.finish_reason) == ("Hé", "stop")
    assert completion.is_finished
    assert not completion.is_done
    assert completion.has_output


def test_done_ends_an_answer_without_a_reason() -> None:
    completion, _ = fed(chunk(content="a"), " [DONE]")
    assert completion.is_done
    assert completion.is_finished


def test_an_answer_that_has_not_begun() -> None:
    completion, _ = fed(chunk(role="assistant"), {"choices": None}, {"choices": [{"delta": None}]})
    assert not completion.has_output
    assert not completion.is_finished


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_reasoning(name: str) -> None:
    completion, deltas = fed(chunk(**{name: "hm"}), chunk(content="a"))
    assert [(delta.thought, delta.text) for delta in deltas] == [("hm", ""), ("", "a")]
    assert completion.text == "a"


def test_other_forms_of_text() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "image"}, "x", {"type": "text", "text": "b"}]
    completion, _ = fed(
        chunk(content=parts),
        chunk(refusal="no"),
        {"choices": [{"message": {"content": "whole"}, "finish_reason": "stop"}]},
        '{"choices": [{"delta": {"content": "\\ud800"}}]}',
    )
    assert completion.text == "abnowhole?"


def test_a_tool_call_in_pieces() -> None:
    completion, _ = fed(
        chunk(tool_calls=[call_piece(0, "c1", "weather")]),
        chunk(tool_calls=[call_piece(0, arguments='{"city": ')]),
        chunk(tool_calls=[call_piece(1, "c2", "clock", "{}")]),
        chunk(tool_calls=[call_piece(0, arguments='"Oslo"}')]),
        chunk("tool_calls"),
    )
    assert completion.tool_calls == [
        ToolCall("c1", "weather", '{"city": "Oslo"}'),
        ToolCall("c2", "clock", "{}"),
    ]
    assert completion.message() == {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "c1",
                "type": "function",
                "function": {"name": "weather", "arguments": '{"city": "Oslo"}'},
            },
            {"id": "c2", "type": "function", "function": {"name": "clock", "arguments": "{}"}},
        ],
    }


def test_a_name_in_pieces_and_a_repeated_name() -> None:
    completion, _ = fed(
        chunk(tool_calls=[call_piece(0, "c1", "weath")]),
        chunk(tool_calls=[call_piece(0, None, "er")]),
        chunk(tool_calls=[call_piece(1, "c2", "clock")]),
        chunk(tool_calls=[call_piece(1, "c2", "clock", "{}")]),
    )
    assert [call.name for call in completion.tool_calls] == ["weather", "clock"]


def test_calls_that_all_have_the_index_0() -> None:
    completion, _ = fed(
        chunk(tool_calls=[call_piece(0, "c1", "a", "{}"), call_piece(0, "c2", "b", '{"x"')]),
        chunk(tool_calls=[call_piece(0, arguments=": 1}")]),
    )
    assert completion.tool_calls == [ToolCall("c1", "a", "{}"), ToolCall("c2", "b", '{"x": 1}')]


def test_calls_without_index_and_without_id() -> None:
    first = {"function": {"name": "a", "arguments": '{"x"'}}
    completion, _ = fed(
        chunk(tool_calls=[first]), chunk(tool_calls=[{"function": {"arguments": ": 1}"}}])
    )
    assert completion.tool_calls == [ToolCall("call_0", "a", '{"x": 1}')]


def test_arguments_that_are_an_object() -> None:
    call = {"index": 0, "id": "c", "function": {"name": "a", "arguments": {"x": 1}}}
    completion, _ = fed(chunk(tool_calls=[call, {"index": 1}, "x"]))
    assert completion.tool_calls == [ToolCall("c", "a", '{"x":1}')]
    assert completion.message()["tool_calls"][0]["function"]["arguments"] == '{"x":1}'


def test_a_call_without_arguments() -> None:
    completion, _ = fed(chunk(tool_calls=[call_piece(0, "c", "a")]))
    assert completion.message()["tool_calls"][0]["function"]["arguments"] == "{}"


@pytest.mark.parametrize(
    ("counted", "expected"),
    [
        (usage(3, 5), Usage(3, 5)),
        (usage(3, 5, cost=0.25), Usage(3, 5, 0.25)),
        (usage(3, 5, cost=2), Usage(3, 5, 2)),
        (usage(3, 5, cost=None), Usage(3, 5)),
        (usage(0, TOKENS_MAX), Usage(0, TOKENS_MAX)),
        ({"usage": {}}, None),
        ({"usage": None}, None),
    ],
)
def test_usage(counted: Any, expected: Usage | None) -> None:
    completion, _ = fed(counted, {"usage": None})
    assert completion.usage == expected
    assert not completion.has_bad_usage


@pytest.mark.parametrize(
    ("counted", "expected"),
    [
        ('"prompt_tokens": 3, "completion_tokens": 5, "cost": "x"', Usage(3, 5)),
        ('"prompt_tokens": 3, "completion_tokens": 5, "cost": -1', Usage(3, 5)),
        ('"prompt_tokens": 3, "completion_tokens": 5, "cost": Infinity', Usage(3, 5)),
        ('"prompt_tokens": 3, "completion_tokens": 5, "cost": NaN', Usage(3, 5)),
        ('"prompt_tokens": 3, "completion_tokens": 5, "cost": 1e999', Usage(3, 5)),
        # NaN is not JSON: then integers of any length are read.
        (
            f'"prompt_tokens": 3, "completion_tokens": 5, "x": NaN, "cost": 1{"0" * 400}',
            Usage(3, 5),
        ),
        (
            f'"prompt_tokens": 3, "completion_tokens": 5, "x": NaN, "cost": -1{"0" * 400}',
            Usage(3, 5),
        ),
        (f'"prompt_tokens": {TOKENS_MAX + 1}, "completion_tokens": 5', None),
        (f'"prompt_tokens": 3, "completion_tokens": {TOKENS_MAX + 1}', None),
        ('"prompt_tokens": -1, "completion_tokens": 5', None),
        ('"prompt_tokens": true, "completion_tokens": 5', None),
        ('"prompt_tokens": 3', None),
    ],
)
def test_a_usage_that_is_invalid(counted: str, expected: Usage | None) -> None:
    completion, _ = fed(f'{{"usage": {{{counted}}}}}', {"usage": None})
    assert completion.usage == expected
    assert completion.has_bad_usage


@pytest.mark.parametrize("text", ["{", "[]", "7", ""])
def test_what_is_no_chunk(text: str) -> None:
    with pytest.raises(ModelError, match="cannot be read") as caught:
        fed(text)
    assert "expected a JSON object" in caught.value.detail


@pytest.mark.parametrize("error", [{"message": "boom", "code": 500}, "boom"])
def test_an_error_in_the_stream(error: Any) -> None:
    with pytest.raises(ModelError, match="reported an error") as caught:
        fed({"error": error})
    assert "boom" in caught.value.detail
    assert "boom" not in str(caught.value)


def test_the_length_of_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completions, "ANSWER_BYTES", 4)
    completion, _ = fed(chunk(content="éa"), chunk(reasoning="b"))
    with pytest.raises(ModelError, match="longer than 4 bytes"):
        completion.feed(orjson.dumps(chunk(content="x")).decode())


def test_the_number_of_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completions, "CALLS_MAX", 2)
    pieces = [call_piece(index, f"c{index}", "a") for index in range(3)]
    completion, _ = fed(chunk(tool_calls=pieces[:2]))
    with pytest.raises(ModelError, match="more than 2 tools"):
        completion.feed(orjson.dumps(chunk(tool_calls=pieces[2:])).decode())
