"""The adapter for the OpenAI Agents SDK.

    app = create_app(agents={"shop": openai_agents(Agent(name="shop", instructions="…"))})

The agent runs unchanged, streamed. Its run hooks show the tools; its interruptions ask the user for
approval, and the run goes on from where it was.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from agents import Agent, RunHooks, Runner
from agents.items import ToolApprovalItem
from agents.run_state import RunState

from netra_trio.agents.handed_files import Handed, HandOver
from netra_trio.aio.agent import AsyncioAgent
from netra_trio.aio.frameworks.output import HISTORY_MESSAGES, FrameworkOutput
from netra_trio.aio.run import AsyncioRun
from netra_trio.errors import ToolDenied

_TEXT = {"response.output_text.delta", "response.refusal.delta"}
_THOUGHT = {"response.reasoning_summary_text.delta", "response.reasoning_text.delta"}
_THOUGHT_ENDS = {"response.reasoning_summary_text.done", "response.reasoning_text.done"}


def openai_agents(
    agent: "Agent[Any]",
    *,
    history: int = HISTORY_MESSAGES,
    context: Callable[[AsyncioRun], Any] | None = None,
    images: bool = True,
    pdfs: bool = True,
) -> AsyncioAgent:
    """Make an agent of an agent of the OpenAI Agents SDK.

    Its MCP servers are connected when the application opens.

    Args:
        agent: The agent.
        history: How many earlier messages of the thread it gets.
        context: Returns the context object of a run; without it, it is None.
        images: Whether it gets the images that a user attaches; otherwise their names.
        pdfs: Likewise for PDF documents.
    """

    async def answer(run: AsyncioRun) -> Any:
        output = FrameworkOutput(run)
        hooks = _Hooks(output)
        earlier = await run.history(history) if history else []
        hand_over = HandOver(images=images, pdfs=pdfs)
        new = await hand_over.load(run.attachments)
        files = await hand_over.load_earlier(run, earlier)
        state: Any = [
            {
                "role": "user" if message.role == "user" else "assistant",
                "content": _content(message.content, files.get(index, Handed())),
            }
            for index, message in enumerate(earlier)
        ]
        state.append({"role": "user", "content": _content(run.content, new)})
        value = None if context is None else context(run)
        try:
            while True:
                result = Runner.run_streamed(agent, state, context=value, hooks=hooks)
                await _show(output, result.stream_events())
                if not result.interruptions:
                    break
                state = result.to_state()
                async with asyncio.TaskGroup() as group:
                    for item in result.interruptions:
                        group.create_task(_approve(output, item, state))
        finally:
            await output.report_usage()
        return await output.result(result.final_output)

    return AsyncioAgent(answer, lambda: _connected(agent), name=agent.name)


class _Hooks(RunHooks[Any]):
    """Shows the tools of a run, and counts its usage."""

    def __init__(self, output: FrameworkOutput) -> None:
        self._output = output

    async def on_tool_start(self, context: Any, agent: Any, tool: Any) -> None:
        """Show the start of a tool."""
        arguments = getattr(context, "tool_arguments", None)
        await self._output.start_tool(_call_id(context, tool), tool.name, arguments)

    async def on_tool_end(self, context: Any, agent: Any, tool: Any, result: object) -> None:
        """Show the result of a tool."""
        await self._output.end_tool(_call_id(context, tool), result)

    async def on_llm_start(
        self, context: Any, agent: Any, system_prompt: Any, input_items: Any
    ) -> None:
        """Mark the time in which the model is asked."""
        self._output.model_started()

    async def on_llm_end(self, context: Any, agent: Any, response: Any) -> None:
        """Count the tokens of a request."""
        self._output.model_ended()
        usage = response.usage
        self._output.add_usage(_model_name(agent), usage.input_tokens, usage.output_tokens)


async def _show(output: FrameworkOutput, events: AsyncIterator[Any]) -> None:
    """Show text and thoughts as they come."""
    has_deltas = False  # of the current message: a model may give whole messages only
    async for event in events:
        if event.type == "raw_response_event":
            kind = event.data.type
            if kind in _TEXT:
                has_deltas = True
                await output.text(event.data.delta)
            elif kind in _THOUGHT:
                await output.thought(event.data.delta)
            elif kind in _THOUGHT_ENDS:
                await output.end_thought()
        elif event.type == "run_item_stream_event" and event.name == "message_output_created":
            if not has_deltas:
                for part in event.item.raw_item.content:
                    await output.text(getattr(part, "text", "") or getattr(part, "refusal", ""))
            has_deltas = False


async def _approve(output: FrameworkOutput, item: ToolApprovalItem, state: "RunState[Any]") -> None:
    """Ask for an approval; the call is started, and the hooks go on with it."""
    name = item.name or "tool"
    try:
        await output.start_tool(item.call_id or name, name, item.arguments, approve=True)
    except ToolDenied:
        state.reject(item, rejection_message="The user did not approve this call.")
    else:
        state.approve(item)


def _content(content: str, files: Handed) -> str | list[dict[str, str]]:
    """Return the content of a message with its files."""
    text = files.text(content)
    if not files.binaries:
        return text
    parts = [{"type": "input_text", "text": text}] if text else []
    for each in files.binaries:
        if each.is_image:
            parts.append({"type": "input_image", "image_url": each.url, "detail": "auto"})
        else:
            parts.append({"type": "input_file", "filename": each.name, "file_data": each.url})
    return parts


def _call_id(context: Any, tool: Any) -> str:
    call_id: str = getattr(context, "tool_call_id", None) or tool.name
    return call_id


def _model_name(agent: Any) -> str | None:
    """Return the name of the model of an agent: it may be a text, or an object with one."""
    model = agent.model
    name = model if isinstance(model, str) else getattr(model, "model", None)
    return name if isinstance(name, str) else None


@asynccontextmanager
async def _connected(agent: "Agent[Any]") -> AsyncIterator[None]:
    """Connect the MCP servers of an agent and of the agents that it hands over to."""
    servers: dict[int, Any] = {}
    agents, left = {id(agent)}, [agent]
    while left:
        each = left.pop()
        servers.update((id(server), server) for server in each.mcp_servers)
        for other in each.handoffs:
            if isinstance(other, Agent) and id(other) not in agents:
                agents.add(id(other))
                left.append(other)
    async with AsyncExitStack() as stack:
        for server in servers.values():
            await stack.enter_async_context(server)
        yield
