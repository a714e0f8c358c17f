"""Questions, approvals and usage of agents that run in the asyncio thread."""

import asyncio

import pytest
from support.asyncio_agents import ask, end_of, serve_agents
from support.memory import Client, Frame, kinds

from netra_trio.agents.questions import OPEN_QUESTIONS
from netra_trio.aio import AsyncioRun, asyncio_agent
from netra_trio.errors import QuestionExpired, ToolDenied


async def answer(client: Client, **given: object) -> Frame:
    """Wait for the next question and answer it; return the question."""
    question: Frame = (await client.until("agent_asking"))[-1]["payload"]
    await client.send("answer", {"question_id": question["question_id"], **given})
    return question


async def test_a_question_is_answered() -> None:
    @asyncio_agent
    async def agent(run: AsyncioRun) -> str:
        await run.emit("Well: ")
        city = await run.ask("Which city?", {"type": "string"}, expires=60)
        return f"to {city}"

    async with serve_agents(agent=agent) as server, server.connect() as client:
        await client.say("hello")
        question = await answer(client, answer="Oslo")
        frames = await client.until("agent_completed")
    assert (question["kind"], question["prompt"]) == ("question", "Which city?")
    assert question["schema"] == {"type": "string"}
    assert end_of(frames)["result"] == "to Oslo"


async def test_a_question_expires() -> None:
    @asyncio_agent
    async def agent(run: AsyncioRun) -> str:
        with pytest.raises(QuestionExpired):
            await run.ask("Anybody?", expires=0.05)
        return "nobody"

    async with serve_agents(agent=agent) as server, server.connect() as client:
        assert end_of(await ask(client))["result"] == "nobody"


async def test_the_agent_emits_while_a_question_is_open() -> None:
    @asyncio_agent
    async def agent(run: AsyncioRun) -> object:
        question = asyncio.create_task(run.ask("Go on?"))
        await asyncio.sleep(0)
        await run.emit("Meanwhile. ")
        return await question

    async with serve_agents(agent=agent) as server, server.connect() as client:
        await client.say("hello")
        frames = await client.until("partial_result")
        question = next(
            (frame for frame in frames if frame["type"] == "agent_asking"), None
        ) or await client.expect("agent_asking")
        given = {"question_id": question["payload"]["question_id"], "answer": [1, 2]}
        await client.send("answer", given)
        assert end_of(await client.until("agent_completed"))["result"] == [1, 2]


async def test_a_task_that_is_cancelled_closes_its_question() -> None:
    @asyncio_agent
    async def agent(run: AsyncioRun) -> str:
        try:
            async with asyncio.timeout(0.05):
                await run.ask("Quick!")
        except TimeoutError:
            return "too late"
        return "answered"

    async with serve_agents(agent=agent) as server, server.connect() as client:
        await client.say("hello")
        frames = await client.until("agent_completed")
        if "agent_answered" not in kinds(frames):
            frames.append(await client.expect("agent_answered"))
    closed = next(frame for frame in frames if frame["type"] == "agent_answered")
    assert closed["payload"]["outcome"] == "cancelled"


@pytest.mark.parametrize("approve", [True, False])
async def test_an_approval_opens_the_block_or_not(approve: bool) -> None:
    @asyncio_agent
    async def agent(run: AsyncioRun) -> str:
        try:
            async with run.tool("delete", approve=True, path="/tmp/x") as tool:  # noqa: S108
                tool.result = "gone"
        except ToolDenied as denied:
            return denied.outcome
        return "deleted"

    async with serve_agents(agent=agent) as server, server.connect() as client:
        await client.say("hello")
        question = await answer(client, approve=approve)
        frames = await client.until("agent_completed")
    assert (question["kind"], question["tool_name"]) == ("approval", "delete")
    assert question["arguments"] == {"path": "/tmp/x"}  # noqa: S108
    assert end_of(frames)["result"] == ("deleted" if approve else "denied")
    assert ("tool_executing" in kinds(frames)) == approve


async def test_more_approvals_than_can_be_open_wait_for_a_place() -> None:
    @asyncio_agent
    async def agent(run: AsyncioRun) -> list[str]:
        async def call(number: int) -> None:
            try:
                async with run.tool("delete", approve=True, number=number):
                    done.append(f"{number} done")
            except ToolDenied:
                done.append(f"{number} denied")

        done: list[str] = []
        async with asyncio.TaskGroup() as group:
            for number in range(OPEN_QUESTIONS + 2):
                group.create_task(call(number))
        return sorted(done)

    async with serve_agents(agent=agent) as server, server.connect() as client:
        await client.say("hello")
        for _ in range(OPEN_QUESTIONS + 2):
            frames = await client.until("agent_asking")
            question = frames[-1]["payload"]
            approve = question["arguments"]["number"] % 2 == 0
            given = {"question_id": question["question_id"], "approve": approve}
            await client.send("answer", given)
        end = end_of(await client.until("agent_completed"))
    assert end["result"] == [
        f"{number} {'denied' if number % 2 else 'done'}" for number in range(OPEN_QUESTIONS + 2)
    ]


async def test_usage_is_reported() -> None:
    @asyncio_agent
    async def agent(run: AsyncioRun) -> str:
        await run.usage(model="m", input_tokens=3, output_tokens=4, cost=0.5)
        with pytest.raises(ValueError, match="tokens"):
            await run.usage(model="m", input_tokens=-1, output_tokens=0)
        return "done"

    async with serve_agents(agent=agent) as server, server.connect() as client:
        frames = await ask(client)
    usage = next(frame["payload"] for frame in frames if frame["type"] == "agent_usage")
    assert (usage["model"], usage["input_tokens"], usage["output_tokens"], usage["cost"]) == (
        *("m", 3, 4),
        0.5,
    )
