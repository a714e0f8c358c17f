"""The examples of frames, which the tests of other clients read too: they agree with the codec.

Each file is a list of `{name, frame, valid, code?}`. A `frame` that is a string is the text of a
frame; any other is its JSON. `code` is the code of the error.
"""

from pathlib import Path
from typing import Any, cast

import attrs
import orjson
import pytest

from netra_trio.ids import (
    ConnectionId,
    CorrelationId,
    FileId,
    MessageId,
    QuestionId,
    RunId,
    SessionId,
    ThreadId,
    ToolCallId,
    UserId,
)
from netra_trio.protocol import messages, rooms, threads, usage
from netra_trio.protocol.codec import BadFrame, decode, encode, encode_problem
from netra_trio.protocol.codes import BAD_FRAME, ErrorCode
from netra_trio.protocol.inbound import INBOUND
from netra_trio.protocol.messages import (
    AgentAnswered,
    AgentAsking,
    AgentCompleted,
    AgentStarted,
    AgentThinking,
    AgentUsage,
    AuthExpiring,
    AuthOk,
    BinaryResult,
    Confirmation,
    ConnectionEstablished,
    Heartbeat,
    HistoryFeedback,
    HistoryMessage,
    HistoryQuestion,
    HistoryRun,
    ListedAgent,
    ListedFile,
    MessageConfirmed,
    PartialResult,
    Pong,
    QuestionKind,
    QuestionOutcome,
    ResetReason,
    ResumeState,
    RunStatus,
    ServerDraining,
    ThreadHistory,
    ToolCompleted,
    ToolExecuting,
    Verdict,
)
from netra_trio.protocol.problem import problem
from netra_trio.protocol.rooms import (
    Presence,
    PresenceChange,
    PresenceChanged,
    PresentUser,
    RoomConfirmation,
    RoomConfirmed,
    RoomGap,
    RoomJoined,
    RoomLeft,
    thread_room,
)
from netra_trio.protocol.threads import ListedThread, ThreadChange, ThreadChanged, ThreadList
from netra_trio.protocol.usage import UsageWarning
from netra_trio.rooms.event import RoomEvent

Example = dict[str, Any]

NOW = 1640995200.25
RUN, THREAD, MESSAGE, CALL = (
    RunId("run_1"),
    ThreadId("main"),
    MessageId("msg_1"),
    ToolCallId("call_1"),
)
QUESTION, APPROVAL = QuestionId("q_1"), QuestionId("q_2")
END = 1640998800.0


def examples(direction: str) -> list[Example]:
    path = Path(__file__).parent.parent / "golden" / f"{direction}.json"
    return cast("list[Example]", orjson.loads(path.read_bytes()))


def name_of(example: Example) -> str:
    return str(example["name"])


INBOUND_EXAMPLES = examples("client_to_server")
OUTBOUND_EXAMPLES = {name_of(example): example for example in examples("server_to_client")}


@pytest.mark.parametrize("example", INBOUND_EXAMPLES, ids=name_of)
def test_what_a_client_sends(example: Example) -> None:
    frame = example["frame"]
    text = frame if isinstance(frame, str) else orjson.dumps(frame).decode()
    if example["valid"]:
        assert frame["type"] == decode(text).message.TYPE
    else:
        with pytest.raises(BadFrame) as caught:
            decode(text)
        assert caught.value.problem.code == example["code"]


def test_the_client_examples_are_complete() -> None:
    names = [name_of(example) for example in INBOUND_EXAMPLES]
    assert len(set(names)) == len(names)
    assert all(set(example) <= {"name", "frame", "valid", "code"} for example in INBOUND_EXAMPLES)
    valid = {example["frame"]["type"] for example in INBOUND_EXAMPLES if example["valid"]}
    assert valid == set(INBOUND)
    # The maximum size is a setting, so there is no example of a frame that is too large.
    codes = {example["code"] for example in INBOUND_EXAMPLES if not example["valid"]}
    assert codes == {str(code) for code in BAD_FRAME - {ErrorCode.MESSAGE_TOO_LARGE}}


