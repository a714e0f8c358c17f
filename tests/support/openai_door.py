"""Requests to the OpenAI door of an application in this process, and agents that answer them.

async with open_app(agents=AGENTS, doors=DOORS) as app:
    assert await text_of(app, body("3")) == "0 1 2 "
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import trio

from netra_trio.agents.run import Run
from netra_trio.server.application import Application
from support.doors import HttpAnswer, request
from support.memory import Client, Server

PATH = "/v1/chat/completions"
DOORS = ("openai",)


async def recall(run: Run) -> None:
    """Send the roles and texts of the history, one a line, and the question."""
    for message in await run.history():
        await run.emit(f"{message.role}: {message.content}\n")
    await run.emit(run.content)
    await run.usage(model="m", input_tokens=2, output_tokens=3)


async def newest(run: Run) -> str:
    return " ".join(message.content for message in await run.history(int(run.content)))


async def count(run: Run) -> None:
    for number in range(int(run.content)):
        await run.emit(f"{number} ")
        await trio.sleep(1)


async def only_return(run: Run) -> str:
    return f"result of {run.content}"


async def ask(run: Run) -> None:
    await run.emit("before ")
    await run.ask("Which one?")


async def ask_late(run: Run) -> None:
    await trio.sleep(5)
    await run.ask("Which one?")


async def late(run: Run) -> str:
    await trio.sleep(250)
    return "at last"


async def flood(run: Run) -> None:
    while True:
        await run.emit("x" * 1000)


async def fail(run: Run) -> None:
    await run.emit("part")
    raise ValueError("not for clients")


_ALL = (recall, newest, count, only_return, ask, ask_late, late, flood, fail)
AGENTS = {each.__name__: each for each in _ALL}


def body(content: str = "3", model: str = "count", **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": content}], **fields}


async def complete(app: Application, posted: Any, **options: Any) -> tuple[int, Any]:
    """Return the status and the decoded answer of a request without a stream."""
    async with request(app, "POST", PATH, json=posted, **options) as answer:
        return answer.status, await answer.json()


async def text_of(app: Application, posted: Any, **options: Any) -> str:
    status, answer = await complete(app, posted, **options)
    assert status == 200, answer
    content: str = answer["choices"][0]["message"]["content"]
    return content


async def chunks(answer: HttpAnswer) -> list[Any]:
    """Return the values of the stream, `[DONE]` as text."""
    return [data if data == "[DONE]" else orjson.loads(data) for data in await answer.data()]


def joined(values: list[Any]) -> str:
    """Return the text of a complete stream."""
    assert values[-1] == "[DONE]", values[-1]
    return "".join(
        choice["delta"].get("content", "") for value in values[:-1] for choice in value["choices"]
    )


async def first(answer: HttpAnswer, text: bytes) -> None:
    """Read a stream until a text has come."""
    data = b""
    while text not in data:
        piece = await answer.piece()
        assert piece, data
        data += piece


@asynccontextmanager
async def device(app: Application, user: str = "alice") -> AsyncIterator[Client]:
    """Open a WebSocket of a user."""
    async with trio.open_nursery() as nursery, Server(app.node, nursery).connect(user) as client:
        client.skipped = frozenset()
        yield client


async def threads(client: Client) -> list[str]:
    await client.send("list_threads", {}, "list")
    listed = (await client.until("thread_list"))[-1]["payload"]
    return [thread["thread_id"] for thread in listed["threads"]]


def sessions(app: Application) -> int:
    return len(list(app.node.sessions))


def runs(app: Application) -> int:
    return sum(app.node.sessions.run_statistics().values())


def answered(app: Application) -> dict[str, int]:
    """Return how often each outcome was counted, without zeros."""
    counted = app.instruments.metrics.door_requests
    return {key[1]: number for key, number in counted.items() if key[0] == "openai" and number}
