"""The client and the real server: over a network in memory, and over TCP."""

import signal
from pathlib import Path

import pytest
import trio
from support.ports import kept_port
from support.server import PATIENCE, serving, sign, write_agents
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio.agents.demo.echo import echo
from netra_trio.agents.run import Run
from netra_trio.client import (
    ConnectionRefused,
    GaveUp,
    MessageRefused,
    Network,
    RunFailed,
    SocketClosed,
    connect,
)
from netra_trio.testing import Drop, assert_nothing_lost, open_network


async def talk(run: Run) -> None:
    """Stream many small pieces."""
    for number in range(int(run.content)):
        await run.emit(f"{number} ")


async def wait(run: Run) -> None:
    """Run until stopped."""
    await run.emit("running")
    await trio.sleep_forever()


async def fail(run: Run) -> None:
    """Fail."""
    raise ValueError


AGENTS = {"echo": echo, "talk": talk, "wait": wait, "fail": fail}


async def test_a_conversation(autojump_clock: MockClock) -> None:
    async with open_network(AGENTS) as network, network.connect() as client:
        run = await client.send("hello", thread_id="main")
        assert (await run.text(), run.status) == ("hello", "accepted")
        run = await client.send("5000", agent="talk", thread_id="main")
        assert await run.text() == "".join(f"{number} " for number in range(5000))
        run = await client.request("echo", {"content": "x"}, correlation_id="c-1")
        await run.result()
        again = await client.request("echo", {"content": "x"}, correlation_id="c-1")
        assert (again.status, again.run_id) == ("duplicate", run.run_id)
        assert await again.result() == await run.result()
        with pytest.raises(MessageRefused, match="VALIDATION_ERROR"):
            await client.send("something else", correlation_id="c-1")
        with pytest.raises(MessageRefused, match="AGENT_NOT_FOUND"):
            await client.send("hello", agent="nobody")
        with pytest.raises(RunFailed):
            await (await client.send("x", agent="fail")).result()
        run = await client.send("x", agent="wait")
        async for event in run:
            if event.type == "partial_result":
                await run.stop()
        assert run.end is not None
        assert run.end.payload["status"] == "cancelled"
        await run.stop()
        page = await client.history("main", limit=2)
        assert [message["role"] for message in page["messages"]] == ["user", "agent"]
        with pytest.raises(MessageRefused, match="THREAD_NOT_FOUND"):
            await client.history("nowhere")
    assert_nothing_lost(network.trace)


async def test_a_slow_reader_slows_the_agent(autojump_clock: MockClock) -> None:
    emitted = 0

    async def endless(run: Run) -> None:
        nonlocal emitted
        while True:
            await run.emit("x" * 100)
            emitted += 1

    async with open_network({"endless": endless}) as network, network.connect() as client:
        run = await client.send("go")
        events = aiter(run)
        await anext(events)
        await trio.sleep(10)
        stalled = emitted
        await trio.sleep(10)
        assert emitted == stalled
        for _ in range(500):
            await anext(events)
        await trio.sleep(10)
        assert emitted > stalled
        await run.stop()


async def test_concurrent_messages_keep_their_order(autojump_clock: MockClock) -> None:
    async with open_network(AGENTS, max_message_rate=10) as network, network.connect() as client:
        ends: list[str] = []

        async def say(number: int) -> None:
            run = await client.send(f"{number}", thread_id="main")
            ends.append(await run.text())

        async with trio.open_nursery() as nursery:
            for number in range(45):
                nursery.start_soon(say, number)
                await wait_all_tasks_blocked()
        page = await client.history("main", limit=100)
        contents = [each["content"] for each in page["messages"] if each["role"] == "user"]
        assert contents == [f"{number}" for number in range(45)]
        assert sorted(ends, key=int) == contents
    assert_nothing_lost(network.trace)


async def test_a_lost_connection(autojump_clock: MockClock) -> None:
    async with open_network(AGENTS) as network, network.connect() as client:
        run = await client.send("x", agent="wait", thread_id="main")
        async for event in run:
            if event.type == "partial_result":
                lost = network.lines[0]
                network.inject(Drop())
                await run.stop()
        assert run.end is not None
        assert run.end.type == "agent_completed"
        assert (await (await client.send("again")).text()) == "again"
        assert client.stats.reconnections == 1
        assert lost.ended.is_set()
    assert_nothing_lost(network.trace)


# --- over TCP

SLOW = """
import trio


async def slow(run):
    await run.emit("at work")
    await trio.sleep_forever()


async def upper(run):
    await run.emit(run.content.upper())
"""


async def test_over_tcp(tmp_path: Path) -> None:
    write_agents(tmp_path, SLOW)
    agents = ["--agent=outside_agents:upper", "--agent=outside_agents:slow"]
    with serving(tmp_path, *agents) as server, trio.fail_after(PATIENCE):
        async with connect(server.url, token=sign(), max_attempts=3) as client:
            assert client.config["websocket_config"]["endpoints"]["websocket"] == "/ws"
            assert await (await client.send("hello")).text() == "HELLO"
            large = "x" * 9000
            assert await (await client.send(large)).text() == large.upper()
            with pytest.raises(MessageRefused, match="at most 10240 bytes"):
                await client.send(large * 2)
        with pytest.raises(ConnectionRefused, match="three parts") as caught:
            async with connect(server.url, token="wrong"):
                pass
        assert (caught.value.status, caught.value.code) == (401, "INVALID_TOKEN")
    with pytest.raises(GaveUp), trio.fail_after(PATIENCE):
        async with connect(server.url, token=sign(), max_attempts=1):
            pass


async def test_the_server_is_killed_and_comes_back(tmp_path: Path) -> None:
    write_agents(tmp_path, SLOW)
    agents = ["--agent=outside_agents:slow", "--agent=outside_agents:upper"]
    with kept_port() as kept, trio.fail_after(PATIENCE):
        port = str(kept)
        with serving(tmp_path, *agents, port=port) as first:
            async with connect(first.url, token=sign(), random=lambda: 0.2) as client:
                run = await client.send("hello", correlation_id="c-1")
                events = aiter(run)
                while (await anext(events)).type != "partial_result":
                    pass
                first.process.end(signal.SIGKILL)
                with serving(tmp_path, *agents, port=port):
                    left = [event async for event in events]
                    assert [event.type for event in left] == ["reset", "agent_completed"]
                    assert left[-1].payload["status"] == "interrupted"
                    run = await client.send("hello", agent="upper")
                    assert await run.text() == "HELLO"
                    assert client.stats.reconnections == 1


async def test_the_network_itself(tmp_path: Path) -> None:
    with serving(tmp_path) as server, trio.fail_after(PATIENCE):
        network = Network()
        headers = {"Authorization": f"Bearer {sign()}"}
        async with network.open(server.url, headers=headers, subprotocols=("netra.v1",)) as socket:
            await socket.receive()
            await socket.close(1000)
            with pytest.raises(SocketClosed):
                await socket.receive()
            with pytest.raises(SocketClosed):
                await socket.send("{}")
