"""The JSON codec: invalid frames, limits of size and nesting, correlation ids, and encoding."""

from itertools import combinations
from typing import Any

import attrs
import cattrs
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from netra_trio.ids import RunId
from netra_trio.protocol import codec, messages, rooms, threads, usage
from netra_trio.protocol.codec import (
    NESTING_LEVELS,
    OPEN_PAYLOAD_BYTES,
    BadFrame,
    Encoded,
    binary_frame,
    decode,
    encode,
    encode_problem,
    payload_of,
    show,
)
from netra_trio.protocol.codes import BAD_FRAME, ErrorCode
from netra_trio.protocol.inbound import INBOUND
from netra_trio.protocol.messages import (
    AgentStarted,
    Confirmation,
    MessageConfirmed,
    QuestionKind,
    QuestionOutcome,
    RunStatus,
    Verdict,
)
from netra_trio.protocol.problem import problem
from netra_trio.protocol.usage import UsageWarning


def refused(data: str | bytes, max_size: int | None = None) -> BadFrame:
    with pytest.raises(BadFrame) as caught:
        decode(data, max_size=max_size)
    assert caught.value.problem.code in BAD_FRAME
    return caught.value


def dumped(**frame: Any) -> str:
    return orjson.dumps(frame).decode()


@pytest.mark.parametrize("data", ["", b""])
def test_an_empty_frame_is_refused(data: str | bytes) -> None:
    bad = refused(data)
    assert bad.problem.code is ErrorCode.EMPTY_MESSAGE
    assert str(bad) == "The frame is empty."


@pytest.mark.parametrize(
    "data",
    [
        " ",
        "ping",
        "{",
        '{"type": "ping"',
        '{"type": "ping"} {}',
        '{"type": "ping",}',
        "{'type': 'ping'}",
        '{"type": "ping", "timestamp": NaN}',
        '{"type": "ping", "timestamp": Infinity}',
        '{"type": "\\ud800"}',
        '{"type": "\ud800"}',
        "\ufeff{}",
        b"\xff",
        b'{"type": "\xed\xa0\x80"}',
        "[" * 100_000,
        '{"a":' * 100_000,
    ],
)
def test_invalid_json_is_refused(data: str | bytes) -> None:
    bad = refused(data)
    assert bad.problem.code is ErrorCode.JSON_PARSE_ERROR
    assert str(bad).startswith("Not valid JSON: ")
    assert " at line 1, column " in str(bad)
    assert len(str(bad)) < 120


@pytest.mark.parametrize(
    ("value", "shown"),
    [([], "an array"), ("ping", '"ping"'), (5, "5"), (None, "null"), (True, "true")],
)
def test_json_that_is_not_an_object_is_refused(value: object, shown: str) -> None:
    bad = refused(orjson.dumps(value))
    assert bad.problem.code is ErrorCode.INVALID_MESSAGE_TYPE
    assert str(bad) == f"$: expected an object, got {shown}"


def test_the_error_of_a_binary_frame() -> None:
    bad = binary_frame()
    assert bad.problem.code is ErrorCode.INVALID_MESSAGE_TYPE
    assert str(bad) == "$: expected a text frame, got a binary one"


def test_a_frame_without_a_type_is_refused() -> None:
    bad = refused(dumped(payload={}, correlation_id="c-1"))
    assert bad.problem.code is ErrorCode.MISSING_TYPE_FIELD
    assert str(bad) == "$.type: expected a string, got nothing"
    assert bad.correlation_id == "c-1"


@pytest.mark.parametrize(
    ("kind", "shown"),
    [(5, "5"), (None, "null"), ("", '""'), (["ping"], "an array"), ({}, "an object")],
)
def test_an_invalid_type_is_refused(kind: object, shown: str) -> None:
    bad = refused(dumped(type=kind, correlation_id="c-1"))
    assert bad.problem.code is ErrorCode.INVALID_TYPE_FIELD
    assert str(bad) == f"$.type: expected a name, got {shown}"
    assert bad.correlation_id == "c-1"


