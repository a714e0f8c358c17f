"""The runs of a watched thread as of any offset, out of the parts of the nodes and the events."""

from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from attrs import define, evolve, field
from hypothesis import given, settings
from hypothesis import strategies as st
from orjson import dumps

from netra_trio.broker.base import Delivery
from netra_trio.ids import MessageId, NodeId, RunId, SessionId, ThreadId, ToolCallId
from netra_trio.protocol.codec import payload_of
from netra_trio.protocol.messages import (
    AgentAnswered,
    AgentAsking,
    AgentCompleted,
    AgentStarted,
    AgentThinking,
    Event,
    PartialResult,
    QuestionKind,
    QuestionOutcome,
    RunStatus,
    ToolCompleted,
    ToolExecuting,
)
from netra_trio.rooms.event import RoomEvent, pack, pack_missing
from netra_trio.sessions.thread_snapshot import RunPart, ThreadPart, ThreadSnapshot
from netra_trio.sessions.transcript import ALL_STEPS_BYTES, RUNS_BYTES

A, B = NodeId("a"), NodeId("b")
R1, R2 = RunId("r1"), RunId("r2")
EPOCH = "e"


def message_of(run: RunId) -> MessageId:
    return MessageId(f"m-{run}")


@define(eq=False)
class Room:
    """A room, and its events."""

    events: list[RoomEvent] = field(factory=list)
    epoch: str = EPOCH

    def add(self, event: Event, session: SessionId | None = None) -> None:
        self.publish(pack(event.TYPE, payload_of(event), timestamp=1.0, session_id=session))

    def publish(self, data: bytes) -> None:
        offset = len(self.events) + 1
        self.events.append(RoomEvent.unpack(Delivery("thread:t", self.epoch, offset, data)))

    def confirm(self, run: RunId) -> None:
        payload = {
            "message_id": message_of(run),
            "run_id": run,
            "user_id": "alice",
            "content": "hello",
        }
        self.publish(pack("user_message", payload, timestamp=1.0))

    def start(self, run: RunId, attempt: int = 1) -> None:
        self.add(AgentStarted(run, "agent", ThreadId("t"), attempt))

    def say(self, run: RunId, text: str) -> None:
        self.add(PartialResult(run, text))

    def think(self, run: RunId, thought: str) -> None:
        self.add(AgentThinking(run, thought))

    def call(self, run: RunId, call: str) -> None:
        self.add(ToolExecuting(run, ToolCallId(call), "look", {"n": 1}))

    def complete(self, run: RunId, call: str) -> None:
        self.add(ToolCompleted(run, ToolCallId(call), "look", True, 7, [1]))

    def ask(self, run: RunId, question: str) -> None:
        kind = QuestionKind.QUESTION
        self.add(AgentAsking(run, question, kind, "Which?", 9.0))  # type: ignore[arg-type]

    def answer(self, run: RunId, question: str) -> None:
        outcome = QuestionOutcome.ANSWERED
        self.add(AgentAnswered(run, question, outcome, 5))  # type: ignore[arg-type]

    def end(self, run: RunId) -> None:
        self.add(AgentCompleted(run, RunStatus.COMPLETED, 5))

    def lose(self, node: NodeId | None) -> None:
        self.publish(pack_missing(timestamp=1.0, node=node))


def running(run: RunId, content: str = "", **more: Any) -> RunPart:
    return RunPart(run, message_of(run), "agent", RunStatus.RUNNING, content, **more)


def queued(run: RunId) -> RunPart:
    return RunPart(run, message_of(run), "agent", RunStatus.QUEUED, "")


def part(
    offset: int, *runs: RunPart, node: NodeId = A, ended: Sequence[RunPart] = ()
) -> ThreadPart:
    return ThreadPart(node, EPOCH if offset else "", offset, runs, ended)


def shown(
    parts: Sequence[ThreadPart], events: Sequence[RoomEvent], without: Sequence[RoomEvent] = ()
) -> dict[str, Any]:
    """Return the listed runs by id: the fields without those that are the same in all tests."""
    snapshot = ThreadSnapshot(parts)
    for event in events:
        snapshot.apply(event)
    listed = snapshot.runs(without)
    assert snapshot.runs(without) == listed
    runs = {}
    for run in listed:
        dumps(run)
        fields = dict(run)
        run_id = fields.pop("run_id")
        assert fields.pop("message_id") == message_of(run_id)
        runs[run_id] = fields
    return runs


