"""Answers of the OpenAI door: events become chunks, or one completion."""

from typing import Any

import orjson
import pytest

from netra_trio.endpoints.doors import openai_answer
from netra_trio.endpoints.doors.openai_answer import ChatCompletion, ChatStream, error_of
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.problem import problem

TEXT = '"quoted" \\ \n 😀 \x00'


def frame(kind: str, **payload: Any) -> dict[str, Any]:
    return {"type": kind, "payload": {"run_id": "run_1", **payload}}


def ended(status: str, **payload: Any) -> dict[str, Any]:
    return frame("agent_completed", status=status, duration_ms=1, **payload)


def stream(*, include_usage: bool = False) -> ChatStream:
    return ChatStream("run_1", model='a"":0b', created=7, include_usage=include_usage)


def completion() -> ChatCompletion:
    return ChatCompletion("run_1", model="chat", created=7)


def decoded(data: bytes) -> list[Any]:
    """Return the values of events, `[DONE]` as text."""
    events = data.decode().split("\n\n")
    assert events.pop() == ""
    values = [event.removeprefix("data: ") for event in events]
    return [value if value == "[DONE]" else orjson.loads(value) for value in values]


def test_a_stream_begins_with_the_role_and_ends_with_a_reason() -> None:
    translator = stream()
    head = {"id": "chatcmpl-run_1", "object": "chat.completion.chunk", "created": 7}
    head["model"] = 'a"":0b'
    assert decoded(translator.begin()) == [
        {
            **head,
            "choices": [
                {
                    "index": 0,
                    "delta": {"role": "assistant", "content": ""},
                    "logprobs": None,
                    "finish_reason": None,
                }
            ],
        }
    ]
    choice = {"index": 0, "delta": {"content": TEXT}, "logprobs": None, "finish_reason": None}
    assert decoded(translator.event(frame("partial_result", content=TEXT))) == [
        {**head, "choices": [choice]}
    ]
    *chunks, done = decoded(translator.event(ended("completed", result="unused")))
    assert done == "[DONE]"
    choice = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}
    assert chunks == [{**head, "choices": [choice]}]
    assert translator.is_complete
    assert translator.headers["x-request-id"] == "run_1"
    assert translator.headers["content-type"] == "text/event-stream"


def test_thoughts_and_tools_become_reasoning() -> None:
    translator = stream()
    events = [
        frame("agent_thinking", thought="Let me see.", step_number=1),
        frame("tool_executing", tool_call_id="c", tool_name="weather", arguments={"secret": 1}),
        frame("tool_completed", tool_call_id="c", tool_name="weather", success=True, result=1),
        frame("tool_completed", tool_call_id="d", tool_name="time", success=False, error="no"),
    ]
    deltas = [
        chunk["choices"][0]["delta"]
        for event in events
        for chunk in decoded(translator.event(event))
    ]
    lines = ["Let me see.\n", "Tool: weather\n", "Tool failed: time\n"]
    assert deltas == [{"reasoning_content": line} for line in lines]
    whole = completion()
    assert [whole.add(event) for event in events] == [False] * 4
    assert whole.add(ended("completed"))
    message = whole.body["choices"][0]["message"]
    assert message["reasoning_content"] == "".join(lines)
    assert message["content"] == ""


def test_events_without_a_counterpart_in_the_protocol_are_left_out() -> None:
    translator = stream()
    for kind in ("agent_started", "heartbeat", "server_draining", "agent_answered", "of_tomorrow"):
        assert translator.event(frame(kind)) == b""
    assert not translator.is_complete


def test_usage_is_summed() -> None:
    usages = [
        frame("agent_usage", model="m", input_tokens=read, output_tokens=2) for read in (3, 4)
    ]
    translator, whole = stream(include_usage=True), completion()
    assert decoded(translator.begin())[0]["usage"] is None
    for usage in usages:
        assert translator.event(usage) == b""
        whole.add(usage)
    *_, usage_chunk, done = decoded(translator.event(ended("completed")))
    assert done == "[DONE]"
    assert usage_chunk["choices"] == []
    assert usage_chunk["usage"] == {
        "prompt_tokens": 7,
        "completion_tokens": 4,
        "total_tokens": 11,
    }
    assert whole.body["usage"] == usage_chunk["usage"]
    assert completion().body["usage"]["total_tokens"] == 0


def test_a_completion_has_the_whole_text() -> None:
    whole = completion()
    for piece in ("a", TEXT, "b"):
        assert not whole.add(frame("partial_result", content=piece))
    assert whole.add(ended("completed"))
    assert whole.body == {
        "id": "chatcmpl-run_1",
        "object": "chat.completion",
        "created": 7,
        "model": "chat",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": f"a{TEXT}b", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
    }


