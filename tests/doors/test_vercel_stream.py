"""The UI message stream: each event's chunks, read by the Vercel AI SDK itself."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from support.ui_messages import chunks, sdk_reader

from netra_trio.endpoints.doors.vercel_stream import ClosedQuestion, UIMessageStream
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.problem import problem

Frame = dict[str, Any]

APPROVAL: Frame = {
    "question_id": "q1",
    "kind": "approval",
    "prompt": "Allow the call of rm?",
    "tool_name": "rm",
    "arguments": {"path": "x"},
    "expires_at": 5.0,
}
QUESTION: Frame = {
    "question_id": "q2",
    "kind": "question",
    "prompt": "Which?",
    "schema": {"type": "string"},
    "expires_at": 5.0,
}


def frame(kind: str, /, **payload: Any) -> Frame:
    return {"type": kind, "payload": {"run_id": "r", **payload}}


STARTED = frame("agent_started", agent_name="shop", attempt=1)
THOUGHT = frame("agent_thinking", thought="hm")
ENDED = frame("agent_completed", status="completed", duration_ms=7, result="x")


def delta(text: str) -> Frame:
    return frame("partial_result", content=text)


def calling(name: str = "look", call_id: str = "t1", arguments: Any = None, **more: Any) -> Frame:
    call = {"tool_call_id": call_id, "tool_name": name}
    return frame("tool_executing", **call, arguments=arguments or {}, **more)


def called(call_id: str = "t1", name: str = "look", **result: Any) -> Frame:
    call = {"tool_call_id": call_id, "tool_name": name, "duration_ms": 1}
    return frame("tool_completed", **call, **result)


def end(status: str, **fields: Any) -> Frame:
    return frame("agent_completed", status=status, duration_ms=7, **fields)


def translate(frames: Sequence[Frame], **options: Any) -> str:
    """Return the stream of these events; the last one completes it, and no other one."""
    translator = UIMessageStream("r", "thread", **options)
    data = translator.begin()
    for each in frames:
        assert not translator.is_complete
        data += translator.event(each)
    assert translator.is_complete
    return data.decode()


@pytest.fixture(scope="module")
def sdk() -> Iterator[Callable[..., Any]]:
    with sdk_reader() as read:
        yield read


@pytest.fixture
def shown(sdk: Callable[..., Any]) -> Callable[..., Any]:
    """Return what the SDK reads: the parts without the starts of steps, and the error."""

    def read_parts(*bodies: str) -> Any:
        read = sdk(*bodies)
        parts = read["message"]["parts"]
        return {**read, "parts": [part for part in parts if part["type"] != "step-start"]}

    return read_parts


ANSWER = [
    STARTED,
    THOUGHT,
    delta("Hel"),
    delta("lo"),
    calling(arguments={"q": 1}),
    called(success=True, result=[1]),
    calling(call_id="t2"),
    called("t2", success=False, error="no"),
    delta("!"),
    ENDED,
]


def test_the_parts_of_an_answer(shown: Callable[..., Any]) -> None:
    read = shown(translate(ANSWER))
    tool = {"type": "dynamic-tool", "toolName": "look", "providerExecuted": True}
    assert read["error"] is None
    assert read["message"]["id"] == "r"
    assert read["message"]["metadata"] == {
        "runId": "r",
        "threadId": "thread",
        "agent": "shop",
        "status": "completed",
        "durationMs": 7,
    }
    assert read["parts"] == [
        {"type": "reasoning", "id": "r-1", "text": "hm", "state": "done"},
        {"type": "text", "text": "Hello", "state": "done"},
        {**tool, "toolCallId": "t1", "state": "output-available", "input": {"q": 1}, "output": [1]},
        {**tool, "toolCallId": "t2", "state": "output-error", "input": {}, "errorText": "no"},
        {"type": "text", "text": "!", "state": "done"},
    ]


def test_an_approval_ends_the_stream_and_its_answer_continues_the_tool(
    shown: Callable[..., Any],
) -> None:
    asked = translate([STARTED, delta("I will "), frame("agent_asking", **APPROVAL)])
    assert chunks(asked)[-1] == {"type": "finish", "finishReason": "tool-calls"}
    part = shown(asked)["parts"][-1]
    assert (part["state"], part["toolCallId"]) == ("approval-requested", "q1")
    assert part["approval"] == {"id": "q1", "requestReason": "Allow the call of rm?"}
    rest = [
        calling("look"),
        calling("rm", "t2", {"path": "y"}),
        calling("rm", "t3", {"path": "x"}),
        called("t3", "rm", success=True, result="gone"),
        called("t1", success=True, result=None),
        called("t2", "rm", success=True, result=2),
        ENDED,
    ]
    closed = [ClosedQuestion(APPROVAL, "approved", approve=True)]
    parts = shown(asked, translate(rest, closed=closed))["parts"]
    assert [(part.get("toolCallId"), part.get("output")) for part in parts] == [
        (None, None),
        ("q1", "gone"),
        ("t1", None),
        ("t2", 2),
    ]


def test_shortened_arguments_are_those_of_the_approved_call(shown: Callable[..., Any]) -> None:
    asked = translate([STARTED, frame("agent_asking", **APPROVAL)])
    rest = [calling("rm", "t3", "cut", truncated=True), called("t3", "rm", success=True), ENDED]
    closed = [ClosedQuestion(APPROVAL, "approved", approve=True)]
    (part,) = shown(asked, translate(rest, closed=closed))["parts"]
    assert (part["toolCallId"], part["state"]) == ("q1", "output-available")
    cut = {"question_id": "q1", "kind": "approval", "tool_name": "rm", "truncated": True}
    rest = [calling("rm", "t3", {"path": "x"}), called("t3", "rm", success=True), ENDED]
    told = chunks(translate(rest, closed=[ClosedQuestion(cut, "approved", approve=True)]))
    assert "q1" in [each.get("toolCallId") for each in told]


def test_a_call_of_an_earlier_stream_is_closed_with_the_run() -> None:
    told = chunks(translate([end("cancelled")], tools=["t1"]))
    assert [each["toolCallId"] for each in told if "errorText" in each] == ["t1"]


@pytest.mark.parametrize(
    ("outcome", "approve", "response"),
    [
        ("denied", False, None),
        ("denied", True, {"approved": False, "reason": "denied"}),
        ("expired", True, {"approved": False, "reason": "expired"}),
        ("cancelled", True, {"approved": False, "reason": "cancelled"}),
    ],
)
def test_a_call_that_is_not_approved(
    shown: Callable[..., Any], outcome: str, approve: bool, response: Any
) -> None:
    asked = translate([STARTED, frame("agent_asking", **APPROVAL)])
    closed = [ClosedQuestion(APPROVAL, outcome, approve=approve)]
    rest = translate([delta("Then not."), ENDED], closed=closed)
    told = [each for each in chunks(rest) if each["type"] == "tool-approval-response"]
    tool, text = shown(asked, rest)["parts"]
    assert tool["state"] == "output-denied"
    assert text["text"] == "Then not."
    expected = {"type": "tool-approval-response", "approvalId": "q1", **(response or {})}
    assert told == ([expected] if response else [])


def test_another_client_has_approved() -> None:
    closed = [ClosedQuestion(APPROVAL, "approved", approve=False)]
    rest = chunks(translate([ENDED], closed=closed))
    assert {"type": "tool-approval-response", "approvalId": "q1", "approved": True} in rest


def test_a_question_is_a_data_part_that_its_answer_changes(shown: Callable[..., Any]) -> None:
    asked = translate([STARTED, frame("agent_asking", **QUESTION)])
    data = {
        "questionId": "q2",
        "prompt": "Which?",
        "schema": {"type": "string"},
        "expiresAt": 5.0,
    }
    part = {"type": "data-question", "id": "q2"}
    assert shown(asked)["parts"] == [{**part, "data": data}]
    assert chunks(asked)[-1] == {"type": "finish", "finishReason": "other"}
    closed = [ClosedQuestion(QUESTION, "answered", answer="red")]
    read = shown(asked, translate([delta("Red."), ENDED], closed=closed))
    assert read["parts"][0] == {**part, "data": {**data, "outcome": "answered", "answer": "red"}}
    assert read["parts"][1]["text"] == "Red."


@pytest.mark.parametrize(
    ("frames", "error"),
    [
        ([end("failed", error={"error": "It failed.", "error_id": "e1"})], "It failed."),
        ([end("failed")], "The run has failed."),
        ([end("timed_out")], "The run took too long."),
        ([end("interrupted")], "The server ended before the run."),
        ([end("cancelled", error={"error": "The budget is spent."})], "The budget is spent."),
    ],
)
def test_a_run_without_an_answer(
    shown: Callable[..., Any], frames: list[Frame], error: str
) -> None:
    body = translate([STARTED, delta("Hel"), calling(), *frames])
    read = shown(body)
    assert read["error"] == error
    assert chunks(body)[-1] == {"type": "error", "errorText": error}
    assert read["parts"][0] == {"type": "text", "text": "Hel", "state": "done"}
    assert read["parts"][1]["errorText"] == "The tool call was cut off."
    assert read["message"]["metadata"]["status"] == frames[0]["payload"]["status"]


def test_a_stop_aborts_and_leaves_no_open_tool(shown: Callable[..., Any]) -> None:
    asked = translate([STARTED, frame("agent_asking", **APPROVAL)])
    closed = [ClosedQuestion(APPROVAL, "approved", approve=True)]
    body = translate([end("cancelled")], closed=closed)
    assert chunks(body)[-1] == {"type": "abort", "reason": "The run was stopped."}
    read = shown(asked, body)
    assert (read["error"], read["parts"][0]["errorText"]) == (None, "The tool was not called.")


def test_usage_is_added_up_also_over_the_answers_of_a_message(shown: Callable[..., Any]) -> None:
    used = frame("agent_usage", model="m", input_tokens=3, output_tokens=4)
    first = shown(translate([used, used, ENDED]))["message"]["metadata"]
    assert first["usage"] == {"inputTokens": 6, "outputTokens": 8, "totalTokens": 14}
    assert first["model"] == "m"
    second = chunks(translate([used, ENDED], metadata=first))
    usage = {"inputTokens": 9, "outputTokens": 12, "totalTokens": 21}
    assert {"usage": usage, "model": "m"} in [each.get("messageMetadata") for each in second]


@pytest.mark.parametrize("usage", [None, 1, {"inputTokens": True}, {"inputTokens": -1}])
def test_other_usage_of_a_client_is_ignored(usage: Any) -> None:
    used = frame("agent_usage", model="m", input_tokens=3, output_tokens=4)
    told = chunks(translate([used, ENDED], metadata={"usage": usage}))
    assert told[2]["messageMetadata"]["usage"]["totalTokens"] == 7


def test_another_attempt_begins_a_step() -> None:
    again = frame("agent_started", agent_name="shop", attempt=2)
    kinds = [each["type"] for each in chunks(translate([STARTED, calling(), again, ENDED]))]
    assert kinds[4:9] == [
        "finish-step",
        "tool-output-error",
        "start-step",
        "message-metadata",
        "finish-step",
    ]


def test_the_result_of_a_call_that_began_before() -> None:
    body = translate([called("t9", success=True, result=1), ENDED])
    told = {"type": "tool-output-available", "toolCallId": "t9", "output": 1}
    assert told in chunks(body)


def test_a_lost_run(shown: Callable[..., Any]) -> None:
    translator = UIMessageStream("r", "thread")
    body = translator.begin() + translator.event(delta("Hel"))
    assert translator.event({"type": "heartbeat", "payload": {}}) == b""
    fault = problem(ErrorCode.SERVER_DRAINING, "The server is about to restart.")
    body += translator.lost(fault)
    assert translator.is_complete
    assert not translator.has_ended
    read = shown(body.decode())
    assert read["error"] == "The server is about to restart."
    assert read["parts"] == [{"type": "text", "text": "Hel", "state": "done"}]


def test_the_sdk_refuses_what_is_no_chunk(sdk: Callable[..., Any]) -> None:
    read = sdk('data: {"type":"text-start"}\n\n')
    assert "Type validation failed" in read["error"]