@pytest.mark.parametrize("kind", ["PING", "ping ", "message", "pang\n", "error", "x" * 1000])
def test_an_unknown_type_is_refused(kind: str) -> None:
    bad = refused(dumped(type=kind, correlation_id="c-1"))
    assert bad.problem.code is ErrorCode.UNKNOWN_MESSAGE_TYPE
    assert str(bad) == (
        "$.type: expected one of ping, pong, auth, ack, user_message, agent_request, stop_agent, "
        "answer, get_thread_history, join_room, leave_room, room_message, get_presence, "
        "watch_thread, unwatch_thread, list_threads, rename_thread, mark_read, delete_thread, "
        f"feedback, got {show(kind)}"
    )
    assert bad.correlation_id == "c-1"


@pytest.mark.parametrize(
    ("envelope", "text"),
    [
        ({"seq": 1}, "$.seq: unknown field"),
        ({"id": 1, "a": 1}, "$.a: unknown field; $.id: unknown field"),
        ({"x" * 41: 1}, f"$.{'x' * 40}\u2026: unknown field"),
        ({"timestamp": "1"}, '$.timestamp: expected a number, got "1"'),
        ({"timestamp": True}, "$.timestamp: expected a number, got true"),
        ({"timestamp": None}, "$.timestamp: expected a number, got null"),
        ({"payload": 5, "x": 1}, "$.x: unknown field; $.payload: expected an object, got 5"),
    ],
)
def test_an_invalid_envelope_is_refused(envelope: dict[str, Any], text: str) -> None:
    bad = refused(dumped(type="ping", **envelope))
    assert bad.problem.code is ErrorCode.VALIDATION_ERROR
    assert str(bad) == text


@pytest.mark.parametrize("timestamp", [0, -1, 1640995200, 1640995200.25, 1e300])
def test_any_number_is_a_valid_timestamp(timestamp: float) -> None:
    assert decode(dumped(type="ping", timestamp=timestamp)).message == messages.Ping({})


# Size and nesting.


@pytest.mark.parametrize("sample", ["x", "\u00e9", "\u20ac", "\U0001f600"])
@pytest.mark.parametrize("as_bytes", [False, True])
def test_a_frame_at_the_size_limit_and_one_byte_beyond(sample: str, as_bytes: bool) -> None:
    text = dumped(type="user_message", payload={"content": sample * 50})
    data: str | bytes = text.encode() if as_bytes else text
    size = len(text.encode())
    assert decode(data, max_size=size).message.content == sample * 50
    bad = refused(data, max_size=size - 1)
    assert bad.problem.code is ErrorCode.MESSAGE_TOO_LARGE
    assert str(bad) == f"The message has {size} bytes; at most {size - 1} are allowed."


def test_the_size_is_checked_before_the_syntax() -> None:
    assert refused("\ud800" * 10, max_size=29).problem.code is ErrorCode.MESSAGE_TOO_LARGE
    assert refused("\ud800" * 10, max_size=30).problem.code is ErrorCode.JSON_PARSE_ERROR
    assert refused(b"\xff" * 11, max_size=10).problem.code is ErrorCode.MESSAGE_TOO_LARGE


@pytest.mark.parametrize("kind", ["ping", "pong"])
def test_an_open_payload_at_its_limit_and_one_byte_beyond(kind: str) -> None:
    fits = {"n": "x" * (OPEN_PAYLOAD_BYTES - len('{"n":""}'))}
    assert decode(dumped(type=kind, payload=fits)).message.payload == fits
    bad = refused(dumped(type=kind, payload={"n": fits["n"] + "x"}))
    assert bad.problem.code is ErrorCode.VALIDATION_ERROR
    assert str(bad) == "$.payload: expected at most 1024 bytes, got 1025"


def nested(levels: int, *, arrays: bool) -> dict[str, Any]:
    """Return an object with so many levels, counting the object itself."""
    value: Any = [] if arrays else {}
    for _ in range(levels - 2):
        value = [value, 1] if arrays else {"a": 1, "b": value}
    return {"value": value}


