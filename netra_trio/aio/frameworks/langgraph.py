"""The adapter for LangGraph.

    app = create_app(agents={"shop": langgraph(builder.compile())})

The compiled graph runs unchanged. A callback handler shows the text of its models while it comes,
and its tools. Interrupts ask the user, and the graph is resumed with the answers.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any
from uuid import UUID

import orjson
from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    ToolMessage,
)
from langgraph.channels import LastValue
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import GraphBubbleUp
from langgraph.pregel import Pregel
from langgraph.types import Command, Interrupt, StateSnapshot

from netra_trio.agents.handed_files import Handed, HandOver
from netra_trio.aio.agent import AsyncioAgent
from netra_trio.aio.frameworks.output import HISTORY_MESSAGES, FrameworkOutput, plain, prompt_of
from netra_trio.aio.run import AsyncioRun
from netra_trio.errors import ToolDenied
from netra_trio.protocol.messages import HistoryMessage

MESSAGES = "messages"  # the channel of a conversation
CUT_OFF = "This call was cut off; whether it had an effect is unknown."  # to the model
_NO_CALL = ("", "", None)  # of a tool whose start was not reported
NO_STREAM = "nostream"  # LangGraph's tag for models whose text is not shown


def langgraph(
    graph: "Pregel[Any, Any, Any, Any]",
    *,
    history: int = HISTORY_MESSAGES,
    input: Callable[[AsyncioRun], Any] | None = None,  # noqa: A002 - as LangGraph names it
    context: Callable[[AsyncioRun], Any] | None = None,
    images: bool = True,
    pdfs: bool = True,
) -> AsyncioAgent:
    """Make an agent of a compiled graph.

    A graph with a checkpointer keeps its own state, of the agent, the user and the thread of the
    run. Any other graph gets the history of the thread, and a checkpointer for the run, for
    interrupts.

    Args:
        graph: The graph.
        history: How many earlier messages of the thread it gets.
        input: Returns the input of a run; needed for a graph without a channel `messages`.
        context: Returns the context of a run.
        images: Whether it gets the images that a user attaches; otherwise their names.
        pdfs: Likewise for PDF documents.

    Raises:
        TypeError: If the graph has no channel `messages`, and `input` is not given.
    """
    has_messages = MESSAGES in graph.channels
    if input is None and not has_messages:
        raise TypeError("the graph has no channel 'messages': give `input`, a function of the run")
    appends = has_messages and not isinstance(graph.channels[MESSAGES], LastValue)

    async def answer(run: AsyncioRun) -> Any:
        output = FrameworkOutput(run)
        shown = _Shown(output)
        own = not graph.checkpointer or graph.checkpointer is True
        thread = run.id if own else f"{run.agent_name}/{run.user}/{run.thread_id}"
        used = graph.copy({"checkpointer": InMemorySaver()}) if own else graph
        config: Any = {"configurable": {"thread_id": thread}, "callbacks": [shown]}
        state = None if own else await used.aget_state(config)
        value: Any
        if input is not None:
            value = input(run)
        else:
            is_new = state is None or not state.values
            earlier = await run.history(history) if history and is_new else []
            hand_over = HandOver(images=images, pdfs=pdfs)
            new = _human(run.content, await hand_over.load(run.attachments))
            files = await hand_over.load_earlier(run, earlier)
            value = {MESSAGES: [*_messages(earlier, files), new]}
        if state is not None and appends:
            value = _completed(value, await _missing_results(used, state))
        options = {} if context is None else {"context": context(run)}
        try:
            while True:
                interrupts: dict[str, Interrupt] = {}
                async for _, mode, data in used.astream(
                    value, config, stream_mode=["messages", "updates"], subgraphs=True, **options
                ):
                    if mode == "messages":
                        await shown.message(data[0])
                    else:
                        for each in data.get("__interrupt__", ()):
                            interrupts[each.id] = each
                if not interrupts:
                    break
                await shown.flush()
                value = Command(resume=await _answers(run, shown, list(interrupts.values())))
        finally:
            await shown.flush()
            await output.report_usage()
        return await output.result(_result((await used.aget_state(config)).values, has_messages))

    return AsyncioAgent(answer, name=graph.get_name())


class _Shown(AsyncCallbackHandler):
    """Shows the models and tools of a run; a model waits until its text is taken.

    LangChain calls it in another thread and loop for what is not async, and may block the loop of
    the run meanwhile. There its methods do not wait.
    """

    raise_error = True  # of these methods: a run that was stopped must not go on
    run_inline = True

    def __init__(self, output: FrameworkOutput) -> None:
        self.output = output
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()  # asyncio itself has weak references only
        self._order = asyncio.Lock()  # first come, first served
        self._shown: set[str] = set()  # ids of messages
        self._expected: list[tuple[str, Any, str]] = []  # name, arguments and id of calls to start
        self._calls: dict[UUID, tuple[str, str, Any]] = {}  # id, name and arguments

    async def on_llm_new_token(
        self,
        token: str,
        *,
        chunk: Any = None,
        tags: Sequence[str] | None = None,
        **_: Any,
    ) -> None:
        """Show a piece of the text of a model."""
        message = getattr(chunk, "message", None)
        if isinstance(message, AIMessageChunk) and NO_STREAM not in (tags or ()):
            if message.id is not None:
                self._shown.add(message.id)
            await self._in_order(partial(self._show, message))

    async def message(self, message: BaseMessage) -> None:
        """Show a message that a node made without a model, or whose model does not stream."""
        if isinstance(message, AIMessage) and message.id not in self._shown:
            if not isinstance(message, AIMessageChunk) and message.id is not None:
                self._shown.add(message.id)
            await self._in_order(partial(self._show, message))

    async def flush(self) -> None:
        """Wait until everything is shown that was reported before."""
        async with self._order:
            pass

    async def _in_order(self, show: Callable[[], Awaitable[None]]) -> None:
        """Show something behind what was reported before; in another loop, without waiting."""
        if asyncio.get_running_loop() is self._loop:
            await self._locked(show)
        else:
            with suppress(RuntimeError):  # the loop is closed: the run ended before its thread
                self._loop.call_soon_threadsafe(self._start, show)

    def _start(self, show: Callable[[], Awaitable[None]]) -> None:
        task = asyncio.create_task(self._locked(show))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _locked(self, show: Callable[[], Awaitable[None]]) -> None:
        async with self._order:
            await show()

    async def _show(self, message: AIMessage) -> None:
        for block in message.content_blocks:
            if block["type"] == "reasoning":
                await self.output.thought(block.get("reasoning", ""))
            elif block["type"] == "text":
                await self.output.text(block["text"])

    async def on_llm_end(self, response: Any, **_: Any) -> None:
        """Count the tokens of a request."""
        await self._in_order(self.output.end_thought)
        for generations in response.generations:
            message = getattr(generations[0], "message", None) if generations else None
            usage = getattr(message, "usage_metadata", None)
            if message is not None and usage:
                name = message.response_metadata.get("model_name")
                self.output.add_usage(name, usage["input_tokens"], usage["output_tokens"])

    def expect_start(self, name: str, arguments: Any, call_id: str) -> None:
        """Note that a call which is shown already will start: it was approved, or interrupted."""
        self._expected.append((name, arguments, call_id))

    async def on_tool_start(
        self,
        serialized: Any,
        input_str: str,
        *,
        run_id: UUID,
        inputs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Show the start of a tool."""
        name = (serialized or {}).get("name", "tool")
        arguments: Any = input_str if inputs is None else inputs
        call_id = str(run_id)
        for expected in self._expected:
            if expected[:2] == (name, arguments):
                self._expected.remove(expected)
                call_id = expected[2]
                break
        self._calls[run_id] = (call_id, name, arguments)
        await self._in_order(partial(self.output.start_tool, call_id, name, arguments))

    async def on_tool_end(self, output: Any, *, run_id: UUID, **_: Any) -> None:
        """Show the result of a tool."""
        result = _value_of(output.content) if isinstance(output, BaseMessage) else output
        call_id = self._calls.pop(run_id, _NO_CALL)[0]
        await self._in_order(partial(self.output.end_tool, call_id, result))

    async def on_tool_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        """Show the failure of a tool."""
        call_id, name, arguments = self._calls.pop(run_id, _NO_CALL)
        if isinstance(error, GraphBubbleUp):  # it asks, and starts again with the answer
            self.expect_start(name, arguments, call_id)
        elif isinstance(error, Exception):
            await self._in_order(partial(self.output.end_tool, call_id, error=error))
        else:
            self.output.cut_tool(call_id)


