"""The agents of the soak: one that talks, and one that says how the server is.

netra-trio serve --agent talk=bench.peers.soaked:talk --agent look=bench.peers.soaked:look
"""

import gc

import orjson
import trio

from netra_trio import Run

WORD_SECONDS = 0.01  # from one word to the next: a run takes some seconds at most


async def talk(run: Run) -> str:
    """Say back what was said, word by word, with a thought and a tool."""
    await run.think("Saying it back")
    async with run.tool("split", text=run.content) as tool:
        words = run.content.split(" ")
        tool.result = len(words)
    for number, word in enumerate(words):
        await trio.sleep(WORD_SECONDS)
        await run.emit(word if number == 0 else f" {word}")
    return run.content


async def look(run: Run) -> str:  # noqa: ARG001 - every agent takes one
    """Say how many tasks and objects this process has, once what is garbage is gone."""
    gc.collect()
    found = {
        "tasks": trio.lowlevel.current_statistics().tasks_living,
        "objects": len(gc.get_objects()),
    }
    return orjson.dumps(found).decode()
