"""The translator of the `ag-ui` door: events, their ids, and answers that are continued."""

from typing import Any

import pytest
from support.ag_ui import Event, check, parsed, run_input, summary, text_of

from netra_trio.endpoints.doors.ag_ui_events import AgUiTranslator, ClosedQuestion, Place
from netra_trio.endpoints.doors.ag_ui_input import read_input
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.problem import problem

RUN = "run_1"
Frames = list[dict[str, Any]]


def frame(kind: str, /, **payload: Any) -> dict[str, Any]:
    return {"type": kind, "payload": {"run_id": RUN, **payload}}


def text(content: str) -> dict[str, Any]:
    return frame("partial_result", content=content)


def tool(call: str, name: str = "add", **arguments: Any) -> dict[str, Any]:
    return frame("tool_executing", tool_call_id=call, tool_name=name, arguments=arguments)


def result(call: str, value: Any) -> dict[str, Any]:
    return frame("tool_completed", tool_call_id=call, success=True, result=value, duration_ms=1)


def asking(question: str = "q_1", kind: str = "question", **fields: Any) -> dict[str, Any]:
    fields = {"prompt": "Which?", "expires_at": 1_800_000_000.5, **fields}
    return frame("agent_asking", question_id=question, kind=kind, **fields)


def closed(question: str = "q_1") -> dict[str, Any]:
    return frame("question_closed", question_id=question)


def end(status: str = "completed", **fields: Any) -> dict[str, Any]:
    return frame("agent_completed", status=status, duration_ms=5, **fields)


STARTED = frame("agent_started", agent_name="demo", attempt=1)

LIVE = [
    STARTED,
    text("Hel"),
    text("lo "),
    frame("agent_thinking", thought="two numbers", step_number=1),
    text("I "),
    text("add."),
    tool("c1", a=1),
    tool("c2", b=2),
    text("Wait"),
    text("ing."),
    result("c2", {"sum": 2}),
    text("…"),
    result("c1", "one"),
    frame("agent_usage", model="m", input_tokens=3, output_tokens=4),
    frame("agent_usage", model="m", input_tokens=1, output_tokens=1, cost=0.5),
    text("Done"),
    end(result={"sum": 3}),
]
REPLAYED = [
    STARTED,
    text("Hello "),
    frame("agent_thinking", thought="two numbers"),
    text("I add."),
    tool("c1", a=1),
    result("c1", "one"),
    tool("c2", b=2),
    result("c2", {"sum": 2}),
    text("Waiting.…Done"),
    end(result={"sum": 3}),
]
HALF = [*REPLAYED[:4], tool("c1", a=1), tool("c2", b=2), text("Wait"), *LIVE[9:]]
"""The same run: as it happens, as the history has it, and as it is listed while it runs."""


def translate(frames: Frames, **options: Any) -> list[tuple[str, Event]]:
    translator = AgUiTranslator(RUN, thread_id="t-1", client_run_id="r-1", **options)
    data = translator.begin()
    for each in frames:
        data += translator.event(each)
        if translator.is_complete:
            break
    return parsed(data)


def events(frames: Frames, **options: Any) -> list[Event]:
    return [event for _, event in translate(frames, **options)]


def test_a_run() -> None:
    ids = {"threadId": "t-1", "runId": "r-1"}
    found = events(LIVE)
    check(found)
    assert found[0] == {"type": "RUN_STARTED", **ids, "protocolVersion": "1.0"}
    assert [event["type"] for event in found[1:]] == [
        *("TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_END"),
        *("REASONING_START", "REASONING_MESSAGE_START", "REASONING_MESSAGE_CONTENT"),
        *("REASONING_MESSAGE_END", "REASONING_END"),
        *("TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_END"),
        *("TOOL_CALL_START", "TOOL_CALL_ARGS", "TOOL_CALL_END") * 2,
        *("TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_CONTENT"),
        *("TOOL_CALL_RESULT", "TEXT_MESSAGE_CONTENT", "TOOL_CALL_RESULT", "CUSTOM", "CUSTOM"),
        *("TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_END", "RUN_FINISHED"),
    ]
    results = [event for event in found if event["type"] == "TOOL_CALL_RESULT"]
    assert [(each["toolCallId"], each["content"]) for each in results] == [
        ("c2", '{"sum":2}'),
        ("c1", "one"),
    ]
    custom = [event for event in found if event["type"] == "CUSTOM"]
    value = {"model": "m", "input_tokens": 1, "output_tokens": 1, "cost": 0.5}
    assert custom[1] == {"type": "CUSTOM", "name": "usage", "value": value}
    usage = {"model": "m", "inputTokens": 4, "outputTokens": 5, "totalTokens": 9}
    end_fields = {"outcome": {"type": "success"}, "usage": [usage], "result": {"sum": 3}}
    assert found[-1] == {"type": "RUN_FINISHED", **ids, **end_fields}