def fields_of(status: str, content: str = "", **more: Any) -> dict[str, Any]:
    return {
        "agent_name": "agent",
        "status": status,
        "content": content,
        "questions": [],
        **more,
    }


def tool_step(at: int, *, ended: bool) -> dict[str, Any]:
    step = {"type": "tool", "at": at, "tool_call_id": "c", "tool_name": "look"}
    end = {"success": True, "duration_ms": 7, "result": [1]} if ended else {}
    return {**step, **end, "arguments": {"n": 1}}


def question_step(question: str, at: int) -> dict[str, Any]:
    return {"type": "question", "at": at, "question_id": question}


def test_the_runs_of_all_nodes_are_listed() -> None:
    parts = [part(3, running(R1, "Hel")), part(5, queued(R2), node=B), part(0)]
    assert ThreadSnapshot(parts).offset == 5
    assert shown(parts, []) == {R1: fields_of("running", "Hel"), R2: fields_of("queued")}
    assert ThreadSnapshot([]).offset == 0
    assert ThreadSnapshot([]).runs() == ()


def test_events_after_the_part_of_their_node_change_the_runs() -> None:
    room = Room()
    room.say(R1, "Hel")
    room.start(R2)
    room.say(R1, "lo")
    room.say(R2, "x")
    parts = [part(1, running(R1, "Hel")), part(4, running(R2, "x"), node=B)]
    assert shown(parts, room.events) == {
        R1: fields_of("running", "Hello"),
        R2: fields_of("running", "x"),
    }


def test_each_event_changes_a_run() -> None:
    room, states = Room(), []

    def note() -> None:
        states.append(shown([part(0)], room.events).get(R1))

    room.confirm(R1)
    note()
    room.start(R1)
    note()
    room.think(R1, "hm")
    room.say(R1, "a")
    room.start(R1, attempt=2)
    note()
    room.call(R1, "c")
    room.complete(R1, "c")
    room.ask(R1, "q1")
    room.ask(R1, "q2")
    room.answer(R1, "q1")
    note()
    room.end(R1)
    note()
    question = {"question_id": "q2", "kind": "question", "prompt": "Which?", "expires_at": 9.0}
    steps = [
        {"type": "thought", "at": 0, "thought": "hm"},
        tool_step(1, ended=True),
        {"type": "question", "at": 1, "question_id": "q1"},
        {"type": "question", "at": 1, "question_id": "q2"},
    ]
    assert states == [
        {**fields_of("queued"), "agent_name": ""},
        fields_of("running"),
        fields_of("running", "a", steps=steps[:1]),
        fields_of("running", "a", questions=[question], steps=steps),
        None,
    ]


def test_an_event_of_an_unknown_run_adds_none() -> None:
    room = Room()
    room.start(R1)  # its message was published before the room was subscribed
    room.say(R1, "a")
    room.answer(R1, "q")
    room.end(R1)
    assert shown([part(4)], room.events) == {}


def whole_story() -> tuple[Room, list[dict[str, Any]]]:
    """Return a room, and what is to be listed as of each offset."""
    room = Room()
    states: list[dict[str, Any]] = [{}]
    long = {"question_id": "q", "kind": "question", "prompt": "Which?", "expires_at": 9.0}
    short = {"question_id": "q", "kind": "question", "expires_at": 9.0, "truncated": True}

    def then(state: dict[str, Any]) -> None:
        states.append(state)

    room.confirm(R1)
    then({R1: fields_of("queued")})
    room.start(R1)
    then({R1: fields_of("running")})
    room.say(R1, "one ")
    then({R1: fields_of("running", "one ")})
    room.start(R1, attempt=2)
    then({R1: fields_of("running", "one ")})
    steps = {"steps": [question_step("q", 4)]}
    room.ask(R1, "q")
    then({R1: fields_of("running", "one ", questions=[long], **steps)})
    room.confirm(R2)
    then({R1: fields_of("running", "one ", questions=[long], **steps), R2: fields_of("queued")})
    room.answer(R1, "q")
    then({R1: fields_of("running", "one ", **steps), R2: fields_of("queued")})
    room.say(R1, "twö")
    then({R1: fields_of("running", "one twö", **steps), R2: fields_of("queued")})
    room.end(R1)
    then({R2: fields_of("queued")})
    room.start(R2)
    then({R2: fields_of("running")})
    room.say(R2, "x")
    then({R2: fields_of("running", "x")})
    assert len(states) == len(room.events) + 1
    states_with_short = [
        {run: _with_questions(fields, short) for run, fields in state.items()} for state in states
    ]
    return room, [*states, *states_with_short]


