"""Every message of a client: each field, each validation, and the path in each error."""

from typing import Any

import attrs
import orjson
import pytest

from netra_trio.protocol.codec import BadFrame, decode
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.inbound import INBOUND
from netra_trio.protocol.messages import (
    Ack,
    AgentRequest,
    Auth,
    GetThreadHistory,
    OnBusy,
    Ping,
    Pong,
    StopAgent,
    UserMessage,
)
from netra_trio.protocol.rooms import JoinRoom, RoomMessage, WatchThread
from netra_trio.protocol.threads import Feedback, ListThreads, Rating

Payload = dict[str, Any]

SMALLEST: dict[str, Payload] = {  # only the required fields
    "ping": {},
    "pong": {},
    "auth": {"token": "a.b.c"},
    "ack": {"seq": 1},
    "user_message": {"content": "Hello"},
    "agent_request": {"agent": "demo", "input": {}},
    "stop_agent": {"run_id": "run_1"},
    "answer": {"question_id": "q_1"},
    "get_thread_history": {"thread_id": "main"},
    "join_room": {"room": "news"},
    "leave_room": {"room": "news"},
    "room_message": {"room": "news", "content": "Hello"},
    "get_presence": {"room": "news"},
    "watch_thread": {"thread_id": "main"},
    "unwatch_thread": {"thread_id": "main"},
    "list_threads": {},
    "rename_thread": {"thread_id": "main", "title": "A title"},
    "mark_read": {"thread_id": "main", "message_id": "msg_1"},
    "delete_thread": {"thread_id": "main"},
    "feedback": {"message_id": "msg_1", "rating": "up"},
}

STRING, INTEGER, BOOLEAN = "a string", "an integer", "true or false"
FILE_IDS = "an array of file ids"
NOT_NULL = "a value that is not null"
BUSY, INPUT = "one of enqueue, reject, interrupt", "an object or a string"
RATING = "one of up, down"
FIELDS = {
    ("auth", "token"): STRING,
    ("ack", "seq"): INTEGER,
    ("user_message", "content"): STRING,
    ("user_message", "thread_id"): STRING,
    ("user_message", "correlation_id"): STRING,
    ("user_message", "agent"): STRING,
    ("user_message", "on_busy"): BUSY,
    ("user_message", "deadline_ms"): INTEGER,
    ("user_message", "replaces"): STRING,
    ("user_message", "attachments"): FILE_IDS,
    ("agent_request", "agent"): STRING,
    ("agent_request", "input"): INPUT,
    ("agent_request", "thread_id"): STRING,
    ("agent_request", "on_busy"): BUSY,
    ("agent_request", "deadline_ms"): INTEGER,
    ("agent_request", "attachments"): FILE_IDS,
    ("stop_agent", "run_id"): STRING,
    ("answer", "question_id"): STRING,
    ("answer", "answer"): NOT_NULL,
    ("answer", "approve"): BOOLEAN,
    ("get_thread_history", "thread_id"): STRING,
    ("get_thread_history", "limit"): INTEGER,
    ("get_thread_history", "before"): STRING,
    ("join_room", "room"): STRING,
    ("join_room", "after"): INTEGER,
    ("join_room", "epoch"): STRING,
    ("leave_room", "room"): STRING,
    ("room_message", "room"): STRING,
    ("room_message", "content"): INPUT,
    ("get_presence", "room"): STRING,
    ("watch_thread", "thread_id"): STRING,
    ("watch_thread", "owner"): STRING,
    ("watch_thread", "after"): INTEGER,
    ("watch_thread", "epoch"): STRING,
    ("unwatch_thread", "thread_id"): STRING,
    ("unwatch_thread", "owner"): STRING,
    ("list_threads", "limit"): INTEGER,
    ("list_threads", "before"): STRING,
    ("list_threads", "query"): STRING,
    ("rename_thread", "thread_id"): STRING,
    ("rename_thread", "title"): STRING,
    ("mark_read", "thread_id"): STRING,
    ("mark_read", "message_id"): STRING,
    ("delete_thread", "thread_id"): STRING,
    ("feedback", "message_id"): STRING,
    ("feedback", "rating"): RATING,
    ("feedback", "comment"): STRING,
}