def established(resume: ResumeState) -> bytes:
    message = ConnectionEstablished(
        connection_id=ConnectionId("conn_1"),
        session_id=SessionId("sess_1"),
        user_id=UserId("alice"),
        server_time=NOW,
        heartbeat_interval=30_000,
        features={
            "json_first": True,
            "auth_required": True,
            "heartbeat_supported": True,
            "reconnection_supported": True,
            "rate_limiting": True,
            "message_queuing": True,
            "resume": True,
            "tickets": True,
        },
        limits={
            "max_connections_per_user": 5,
            "max_message_rate": 60,
            "heartbeat_interval": 30_000,
            "max_message_size": 10_240,
            "resume_window": 120_000,
        },
        resume=resume,
        user_room="user:Z3mTqO0hB2cVt1pXkA9d4w",
        agents=(ListedAgent("echo", "Echo", ("Hello",)),),
    )
    return encode(message, NOW)


def unfinished(run_id: str, correlation_id: str, status: str, content: str) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "thread_id": THREAD,
        "correlation_id": correlation_id,
        "status": status,
        "content": content,
    }


def fault(code: ErrorCode, text: str, error_id: str | None = None) -> dict[str, Any]:
    return problem(code, text, error_id=error_id).body(NOW)


def confirmed(
    status: Confirmation, position: int | None = None, run_status: RunStatus | None = None
) -> MessageConfirmed:
    return MessageConfirmed(MESSAGE, RUN, THREAD, status, position, run_status)


PAGE = ThreadHistory(
    THREAD,
    (
        HistoryMessage(
            MESSAGE,
            "user",
            "Hello",
            NOW,
            CorrelationId("c-4"),
            HistoryRun(RUN, "echo", RunStatus.COMPLETED),
        ),
        HistoryMessage(
            MessageId("msg_2"),
            "agent",
            "Hel",
            NOW,
            run=HistoryRun(RUN, "echo", RunStatus.COMPLETED, duration_ms=1200),
            truncated=True,
            reply_to=MESSAGE,
            steps=[
                {
                    "type": "thought",
                    "at": 0,
                    "thought": "Looking it up.",
                    "step_number": 1,
                    "total_steps": 3,
                },
                {
                    "type": "tool",
                    "at": 0,
                    "tool_call_id": "call_1",
                    "tool_name": "calculate",
                    "arguments": {"expression": "6*7"},
                    "success": True,
                    "result": 42,
                    "duration_ms": 12,
                },
                {
                    "type": "tool",
                    "at": 1,
                    "tool_call_id": "call_2",
                    "tool_name": "calculate",
                    "arguments": '{"expr',
                    "success": False,
                    "error": "Division by zero.",
                    "duration_ms": 12,
                    "truncated": True,
                },
                {"type": "question", "at": 2, "question_id": "q_1"},
            ],
            feedback=HistoryFeedback("down", "Too short."),
        ),
    ),
    has_more=True,
)
ASKED = ThreadHistory(
    THREAD,
    (
        HistoryMessage(
            MESSAGE,
            "user",
            "Hello",
            NOW,
            CorrelationId("c-4"),
            HistoryRun(
                RUN,
                "echo",
                RunStatus.RUNNING,
                (
                    HistoryQuestion(
                        QUESTION,
                        QuestionKind.QUESTION,
                        "On which day?",
                        END,
                        schema={"type": "string"},
                        outcome=QuestionOutcome.ANSWERED,
                        answer="Friday",
                        user_id=UserId("alice"),
                    ),
                    HistoryQuestion(
                        APPROVAL,
                        QuestionKind.APPROVAL,
                        "Allow the call of delete?",
                        END,
                        tool_name="delete",
                        arguments={"path": "notes.txt"},
                    ),
                ),
            ),
        ),
    ),
    has_more=False,
)
FILES = (
    ListedFile(FileId("file_1"), "plan.pdf", "application/pdf", 48_213),
    ListedFile(FileId("file_2"), "", "audio/mpeg", 0),
)
FILE_IDS = tuple(each.file_id for each in FILES)
WITH_FILES = ThreadHistory(
    THREAD,
    (
        HistoryMessage(MESSAGE, "user", "Hello", NOW, attachments=FILE_IDS[:1], files=FILES[:1]),
        HistoryMessage(
            MessageId("msg_2"),
            "agent",
            "",
            NOW,
            reply_to=MESSAGE,
            attachments=FILE_IDS,
            files=FILES,
        ),
    ),
    has_more=False,
)
ROOM, WATCHED = "team:red", thread_room(UserId("alice"), THREAD)
LISTED = ListedThread(THREAD, WATCHED, "Hello", NOW, NOW, runs_active=1, asks=True, unread=2)