@pytest.mark.parametrize("arrays", [False, True])
@pytest.mark.parametrize("kind", ["ping", "agent_request"])
def test_nesting_at_its_limit_and_one_level_beyond(kind: str, arrays: bool) -> None:
    def frame(levels: int) -> str:
        free = nested(levels, arrays=arrays)
        return dumped(
            type=kind, payload=free if kind == "ping" else {"agent": "demo", "input": free}
        )

    assert decode(frame(NESTING_LEVELS)).correlation_id is None
    bad = refused(frame(NESTING_LEVELS + 1))
    assert bad.problem.code is ErrorCode.VALIDATION_ERROR
    if kind == "ping":
        assert str(bad) == "$.payload: expected at most 64 levels of nesting"
    else:
        expected = "expected at most 64 levels of nesting, got an object"
        assert str(bad) == f"$.payload.input: {expected}"


def test_a_deeply_nested_invalid_field_is_reported_without_its_value() -> None:
    deep = "[" * 1000 + "]" * 1000
    assert str(refused('{"type":"ping","a":' + deep + "}")) == "$.a: unknown field"
    bad = refused('{"type":"ack","payload":{"seq":' + deep + "}}")
    assert str(bad) == "$.payload.seq: expected an integer, got an array"


# Correlation ids.


def test_the_correlation_id_of_the_envelope_has_precedence() -> None:
    frame = decode(
        dumped(
            type="user_message",
            payload={"content": "x", "correlation_id": "inner"},
            correlation_id="outer",
        )
    )
    assert frame.correlation_id == "outer"
    assert frame.message.correlation_id == "inner"


def test_the_correlation_id_of_the_payload_is_used_if_the_envelope_has_none() -> None:
    payload = {"content": "x", "correlation_id": "inner"}
    assert decode(dumped(type="user_message", payload=payload)).correlation_id == "inner"
    assert decode(dumped(type="ping", payload=payload)).correlation_id is None
    assert decode(dumped(type="user_message", payload={"content": "x"})).correlation_id is None


@pytest.mark.parametrize(
    ("envelope", "inner", "found"),
    [
        ("outer", "inner", "outer"),
        ("outer", 5, "outer"),
        (
            None,
            "inner",
            None,
        ),  # null is not a valid correlation id, and the envelope has precedence
        (5, "inner", None),
        ("", "inner", None),
        ("c" * 129, "inner", None),
        ("c" * 128, "inner", "c" * 128),
        (..., "inner", "inner"),
        (..., 5, None),
        (..., "", None),
        (..., "c" * 129, None),
    ],
)
def test_an_error_has_the_correlation_id_of_its_frame(
    envelope: object, inner: object, found: str | None
) -> None:
    payload = {"content": 5, "correlation_id": inner}
    frame: dict[str, Any] = {"type": "user_message", "payload": payload}
    if envelope is not ...:
        frame["correlation_id"] = envelope
    assert refused(orjson.dumps(frame)).correlation_id == found


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "null"),
        (5, "5"),
        ("", '""'),
        ("c" * 129, f'"{"c" * 40}\u2026"'),
        (["c"], "an array"),
    ],
)
def test_an_invalid_correlation_id_is_refused(value: object, shown: str) -> None:
    text = str(refused(orjson.dumps({"type": "ping", "correlation_id": value})))
    assert text == f"$.correlation_id: expected a string of 1 to 128 characters, got {shown}"


def test_the_longest_correlation_id_is_accepted() -> None:
    assert decode(dumped(type="ping", correlation_id="c" * 128)).correlation_id == "c" * 128


def test_only_a_user_message_may_have_a_correlation_id_in_its_payload() -> None:
    payload = {"agent": "demo", "input": {}, "correlation_id": "inner"}
    bad = refused(dumped(type="agent_request", payload=payload))
    assert str(bad) == "$.payload.correlation_id: unknown field"
    assert bad.correlation_id is None
    assert refused(dumped(type="user_message", payload=[])).correlation_id is None


# Any input.

NUMBERS = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=50),
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=10), inner, max_size=5)
    ),
    max_leaves=20,
)
NAMES = sorted(
    {attribute.name for kind in INBOUND.values() for attribute in attrs.fields(kind)}
    | {"type", "payload", "timestamp", "seq"}
)
PAYLOADS = st.dictionaries(
    st.sampled_from(NAMES) | st.text(max_size=5),
    JSON | st.sampled_from(["main", "reject", "x" * 200, 1, 100, 0]),
    max_size=8,
)
NEARLY_FRAMES = st.fixed_dictionaries(
    {"type": st.sampled_from([*INBOUND, "error", ""])},
    optional={
        "payload": PAYLOADS | JSON,
        "timestamp": NUMBERS | JSON,
        "correlation_id": st.text(max_size=140) | JSON,
        "extra": JSON,
    },
)