@pytest.mark.parametrize("frames", [REPLAYED, HALF])
def test_the_events_of_a_run_do_not_depend_on_when_it_is_read(frames: Frames) -> None:
    check(events(frames))
    assert summary(events(frames)) == summary(events(LIVE))


@pytest.mark.parametrize("rest", [LIVE, REPLAYED, HALF])
@pytest.mark.parametrize("first", [LIVE, REPLAYED, HALF])
def test_an_answer_continues_behind_each_of_its_events(first: Frames, rest: Frames) -> None:
    full = translate(first)
    for count, (event_id, _) in enumerate(full, 1):
        place = Place.parse(event_id)
        assert place is not None
        assert str(place) == event_id
        more = translate(rest, place=place)
        joined = [event for _, event in (*full[:count], *more)]
        check(joined)
        assert summary(joined) == summary(events(LIVE))
        for again, (next_id, _) in list(enumerate(more, 1))[::5]:  # it is cut once more
            last = events(rest, place=Place.parse(next_id))
            assert summary([*joined[: count + again], *last]) == summary(events(LIVE))


@pytest.mark.parametrize("rest", [LIVE, REPLAYED, HALF])
def test_events_that_the_client_has_are_not_sent_again(rest: Frames) -> None:
    full = events(LIVE)
    for count in range(1, len(full)):
        had = _messages(full[:count])
        held = read_input(run_input(more=had)).held
        more = events(rest, held=held)
        check(more)
        assert _messages([*full[:count], *more]) == _messages(full)


def _messages(found: list[Event]) -> list[dict[str, Any]]:
    """Return the messages that a client makes of events."""
    messages: dict[str, dict[str, Any]] = {}
    for event in found:
        kind, named = event["type"], str(event.get("messageId", event.get("toolCallId")))
        if kind in {"TEXT_MESSAGE_CONTENT", "REASONING_MESSAGE_CONTENT"}:
            messages[named]["content"] += event["delta"]
        elif kind in {"TEXT_MESSAGE_START", "REASONING_MESSAGE_START"}:
            role = "assistant" if kind.startswith("TEXT") else "reasoning"
            messages.setdefault(named, {"id": named, "role": role, "content": ""})
        elif kind == "TOOL_CALL_START":
            call = {"id": named, "type": "function", "function": {"name": "add", "arguments": ""}}
            messages.setdefault(named, {"id": named, "role": "assistant", "toolCalls": [call]})
        elif kind == "TOOL_CALL_ARGS":
            messages[named]["toolCalls"][0]["function"]["arguments"] += event["delta"]
        elif kind == "TOOL_CALL_RESULT":
            assert named not in messages
            fields = {"toolCallId": event["toolCallId"], "content": event["content"]}
            messages[named] = {"id": named, "role": "tool", **fields}
    return sorted(messages.values(), key=lambda message: str(message["id"]))