def joined(verdict: Verdict, *, epoch: str = "e1", offset: int, replayed: int = 0) -> bytes:
    return encode(RoomJoined(ROOM, epoch, offset, verdict, replayed), NOW, "c-7")


def room_event(
    room: str, offset: int, kind: str, payload: dict[str, Any], *, offset_from: int | None = None
) -> bytes:
    event = orjson.dumps({"type": kind, "payload": payload})
    return bytes(RoomEvent(room, "e1", offset, event, NOW, offset_from=offset_from).frame)


ERROR_TEXT = "$.payload.content: expected a string, got 5"
CUT = '{"expression":"6'
WRITTEN: dict[str, bytes] = {
    "connection_established: a new session": established(ResumeState(Verdict.NEW)),
    "connection_established: a reset": established(ResumeState(Verdict.RESET, ResetReason.UNKNOWN)),
    "connection_established: a reset, ahead": established(
        ResumeState(Verdict.RESET, ResetReason.AHEAD)
    ),
    "connection_established: an exact resume in mid-stream": established(
        ResumeState(
            Verdict.EXACT,
            replayed=3,
            last_seq=6,
            runs=(
                unfinished("run_1", "c-4", "running", "Hel"),
                unfinished("run_2", "c-5", "queued", ""),
            ),
        )
    ),
    "connection_established: an exact resume while a run asks": established(
        ResumeState(
            Verdict.EXACT,
            replayed=0,
            last_seq=6,
            runs=(
                {
                    **unfinished("run_1", "c-4", "running", "Hel"),
                    "questions": [
                        {
                            "question_id": "q_2",
                            "kind": "approval",
                            "prompt": "Allow the call of delete?",
                            "expires_at": END,
                            "tool_name": "delete",
                            "arguments": {"path": "notes.txt"},
                        },
                        {
                            "question_id": "q_3",
                            "kind": "question",
                            "expires_at": END,
                            "truncated": True,
                        },
                    ],
                },
            ),
        )
    ),
    "connection_established: a gap, with a text cut at its front": established(
        ResumeState(
            Verdict.GAP,
            replayed=2,
            last_seq=9,
            runs=({**unfinished("run_1", "c-4", "completed", "lo"), "truncated": True},),
        )
    ),
    "pong": encode(Pong({"n": 1}), NOW, "c-1"),
    "heartbeat": encode(Heartbeat(NOW), NOW),
    "auth_ok": encode(AuthOk(END), NOW, "c-2"),
    "auth_expiring": encode(AuthExpiring(END), NOW),
    "usage_warning: tokens": encode(UsageWarning("chat", "tokens", 1000, 800), NOW),
    "usage_warning: a cost": encode(UsageWarning("chat", "cost", 2.5, 2.125), NOW),
    "server_draining": encode(ServerDraining("restart", 1000), NOW),
    "thread_history: empty": encode(ThreadHistory(THREAD, (), has_more=False), NOW, "c-3"),
    "thread_history: a message and its answer": encode(PAGE, NOW, "c-3"),
    "thread_history: a run with questions": encode(ASKED, NOW, "c-3"),
    "thread_history: messages with files": encode(WITH_FILES, NOW, "c-3"),
    "error: a bad frame": encode_problem(
        problem(ErrorCode.VALIDATION_ERROR, ERROR_TEXT), NOW, "c-17"
    ),
    "error: too much": encode_problem(
        problem(
            ErrorCode.RATE_LIMIT_EXCEEDED,
            "Too many messages: 60 per minute.",
            help="Wait 12 s and send again.",
            retry_after_ms=12_000,
        ),
        NOW,
        "c-17",
    ),
    "error: ours": encode_problem(
        problem(ErrorCode.INTERNAL_ERROR, "The server failed.", error_id="err_1"), NOW
    ),
    "message_confirmed: accepted": encode(confirmed(Confirmation.ACCEPTED), NOW, "c-4", seq=1),
    "message_confirmed: queued": encode(confirmed(Confirmation.QUEUED, 2), NOW, "c-4", seq=1),
    "message_confirmed: duplicate": encode(
        confirmed(Confirmation.DUPLICATE, run_status=RunStatus.RUNNING), NOW, "c-4", seq=9
    ),
    "agent_started": encode(AgentStarted(RUN, "echo", THREAD, 1), NOW, "c-4", seq=2),
    "agent_thinking: a thought": encode(AgentThinking(RUN, "Looking it up."), NOW, "c-4", seq=3),
    "agent_thinking: a step of a plan": encode(
        AgentThinking(RUN, "Looking it up.", 1, 3), NOW, "c-4", seq=3
    ),
    "tool_executing": encode(
        ToolExecuting(RUN, CALL, "calculate", {"expression": "6*7"}), NOW, "c-4", seq=4
    ),
    "tool_executing: cut arguments": encode(
        ToolExecuting(RUN, CALL, "calculate", CUT, truncated=True), NOW, "c-4", seq=4
    ),
    "tool_completed: a result": encode(
        ToolCompleted(RUN, CALL, "calculate", success=True, duration_ms=12, result=42),
        NOW,
        "c-4",
        seq=5,
    ),
    "tool_completed: no result": encode(
        ToolCompleted(RUN, CALL, "calculate", success=True, duration_ms=12), NOW, "c-4", seq=5
    ),
    "tool_completed: a failure": encode(
        ToolCompleted(
            RUN, CALL, "calculate", success=False, duration_ms=12, error="Division by zero."
        ),
        NOW,
        "c-4",
        seq=5,
    ),
    "tool_completed: a result that was cut": encode(
        ToolCompleted(
            RUN, CALL, "calculate", success=True, duration_ms=12, result="[4", truncated=True
        ),
        NOW,
        "c-4",
        seq=5,
    ),
    "partial_result": encode(PartialResult(RUN, "H\u00e9llo \U0001f600"), NOW, "c-4", seq=6),
    "partial_result: merged": encode(
        PartialResult(RUN, "Hello you"), NOW, "c-4", seq=8, seq_from=6
    ),
    "binary_result": encode(
        BinaryResult(RUN, "audio/mpeg", FileId("file_2"), 32_768), NOW, "c-4", seq=7
    ),
    "agent_asking: a question": encode(
        AgentAsking(
            RUN, QUESTION, QuestionKind.QUESTION, "On which day?", END, schema={"type": "string"}
        ),
        NOW,
        "c-4",
        seq=7,
    ),
    "agent_asking: an approval": encode(
        AgentAsking(
            RUN,
            APPROVAL,
            QuestionKind.APPROVAL,
            "Allow the call of delete?",
            END,
            tool_name="delete",
            arguments={"path": "notes.txt"},
        ),
        NOW,
        "c-4",
        seq=7,
    ),
    "agent_answered: answered": encode(
        AgentAnswered(RUN, QUESTION, QuestionOutcome.ANSWERED, "Friday", UserId("alice")),
        NOW,
        "c-4",
        seq=8,
    ),
    "agent_answered: approved": encode(
        AgentAnswered(RUN, APPROVAL, QuestionOutcome.APPROVED, user_id=UserId("alice")),
        NOW,
        "c-4",
        seq=8,
    ),
    "agent_answered: expired": encode(
        AgentAnswered(RUN, APPROVAL, QuestionOutcome.EXPIRED), NOW, "c-4", seq=8
    ),
    "agent_usage": encode(AgentUsage(RUN, "qwen3", 812, 96), NOW, "c-4", seq=8),
    "agent_usage: with its cost": encode(AgentUsage(RUN, "qwen3", 812, 96, 0.5), NOW, "c-4", seq=8),
    "agent_completed: completed": encode(
        AgentCompleted(RUN, RunStatus.COMPLETED, 1200, "Hello"), NOW, "c-4", seq=9
    ),
    "agent_completed: completed, cut": encode(
        AgentCompleted(RUN, RunStatus.COMPLETED, 1200, "Hel", truncated=True), NOW, "c-4", seq=9
    ),
    "agent_completed: completed, with files": encode(
        AgentCompleted(RUN, RunStatus.COMPLETED, 1200, "Hello", attachments=FILE_IDS, files=FILES),
        NOW,
        "c-4",
        seq=9,
    ),
    "agent_completed: failed": encode(
        AgentCompleted(
            RUN,
            RunStatus.FAILED,
            1200,
            error=fault(ErrorCode.AGENT_ERROR, "The agent failed.", "err_1"),
        ),
        NOW,
        "c-4",
        seq=9,
    ),
    "agent_completed: timed out": encode(
        AgentCompleted(
            RUN,
            RunStatus.TIMED_OUT,
            300_000,
            error=fault(ErrorCode.AGENT_TIMEOUT, "The agent did not finish within 300 s."),
        ),
        NOW,
        "c-4",
        seq=9,
    ),
    "agent_completed: cancelled before it started": encode(
        AgentCompleted(RUN, RunStatus.CANCELLED, 0), NOW, "c-4", seq=2
    ),
    "agent_completed: cancelled, and abandoned": encode(
        AgentCompleted(RUN, RunStatus.CANCELLED, 2000, abandoned=True), NOW, "c-4", seq=9
    ),
    "agent_completed: interrupted": encode(
        AgentCompleted(RUN, RunStatus.INTERRUPTED, 50), NOW, "c-4", seq=9
    ),
}


