"""The agents of the soak: one repeats its message, one reports statistics of the process.

netra-trio serve --agent repeat=bench.peers.soak_agents:repeat
"""

import gc

import orjson
import trio

from netra_trio import Run

WORD_SECONDS = 0.01  # from one word to the next: a run takes some seconds at most


async def repeat(run: Run) -> str:
    """Repeat the message word by word, after a thought and a tool call."""
    await run.think("Repeating")
    async with run.tool("split", text=run.content) as tool:
        words = run.content.split(" ")
        tool.result = len(words)
    for number, word in enumerate(words):
        await trio.sleep(WORD_SECONDS)
        await run.emit(word if number == 0 else f" {word}")
    return run.content


async def statistics(run: Run) -> str:  # noqa: ARG001 - every agent has this parameter
    """Return the number of tasks and objects of this process, after a garbage collection."""
    gc.collect()
    found = {
        "tasks": trio.lowlevel.current_statistics().tasks_living,
        "objects": len(gc.get_objects()),
    }
    return orjson.dumps(found).decode()
