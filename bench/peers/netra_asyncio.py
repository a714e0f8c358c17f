"""The agents of the benchmark as agents for asyncio, behind the bridge of `netra_trio.aio`.

    netra-trio serve --agent stream=bench.peers.netra_asyncio:stream

They do what those of `bench.peers.netra` do, so the difference is the price of the bridge.
"""

import asyncio

from bench.peers.work import TOKENS, paced_tokens, seconds_until
from netra_trio.aio import AsyncioRun, asyncio_agent


@asyncio_agent
async def echo(run: AsyncioRun) -> str:
    """Emit the text once, and return it."""
    await run.emit(run.content)
    return run.content


@asyncio_agent
async def stream(run: AsyncioRun) -> str:
    """Emit 200 tokens, one event each."""
    for token in TOKENS:
        await run.emit(token)
    return run.content


@asyncio_agent
async def paced(run: AsyncioRun) -> str:
    """Emit a token every 50 ms."""
    for due, token in paced_tokens(run.content):
        await asyncio.sleep(seconds_until(due))
        await run.emit(token)
    return run.content
