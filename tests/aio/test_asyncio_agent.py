"""An agent for asyncio, as its client sees it: output, tools, history, failures and ends."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from support.asyncio_agents import ask, end_of, serve_agents, text_of
from support.memory import kinds

from netra_trio import RetryableAgentError, Run, ToolError
from netra_trio.aio import AsyncioAgent, AsyncioRun, asyncio_agent
from netra_trio.errors import AgentUnusable


async def test_output_arrives_in_its_order() -> None:
    @asyncio_agent
    async def agent(run: AsyncioRun) -> str:
        await run.think("plan", step=1, total=2)
        for word in ("a ", "b ", "c"):
            await asyncio.sleep(0)
            await run.emit(word)
        async with run.tool("add", numbers=[1, 2]) as tool:
            await run.emit("!")
            tool.result = {"sum": 3}
        await run.emit("?")
        return "done"

    async with serve_agents(agent=agent) as server, server.connect() as client:
        frames = await ask(client)
    events = [(frame["type"], frame["payload"]) for frame in frames[2:]]
    assert [
        (kind, payload.get("content", payload.get("thought", payload.get("result"))))
        for kind, payload in events
    ] == [
        ("agent_thinking", "plan"),
        ("partial_result", "a "),
        ("partial_result", "b "),
        ("partial_result", "c"),
        ("tool_executing", None),
        ("partial_result", "!"),
        ("tool_completed", {"sum": 3}),
        ("partial_result", "?"),
        ("agent_completed", "done"),
    ]
    assert (events[0][1]["step_number"], events[0][1]["total_steps"]) == (1, 2)
    assert events[4][1]["arguments"] == {"numbers": [1, 2]}


async def test_the_run_has_the_names_of_a_native_one() -> None:
    seen: dict[str, object] = {}

    @asyncio_agent
    async def agent(run: AsyncioRun) -> float:
        for name in ("id", "user", "thread_id", "correlation_id", "content", "input", "attempt"):
            seen[name] = getattr(run, name)
        for name in ("agent_name", "permissions", "traceparent"):
            seen[name] = getattr(run, name)
        return run.deadline - asyncio.get_running_loop().time()

    async with serve_agents(agent=agent) as server, server.connect() as client:
        frames = await ask(client, "hello", deadline_ms=60_000, thread_id="t-1")
        request = {"agent": "agent", "input": {"city": "Oslo"}}
        await client.send("agent_request", request)
        await client.until("agent_completed")
    assert 50 < end_of(frames)["result"] <= 60
    assert (seen["user"], seen["attempt"], seen["permissions"]) == ("alice", 1, frozenset())
    assert seen["agent_name"] == "agent"
    assert seen["content"] == '{"city":"Oslo"}'
    assert seen["input"] == request


async def test_history_has_the_earlier_messages() -> None:
    @asyncio_agent
    async def agent(run: AsyncioRun) -> list[str]:
        await run.emit(f"I heard {run.content}.")
        return [f"{message.role}: {message.content}" for message in await run.history(2)]

    async with serve_agents(agent=agent) as server, server.connect() as client:
        for content in ("one", "two", "three"):
            frames = await ask(client, content, thread_id="t-1")
    assert end_of(frames)["result"] == ["user: two", "agent: I heard two."]


async def test_an_agent_names_its_thread() -> None:
    @asyncio_agent
    async def agent(run: AsyncioRun) -> list[bool]:
        with pytest.raises(ValueError, match="at most 200 characters"):
            await run.set_title("x" * 201)
        return [await run.set_title("A title")]

    async with serve_agents(agent=agent) as server, server.connect() as client:
        frames = await ask(client, "hello", thread_id="t-1")
        await client.send("list_threads")
        listed = await client.expect("thread_list")
    assert end_of(frames)["result"] == [True]
    assert [thread["title"] for thread in listed["payload"]["threads"]] == ["A title"]


async def test_a_result_of_none_is_the_text() -> None:
    @asyncio_agent
    async def agent(run: AsyncioRun) -> None:
        await run.emit("Hel")
        await run.emit("lo")

    async with serve_agents(agent=agent) as server, server.connect() as client:
        assert end_of(await ask(client)) == {"status": "completed", "result": "Hello"}


# Tools.


async def test_a_tool_fails_with_the_text_of_a_tool_error_only() -> None:
    @asyncio_agent
    async def agent(run: AsyncioRun) -> list[str]:
        caught = []
        for error in (ToolError("no such city"), ValueError("a secret")):
            try:
                async with run.tool("weather"):
                    raise error
            except (ToolError, ValueError) as raised:
                caught.append(f"{type(raised).__name__}: {raised is error}")
        return caught

    async with serve_agents(agent=agent) as server, server.connect() as client:
        frames = await ask(client)
    ends = [frame["payload"] for frame in frames if frame["type"] == "tool_completed"]
    assert [(end["success"], end["error"]) for end in ends] == [
        (False, "no such city"),
        (False, "The tool failed."),
    ]
    assert end_of(frames)["result"] == ["ToolError: True", "ValueError: True"]


async def test_arguments_and_results_must_be_json() -> None:
    @asyncio_agent
    async def agent(run: AsyncioRun) -> list[str]:
        caught = []
        try:
            async with run.tool("odd", value=object()):
                caught.append("entered")
        except TypeError:
            caught.append("arguments")
        try:
            async with run.tool("odd") as tool:
                tool.result = object()
        except TypeError:
            caught.append("result")
        return caught

    async with serve_agents(agent=agent) as server, server.connect() as client:
        frames = await ask(client)
    assert end_of(frames)["result"] == ["arguments", "result"]


async def test_tools_run_side_by_side() -> None:
    @asyncio_agent
    async def agent(run: AsyncioRun) -> None:
        both = asyncio.Barrier(2)

        async def look(word: str) -> None:
            async with run.tool("look", word=word) as tool:
                await both.wait()
                tool.result = word

        async with asyncio.TaskGroup() as group:
            group.create_task(look("a"))
            group.create_task(look("b"))

    async with serve_agents(agent=agent) as server, server.connect() as client:
        frames = await ask(client)
    assert kinds(frames)[2:] == [
        *["tool_executing"] * 2,
        *["tool_completed"] * 2,
        "agent_completed",
    ]
    calls = {frame["payload"]["tool_call_id"] for frame in frames[2:-1]}
    assert len(calls) == 2


async def test_a_tool_that_is_cancelled_sends_no_end_and_the_run_goes_on() -> None:
    @asyncio_agent
    async def agent(run: AsyncioRun) -> str:
        try:
            async with asyncio.timeout(0.01), run.tool("slow"):
                await asyncio.sleep(SLOW)
        except TimeoutError:
            await run.emit("too slow")
        return "done"

    async with serve_agents(agent=agent) as server, server.connect() as client:
        frames = await ask(client)
    assert kinds(frames)[2:] == ["tool_executing", "partial_result", "agent_completed"]


SLOW = 60.0  # seconds: a test fails if it waits for this


# Failures.


@pytest.mark.parametrize("first", ["complete", "cut"])
async def test_a_tool_call_ends_once(first: str) -> None:
    @asyncio_agent
    async def agent(run: AsyncioRun) -> str:
        tool = await run.start_tool("look")
        if first == "complete":
            await tool.complete()
        else:
            tool.cut()
        with pytest.raises(RuntimeError, match="'look' has ended already"):
            await tool.complete()
        tool.cut()  # no effect
        return "done"

    async with serve_agents(agent=agent) as server, server.connect() as client:
        frames = await ask(client)
    assert end_of(frames)["result"] == "done"
    assert kinds(frames).count("tool_completed") == (first == "complete")


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), SystemExit(3)], ids=repr)
async def test_an_exception_fails_the_run_and_the_next_run_works(error: BaseException) -> None:
    @asyncio_agent
    async def agent(run: AsyncioRun) -> str:
        if run.content == "fail":
            raise error
        return "fine"

    async with serve_agents(agent=agent) as server, server.connect() as client:
        end = end_of(await ask(client, "fail"))
        assert (end["status"], end["error"]["code"]) == ("failed", "AGENT_ERROR")
        assert end_of(await ask(client, "work"))["result"] == "fine"


async def test_a_task_that_exits_the_interpreter_does_not_end_the_thread() -> None:
    @asyncio_agent
    async def agent(run: AsyncioRun) -> str:
        async def leave() -> None:
            sys.exit(1)

        task = asyncio.create_task(leave())
        await asyncio.wait([task])
        assert isinstance(task.exception(), SystemExit)
        return "still here"

    async with serve_agents(agent=agent) as server, server.connect() as client:
        assert end_of(await ask(client))["result"] == "still here"


async def test_a_retryable_error_is_retried() -> None:
    @asyncio_agent
    async def agent(run: AsyncioRun) -> int:
        if run.attempt == 1:
            raise RetryableAgentError
        return run.attempt

    async with serve_agents(agent=agent) as server, server.connect() as client:
        frames = await ask(client)
    assert kinds(frames).count("agent_started") == 2
    assert end_of(frames)["result"] == 2


async def test_an_agent_that_cancels_itself_fails() -> None:
    @asyncio_agent
    async def agent(run: AsyncioRun) -> None:
        raise asyncio.CancelledError

    async with serve_agents(agent=agent) as server, server.connect() as client:
        assert end_of(await ask(client))["status"] == "failed"


@pytest.mark.parametrize(("method", "value"), [("emit", 5), ("think", b"x")], ids=["emit", "think"])
async def test_text_has_to_be_text(method: str, value: object) -> None:
    @asyncio_agent
    async def agent(run: AsyncioRun) -> str:
        with pytest.raises(TypeError):
            await getattr(run, method)(value)
        return "told"

    async with serve_agents(agent=agent) as server, server.connect() as client:
        assert end_of(await ask(client))["result"] == "told"


@pytest.mark.parametrize("text", ["\ud800", "ok"])
async def test_text_that_is_not_unicode_fails_the_run(text: str) -> None:
    @asyncio_agent
    async def agent(run: AsyncioRun) -> None:
        await run.emit(text)
        await run.history()

    async with serve_agents(agent=agent) as server, server.connect() as client:
        status = end_of(await ask(client))["status"]
    assert status == ("completed" if text == "ok" else "failed")


# Resources.


async def test_resources_are_entered_and_exited_in_the_thread() -> None:
    events: list[str] = []

    @asynccontextmanager
    async def resources() -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        events.append("open")
        yield
        events.append(f"close {asyncio.get_running_loop() is loop}")

    async def function(run: AsyncioRun) -> str:
        events.append("run")
        return run.content

    agent = asyncio_agent(function, resources=resources)
    assert repr(agent) == "<asyncio agent function>"
    async with serve_agents(agent=agent) as server, server.connect() as client:
        await ask(client)
    assert events == ["open", "run", "close True"]


async def test_resources_that_cannot_be_opened_stop_the_start() -> None:
    @asynccontextmanager
    async def resources() -> AsyncIterator[None]:
        await connect()
        yield

    async def connect() -> None:
        await asyncio.sleep(0)
        raise OSError("no route")

    agent = asyncio_agent(nothing, resources=resources)
    with pytest.raises(AgentUnusable, match="OSError: no route"):
        async with serve_agents(agent=agent):
            pass


async def test_a_start_can_be_cancelled_while_resources_open() -> None:
    entered, left = trio.Event(), []
    token = trio.lowlevel.current_trio_token()

    @asynccontextmanager
    async def resources() -> AsyncIterator[None]:
        token.run_sync_soon(entered.set)
        try:
            await asyncio.sleep(SLOW)
        finally:
            left.append("cancelled")
        yield

    async with trio.open_nursery() as nursery:

        async def start() -> None:
            async with asyncio_agent(nothing, resources=resources).open():
                raise AssertionError

        nursery.start_soon(start)
        await entered.wait()
        nursery.cancel_scope.cancel()
    assert left == ["cancelled"]


async def test_an_error_of_their_end_does_not_stop_the_others() -> None:
    events: list[str] = []

    @asynccontextmanager
    async def broken() -> AsyncIterator[None]:
        yield
        raise OSError("already closed")

    @asynccontextmanager
    async def sound() -> AsyncIterator[None]:
        yield
        events.append("closed")

    first = asyncio_agent(nothing, resources=sound)
    second = AsyncioAgent(nothing, broken, name="second")
    assert second.__name__ == "second"
    async with serve_agents(first=first, second=second):
        pass
    assert events == ["closed"]


async def nothing(run: AsyncioRun) -> None:
    """Do nothing."""


async def test_a_native_agent_can_call_one() -> None:
    @asyncio_agent
    async def inner(run: AsyncioRun) -> str:
        await run.emit("inner")
        return "result"

    async def outer(run: Run) -> str:
        return f"outer {await inner(run)}"

    async with serve_agents(outer=outer) as server, server.connect() as client:
        frames = await ask(client)
    assert (text_of(frames), end_of(frames)["result"]) == ("inner", "outer result")
