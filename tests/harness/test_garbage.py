"""Ended connections, sessions and failed runs leave no cyclic garbage.

Reference counts free what is not in a cycle at once. What is in one waits for the collector, which
stops the event loop for as long as it has to look.
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

ROUNDS = 40  # of each kind: a leak of one object a round stands out from what Trio leaves
WARM_UP = 5  # rounds, after which every cache is filled
OBJECTS_PER_ROUND = 12  # of Trio's own cancelled scopes and exceptions, measured: 4 to 10


OURS = (
    *("Session", "Connection", "Runner", "Execution", "Entry", "EventLog", "LiveRun", "Run"),
    *("ValueError", "Cancelled", "frame", "coroutine"),
)
"""Types of which no object may be in a cycle."""


async def echo(run: Run) -> str:
    await run.emit(run.content)
    return run.content


async def fail(run: Run) -> str:
    values = [object() for _ in range(100)]  # which a kept traceback would keep
    raise ValueError(f"{run.content} {len(values)}")


async def wait(run: Run) -> None:
    await run.emit("x")
    await trio.sleep_forever()


@contextmanager
def garbage() -> Iterator[Counter[str]]:
    """Count, by type, the objects that only the collector frees after the block."""
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
    client.line.cut()
    await client.done.wait()
    await trio.sleep(200)  # longer than the resume window


async def leave_before_a_message(server: Server) -> None:
    client = server.start("bob")
    await client.expect("connection_established")
    client.line.cut()
    await client.done.wait()
    await trio.sleep(200)


async def leave_in_a_run(server: Server) -> None:
    client = server.start("bob")
    await client.expect("connection_established")
    await client.say("hello", agent="wait")
    await client.until("partial_result")
    client.line.cut()
    await client.done.wait()
    await trio.sleep(200)


async def fail_a_run(server: Server) -> None:
    async with server.connect("carol") as client:
        await client.say("hello", agent="fail")
        await client.until("agent_completed")
    await trio.sleep(200)


@pytest.mark.parametrize(
    "round_", [connect_and_leave, leave_before_a_message, leave_in_a_run, fail_a_run]
)
async def test_what_has_ended_is_freed_at_once(round_: object, autojump_clock: MockClock) -> None:
    assert callable(round_)
    agents = {"echo": echo, "fail": fail, "wait": wait}
    async with open_server(agents=agents, max_message_rate=100_000) as server:
        for _ in range(WARM_UP):
            await round_(server)
        with garbage() as found:
            for _ in range(ROUNDS):
                await round_(server)
    # An error that was logged leaves objects of the traceback's renderer, and nothing of ours.
    assert {name: found[name] for name in OURS if found[name]} == {}
    if round_ is not fail_a_run:
        assert sum(found.values()) <= ROUNDS * OBJECTS_PER_ROUND, found.most_common(10)
