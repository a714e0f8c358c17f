"""The asyncio thread: one for all agents, started on demand, ended with the application."""

import asyncio
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog
import trio
from support.asyncio_agents import SECONDS, ask, end_of, serve_agents
from support.memory import open_server

from netra_trio.aio import AsyncioAgent, AsyncioRun, asyncio_agent
from netra_trio.aio import executor as executor_module
from netra_trio.aio import thread as thread_module
from netra_trio.aio.executor import DaemonExecutor
from netra_trio.aio.thread import current_thread, open_thread

NAME = "asyncio agents"


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == NAME]


@asyncio_agent
async def where(run: AsyncioRun) -> int:
    """Return the id of the thread."""
    return threading.get_ident()


@asyncio_agent
async def there(run: AsyncioRun) -> int:
    """Return the id of the thread."""
    return threading.get_ident()


async def test_all_agents_share_a_thread_that_ends_with_the_application() -> None:
    assert threads() == []
    async with serve_agents(where=where, there=there) as server, server.connect() as client:
        first = end_of(await ask(client))["result"]
        second = end_of(await ask(client, agent="there"))["result"]
        assert [thread.ident for thread in threads()] == [first]
    assert first == second
    assert threads() == []


def test_without_an_application_it_ends_with_the_trio_run() -> None:
    async def main() -> None:
        with trio.fail_after(SECONDS):
            async with open_server(agents={"where": where}) as server, server.connect() as client:
                results = {end_of(await ask(client))["result"] for _ in range(2)}
                assert [thread.ident for thread in threads()] == list(results)

    trio.run(main)
    assert threads() == []


async def test_importing_the_package_starts_nothing_and_imports_no_framework() -> None:
    names = {"pydantic_ai", "langgraph", "agents", "google.adk", "pydantic", "openai"}
    code = f"import sys, netra_trio.aio; print(sorted({names} & set(sys.modules)))"
    done = await trio.run_process([sys.executable, "-c", code], capture_stdout=True)
    assert done.stdout.strip() == b"[]"


def test_an_unknown_name_is_an_attribute_error() -> None:
    import netra_trio.aio  # noqa: PLC0415

    with pytest.raises(AttributeError, match="autogen"):
        _ = netra_trio.aio.autogen


async def test_tasks_that_are_left_are_cancelled_at_the_end() -> None:
    ended: list[str] = []

    async def stay() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            ended.append("stay")

    tasks: list[asyncio.Task[None]] = []
    async with open_thread() as thread:
        thread.call(lambda: tasks.append(thread.loop.create_task(stay())))
        started = trio.Event()
        thread.call(lambda: thread.loop.call_soon(thread.call_trio, started.set))
        await started.wait()
    assert ended == ["stay"]


async def test_a_task_that_ignores_cancellation_at_the_end_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(thread_module, "CLOSE_SECONDS", 0.1)
    token = trio.lowlevel.current_trio_token()
    ended = trio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def stay() -> None:
        future = asyncio.get_running_loop().create_future()
        token.run_sync_soon(ended.set)
        while not future.done():
            try:
                await asyncio.shield(future)
            except asyncio.CancelledError:
                asyncio.get_running_loop().call_later(0.3, set_result, future)

    def set_result(future: "asyncio.Future[None]") -> None:
        future.set_result(None)

    tasks: list[asyncio.Task[None]] = []
    with structlog.testing.capture_logs() as logs:
        async with open_thread() as thread:
            loops.append(thread.loop)

            def start() -> None:
                tasks.append(thread.loop.create_task(stay(), name="stubborn"))

            thread.call(start)
            await ended.wait()
    assert [line for line in logs if line["event"] == "asyncio_tasks_left"] == [
        {
            "event": "asyncio_tasks_left",
            "log_level": "warning",
            "run_id": None,
            "tasks": ["stubborn"],
        }
    ]
    with pytest.raises(RuntimeError):
        tasks[0].get_coro().throw(RuntimeError)  # ends it: no warning


async def test_a_blocked_thread_is_left_and_the_application_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(thread_module, "CLOSE_SECONDS", 0.05)
    release = threading.Event()
    with structlog.testing.capture_logs() as logs:
        async with open_thread() as thread:
            thread.call(release.wait)
    assert [line["event"] for line in logs] == ["asyncio_thread_left"]
    release.set()
    await trio.to_thread.run_sync(thread._thread.join)


