"""An agent that is a language model with tools.

app = create_app(agents={"chat": chat("qwen3", base_url="http://localhost:11434/v1")})
"""

import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import structlog
import trio

from netra_trio.agents.handed_files import HandOver
from netra_trio.agents.run import Run
from netra_trio.errors import RetryableAgentError, SettingsError, StoreUnavailable
from netra_trio.models.calls import call_tools
from netra_trio.models.completion import Completion
from netra_trio.models.errors import ModelError
from netra_trio.models.history import ModelMessage, messages_within, with_question
from netra_trio.models.key import Key, key_from
from netra_trio.models.mcp.server import McpServer, servers_of
from netra_trio.models.output import Output
from netra_trio.models.provider import IDLE_SECONDS, Provider
from netra_trio.models.tools import THREADS, ModelTool, function_tool
from netra_trio.protocol.fields import JsonObject

if TYPE_CHECKING:
    from netra_trio.models.mcp.tools import Toolbox

BASE_URL = "https://api.openai.com/v1"
HISTORY_TOKENS = 8000  # the whole context of a model on a laptop has 8 000 to 32 000
HISTORY_MESSAGES = 200  # read from the store at most
ROUNDS = 16  # of answers with tool calls in one run
NAMES_SHOWN = 10  # of models in a log line
NO_MCP = "MCP servers need the package mcp: pip install 'netra-trio[mcp]'"
HAS_FILES = "; the request has images or documents: does the model accept them (images, pdfs)?"
CUT = "\n\n*The answer was cut: it reached the model's limit of tokens.*"

_log = structlog.get_logger(__name__)


def chat(
    model: str,
    *,
    base_url: str = BASE_URL,
    api_key: str | None = None,
    system: str | None = None,
    tools: Sequence[Callable[..., Any]] = (),
    mcp: Sequence[str | McpServer] = (),
    history_tokens: int = HISTORY_TOKENS,
    max_rounds: int = ROUNDS,
    idle_seconds: float = IDLE_SECONDS,
    options: Mapping[str, Any] | None = None,
    check: bool = False,
    images: bool = True,
    pdfs: bool | None = None,
) -> "Chat":
    """Return an agent that is a language model with tools.

    Args:
        model: The model's name at its server.
        base_url: The address of a server that speaks the Chat Completions API, up to `/v1`.
        api_key: Its key; by default that of `OPENAI_API_KEY` or `OPENAI_API_KEY_FILE`, or none.
        system: The system prompt.
        tools: Python functions that the model may call, see `function_tool`.
        mcp: MCP servers, each as a command, a URL or an `McpServer`; they need `netra-trio[mcp]`.
        history_tokens: The budget for earlier messages of the thread, see `estimate`; 0 sends none.
        max_rounds: How many answers of one run may call tools; the run fails at the next one, whose
            tools are not called.
        idle_seconds: Seconds without a byte after which an answer fails.
        options: More fields of the request, such as `temperature`; None leaves a field out.
        check: Whether the server has to be reachable, and accept the key, when the application
            starts.
        images: Whether the model gets the images that a user attaches; otherwise their names.
        pdfs: Likewise for PDF documents; by default only at OpenAI's own address, because few other
            servers accept them.

    Raises:
        SettingsError: The key cannot be used, or the package for MCP servers is missing.
        TypeError: A function cannot be a tool, or `mcp` is a text instead of a list.
        ValueError: The address is wrong, a number is negative, or two tools have the same name.
    """
    if history_tokens < 0 or max_rounds < 0 or idle_seconds <= 0:
        raise ValueError("history_tokens, max_rounds: expected 0 or more; idle_seconds: above 0")
    if mcp and find_spec("mcp") is None:
        raise SettingsError(NO_MCP)
    key = key_from(os.environ) if api_key is None else Key(api_key)
    return Chat(
        model,
        Provider(base_url, key, idle_seconds=idle_seconds),
        system=system,
        tools=_by_name(tools),
        mcp=servers_of(mcp),
        history_tokens=history_tokens,
        max_rounds=max_rounds,
        options=options or {},
        check=check,
        images=images,
        pdfs=base_url.rstrip("/") == BASE_URL if pdfs is None else pdfs,
    )