SHOWN: list[tuple[object, str]] = [
    (5, "5"),
    (5.0, "5.0"),
    (0.5, "0.5"),
    (-1, "-1"),
    (True, "true"),
    (False, "false"),
    (None, "null"),
    ("", '""'),
    ("5", '"5"'),
    ("enqueued", '"enqueued"'),
    ('say "\n', '"say \\"\\n"'),
    ("x" * 40, f'"{"x" * 40}"'),
    ("x" * 41, f'"{"x" * 40}\u2026"'),
    ([], "an array"),
    ([1, "secret"], "an array"),
    ({}, "an object"),
    ({"a": "secret"}, "an object"),
]
RIGHT_TYPE = {
    STRING: (str,),
    INTEGER: (int,),
    BUSY: (),
    INPUT: (str, dict),
    BOOLEAN: (bool,),
    NOT_NULL: (),
    RATING: (type(None),),
    FILE_IDS: (list,),
}


def refusal(kind: str, payload: object) -> str:
    with pytest.raises(BadFrame) as caught:
        decode(orjson.dumps({"type": kind, "payload": payload, "correlation_id": "c-1"}))
    fault = caught.value.problem
    assert fault.code is ErrorCode.VALIDATION_ERROR
    assert fault.recoverable
    assert caught.value.correlation_id == "c-1"
    assert str(caught.value) == fault.error
    return fault.error


def message(kind: str, payload: object) -> Any:
    return decode(orjson.dumps({"type": kind, "payload": payload})).message


def test_the_tables_of_this_file_are_complete() -> None:
    assert set(SMALLEST) == set(INBOUND)
    named = {
        (kind, attribute.name)
        for kind, message_class in INBOUND.items()
        if message_class not in {Ping, Pong}
        for attribute in attrs.fields(message_class)
    }
    assert named == set(FIELDS)


@pytest.mark.parametrize("kind", SMALLEST)
def test_optional_fields_may_be_omitted(kind: str) -> None:
    assert type(message(kind, SMALLEST[kind])) is INBOUND[kind]


@pytest.mark.parametrize(
    ("kind", "payload", "expected"),
    [
        ("ping", {"n": [1, None]}, Ping({"n": [1, None]})),
        ("pong", {"n": {}}, Pong({"n": {}})),
        ("auth", {"token": "t"}, Auth("t")),
        ("ack", {"seq": 0}, Ack(0)),
        (
            "user_message",
            {
                "content": " hi ",
                "thread_id": "t-1_A",
                "correlation_id": "c",
                "agent": "a",
                "on_busy": "reject",
                "deadline_ms": 1,
            },
            UserMessage(" hi ", "t-1_A", "c", "a", OnBusy.REJECT, 1),  # type: ignore[arg-type]
        ),
        (
            "agent_request",
            {
                "agent": "a",
                "input": "",
                "thread_id": "t",
                "on_busy": "interrupt",
                "deadline_ms": 2**53,
            },
            AgentRequest("a", "", "t", OnBusy.INTERRUPT, 2**53),  # type: ignore[arg-type]
        ),
        ("agent_request", {"agent": "a", "input": {"x": 1}}, AgentRequest("a", {"x": 1})),
        ("stop_agent", {"run_id": "r"}, StopAgent("r")),  # type: ignore[arg-type]
        (
            "get_thread_history",
            {"thread_id": "t", "limit": 7, "before": "m"},
            GetThreadHistory("t", 7, "m"),  # type: ignore[arg-type]
        ),
        ("get_thread_history", {"thread_id": "t"}, GetThreadHistory("t", 50)),  # type: ignore[arg-type]
        ("join_room", {"room": "a:b", "after": 0, "epoch": "e"}, JoinRoom("a:b", 0, "e")),
        ("room_message", {"room": "a", "content": {"x": 1}}, RoomMessage("a", {"x": 1})),
        (
            "watch_thread",
            {"thread_id": "t", "owner": "bob", "after": 3, "epoch": "e"},
            WatchThread("t", "bob", 3, "e"),  # type: ignore[arg-type]
        ),
        (
            "list_threads",
            {"limit": 7, "before": "t", "query": "q"},
            ListThreads(7, "t", "q"),  # type: ignore[arg-type]
        ),
        ("list_threads", {}, ListThreads(50)),
        (
            "feedback",
            {"message_id": "m", "rating": "down", "comment": ""},
            Feedback("m", Rating.DOWN, ""),  # type: ignore[arg-type]
        ),
        ("feedback", {"message_id": "m", "rating": None}, Feedback("m", None)),  # type: ignore[arg-type]
    ],
)
def test_every_field_is_decoded(kind: str, payload: Payload, expected: object) -> None:
    assert message(kind, payload) == expected


