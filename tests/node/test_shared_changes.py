"""Changes of threads are sent to the sessions of a user at other nodes."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from support.devices import call, changed, converse, devices, history, threads
from support.memory import Client, Frame
from support.shared_nodes import LinkedNode, open_nodes
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio.agents.run import Run
from netra_trio.ids import UserId
from netra_trio.node import shared_changes
from netra_trio.node.shared_changes import RETRY_SECONDS
from netra_trio.node.thread_changes import COALESCE_SECONDS, COALESCE_SPREAD

ALICE = UserId("alice")


async def answer(run: Run) -> None:
    if run.content == "work":
        await run.emit("working")
        await trio.sleep(60)
    if run.content.startswith("title"):
        await run.set_title(run.content)
    await run.emit(f"about {run.content}")


@asynccontextmanager
async def two_nodes(
    count: int = 2, **options: Any
) -> AsyncIterator[tuple[Sequence[LinkedNode], Sequence[Client]]]:
    """Open nodes, each with a connection of one user."""
    async with (
        open_nodes(
            count, agents={"answer": answer}, heartbeat_interval_ms=3_600_000, **options
        ) as nodes,
        trio.open_nursery() as nursery,
    ):
        clients: list[Client] = []
        leave = trio.Event()

        async def hold(node: LinkedNode, opened: trio.Event) -> None:
            async with devices(node, 1) as (client,):
                clients.append(client)
                opened.set()
                await leave.wait()

        for node in nodes:
            opened = trio.Event()
            nursery.start_soon(hold, node, opened)
            await opened.wait()
        await trio.sleep(1)  # until each node has the others
        yield nodes, clients
        leave.set()


async def leave(client: Client) -> None:
    """Close a connection, and wait until its node does not listen for it any more."""
    client.peer.close()
    await client.done.wait()
    await trio.sleep(1)


def cut(node: LinkedNode, call_name: str) -> None:
    """Let all calls of this name fail, until `restore`."""

    async def check(name: str) -> None:
        node.link.is_cut = name == call_name

    node.link.on_call = check


def restore(node: LinkedNode) -> None:
    node.link.on_call = None
    node.link.is_cut = False


async def test_every_change_is_sent_at_all_nodes(autojump_clock: MockClock) -> None:
    async with two_nodes(3) as (_, (one, two, three)):
        begin = trio.current_time()
        await converse(one, "hello")
        for other in (two, three):
            told = await changed(other)
            assert (told["change"], told["thread"]["unread"]) == ("updated", 1)
        seconds = trio.current_time() - begin
        assert COALESCE_SECONDS * (1 - COALESCE_SPREAD) <= seconds <= COALESCE_SECONDS + 1e-6
        answered = (await history(two))[1]["message_id"]
        for request, kind in (
            ({"thread_id": "t", "title": "Mine"}, "rename_thread"),
            ({"thread_id": "t", "message_id": answered}, "mark_read"),
            ({"message_id": answered, "rating": "up"}, "feedback"),
            ({"thread_id": "t"}, "delete_thread"),
        ):
            begin = trio.current_time()
            reply = await call(two, kind, request)
            assert await changed(one) == reply
            assert await changed(three) == reply
            assert trio.current_time() == begin
        for client in (one, two, three):
            assert await client.sync() == []
            assert await threads(client) == []


async def test_a_title_by_an_agent_is_sent_at_all_nodes(autojump_clock: MockClock) -> None:
    async with two_nodes() as (_, (one, two)):
        await converse(one, "title of it")
        assert (await changed(two))["thread"]["title"] == "title of it"


async def test_sessions_of_one_node_and_of_another(autojump_clock: MockClock) -> None:
    async with two_nodes() as (nodes, (one, two)), devices(nodes[0], 1) as (beside,):
        await converse(one, "hello")
        assert await changed(beside) == await changed(two)
        await trio.sleep(1)
        for client in (one, beside, two):
            assert await client.sync() == []


async def test_another_user_gets_no_changes(autojump_clock: MockClock) -> None:
    async with two_nodes() as (nodes, (one, two)), devices(nodes[1], 1, user="bob") as (bob,):
        await converse(one, "hello")
        await changed(two)
        await trio.sleep(1)
        assert await bob.sync() == []


async def test_a_node_listens_while_a_session_is_attached(autojump_clock: MockClock) -> None:
    async with two_nodes() as ((first, second), (one, two)):
        subscribers = first.memory.server.subscribers
        [room] = [name for name in subscribers if name.startswith(":user:")]
        assert room == shared_changes.changes_room(ALICE)
        assert set(subscribers[room]) == {first.id, second.id}
        async with devices(second, 1):
            await leave(two)
            assert set(subscribers[room]) == {first.id, second.id}
        await trio.sleep(1)
        assert set(subscribers[room]) == {first.id}
        await leave(one)
        assert room not in subscribers
        assert room not in first.memory.server.rooms
        assert not first.node._threads._shared._links  # type: ignore[union-attr]


async def test_a_session_that_reconnects_at_once(autojump_clock: MockClock) -> None:
    async with two_nodes() as ((_, second), (one, two)):
        waiting, go_on = trio.Event(), trio.Event()

        async def delay(name: str) -> None:
            if name in {"subscribe", "unsubscribe"}:
                waiting.set()
                await go_on.wait()

        second.link.on_call = delay
        two.peer.close()
        await two.done.wait()
        await waiting.wait()
        async with devices(second, 1) as (again,):
            await wait_all_tasks_blocked()
            go_on.set()
            await trio.sleep(1)
            await converse(one, "hello")
            assert (await changed(again))["change"] == "updated"


async def test_a_list_is_read_once_changes_are_received(autojump_clock: MockClock) -> None:
    """So no change is missing between the list and the first change."""
    async with two_nodes() as ((_, second), (one, _)):
        await converse(one, "hello")
        go_on = trio.Event()

        async def delay(name: str) -> None:
            if name == "subscribe":
                await go_on.wait()

        second.link.on_call = delay
        async with devices(second, 1, user="bob") as (bob,):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(threads, bob)
                await wait_all_tasks_blocked()
                assert bob.peer is not None
                begin = trio.current_time()
                await trio.sleep(0.5)
                assert nursery.child_tasks
                go_on.set()
            assert trio.current_time() - begin == 0.5


async def test_a_list_waits_for_a_second_at_most(autojump_clock: MockClock) -> None:
    async with two_nodes() as ((_, second), _):
        second.link.is_cut = True
        async with devices(second, 1, user="bob") as (bob,):
            begin = trio.current_time()
            assert await threads(bob) == []
            assert trio.current_time() - begin <= shared_changes.READY_SECONDS


@pytest.mark.parametrize("call_name", ["publish", "subscribe"])
async def test_a_link_that_is_cut(autojump_clock: MockClock, call_name: str) -> None:
    """Changes in the meantime are sent when the link is back."""
    async with two_nodes() as ((first, second), (one, two)):
        if call_name == "subscribe":
            await leave(two)
            cut(second, call_name)
            async with devices(second, 1) as (again,):
                await trio.sleep(3)
                restore(second)
                await trio.sleep(2)
                await converse(one, "hello")
                assert (await changed(again))["change"] == "updated"
            return
        cut(first, call_name)
        await converse(one, "hello")
        await call(one, "rename_thread", {"thread_id": "t", "title": "Mine"})
        await trio.sleep(3)
        assert await two.sync() == []
        restore(first)
        await trio.sleep(2 * RETRY_SECONDS)
        told = await two.sync()
        assert [frame["payload"]["change"] for frame in told] == ["renamed"]
        assert told[0]["payload"]["thread"]["title"] == "Mine"


async def test_the_run_of_an_ended_node(autojump_clock: MockClock) -> None:
    """Another node takes its session over, and ends the run."""
    async with (
        open_nodes(3, agents={"answer": answer}, heartbeat_interval_ms=3_600_000) as (
            first,
            second,
            third,
        ),
        devices(third, 1) as (other,),
    ):
        await trio.sleep(1)
        one = first.start()
        hello = await one.expect("connection_established")
        await one.say("work", "k", thread_id="t")
        await one.until("partial_result")
        assert (await changed(other))["thread"]["runs_active"] == 1
        await first.kill()
        session_id = hello["payload"]["session_id"]
        async with second.connect(session_id=session_id) as again:
            end = (await again.until("agent_completed"))[-1]
            assert end["payload"]["status"] == "interrupted"
            assert (await changed(other))["thread"]["runs_active"] == 0


async def test_unsent_changes_are_bounded(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_changes, "UNSENT_CHANGES", 2)
    async with two_nodes() as ((first, _), (one, two)):
        for name in "abc":
            await converse(one, name, thread_id=name)
        await trio.sleep(1)
        await two.sync()

        cut(first, "publish")
        for name in "abc":
            await call(one, "rename_thread", {"thread_id": name, "title": f"new {name}"})
            await trio.sleep(0.1)
        restore(first)
        await trio.sleep(2 * RETRY_SECONDS)
        told: list[Frame] = await two.sync()
        assert {frame["payload"]["thread_id"] for frame in told} == {"b", "c"}


def published(node: LinkedNode) -> int:
    """Return how often a node has published."""
    return node.link.calls.count("publish")


async def use(client: Client) -> None:
    """Change a thread in both ways: by a run and by a command."""
    key = f"at {trio.current_time()}"
    await converse(client, key)
    await trio.sleep(1)
    await call(client, "rename_thread", {"thread_id": "t", "title": "Mine"})
    await trio.sleep(1)


@pytest.mark.parametrize("count", [1, 2])
async def test_nothing_is_published_for_sessions_of_one_node(
    autojump_clock: MockClock, count: int
) -> None:
    async with open_nodes(
        count, agents={"answer": answer}, heartbeat_interval_ms=3_600_000
    ) as nodes:
        first = nodes[0]
        async with devices(first, 2) as (one, two):
            await trio.sleep(1)
            before = published(first)
            await use(one)
            assert [frame["payload"]["change"] for frame in await two.sync()] == [
                "updated",
                "renamed",
            ]
            assert published(first) == before


async def test_a_node_without_sessions_gets_no_changes(autojump_clock: MockClock) -> None:
    async with two_nodes() as ((first, second), (one, two)):
        before = published(first)
        await use(one)
        assert published(first) == before + 2
        await leave(two)
        before = published(first)
        await use(one)
        assert published(first) == before
        async with devices(second, 1) as (again,):
            await trio.sleep(1)
            await again.sync()
            await use(one)
            assert len(await again.sync()) == 2


async def test_an_ended_node_gets_no_changes(autojump_clock: MockClock) -> None:
    async with two_nodes() as ((first, second), (one, _)):
        await second.kill()
        await trio.sleep(5)
        before = published(first)
        await use(one)
        assert published(first) == before


async def test_changes_right_before_the_announcement_are_sent(autojump_clock: MockClock) -> None:
    """A session is attached at another node, which has not announced it yet."""
    async with two_nodes() as ((_, second), (one, two)):
        await leave(two)
        for number in range(shared_changes.SKIPPED_CHANGES + 1):
            await converse(one, f"hello {number}", thread_id=f"t{number}")
            await trio.sleep(0.5)
        go_on = trio.Event()

        async def delay(name: str) -> None:
            if name == "publish":
                await go_on.wait()

        second.link.on_call = delay
        async with devices(second, 1) as (again,):
            await wait_all_tasks_blocked()
            await call(one, "rename_thread", {"thread_id": "t5", "title": "Mine"})
            go_on.set()
            await trio.sleep(1)
            told = {
                frame["payload"]["thread_id"]: frame["payload"]["change"]
                for frame in await again.sync()
            }
            assert set(told) == {f"t{number}" for number in range(1, 9)}
            assert told.pop("t5") == "renamed"
            assert set(told.values()) == {"updated"}


async def test_a_lost_announcement_is_repeated(autojump_clock: MockClock) -> None:
    """With each list that a client requests."""
    async with two_nodes() as ((first, _), (one, two)):
        links = first.node._threads._shared._links  # type: ignore[union-attr]
        links[ALICE].others.clear()
        await use(one)
        assert await two.sync() == []
        await threads(two)
        await trio.sleep(1)
        assert [frame["payload"]["change"] for frame in await two.sync()] == ["renamed"]


async def test_an_answer_that_is_lost(autojump_clock: MockClock) -> None:
    """A node without an announcement of another one still listens."""
    async with two_nodes() as ((first, second), (one, two)):
        await leave(two)

        cut(first, "publish")
        async with devices(second, 1) as (again,):
            await trio.sleep(1)
            restore(first)
            await use(one)
            assert len(await again.sync()) == 2
            await threads(one)  # so this node announces again that it listens
            await use(again)
            assert len(await one.sync()) == 2
