"""A session that has nothing to do has no task: when it rests, what keeps it awake, what wakes."""

from typing import Any

import pytest
import trio
from support.memory import Client, Server, open_server
from support.stores import ScriptedStore
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio.agents.run import Run

QUIET: dict[str, Any] = {"heartbeat_interval_ms": 3_600_000}
LOOKS = 2.5  # seconds in which the watch of the sessions has looked twice


async def echo(run: Run) -> str:
    return run.content


async def second(run: Run) -> str:
    await trio.sleep(1)
    return run.content


async def slow(run: Run) -> str:
    await trio.sleep(10)
    return run.content


async def tasks() -> int:
    """Return how many tasks there are once nothing more happens by itself."""
    await wait_all_tasks_blocked()
    return trio.lowlevel.current_statistics().tasks_living


def is_served(server: Server) -> bool:
    """Whether the one session has its nursery."""
    (session,) = server.node.sessions
    return session._nursery is not None


async def ended(client: Client, key: str) -> None:
    while (await client.until("agent_completed"))[-1]["correlation_id"] != key:
        pass


async def test_a_session_has_no_task_before_its_first_message(autojump_clock: MockClock) -> None:
    async with open_server(**QUIET) as server:
        before = await tasks()
        async with server.connect():
            assert not is_served(server)
            # The call of its host, which writes; the reader; the heartbeat.
            assert await tasks() - before == 3


async def test_it_rests_after_its_last_run_and_wakes_again(autojump_clock: MockClock) -> None:
    async with open_server(agents={"echo": echo}, **QUIET) as server, server.connect() as client:
        before = await tasks()
        for key in ("a", "b", "c"):
            await client.say("hello", key)
            await ended(client, key)
            assert is_served(server)
            await trio.sleep(LOOKS)
            assert not is_served(server)
            assert await tasks() == before


async def test_a_run_keeps_it_awake(autojump_clock: MockClock) -> None:
    async with open_server(agents={"slow": slow}, **QUIET) as server, server.connect() as client:
        await client.say("hello", "a")
        await trio.sleep(9)
        assert is_served(server)
        await ended(client, "a")
        assert trio.current_time() == 10


async def test_a_turn_to_come_keeps_it_awake(autojump_clock: MockClock) -> None:
    async with (
        open_server(agents={"echo": echo}, max_message_rate=1, burst_queue=1, **QUIET) as server,
        server.connect() as client,
    ):
        await client.say("hello", "a")
        await ended(client, "a")
        await client.say("hello", "b")
        await trio.sleep(30)
        assert is_served(server)
        await ended(client, "b")
        assert trio.current_time() == 60
        await trio.sleep(LOOKS)
        assert not is_served(server)


async def test_a_message_that_is_being_recorded_keeps_it_awake(autojump_clock: MockClock) -> None:
    store = ScriptedStore()
    async with (
        open_server(agents={"echo": echo}, store=store, **QUIET) as server,
        server.connect() as client,
    ):
        store.hold()
        await client.say("hello", "a")
        await trio.sleep(LOOKS)
        assert is_served(server)
        store.release()
        await ended(client, "a")


async def test_a_session_that_rests_can_be_closed_and_resumed(autojump_clock: MockClock) -> None:
    async with open_server(agents={"echo": echo}, resume_window_ms=60_000, **QUIET) as server:
        async with server.connect() as client:
            await client.say("hello", "a")
            await ended(client, "a")
        await trio.sleep(LOOKS)
        (session,) = server.node.sessions
        assert not is_served(server)
        wanted = (client.hello["payload"]["session_id"], session.statistics()["last_seq"])
        async with server.connect(session_id=wanted[0], last_seq=wanted[1]) as client:
            assert client.hello["payload"]["resume"]["verdict"] == "exact"
            await client.say("hello again", "b")
            await ended(client, "b")
        await trio.sleep(61)
        assert not list(server.node.sessions)


@pytest.mark.parametrize("pause", [0.0, 0.5, 1.0, 1.5, 2.0])
async def test_no_message_is_lost_while_it_goes_to_rest(
    autojump_clock: MockClock, pause: float
) -> None:
    async with (
        open_server(agents={"second": second}, max_message_rate=1000, **QUIET) as server,
        server.connect() as client,
    ):
        for number in range(8):
            await client.say("hello", f"k{number}")
            await ended(client, f"k{number}")
            await trio.sleep(pause)