WRITTEN |= {
    "room_joined: from now on": joined(Verdict.NEW, offset=43),
    "room_joined: exact": joined(Verdict.EXACT, offset=41, replayed=2),
    "room_joined: a gap in an empty room": joined(Verdict.GAP, epoch="e2", offset=0),
    "room_joined: a watched thread": encode(
        RoomJoined(
            WATCHED,
            "e1",
            12,
            Verdict.NEW,
            0,
            (
                {
                    "run_id": "run_1",
                    "message_id": "msg_1",
                    "agent_name": "echo",
                    "status": RunStatus.RUNNING,
                    "content": "Hel",
                    "questions": [
                        {
                            "question_id": "q_1",
                            "kind": "question",
                            "prompt": "On which day?",
                            "expires_at": END,
                            "schema": {"type": "string"},
                        }
                    ],
                    "truncated": True,
                },
                {
                    "run_id": "run_2",
                    "message_id": "msg_3",
                    "agent_name": "echo",
                    "status": RunStatus.QUEUED,
                    "content": "",
                    "questions": [],
                },
            ),
        ),
        NOW,
        "c-7",
    ),
    "room_left: asked for": encode(RoomLeft(ROOM), NOW, "c-7"),
    "room_left: by the server": encode(RoomLeft(ROOM), NOW),
    "room_confirmed: accepted": encode(
        RoomConfirmed(ROOM, 43, RoomConfirmation.ACCEPTED), NOW, "c-8"
    ),
    "room_confirmed: duplicate": encode(
        RoomConfirmed(ROOM, 43, RoomConfirmation.DUPLICATE), NOW, "c-8"
    ),
    "room_event: of a client": room_event(
        ROOM, 43, "room_message", {"user_id": "alice", "content": "Hello"}
    ),
    "room_event: of the application": room_event(ROOM, 44, "room_message", {"content": {"x": 1}}),
    "room_event: a message of a thread": room_event(
        WATCHED,
        12,
        "user_message",
        {"message_id": "msg_1", "run_id": "run_1", "user_id": "alice", "content": "Hello"},
    ),
    "room_event: a message with a file": room_event(
        WATCHED,
        12,
        "user_message",
        {
            "message_id": "msg_1",
            "run_id": "run_1",
            "user_id": "alice",
            "content": "Hello",
            "attachments": ["file_1"],
        },
    ),
    "room_event: merged": room_event(
        WATCHED, 15, "partial_result", {"run_id": "run_1", "content": "Hello you"}, offset_from=13
    ),
    "room_gap": encode(RoomGap(ROOM, 44, 61), NOW),
    "room_gap: a new epoch": encode(RoomGap(ROOM, 1, 0), NOW),
    "presence": encode(Presence(ROOM, (PresentUser(UserId("alice"), 2),)), NOW, "c-9"),
    "presence: an empty room": encode(Presence(ROOM, ()), NOW, "c-9"),
    "presence_changed: joined": encode(
        PresenceChanged(ROOM, UserId("bob"), PresenceChange.JOINED), NOW
    ),
    "presence_changed: left": encode(
        PresenceChanged(ROOM, UserId("bob"), PresenceChange.LEFT), NOW
    ),
    "thread_list": encode(ThreadList((LISTED,), has_more=True), NOW, "c-10"),
    "thread_list: empty": encode(ThreadList((), has_more=False), NOW, "c-10"),
    "thread_changed: renamed": encode(
        ThreadChanged(THREAD, ThreadChange.RENAMED, LISTED), NOW, "c-11"
    ),
    "thread_changed: updated": encode(ThreadChanged(THREAD, ThreadChange.UPDATED, LISTED), NOW),
    "thread_changed: deleted": encode(ThreadChanged(THREAD, ThreadChange.DELETED), NOW),
}


