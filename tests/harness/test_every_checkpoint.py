"""One conversation, interrupted at every step of the server's tasks, one after the other.

A Trio instrument counts the steps of every task of the server. At the n-th one the connection is
hit: its host cancels it, the hub aborts it, its peer vanishes, or the whole server is cancelled.
Then the same for n + 1, until the conversation ends without having been hit. After each of them
nothing is left, and each run that was started has exactly one stored end.
"""

from collections.abc import Awaitable, Callable

import pytest
import trio
from attrs import define, field
from support.memory import Client, Server, open_server, token
from support.stores import ScriptedStore
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio.agents.run import Run
from netra_trio.errors import TransportClosed

OF_THE_SERVER = ("netra_trio.", "support.memory.Server.start")  # the names of its tasks begin so
STEPS_MAX = 1000  # far beyond what the conversation takes
ROUNDS = ((0, 128 * 1024), (1, 300))  # seed of Trio's scheduling, bytes that the line holds


async def at_work(run: Run) -> str:
    """Stream, use a tool, work side by side."""
    await run.think("hm")
    async with run.tool("clock", zone="UTC") as tool:
        await trio.sleep(0.1)
        tool.result = "noon"
    run.nursery.start_soon(run.emit, "one ")
    await run.emit("two")
    return "done"


async def quiet(run: Run) -> None:
    """Emit a word and wait to be stopped."""
    await run.emit("…")
    await trio.sleep_forever()


AGENTS = {"at_work": at_work, "quiet": quiet}


async def converse(server: Server, client: Client) -> None:
    """Use everything there is, up to the drain."""
    await client.expect("connection_established")
    await client.send("auth", {"token": token()})
    await client.until("auth_ok")
    await client.say("hello", "key-1", thread_id="main")
    await client.until("agent_completed")
    await client.send("ack", {"seq": 3})
    await client.say("hello", "key-1", thread_id="main")  # a duplicate
    await client.until("agent_completed")
    await client.say("wait", "key-2", agent="quiet", thread_id="main")
    run_id = (await client.until("partial_result"))[-1]["payload"]["run_id"]
    await client.say("wait", "key-3", agent="quiet", thread_id="main")  # behind the other
    await client.send("stop_agent", {"run_id": run_id})
    await client.until("partial_result")
    await client.send("get_thread_history", {"thread_id": "main"})
    await client.until("thread_history")
    await client.say("more", thread_id="main")  # waits, until the drain ends it
    await client.until("message_confirmed")
    server.nursery.start_soon(server.node.drain)
    await client.rest()


@define(eq=False)
class Hit(trio.abc.Instrument):
    """Does something before the n-th step of the server's tasks.

    Attributes:
        steps: How many there have been.
    """

    step: int
    act: Callable[[], object]
    steps: int = field(default=0, init=False)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Count."""
        if task.name.startswith(OF_THE_SERVER):
            self.steps += 1
            if self.steps == self.step:
                self.act()


def abort(server: Server) -> None:
    """End every connection, as the drain does at its deadline."""
    for connection in server.node._connections.values():
        connection.abort()


HITS: dict[str, Callable[[Server, Client], object]] = {
    "its host cancels it": lambda _, client: client.scope.cancel(),
    "the hub aborts it": lambda server, _: abort(server),
    "its peer vanishes": lambda _, client: client.line.cut(),
    "its peer closes": lambda _, client: client.line.close(1001),
}


async def interrupted_at(
    step: int, hit: Callable[[Server, Client], object], buffer_bytes: int
) -> bool:
    """Converse, hit at this step; return whether it came to that."""
    tasks_before = trio.lowlevel.current_statistics().tasks_living
    store = ScriptedStore()
    async with open_server(agents=AGENTS, store=store) as server:
        tasks = trio.lowlevel.current_statistics().tasks_living
        client = server.start(acknowledging=True, buffer_bytes=buffer_bytes)
        instrument = Hit(step, lambda: hit(server, client))
        trio.lowlevel.add_instrument(instrument)
        try:
            await converse(server, client)
        except TransportClosed:
            pass
        finally:
            trio.lowlevel.remove_instrument(instrument)
        await client.done.wait()
        await server.node.drain()
        await wait_all_tasks_blocked()
        statistics = server.node.statistics()
        assert (statistics["slots"], statistics["connections"], statistics["sessions"]) == (0, 0, 0)
        for user in server.node._users._users.values():
            assert (user.connections, user.runs) == ([], {})
        assert trio.lowlevel.current_statistics().tasks_living == tasks
    assert_ended(store)
    assert trio.lowlevel.current_statistics().tasks_living == tasks_before
    return instrument.steps >= step


def assert_ended(store: ScriptedStore) -> None:
    """Assert that every run that was recorded has ended, once."""
    assert set(store.started) <= set(store.recorded)
    assert set(store.ends) == set(store.recorded)
    assert set(store.ends.values()) <= {1}
    assert store.statistics()["runs"] == 0


async def cancelled_at(step: int, buffer_bytes: int) -> bool:
    """Converse, while the whole server is cancelled at this step; return whether it came to that.

    A run that had been recorded and not started is the next start's to end.
    """
    tasks_before = trio.lowlevel.current_statistics().tasks_living
    store = ScriptedStore()
    with trio.CancelScope() as all_of_it:
        instrument = Hit(step, all_of_it.cancel)
        async with open_server(agents=AGENTS, store=store) as server:
            client = server.start(acknowledging=True, buffer_bytes=buffer_bytes)
            trio.lowlevel.add_instrument(instrument)
            try:
                await converse(server, client)
                await client.done.wait()
                await wait_all_tasks_blocked()
            except TransportClosed:
                await trio.sleep_forever()
            finally:
                trio.lowlevel.remove_instrument(instrument)
    assert set(store.started) <= set(store.ends) <= set(store.recorded)
    assert set(store.ends.values()) <= {1}
    assert server.node.statistics()["connections"] == server.node.statistics()["sessions"] == 0
    assert trio.lowlevel.current_statistics().tasks_living == tasks_before
    return instrument.steps >= step


def at_every_step(interrupted: Callable[[int, int], Awaitable[bool]]) -> None:
    """Interrupt each step, in some orders of tasks and with a line that holds much or little."""
    scheduling = trio._core._run
    for seed, buffer_bytes in ROUNDS:
        for step in range(1, STEPS_MAX):
            scheduling._r.seed(seed)  # the same order in each run, so that a step is the same one
            clock = MockClock(autojump_threshold=0)
            if not trio.run(interrupted, step, buffer_bytes, clock=clock):
                assert step > 100
                break
        else:
            raise AssertionError("the conversation has no end")


@pytest.fixture(autouse=True)
def in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make Trio's scheduling depend on nothing but its seed."""
    monkeypatch.setattr(trio._core._run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)


@pytest.mark.parametrize("hit", HITS.values(), ids=HITS)
def test_a_connection_is_hit_at_every_step(hit: Callable[[Server, Client], object]) -> None:
    async def hit_at(step: int, buffer_bytes: int) -> bool:
        return await interrupted_at(step, hit, buffer_bytes)

    at_every_step(hit_at)


def test_the_server_is_cancelled_at_every_step() -> None:
    at_every_step(cancelled_at)