async def _answers(
    run: AsyncioRun, shown: _Shown, interrupts: Sequence[Interrupt]
) -> dict[str, Any]:
    """Ask the user about each interrupt, side by side; return the answers by id."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_answer(run, shown, each)) for each in interrupts]
    return {each.id: task.result() for each, task in zip(interrupts, tasks, strict=True)}


async def _answer(run: AsyncioRun, shown: _Shown, interrupt: Interrupt) -> Any:
    value = interrupt.value
    if isinstance(value, Mapping) and "action_requests" in value:
        requests = value["action_requests"]
        decisions = [
            await _decide(shown, f"{interrupt.id}/{number}", request)
            for number, request in enumerate(requests)
        ]
        return {"decisions": decisions}
    schema = interrupt.response_schema
    shown_value = plain(value)
    if not isinstance(shown_value, dict):
        shown_value = {"value": shown_value}
    prompt = prompt_of("The graph asks", shown_value)
    return await run.ask(prompt, schema if isinstance(schema, dict) else None)


async def _decide(shown: _Shown, call_id: str, request: Mapping[str, Any]) -> dict[str, Any]:
    """Ask for the approval of a tool, as LangChain's middleware wants it decided."""
    name, arguments = request["name"], request.get("args", {})
    try:
        await shown.output.start_tool(call_id, name, arguments, approve=True)
    except ToolDenied:
        return {"type": "reject", "message": "The user did not approve this call."}
    shown.expect_start(name, arguments, call_id)
    return {"type": "approve"}


