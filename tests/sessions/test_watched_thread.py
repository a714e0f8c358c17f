"""The state that a watched thread keeps of its runs, and its bounds."""

from collections.abc import Sequence
from typing import Any

import trio
from attrs import define, field
from orjson import dumps
from trio.testing import MockClock

from netra_trio.broker.base import HistoryLimits
from netra_trio.broker.memory import MemoryBackend, MemoryServer
from netra_trio.ids import (
    CorrelationId,
    MessageId,
    NodeId,
    QuestionId,
    RunId,
    SessionId,
    ThreadId,
    UserId,
)
from netra_trio.protocol.fields import JsonObject
from netra_trio.protocol.messages import AgentAsking, AgentThinking, QuestionKind, RunStatus
from netra_trio.protocol.text import EVENT_BYTES, TextTail
from netra_trio.rooms.event import RoomEvent
from netra_trio.sessions.thread_publisher import ThreadPublisher
from netra_trio.sessions.transcript import QUESTIONS_BYTES, RUNS_BYTES
from netra_trio.sessions.watched_thread import ENDED_RUNS, RunMirror, WatchedThread
from netra_trio.stores.base import NewMessage

NODE, ROOM, SESSION = NodeId("node"), "thread:t", SessionId("s")


@define(eq=False)
class Run:
    """A live run."""

    name: str
    text: str = ""
    is_confirmed: bool = True
    status: RunStatus = RunStatus.RUNNING
    session_id: SessionId | None = SESSION
    open_questions: Sequence[JsonObject] = ()
    content: str = "hello"
    replaces: MessageId | None = None
    mirror: RunMirror | None = None
    steps: bytes | None = None

    @property
    def message(self) -> NewMessage:
        return NewMessage(
            UserId("alice"),
            ThreadId("t"),
            MessageId(f"m-{self.name}"),
            RunId(self.name),
            "agent",
            CorrelationId("c"),
            None,
            b"",
            self.content,
            1.0,
            replaces=self.replaces,
        )

    @property
    def output(self) -> "Run":
        return self

    @property
    def newest_text(self) -> TextTail:
        return TextTail(RUNS_BYTES, [self.text])

    @property
    def length(self) -> int:
        return len(self.text)

    def set_mirror(self, mirror: RunMirror | None) -> None:
        self.mirror = mirror


@define(eq=False)
class Scene:
    backend: MemoryBackend = field(factory=lambda: MemoryBackend(NODE, MemoryServer()))

    def thread(self, nursery: trio.Nursery) -> WatchedThread:
        publisher = ThreadPublisher(
            ROOM,
            self.backend.broker,
            node=NODE,
            limits=HistoryLimits(),
            wall_clock=lambda: 1.0,
            start_soon=nursery.start_soon,
        )
        return WatchedThread(NODE, publisher)

    async def events(self) -> list[Any]:
        """Return the published events, None for one that stands for lost ones."""
        history = await self.backend.broker.history(ROOM, epoch="", after=0)
        whole = await self.backend.broker.history(ROOM, epoch=history.epoch, after=0)
        events = [RoomEvent.unpack(each) for each in whole.events]
        return [None if each.is_missing else each.event for each in events]


