"""Messages between a supervisor and its workers, and the reports that it gathers."""

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
import trio
from attrs import define, field
from structlog.testing import capture_logs
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio.cli.workers import channel as channels
from netra_trio.cli.workers import gathering as gatherings
from netra_trio.cli.workers import group as groups
from netra_trio.cli.workers.channel import Channel, Message, encoded
from netra_trio.cli.workers.gathering import Gathering
from netra_trio.cli.workers.group import Group
from netra_trio.endpoints.overview import Topic
from netra_trio.telemetry.metrics import Gauges, Metrics
from netra_trio.telemetry.snapshot import Snapshot

PATIENCE = 100.0
GOOD = {"status": "healthy", "checks": {"store": "ok"}}


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[Channel, socket.socket]]:
    """Yield a channel, and the other end of its socket."""
    one, other = socket.socketpair()
    with one, other:
        yield Channel(one), other


# --- the channel


async def test_messages_both_ways() -> None:
    one, other = socket.socketpair()
    found: list[Message] = []
    with trio.fail_after(PATIENCE), one:
        first, second = Channel(one), Channel(other)
        async with trio.open_nursery() as nursery:

            def answer(message: Message) -> None:
                second.post({"number": message["number"] + 1, "text": "x" * 300_000})

            def keep(message: Message) -> None:
                found.append(message)
                if len(found) == 2:
                    other.close()

            nursery.start_soon(first.run, keep)
            async with trio.open_nursery() as others:
                others.start_soon(second.run, answer)
                assert first.post({"number": 1})
                assert first.post({"number": 10})
                while len(found) < 2:  # noqa: ASYNC110 - of another task
                    await trio.sleep(0.01)
                others.cancel_scope.cancel()
        assert [message["number"] for message in found] == [2, 11]
        assert {len(message["text"]) for message in found} == {300_000}


@pytest.mark.parametrize("sent", [b"", b"\0\0", b"\0\0\0\x09{", b"\xff\xff\xff\xff{}"])
async def test_the_end_within_a_message(sent: bytes) -> None:
    async with pair() as (channel, other):
        other.sendall(sent)
        if not sent.startswith(b"\xff"):  # too long a message ends the channel by itself
            other.close()
        found: list[Message] = []
        with trio.fail_after(PATIENCE):
            await channel.run(found.append)
        assert found == []
        assert not channel.post({"type": "late"})


async def test_a_message_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    message = {"text": "x" * 100}
    size = len(encoded(message)) - 4
    async with pair() as (channel, other):
        monkeypatch.setattr(channels, "MESSAGE_BYTES", size + 4)
        assert channel.post(message)
        assert not channel.post({"text": "x" * 101})
        monkeypatch.setattr(channels, "MESSAGE_BYTES", size)
        other.sendall(encoded(message) + encoded({"text": "x" * 101}))
        found: list[Message] = []
        with trio.fail_after(PATIENCE):
            await channel.run(found.append)  # ends at the second one
        assert found == [message]


async def test_a_process_that_does_not_read_delays_nothing() -> None:
    async with pair() as (channel, other), trio.open_nursery() as nursery:
        nursery.start_soon(channel.run, lambda _: None)
        posted = 0
        while channel.post({"text": "x" * 100_000}):
            posted += 1
            await wait_all_tasks_blocked()
        assert channels.WAITING <= posted < 2 * channels.WAITING
        other.close()  # the writer waits, and notices this


# --- a worker in its group


def group_of(channel: Channel, report: Callable[[Topic], Awaitable[Any]] | None = None) -> Group:
    async def nothing(topic: Topic) -> Any:
        return None

    return Group(channel, report or nothing)


async def received(other: socket.socket) -> Message:
    """Return the next message at the other end."""
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(other))
    length = int.from_bytes(await stream.receive_some(4))
    return orjson.loads(await stream.receive_some(length))  # type: ignore[no-any-return]


