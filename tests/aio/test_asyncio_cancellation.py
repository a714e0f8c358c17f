"""Stops of asyncio agents: every task of the run ends, or the run ends without them."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
import trio
from support.asyncio_agents import ask, end_of, serve_agents, text_of
from support.memory import Client, Frame, Server

from netra_trio import Run
from netra_trio.agents.demo.echo import echo
from netra_trio.aio import AsyncioRun, asyncio_agent
from netra_trio.aio.bridge import CANCEL_PAUSES
from netra_trio.aio.thread import current_thread
from netra_trio.stores.memory import MemoryStore
from netra_trio.stores.questions import NewQuestion

SLOW = 60.0  # seconds: a test fails if it waits for this
SOON = 1.0  # seconds within which a stop has to be done


class Seen:
    """The events in the asyncio thread, for the Trio test."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self._token = trio.lowlevel.current_trio_token()
        self._changed = trio.Event()

    def note(self, event: str) -> None:
        self.events.append(event)
        self._token.run_sync_soon(self._set)

    def _set(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def wait_for(self, event: str, count: int = 1) -> None:
        while self.events.count(event) < count:
            await self._changed.wait()


@asynccontextmanager
async def running(
    function: Callable[[AsyncioRun], Awaitable[object]],
) -> AsyncIterator[tuple[Server, Client]]:
    """Serve an agent, and the native agent `echo`."""
    async with (
        serve_agents(agent=asyncio_agent(function), echo=echo) as server,
        server.connect() as client,
    ):
        yield server, client


async def stop(client: Client) -> tuple[Frame, float]:
    """Stop the run of the last `agent_started`; return its end, and how long it took."""
    started = (await client.until("agent_started"))[-1]
    return await stop_run(client, started["payload"]["run_id"])


async def stop_run(client: Client, run_id: str) -> tuple[Frame, float]:
    before = trio.current_time()
    await client.send("stop_agent", {"run_id": run_id})
    frames = await client.until("agent_completed")
    return end_of(frames), trio.current_time() - before


async def test_a_stop_ends_the_task_and_runs_its_cleanup() -> None:
    seen = Seen()

    async def agent(run: AsyncioRun) -> None:
        try:
            async with run.tool("wait"):
                seen.note("in the tool")
                await asyncio.sleep(SLOW)
        finally:
            await asyncio.sleep(0.01)
            seen.note("cleaned up")

    async with running(agent) as (_, client):
        await client.say("hello")
        await seen.wait_for("in the tool")
        end, seconds = await stop(client)
    assert end == {"status": "cancelled"}
    assert seconds < SOON
    assert seen.events == ["in the tool", "cleaned up"]


async def test_a_stop_ends_every_task_that_the_run_started() -> None:
    seen = Seen()

    async def sleep(name: str) -> None:
        seen.note("started")
        try:
            await asyncio.sleep(SLOW)
        finally:
            seen.note(f"ended {name}")

    async def parent() -> None:
        tasks.append(asyncio.create_task(sleep("grandchild")))
        await sleep("child")

    tasks: list[asyncio.Task[None]] = []

    async def agent(run: AsyncioRun) -> None:
        tasks.append(asyncio.create_task(parent()))
        await sleep("main")

    async with running(agent) as (_, client):
        await client.say("hello")
        await seen.wait_for("started", 3)
        end, seconds = await stop(client)
        assert sorted(seen.events[3:]) == ["ended child", "ended grandchild", "ended main"]
    assert (end, seconds < SOON) == ({"status": "cancelled"}, True)


async def test_the_end_waits_for_tasks_that_are_left_and_they_can_emit() -> None:
    async def late(run: AsyncioRun) -> None:
        await asyncio.sleep(0.05)
        await run.emit(" later")

    tasks: list[asyncio.Task[None]] = []

    async def agent(run: AsyncioRun) -> None:
        tasks.append(asyncio.create_task(late(run)))
        await run.emit("now")

    async with running(agent) as (_, client):
        frames = await ask(client)
    assert text_of(frames) == "now later"
    assert end_of(frames)["status"] == "completed"


async def test_a_failure_cancels_the_other_tasks() -> None:
    seen = Seen()

    async def other() -> None:
        try:
            await asyncio.sleep(SLOW)
        finally:
            seen.note("other ended")

    tasks: list[asyncio.Task[None]] = []

    async def agent(run: AsyncioRun) -> None:
        tasks.append(asyncio.create_task(other()))
        await asyncio.sleep(0)
        raise ValueError("x")

    async with running(agent) as (_, client):
        frames = await ask(client)
        assert seen.events == ["other ended"]
    assert end_of(frames)["error"]["code"] == "AGENT_ERROR"


async def test_a_task_that_is_started_after_the_end_is_cancelled() -> None:
    seen = Seen()

    async def orphan() -> None:
        seen.note("orphan ran")

    def start() -> None:
        task = asyncio.ensure_future(orphan())
        task.add_done_callback(lambda task: seen.note(f"cancelled {task.cancelled()}"))

    async def agent(run: AsyncioRun) -> None:
        asyncio.get_running_loop().call_later(0.05, start)

    async with running(agent) as (_, client):
        await ask(client)
        await seen.wait_for("cancelled True")
    assert seen.events == ["cancelled True"]


async def test_an_agent_that_swallows_cancellation_is_cancelled_again() -> None:
    seen = Seen()

    async def agent(run: AsyncioRun) -> None:
        seen.note("started")
        for _ in range(3):
            try:
                await asyncio.sleep(SLOW)
            except asyncio.CancelledError:
                seen.note("swallowed")
        await asyncio.sleep(SLOW)

    async with running(agent) as (_, client):
        await client.say("hello")
        await seen.wait_for("started")
        end, seconds = await stop(client)
    assert end == {"status": "cancelled"}
    assert seen.events.count("swallowed") == 3
    assert seconds >= sum(CANCEL_PAUSES)


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Return an event that ends what blocks a thread, at the end of the test at the latest."""
    event = threading.Event()
    yield event
    event.set()


async def test_an_agent_that_ignores_cancellation_is_abandoned_and_refused() -> None:
    seen = Seen()
    obeys: list[bool] = []

    async def agent(run: AsyncioRun) -> None:
        seen.note("started")
        while not obeys:
            try:
                await asyncio.sleep(SLOW)
            except asyncio.CancelledError:
                seen.note("swallowed")
            with pytest.raises(asyncio.CancelledError):
                await run.emit("never seen")
            with pytest.raises(asyncio.CancelledError):
                await run.history()
        seen.note("ended")

    async with running(agent) as (_, client):
        await client.say("hello")
        await seen.wait_for("started")
        end, _ = await stop(client)
        assert end == {"status": "cancelled", "abandoned": True}
        frames = await ask(client, agent="echo")
        assert end_of(frames)["result"] == "hello"
        obeys.append(True)  # the end of the thread cancels it
    assert seen.events[-1] == "ended"


async def test_code_that_blocks_the_thread_is_abandoned_and_its_session_ends(
    release: threading.Event,
) -> None:
    seen = Seen()

    async def agent(run: AsyncioRun) -> None:
        seen.note("started")
        release.wait()

    async with running(agent) as (_, client):
        await client.say("hello")
        await seen.wait_for("started")
        end, _ = await stop(client)
        assert end == {"status": "cancelled", "abandoned": True}
        # A run that could not start, because the thread is blocked, can be stopped too.
        await client.say("again")
        end, _ = await stop(client)
        assert end["status"] == "cancelled"
        release.set()
    assert seen.events == ["started"]


async def test_native_runs_do_not_wait_for_a_blocked_asyncio_thread() -> None:
    seen, done = Seen(), threading.Event()
    lags: list[float] = []

    async def agent(run: AsyncioRun) -> None:
        seen.note("started")
        time.sleep(0.4)  # noqa: ASYNC251 - on purpose
        done.set()

    async def native(run: Run) -> None:
        while not done.is_set():
            before = trio.current_time()
            await trio.sleep(0.005)
            lags.append(trio.current_time() - before - 0.005)
            await run.emit(".")

    async with (
        serve_agents(agent=asyncio_agent(agent), native=native) as server,
        server.connect() as client,
    ):
        await client.say("hello", agent="agent", thread_id="t-1")
        await seen.wait_for("started")
        await client.say("hello", agent="native", thread_id="t-2")
        await client.until("agent_completed")
        await client.until("agent_completed")
    assert len(lags) > 5
    assert sorted(lags)[len(lags) // 2] < 0.1  # a blocked loop would be late by 0.4 s


async def test_a_deadline_ends_an_asyncio_agent() -> None:
    async def agent(run: AsyncioRun) -> None:
        await asyncio.sleep(SLOW)

    async with running(agent) as (_, client):
        end = end_of(await ask(client, deadline_ms=100))
    assert (end["status"], end["error"]["code"]) == ("timed_out", "AGENT_TIMEOUT")


class HangingStore(MemoryStore):
    """A store whose questions are stored when `release` is set; cancelling does not end that.

    Attributes:
        entered: Set when a question is being stored.
        release: Lets it be stored.
    """

    def __init__(self) -> None:
        super().__init__()
        self.entered = trio.Event()
        self.release = trio.Event()

    async def record_question(self, question: NewQuestion) -> None:
        self.entered.set()
        with trio.CancelScope(shield=True):
            await self.release.wait()
        await super().record_question(question)


@pytest.mark.parametrize("fails", [False, True], ids=["stop", "failure"])
async def test_the_tasks_are_cancelled_while_a_question_is_being_stored(fails: bool) -> None:
    """The call of the question is shielded, and lasts longer than the run."""
    seen, store = Seen(), HangingStore()
    failing: list[asyncio.Event] = []

    async def sleep() -> None:
        try:
            await asyncio.sleep(SLOW)
        finally:
            seen.note("cancelled")

    async def agent(run: AsyncioRun) -> None:
        failing.append(asyncio.Event())
        tasks = [asyncio.create_task(run.ask("Which?")), asyncio.create_task(sleep())]
        await failing[0].wait()
        raise ValueError(f"{len(tasks)} tasks are left")

    adapted = asyncio_agent(agent)
    async with (
        serve_agents(agent=adapted, options={"store": store}) as server,
        server.connect() as client,
    ):
        await client.say("hello")
        run_id = (await client.until("agent_started"))[-1]["payload"]["run_id"]
        await store.entered.wait()
        if fails:
            current_thread().call(failing[0].set)
        else:
            await client.send("stop_agent", {"run_id": run_id})
        try:
            with trio.fail_after(SOON):
                await seen.wait_for("cancelled")
        finally:
            store.release.set()
        await client.until("agent_completed")
    assert seen.events == ["cancelled"]


async def test_an_error_of_the_cleanup_does_not_hide_the_stop() -> None:
    seen = Seen()

    async def agent(run: AsyncioRun) -> None:
        try:
            seen.note("started")
            await asyncio.sleep(SLOW)
        finally:
            raise ValueError("x")

    async with running(agent) as (_, client):
        await client.say("hello")
        await seen.wait_for("started")
        assert (await stop(client))[0] == {"status": "cancelled"}


async def test_a_call_that_is_cancelled_before_it_is_performed_is_not() -> None:
    """The Trio task is slow: its client does not read."""

    async def agent(run: AsyncioRun) -> str:
        task = asyncio.create_task(run.history())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        return f"cancelled {task.cancelled()}"

    async with running(agent) as (_, client):
        assert end_of(await ask(client))["result"] == "cancelled True"


async def test_a_stop_in_a_blocked_emit_ends_the_run() -> None:
    seen = Seen()

    async def agent(run: AsyncioRun) -> None:
        try:
            while True:
                await run.emit("x" * 1000)
        except asyncio.CancelledError:
            seen.note("cancelled")
            raise

    async with (
        serve_agents(agent=asyncio_agent(agent)) as server,
        server.connect(buffer_bytes=1000) as client,
        server.connect() as other,
    ):
        await client.say("hello")
        started = (await client.until("agent_started"))[-1]
        await trio.sleep(0.2)  # the buffers are full then; the test holds without it too
        assert seen.events == []
        await other.send("stop_agent", {"run_id": started["payload"]["run_id"]})
        await seen.wait_for("cancelled")
        frames = await client.until("agent_completed")
    assert end_of(frames) == {"status": "cancelled"}


async def test_the_end_of_a_session_cancels_its_asyncio_runs() -> None:
    seen = Seen()

    async def agent(run: AsyncioRun) -> None:
        try:
            seen.note("started")
            await asyncio.sleep(SLOW)
        finally:
            seen.note("ended")

    async with serve_agents(agent=asyncio_agent(agent)) as server:
        client = server.start()
        await client.say("hello")
        await seen.wait_for("started")
        client.peer.close()
        await client.done.wait()
    assert seen.events == ["started", "ended"]
