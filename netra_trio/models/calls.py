"""The tool calls of one answer of a model: run side by side, with their results for the model.

messages = await call_tools(run, completion.tool_calls, tools)
"""

from collections.abc import Mapping, Sequence

import orjson
import structlog
import trio

from netra_trio.agents.run import Run, tool_arguments
from netra_trio.errors import ToolDenied, ToolError
from netra_trio.models.completion import ToolCall
from netra_trio.models.tools import ModelTool
from netra_trio.protocol.fields import JsonObject
from netra_trio.protocol.text import cut_text

RESULT_BYTES = 64 * 1024  # of a result for the model: about 16 000 tokens
FAILURE_CHARACTERS = 2000  # of the text of an exception for the model

_log = structlog.get_logger(__name__)


async def call_tools(
    run: Run, calls: Sequence[ToolCall], tools: Mapping[str, ModelTool]
) -> list[JsonObject]:
    """Call the tools concurrently, and return a message with each result, in the calls' order.

    A tool that fails, does not exist or gets invalid arguments is reported to the model.
    """
    results = [""] * len(calls)

    async def call(place: int, each: ToolCall) -> None:
        results[place] = await _result_of(run, each, tools)

    async with trio.open_nursery() as nursery:
        for place, each in enumerate(calls):
            nursery.start_soon(call, place, each)
    return [
        {"role": "tool", "tool_call_id": each.id, "content": result}
        for each, result in zip(calls, results, strict=True)
    ]


async def _result_of(run: Run, call: ToolCall, tools: Mapping[str, ModelTool]) -> str:
    tool = tools.get(call.name)
    if tool is None:
        known = ", ".join(tools) or "none"
        return f"Error: there is no tool {call.name[:80]!r}. The tools are: {known}."
    try:
        arguments = orjson.loads(call.arguments or "{}")
    except orjson.JSONDecodeError as error:
        return f"Error: the arguments are not JSON: {error}"
    if not isinstance(arguments, dict):
        return "Error: the arguments have to be a JSON object."
    try:
        return _text_of(await _call(run, tool, arguments))
    except (ToolError, ToolDenied) as error:
        return _failure(str(error))
    except Exception as error:
        _log.warning("model_tool_failed", run_id=run.id, tool=tool.name, exc_info=error)
        return _failure(f"{type(error).__name__}: {error}")


async def _call(run: Run, tool: ModelTool, arguments: JsonObject) -> object:
    shown = tool_arguments(arguments)
    try:
        bound = tool.bind(arguments)
    except ToolError:
        async with run.tool(tool.name, **shown):  # shows the attempt to the user
            raise
    async with run.tool(tool.name, approve=tool.approve, **shown) as block:
        block.result = await tool.call(run, bound)
    return block.result


def _text_of(result: object) -> str:
    """Return a result as text for the model: a text as it is, any other value as JSON."""
    text = result if isinstance(result, str) else orjson.dumps(result).decode()
    shown, is_cut = cut_text(text, RESULT_BYTES)
    return f"{shown}\n(The rest was cut.)" if is_cut else shown


def _failure(text: str) -> str:
    # A file name in the text may have lone surrogates, which UTF-8 cannot encode.
    return f"Error: {text[:FAILURE_CHARACTERS]}".encode(errors="replace").decode()
