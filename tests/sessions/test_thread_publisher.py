"""The events of one watched thread on their way to its room: order, merging, bounds, failures."""

from contextvars import ContextVar
from typing import Any

import pytest
import trio
from attrs import define, field
from trio.testing import MockClock

from netra_trio.broker.base import Delivery, HistoryLimits, Published
from netra_trio.broker.memory import MemoryBroker, MemoryServer
from netra_trio.errors import BrokerUnavailable
from netra_trio.ids import NodeId, RunId, SessionId
from netra_trio.rooms.event import RoomEvent
from netra_trio.sessions.thread_publisher import (
    MERGED_BYTES,
    RETRY_SECONDS,
    WAITING_BYTES,
    WAITING_EVENTS,
    Place,
    ThreadPublisher,
)

NODE, ROOM = NodeId("node"), "thread:t"
RUN, OTHER = RunId("r1"), RunId("r2")
SESSION = SessionId("s1")
OWNER: ContextVar[str] = ContextVar("OWNER", default="node")


@define(eq=False)
class Broker:
    """A broker in memory; `gate` holds a call back, `failure` makes calls fail.

    Attributes:
        is_done: Whether a failing call publishes the event all the same.
    """

    memory: MemoryBroker = field(factory=lambda: MemoryBroker(NODE, MemoryServer()))
    gate: trio.Event | None = None
    failure: Exception | None = None
    is_done: bool = False
    calls: int = 0

    async def publish(
        self, room: str, data: bytes, *, limits: HistoryLimits, key: str | None = None
    ) -> Published:
        self.calls += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is not None and not self.is_done:
            raise self.failure
        published = await self.memory.publish(room, data, limits=limits, key=key)
        if self.failure is not None:
            raise self.failure
        return published

    async def events(self) -> list[RoomEvent]:
        """Return the events that members receive next."""
        received: list[Delivery] = []
        with trio.move_on_after(10):
            while True:
                received += await self.memory.receive()
        return [RoomEvent.unpack(each) for each in received]

    async def shown(self) -> list[Any]:
        """Return the next events: the text of deltas, the payload of others, None for a gap."""
        return [None if each.is_missing else _shown(each.event) for each in await self.events()]


def _shown(event: Any) -> Any:
    payload = event["payload"]
    return payload["content"] if event["type"] == "partial_result" else payload


@define(eq=False)
class Scene:
    broker: Broker
    publisher: ThreadPublisher

    def say(self, text: str, run: RunId = RUN, session: SessionId | None = SESSION) -> None:
        self.publisher.add_delta(run, text, len(text.encode()), session)


async def make_scene(nursery: trio.Nursery) -> Scene:
    broker: Any = Broker()
    await broker.memory.subscribe(ROOM)
    publisher = ThreadPublisher(
        ROOM,
        broker,
        node=NODE,
        limits=HistoryLimits(events=10_000),
        wall_clock=trio.current_time,
        start_soon=nursery.start_soon,
    )
    return Scene(broker, publisher)


@pytest.fixture
async def scene(nursery: trio.Nursery) -> Scene:
    return await make_scene(nursery)


async def test_events_are_published_in_order_with_their_session(
    scene: Scene, autojump_clock: MockClock
) -> None:
    scene.publisher.add("agent_started", {"run_id": RUN}, SESSION)
    scene.say("a")
    scene.say("b", session=None)
    await trio.sleep(1)
    scene.publisher.add("agent_completed", {"run_id": RUN}, None)
    assert not scene.publisher.is_idle
    assert (await scene.publisher.flush()).offset == 4
    events = await scene.broker.events()
    assert [each.event["type"] for each in events] == [
        "agent_started",
        "partial_result",
        "partial_result",
        "agent_completed",
    ]
    assert [each.session_id for each in events] == [SESSION, SESSION, None, None]
    assert [each.offset for each in events] == [1, 2, 3, 4]
    assert [each.timestamp for each in events] == [0, 0, 0, 1]