def check(data: str | bytes, max_size: int | None = None) -> None:
    bad: BadFrame | None = None
    try:
        frame = decode(data, max_size=max_size)
    except BadFrame as caught:
        bad, found = caught, caught.correlation_id
    else:
        found = frame.correlation_id
        assert type(frame.message) in INBOUND.values()
    assert found is None or 1 <= len(found) <= 128
    if bad is not None:
        assert bad.problem.code in BAD_FRAME
        assert bad.problem.recoverable
        # The reply to any frame is short.
        assert len(encode_problem(bad.problem, 0.0, found)) < 8192


@given(st.text(st.characters()), st.none() | st.integers(0, 20))
@example("\ud800", 10)
def test_any_text_is_decoded_or_refused(text: str, max_size: int | None) -> None:
    check(text, max_size)


@given(st.binary(), st.none() | st.integers(0, 20))
def test_any_bytes_are_decoded_or_refused(data: bytes, max_size: int | None) -> None:
    check(data, max_size)


@given(JSON | NEARLY_FRAMES)
def test_any_json_is_decoded_or_refused(value: Any) -> None:
    data = orjson.dumps(value)
    check(data)
    check(data.decode())


@given(NEARLY_FRAMES, st.integers(0, 2000), st.binary(max_size=3))
def test_any_damaged_frame_is_decoded_or_refused(value: Any, at: int, damage: bytes) -> None:
    data = orjson.dumps(value)
    check(data[:at] + damage + data[at + len(damage) :])


@given(st.fixed_dictionaries({}, optional={"a": JSON, "b": JSON}))
def test_an_open_payload_is_encoded_as_it_was_decoded(payload: dict[str, Any]) -> None:
    data = orjson.dumps({"type": "ping", "payload": payload})
    if len(orjson.dumps(payload)) <= OPEN_PAYLOAD_BYTES:
        message = decode(data).message
        assert orjson.loads(encode(message, 0.0))["payload"] == orjson.loads(data)["payload"]


# Encoding.

