"""Agents for the clients of the `ag-ui` door, as the source of a module for a real server."""

SOURCE = """
from collections import Counter

import trio

runs = Counter()


async def work(run):
    runs[run.thread_id] += 1
    await run.think("A greeting.")
    for word in ("Hello", " you"):
        await run.emit(word)
        await trio.sleep(0.002)
    async with run.tool("add", a=1, b=2) as tool:
        await run.emit("Adding. ")
        tool.result = {"sum": 3}
    await run.usage(model="m", input_tokens=2, output_tokens=3)
    await run.emit("Done.")
    return {"runs": runs[run.thread_id]}


async def remove(run):
    await run.emit("Removing. ")
    async with run.tool("remove", approve=True, path="x") as tool:
        tool.result = "removed"
    await run.emit("Removed.")


async def question(run):
    await run.emit(str(await run.ask("How many?", schema={"type": "integer"})))


async def wait(run):
    await run.emit("Waiting")
    await trio.sleep_forever()


async def tidy(run):
    if run.content == "count":
        for number in range(100_000):
            await run.emit(f"{number} ")
            await trio.sleep(0.02)
    await run.think("First I look at what is there.")
    await run.emit("I look for files that nobody needs.")
    async with run.tool("list_files", folder="/tmp") as tool:
        tool.result = "old.log, report.pdf"
    await run.emit("One of them is a log of last year.")
    async with run.tool("remove", approve=True, path="/tmp/old.log") as tool:
        tool.result = "removed"
    await run.emit("It is tidy now.")


async def quick(run):
    return "quick"
"""
AGENTS = ("work", "remove", "question", "wait", "tidy", "quick")
OPTIONS = ("--door", "ag-ui", *(f"--agent={name}=ag_ui_agents:{name}" for name in AGENTS))