async def test_requests_at_the_same_time_share_a_question() -> None:
    async with pair() as (channel, other), trio.open_nursery() as nursery:
        other.setblocking(False)
        group, bodies = group_of(channel), list[Any]()
        nursery.start_soon(group.run)

        async def ask() -> None:
            bodies.append(await group.merged("health"))

        async with trio.open_nursery() as asking:
            for _ in range(3):
                asking.start_soon(ask)
            await wait_all_tasks_blocked()
            assert await received(other) == {"type": "ask", "topic": "health"}
            with pytest.raises(BlockingIOError):
                other.recv(1)
            other.sendall(encoded({"type": "merged", "topic": "health", "body": GOOD}))
        assert bodies == [GOOD] * 3
        other.sendall(encoded({"type": "merged", "topic": "health", "body": GOOD}))  # unasked
        other.sendall(encoded({"type": "nodes", "nodes": ["own_1", "own_2"]}))
        other.sendall(encoded({"type": "report", "topic": "metrics"}))
        assert await received(other) == {"type": "report", "topic": "metrics", "body": None}
        assert group.nodes == {"own_1", "own_2"}
        nursery.cancel_scope.cancel()


async def test_a_report_that_fails_is_logged_and_empty() -> None:
    async def fail(topic: Topic) -> Any:
        raise ValueError(topic)

    async with pair() as (channel, other), trio.open_nursery() as nursery:
        other.setblocking(False)
        with capture_logs() as logged:
            nursery.start_soon(group_of(channel, fail).run)
            other.sendall(encoded({"type": "report", "topic": "health"}))
            assert await received(other) == {"type": "report", "topic": "health", "body": None}
        assert [line["event"] for line in logged] == ["report_failed"]
        nursery.cancel_scope.cancel()


async def test_a_supervisor_that_has_ended_is_not_asked() -> None:
    async with pair() as (channel, other), trio.open_nursery() as nursery:
        group = group_of(channel)
        nursery.start_soon(group.run)
        asked: list[Any] = []

        async def ask() -> None:
            asked.append(await group.merged("health"))

        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        other.close()
        with trio.fail_after(PATIENCE):
            while not asked:  # noqa: ASYNC110 - of another task
                await trio.sleep(0.01)
            assert await group.merged("health") is None
        assert asked == [None]


async def test_a_supervisor_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "ANSWER_SECONDS", 0.05)
    async with pair() as (channel, other), trio.open_nursery() as nursery:
        other.setblocking(False)
        group = group_of(channel)
        nursery.start_soon(group.run)
        with trio.fail_after(PATIENCE):
            assert await group.merged("health") is None
            assert await group.merged("health") is None
            assert (await received(other))["type"] == "ask"
            with pytest.raises(BlockingIOError):
                other.recv(1)  # the first question is still open
            with trio.move_on_after(0.01) as impatient:
                await group.merged("health")  # a client that leaves does not end the question
            assert impatient.cancelled_caught
            other.sendall(encoded({"type": "merged", "topic": "health", "body": GOOD}))
            while group._questions:  # noqa: ASYNC110 - of another task
                await trio.sleep(0.01)
            nursery.start_soon(group.merged, "health")
            assert (await received(other))["type"] == "ask"
        nursery.cancel_scope.cancel()


# --- gathering


@define(eq=False)
class Worker:
    """A worker that notes what it is sent; it is a `Channel` without a socket."""

    sent: list[Message] = field(factory=list)
    takes: bool = True

    def post(self, message: Message) -> bool:
        if self.takes:
            self.sent.append(message)
        return self.takes

    @property
    def merged(self) -> list[Any]:
        """The merged reports of all workers that it received."""
        return [message["body"] for message in self.sent if message["type"] == "merged"]


class Gathered:
    """A gathering of some workers, numbered from 1."""

    def __init__(self, nursery: trio.Nursery, count: int, expected: int | None = None) -> None:
        self.all = Gathering(nursery, expected or count)
        self.workers = {number: Worker() for number in range(1, count + 1)}
        for number, worker in self.workers.items():
            self.all.add(number, worker)  # type: ignore[arg-type]

    def ask(self, number: int, topic: Topic = "health") -> None:
        self.all.receive(number, {"type": "ask", "topic": topic})

    def tell(self, number: int, body: Any, topic: Topic = "health") -> None:
        self.all.receive(number, {"type": "report", "topic": topic, "body": body})


def metrics_of(retries: int, **gauges: Any) -> Any:
    metrics = Metrics(read_gauges=lambda: Gauges(**gauges))
    metrics.retries = retries
    return Snapshot.take(metrics, ()).to_json()


def retries(body: Any) -> tuple[float, dict[str, float]]:
    snapshot = Snapshot.of_json(body)
    states = {
        labels[0]: float(number)  # type: ignore[arg-type]
        for labels, number in snapshot.values["netra_workers"].items()
    }
    number: Any = snapshot.values["netra_run_retries_total"][()]
    return number, states


