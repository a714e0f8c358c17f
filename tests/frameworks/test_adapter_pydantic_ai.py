"""The adapter for Pydantic AI, beyond the agents that are served by the command."""

from collections.abc import AsyncIterator
from typing import Any

import trio
from frameworks.attaching import NAMED, PDF, PNG, TEXT, attach
from pydantic import BaseModel
from pydantic_ai import Agent, ApprovalRequired, BinaryContent, CallDeferred, RunContext
from pydantic_ai.capabilities import HandleDeferredToolCalls
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.models.test import TestModel
from support.asyncio_agents import ask, end_of, serve_agents, text_of
from support.live import waits_of
from support.memory import Frame, kinds

from netra_trio import RetryableAgentError
from netra_trio.aio import AsyncioRun, pydantic_ai


def of_kind(frames: list[Frame], kind: str) -> list[Frame]:
    return [frame["payload"] for frame in frames if frame["type"] == kind]


class Town(BaseModel):
    """An output that is not a text."""

    name: str
    people: int


async def test_a_structured_output_is_the_result_and_the_text() -> None:
    agent = Agent(TestModel(custom_output_args={"name": "Oslo", "people": 7}), output_type=Town)
    async with serve_agents(agent=pydantic_ai(agent)) as server, server.connect() as client:
        frames = await ask(client)
    assert end_of(frames)["result"] == {"name": "Oslo", "people": 7}
    assert text_of(frames) == '{"name":"Oslo","people":7}'


async def test_dependencies_are_made_for_each_run() -> None:
    agent: Agent[str, str] = Agent(TestModel(), deps_type=str)

    @agent.tool
    async def who(ctx: RunContext[str]) -> str:
        return str(ctx.deps)

    def deps(run: AsyncioRun) -> str:
        return f"{run.user} asks"

    adapted = pydantic_ai(agent, deps=deps, history=0)
    assert adapted.__name__ == "pydantic_ai"
    async with serve_agents(agent=adapted) as server, server.connect() as client:
        frames = await ask(client)
    assert [done["result"] for done in of_kind(frames, "tool_completed")] == ["alice asks"]


async def test_an_error_that_can_be_retried_is() -> None:
    attempts: list[int] = []
    agent = Agent(TestModel())

    @agent.tool_plain
    async def flaky() -> str:
        attempts.append(1)
        if len(attempts) == 1:
            raise RetryableAgentError
        return "fine"

    async with serve_agents(agent=pydantic_ai(agent)) as server, server.connect() as client:
        frames = await ask(client)
    assert kinds(frames).count("agent_started") == 2
    assert end_of(frames)["result"] == '{"flaky":"fine"}'


async def test_a_tool_that_asks_for_approval_in_its_body_is_asked_for() -> None:
    agent = Agent(TestModel())

    @agent.tool
    async def delete(ctx: RunContext[None], path: str) -> str:
        if not ctx.tool_call_approved:
            raise ApprovalRequired
        return f"deleted {path}"

    async with serve_agents(agent=pydantic_ai(agent)) as server, server.connect() as client:
        await client.say("hello")
        frames = await client.until("agent_asking")
        question_id = frames[-1]["payload"]["question_id"]
        await client.send("answer", {"question_id": question_id, "approve": True})
        frames += await client.until("agent_completed")
    results = [done["result"] for done in of_kind(frames, "tool_completed")]
    assert results == ["The call waits for the user.", "deleted a"]


async def test_a_capability_of_the_agent_decides_before_the_user() -> None:
    async def approve_all(ctx: Any, requests: Any) -> Any:
        return requests.build_results(approve_all=True)

    agent = Agent(TestModel(), capabilities=[HandleDeferredToolCalls(approve_all)])

    @agent.tool_plain(requires_approval=True)
    async def delete(path: str) -> str:
        return f"deleted {path}"

    async with serve_agents(agent=pydantic_ai(agent)) as server, server.connect() as client:
        frames = await ask(client)
    assert "agent_asking" not in kinds(frames)
    assert [done["result"] for done in of_kind(frames, "tool_completed")] == ["deleted a"]


async def test_a_question_without_an_answer_is_told_to_the_model(monkeypatch: Any) -> None:
    monkeypatch.setattr("netra_trio.aio.run.AsyncioRun.ask", expire)
    agent = Agent(TestModel())

    @agent.tool_plain
    async def question(text: str) -> str:
        raise CallDeferred

    async with serve_agents(agent=pydantic_ai(agent)) as server, server.connect() as client:
        frames = await ask(client)
    assert "The user did not answer." in text_of(frames)


async def expire(self: AsyncioRun, prompt: str, schema: Any = None, expires: float = 0) -> Any:
    """Ask for a very short time."""
    return await self._bridge.call("ask", prompt, schema, 0.01)


async def test_the_model_is_read_as_fast_as_the_client_reads() -> None:
    piece, most, read = "x" * 10_000, 1000, 0
    done = trio.Event()
    token = trio.lowlevel.current_trio_token()

    async def speak(messages: Any, info: Any) -> AsyncIterator[str]:
        nonlocal read
        for _ in range(most):
            read += 1
            yield piece
        token.run_sync_soon(done.set)

    agent = Agent(FunctionModel(stream_function=speak))
    async with serve_agents(agent=pydantic_ai(agent)) as server:
        client = server.start(buffer_bytes=1000)
        await client.say("hello")
        await client.until("partial_result")
        with trio.move_on_after(0.5):
            await done.wait()
        assert 1 <= read < most / 2  # 1 MiB of the log, and a few batches on their way


async def test_the_run_waits_for_the_model_while_it_is_asked() -> None:
    seen: list[list[str | None]] = []

    async def model(_messages: list[Any], _info: Any) -> AsyncIterator[str]:
        seen.append(waits_of(server))
        yield "Hello."

    agent = Agent(FunctionModel(stream_function=model))
    async with serve_agents(agent=pydantic_ai(agent)) as server, server.connect() as client:
        end_of(await ask(client))
    assert seen == [["model"]]


async def test_the_model_gets_the_files_of_this_message_and_of_earlier_ones() -> None:
    requests: list[list[Any]] = []

    async def answer(messages: list[Any], _: Any) -> AsyncIterator[str]:
        requests.append([part.content for message in messages for part in message.parts])
        yield "seen"

    await attach(pydantic_ai(Agent(FunctionModel(stream_function=answer))))
    image, document = (
        BinaryContent(PNG, media_type="image/png"),
        BinaryContent(PDF, media_type="application/pdf"),
    )
    looked = [TEXT, image, document]
    assert requests == [[looked], [looked, "seen", "and?"]]
    requests.clear()
    model = FunctionModel(stream_function=answer)
    await attach(pydantic_ai(Agent(model), images=False, pdfs=False))
    assert requests == [[NAMED], [NAMED, "seen", "and?"]]
