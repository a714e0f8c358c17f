"""Rooms and watched threads of the client with the real server, and connections that fail."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
from support.cluster import open_cluster
from support.room_faults import Fault, RoomFaults
from support.talk import WHOLE, WORDS, Said, stable, talk, talker
from trio.testing import MockClock

from netra_trio.client import Client, MessageRefused, Room, Watch
from netra_trio.testing import Crash, Drop, Every, MemoryNetwork, open_network

COUNT = 12  # messages to a room
NAMES = ("one", "two")
NUMBERS = pytest.mark.parametrize("number", [1, 2, 3, 5])
FAULTS = pytest.mark.parametrize("fault", ["cut", "stall", "drain"])
TEXT = "".join(WORDS)


def every(number: int, fault: Fault) -> Any:
    """Return a script: a fault after every n-th frame.

    A stall lasts 75 seconds, and the history of a room 300: it happens after two frames only.
    """
    return lambda frames: (
        fault if frames % number == 0 and (fault != "stall" or frames <= 2 * number) else None
    )


async def publish(client: Client, room: Room, name: str) -> None:
    for number in range(COUNT):
        published = await room.send({"name": name, "number": number}, key=f"{name}-{number}")
        assert published.status in {"accepted", "duplicate"}
        await trio.sleep(0.01)


async def messages(room: Room, count: int) -> list[Any]:
    """Return the contents of so many messages; nothing is lost, and numbers rise."""
    contents, last = [], 0
    async for event in room:
        assert event.type == "room_message", event
        assert event.offset is not None
        assert event.offset > last
        last = event.offset
        contents.append(event.payload["content"])
        if len(contents) == count:
            break
    return contents


@FAULTS
@NUMBERS
async def test_a_room_over_faults(autojump_clock: MockClock, fault: Fault, number: int) -> None:
    """Each member loses its connection after every n-th event, also while it publishes."""
    got: dict[str, list[Any]] = {}

    async def take_part(name: str, network: MemoryNetwork, *, faulty: bool) -> None:
        dialer = RoomFaults(network, every(number, fault) if faulty else lambda _: None)
        async with (
            network.connect(dialer=dialer) as client,
            client.room(client.user_room) as room,
            trio.open_nursery() as nursery,
        ):
            entered.append(name)
            if len(entered) == len(members):
                all_entered.set()
            await all_entered.wait()
            nursery.start_soon(publish, client, room, name)
            got[name] = await messages(room, len(members) * COUNT)
        if faulty:
            assert dialer.opened > 1

    entered, all_entered = list[str](), trio.Event()
    members = {"steady": False, "first": True, "second": True}
    async with open_network({"talker": talker}) as network, trio.open_nursery() as nursery:
        for name, faulty in members.items():
            nursery.start_soon(partial(take_part, name, network, faulty=faulty))
    # One order for all.
    assert got["steady"] == got["first"] == got["second"]
    for name in members:
        numbers = [said["number"] for said in got["steady"] if said["name"] == name]
        assert numbers == list(range(COUNT))


def whole_of(name: str) -> list[Said]:
    """Return the events of a run of `talker` as a watched thread has them."""
    message = ("user_message", {"user_id": "alice", "content": name})
    return [message, *WHOLE[NAMES.index(name)]]


async def assembled(thread: Watch, said: list[Said] | None = None) -> list[Said]:
    """Return the events of a watched thread to the end of a run, with joined text.

    A `gap` replaces the text so far.
    """
    said = [] if said is None else said
    async for event in thread:
        if event.type in {"room_joined", "gap"}:
            if event.payload["runs"]:
                said[:] = [("text", event.payload["runs"][0]["content"])]
            continue
        what, payload = stable(event)
        if what == "user_message":
            payload = {key: it for key, it in payload.items() if key != "message_id"}
        if what == "text" and said and said[-1][0] == "text":
            said[-1] = ("text", said[-1][1] + payload)
        else:
            said.append((what, payload))
        if what == "agent_completed":
            break
    return said


@asynccontextmanager
async def watching(client: Client, got: dict[str, list[Said]]) -> AsyncIterator[None]:
    """Watch both threads of a conversation; wait for their runs at the end."""

    async def watch(name: str, task_status: trio.TaskStatus[None]) -> None:
        async with client.watch(name) as thread:
            task_status.started()
            got[name] = await assembled(thread)

    async with trio.open_nursery() as nursery:
        for name in NAMES:
            await nursery.start(watch, name)
        yield


@FAULTS
@NUMBERS
async def test_a_thread_over_faults(autojump_clock: MockClock, fault: Fault, number: int) -> None:
    got: dict[str, list[Said]] = {}
    async with open_network({"talker": talker}) as network:
        dialer = RoomFaults(network, every(number, fault))
        async with (
            network.connect() as asking,
            network.connect(dialer=dialer) as client,
            watching(client, got),
        ):
            assert await talk(asking) == WHOLE
    assert dialer.opened > 1
    assert got == {name: whole_of(name) for name in NAMES}


@NUMBERS
async def test_the_own_runs_over_faults(autojump_clock: MockClock, number: int) -> None:
    """A session watches the threads of its own runs."""
    got: dict[str, list[Said]] = {}
    async with (
        open_network({"talker": talker}, [Every(number, Drop())]) as network,
        network.connect() as client,
        watching(client, got),
    ):
        assert await talk(client) == WHOLE
    assert client.stats.reconnections > 1
    assert got == {name: whole_of(name) for name in NAMES}


@NUMBERS
async def test_threads_of_two_nodes_over_faults(autojump_clock: MockClock, number: int) -> None:
    """Each connection of the watching client is one to the other node."""
    got: dict[str, list[Said]] = {}
    async with open_cluster({"talker": talker}) as cluster:
        dialer = RoomFaults(cluster, every(number, "cut"))
        async with (
            cluster.connect() as asking,
            cluster.connect(dialer=dialer) as client,
            watching(client, got),
        ):
            assert await talk(asking) == WHOLE
    assert dialer.opened > 1
    assert got == {name: whole_of(name) for name in NAMES}


@pytest.mark.parametrize("seconds", [0.01 * step for step in range(6)])
async def test_watched_in_the_middle_of_a_run(autojump_clock: MockClock, seconds: float) -> None:
    got: dict[str, list[Said]] = {}

    async def watch(name: str, client: Client) -> None:
        async with client.watch("one") as thread:
            got[name] = await assembled(thread)

    async with open_cluster({"talker": talker}) as cluster, cluster.connect() as asking:
        run = await asking.send("one", thread_id="one")
        await trio.sleep(seconds)
        async with (
            cluster.connect() as same,
            cluster.connect() as other,
            trio.open_nursery() as nursery,
        ):
            for name, client in (("own", asking), ("same", same), ("other", other)):
                nursery.start_soon(watch, name, client)
            assert await run.result() == "answer to one"
    for said in got.values():
        assert "".join(payload for what, payload in said if what == "text") == TEXT
        assert said[-1] == WHOLE[0][-1]


@pytest.mark.parametrize("seconds", [0.0, 0.02])
async def test_the_node_of_the_watching_client_drains(
    autojump_clock: MockClock, seconds: float
) -> None:
    got: dict[str, list[Said]] = {}
    async with (
        open_cluster({"talker": talker}) as cluster,
        cluster.connect() as asking,
        cluster.connect() as client,
        watching(client, got),
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(talk, asking)
        await trio.sleep(seconds)
        node = cluster.node(1)
        assert node is not None
        await node.drain(has_peers=True, random=lambda: 0.1)
        await trio.sleep(5)
        assert client.stats.reconnections >= 1
    assert got == {name: whole_of(name) for name in NAMES}


@pytest.mark.parametrize("seconds", [0.0, 0.02, 0.04])
async def test_the_node_of_the_asking_session_is_killed(
    autojump_clock: MockClock, seconds: float
) -> None:
    """The watching client is at the other node; the run ends `interrupted`, or goes unlisted."""
    async with (
        open_cluster({"talker": talker}) as cluster,
        cluster.connect() as asking,
        cluster.connect() as client,
        client.watch("one") as thread,
    ):
        await asking.send("one", thread_id="one")
        await trio.sleep(seconds)
        cluster.crash(0, 60)
        run = await asking.send("two", thread_id="one")
        assert await run.result() == "answer to two"
        text = ""
        async for event in thread:
            if event.payload.get("run_id") == run.run_id and event.type == "partial_result":
                text += event.payload["content"]
            elif event.type == "gap":
                text = "".join(
                    each["content"]
                    for each in event.payload["runs"]
                    if each["run_id"] == run.run_id
                )
            if event.type == "agent_completed" and event.payload["run_id"] == run.run_id:
                break
        assert text == TEXT


async def test_the_server_starts_again_empty(autojump_clock: MockClock) -> None:
    """A restarted room is a `room_gap`, a lost session a `gap`; what follows is complete."""
    kinds: list[str] = []
    async with (
        open_network({"talker": talker}) as network,
        network.connect() as client,
        client.room(client.user_room) as room,
        client.watch("one") as thread,
    ):
        await client.send("one", thread_id="one")
        for number in range(3):
            await room.send({"number": number})
        await trio.sleep(0.03)
        network.inject(Crash(5))
        await trio.sleep(30)
        await room.send({"number": 3})
        run = await client.send("two", thread_id="one")
        assert await run.result() == "answer to two"
        async for event in room:
            kinds.append(event.type)
            if event.payload.get("content") == {"number": 3}:
                break
        assert kinds == [*["room_message"] * 3, "room_gap", "room_message"]
        before: list[Said] = []
        after: list[Said] = []
        async for event in thread:
            if event.type == "gap":
                assert event.payload["runs"] == []
                break
            before.append(stable(event))
        assert [what for what, _ in before][:3] == ["room_joined", "user_message", "agent_started"]
        async for event in thread:
            after.append(stable(event))
            if event.type == "agent_completed":
                break
        assert "".join(payload for what, payload in after if what == "text") == TEXT


async def test_a_trimmed_history(autojump_clock: MockClock) -> None:
    """A member without a connection gets a `room_gap` for the trimmed part of the history."""
    async with (
        open_network({"talker": talker}, room_history_events=5) as network,
        network.connect() as steady,
    ):
        dialer = RoomFaults(network, lambda frames: "stall" if frames == 1 else None)
        async with (
            network.connect(dialer=dialer) as client,
            client.room(client.user_room) as room,
            steady.room(steady.user_room) as other,
        ):
            for number in range(20):
                await other.send({"number": number})
            seen: list[int] = []
            async for event in room:
                if event.type == "room_gap":
                    seen += range(event.payload["from"], event.payload["to"] + 1)
                else:
                    assert event.offset is not None
                    seen.append(event.offset)
                if event.offset == 20:
                    break
            assert seen == list(range(1, 21))
            assert client.stats.reconnections == 1


async def test_resumed_by_another_program(autojump_clock: MockClock) -> None:
    async with open_network({"talker": talker}) as network:
        async with network.connect() as client, client.room(client.user_room) as room:
            for number in range(3):
                await room.send({"number": number})
            assert [said["number"] for said in await messages(room, 2)] == [0, 1]
            place: dict[str, Any] = {"after": room.offset, "epoch": room.epoch}
        async with network.connect() as client, client.room(client.user_room, **place) as room:
            assert room.verdict == "exact"
            assert [said["number"] for said in await messages(room, 1)] == [2]


async def test_presence(autojump_clock: MockClock) -> None:
    async with (
        open_network({"talker": talker}) as network,
        network.connect() as client,
        network.connect() as other,
        client.room(client.user_room) as room,
    ):
        assert await room.presence() == [{"user_id": "alice", "connections": 1}]
        async with other.room(other.user_room):
            assert await room.presence() == [{"user_id": "alice", "connections": 2}]
        assert await room.presence() == [{"user_id": "alice", "connections": 1}]


async def may(user: str, room: str, action: str) -> bool:
    return user != "mallory" and action != "see" and room in allowed


allowed: set[str] = set()


async def test_permissions_in_rooms(autojump_clock: MockClock) -> None:
    allowed.add("news")
    async with open_network({"talker": talker}, rooms=may) as network:
        async with network.connect("mallory") as mallory:
            with pytest.raises(MessageRefused, match="FORBIDDEN"):
                async with mallory.room("news"):
                    pass
        async with network.connect() as client, client.room("news") as room:
            assert (await room.send("hello")).offset == 1
            with pytest.raises(MessageRefused, match="FORBIDDEN"):
                await room.presence()
            await trio.sleep(1)
            allowed.clear()
            events = [event.type async for event in room]
            assert events == ["room_message", "room_left"]


async def test_not_admitted_again(autojump_clock: MockClock) -> None:
    allowed.add("news")
    async with (
        open_network({"talker": talker}, rooms=may) as network,
        network.connect() as client,
        client.room("news") as room,
    ):
        allowed.clear()
        network.inject(Drop())
        with pytest.raises(MessageRefused, match="FORBIDDEN"):
            await messages(room, 1)


async def test_the_hundred_and_first_room(autojump_clock: MockClock) -> None:
    allowed.update(f"room:{number}" for number in range(101))
    async with (
        open_network({"talker": talker}, rooms=may) as network,
        network.connect() as client,
        AsyncExitStack() as rooms,
    ):
        for number in range(100):
            await rooms.enter_async_context(client.room(f"room:{number}"))
        with pytest.raises(MessageRefused, match="QUEUE_FULL"):
            async with client.room("room:100"):
                pass
        network.inject(Drop())
        await trio.sleep(5)
        async with client.room("room:1") as room:
            assert (await room.send("hello")).offset == 1
            assert await messages(room, 1) == ["hello"]


async def test_the_list_of_threads(autojump_clock: MockClock) -> None:
    async with (
        open_network({"talker": talker}) as network,
        network.connect() as client,
        network.connect() as other,
    ):
        assert [agent["name"] for agent in client.agents] == ["talker"]
        threads, changes = client.threads(), other.threads()
        first = await client.send("invoice for Oslo", thread_id="one")
        await first.result()
        await (await client.send("two", thread_id="two")).result()
        page = await threads.list(1)
        assert [thread["thread_id"] for thread in page["threads"]] == ["two"]
        assert page["has_more"]
        page = await threads.list(before="two")
        (thread,) = page["threads"]
        assert (thread["title"], thread["unread"]) == ("invoice for Oslo", 1)
        assert (await threads.list(query="oslo"))["threads"] == [thread]

        renamed = await threads.rename("one", "Invoices")
        assert renamed.payload["thread"]["title"] == "Invoices"
        answer = (await client.history("one"))["messages"][-1]
        await threads.feedback(answer["message_id"], "down", "too long")
        await threads.feedback(answer["message_id"], None)
        read = await threads.mark_read("one", answer["message_id"])
        assert read.payload["thread"]["unread"] == 0

        again = await client.send("invoice", thread_id="one", replaces=first.message_id)
        await again.result()
        history = (await client.history("one"))["messages"]
        assert [message["content"] for message in history] == ["invoice", TEXT]

        await trio.sleep(1)  # changes of a thread in a short time are sent together
        await threads.delete("one")
        with pytest.raises(MessageRefused, match="THREAD_NOT_FOUND"):
            await client.history("one")
        seen = []
        async for event in changes:
            seen.append((event.payload["thread_id"], event.payload["change"]))
            if seen[-1] == ("one", "deleted"):
                break
        assert ("one", "renamed") in seen
        assert ("two", "updated") in seen