def _with_questions(fields: dict[str, Any], question: dict[str, Any]) -> dict[str, Any]:
    return {**fields, "questions": [question] if fields["questions"] else []}


@pytest.mark.parametrize("at", range(12))
def test_the_runs_are_shown_as_of_any_offset(at: int) -> None:
    """A part as of each offset, and a connection that has each offset, give the same."""
    room, states = whole_story()
    newest = len(room.events)
    asked = [{"question_id": "q", "kind": "question", "expires_at": 9.0, "truncated": True}]
    steps = [question_step("q", 4)]
    ended = [running(R1, "one twö", asked=asked, length=7, steps=steps)]
    last = part(newest, running(R2, "x"), ended=ended)
    followed = room.events[at:]
    # Whether the question is whole depends on whether it is open in the part.
    assert shown([last], [], followed) == states[newest + 1 + at]
    assert shown([last], room.events[at // 2 :], followed) == states[newest + 1 + at]
    # The node of R1 has ended it already when it gave its part, and that of R2 had not begun.
    if at >= 6:
        parts = [part(newest, ended=ended), part(6, queued(R2), node=B)]
        assert shown(parts, room.events, followed) == states[newest + 1 + at]


def test_a_question_whose_beginning_is_not_known_is_shown_by_its_id() -> None:
    room = Room()
    room.answer(R1, "q")
    question = {"question_id": "q", "truncated": True}
    expected = {R1: fields_of("running", "a", questions=[question])}
    assert shown([part(1, running(R1, "a"))], [], room.events) == expected


def test_the_events_of_the_own_session_stay_included() -> None:
    room = Room()
    own = SessionId("own")
    room.add(PartialResult(R1, "a"), own)
    room.say(R2, "x")
    room.add(PartialResult(R1, "b"), own)
    room.say(R2, "y")
    parts = [part(3, running(R1, "ab")), part(2, running(R2, "x"), node=B)]
    followed = [event for event in room.events if event.session_id != own]
    assert shown(parts, room.events, followed) == {
        R1: fields_of("running", "ab"),
        R2: fields_of("running"),
    }
    assert shown(parts, room.events, followed[1:]) == {
        R1: fields_of("running", "ab"),
        R2: fields_of("running", "x"),
    }


# Steps.


def steps_story() -> tuple[Room, list[tuple[str, list[dict[str, Any]]]]]:
    """Return a room, and the text and the steps of its run as of each offset."""
    room = Room()
    states: list[tuple[str, list[dict[str, Any]]]] = [("", [])]
    thought = {"type": "thought", "at": 0, "thought": "hm"}
    started, ended = tool_step(3, ended=False), tool_step(3, ended=True)
    question, again = question_step("q", 4), {**thought, "at": 4}

    def then(text: str, *steps: dict[str, Any]) -> None:
        states.append((text, list(steps)))

    room.think(R1, "hm")
    then("", thought)
    room.say(R1, "a😀 ")
    then("a😀 ", thought)
    room.call(R1, "c")
    then("a😀 ", thought, started)
    room.say(R1, "b")
    then("a😀 b", thought, started)
    room.ask(R1, "q")
    then("a😀 b", thought, started, question)
    room.complete(R1, "c")
    then("a😀 b", thought, ended, question)
    room.think(R1, "hm")
    then("a😀 b", thought, ended, question, again)
    room.say(R1, "c")
    then("a😀 bc", thought, ended, question, again)
    return room, states


@pytest.mark.parametrize("taken", range(9))
@pytest.mark.parametrize("at", range(9))
@pytest.mark.parametrize("moves", [False, True])
def test_the_steps_are_shown_as_of_any_offset(taken: int, at: int, moves: bool) -> None:
    """A part as of each offset, of this node or of another one, and each position of a client."""
    room, states = steps_story()
    text, steps = states[taken]
    of_node = part(taken, running(R1, text, length=len(text), steps=steps))
    parts = [ThreadPart.decode(of_node.encode(10_000)) if moves else of_node]
    run = shown(parts, room.events, room.events[at:])[R1]
    assert (run["content"], run.get("steps", [])) == states[at]


def test_the_steps_of_a_text_that_is_cut_in_front() -> None:
    room = Room()
    room.think(R1, "later")
    room.say(R1, "c")
    early = [{"type": "thought", "at": at, "thought": "hm"} for at in (3, 9)]
    parts = [part(0, running(R1, "ab", is_cut=True, length=10, steps=early))]
    run = shown(parts, room.events)[R1]
    assert run["content"] == "abc"
    assert [step["at"] for step in run["steps"]] == [0, 1, 2]
    room.lose(A)
    room.say(R1, "d")
    run = shown(parts, room.events)[R1]
    assert run["content"] == "d"
    assert [step["at"] for step in run["steps"]] == [0, 0, 0]


def test_the_steps_of_a_text_that_is_taken_back_beyond_a_loss() -> None:
    room = Room()
    room.say(R1, "aa")
    room.lose(A)
    room.say(R1, "b")
    steps = [{"type": "thought", "at": at, "thought": "hm"} for at in (2, 6)]
    parts = [part(3, running(R1, "aaxxxb", length=6, steps=steps))]
    run = shown(parts, [], room.events)[R1]
    assert run["content"] == ""
    assert [step["at"] for step in run["steps"]] == [0, 0]


def test_a_field_of_a_newer_node_is_ignored() -> None:
    room = Room()
    payload = {"run_id": R1, "thought": "hm", "colour": "blue"}
    room.publish(pack("agent_thinking", payload, timestamp=1.0))
    step = {"type": "thought", "at": 0, "thought": "hm"}
    assert shown([part(0, running(R1))], room.events) == {R1: fields_of("running", steps=[step])}


@pytest.mark.parametrize("beyond", [0, 1])
def test_the_steps_of_all_runs_have_at_most_64_kib(beyond: int) -> None:
    frame = len(dumps([{"type": "thought", "at": 0, "thought": ""}]))
    size = ALL_STEPS_BYTES // 5 - frame
    sizes = [size] * 4 + [ALL_STEPS_BYTES - 4 * (size + frame) - frame + beyond]
    steps = [[{"type": "thought", "at": 0, "thought": "x" * size}] for size in sizes]
    runs = [running(RunId(f"r{number}"), steps=each) for number, each in enumerate(steps)]
    listed = shown([part(1, *runs)], [])
    assert ["steps" in run for run in listed.values()] == [True] * 4 + [beyond == 0]


# Events that are missing.


def test_text_before_a_loss_is_cut_off() -> None:
    room = Room()
    room.say(R1, "a")
    room.lose(A)
    room.say(R1, "b")
    parts = [part(0, running(R1), queued(R2))]
    cut = {R1: fields_of("running", "b", truncated=True), R2: fields_of("queued")}
    assert shown(parts, room.events) == cut
    # Only the text of the node that has lost events.
    parts = [part(1, running(R1, "a"), node=B)]
    assert shown(parts, room.events) == {R1: fields_of("running", "ab")}
    # A part that includes it has the whole text.
    assert shown([part(2, running(R1, "a, c"))], room.events) == {R1: fields_of("running", "a, cb")}


@pytest.mark.parametrize("loss", ["unknown node", "no delivery"])
def test_a_loss_of_an_unknown_node_cuts_all_texts(loss: str) -> None:
    room = Room()
    room.confirm(R2)
    room.start(R2)
    room.say(R2, "x")
    room.lose(None)
    room.say(R1, "b")
    room.say(R2, "y")
    events = room.events
    if loss == "no delivery":
        del events[3]
    assert shown([part(0, running(R1, "a"))], events) == {
        R1: fields_of("running", "b", truncated=True),
        R2: fields_of("running", "y", truncated=True),
    }


def test_text_that_is_taken_back_beyond_a_loss_is_cut_off() -> None:
    room = Room()
    room.say(R1, "a")
    room.say(R1, "a")
    room.lose(A)
    room.say(R1, "a")
    parts = [part(4, running(R1, "aaaaaa"))]
    assert shown(parts, [], room.events[3:]) == {R1: fields_of("running", "aaaaa")}
    assert shown(parts, [], room.events[2:]) == {R1: fields_of("running", "aaaaa")}
    assert shown(parts, [], room.events[1:]) == {R1: fields_of("running", truncated=True)}
    parts = [evolve(parts[0], node=B)]
    assert shown(parts, [], room.events) == {R1: fields_of("running", "aaa")}


def test_a_text_that_was_cut_in_front_ends_where_it_begins() -> None:
    room = Room()
    room.say(R1, "front")
    room.say(R1, "back")
    parts = [part(2, running(R1, "ontback", is_cut=True, length=9))]
    cut: dict[str, Any] = {"truncated": True, "omitted": 2}
    assert shown(parts, [], room.events[1:]) == {R1: fields_of("running", "ont", **cut)}
    assert shown(parts, [], room.events) == {R1: fields_of("running", truncated=True)}


def test_a_part_before_a_new_epoch_includes_none_of_its_events() -> None:
    old, new = Room(), Room(epoch="f")
    old.say(R1, "a")
    new.say(R1, "b")
    assert shown([part(7, running(R1, "a"))], new.events) == {R1: fields_of("running", "ab")}
    later = evolve(part(1, running(R1, "ab")), epoch="f")
    assert shown([later], [*old.events, *new.events]) == {R1: fields_of("running", "ab")}


# Limits.


def test_the_texts_have_192_kib_together() -> None:
    parts = [
        part(1, running(R1, "a" * RUNS_BYTES, length=RUNS_BYTES)),
        part(1, running(R2, "b" * 1000), node=B),
    ]
    runs = shown(parts, [])
    kept = "a" * (RUNS_BYTES - 1000)
    assert runs[R1] == fields_of("running", kept, truncated=True, omitted=1000)
    assert runs[R2] == fields_of("running", "b" * 1000)


def test_a_part_is_encoded_within_a_limit() -> None:
    whole = part(
        3,
        running(R1, "é\n" * 5000, questions=[{"question_id": "q"}], asked=[{"question_id": "q"}]),
        queued(R2),
        ended=[running(RunId("r3"), "x" * 8000, is_cut=True)],
    )
    size = len(whole.encode(100_000))
    assert ThreadPart.decode(whole.encode(size)).encode(size) == whole.encode(100_000)
    assert shown([ThreadPart.decode(whole.encode(size))], []) == shown([whole], [])
    assert len(whole.encode(size)) == size
    short = whole.encode(size - 1)
    assert len(short) < size
    decoded = ThreadPart.decode(short)
    assert [run.content for run in decoded.runs] == ["é\n" * 2500, ""]
    assert [run.is_cut for run in decoded.runs] == [True, False]
    assert decoded.ended[0].content == "x" * 4000
    assert not ThreadPart.decode(whole.encode(10)).has_text


# At random.


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_any_part_and_any_offset_give_the_same(seed: int) -> None:
    random = Random(seed)  # noqa: S311 - no secret
    room = Room()
    runs = [RunId(f"r{number}") for number in range(3)]
    texts: list[dict[RunId, str]] = [{}]
    state: dict[RunId, str] = {}
    for _ in range(random.randint(1, 30)):
        run = random.choice(runs)
        if run not in state:
            room.confirm(run)
            state = {**state, run: ""}
        elif random.random() < 0.9:
            piece = random.choice(["a", "ab", "b", "aa"])
            room.say(run, piece)
            state = {**state, run: state[run] + piece}
        else:
            room.end(run)
            state = {other: text for other, text in state.items() if other != run}
            runs.remove(run)
            if not runs:
                texts.append(state)
                break
        texts.append(state)
    newest = len(room.events)
    at = random.randint(0, newest)
    taken = {RunId(run): random.randint(0, newest) for run in ("r0", "r1", "r2")}
    since = random.randint(0, min(taken.values()))
    parts = []
    for run_id, offset in taken.items():
        of_node = [running(run_id, texts[offset][run_id])] if run_id in texts[offset] else []
        lengths = [each[run_id] for each in texts[: offset + 1] if run_id in each]
        ended = [running(run_id, lengths[-1])] if lengths and not of_node else []
        parts.append(part(offset, *of_node, node=NodeId(run_id), ended=ended))
    found = shown(parts, room.events[since:], room.events[at:])
    assert {run: fields["content"] for run, fields in found.items()} == texts[at]