@pytest.mark.parametrize(
    ("status", "error", "code"),
    [
        ("failed", {"code": "AGENT_ERROR", "error": "It failed."}, "AGENT_ERROR"),
        ("failed", None, "AGENT_ERROR"),
        ("timed_out", None, "AGENT_TIMEOUT"),
        ("interrupted", None, "INTERRUPTED"),
        ("cancelled", None, "CANCELLED"),
        ("cancelled", {"code": "BUDGET_EXCEEDED", "error": "No."}, "BUDGET_EXCEEDED"),
    ],
)
def test_a_run_that_does_not_complete(status: str, error: Any, code: str) -> None:
    found = events([STARTED, text("a"), end(status, **({} if error is None else {"error": error}))])
    check(found)
    assert found[-1]["type"] == "RUN_ERROR"
    assert found[-1]["code"] == code
    assert found[-1]["message"] == (error or found[-1])[("error" if error else "message")]
    assert found[-2]["type"] == "TEXT_MESSAGE_END"


def test_a_failed_tool_has_its_error_as_result() -> None:
    failed = frame("tool_completed", tool_call_id="c1", success=False, error="no", duration_ms=1)
    found = events([STARTED, tool("c1"), failed, result("unknown", 1), end()])
    assert [event.get("content") for event in found if "RESULT" in event["type"]] == ["no"]


def test_a_lost_run_can_be_continued() -> None:
    translator = AgUiTranslator(RUN, thread_id="t-1", client_run_id="r-1")
    data = translator.begin() + translator.event(text("Hello"))
    fault = problem(ErrorCode.SERVER_DRAINING, "The server is about to restart.")
    found = parsed(data + translator.lost(fault))
    check([event for _, event in found])
    assert found[-1][1]["code"] == "SERVER_DRAINING"
    place = Place.parse(found[-1][0])
    more = events([STARTED, text("Hello you"), end()], place=place)
    assert text_of(more) == " you"


def test_frames_that_ag_ui_has_nothing_for() -> None:
    translator = AgUiTranslator(RUN, thread_id="t-1", client_run_id="r-1")
    for each in (STARTED, {"type": "heartbeat", "payload": {}}, {"type": "server_draining"}):
        assert translator.event(each) == b""
    assert not translator.has_ended


def test_a_question_ends_the_answer() -> None:
    found = events([STARTED, text("a"), asking(schema={"type": "string"}), text("b")])
    check(found)
    interrupt = {
        "id": "q_1",
        "reason": "input_required",
        "message": "Which?",
        "responseSchema": {"type": "string"},
        "expiresAt": "2027-01-15T08:00:00.500Z",
    }
    assert found[-1]["outcome"] == {"type": "interrupt", "interrupts": [interrupt]}
    assert text_of(found) == "a"


def test_an_approval_shows_its_tool_call() -> None:
    question = asking(kind="approval", tool_name="delete", arguments={"name": "x"})
    found = events([STARTED, question])
    check(found)
    named = {"toolCallId": "q_1"}
    assert found[1:4] == [
        {"type": "TOOL_CALL_START", **named, "toolCallName": "delete"},
        {"type": "TOOL_CALL_ARGS", **named, "delta": '{"name":"x"}'},
        {"type": "TOOL_CALL_END", **named},
    ]
    [interrupt] = found[-1]["outcome"]["interrupts"]
    assert interrupt["reason"] == "tool_call"
    assert interrupt["toolCallId"] == "q_1"
    assert interrupt["responseSchema"]["required"] == ["approved"]


def test_a_question_of_which_a_listing_has_only_the_id() -> None:
    short = frame("agent_asking", question_id="q_1", kind="approval", expires_at=1.8e9)
    [interrupt] = events([STARTED, short])[-1]["outcome"]["interrupts"]
    assert interrupt["reason"] == "confirmation"
    assert "message" not in interrupt


APPROVED = {"q_1": ClosedQuestion("delete", "approved")}
RESUMED = [
    STARTED,
    text("before"),
    tool("c0"),
    closed(),
    tool("c1", "delete", path="x"),
    result("c1", "gone"),
    text("after"),
    result("c0", "late"),
    end(),
]


