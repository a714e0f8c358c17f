"""The door of the Vercel AI SDK on two nodes: a request may come to another node than the run."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from support.doors import request
from support.memory import SECRET, wall_clock
from support.ui_messages import chunks
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio.agents.run import Run
from netra_trio.broker.memory import MemoryBackend, MemoryServer
from netra_trio.config.settings import Settings
from netra_trio.ids import new_node_id
from netra_trio.server.application import Application, create_app
from netra_trio.stores.memory import MemoryStore

CHAT = "/api/chat"


class Agent:
    """An agent that emits a piece for each permit, and then may ask for approval."""

    def __init__(self) -> None:
        self.steps = trio.Semaphore(0)

    async def __call__(self, run: Run) -> None:
        for word in ("one ", "two "):
            await self.steps.acquire()
            await run.emit(word)
        if "approve" in run.content:
            async with run.tool("rm", approve=True, path="x") as tool:
                tool.result = "gone"
            await run.emit("three")


@asynccontextmanager
async def two_nodes() -> AsyncIterator[tuple[Application, Application, Agent]]:
    agent, store, server = Agent(), MemoryStore(), MemoryServer()
    settings = Settings(jwt_secret_key=SECRET, doors=("vercel",), auth_auto_provision=True)

    def node() -> Application:
        node_id = new_node_id()
        return create_app(
            agents={"work": agent},
            settings=settings,
            store=store.for_node(node_id),
            wall_clock=wall_clock,
            backend=MemoryBackend(node_id, server),
        )

    one, two = node(), node()
    async with one.running(), two.running():
        yield one, two, agent


def body(text: str) -> dict[str, object]:
    message = {"id": "m1", "role": "user", "parts": [{"type": "text", "text": text}]}
    return {"id": "c1", "messages": [message], "trigger": "submit-message"}


def text_of(told: list[dict[str, str]]) -> str:
    return "".join(each["delta"] for each in told if each["type"] == "text-delta")


async def test_a_run_of_another_node_is_followed_and_stopped(autojump_clock: MockClock) -> None:
    async with two_nodes() as (one, two, agent):
        async with request(one, "POST", CHAT, json=body("go")):
            agent.steps.release()
            await wait_all_tasks_blocked()
        async with request(two, "GET", f"{CHAT}/c1/stream") as answer:
            await answer.piece()
            async with request(two, "POST", f"{CHAT}/c1/stop") as stopped:
                assert await stopped.json() == {"stopped": 1}
            told = chunks(await answer.text())
        assert told[-1]["type"] == "abort"


async def test_a_retry_and_an_approval_at_another_node(autojump_clock: MockClock) -> None:
    async with two_nodes() as (one, two, agent):
        async with request(one, "POST", CHAT, json=body("approve it")):
            agent.steps.release()
            await wait_all_tasks_blocked()
        async with request(two, "POST", CHAT, json=body("approve it")) as answer:
            agent.steps.release()
            told = chunks(await answer.text())
        assert text_of(told) == "one two "
        asked = next(each for each in told if each["type"] == "tool-approval-request")
        question_id = asked["approvalId"]
        approval = {"id": question_id, "approved": True}
        part = {"type": "dynamic-tool", "state": "approval-responded", "approval": approval}
        message = {"id": told[0]["messageId"], "role": "assistant", "parts": [part]}
        json = {"id": "c1", "messages": [message], "trigger": "submit-message"}
        async with request(two, "POST", CHAT, json=json) as answer:
            told = chunks(await answer.text())
        output = {"type": "tool-output-available", "toolCallId": question_id, "output": "gone"}
        assert output in told
        assert text_of(told) == "three"
        assert told[-1]["type"] == "finish"