@pytest.mark.parametrize("kind", ["ping", "pong"])
def test_an_empty_payload_may_be_omitted(kind: str) -> None:
    assert decode(orjson.dumps({"type": kind})).message.payload == {}


@pytest.mark.parametrize(
    ("kind", "field"),
    [(kind, field) for kind, payload in SMALLEST.items() for field in payload],
)
def test_a_missing_required_field_is_reported(kind: str, field: str) -> None:
    rest = {name: value for name, value in SMALLEST[kind].items() if name != field}
    assert refusal(kind, rest) == f"$.payload.{field}: missing"


@pytest.mark.parametrize(("value", "shown"), SHOWN)
@pytest.mark.parametrize(("kind", "field"), FIELDS)
def test_types_are_strict(kind: str, field: str, value: object, shown: str) -> None:
    expected = FIELDS[kind, field]
    if type(value) in RIGHT_TYPE[expected] or (expected == NOT_NULL and value is not None):
        return
    text = refusal(kind, {**SMALLEST[kind], field: value})
    assert text == f"$.payload.{field}: expected {expected}, got {shown}"


@pytest.mark.parametrize("kind", sorted(set(SMALLEST) - {"ping", "pong"}))
def test_unknown_fields_are_refused_with_their_names(kind: str) -> None:
    payload = SMALLEST[kind]
    assert refusal(kind, {**payload, "text": 1}) == "$.payload.text: unknown field"
    long = refusal(kind, {**payload, "n" * 41: 1})
    assert long == f"$.payload.{'n' * 40}\u2026: unknown field"
    two = refusal(kind, {**payload, "zz": 1, "aa": 1})
    assert two == "$.payload.aa: unknown field; $.payload.zz: unknown field"


@pytest.mark.parametrize("kind", SMALLEST)
@pytest.mark.parametrize(
    ("payload", "shown"),
    [(None, "null"), ([], "an array"), (5, "5"), (True, "true"), ("eyJ.x.y", "a string")],
)
def test_a_payload_is_an_object(kind: str, payload: object, shown: str) -> None:
    assert refusal(kind, payload) == f"$.payload: expected an object, got {shown}"