def test_an_answered_approval_goes_on_with_its_call() -> None:
    full = translate(RESUMED, answered=APPROVED)
    found = [event for _, event in full]
    check(found)
    assert text_of(found) == "after"
    results = [event for event in found if event["type"] == "TOOL_CALL_RESULT"]
    assert [(each["toolCallId"], each["content"]) for each in results] == [
        ("q_1", "gone"),
        ("c0", "late"),
    ]
    assert not [event for event in found if event["type"] == "TOOL_CALL_START"]
    for count, (event_id, _) in enumerate(full, 1):
        rest = events(RESUMED, answered=APPROVED, place=Place.parse(event_id))
        assert summary([*found[:count], *rest]) == summary(found)


@pytest.mark.parametrize("outcome", ["denied", "expired", "cancelled"])
def test_a_denied_approval_has_a_result(outcome: str) -> None:
    answered = {"q_1": ClosedQuestion("delete", outcome)}
    frames = [STARTED, text("a"), closed(), text("b"), end()]
    full = translate(frames, answered=answered)
    found = [event for _, event in full]
    check(found)
    assert [event["toolCallId"] for event in found if "RESULT" in event["type"]] == ["q_1"]
    for count, (event_id, _) in enumerate(full, 1):
        rest = events(frames, answered=answered, place=Place.parse(event_id))
        assert summary([*found[:count], *rest]) == summary(found)


def test_a_result_that_came_while_the_question_was_open() -> None:
    frames = [STARTED, tool("c0"), result("c0", 0), tool("c9"), result("c9", 9), closed(), end()]
    call = {"id": "c0", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    other = {"id": "c9", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    calls = {"id": "c0", "role": "assistant", "toolCalls": [call, other]}
    had = {"id": "x", "role": "tool", "toolCallId": "c9", "content": "9"}
    held = read_input(run_input(more=[calls, had])).held
    answered = {"q_1": ClosedQuestion(None, "answered")}
    with_calls = events(frames, answered=answered, held=held)
    assert [each["toolCallId"] for each in with_calls if "RESULT" in each["type"]] == ["c0"]
    without = events(frames, answered=answered)
    assert [each["type"] for each in without] == ["RUN_STARTED", "RUN_FINISHED"]


def test_the_next_question_after_an_answered_one() -> None:
    answered = {"q_1": ClosedQuestion(None, "answered")}
    found = events([STARTED, closed(), text("a"), asking("q_2")], answered=answered)
    check(found)
    assert found[-1]["outcome"]["interrupts"][0]["id"] == "q_2"
    earlier = events([STARTED, asking("q_0"), closed()], answered=answered)
    assert earlier[-1]["outcome"]["interrupts"][0]["id"] == "q_0"
    open_still = events([STARTED, asking("q_1"), text("a"), end()], answered=answered)
    assert text_of(open_still) == "a"
    lost = events([STARTED, text("a"), end()], answered=answered)
    assert [each["type"] for each in lost] == ["RUN_STARTED", "RUN_FINISHED"]


def test_a_closed_question_of_a_run_that_is_read_again() -> None:
    frames = [STARTED, text("a"), closed(), text("b"), end()]
    found = events(frames)
    check(found)
    assert text_of(found) == "ab"
    interrupted = translate([STARTED, text("a"), asking()])
    for count, (event_id, _) in enumerate(interrupted[:-1], 1):
        rest = events(frames, place=Place.parse(event_id))
        joined = [event for _, event in interrupted[:count]] + rest
        check(joined)
        assert summary(joined) == summary(found)
    assert events(frames, place=Place.parse(interrupted[-1][0])) == []


def test_a_question_that_was_sent_is_not_sent_again() -> None:
    place = Place(RUN, characters=1, steps=1)
    found = events([STARTED, text("a"), asking(), text("b"), end()], place=place)
    assert text_of(found) == "b"


def test_steps_that_are_not_known_any_more() -> None:
    place = Place(RUN, characters=9, steps=4, events=2, is_open=False)
    found = events([STARTED, text("a"), end()], place=place)
    assert [event["type"] for event in found] == ["RUN_FINISHED"]


@pytest.mark.parametrize(
    "wrong", ["", "7", "run_1/1/2/3/2/", "run_1/1/2/3/0/x", "run_1/-1/2/3/0/", "a/" * 4]
)
def test_an_id_of_another_stream(wrong: str) -> None:
    assert Place.parse(wrong) is None