def test_every_server_example_is_written_here() -> None:
    assert set(WRITTEN) == set(OUTBOUND_EXAMPLES)


@pytest.mark.parametrize("name", WRITTEN)
def test_what_the_server_sends(name: str) -> None:
    example = OUTBOUND_EXAMPLES[name]
    assert orjson.loads(bytes(WRITTEN[name])) == example["frame"]
    assert example["valid"] is True
    assert example.get("code") == example["frame"]["payload"].get("code")


OUTBOUND = [
    kind
    for module in (messages, rooms, threads, usage)
    for kind in vars(module).values()
    if attrs.has(kind) and hasattr(kind, "TYPE") and kind not in INBOUND.values()
]


@pytest.mark.parametrize("kind", OUTBOUND, ids=lambda kind: kind.TYPE)
def test_the_server_examples_have_every_field(kind: type[attrs.AttrsInstance]) -> None:
    payloads = [
        example["frame"]["payload"]
        for example in OUTBOUND_EXAMPLES.values()
        if example["frame"]["type"] == kind.TYPE  # type: ignore[attr-defined]
    ]
    assert {name for payload in payloads for name in payload} == {
        field.name.rstrip("_")
        for field in attrs.fields(kind)  # `from` is a word of Python
    }


def test_the_server_examples_have_every_outcome() -> None:
    text = orjson.dumps([example["frame"] for example in OUTBOUND_EXAMPLES.values()]).decode()
    words = (*Verdict, *ResetReason, *RunStatus, *Confirmation, *RoomConfirmation)
    for word in (*words, *PresenceChange, *ThreadChange):
        assert f'"{word}"' in text