THREAD = "1 to 64 characters out of A-Z, a-z, 0-9, _ and -"
KEY = "1 to 128 characters"
THREADS: list[object] = ["t", "t" * 64, "A-z_0"]
INVALID_THREADS: list[object] = ["", "t" * 65, "a b", "a.b", "t\n", "\u00e9", "\u0663", "a/b"]
ROOM = "1 to 128 characters out of A-Z, a-z, 0-9, _, . and -, with : between the parts"
ROOMS: list[object] = ["r", "r" * 128, "A.b-c_9:0:x", "..", "-"]
INVALID_ROOMS: list[object] = [
    *("", "r" * 129, "a::b", ":a", "a:", "a b", "a/b", "a\n", "\u00e9", "\u0663"),
]
NOT_BLANK = "a text that is not blank"
BLANK: list[object] = ["", " ", "\n\t"]
EDGES: list[tuple[str, str, list[object], str, list[object]]] = [
    ("user_message", "thread_id", THREADS, THREAD, INVALID_THREADS),
    ("agent_request", "thread_id", THREADS, THREAD, INVALID_THREADS),
    ("get_thread_history", "thread_id", THREADS, THREAD, INVALID_THREADS),
    ("ack", "seq", [0, 1, 2**63], "an integer from 0", [-1, -(2**63)]),
    (
        "user_message",
        "content",
        ["x", " x ", "\u200b", "0"],
        "a text that is not blank",
        ["", " ", "\n\t\r", "\u00a0\u2003"],
    ),
    ("user_message", "agent", ["a", "a" * 1000], "a name", [""]),
    ("user_message", "deadline_ms", [1, 2**63], "an integer from 1", [0, -1]),
    ("user_message", "correlation_id", ["c", "c" * 128, "\u00e9" * 128], KEY, ["", "c" * 129]),
    ("agent_request", "agent", ["a"], "a name", [""]),
    ("agent_request", "deadline_ms", [1], "an integer from 1", [0, -1]),
    ("stop_agent", "run_id", ["r"], "a name", [""]),
    ("get_thread_history", "limit", [1, 100], "an integer from 1 to 100", [0, 101, -1]),
    ("get_thread_history", "before", ["m"], "a name", [""]),
    ("user_message", "replaces", ["m"], "a name", [""]),
    *(
        (kind, "room", ROOMS, ROOM, INVALID_ROOMS)
        for kind in ("join_room", "leave_room", "room_message", "get_presence")
    ),
    *(
        (kind, "thread_id", THREADS, THREAD, INVALID_THREADS)
        for kind in ("watch_thread", "unwatch_thread", "rename_thread", "mark_read")
    ),
    ("delete_thread", "thread_id", THREADS, THREAD, INVALID_THREADS),
    ("join_room", "after", [0, 2**63], "an integer from 0", [-1]),
    ("join_room", "epoch", ["e"], "a name", [""]),
    ("watch_thread", "after", [0, 2**63], "an integer from 0", [-1]),
    ("watch_thread", "epoch", ["e"], "a name", [""]),
    ("watch_thread", "owner", ["o"], "a name", [""]),
    ("unwatch_thread", "owner", ["o"], "a name", [""]),
    ("list_threads", "limit", [1, 100], "an integer from 1 to 100", [0, 101, -1]),
    ("list_threads", "before", THREADS, THREAD, INVALID_THREADS),
    ("list_threads", "query", ["q", "q" * 200], NOT_BLANK, BLANK),
    ("list_threads", "query", ["\u00e9" * 200], "at most 200 characters", ["q" * 201]),
    ("rename_thread", "title", ["t", "t" * 200], NOT_BLANK, BLANK),
    ("rename_thread", "title", ["\u00e9" * 200], "at most 200 characters", ["t" * 201]),
    ("mark_read", "message_id", ["m"], "a name", [""]),
    ("feedback", "message_id", ["m"], "a name", [""]),
    ("feedback", "comment", ["", "c" * 2000], "at most 2000 characters", ["c" * 2001]),
]


@pytest.mark.parametrize(
    ("kind", "field", "valid", "expected", "invalid"),
    EDGES,
    ids=[f"{kind}.{field}: {expected}" for kind, field, _, expected, _ in EDGES],
)
def test_valid_and_invalid_values_at_the_limits(
    kind: str, field: str, valid: list[object], expected: str, invalid: list[object]
) -> None:
    for value in valid:
        assert getattr(message(kind, {**SMALLEST[kind], field: value}), field) == value
    for value in invalid:
        shown = value[:40] + "\u2026" if isinstance(value, str) and len(value) > 40 else value
        text = refusal(kind, {**SMALLEST[kind], field: value})
        assert text == f"$.payload.{field}: expected {expected}, got {orjson.dumps(shown).decode()}"


def test_at_most_five_errors_are_reported() -> None:
    text = refusal("user_message", {"content": "x", **{f"f{n}": 1 for n in range(9)}})
    assert text.split("; ") == [f"$.payload.f{n}: unknown field" for n in range(5)]
    text = refusal("user_message", {"content": 1, "agent": 2, "deadline_ms": "3"})
    assert text.split("; ") == [
        "$.payload.content: expected a string, got 1",
        "$.payload.agent: expected a string, got 2",
        '$.payload.deadline_ms: expected an integer, got "3"',
    ]


def test_a_token_is_not_shown() -> None:
    auth = message("auth", {"token": "hunter2"})
    assert "hunter2" not in repr(auth)
    for payload in ("hunter2", {"token": ["hunter2"]}, {"token": {"jwt": "hunter2"}}):
        assert "hunter2" not in refusal("auth", payload)
