"""Helpers for tests of the `vercel` door: an agent, requests, and the contents of streams.

async with running() as (app, recorder):
    told = await ask(app, body("say hello"))
    assert text_of(told) == "hello"
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
from trio.testing import wait_all_tasks_blocked

from netra_trio import agent
from netra_trio.agents.run import Agent, Run
from netra_trio.errors import ToolDenied
from netra_trio.server.application import Application
from support.doors import HttpAnswer, open_app, request
from support.ui_messages import chunks

CHAT = "/api/chat"
WINDOW = 120.0  # seconds: the default resume window

Body = dict[str, Any]


class Recorder:
    """Counts the runs, and lets a test start the pieces of the answers."""

    def __init__(self) -> None:
        self.runs: list[str] = []
        self.cancelled: list[str] = []
        self.steps = trio.Semaphore(0)

    async def __call__(self, run: Run) -> str | None:
        self.runs.append(run.content)
        kind, _, rest = run.content.partition(" ")
        try:
            if kind == "say":
                return rest
            if kind == "step":
                for word in rest.split():
                    await self.steps.acquire()
                    await run.emit(word + " ")
            elif kind == "approve":
                return await self._approve(run)
            elif kind == "both":
                run.nursery.start_soon(self._look, run)
                await wait_all_tasks_blocked()
                return await self._approve(run)
            elif kind == "ask":
                answer = await run.ask("Which?", schema={"type": "string"})
                return f"You said {answer}."
            elif kind == "flood":
                while True:
                    await run.emit("x" * 1000)
            else:
                raise RuntimeError("unknown")
        except trio.Cancelled:
            self.cancelled.append(run.content)
            raise
        return None

    async def _look(self, run: Run) -> None:
        async with run.tool("look") as tool:
            await self.steps.acquire()
            tool.result = "seen"

    async def _approve(self, run: Run) -> str:
        await run.emit("Well. ")
        try:
            async with run.tool("rm", approve=True, path="x") as tool:
                await self.steps.acquire()
                tool.result = "gone"
        except ToolDenied as denied:
            return f"Not allowed: {denied.args[0]}"
        await run.emit("Done.")
        return ""


@asynccontextmanager
async def running(**settings: Any) -> AsyncIterator[tuple[Application, Recorder]]:
    """Run an application with the door, and its agents."""
    recorder = Recorder()
    agents: dict[str, Agent] = {"work": recorder, "long": agent(recorder, unattended="continue")}
    async with open_app(agents=agents, doors=("vercel",), **settings) as app:
        yield app, recorder


def said(text: str, message_id: str = "m1") -> Body:
    """Return a message of the user."""
    return {"id": message_id, "role": "user", "parts": [{"type": "text", "text": text}]}


def body(text: str, message_id: str = "m1", chat: str = "c1", **more: Any) -> Body:
    """Return the body of a request with a message."""
    message = said(text, message_id)
    return {"id": chat, "messages": [message], "trigger": "submit-message", **more}


def posted(app: Application, json: Body, **options: Any) -> Any:
    """Post to the door."""
    return request(app, "POST", CHAT, json=json, **options)


def resumed(app: Application, chat: str = "c1", **options: Any) -> Any:
    """Open the stream of a chat."""
    return request(app, "GET", f"{CHAT}/{chat}/stream", **options)


async def stopped(app: Application, chat: str = "c1", **options: Any) -> Any:
    """Stop a chat; return the number of stopped runs."""
    async with request(app, "POST", f"{CHAT}/{chat}/stop", **options) as answer:
        assert answer.status == 200
        return (await answer.json())["stopped"]


async def ask(app: Application, json: Body, **options: Any) -> list[Body]:
    """Post, and return the chunks of the whole answer."""
    async with posted(app, json, **options) as answer:
        return await read(answer)


async def read(answer: HttpAnswer) -> list[Body]:
    """Return the chunks of the whole answer."""
    text = await answer.text()
    assert answer.status == 200, text
    return chunks(text)


def text_of(told: list[Body]) -> str:
    """Return the text of an answer."""
    return "".join(each["delta"] for each in told if each["type"] == "text-delta")


def run_of(told: list[Body]) -> str:
    """Return the id of its run."""
    run_id: str = told[0]["messageId"]
    return run_id


def outcomes(app: Application) -> dict[str, int]:
    """Return how many requests ended in which way."""
    counts = app.instruments.metrics.door_requests.items()
    return {str(key[1]): count for key, count in counts if count}