class Chat:
    """A language model as an agent, made by `chat`; `open` holds its connections."""

    def __init__(
        self,
        model: str,
        provider: Provider,
        *,
        system: str | None,
        tools: Mapping[str, ModelTool],
        mcp: Sequence[McpServer],
        history_tokens: int,
        max_rounds: int,
        options: Mapping[str, Any],
        check: bool,
        images: bool,
        pdfs: bool,
    ) -> None:
        self.model = model
        self._provider = provider
        self._system = system
        self._functions = tools
        self._mcp = mcp
        self._toolbox: Toolbox | None = None
        self._history_tokens = history_tokens
        self._max_rounds = max_rounds
        self._options = dict(options)
        self._check = check
        self._images = images
        self._pdfs = pdfs

    def __repr__(self) -> str:
        return f"<Chat {self.model!r} at {self._provider.base_url}>"

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Hold the connections to the model's server and to the MCP servers.

        An MCP server that cannot be reached is tried again and again.

        Raises:
            ModelError: With `check`, if the model's server cannot be reached or rejects the key.
        """
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._provider.open())
            if self._check:
                await self._check_server()
            if self._mcp:
                from netra_trio.models.mcp.tools import (  # noqa: PLC0415 - an optional dependency
                    open_servers,
                )

                self._toolbox = await stack.enter_async_context(open_servers(self._mcp))
            yield

    async def _check_server(self) -> None:
        """Raise `ModelError` if the server cannot be used; log if it does not list the model."""
        try:
            names = await self._provider.check()
        except ModelError as error:
            raise ModelError(error.detail) from None
        if not names:
            address = self._provider.base_url
            _log.warning("models_not_listed", model=self.model, address=address)
            return
        # A server may have models that it does not list, and Ollama adds a tag to the names.
        model, tagged = self.model, f"{self.model}:"
        if not any(name == model or name.startswith(tagged) for name in names):
            listed = ", ".join(names[:NAMES_SHOWN])
            _log.warning("model_not_listed", model=model, listed=listed)

    async def __call__(self, run: Run) -> None:
        """Answer the message of a run; the result is the emitted text.

        Raises:
            ModelError: The model's server gave no complete answer.
            RetryableAgentError: The store cannot give the history or a file now.
        """
        messages = await self._messages(run)
        try:
            await self._answer(run, [message.json() for message in messages])
        except ModelError as error:
            if any(message.files for message in messages):
                error.detail += HAS_FILES
            _log.error("model_failed", run_id=run.id, model=self.model, reason=error.detail)
            raise

    async def _answer(self, run: Run, messages: list[JsonObject]) -> None:
        output, rounds = Output(run), 0
        while True:
            tools = self._tools()
            request = self._request(messages, tools)
            with run.model_call():
                completion = await self._provider.answer(request, output.forward)
            await output.end()
            await self._count(run, completion)
            if completion.finish_reason == "content_filter":
                raise ModelError("The answer was stopped by the provider's content filter.")
            if completion.finish_reason == "length":
                if completion.tool_calls:
                    raise ModelError("The model reached its limit of tokens within a tool call.")
                await run.emit(CUT)
            if not completion.tool_calls:
                return
            if rounds == self._max_rounds:
                text = f"The model asked for tools more than {rounds} times in a row."
                raise ModelError(text)
            rounds += 1
            messages.append(completion.message())
            messages += await call_tools(run, completion.tool_calls, tools)
            output.next_answer()

    def _tools(self) -> dict[str, ModelTool]:
        """Return the tools that are available now, by name."""
        tools = dict(self._functions)
        if self._toolbox is not None:
            tools |= {tool.name: tool for tool in self._toolbox.tools(taken=tuple(tools))}
        return tools

    async def _messages(self, run: Run) -> list[ModelMessage]:
        try:
            earlier = await run.history(HISTORY_MESSAGES) if self._history_tokens else ()
        except StoreUnavailable as error:
            raise RetryableAgentError from error
        hand_over = HandOver(images=self._images, pdfs=self._pdfs)
        new = await hand_over.load(run.attachments)
        files = await hand_over.load_earlier(run, earlier)
        chosen = messages_within(earlier, self._history_tokens, files)
        messages = with_question(chosen, new.text(run.content), new.binaries)
        system = [ModelMessage("system", self._system)] if self._system else []
        return [*system, *messages]

    def _request(
        self, messages: Sequence[JsonObject], tools: Mapping[str, ModelTool]
    ) -> JsonObject:
        functions = [
            {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
            for tool in tools.values()
        ]
        request = {
            "model": self.model,
            "messages": messages,
            "stream_options": {"include_usage": True},
            "tools": [{"type": "function", "function": each} for each in functions] or None,
            **self._options,
        }
        return {name: value for name, value in request.items() if value is not None}

    async def _count(self, run: Run, completion: Completion) -> None:
        usage = completion.usage
        if completion.has_bad_usage:
            _log.warning("model_usage_invalid", run_id=run.id, model=self.model)
        if usage is not None:
            await run.usage(
                model=self.model,
                input_tokens=usage.input_tokens,
                output_tokens=usage.output_tokens,
                cost=usage.cost,
            )


def _by_name(functions: Sequence[Callable[..., Any]]) -> dict[str, ModelTool]:
    limiter = trio.CapacityLimiter(THREADS)
    tools: dict[str, ModelTool] = {}
    for function in functions:
        tool = function_tool(function, limiter)
        if tool.name in tools:
            raise ValueError(f"tools: two functions have the name {tool.name!r}")
        tools[tool.name] = tool
    return tools
