"""Agents of Pydantic AI, as a user would write them, with a fake model."""

from collections.abc import AsyncIterator
from typing import Any

from frameworks import script
from pydantic_ai import Agent, CallDeferred, ModelMessage, Tool
from pydantic_ai.messages import ModelRequest, ModelResponse, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, DeltaThinkingPart, DeltaToolCall, FunctionModel


async def speak(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
    """Answer as the script says."""
    turn = messages[-1]
    parts = turn.parts if isinstance(turn, ModelRequest) else []
    results = [part.content for part in parts if isinstance(part, ToolReturnPart)]
    calls = sum(bool(m.tool_calls) for m in messages if isinstance(m, ModelResponse))
    tools = [tool.name for tool in info.function_tools]
    step = script.next_step(tools, results, len(messages) - 1 - 2 * calls)
    if isinstance(step, str):
        yield {0: DeltaThinkingPart(content=script.THOUGHT)}
        for word in script.words(step):
            yield word
    else:
        call = DeltaToolCall(step[0], script.as_json(step[1]), tool_call_id=f"call-{calls}")
        yield {0: call}


MODEL = FunctionModel(stream_function=speak, model_name=script.MODEL_NAME)


async def question() -> str:
    """Ask the user."""
    raise CallDeferred


hello = Agent(MODEL, tools=[script.weather])
slow = Agent(MODEL, tools=[script.fetch])
blocking = Agent(MODEL, tools=[script.block])
stubborn = Agent(MODEL, tools=[script.stubborn])
failing = Agent(MODEL, tools=[script.fail])
approving = Agent(MODEL, tools=[Tool(script.delete, requires_approval=True)])
asking = Agent(MODEL, tools=[question])