@pytest.mark.parametrize(
    ("status", "http_status", "code"),
    [
        ("failed", 500, "run_failed"),
        ("timed_out", 504, "run_timed_out"),
        ("cancelled", 409, "run_cancelled"),
        ("interrupted", 503, "run_interrupted"),
    ],
)
def test_another_end_is_an_error_without_done(status: str, http_status: int, code: str) -> None:
    translator = stream()
    (event,) = decoded(translator.event(ended(status)))
    assert event["error"]["code"] == code
    assert event["error"]["type"] in {"server_error", "invalid_request_error"}
    assert event["error"]["message"].endswith(".")
    assert translator.is_complete
    whole = completion()
    assert whole.add(ended(status))
    assert whole.error is not None
    assert (whole.error.status, whole.error.body) == (http_status, event)


def test_the_error_of_an_agent_has_its_id() -> None:
    body = problem(ErrorCode.AGENT_ERROR, "The agent failed.", error_id="err_1").body(0.0)
    (event,) = decoded(stream().event(ended("failed", error=body)))
    assert event["error"]["code"] == "agent_error"
    assert event["error"]["error_id"] == "err_1"
    assert event["error"]["message"].startswith("The agent failed. Try again")
    assert event["error"]["message"].endswith(" (error_id: err_1)")


def test_a_budget_is_a_quota() -> None:
    body = problem(ErrorCode.BUDGET_EXCEEDED, "It is used up.", retry_after_ms=5).body(0.0)
    frame = ended("cancelled", error=body)
    (event,) = decoded(stream().event(frame))
    assert event["error"]["type"] == event["error"]["code"] == "insufficient_quota"
    whole = completion()
    assert whole.add(frame)
    assert whole.error is not None
    assert (whole.error.status, whole.error.body) == (429, event)


def test_a_question_ends_the_answer() -> None:
    translator = stream()
    (event,) = decoded(translator.event(frame("agent_asking", question_id="q", prompt="?")))
    assert event["error"]["code"] == "question_not_supported"
    assert (translator.is_asking, translator.is_complete) == (True, True)


def test_a_lost_run_ends_with_the_fault() -> None:
    translator = stream()
    (event,) = decoded(translator.lost(problem(ErrorCode.SERVER_DRAINING, "It restarts.")))
    assert event["error"] == {
        "message": "It restarts. Connect again in a moment.",
        "type": "server_error",
        "param": None,
        "code": "server_draining",
    }
    assert not translator.is_complete  # its run may go on


@pytest.mark.parametrize(
    ("code", "status", "name", "kind"),
    [
        (ErrorCode.AUTH_REQUIRED, 401, "invalid_api_key", "invalid_request_error"),
        (ErrorCode.INVALID_TOKEN, 401, "invalid_api_key", "invalid_request_error"),
        (ErrorCode.TOKEN_EXPIRED, 401, "invalid_api_key", "invalid_request_error"),
        (ErrorCode.USER_DISABLED, 403, "user_disabled", "invalid_request_error"),
        (ErrorCode.AGENT_NOT_FOUND, 404, "model_not_found", "invalid_request_error"),
        (ErrorCode.MESSAGE_TOO_LARGE, 413, "message_too_large", "invalid_request_error"),
        (ErrorCode.AGENT_BUSY, 409, "rate_limit_exceeded", "rate_limit_error"),
        (ErrorCode.QUEUE_FULL, 429, "rate_limit_exceeded", "rate_limit_error"),
        (ErrorCode.RATE_LIMIT_EXCEEDED, 429, "rate_limit_exceeded", "rate_limit_error"),
        (ErrorCode.CONNECTION_LIMIT_EXCEEDED, 429, "rate_limit_exceeded", "rate_limit_error"),
        (ErrorCode.SERVER_FULL, 503, "server_full", "server_error"),
    ],
)
def test_errors_have_the_codes_of_the_protocol(
    code: ErrorCode, status: int, name: str, kind: str
) -> None:
    error = error_of(problem(code, "$.path: no"))
    assert error.status == status
    assert error.body["error"]["code"] == name
    assert error.body["error"]["type"] == kind
    assert error.body["error"]["message"].startswith("$.path: no. ")
    assert error.body["error"]["param"] == ("model" if status == 404 else None)


def test_an_answer_that_is_no_stream_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_answer, "COLLECTED_CHARACTERS", 4)
    whole = completion()
    pieces = [frame("partial_result", content=text) for text in ("abcd", "e")]
    assert [whole.add(piece) for piece in pieces] == [False, True]
    assert whole.error is not None
    assert whole.error.body["error"]["code"] == "answer_too_long"
