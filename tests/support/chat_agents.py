"""Agents for the clients of the OpenAI door, as the source of a module for a real server."""

SOURCE = """
import trio


async def recall(run):
    for message in await run.history():
        await run.emit(f"{message.role}: {message.content}\\n")
    await run.think("Let me see.")
    async with run.tool("weather", city="Paris") as tool:
        tool.result = "sunny"
    await run.emit(run.content)
    await run.usage(model="m", input_tokens=2, output_tokens=3)


async def count(run):
    for number in range(int(run.content)):
        await run.emit(f"{number} ")
        await trio.sleep(0.01)


async def ask(run):
    await run.ask("Which one?")


async def fail(run):
    raise ValueError("not for clients")
"""
AGENTS = ("recall", "count", "ask", "fail")
OPTIONS = tuple(f"--agent={name}=chat_agents:{name}" for name in AGENTS)


def counted(numbers: int) -> str:
    """Return the answer of the agent `count`."""
    return "".join(f"{number} " for number in range(numbers))