async def test_deltas_are_merged_while_an_event_is_on_its_way(
    scene: Scene, autojump_clock: MockClock
) -> None:
    scene.broker.gate = trio.Event()
    scene.say("a")
    await trio.sleep(1)
    for text in ("b", "é", "d"):
        scene.say(text)
    scene.say("x", OTHER)
    scene.say("e")
    scene.publisher.add("agent_thinking", {}, SESSION)
    scene.say("f")
    assert scene.broker.calls == 1
    scene.broker.gate.set()
    assert await scene.broker.shown() == ["a", "béd", "x", "e", {}, "f"]


async def test_merged_deltas_have_at_most_64_kib(scene: Scene, autojump_clock: MockClock) -> None:
    scene.broker.gate = trio.Event()
    scene.say("a")
    await trio.sleep(1)
    scene.say("b" * (MERGED_BYTES - 1))
    scene.say("c")
    scene.say("d")
    scene.broker.gate.set()
    texts = await scene.broker.shown()
    assert [len(text) for text in texts] == [1, MERGED_BYTES, 1]


@pytest.mark.parametrize("extra", [0, 1])
async def test_at_most_1000_events_wait(
    scene: Scene, autojump_clock: MockClock, extra: int
) -> None:
    scene.broker.gate = trio.Event()
    scene.say("first")
    await trio.sleep(1)
    for number in range(WAITING_EVENTS + extra):
        scene.publisher.add("agent_thinking", number, None)
    scene.broker.gate.set()
    kept = [None, WAITING_EVENTS] if extra else list(range(WAITING_EVENTS))
    assert await scene.broker.shown() == ["first", *kept]


@pytest.mark.parametrize("extra", [0, 1])
async def test_at_most_a_mebibyte_waits(
    scene: Scene, autojump_clock: MockClock, extra: int
) -> None:
    scene.broker.gate = trio.Event()
    scene.say("first")
    await trio.sleep(1)
    deltas = WAITING_BYTES // MERGED_BYTES
    for number in range(deltas):
        scene.say("x" * MERGED_BYTES, RunId(f"r{number}"))
    for _ in range(extra):
        scene.say("y", RunId(f"r{deltas - 1}"))
    scene.broker.gate.set()
    shown = await scene.broker.shown()
    assert shown[0] == "first"
    assert shown[1:] == ([None, "y"] if extra else ["x" * MERGED_BYTES] * deltas)


async def test_a_delta_that_could_be_merged_counts_against_the_bytes_too(
    scene: Scene, autojump_clock: MockClock
) -> None:
    scene.broker.gate = trio.Event()
    scene.say("first")
    await trio.sleep(1)
    for number in range(15):
        scene.say("x" * MERGED_BYTES, RunId(f"r{number}"))
    scene.say("z" * (MERGED_BYTES - 1))
    scene.say("y")  # to the last byte
    scene.say("w")
    scene.broker.gate.set()
    assert await scene.broker.shown() == ["first", None, "w"]


async def test_an_agent_continues_while_the_broker_does_not_answer(
    scene: Scene, autojump_clock: MockClock
) -> None:
    scene.broker.failure = BrokerUnavailable("down")
    scene.say("lost")
    await trio.sleep(10 * RETRY_SECONDS)
    scene.say("kept")
    scene.say(" and merged")
    scene.broker.failure = None
    assert await scene.broker.shown() == [None, "kept and merged"]
    assert (await scene.publisher.flush()).offset == 2


async def test_an_event_that_was_published_all_the_same_is_followed_by_a_gap(
    scene: Scene, autojump_clock: MockClock
) -> None:
    scene.broker.failure, scene.broker.is_done = BrokerUnavailable("no answer"), True
    scene.say("there")
    await trio.sleep(RETRY_SECONDS / 2)
    scene.broker.failure = None
    assert await scene.broker.shown() == ["there", None]


async def test_an_unexpected_failure_ends_neither_the_node_nor_the_publisher(
    scene: Scene, autojump_clock: MockClock
) -> None:
    scene.broker.failure = RuntimeError("a fault")
    scene.say("lost")
    await trio.sleep(RETRY_SECONDS / 2)
    scene.broker.failure = None
    scene.say("kept")
    assert await scene.broker.shown() == [None, "kept"]