def _value_of(content: Any) -> Any:
    """Return what a tool returned: its message has an object as JSON."""
    if isinstance(content, str) and content[:1] in {"{", "["}:
        try:
            return orjson.loads(content)
        except orjson.JSONDecodeError:
            return content
    return content


async def _missing_results(
    graph: "Pregel[Any, Any, Any, Any]", state: StateSnapshot
) -> list[BaseMessage]:
    """Return results for the tool calls that a run left without one, when it was cut off.

    Providers reject a conversation with such a call. A new input drops the results that were not
    yet in the state, those of calls beside the one that was cut off.

    Args:
        graph: The graph.
        state: Its state, with these results.
    """
    kept = await graph.aget_state(state.config) if state.next else state
    calls, results = _last_calls(kept)
    _, finished = _last_calls(state)
    return [
        finished.get(call["id"])
        or ToolMessage(CUT_OFF, tool_call_id=call["id"], name=call["name"], status="error")
        for call in calls
        if call["id"] not in results
    ]


def _last_calls(state: StateSnapshot) -> tuple[list[Any], dict[str, BaseMessage]]:
    """Return the tool calls at the end of a conversation, and their results by id."""
    results: dict[str, BaseMessage] = {}
    for message in reversed(state.values.get(MESSAGES, ())):
        if isinstance(message, AIMessage):
            return list(message.tool_calls), results
        if not isinstance(message, ToolMessage):
            break
        results[message.tool_call_id] = message
    return [], {}


def _completed(value: Any, results: list[BaseMessage]) -> Any:
    """Return an input with messages that come before its own."""
    if not results or not isinstance(value, Mapping):
        return value
    own = value.get(MESSAGES, [])
    return {**value, MESSAGES: [*results, *(own if isinstance(own, list) else [own])]}


def _messages(earlier: Sequence[HistoryMessage], files: Mapping[int, Handed]) -> list[BaseMessage]:
    """Return earlier messages of the thread as those of the framework."""
    return [
        _human(message.content, files.get(index, Handed()))
        if message.role == "user"
        else AIMessage(message.content)
        for index, message in enumerate(earlier)
    ]


def _human(content: str, files: Handed) -> HumanMessage:
    """Return a message of the user with its files, as LangChain's standard content blocks."""
    text = files.text(content)
    if not files.binaries:
        return HumanMessage(text)
    blocks: list[Any] = [{"type": "text", "text": text}] if text else []
    for each in files.binaries:
        kind, name = ("image", {}) if each.is_image else ("file", {"filename": each.name})
        blocks.append({"type": kind, "base64": each.base64, "mime_type": each.media_type, **name})
    return HumanMessage(content_blocks=blocks)


def _result(values: Any, has_messages: bool) -> Any:
    """Return the text of the last message, or the state of a graph without messages."""
    if not has_messages:
        return values
    last = values[MESSAGES][-1]
    return last.text if isinstance(last, AIMessage) else None
