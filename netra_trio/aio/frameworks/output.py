"""The output of all adapters: text with its gaps, thoughts by paragraph, tools by id, usage.

output = FrameworkOutput(run)
await output.text("Hel")
await output.start_tool("call-1", "add", {"a": 1})
await output.end_tool("call-1", 3)
return await output.result(answer)
"""

from collections.abc import Mapping
from typing import Any

import orjson

from netra_trio.agents.questions import PROMPT_BYTES
from netra_trio.agents.run import tool_arguments
from netra_trio.agents.waits import Wait
from netra_trio.aio.run import AsyncioRun, AsyncioTool
from netra_trio.protocol.text import cut_text

HISTORY_MESSAGES = 50  # of the thread, which an adapter gives to its framework by default
GAP = "\n\n"  # between two texts with a tool call between them


class FrameworkOutput:
    """The output of one run.

    Args:
        run: The run.
    """

    def __init__(self, run: AsyncioRun) -> None:
        self._run = run
        self._has_text = False
        self._needs_gap = False
        self._thought = ""
        self._tools: dict[str, AsyncioTool] = {}
        self._usage: dict[str, tuple[int, int]] = {}
        self._model_calls: list[Wait] = []

    async def text(self, text: str) -> None:
        """Emit a piece of text."""
        if not text:
            return
        await self.end_thought()
        if self._needs_gap and self._has_text:
            text = GAP + text
        self._needs_gap, self._has_text = False, True
        await self._run.emit(text)

    async def thought(self, text: str) -> None:
        """Add a piece of reasoning; each paragraph is a thought, sent when it is complete."""
        *complete, self._thought = (self._thought + text).split(GAP)
        for paragraph in complete:
            await self._think(paragraph)

    async def end_thought(self) -> None:
        """Send the reasoning that is left."""
        paragraph, self._thought = self._thought, ""
        await self._think(paragraph)

    async def _think(self, paragraph: str) -> None:
        if paragraph.strip():
            await self._run.think(paragraph.strip())

    async def start_tool(
        self, call_id: str, name: str, arguments: Any, *, approve: bool = False
    ) -> None:
        """Start a tool call; no effect if it was started, for instance with an approval.

        Raises:
            ToolDenied: With `approve`, if it was denied, or no user answered in time.
        """
        if call_id in self._tools:
            return
        await self.end_thought()
        self._needs_gap = True
        shown = tool_arguments(arguments_of(arguments))
        self._tools[call_id] = await self._run.start_tool(name, approve=approve, **shown)

    async def end_tool(
        self, call_id: str, result: Any = None, error: Exception | None = None
    ) -> None:
        """End a tool call; no effect if it was not started."""
        tool = self._tools.pop(call_id, None)
        if tool is not None:
            tool.result = None if error is not None else plain(result)
            await tool.complete(error)

    def cut_tool(self, call_id: str) -> None:
        """End a tool call that was cancelled."""
        tool = self._tools.pop(call_id, None)
        if tool is not None:
            tool.cut()

    def model_started(self) -> None:
        """Note that a model is asked; agents may ask several side by side."""
        self._model_calls.append(self._run.model_call())

    def model_ended(self) -> None:
        """Note that a model has answered."""
        if self._model_calls:
            self._model_calls.pop().end()

    def add_usage(self, model: str | None, input_tokens: int, output_tokens: int) -> None:
        """Add the tokens of one request; `report_usage` sends the sums."""
        name = model or "unknown"
        before = self._usage.get(name, (0, 0))
        self._usage[name] = (before[0] + input_tokens, before[1] + output_tokens)

    async def report_usage(self) -> None:
        """Send the usage of each model since the last report; no model is asked any more."""
        while self._model_calls:  # of one that has failed
            self.model_ended()
        usage, self._usage = self._usage, {}
        for model, (input_tokens, output_tokens) in usage.items():
            if input_tokens or output_tokens:
                await self._run.usage(
                    model=model, input_tokens=input_tokens, output_tokens=output_tokens
                )

    async def result(self, output: Any) -> Any:
        """Return the result of the run; it is emitted too if no text was, for the history.

        Args:
            output: What the framework returned; None if that is the emitted text.
        """
        await self.end_thought()
        result = plain(output)
        if not self._has_text and result is not None:
            await self.text(result if isinstance(result, str) else orjson.dumps(result).decode())
        return result


def plain(value: Any) -> Any:
    """Return a value as JSON values; objects that JSON has not as text."""
    if value is None or type(value) in {str, bool, int, float}:
        return value
    return orjson.loads(orjson.dumps(value, _as_json, orjson.OPT_NON_STR_KEYS))


def _as_json(value: Any) -> Any:
    dump = getattr(value, "model_dump", None)  # of Pydantic
    if callable(dump):
        return dump(mode="json")
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset | tuple):
        return list(value)
    return str(value)


def arguments_of(value: Any) -> dict[str, Any]:
    """Return the arguments of a tool call, which may be a text with JSON, as a dictionary."""
    if isinstance(value, str):
        try:
            value = orjson.loads(value or "{}")
        except orjson.JSONDecodeError:  # a model wrote it
            return {"input": value}
    shown = plain(value)
    if shown is None:
        return {}
    return shown if isinstance(shown, dict) else {"input": shown}


def prompt_of(name: str, arguments: dict[str, Any]) -> str:
    """Return the question that a call of a tool asks: its only argument, if that is a text."""
    values = list(arguments.values())
    if len(values) == 1 and isinstance(values[0], str) and values[0]:
        text = values[0]
    else:
        text = f"{name}: {orjson.dumps(arguments).decode()}" if arguments else name
    return cut_text(text, PROMPT_BYTES)[0]
