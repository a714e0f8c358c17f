"""One conversation, interrupted at every step of the server's tasks.

A Trio instrument counts the steps of all tasks of the server. At step n the connection is
cancelled, aborted, cut or closed, or the whole server is cancelled. This is repeated for n + 1,
until the conversation ends before step n. After each repetition no task and no state is left, and
each run that was started has exactly one stored end.
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

pytestmark = pytest.mark.unmeasured

SERVER_TASKS = ("netra_trio.", "support.memory.Server.start")  # prefixes of the names of its tasks
STEPS_MAX = 1000  # far more than the conversation has
ROUNDS = ((0, 128 * 1024), (1, 300))  # seed of Trio's scheduling, size of the buffer in bytes


async def use_everything(run: Run) -> str:
    """Emit text, call a tool, and start a task."""
    await run.think("hm")
    async with run.tool("clock", zone="UTC") as tool:
        await trio.sleep(0.1)
        tool.result = "noon"
    run.nursery.start_soon(run.emit, "one ")
    await run.emit("two")
    return "done"


async def wait_forever(run: Run) -> None:
    """Emit a word and wait for a cancellation."""
    await run.emit("…")
    await trio.sleep_forever()


AGENTS = {"use_everything": use_everything, "wait_forever": wait_forever}


async def converse(server: Server, client: Client) -> None:
    """Use all commands, up to the drain."""
    await client.expect("connection_established")
    await client.send("auth", {"token": token()})
    await client.until("auth_ok")
    await client.say("hello", "key-1", thread_id="main")
    await client.until("agent_completed")
    await client.send("ack", {"seq": 3})
    await client.say("hello", "key-1", thread_id="main")  # a duplicate
    await client.until("agent_completed")
    await client.say("wait", "key-2", agent="wait_forever", thread_id="main")
    run_id = (await client.until("partial_result"))[-1]["payload"]["run_id"]
    await client.say(
        "wait", "key-3", agent="wait_forever", thread_id="main"
    )  # waits for the other run
    await client.send("stop_agent", {"run_id": run_id})
    await client.until("partial_result")
    await client.send("get_thread_history", {"thread_id": "main"})
    await client.until("thread_history")
    await client.say("more", thread_id="main")  # waits, until the drain ends it
    await client.until("message_confirmed")
    server.nursery.start_soon(server.node.drain)
    await client.rest()


@define(eq=False)
class ActAtStep(trio.abc.Instrument):
    """Calls a function before a step of the server's tasks.

    Attributes:
        step: The number of the step.
        act: The function.
        steps: The number of steps so far.
    """

    step: int
    act: Callable[[], object]
    steps: int = field(default=0, init=False)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Count the steps of the server."""
        if task.name.startswith(SERVER_TASKS):
            self.steps += 1
            if self.steps == self.step:
                self.act()


def abort(server: Server) -> None:
    """End every connection, as the drain does at its deadline."""
    for connection in server.node._connections.values():
        connection.abort()


ACTIONS: dict[str, Callable[[Server, Client], object]] = {
    "cancelled": lambda _, client: client.scope.cancel(),
    "aborted": lambda server, _: abort(server),
    "cut": lambda _, client: client.peer.cut(),
    "closed by the peer": lambda _, client: client.peer.close(1001),
}


async def connection_ends_at(
    step: int, act: Callable[[Server, Client], object], buffer_bytes: int
) -> bool:
    """Interrupt the conversation at this step; return whether the step was reached."""
    tasks_before = trio.lowlevel.current_statistics().tasks_living
    store = ScriptedStore()
    async with open_server(agents=AGENTS, store=store) as server:
        tasks = trio.lowlevel.current_statistics().tasks_living
        client = server.start(acknowledging=True, buffer_bytes=buffer_bytes)
        instrument = ActAtStep(step, lambda: act(server, client))
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
    """Assert that each recorded run has ended once."""
    assert set(store.started) <= set(store.recorded)
    assert set(store.ends) == set(store.recorded)
    assert set(store.ends.values()) <= {1}
    assert store.statistics()["runs"] == 0


async def server_is_cancelled_at(step: int, buffer_bytes: int) -> bool:
    """Cancel the whole server at this step; return whether the step was reached.

    A run that was recorded and not started has no end: the next start of the server ends it.
    """
    tasks_before = trio.lowlevel.current_statistics().tasks_living
    store = ScriptedStore()
    with trio.CancelScope() as scope:
        instrument = ActAtStep(step, scope.cancel)
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


def at_every_step(run_until: Callable[[int, int], Awaitable[bool]]) -> None:
    """Interrupt at each step, with two orders of tasks and two sizes of the buffer."""
    scheduling = trio._core._run
    for seed, buffer_bytes in ROUNDS:
        for step in range(1, STEPS_MAX):
            scheduling._r.seed(seed)  # the same order of steps each time
            clock = MockClock(autojump_threshold=0)
            if not trio.run(run_until, step, buffer_bytes, clock=clock):
                assert step > 100
                break
        else:
            raise AssertionError("the conversation has no end")


@pytest.fixture(autouse=True)
def deterministic_scheduling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make Trio's scheduling depend only on its seed."""
    monkeypatch.setattr(trio._core._run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)


@pytest.mark.parametrize("act", ACTIONS.values(), ids=ACTIONS)
def test_a_connection_can_end_at_every_step(act: Callable[[Server, Client], object]) -> None:
    async def act_at(step: int, buffer_bytes: int) -> bool:
        return await connection_ends_at(step, act, buffer_bytes)

    at_every_step(act_at)


def test_the_server_can_be_cancelled_at_every_step() -> None:
    at_every_step(server_is_cancelled_at)