RUN = {"run_id": "run_1"}
ASKED = {**RUN, "question_id": "q_1"}
ROOM = {"room": "news"}
CALL = {**RUN, "tool_call_id": "call_1", "tool_name": "calculate"}
CONFIRMED = {"message_id": "m", "run_id": "r", "thread_id": "t", "status": Confirmation.QUEUED}
ESTABLISHED = {
    "connection_id": "conn_1",
    "session_id": "sess_1",
    "user_id": "alice",
    "server_time": 1.5,
    "heartbeat_interval": 30_000,
    "features": {"resume": True},
    "limits": {"max_message_size": 10_240},
    "resume": messages.ResumeState(Verdict.NEW),
    "user_room": "user:abc",
    "agents": (),
}
# Each message: its required fields, and its optional fields, each with a value.
OUTBOUND: dict[str, tuple[type[Any], dict[str, Any], dict[str, Any]]] = {
    "connection_established": (messages.ConnectionEstablished, ESTABLISHED, {}),
    "pong": (messages.Pong, {"payload": {"n": 1}}, {}),
    "heartbeat": (messages.Heartbeat, {"server_time": 1.5}, {}),
    "auth_ok": (messages.AuthOk, {"expires_at": 1.5}, {}),
    "auth_expiring": (messages.AuthExpiring, {"expires_at": 1.5}, {}),
    "usage_warning": (
        UsageWarning,
        {"agent_name": "chat", "unit": "tokens", "limit": 1000, "used": 800},
        {},
    ),
    "server_draining": (
        messages.ServerDraining,
        {"reason": "restart", "reconnect_after_ms": 1000},
        {},
    ),
    "thread_history": (
        messages.ThreadHistory,
        {"thread_id": "t", "messages": (), "has_more": False},
        {},
    ),
    "message_confirmed": (
        messages.MessageConfirmed,
        CONFIRMED,
        {"position": 1, "run_status": RunStatus.QUEUED},
    ),
    "agent_started": (
        messages.AgentStarted,
        {**RUN, "agent_name": "echo", "thread_id": "t", "attempt": 1},
        {},
    ),
    "agent_thinking": (
        messages.AgentThinking,
        {**RUN, "thought": "Hm."},
        {"step_number": 1, "total_steps": 2},
    ),
    "partial_result": (messages.PartialResult, {**RUN, "content": "x"}, {}),
    "tool_executing": (
        messages.ToolExecuting,
        {**CALL, "arguments": {"x": 1}},
        {"truncated": True},
    ),
    "tool_completed": (
        messages.ToolCompleted,
        {**CALL, "success": False, "duration_ms": 5},
        {"result": 42, "error": "no", "truncated": True},
    ),
    "agent_asking": (
        messages.AgentAsking,
        {**ASKED, "kind": QuestionKind.APPROVAL, "prompt": "Well?", "expires_at": 1.5},
        {"schema": {"type": "string"}, "tool_name": "delete", "arguments": {"x": 1}},
    ),
    "agent_answered": (
        messages.AgentAnswered,
        {**ASKED, "outcome": QuestionOutcome.ANSWERED},
        {"answer": 42, "user_id": "alice"},
    ),
    "agent_usage": (
        messages.AgentUsage,
        {**RUN, "model": "qwen3", "input_tokens": 1, "output_tokens": 2},
        {"cost": 0.5},
    ),
    "room_joined": (
        rooms.RoomJoined,
        {**ROOM, "epoch": "e", "offset": 1, "verdict": messages.Verdict.NEW, "replayed": 0},
        {"runs": ()},
    ),
    "room_left": (rooms.RoomLeft, ROOM, {}),
    "room_confirmed": (
        rooms.RoomConfirmed,
        {**ROOM, "offset": 1, "status": rooms.RoomConfirmation.ACCEPTED},
        {},
    ),
    "presence": (rooms.Presence, {**ROOM, "members": ()}, {}),
    "presence_changed": (
        rooms.PresenceChanged,
        {**ROOM, "user_id": "bob", "change": rooms.PresenceChange.LEFT},
        {},
    ),
    "thread_list": (threads.ThreadList, {"threads": (), "has_more": False}, {}),
    "thread_changed": (
        threads.ThreadChanged,
        {"thread_id": "t", "change": threads.ThreadChange.UPDATED},
        {"thread": threads.ListedThread("t", "r", "T", 1.0, 2.0, 0, False, 0)},  # type: ignore[arg-type]
    ),
    "agent_completed": (
        messages.AgentCompleted,
        {**RUN, "status": RunStatus.COMPLETED, "duration_ms": 5},
        {
            "result": 42,
            "error": {"code": "AGENT_ERROR"},
            "truncated": True,
            "attachments": ("file_1",),
            "files": (messages.ListedFile("file_1", "a.png", "image/png", 12),),  # type: ignore[arg-type]
        },
    ),
    "binary_result": (
        messages.BinaryResult,
        {**RUN, "media_type": "audio/mpeg", "file_id": "file_1", "bytes": 12},
        {},
    ),
}


def test_every_outbound_class_is_in_the_table() -> None:
    outbound = {
        value
        for module in (messages, rooms, threads, usage)
        for value in vars(module).values()
        if isinstance(value, type) and attrs.has(value) and "TYPE" in vars(value)
    } - (set(INBOUND.values()) - {messages.Pong})
    # `from` of a `room_gap` is a word of Python, see below.
    assert {message_class for message_class, *_ in OUTBOUND.values()} == outbound - {rooms.RoomGap}


def test_a_gap_of_a_room_has_its_documented_fields() -> None:
    frame = orjson.loads(encode(rooms.RoomGap("news", 3, 5), 1640995200.25))
    assert frame["payload"] == {"room": "news", "from": 3, "to": 5}


@pytest.mark.parametrize("kind", OUTBOUND)
def test_an_outbound_message_has_its_documented_fields(kind: str) -> None:
    message_class, required, optional = OUTBOUND[kind]
    for given_fields in (required, {**required, **optional}):
        frame = orjson.loads(encode(message_class(**given_fields), 1640995200.25, "c-1", seq=7))
        assert list(frame) == ["type", "payload", "timestamp", "correlation_id", "seq"]
        assert frame["type"] == kind
        assert frame["timestamp"] == 1640995200.25
        if kind == "pong":
            assert frame["payload"] == {"n": 1}
            continue
        assert set(frame["payload"]) == set(given_fields)
        for name, value in given_fields.items():
            if name not in {"resume", "messages", "thread", "files"}:
                shown = list(value) if isinstance(value, tuple) else value
                assert frame["payload"][name] == shown


