"""Ended connections, sessions and failed runs leave no cyclic garbage.

Objects in a reference cycle are freed by the garbage collector, which blocks the event loop. Other
objects are freed at once.
"""

import gc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio
from support.memory import Server, open_server
from trio.testing import MockClock

from netra_trio.agents.run import Run

pytestmark = pytest.mark.unmeasured

ROUNDS = 40  # of each kind: enough to detect a leak of one object in each round
WARM_UP = 5  # rounds, which fill all caches
OBJECTS_PER_ROUND = 12  # of Trio: cancelled scopes and exceptions, 4 to 10 as measured

OURS = (
    *("Session", "Connection", "Runner", "Execution", "Entry", "EventLog", "LiveRun", "Run"),
    *("ValueError", "Cancelled", "frame", "coroutine"),
)
"""Types whose objects must not be in a cycle."""


async def echo(run: Run) -> str:
    await run.emit(run.content)
    return run.content


async def fail(run: Run) -> str:
    values = [object() for _ in range(100)]  # a traceback would refer to them
    raise ValueError(f"{run.content} {len(values)}")


async def wait(run: Run) -> None:
    await run.emit("x")
    await trio.sleep_forever()


async def nest(run: Run) -> None:
    async with trio.open_nursery() as nursery:  # a cancellation leaves it in a group
        nursery.start_soon(wait, run)
        await trio.sleep_forever()


@contextmanager
def garbage() -> Iterator[Counter[str]]:
    """Count, by type, the objects that the garbage collector frees after the block."""
    found: Counter[str] = Counter()
    gc.collect()
    gc.disable()
    flags = gc.get_debug()
    try:
        yield found
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found.update(type(each).__name__ for each in gc.garbage)
    finally:
        gc.set_debug(flags)
        gc.garbage.clear()
        gc.enable()


async def connect_and_leave(server: Server) -> None:
    client = server.start("bob")
    await client.expect("connection_established")
    await client.say("hello")
    await client.until("agent_completed")
    client.peer.cut()
    await client.done.wait()
    await trio.sleep(200)  # longer than the resume window


async def leave_before_a_message(server: Server) -> None:
    client = server.start("bob")
    await client.expect("connection_established")
    client.peer.cut()
    await client.done.wait()
    await trio.sleep(200)


async def leave_in_a_run(server: Server) -> None:
    client = server.start("bob")
    await client.expect("connection_established")
    await client.say("hello", agent="wait")
    await client.until("partial_result")
    client.peer.cut()
    await client.done.wait()
    await trio.sleep(200)


async def leave_in_a_nursery_of_a_run(server: Server) -> None:
    client = server.start("bob")
    await client.expect("connection_established")
    await client.say("hello", agent="nest")
    await client.until("partial_result")
    client.peer.cut()
    await client.done.wait()
    await trio.sleep(200)


async def fail_a_run(server: Server) -> None:
    async with server.connect("carol") as client:
        await client.say("hello", agent="fail")
        await client.until("agent_completed")
    await trio.sleep(200)


@pytest.mark.parametrize(
    "round_",
    [
        connect_and_leave,
        leave_before_a_message,
        leave_in_a_run,
        leave_in_a_nursery_of_a_run,
        fail_a_run,
    ],
)
async def test_ended_sessions_and_runs_leave_no_cyclic_garbage(
    round_: object, autojump_clock: MockClock
) -> None:
    assert callable(round_)
    agents = {"echo": echo, "fail": fail, "wait": wait, "nest": nest}
    async with open_server(agents=agents, max_message_rate=100_000) as server:
        for _ in range(WARM_UP):
            await round_(server)
        with garbage() as found:
            for _ in range(ROUNDS):
                await round_(server)
    # A logged error leaves objects of the traceback renderer, but none of the types above.
    assert {name: found[name] for name in OURS if found[name]} == {}
    if round_ not in {fail_a_run, leave_in_a_nursery_of_a_run}:
        assert sum(found.values()) <= ROUNDS * OBJECTS_PER_ROUND, found.most_common(10)