async def test_a_flush_waits_for_earlier_events(scene: Scene, autojump_clock: MockClock) -> None:
    assert await scene.publisher.flush() == Place()
    scene.broker.gate = trio.Event()
    scene.say("a")
    places: list[Place] = []

    async def flush() -> None:
        places.append(await scene.publisher.flush())

    async with trio.open_nursery() as nursery:
        await trio.sleep(1)
        nursery.start_soon(flush)
        await trio.sleep(1)
        scene.say("b")
        await trio.sleep(1)
        assert not places
        scene.broker.gate.set()
    assert [place.offset for place in places] == [1]
    assert (await scene.publisher.flush()).offset == 2
    assert await scene.broker.shown() == ["a", "b"]


async def test_a_flush_passes_although_the_events_before_it_were_dropped(
    scene: Scene, autojump_clock: MockClock
) -> None:
    scene.broker.gate = trio.Event()
    scene.say("first")
    places: list[Place] = []

    async def flush() -> None:
        places.append(await scene.publisher.flush())

    async with trio.open_nursery() as nursery:
        await trio.sleep(1)
        scene.say("dropped")
        nursery.start_soon(flush)
        await trio.sleep(1)
        scene.publisher.add_missing()
        scene.broker.gate.set()
    assert [place.offset for place in places] == [2]
    assert await scene.broker.shown() == ["first", None]


async def test_a_cancelled_flush_changes_nothing(scene: Scene, autojump_clock: MockClock) -> None:
    scene.broker.gate = trio.Event()
    scene.say("a")
    with trio.move_on_after(1):
        await scene.publisher.flush()
    scene.broker.gate.set()
    scene.say("b")
    assert await scene.broker.shown() == ["a", "b"]


async def test_a_closed_publisher_publishes_waiting_events_without_retries(
    scene: Scene,
    autojump_clock: MockClock,
) -> None:
    scene.say("a")
    scene.publisher.close()
    assert await scene.broker.shown() == ["a"]
    scene.broker.failure = BrokerUnavailable("down")
    scene.say("b")
    scene.say("c", OTHER)
    await trio.sleep(10 * RETRY_SECONDS)
    assert scene.publisher.is_idle
    assert scene.broker.calls == 2
    scene.broker.failure = None
    scene.publisher.reopen()
    scene.publisher.add_missing()
    assert await scene.broker.shown() == [None]


async def test_the_rest_is_published_when_the_tasks_of_the_node_are_cancelled(
    autojump_clock: MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        scene = await make_scene(nursery)
        scene.broker.gate = trio.Event()
        scene.say("on its way")
        await trio.sleep(1)
        scene.say("waits")
        nursery.cancel_scope.cancel()
        scene.broker.gate.set()
        with trio.CancelScope(shield=True):
            await scene.publisher.finish()
            assert scene.publisher.is_idle
            assert await scene.broker.shown() == [None, "waits"]
            await scene.publisher.finish()  # with nothing to do


async def test_the_rest_is_published_by_a_task_that_continues(
    scene: Scene, autojump_clock: MockClock
) -> None:
    scene.say("a")
    scene.say("b", OTHER)
    await scene.publisher.finish()
    assert await scene.broker.shown() == ["a", "b"]


async def test_the_node_of_a_loss_is_known(scene: Scene, autojump_clock: MockClock) -> None:
    scene.publisher.add_missing()
    (event,) = await scene.broker.events()
    assert (event.is_missing, event.missing_node) == (True, NODE)


async def test_the_task_of_a_publisher_has_the_context_of_the_node(
    scene: Scene, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    publish = MemoryBroker.publish

    async def noting(self: MemoryBroker, *args: Any, **options: Any) -> Published:
        seen.append(OWNER.get())
        return await publish(self, *args, **options)

    monkeypatch.setattr(MemoryBroker, "publish", noting)
    OWNER.set("run")
    scene.say("a")
    await scene.publisher.flush()
    assert seen == ["node"]