def test_the_resume_state_has_its_documented_fields() -> None:
    assert payload_of(messages.ConnectionEstablished(**ESTABLISHED))["resume"] == {  # type: ignore[arg-type]
        "verdict": "new",
        "replayed": 0,
        "last_seq": 0,
        "runs": [],
    }


def test_a_successful_tool_always_has_a_result() -> None:
    message_class, required, _ = OUTBOUND["tool_completed"]
    done = payload_of(message_class(**{**required, "success": True}))
    assert done["result"] is None
    assert "error" not in done
    assert "result" not in payload_of(message_class(**required))


def test_an_envelope_has_only_the_given_fields() -> None:
    heartbeat = messages.Heartbeat(1.5)
    assert encode(heartbeat, 2.5) == (
        b'{"type":"heartbeat","payload":{"server_time":1.5},"timestamp":2.5}'
    )
    assert "seq_from" not in orjson.loads(encode(heartbeat, 2.5, seq_from=3))
    assert orjson.loads(encode(heartbeat, 2.5, "c", seq=7, seq_from=3)) == {
        "type": "heartbeat",
        "payload": {"server_time": 1.5},
        "timestamp": 2.5,
        "correlation_id": "c",
        "seq": 7,
        "seq_from": 3,
    }


def test_an_encoded_payload_is_sent_unchanged() -> None:
    copy = Encoded("agent_completed", RunId("r"), b'{"run_id":"r",  "status":"failed"}')
    assert encode(copy, 1.5, seq=1) == (
        b'{"type":"agent_completed","payload":{"run_id":"r",  "status":"failed"},'
        b'"timestamp":1.5,"seq":1}'
    )


def test_an_error_has_its_timestamp_in_the_envelope_and_the_payload() -> None:
    fault = problem(ErrorCode.QUEUE_FULL, "Full.", retry_after_ms=1000)
    assert orjson.loads(encode_problem(fault, 1640995200.25, "c-1")) == {
        "type": "error",
        "payload": fault.body(1640995200.25),
        "timestamp": 1640995200.25,
        "correlation_id": "c-1",
    }


@given(
    text=st.text(),
    value=JSON,
    timestamp=st.floats(0, 1e12),
    correlation_id=st.none() | st.text(min_size=1),
    seq=st.none() | st.integers(1, 2**53),
)
def test_an_encoded_message_has_the_same_values(
    text: str, value: Any, timestamp: float, correlation_id: str | None, seq: int | None
) -> None:
    run_id: Any = "run_1"
    call_id: Any = "call_1"
    value = orjson.loads(orjson.dumps(value))
    for message, payload in (
        (messages.PartialResult(run_id, text), {**RUN, "content": text}),
        (messages.AgentThinking(run_id, text), {**RUN, "thought": text}),
        (
            messages.ToolExecuting(run_id, call_id, "calculate", value),
            {**CALL, "arguments": value},
        ),
        (
            messages.ToolCompleted(
                run_id, call_id, "calculate", success=True, duration_ms=1, result=value
            ),
            {**CALL, "success": True, "duration_ms": 1, "result": value},
        ),
    ):
        frame = orjson.loads(encode(message, timestamp, correlation_id, seq=seq))
        assert frame.pop("payload") == payload
        assert frame == {
            "type": message.TYPE,
            "timestamp": timestamp,
            **({} if correlation_id is None else {"correlation_id": correlation_id}),
            **({} if seq is None else {"seq": seq}),
        }


# The fast path for frequent frames.


def decode_strictly(frame: str) -> object:
    """Return the message of a frame, or its error, from the strict path."""
    try:
        return codec._structure_strictly(orjson.loads(frame))
    except BadFrame as bad:
        return bad.problem.error, bad.correlation_id