async def test_all_workers_are_asked_once(nursery: trio.Nursery) -> None:
    gathered = Gathered(nursery, 3)
    gathered.ask(1)
    gathered.ask(2)
    await wait_all_tasks_blocked()
    for worker in gathered.workers.values():
        assert worker.sent == [{"type": "report", "topic": "health"}]
    for number in (1, 2, 3):
        gathered.tell(number, GOOD)
    await wait_all_tasks_blocked()
    expected = {**GOOD, "workers": {"ready": 3, "expected": 3}}
    merged = [worker.merged for worker in gathered.workers.values()]
    assert merged == [[expected], [expected], []]
    gathered.tell(1, GOOD)  # an answer that no call waits for
    gathered.tell(9, GOOD)


async def test_a_silent_worker_delays_by_a_second(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    gathered = Gathered(nursery, 3)
    gathered.workers[3].takes = False  # its socket is full
    since = trio.current_time()
    gathered.ask(1, "metrics")
    gathered.tell(1, metrics_of(5), "metrics")
    await trio.sleep(gatherings.OTHERS_SECONDS - 0.01)
    assert not gathered.workers[1].merged
    await trio.sleep(0.02)
    (body,) = gathered.workers[1].merged
    assert retries(body) == (5, {"ready": 1, "starting": 0, "silent": 2})
    assert trio.current_time() - since < 1.1

    # It is not asked again before it has answered; its late answer to that counts.
    gathered.ask(1, "metrics")
    assert len(gathered.workers[2].sent) == 1
    gathered.tell(1, metrics_of(6), "metrics")
    gathered.tell(2, metrics_of(10), "metrics")
    await trio.sleep(gatherings.OTHERS_SECONDS + 0.01)
    assert retries(gathered.workers[1].merged[-1])[0] == 16

    # Its counters stay in the sums while it is silent, and after it has ended.
    gathered.ask(1, "metrics")
    gathered.tell(1, metrics_of(6), "metrics")
    await trio.sleep(gatherings.OTHERS_SECONDS + 0.01)
    states = {"ready": 1, "starting": 0, "silent": 2}
    assert retries(gathered.workers[1].merged[-1]) == (16, states)
    gathered.all.remove(2)
    gathered.all.remove(2)
    gathered.all.remove(3)
    gathered.ask(1, "metrics")
    gathered.tell(1, metrics_of(6), "metrics")
    await wait_all_tasks_blocked()
    states = {"ready": 1, "starting": 2, "silent": 0}
    assert retries(gathered.workers[1].merged[-1]) == (16, states)


async def test_a_worker_that_ends_after_its_answer_counts_once(nursery: trio.Nursery) -> None:
    gathered = Gathered(nursery, 2)
    gathered.ask(1, "metrics")
    gathered.tell(2, metrics_of(3, connections=7), "metrics")
    gathered.all.remove(2)
    gathered.tell(1, metrics_of(1, connections=1), "metrics")
    await wait_all_tasks_blocked()
    (body,) = gathered.workers[1].merged
    assert retries(body) == (4, {"ready": 1, "starting": 1, "silent": 0})
    assert Snapshot.of_json(body).values["netra_connections"] == {(): 1}


async def test_no_answer_at_all(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    gathered = Gathered(nursery, 1)
    gathered.ask(1)
    await trio.sleep(gatherings.FIRST_SECONDS + 0.01)
    gathered.ask(1)
    gathered.tell(1, None)  # it has none
    await wait_all_tasks_blocked()
    assert gathered.workers[1].merged == [None, None]


async def test_a_report_that_cannot_be_merged(nursery: trio.Nursery) -> None:
    gathered = Gathered(nursery, 1)
    with capture_logs() as logged:
        gathered.ask(1)
        gathered.tell(1, {"status": "healthy"})
        await wait_all_tasks_blocked()
    assert gathered.workers[1].merged == [None]
    assert [line["event"] for line in logged] == ["merge_failed"]


async def test_the_asker_has_ended(nursery: trio.Nursery) -> None:
    gathered = Gathered(nursery, 2)
    gathered.ask(1)
    gathered.all.remove(1)
    gathered.tell(2, GOOD)
    await wait_all_tasks_blocked()
    assert not gathered.workers[1].merged
