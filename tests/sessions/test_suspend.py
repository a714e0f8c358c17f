"""A session is suspended when it is idle, and continues with its next message."""

from typing import Any

import pytest
import trio
from structlog.testing import capture_logs
from support.memory import Client, Server, open_server
from support.stores import ScriptedStore
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio.agents.run import Run

NO_HEARTBEAT: dict[str, Any] = {"heartbeat_interval_ms": 3_600_000}
TWO_POLLS = 2.5  # seconds in which the sessions are polled twice


async def echo(run: Run) -> str:
    return run.content


async def one_second(run: Run) -> str:
    await trio.sleep(1)
    return run.content


async def slow(run: Run) -> str:
    await trio.sleep(10)
    return run.content


async def count_tasks() -> int:
    """Return the number of tasks when all are blocked."""
    await wait_all_tasks_blocked()
    return trio.lowlevel.current_statistics().tasks_living


def has_nursery(server: Server) -> bool:
    """Whether the only session has a nursery."""
    (session,) = server.node.sessions
    return session._nursery is not None


async def until_end(client: Client, key: str) -> None:
    while (await client.until("agent_completed"))[-1]["correlation_id"] != key:
        pass


async def test_a_session_has_no_task_before_its_first_message(autojump_clock: MockClock) -> None:
    async with open_server(**NO_HEARTBEAT) as server:
        before = await count_tasks()
        async with server.connect():
            assert not has_nursery(server)
            # The task of `serve_connection`, which is the writer; the reader; the heartbeat.
            assert await count_tasks() - before == 3


async def test_a_session_is_suspended_after_its_last_run_and_continues(
    autojump_clock: MockClock,
) -> None:
    async with (
        open_server(agents={"echo": echo}, **NO_HEARTBEAT) as server,
        server.connect() as client,
    ):
        before = await count_tasks()
        for key in ("a", "b", "c"):
            await client.say("hello", key)
            await until_end(client, key)
            assert has_nursery(server)
            await trio.sleep(TWO_POLLS)
            assert not has_nursery(server)
            assert await count_tasks() == before


async def test_a_session_with_a_run_is_not_suspended(autojump_clock: MockClock) -> None:
    async with (
        open_server(agents={"slow": slow}, **NO_HEARTBEAT) as server,
        server.connect() as client,
    ):
        await client.say("hello", "a")
        await trio.sleep(9)
        assert has_nursery(server)
        await until_end(client, "a")
        assert trio.current_time() == 10


async def test_a_session_with_a_delayed_message_is_not_suspended(autojump_clock: MockClock) -> None:
    async with (
        open_server(
            agents={"echo": echo}, max_message_rate=1, burst_queue=1, **NO_HEARTBEAT
        ) as server,
        server.connect() as client,
    ):
        await client.say("hello", "a")
        await until_end(client, "a")
        await client.say("hello", "b")
        await trio.sleep(30)
        assert has_nursery(server)
        await until_end(client, "b")
        assert trio.current_time() == 60
        await trio.sleep(TWO_POLLS)
        assert not has_nursery(server)


async def test_a_session_that_records_a_message_is_not_suspended(autojump_clock: MockClock) -> None:
    store = ScriptedStore()
    async with (
        open_server(agents={"echo": echo}, store=store, **NO_HEARTBEAT) as server,
        server.connect() as client,
    ):
        store.hold()
        await client.say("hello", "a")
        await trio.sleep(TWO_POLLS)
        assert has_nursery(server)
        store.release()
        await until_end(client, "a")


async def test_a_suspended_session_can_be_resumed_and_closed(autojump_clock: MockClock) -> None:
    async with open_server(
        agents={"echo": echo}, resume_window_ms=60_000, **NO_HEARTBEAT
    ) as server:
        async with server.connect() as client:
            await client.say("hello", "a")
            await until_end(client, "a")
        await trio.sleep(TWO_POLLS)
        (session,) = server.node.sessions
        assert not has_nursery(server)
        wanted = (client.hello["payload"]["session_id"], session.statistics()["last_seq"])
        async with server.connect(session_id=wanted[0], last_seq=wanted[1]) as client:
            assert client.hello["payload"]["resume"]["verdict"] == "exact"
            await client.say("hello again", "b")
            await until_end(client, "b")
        await trio.sleep(61)
        assert not list(server.node.sessions)


@pytest.mark.parametrize("pause", [0.0, 0.5, 1.0, 1.5, 2.0])
async def test_no_message_is_lost_while_a_session_is_suspended(
    autojump_clock: MockClock, pause: float
) -> None:
    async with (
        open_server(
            agents={"one_second": one_second}, max_message_rate=1000, **NO_HEARTBEAT
        ) as server,
        server.connect() as client,
    ):
        for number in range(8):
            await client.say("hello", f"k{number}")
            await until_end(client, f"k{number}")
            await trio.sleep(pause)


async def test_a_session_that_is_closed_at_the_moment_it_is_suspended_ends_without_a_fault(
    autojump_clock: MockClock,
) -> None:
    with capture_logs() as logs:
        async with (
            open_server(agents={"echo": echo}, **NO_HEARTBEAT) as server,
            server.connect() as client,
        ):
            await client.say("hello", "k")
            await until_end(client, "k")
            await wait_all_tasks_blocked()
            (session,) = server.node.sessions
            assert session.suspend()
            server.node.sessions.close(session, "closed")
            await wait_all_tasks_blocked()
    assert not [entry for entry in logs if entry["event"] == "session_failed"]