async def test_a_message_is_published_at_its_confirmation(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    scene = Scene()
    thread = scene.thread(nursery)
    thread.begin([], may_miss=False)
    run = Run("r", is_confirmed=False, replaces=MessageId("m-0"))
    thread.add(run)
    assert run.mirror is not None
    assert (await thread.part(with_ended=False)).runs == []  # it may still be refused
    run.is_confirmed = True
    run.mirror.confirm()
    long = Run("long", content="x" * (EVENT_BYTES + 1))
    thread.add(long)
    assert long.mirror is not None
    long.mirror.confirm()
    part = await thread.part(with_ended=False)
    assert [each.run_id for each in part.runs] == ["r", "long"]
    assert (part.node, part.offset) == (NODE, 2)
    first, second = await scene.events()
    assert first == {
        "type": "user_message",
        "payload": {
            "message_id": "m-r",
            "run_id": "r",
            "user_id": "alice",
            "content": "hello",
            "replaces": "m-0",
        },
    }
    assert second["payload"]["truncated"] is True
    assert len(second["payload"]["content"]) < EVENT_BYTES


async def test_mirroring_that_begins_in_mid_run_may_miss_events(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    for runs, may_miss, events in (
        ([], False, []),
        ([], True, [None]),
        ([Run("r", is_confirmed=False)], False, []),
        ([Run("r")], False, [None]),
    ):
        scene = Scene()
        thread = scene.thread(nursery)
        thread.begin(runs, may_miss=may_miss)
        part = await thread.part(with_ended=True)
        assert await scene.events() == events
        assert part.offset == len(events)


async def test_a_thread_that_is_not_watched_any_more_mirrors_nothing(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    scene = Scene()
    thread, runs = scene.thread(nursery), [Run("a"), Run("b")]
    thread.begin(runs, may_miss=False)
    thread.end()
    assert [run.mirror for run in runs] == [None, None]
    thread.begin(runs[1:], may_miss=False)
    (part,) = (await thread.part(with_ended=False)).runs
    assert part.run_id == "b"


async def test_runs_that_have_ended_are_kept_for_a_while(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    scene = Scene()
    thread = scene.thread(nursery)
    thread.begin([], may_miss=False)
    for number in range(ENDED_RUNS + 1):
        run = Run(f"r{number}", text=f"text {number}")
        thread.add(run)
        assert run.mirror is not None
        mirror = run.mirror
        mirror.detach()
        mirror.end(b'{"run_id":"r"}')
    part = await thread.part(with_ended=True)
    assert [each.run_id for each in part.ended] == [f"r{n}" for n in range(1, ENDED_RUNS + 1)]
    assert part.ended[0].content == "text 1"
    assert (await thread.part(with_ended=False)).ended == ()
    # At most 192 KiB of text, the newest ones whole.
    for name, size in (("long", RUNS_BYTES - 10), ("short", 20)):
        run = Run(name, text="x" * size)
        thread.add(run)
        assert run.mirror is not None
        run.mirror.end(b"{}")
    ended = (await thread.part(with_ended=True)).ended
    sizes = [(len(each.content), each.is_cut) for each in ended]
    assert sizes[-2:] == [(RUNS_BYTES - 20, True), (20, False)]
    assert sizes[:-2] == [(0, True)] * (ENDED_RUNS - 2)


async def test_the_questions_that_were_seen_are_known_without_their_texts(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    scene = Scene()
    thread = scene.thread(nursery)
    opened = {"question_id": "q1", "kind": "question", "prompt": "?", "expires_at": 9.0}
    run = Run("r", open_questions=[opened])
    thread.begin([run], may_miss=False)
    assert run.mirror is not None
    run.mirror.add(AgentThinking(RunId("r"), "hm"))
    kind = QuestionKind.APPROVAL
    run.mirror.add(AgentAsking(RunId("r"), QuestionId("q2"), kind, "!", 8.0))
    (part,) = (await thread.part(with_ended=False)).runs
    assert part.questions == [opened]
    assert part.asked == (
        {"question_id": "q1", "kind": "question", "expires_at": 9.0, "truncated": True},
        {"question_id": "q2", "kind": "approval", "expires_at": 8.0, "truncated": True},
    )


async def test_the_runs_of_a_part_share_the_limits(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    scene = Scene()
    thread = scene.thread(nursery)
    question = {
        "question_id": "q",
        "kind": "question",
        "prompt": "?" * (QUESTIONS_BYTES // 2),
        "expires_at": 9.0,
    }
    runs = [Run(name, name * RUNS_BYTES, open_questions=[question]) for name in "ab"]
    thread.begin(runs, may_miss=False)
    first, second = (await thread.part(with_ended=False)).runs
    assert len(first.content) == len(second.content) == RUNS_BYTES // 2
    assert first.is_cut
    assert first.questions == [question]
    assert "prompt" not in second.questions[0]
    assert second.questions[0]["truncated"] is True


async def test_the_steps_of_runs_and_of_ended_ones_are_limited(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    scene = Scene()
    thread = scene.thread(nursery)
    step = {"type": "thought", "at": 2, "thought": "x" * 15_000}
    runs = [Run(name, "text", steps=dumps([step])) for name in "abcdef"]
    thread.begin(runs, may_miss=False)
    listed = (await thread.part(with_ended=False)).runs
    assert [list(run.steps) for run in listed] == [[step]] * 4 + [[], []]
    assert {run.length for run in listed} == {4}
    for run in runs:
        assert run.mirror is not None
        run.mirror.end(b"{}")
        run.mirror.detach()
    ended = (await thread.part(with_ended=True)).ended
    assert [len(run.steps) for run in ended] == [0, 0, 1, 1, 1, 1]