async def test_code_that_blocks_the_thread_is_reported_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(thread_module, "WATCH_SECONDS", 0.01)
    monkeypatch.setattr(thread_module, "BLOCKED_SECONDS", 0.1)

    @asyncio_agent
    async def agent(run: AsyncioRun) -> str:
        while not blocks_in(logs):
            time.sleep(0.01)  # noqa: ASYNC251 - on purpose
        time.sleep(0.3)  # noqa: ASYNC251 - long enough for another report
        return run.id

    with structlog.testing.capture_logs() as logs:
        async with serve_agents(agent=agent) as server, server.connect() as client:
            run_id = end_of(await ask(client))["result"]
    [found] = blocks_in(logs)
    assert (found["run_id"], found["agent"]) == (run_id, "agent")
    assert "test_thread.py" in found["where"]


def blocks_in(logs: list[Any]) -> list[Any]:
    return [line for line in logs if line["event"] == "asyncio_blocked"]


async def test_resources_that_open_slowly_are_reported_and_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(thread_module, "SLOW_SECONDS", 0.0)
    opened: list[str] = []

    @asynccontextmanager
    async def resources() -> AsyncIterator[None]:
        await asyncio.sleep(0.05)
        opened.append("resources")
        yield

    adapted = AsyncioAgent(where._function, resources, name="shop")
    with structlog.testing.capture_logs() as logs, trio.fail_after(SECONDS):
        async with adapted.open():
            assert opened == ["resources"]
    assert logs == [{"event": "asyncio_resources_slow", "log_level": "warning", "agent": "shop"}]


async def test_a_start_can_be_cancelled_after_slow_resources_were_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(thread_module, "SLOW_SECONDS", 0.0)
    token = trio.lowlevel.current_trio_token()
    ended: list[str] = []

    @asynccontextmanager
    async def resources() -> AsyncIterator[None]:
        token.run_sync_soon(scope.cancel)
        try:
            await asyncio.sleep(1000)
            yield
        finally:
            ended.append("resources")

    adapted = asyncio_agent(where._function, resources=resources)
    with trio.fail_after(SECONDS), trio.CancelScope() as scope:
        async with adapted.open():
            ended.append("never")
    assert (scope.cancelled_caught, ended) == (True, ["resources"])


async def test_what_holds_it_twice_ends_it_once() -> None:
    async with open_thread() as first:
        async with open_thread() as second:
            assert first is second is current_thread()
        assert threads() != []
    assert threads() == []


def test_calls_into_an_ended_trio_run_have_no_effect() -> None:
    async def main() -> Callable[..., None]:
        async with open_thread() as thread:
            return thread.call_trio

    trio.run(main)(print)


# The executor.


async def test_functions_run_in_threads_and_their_errors_come_back() -> None:
    def fail() -> None:
        raise OSError("no such file")

    @asyncio_agent
    async def agent(run: AsyncioRun) -> list[str]:
        results = [str(await asyncio.to_thread(str.upper, "a"))]
        try:
            await asyncio.to_thread(fail)
        except OSError as error:
            results.append(str(error))
        return results

    async with serve_agents(agent=agent) as server, server.connect() as client:
        assert end_of(await ask(client))["result"] == ["A", "no such file"]


def test_at_most_so_many_functions_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor_module, "THREADS", 2)
    executor = DaemonExecutor()
    barrier, release = threading.Barrier(3), threading.Event()
    started: list[int] = []

    def work(number: int) -> int:
        started.append(number)
        if number < 2:
            barrier.wait(SECONDS)
            release.wait(SECONDS)
        return number

    futures = [executor.submit(work, number) for number in range(4)]
    barrier.wait(SECONDS)
    assert sorted(started) == [0, 1]  # the third one waits for a thread
    assert futures[2].cancel()
    release.set()
    assert [future.result(SECONDS) for future in (futures[0], futures[1], futures[3])] == [0, 1, 3]
    assert sorted(started) == [0, 1, 3]


async def test_a_blocked_function_does_not_keep_the_process_alive() -> None:
    code = """
import asyncio, threading, trio
from netra_trio.aio.thread import open_thread

async def main():
    async with open_thread() as thread:
        started = threading.Event()
        def block():
            started.set()
            threading.Event().wait()
        thread.call(lambda: thread.loop.run_in_executor(None, block))
        await trio.to_thread.run_sync(started.wait)

trio.run(main)
"""
    with trio.fail_after(SECONDS):
        await trio.run_process([sys.executable, "-c", code])
