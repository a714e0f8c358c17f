"""The list of threads of the client, and the fields of the first frame, scripted."""

import gc
from typing import Any

import orjson
import pytest
import trio
from support.scripted import Frame, Peer, ScriptedNetwork, opened
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio.client import ClientClosed, ConnectionClosed, Event, MessageRefused, Threads

THREAD = {"thread_id": "main", "room": "thread:x", "title": "Hi", "unread": 0}


@pytest.fixture
def network() -> ScriptedNetwork:
    return ScriptedNetwork()


async def answer(peer: Peer, kind: str, reply: str, payload: Frame, asked: list[Frame]) -> None:
    frame = await peer.expect(kind)
    asked.append(frame["payload"])
    peer.control(reply, payload, frame["correlation_id"])


async def taken(threads: Threads, count: int) -> list[Event]:
    events = []
    async for event in threads:
        events.append(event)
        if len(events) == count:
            break
    return events


async def test_the_list(autojump_clock: MockClock, network: ScriptedNetwork) -> None:
    page, asked = {"threads": [THREAD], "has_more": False}, list[Frame]()
    async with opened(network) as (client, peer), trio.open_nursery() as nursery:
        threads = client.threads()
        nursery.start_soon(answer, peer, "list_threads", "thread_list", page, asked)
        assert await threads.list() == page
        nursery.start_soon(answer, peer, "list_threads", "thread_list", page, asked)
        assert await threads.list(10, before="t-1", query="invoice") == page
    assert asked == [{"limit": 50}, {"limit": 10, "before": "t-1", "query": "invoice"}]


@pytest.mark.parametrize(
    ("arguments", "kind", "payload"),
    [
        (("rename", "main", "Hi"), "rename_thread", {"thread_id": "main", "title": "Hi"}),
        (("mark_read", "main", "m-1"), "mark_read", {"thread_id": "main", "message_id": "m-1"}),
        (("delete", "main"), "delete_thread", {"thread_id": "main"}),
        (("feedback", "m-1", "up"), "feedback", {"message_id": "m-1", "rating": "up"}),
        (
            ("feedback", "m-1", None, "why"),
            "feedback",
            {"message_id": "m-1", "rating": None, "comment": "why"},
        ),
    ],
)
async def test_a_change(
    autojump_clock: MockClock,
    network: ScriptedNetwork,
    arguments: tuple[Any, ...],
    kind: str,
    payload: Frame,
) -> None:
    changed, asked = {"thread_id": "main", "change": "updated", "thread": THREAD}, list[Frame]()
    async with opened(network) as (client, peer), trio.open_nursery() as nursery:
        threads = client.threads()
        nursery.start_soon(answer, peer, kind, "thread_changed", changed, asked)
        event = await getattr(threads, arguments[0])(*arguments[1:])
        assert (event.type, event.payload) == ("thread_changed", changed)
        # It is among the changes, too.
        assert (await taken(threads, 1))[0].payload == changed
    assert asked == [payload]


async def test_a_refusal(autojump_clock: MockClock, network: ScriptedNetwork) -> None:
    async with opened(network) as (client, peer), trio.open_nursery() as nursery:

        async def refuse() -> None:
            for code in ("RATE_LIMIT_EXCEEDED", "THREAD_NOT_FOUND"):
                frame = await peer.expect("delete_thread")
                peer.error(code, frame["correlation_id"])

        nursery.start_soon(refuse)
        with pytest.raises(MessageRefused, match="THREAD_NOT_FOUND"):
            await client.threads().delete("main")
        assert trio.current_time() == 1
        with pytest.raises(MessageRefused, match="MESSAGE_TOO_LARGE"):
            await client.threads().rename("main", "x" * 10_240)


async def test_changes_by_other_sessions(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, peer):
        first = client.threads()
        peer.control("thread_changed", {"thread_id": "a", "change": "renamed"})
        await wait_all_tasks_blocked()
        second = client.threads()
        peer.control("thread_changed", {"thread_id": "b", "change": "deleted"})
        await wait_all_tasks_blocked()
        assert [event.payload["thread_id"] for event in await taken(first, 2)] == ["a", "b"]
        assert [event.payload["thread_id"] for event in await taken(second, 1)] == ["b"]
        changes = [
            event for event in await all_events(client.events()) if "change" in event.payload
        ]
        assert len(changes) == 2
        # After a reconnection changes may be missing.
        peer.close(1006)
        again = await network.accept()
        again.hello("exact")
        again.control("thread_changed", {"thread_id": "c", "change": "updated"})
        assert [event.type for event in await taken(first, 2)] == ["gap", "thread_changed"]
        del first, second
        gc.collect()
        assert len(client.session.thread_changes) == 0


async def all_events(events: Any) -> list[Event]:
    got: list[Event] = []
    with trio.move_on_after(0.1):
        async for event in events:
            got.append(event)  # noqa: PERF401 - what was taken before the end of the time counts
    return got


async def test_changes_that_no_task_reads_are_bounded(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, peer):
        threads = client.threads()
        for number in range(1001):
            peer.control("thread_changed", {"thread_id": f"t-{number}", "change": "updated"})
        await wait_all_tasks_blocked()
        lagged, change = await taken(threads, 2)
        assert (lagged.type, lagged.payload["dropped"]) == ("lagged", 1)
        assert change.payload["thread_id"] == "t-1"


async def test_the_end_of_the_client(autojump_clock: MockClock, network: ScriptedNetwork) -> None:
    async with opened(network) as (client, peer):
        threads = client.threads()
        peer.close(4409)
        await wait_all_tasks_blocked()
        with pytest.raises(ConnectionClosed):
            await taken(threads, 1)
        with pytest.raises(ConnectionClosed):
            client.threads()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.reconnect)
            again = await network.accept()
            again.hello("exact")
        again.control("thread_changed", {"thread_id": "c", "change": "updated"})
        assert [event.type for event in await taken(threads, 2)] == ["gap", "thread_changed"]
    assert [event async for event in threads] == []
    with pytest.raises(ClientClosed):
        client.threads()


async def test_the_first_frame_has_the_agents_and_the_user_room(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, peer):
        assert (list(client.agents), client.user_room) == ([], "")
        peer.close(1006)
        again = await network.accept()
        again.hello("exact")
        hello = again.sent.pop()
        agents = [{"name": "echo", "title": "Echo", "examples": []}]
        again.write(
            hello.replace(
                '"user_id"',
                f'"user_room":"user:x","agents":{orjson.dumps(agents).decode()},"user_id"',
            )
        )
        await wait_all_tasks_blocked()
        assert (list(client.agents), client.user_room) == (agents, "user:x")


async def test_a_message_that_replaces_another(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, peer), trio.open_nursery() as nursery:

        async def send() -> None:
            await client.send("again", thread_id="main", replaces="msg_7")

        nursery.start_soon(send)
        frame = await peer.expect("user_message")
        assert frame["payload"]["replaces"] == "msg_7"
        peer.confirm(frame)
