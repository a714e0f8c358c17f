"""The answers of the fake models of all frameworks, and the tools of their agents.

A model calls the first tool that it is given, once in a turn. Then it says what the tool returned
and how many messages came before. It needs no framework, so all of them behave alike.
"""

import asyncio
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2
import orjson

ARGUMENTS: dict[str, dict[str, Any]] = {
    "weather": {"city": "Oslo"},
    "stock": {"product": "spade"},
    "delete": {"path": "notes.txt"},
}
THOUGHT = "Which tool do I have?"
BLOCK_SECONDS = 1.0
SLOW = 600.0  # seconds: a test fails if it waits for this
MODEL_NAME = "fake-1"
TOKENS = (3, 2)  # of each request, read and written


def next_step(tools: Sequence[str], results: Sequence[Any], earlier: int) -> str | tuple[str, Any]:
    """Return the text that a model says, or the name and the arguments of a tool that it calls.

    Args:
        tools: The names of the tools that it has.
        results: What tools have returned in this turn.
        earlier: How many messages came before that of the user.
    """
    if tools and not results:
        return tools[0], ARGUMENTS.get(tools[0], {})
    return f"The tool says {', '.join(map(str, results))} after {earlier} messages."


def as_json(arguments: Any) -> str:
    """Return arguments as a model writes them."""
    return orjson.dumps(arguments).decode()


def words(text: str) -> list[str]:
    """Return the pieces in which a model says a text."""
    return [f"{word} " for word in text.split(" ")[:-1]] + [text.rsplit(" ", maxsplit=1)[-1]]


def note(event: str) -> None:
    """Write an event into the file of NOTES, which a test reads."""
    with Path(os.environ["NOTES"]).open("a") as file:
        file.write(f"{event}\n")


async def weather(city: str) -> str:
    """Return the weather of a city."""
    return f"clear in {city}"


async def fetch() -> str:
    """Read from a provider that never ends."""
    note("fetch started")
    try:
        async with (
            httpx2.AsyncClient(trust_env=False, timeout=SLOW) as client,
            client.stream("GET", os.environ["PROVIDER"]) as answer,
        ):
            return "".join([piece async for piece in answer.aiter_text()])
    finally:
        note("fetch ended")


async def block() -> str:
    """Block the thread."""
    note("block started")
    time.sleep(BLOCK_SECONDS)  # noqa: ASYNC251 - on purpose
    return "blocked"


async def stubborn() -> str:
    """Swallow two cancellations."""
    note("stubborn started")
    for _ in range(2):
        try:
            await asyncio.sleep(SLOW)
        except asyncio.CancelledError:
            note("swallowed")
    await asyncio.sleep(SLOW)
    return "never"


async def delete(path: str) -> str:
    """Delete a file."""
    note(f"deleted {path}")
    return f"deleted {path}"


async def fail() -> str:
    """Raise an exception."""
    raise ValueError("a secret")
