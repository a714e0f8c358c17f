"""The adapter for Pydantic AI.

    app = create_app(agents={"shop": pydantic_ai(Agent("openai:gpt-5.2"))})

The agent runs unchanged. A capability that is added to each run shows its text, thoughts and tools,
and answers its deferred tools: approvals and questions.
"""

import asyncio
from collections.abc import AsyncIterable, Callable, Mapping, Sequence
from typing import Any

from pydantic_ai import capture_run_messages
from pydantic_ai.agent import AbstractAgent
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.exceptions import ApprovalRequired, CallDeferred, ToolFailed
from pydantic_ai.messages import (
    BinaryContent,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    ThinkingPart,
    ThinkingPartDelta,
    ToolCallPart,
    UserContent,
    UserPromptPart,
)
from pydantic_ai.tools import DeferredToolRequests, DeferredToolResults
from pydantic_ai.tools import ToolDenied as Denial

from netra_trio.agents.handed_files import Handed, HandOver
from netra_trio.aio.agent import AsyncioAgent
from netra_trio.aio.frameworks.output import (
    HISTORY_MESSAGES,
    FrameworkOutput,
    arguments_of,
    prompt_of,
)
from netra_trio.aio.run import AsyncioRun
from netra_trio.errors import QuestionExpired, ToolDenied
from netra_trio.protocol.messages import HistoryMessage


def pydantic_ai(
    agent: "AbstractAgent[Any, Any]",
    *,
    history: int = HISTORY_MESSAGES,
    deps: Callable[[AsyncioRun], Any] | None = None,
    images: bool = True,
    pdfs: bool = True,
) -> AsyncioAgent:
    """Make an agent of an agent of Pydantic AI.

    Its toolsets and models are entered when the application opens.

    Args:
        agent: The agent.
        history: How many earlier messages of the thread it gets.
        deps: Returns the dependencies of a run; without it they are None.
        images: Whether it gets the images that a user attaches; otherwise their names.
        pdfs: Likewise for PDF documents.
    """

    async def answer(run: AsyncioRun) -> Any:
        output = FrameworkOutput(run)
        past = await run.history(history) if history else []
        hand_over = HandOver(images=images, pdfs=pdfs)
        prompt = _prompt(run.content, await hand_over.load(run.attachments))
        earlier = _messages(past, await hand_over.load_earlier(run, past))
        with capture_run_messages() as messages:
            try:
                result = await agent.run(
                    prompt,
                    message_history=earlier,
                    deps=None if deps is None else deps(run),
                    capabilities=[_Shown(run, output)],
                )
            finally:
                _add_usage(output, messages)
                await output.report_usage()
        return await output.result(result.output)

    return AsyncioAgent(answer, lambda: agent, name=agent.name or "pydantic_ai")


class _Shown(AbstractCapability[Any]):
    """Shows one run to its user, and asks them what it defers."""

    def __init__(self, run: AsyncioRun, output: FrameworkOutput) -> None:
        self._run = run
        self._output = output

    async def wrap_run_event_stream(
        self,
        ctx: Any,
        *,
        stream: AsyncIterable[Any],
    ) -> AsyncIterable[Any]:
        """Show text and thoughts as they come."""
        async for event in stream:
            if isinstance(event, PartStartEvent):
                await self._show(event.part)
            elif isinstance(event, PartDeltaEvent):
                await self._show(event.delta)
            yield event

    async def wrap_model_request(self, ctx: Any, *, request_context: Any, handler: Any) -> Any:
        """Mark the time in which the model is asked."""
        with self._run.model_call():
            return await handler(request_context)

    async def wrap_tool_execute(
        self,
        ctx: Any,
        *,
        call: ToolCallPart,
        tool_def: Any,
        args: Any,
        handler: Any,
    ) -> Any:
        """Show a tool while it is executed."""
        output, call_id = self._output, call.tool_call_id
        await output.start_tool(call_id, call.tool_name, args)
        try:
            result = await handler(args)
        except (ApprovalRequired, CallDeferred):
            await output.end_tool(call_id, "The call waits for the user.")
            raise
        except Exception as error:
            await output.end_tool(call_id, error=error)
            raise
        except BaseException:
            output.cut_tool(call_id)
            raise
        await output.end_tool(call_id, result)
        return result

    async def handle_deferred_tool_calls(
        self,
        ctx: Any,
        *,
        requests: DeferredToolRequests,
    ) -> DeferredToolResults:
        """Ask the user for approvals and answers, side by side."""
        results = DeferredToolResults()
        async with asyncio.TaskGroup() as group:
            for call in requests.approvals:
                group.create_task(self._approve(call, results))
            for call in requests.calls:
                group.create_task(self._ask(call, results))
        return results

    async def _show(self, part: Any) -> None:
        if isinstance(part, TextPart):
            await self._output.text(part.content)
        elif isinstance(part, TextPartDelta):
            await self._output.text(part.content_delta)
        elif isinstance(part, ThinkingPart):
            await self._output.end_thought()
            await self._output.thought(part.content)
        elif isinstance(part, ThinkingPartDelta):
            await self._output.thought(part.content_delta or "")

    async def _approve(self, call: ToolCallPart, results: DeferredToolResults) -> None:
        """Ask for an approval; the call is started, and `wrap_tool_execute` goes on with it."""
        try:
            await self._output.start_tool(
                call.tool_call_id, call.tool_name, call.args, approve=True
            )
        except ToolDenied:
            results.approvals[call.tool_call_id] = Denial("The user did not approve this call.")
        else:
            results.approvals[call.tool_call_id] = True

    async def _ask(self, call: ToolCallPart, results: DeferredToolResults) -> None:
        prompt = prompt_of(call.tool_name, arguments_of(call.args))
        try:
            results.calls[call.tool_call_id] = await self._run.ask(prompt)
        except QuestionExpired:
            results.calls[call.tool_call_id] = ToolFailed("The user did not answer.")


def _messages(earlier: Sequence[HistoryMessage], files: Mapping[int, Handed]) -> list[ModelMessage]:
    """Return earlier messages of the thread as those of the framework."""
    return [
        ModelRequest(parts=[UserPromptPart(_prompt(message.content, files.get(index, Handed())))])
        if message.role == "user"
        else ModelResponse(parts=[TextPart(message.content)])
        for index, message in enumerate(earlier)
    ]


def _prompt(content: str, files: Handed) -> str | list[UserContent]:
    """Return a message of the user with its files."""
    text = files.text(content)
    if not files.binaries:
        return text
    binaries = (BinaryContent(each.data, media_type=each.media_type) for each in files.binaries)
    return [text, *binaries]


def _add_usage(output: FrameworkOutput, messages: Sequence[ModelMessage]) -> None:
    for message in messages:
        if isinstance(message, ModelResponse):
            usage = message.usage
            output.add_usage(message.model_name, usage.input_tokens, usage.output_tokens)
