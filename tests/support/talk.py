"""A conversation with events of all types, and the events that a client has to deliver.

runs = await talk(client)
assert runs == WHOLE
"""

from typing import Any

import trio

from netra_trio.agents.run import Run as AgentRun
from netra_trio.client import Client, Event, Run

WORDS = [f"wörd{number} " for number in range(12)]
VOLATILE = {"run_id", "tool_call_id", "duration_ms", "thread_id"}
EVENTS = 2 * (1 + 1 + 2 + 2 + len(WORDS) + 1)  # confirmation, start, thoughts, tool, text, end

Said = tuple[str, Any]


async def talker(run: AgentRun) -> str:
    """Think, use a tool, and answer in words: some at once, some with pauses."""
    await run.think("hm", step=1, total=2)
    for word in WORDS[:4]:
        await run.emit(word)
    async with run.tool("look", up=run.content) as tool:
        await trio.sleep(0.02)
        tool.result = {"found": run.content}
    for word in WORDS[4:8]:
        await run.emit(word)
        await trio.sleep(0.01)
    await run.think("more")
    for word in WORDS[8:]:
        await run.emit(word)
    return f"answer to {run.content}"


WHOLE: list[list[Said]] = [
    [
        ("agent_started", {"agent_name": "talker", "attempt": 1}),
        ("agent_thinking", {"thought": "hm", "step_number": 1, "total_steps": 2}),
        ("text", "".join(WORDS[:4])),
        ("tool_executing", {"tool_name": "look", "arguments": {"up": name}}),
        ("tool_completed", {"tool_name": "look", "success": True, "result": {"found": name}}),
        ("text", "".join(WORDS[4:8])),
        ("agent_thinking", {"thought": "more"}),
        ("text", "".join(WORDS[8:])),
        ("agent_completed", {"status": "completed", "result": f"answer to {name}"}),
    ]
    for name in ("one", "two")
]
"""The events of both runs."""


async def talk(client: Client) -> list[list[Said]]:
    """Have two concurrent runs, and return the events of each."""
    made: dict[str, list[Said]] = {}

    async def say(name: str) -> None:
        run = await client.send(name, thread_id=name, correlation_id=name)
        made[name] = await assembled(run)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(say, "one")
        nursery.start_soon(say, "two")
    return [made["one"], made["two"]]


async def assembled(run: Run) -> list[Said]:
    """Return the events of a run, with adjacent pieces of text joined."""
    said: list[Said] = []
    async for event in run:
        what, payload = stable(event)
        if what == "text" and said and said[-1][0] == "text":
            said[-1] = ("text", said[-1][1] + payload)
        else:
            said.append((what, payload))
    return said


def stable(event: Event) -> Said:
    """Return an event without the fields that are different each time."""
    if event.type == "partial_result":
        return "text", event.payload["content"]
    return event.type, {k: v for k, v in event.payload.items() if k not in VOLATILE}
