"""The adapter for Google ADK, the Agent Development Kit.

    app = create_app(agents={"shop": adk(LlmAgent(name="shop", model="gemini-3.5-flash"))})

The agent runs unchanged, with a session in memory for each run that begins with the history of the
thread. A plugin shows its tools. Confirmations of tools and long-running tools without a result ask
the user, and the agent goes on with the answer.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from contextvars import ContextVar
from typing import Any

from google.adk.agents.base_agent import BaseAgent
from google.adk.agents.run_config import RunConfig, StreamingMode
from google.adk.apps.app import App
from google.adk.events.event import Event
from google.adk.plugins.base_plugin import BasePlugin
from google.adk.runners import Runner
from google.adk.sessions.in_memory_session_service import InMemorySessionService
from google.genai import types

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

APP_NAME = "netra_trio"  # of an agent without an `App`
CONFIRMATION = "adk_request_confirmation"
CREDENTIAL = "adk_request_credential"
INPUT = "adk_request_input"

_SHOWN: ContextVar["_Shown"] = ContextVar("_SHOWN")


def adk(
    agent: "BaseAgent | App",
    *,
    history: int = HISTORY_MESSAGES,
    images: bool = True,
    pdfs: bool = True,
) -> AsyncioAgent:
    """Make an agent of an agent or an app of Google ADK.

    Its toolsets and plugins are closed when the application closes.

    Args:
        agent: The agent, or the app.
        history: How many earlier messages of the thread it gets.
        images: Whether it gets the images that a user attaches; otherwise their names.
        pdfs: Likewise for PDF documents.
    """
    app = agent if isinstance(agent, App) else App(name=APP_NAME, root_agent=agent)
    app = app.model_copy(update={"plugins": [*app.plugins, _Tools()]})
    sessions = InMemorySessionService()
    runner = Runner(app=app, session_service=sessions)
    config = RunConfig(streaming_mode=StreamingMode.SSE)

    async def answer(run: AsyncioRun) -> Any:
        output = FrameworkOutput(run)
        shown = _Shown(output)
        _SHOWN.set(shown)
        names = {"app_name": app.name, "user_id": run.user, "session_id": run.id}
        session = await sessions.create_session(**names)
        earlier = await run.history(history) if history else []
        hand_over = HandOver(images=images, pdfs=pdfs)
        new = await hand_over.load(run.attachments)
        for event in _events(app, earlier, await hand_over.load_earlier(run, earlier)):
            await sessions.append_event(session, event)
        message = types.Content(role="user", parts=_parts(run.content, new))
        try:
            while True:
                turn = _Turn(shown)
                events = runner.run_async(
                    user_id=run.user, session_id=run.id, new_message=message, run_config=config
                )
                async with aclosing(events):
                    async for event in events:
                        await turn.show(event)
                if turn.error is not None:
                    raise RuntimeError(turn.error)
                if not turn.pending:
                    return await output.result(turn.result)
                message = types.Content(role="user", parts=await _answers(run, output, turn))
        finally:
            await sessions.delete_session(**names)
            await output.report_usage()

    @asynccontextmanager
    async def resources() -> AsyncIterator[None]:
        async with runner:
            yield

    root: Any = app.root_agent
    return AsyncioAgent(answer, resources, name=root.name)


class _Shown:
    """Shows the text and thoughts of a run.

    The pieces of a model are shown when it yields them, so that it waits for the client: between
    the models and the events of the runner is a queue without a bound.

    Attributes:
        output: The output of the run.
    """

    def __init__(self, output: FrameworkOutput) -> None:
        self.output = output
        self._ahead = 0  # characters shown before their event arrived
        self._has_pieces = False  # of the current message

    async def piece(self, content: Any) -> None:
        """Show a piece of a model."""
        for part in _texts(content):
            self._ahead += len(part.text)
            await self._show(part)

    async def event(self, event: Event) -> None:
        """Show what is in an event, and was not shown before."""
        for part in _texts(event.content):
            if not event.partial:
                if not self._has_pieces:
                    await self._show(part)
            elif self._ahead:
                self._ahead -= len(part.text)
            else:  # of an agent that yields pieces without a model
                await self._show(part)
        self._has_pieces = bool(event.partial)

    async def _show(self, part: Any) -> None:
        show = self.output.thought if part.thought else self.output.text
        await show(part.text)


def _texts(content: Any) -> list[Any]:
    """Return the parts of a content that have a text."""
    return [part for part in (content and content.parts) or [] if part.text]


class _Turn:
    """Shows the events until the agent has finished or waits for an answer.

    Attributes:
        pending: The calls that wait for an answer, by id.
        result: What the agent has returned.
        error: Why the model or the agent has failed.
    """

    def __init__(self, shown: _Shown) -> None:
        self._shown = shown
        self._output = shown.output
        self.pending: dict[str, Any] = {}
        self.result: Any = None
        self.error: str | None = None

    async def show(self, event: Event) -> None:
        """Show one event."""
        if event.error_code and not event.content:
            # The framework may raise the exception itself, after this event.
            self.error = f"{event.error_code}: {event.error_message}"
        await self._shown.event(event)
        if event.partial:
            return
        await self._output.end_thought()
        self._note_usage(event)
        waiting = event.long_running_tool_ids or ()
        self.pending |= {call.id: call for call in event.get_function_calls() if call.id in waiting}
        for response in event.get_function_responses():
            self.pending.pop(response.id, None)
        if event.output is not None:
            self.result = event.output
        elif event.is_final_response() and event.content:
            parts = _texts(event.content)
            self.result = "".join(part.text for part in parts if not part.thought) or None

    def _note_usage(self, event: Event) -> None:
        usage = event.usage_metadata
        if usage is not None:
            written = (usage.candidates_token_count or 0) + (usage.thoughts_token_count or 0)
            self._output.add_usage(event.model_version, usage.prompt_token_count or 0, written)


class _Tools(BasePlugin):
    """Shows the tools of every run, and the pieces of its models."""

    def __init__(self) -> None:
        super().__init__(name="netra_trio_tools")

    async def before_model_callback(self, *, callback_context: Any, llm_request: Any) -> None:
        """Mark the time in which the model is asked."""
        _SHOWN.get().output.model_started()

    async def after_model_callback(self, *, callback_context: Any, llm_response: Any) -> None:
        """Show a piece of a model, before the model goes on."""
        if llm_response.partial:
            await _SHOWN.get().piece(llm_response.content)
        else:
            _SHOWN.get().output.model_ended()

    async def before_tool_callback(
        self, *, tool: Any, tool_args: dict[str, Any], tool_context: Any
    ) -> None:
        """Show the start of a tool, unless it only asks for its confirmation or was refused it."""
        confirmation = tool_context.tool_confirmation
        if confirmation is None:
            asks = getattr(tool, "check_require_confirmation", None)
            is_shown = asks is None or not await asks(tool_args, tool_context)
        else:
            is_shown = confirmation.confirmed
        if is_shown and not tool.is_long_running:
            call_id = tool_context.function_call_id
            await _SHOWN.get().output.start_tool(call_id, tool.name, tool_args)

    async def after_tool_callback(
        self,
        *,
        tool: Any,
        tool_args: dict[str, Any],
        tool_context: Any,
        result: Any,
    ) -> None:
        """Show the result of a tool."""
        await _SHOWN.get().output.end_tool(tool_context.function_call_id, result)

    async def on_tool_error_callback(
        self,
        *,
        tool: Any,
        tool_args: dict[str, Any],
        tool_context: Any,
        error: Exception,
    ) -> None:
        """Show the failure of a tool."""
        await _SHOWN.get().output.end_tool(tool_context.function_call_id, error=error)


async def _answers(run: AsyncioRun, output: FrameworkOutput, turn: _Turn) -> list[types.Part]:
    """Ask the user about all calls that wait, side by side; return the answers."""
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(
                _confirm(output, call) if call.name == CONFIRMATION else _ask(run, call)
            )
            for call in turn.pending.values()
        ]
    return [
        types.Part(
            function_response=types.FunctionResponse(
                id=call.id, name=call.name, response=task.result()
            )
        )
        for call, task in zip(turn.pending.values(), tasks, strict=True)
    ]


async def _confirm(output: FrameworkOutput, request: Any) -> dict[str, Any]:
    """Ask for an approval; the call is started, and the plugin goes on with it."""
    call = request.args["originalFunctionCall"]
    try:
        await output.start_tool(call["id"], call["name"], call.get("args"), approve=True)
    except ToolDenied:
        return {"confirmed": False}
    return {"confirmed": True}


async def _ask(run: AsyncioRun, call: Any) -> dict[str, Any]:
    """Ask for the result of a long-running tool.

    Raises:
        RuntimeError: If the agent asks for credentials, which it has to have.
    """
    if call.name == CREDENTIAL:
        raise RuntimeError("the agent asks for credentials of a user: configure them in its tools")
    arguments = arguments_of(call.args)
    schema = arguments.pop("response_schema", None) if call.name == INPUT else None
    try:
        return {"result": await run.ask(prompt_of(call.name, arguments), schema)}
    except QuestionExpired:
        return {"error": "The user did not answer."}


def _events(
    app: App, earlier: Sequence[HistoryMessage], files: Mapping[int, Handed]
) -> list[Event]:
    """Return earlier messages of the thread as those of the framework."""
    root: Any = app.root_agent
    return [
        Event(
            author="user" if message.role == "user" else root.name,
            content=types.Content(
                role="user" if message.role == "user" else "model",
                parts=_parts(message.content, files.get(index, Handed())),
            ),
        )
        for index, message in enumerate(earlier)
        if message.content
    ]


def _parts(content: str, files: Handed) -> list[types.Part]:
    """Return the parts of a message with its files."""
    binaries = [
        types.Part.from_bytes(data=each.data, mime_type=each.media_type) for each in files.binaries
    ]
    return [types.Part(text=files.text(content)), *binaries]
