"""The events door on several nodes: frames and polls reach another node than the stream."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import trio
from attrs import evolve, frozen
from support.doors import open_app
from support.event_streams import Poller, post, stream
from support.memory import kinds
from support.shared_nodes import Link, LinkedBackend
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio.agents.run import Agent, Run
from netra_trio.broker.memory import MemoryBackend, MemoryServer
from netra_trio.endpoints.doors.inboxes import REPLY_SECONDS, TAKE_SECONDS
from netra_trio.endpoints.doors.polls import PART_SECONDS
from netra_trio.server.application import Application
from netra_trio.stores.memory import MemoryStore

EVENTS = ("events",)
PING = {"type": "ping", "payload": {"n": 1}}


async def wait(run: Run) -> None:
    await run.emit("begun")
    await trio.sleep(60)
    await run.emit(" done")


@frozen
class Nodes:
    """Applications on one server, and the links of their nodes to it."""

    apps: tuple[Application, ...]
    links: tuple[Link, ...]


@asynccontextmanager
async def open_apps(
    count: int, agents: Mapping[str, Agent] | None = None, **settings: Any
) -> AsyncIterator[Nodes]:
    server, store = MemoryServer(), MemoryStore()
    async with AsyncExitStack() as stack:
        apps, links = [], []
        for _ in range(count):
            backend = LinkedBackend(MemoryBackend(server=server))
            own = store.for_node(backend.memory.node)
            app = open_app(agents=agents, doors=EVENTS, store=own, backend=backend, **settings)
            apps.append(await stack.enter_async_context(app))
            links.append(backend.link)
        await trio.sleep(1)  # until each knows the others
        yield Nodes(tuple(apps), tuple(links))


async def test_a_frame_reaches_the_stream_at_another_node(autojump_clock: MockClock) -> None:
    async with open_apps(3) as nodes:
        one, two, three = nodes.apps
        async with stream(one) as alice:
            # At once, when the directory may not know the session yet, and later.
            for number, app in enumerate((two, three, one, two)):
                frame = {"type": "ping", "payload": {"n": number}}
                assert (await post(app, alice.session_id, frame))[0] == 202
                (pong,) = await alice.until("pong")
                assert pong["payload"] == {"n": number}
                await trio.sleep(number)
            assert (await post(two, alice.session_id, PING, user="bob"))[0] == 404
            assert (await post(two, "sess_none", PING))[0] == 404
            assert (await post(two, alice.session_id, None, body=b"{"))[0] == 202
            (error,) = await alice.until("error")
            assert error["payload"]["code"] == "JSON_PARSE_ERROR"
            assert (await post(two, alice.session_id, None, body=b"x" * 16 * 10_240))[0] == 202
            (error,) = await alice.until("error")
            assert error["payload"]["code"] == "MESSAGE_TOO_LARGE"
        await wait_all_tasks_blocked()
        assert (await post(two, alice.session_id, PING))[0] == 404


async def test_the_largest_body_at_another_node(autojump_clock: MockClock) -> None:
    async with open_apps(2, max_message_size=65_536) as nodes, stream(nodes.apps[0]) as alice:
        body = b"x" * 16 * 65_536
        assert (await post(nodes.apps[1], alice.session_id, None, body=body))[0] == 202
        (error,) = await alice.until("error")
        assert error["payload"]["code"] == "MESSAGE_TOO_LARGE"


async def test_sessions_that_are_not_kept_are_found(autojump_clock: MockClock) -> None:
    async with open_apps(2, resume_window_ms=0) as nodes, stream(nodes.apps[0]) as alice:
        assert (await post(nodes.apps[1], alice.session_id, PING))[0] == 202
        await alice.until("pong")
        assert (await post(nodes.apps[1], alice.session_id, PING, user="bob"))[0] == 404


async def test_a_frame_reaches_a_stream_that_is_relayed(autojump_clock: MockClock) -> None:
    async with open_apps(3, {"wait": wait}) as nodes:
        one, two, three = nodes.apps
        async with stream(one) as alice:
            await alice.send("user_message", {"content": "go"})
            await alice.until("partial_result")
        query = f"session_id={alice.session_id}&last_seq={alice.last}"
        async with stream(two, query=query) as again:  # its run is at the first node
            assert again.hello["payload"]["resume"]["verdict"] == "exact"
            assert two.node.statistics()["sessions"] == 0
            for app in (three, one, two):
                assert (await post(app, alice.session_id, PING))[0] == 202
                await again.until("pong")
            frames = await again.until("agent_completed")
            assert "partial_result" in kinds(frames)
        await wait_all_tasks_blocked()
        for app in (three, one, two):
            assert (await post(app, alice.session_id, PING))[0] == 404


async def test_a_stalled_stream_at_another_node(autojump_clock: MockClock) -> None:
    async with open_apps(2) as nodes, stream(nodes.apps[0]) as alice:
        alice.answer.pause()
        ping = {"type": "ping", "payload": {"text": "x" * 1000}}
        while (answered := await post(nodes.apps[1], alice.session_id, ping))[0] == 202:
            pass
        assert (answered[0], answered[2]["code"]) == (503, "SERVICE_UNAVAILABLE")
        assert "retry-after" in answered[1]
        assert trio.current_time() == pytest.approx(1 + TAKE_SECONDS, abs=0.9)


async def test_a_node_that_does_not_answer(autojump_clock: MockClock) -> None:
    async with open_apps(2) as nodes:
        one, two = nodes.apps
        async with stream(one) as alice:
            await trio.sleep(1)
            nodes.links[0].lost = {"answer"}
            since = trio.current_time()
            status, _, body = await post(two, alice.session_id, PING)
            assert (status, body["code"]) == (503, "SERVICE_UNAVAILABLE")
            limit = TAKE_SECONDS + REPLY_SECONDS
            assert trio.current_time() - since == pytest.approx(limit, abs=0.1)
            nodes.links[1].is_cut = True
            assert (await post(two, alice.session_id, PING))[0] == 503
            await alice.send("ping")  # at its own node nothing is asked
            await alice.until("pong")


async def test_polls_at_other_nodes(autojump_clock: MockClock) -> None:
    async with open_apps(3, {"wait": wait}) as nodes:
        poller = Poller(nodes.apps[0])
        await poller.poll()
        await trio.sleep(1)
        await poller.send("user_message", {"content": "go"})
        frames: list[dict[str, Any]] = []
        for number in range(100):
            poller.app = nodes.apps[number % 3]
            since = trio.current_time()
            found = await poller.poll()
            assert found or trio.current_time() - since == pytest.approx(25, abs=0.5)
            frames += found
            if "agent_completed" in kinds(frames):
                break
        assert [frame["seq"] for frame in frames if "seq" in frame] == [1, 2, 3, 4, 5]
        assert "connection_established" not in kinds(frames)
        slots = [app.node.statistics()["slots"] for app in nodes.apps]
        assert slots == [1, 0, 0]


async def test_a_lost_answer_and_a_poll_at_another_node(autojump_clock: MockClock) -> None:
    async with open_apps(2, {"wait": wait}) as nodes:
        poller = Poller(nodes.apps[0])
        await poller.poll()
        await poller.send("user_message", {"content": "hello"})
        async with poller.asking() as answer:
            assert (await answer.json())["frames"]
        poller.app = nodes.apps[1]
        frames = await poller.until("agent_completed")
        assert frames[0]["payload"]["resume"]["verdict"] == "exact"
        assert [frame["seq"] for frame in frames if "seq" in frame] == [1, 2, 3, 4, 5]
        assert nodes.apps[1].node.statistics()["slots"] == 1


async def test_a_second_poll_at_another_node_ends_the_first(autojump_clock: MockClock) -> None:
    async with open_apps(3) as nodes:
        poller = Poller(nodes.apps[0])
        await poller.poll()
        await trio.sleep(1)
        ends: list[tuple[int, float, list[str]]] = []
        since = trio.current_time()

        async def wait_at(number: int) -> None:
            async with evolve(poller, app=nodes.apps[number]).asking() as answer:
                body = await answer.json()
            ends.append((number, trio.current_time() - since, kinds(body["frames"])))

        async with trio.open_nursery() as nursery:
            for number in (1, 2, 0):
                nursery.start_soon(wait_at, number)
                await trio.sleep(PART_SECONDS + 1)
            assert [(number, found) for number, _, found in ends] == [(1, []), (2, [])]
            await poller.send("ping")
        assert ends[-1][::2] == (0, ["pong"])


async def test_a_poll_while_its_node_is_gone(autojump_clock: MockClock) -> None:
    async with open_apps(2) as nodes:
        poller = Poller(nodes.apps[0])
        await poller.poll()
        await trio.sleep(1)
        poller.app = nodes.apps[1]
        nodes.links[0].lost = {"answer"}
        async with poller.asking() as answer:
            assert (answer.status, (await answer.json())["code"]) == (503, "SERVICE_UNAVAILABLE")
        assert trio.current_time() < 2 + PART_SECONDS + REPLY_SECONDS + 1
        nodes.links[0].is_cut = True
        await trio.sleep(5)  # its lease ends
        (hello,) = await poller.poll()
        assert hello["payload"]["resume"]["verdict"] == "exact"
