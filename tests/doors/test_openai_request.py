"""Requests of the OpenAI door: what is read, and what is refused with the path of the field."""

from typing import Any

import orjson
import pytest

from netra_trio.endpoints.doors.openai_request import MESSAGES, read_request
from netra_trio.endpoints.doors.posted_files import DoorFormat
from netra_trio.protocol.messages import Ping
from netra_trio.protocol.posted import PostedMessage
from netra_trio.protocol.problem import Refused

USER = {"role": "user", "content": "hello"}


def read(*messages: Any, **fields: Any) -> Any:
    return read_request({"model": "chat", "messages": list(messages), **fields}, 7.0)


def refusal(*messages: Any, **fields: Any) -> str:
    with pytest.raises(Refused) as caught:
        read(*messages, **fields)
    assert caught.value.problem.status == 400
    return caught.value.problem.error


def test_the_last_message_is_the_question_and_the_others_are_the_history() -> None:
    request = read(
        {"role": "system", "content": "Answer in French."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
        {"role": "tool", "content": "42", "tool_call_id": "1"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}], "name": "x"},
        {"role": "user", "content": " "},
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "c", "unknown": 1},
    )
    assert request.content == "c"
    assert [(each.role, each.content) for each in request.history] == [
        ("user", "Answer in French."),
        ("user", "a\nb"),
        ("agent", "no"),
        ("user", "Be brief."),
    ]
    assert {each.created_at for each in request.history} == {7.0}
    assert len({each.message_id for each in request.history}) == 4


def test_options_of_the_stream_are_read() -> None:
    assert not read(USER).stream
    assert not read(USER, stream=None, stream_options=None).include_usage
    assert read(USER, stream=True, stream_options={"include_usage": True}).include_usage
    assert read(USER, stream=True, stream_options={}).stream


def test_parameters_that_tune_a_model_are_ignored() -> None:
    tuned = {
        "temperature": 9,
        "max_tokens": 1,
        "stop": ["x"],
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "tool_choice": "auto",
        "response_format": {"type": "text"},
        "modalities": ["text"],
        "n": 1,
        "logprobs": False,
        "user": 5,
    }
    assert read(USER, **tuned).content == "hello"


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"n": 2}, "$.n: expected 1, got 2"),
        ({"n": True}, "$.n: expected 1, got true"),
        ({"n": []}, "$.n: expected 1, got an array"),
        ({"logprobs": True}, "$.logprobs: expected false"),
        ({"response_format": {"type": "json_object"}}, "$.response_format.type: expected"),
        ({"response_format": {"type": ["text"]}}, "$.response_format.type: expected"),
        ({"response_format": 5}, "$.response_format: expected an object, got 5"),
        ({"tool_choice": "required"}, "$.tool_choice: expected auto or none"),
        ({"tool_choice": {"type": "function"}}, "$.tool_choice: expected auto or none"),
        ({"modalities": ["text", "audio"]}, '$.modalities[1]: expected text, got "audio"'),
        ({"modalities": "text"}, "$.modalities: expected an array"),
        ({"stream": 1}, "$.stream: expected true or false, got 1"),
        ({"stream_options": []}, "$.stream_options: expected an object"),
        ({"stream_options": {"include_usage": 1}}, "$.stream_options.include_usage: expected"),
        ({"model": ""}, "$.model: expected the name of an agent"),
        ({"model": 5}, "$.model: expected a string, got 5"),
        ({"messages": {}}, "$.messages: expected an array, got an object"),
        ({"messages": []}, "$.messages: expected at least one message"),
    ],
)
def test_another_form_of_answer_is_refused(fields: dict[str, Any], path: str) -> None:
    assert refusal(USER, **fields).startswith(path)


@pytest.mark.parametrize(
    ("message", "path"),
    [
        (5, "$.messages[1]: expected an object, got 5"),
        ({"content": "x"}, "$.messages[1].role: expected a string, got nothing"),
        (
            {"role": "robot", "content": "x"},
            "$.messages[1].role: expected one of system, developer",
        ),
        ({"role": "assistant", "content": "x"}, "$.messages[1].role: expected user: the agent"),
        ({"role": "tool", "content": "x"}, "$.messages[1].role: expected user: the agent"),
        ({"role": "user"}, "$.messages[1].content: expected a string or an array of text parts"),
        ({"role": "user", "content": 5}, "$.messages[1].content: expected a string or an array"),
        ({"role": "user", "content": "  "}, "$.messages[1].content: expected a text that is not"),
        ({"role": "user", "content": []}, "$.messages[1].content: expected a text that is not"),
        ({"role": "user", "content": [5]}, "$.messages[1].content[0]: expected an object, got 5"),
        (
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}]},
            "$.messages[1].content[1].image_url: expected an object, got nothing",
        ),
        (
            {"role": "user", "content": [{"type": "text"}]},
            "$.messages[1].content[0].text: expected a string, got nothing",
        ),
        ({"role": "user", "content": [{}]}, "$.messages[1].content[0].type: expected a string"),
    ],
)
def test_a_bad_message_is_refused_with_its_path(message: Any, path: str) -> None:
    assert refusal(USER, message).startswith(path)


def test_a_body_that_is_no_object_is_refused() -> None:
    with pytest.raises(Refused, match=r"\$: expected an object, got an array"):
        read_request([], 0.0)
    with pytest.raises(Refused, match=r"\$\.model: expected a string, got nothing"):
        read_request({}, 0.0)


def test_only_messages_of_the_user_get_the_history() -> None:
    history = read(USER, USER).history
    wire = DoorFormat(history)
    frame = {"type": "user_message", "payload": {"content": "hi", "thread_id": "t"}}
    decoded = wire.decode(orjson.dumps(frame).decode(), max_size=1000).message
    assert decoded == PostedMessage(content="hi", thread_id=decoded.thread_id, history=history)
    ping = wire.decode('{"type": "ping", "payload": {}}', max_size=1000)
    assert ping.message == Ping({})


def test_a_request_has_a_limited_number_of_messages() -> None:
    assert len(read(*[USER] * MESSAGES).history) == MESSAGES - 1
    expected = f"$.messages: expected at most {MESSAGES} messages, got {MESSAGES + 1}"
    assert refusal(*[USER] * (MESSAGES + 1)) == expected