def decode_fast(frame: str) -> object:
    """Return the message of a frame, or its error, from `decode`, which tries the fast path."""
    try:
        return decode(frame)
    except BadFrame as bad:
        return bad.problem.error, bad.correlation_id


FIELDS = st.sampled_from(
    ["content", "thread_id", "correlation_id", "agent", "deadline_ms", "on_busy", "seq", "run_id"]
)
VALUES: st.SearchStrategy[object] = st.one_of(
    st.sampled_from(["", " ", "hello", "t-1", "not a thread!", "enqueue", "x" * 129]),
    st.sampled_from([-1, 0, 1, 1.0, 1.5, True, False, None, [], {}]),
)


@given(
    kind=st.sampled_from(["user_message", "ack", "stop_agent", "ping", "nothing", "", 5, None]),
    payload=st.one_of(VALUES, st.dictionaries(FIELDS, VALUES, max_size=5)),
    envelope=st.dictionaries(
        st.sampled_from(["timestamp", "correlation_id", "more"]), VALUES, max_size=3
    ),
)
def test_the_fast_path_agrees_with_the_strict_path(
    kind: object, payload: object, envelope: dict[str, object]
) -> None:
    frame = orjson.dumps({"type": kind, "payload": payload, **envelope}).decode()
    assert decode_fast(frame) == decode_strictly(frame)


@pytest.mark.parametrize("kind", [MessageConfirmed, AgentStarted])
def test_the_fast_encoders_agree_with_cattrs(kind: type[Any]) -> None:
    by_cattrs = codec._without_none(kind, cattrs.Converter())
    required = [f for f in attrs.fields(kind) if f.default is attrs.NOTHING]
    optional = [f.name for f in attrs.fields(kind) if f.default is not attrs.NOTHING]
    values = {f.name: 1 if f.name == "attempt" else f"{f.name}_1" for f in required}
    if kind is MessageConfirmed:
        values["status"] = Confirmation.QUEUED
    for count in range(len(optional) + 1):
        for names in combinations(optional, count):
            event = kind(**values, **{name: f"{name}_1" for name in names})
            assert codec.payload_of(event) == by_cattrs(event)


# Numbers out of range.


@pytest.mark.parametrize("literal", [str(-(2**63)), str(2**64 - 1), "1e20", "0.1", "-1.5e300"])
@pytest.mark.parametrize("frame", ['{{"type":"ping","payload":{{"n":{}}}}}'])
def test_the_largest_and_smallest_numbers_are_accepted(frame: str, literal: str) -> None:
    assert decode(frame.format(literal)).message == messages.Ping({"n": orjson.loads(literal)})


INTEGER = "an integer from -2^63 to 2^64-1"


@pytest.mark.parametrize(
    ("frame", "error"),
    [
        (
            '{"type":"ping","payload":{"n":18446744073709551616}}',
            f"$.payload.n: expected {INTEGER}",
        ),
        (
            '{"type":"ping","payload":{"a":[0,{"n":-9223372036854775809}]}}',
            f"$.payload.a[1].n: expected {INTEGER}",
        ),
        (
            '{"type":"agent_request","payload":{"agent":"a","input":{"wei":100000000000000000001}}}',
            f"$.payload.input.wei: expected {INTEGER}, got 100000000000000000001",
        ),
        (
            '{"type":"ack","payload":{"seq":1' + "0" * 5000 + "}}",
            f"$.payload.seq: expected {INTEGER}",
        ),
        ('{"type":"ping","timestamp":1' + "0" * 30 + "}", f"$.timestamp: expected {INTEGER}"),
        ('{"type":"ping","payload":{"n":1e999}}', "$.payload.n: expected a number that is finite"),
        ('{"type":"pong","payload":{"n":-1e999}}', "$.payload.n: expected a number that is finite"),
    ],
)
def test_a_number_out_of_range_is_refused_with_its_path(frame: str, error: str) -> None:
    for data in (frame, frame.encode()):
        bad = refused(data)
        assert bad.problem.code is ErrorCode.VALIDATION_ERROR
        assert bad.problem.error.startswith(error)


def test_long_digits_in_a_text_are_not_a_number() -> None:
    digits = "1" * 100
    frame = dumped(type="user_message", payload={"content": digits})
    assert decode(frame).message.content == digits
