"""The runs of a watched thread on all nodes: implements `rooms.snapshot.Snapshot`.

    snapshot = ThreadSnapshot([part_of_this_node, part_of_another_node])
    snapshot.apply(event)
    snapshot.runs()

The part of each node is as of the newest event that the node has published. The room has the events
of several nodes. A part includes the events of its node up to the offset of the part; later ones
are applied to it. An included event that the connection gets after the snapshot is reverted.
"""

from collections.abc import Container, Sequence
from itertools import pairwise
from typing import Any

import orjson
from attrs import asdict, define, evolve, field, frozen

from netra_trio.agents.steps import Steps
from netra_trio.ids import MessageId, NodeId, RunId
from netra_trio.protocol.fields import JsonObject
from netra_trio.protocol.messages import (
    AgentAnswered,
    AgentAsking,
    AgentCompleted,
    AgentStarted,
    PartialResult,
    RunStatus,
    UserMessage,
)
from netra_trio.protocol.text import TextTail, json_size
from netra_trio.rooms.event import RoomEvent
from netra_trio.sessions.transcript import (
    RUNS_BYTES,
    QuestionList,
    StepsList,
    fit_texts,
    is_step,
    placed_in,
    step_event,
)


@frozen
class RunPart:
    """The state of a run of a watched thread, from its node.

    Attributes:
        status: `queued` or `running`; the last one of an ended run.
        content: The end of its text.
        is_cut: Whether the beginning of the text is cut off.
        questions: Its open questions.
        asked: Its published questions, shortened.
        length: The number of characters of its whole text.
        steps: Its steps, with their positions in the whole text.
    """

    run_id: RunId
    message_id: MessageId
    agent_name: str
    status: RunStatus
    content: str
    is_cut: bool = False
    questions: Sequence[JsonObject] = ()
    asked: Sequence[JsonObject] = ()
    length: int = 0
    steps: Sequence[JsonObject] = ()

    def shorten(self) -> "RunPart":
        """Return a copy with the second half of the text."""
        if not self.content:
            return self
        return evolve(self, content=self.content[(len(self.content) + 1) // 2 :], is_cut=True)


@frozen
class ThreadPart:
    """The runs of a watched thread at one node.

    Attributes:
        node: The node.
        epoch: The epoch of `offset`.
        offset: The offset of the newest included event; 0 for none.
        runs: The unfinished runs.
        ended: Recently ended runs.
    """

    node: NodeId
    epoch: str
    offset: int
    runs: Sequence[RunPart]
    ended: Sequence[RunPart] = ()

    def encode(self, limit: int) -> bytes:
        """Encode it for another node, with shorter texts if it has more than `limit` bytes.

        Without texts it is smaller: the questions of a part have at most 64 KiB together, and the
        steps of its runs and those of ended ones too.
        """
        part: Any = self
        while len(data := orjson.dumps(part, default=_as_json)) > limit and part.has_text:
            part = part.shorten()
        return data

    @property
    def has_text(self) -> bool:
        """Whether a run has text."""
        return any(run.content for run in (*self.runs, *self.ended))

    def shorten(self) -> "ThreadPart":
        """Return a copy with texts of half the length."""
        runs, ended = ([run.shorten() for run in each] for each in (self.runs, self.ended))
        return evolve(self, runs=runs, ended=ended)

    @classmethod
    def decode(cls, data: bytes) -> "ThreadPart":
        """Decode a result of `encode`."""
        fields = orjson.loads(data)
        for name in ("runs", "ended"):
            fields[name] = [
                RunPart(**{**each, "status": RunStatus(each["status"])}) for each in fields[name]
            ]
        return cls(**fields)


def _as_json(value: Any) -> JsonObject:
    return asdict(value, recurse=False)


@define(eq=False)
class _Run:
    """The state of a run after some of the events.

    Attributes:
        node: Its node; None if no part has the run.
        included: The number of events of the sequence that its part includes.
        is_listed: Whether it is confirmed and has not ended.
        length: The number of characters of the whole text. After a loss it may be too small or too
            large: then the kept text begins behind the loss.
        has_lost: Whether text may be missing that `length` does not count.
    """

    run_id: RunId
    message_id: MessageId
    agent_name: str
    status: RunStatus
    node: NodeId | None = None
    included: int = 0
    is_listed: bool = True
    text: TextTail = field(factory=lambda: TextTail(RUNS_BYTES))
    questions: dict[str, JsonObject] = field(factory=dict)
    asked: dict[str, JsonObject] = field(factory=dict)
    length: int = 0
    steps: Steps = field(factory=Steps)
    has_lost: bool = False

    @classmethod
    def of(cls, part: RunPart, node: NodeId, included: int, *, is_listed: bool) -> "_Run":
        return cls(
            part.run_id,
            part.message_id,
            part.agent_name,
            part.status,
            node,
            included,
            is_listed,
            TextTail(RUNS_BYTES, [part.content], is_cut=part.is_cut),
            {each["question_id"]: each for each in part.questions},
            {each["question_id"]: each for each in part.asked},
            part.length,
            Steps.restored(part.steps),
        )

    def lose_text(self) -> None:
        """Drop the text, because a part of it is missing."""
        is_cut = self.text.is_cut or bool(self.text.text) or self.status is RunStatus.RUNNING
        self.has_lost = True
        self.text = TextTail(RUNS_BYTES, is_cut=is_cut)

    def apply(self, kind: str, payload: JsonObject) -> None:
        """Apply an event."""
        if is_step(kind):
            self.steps.note(step_event(kind, payload), self.length)
        if kind == PartialResult.TYPE:
            self.text.add(payload["content"], json_size(payload["content"]))
            self.length += len(payload["content"])
        elif kind == AgentStarted.TYPE:
            self.status, self.agent_name = RunStatus.RUNNING, payload["agent_name"]
        elif kind == AgentAsking.TYPE:
            question = {name: value for name, value in payload.items() if name != "run_id"}
            self.questions[payload["question_id"]] = question
        elif kind == AgentAnswered.TYPE:
            self.questions.pop(payload["question_id"], None)
        elif kind == AgentCompleted.TYPE:
            self.is_listed = False

    def revert(self, kind: str, payload: JsonObject) -> None:
        """Revert an event, except its text: see `_move_back`."""
        if is_step(kind):
            self.steps.revert(step_event(kind, payload))
        if kind == AgentStarted.TYPE:
            if payload["attempt"] == 1:
                self.status = RunStatus.QUEUED
        elif kind == AgentAsking.TYPE:
            self.questions.pop(payload["question_id"], None)
        elif kind == AgentAnswered.TYPE:
            question_id = payload["question_id"]
            known = self.asked.get(question_id, {"question_id": question_id})
            self.questions[question_id] = {**known, "truncated": True}
        elif kind == AgentCompleted.TYPE:
            self.is_listed = True
        elif kind == UserMessage.TYPE:
            self.is_listed = False


@define(eq=False)
class _Step:
    """An event of the room, between a part and the position of the connection.

    Attributes:
        follows: Whether the connection gets it after the snapshot.
        is_behind_loss: Whether events are missing before it.
    """

    event: RoomEvent
    follows: bool
    is_behind_loss: bool = False

    @property
    def kind(self) -> str:
        """Its type; empty in place of lost events."""
        return "" if self.event.is_missing else str(self.event.event["type"])

    @property
    def payload(self) -> JsonObject:
        """Its payload."""
        payload: JsonObject = {} if self.event.is_missing else self.event.event["payload"]
        return payload

    @property
    def run_id(self) -> RunId:
        """Its run; empty in place of lost events."""
        return RunId(self.payload.get("run_id", ""))

    def loses(self, run: _Run) -> bool:
        """Whether events of a run may be missing before it."""
        if self.is_behind_loss:
            return True
        node = self.event.missing_node
        return self.event.is_missing and (node is None or run.node in {None, node})


class ThreadSnapshot:
    """The runs of a thread; see the module.

    Args:
        parts: The parts of all nodes.
    """

    def __init__(self, parts: Sequence[ThreadPart]) -> None:
        self._parts = parts
        self._events: list[RoomEvent] = []

    @property
    def offset(self) -> int:
        """The newest offset that any part includes; 0 for none."""
        return max((part.offset for part in self._parts), default=0)

    def apply(self, event: RoomEvent) -> None:
        """Apply an event; no effect if it is included. Called in the order of offsets."""
        self._events.append(event)

    def runs(self, without: Sequence[RoomEvent] = ()) -> tuple[JsonObject, ...]:
        """Return the runs for `room_joined.runs`, waiting ones last.

        See `rooms.snapshot.Snapshot`.
        """
        applied = {(event.epoch, event.offset) for event in self._events}
        older = [event for event in without if (event.epoch, event.offset) not in applied]
        follow = {(event.epoch, event.offset) for event in without}
        events = [
            _Step(event, (event.epoch, event.offset) in follow) for event in older + self._events
        ]
        _note_losses(events[len(older) :])
        runs = self._runs_of_parts(events)
        for run in runs.values():
            _move_back(run, events)
            _move_on(run, events[run.included :])
        runs |= _runs_of_events(events, known=runs.keys())
        listed = [run for run in runs.values() if run.is_listed]
        return _listed(sorted(listed, key=lambda run: run.status is RunStatus.QUEUED))

    def _runs_of_parts(self, events: Sequence[_Step]) -> dict[RunId, _Run]:
        runs: dict[RunId, _Run] = {}
        for part in self._parts:
            included = _included(part, events)
            for is_listed, of_part in ((False, part.ended), (True, part.runs)):
                for each in of_part:
                    runs[each.run_id] = _Run.of(each, part.node, included, is_listed=is_listed)
        return runs


def _note_losses(events: Sequence[_Step]) -> None:
    """Note where events are missing in a sequence that should have all offsets."""
    for before, each in pairwise(events):
        place = (before.event.epoch, before.event.offset + 1)
        each.is_behind_loss = place != (each.event.epoch, each.event.offset)


def _included(part: ThreadPart, events: Sequence[_Step]) -> int:
    """Return the number of events that a part includes: all up to its offset."""
    for index in range(len(events), 0, -1):
        event = events[index - 1].event
        if event.epoch == part.epoch and event.offset <= part.offset:
            return index
    return 0


def _move_on(run: _Run, events: Sequence[_Step]) -> None:
    """Apply the events that the part of a run does not include, and that do not follow."""
    for each in events:
        if each.follows:
            continue
        if each.loses(run):
            run.lose_text()
        if each.run_id == run.run_id:
            run.apply(each.kind, each.payload)


def _move_back(run: _Run, events: Sequence[_Step]) -> None:
    """Revert the events that the part of a run includes, and that follow."""
    text, is_cut = run.text.text, run.text.is_cut
    length = len(text)
    is_known = True  # whether no event is missing between this one and the reverted ones
    for each in reversed(events[: run.included]):
        if each.follows and each.run_id == run.run_id:
            if each.kind == PartialResult.TYPE:
                piece = each.payload["content"]
                run.length -= len(piece)
                start = length - len(piece)
                if is_known and start >= 0 and text.startswith(piece, start):
                    length = start
                else:  # it is before the kept text, or its position is unknown
                    length, is_cut = 0, True
            else:
                run.revert(each.kind, each.payload)
        is_known = is_known and not each.loses(run)
    run.text = TextTail(RUNS_BYTES, [text[:length]], is_cut=is_cut)


def _runs_of_events(events: Sequence[_Step], known: Container[RunId]) -> dict[RunId, _Run]:
    """Return the runs that no part has: they were confirmed after the part of their node."""
    runs: dict[RunId, _Run] = {}
    for index, each in enumerate(events):
        if each.kind == UserMessage.TYPE and each.run_id not in known and not each.follows:
            # The start of the run has the name of the agent.
            run = _Run(each.run_id, each.payload["message_id"], "", RunStatus.QUEUED)
            _move_on(run, events[index + 1 :])
            runs[run.run_id] = run
    return runs


def _listed(runs: Sequence[_Run]) -> tuple[JsonObject, ...]:
    """Return runs as `room_joined` lists them."""
    questions, steps = QuestionList(), StepsList()
    listed = []
    for run, (content, is_cut) in zip(runs, fit_texts([run.text for run in runs]), strict=True):
        fields: JsonObject = {
            "run_id": run.run_id,
            "message_id": run.message_id,
            "agent_name": run.agent_name,
            "status": run.status,
            "content": content,
            "questions": questions.fit(run.questions.values()),
        }
        if is_cut:
            fields["truncated"] = True
            if run.length > len(content) and not run.has_lost:
                fields["omitted"] = run.length - len(content)
        fitting = steps.fit(orjson.loads(run.steps.encode()))
        if fitting:
            fields["steps"] = placed_in(content, run.length, fitting)
        listed.append(fields)
    return tuple(listed)
