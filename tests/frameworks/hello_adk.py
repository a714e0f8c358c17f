"""Agents of Google ADK, as a user would write them, with a fake model."""

from collections.abc import AsyncIterator
from typing import Any

from frameworks import script
from google.adk.agents import LlmAgent
from google.adk.models.base_llm import BaseLlm
from google.adk.models.llm_response import LlmResponse
from google.adk.tools import FunctionTool
from google.adk.tools.long_running_tool import LongRunningFunctionTool
from google.genai import types


class Fake(BaseLlm):
    """Answers as the script says."""

    model: str = script.MODEL_NAME

    async def generate_content_async(
        self, llm_request: Any, stream: bool = False
    ) -> AsyncIterator[LlmResponse]:
        """Yield the pieces of an answer, and the whole."""
        parts = [part for content in llm_request.contents for part in content.parts]
        responses = [part.function_response for part in parts if part.function_response]
        results = [next(iter(response.response.values())) for response in responses]
        texts = [part for part in parts if part.text]
        tools = [name for name in llm_request.tools_dict if name != "adk_request_input"]
        step = script.next_step(tools, results, len(texts) - 1)
        if isinstance(step, str):
            thought = types.Part(text=script.THOUGHT, thought=True)
            for part in [thought, *(types.Part(text=word) for word in script.words(step))]:
                yield response_of([part], partial=True)
            yield response_of([thought, types.Part(text=step)])
        else:
            call = types.FunctionCall(name=step[0], args=step[1])
            yield response_of([types.Part(function_call=call)])


def response_of(parts: list[Any], *, partial: bool = False) -> LlmResponse:
    """Return a piece, or a whole answer with its usage."""
    read, written = script.TOKENS
    usage = types.GenerateContentResponseUsageMetadata(
        prompt_token_count=read, candidates_token_count=written
    )
    return LlmResponse(
        content=types.Content(role="model", parts=parts),
        partial=partial,
        usage_metadata=None if partial else usage,
        model_version=script.MODEL_NAME,
    )


MODEL = Fake()


def question() -> None:
    """Ask the user."""


hello = LlmAgent(name="hello", model=MODEL, tools=[script.weather])
slow = LlmAgent(name="slow", model=MODEL, tools=[script.fetch])
blocking = LlmAgent(name="blocking", model=MODEL, tools=[script.block])
stubborn = LlmAgent(name="stubborn", model=MODEL, tools=[script.stubborn])
failing = LlmAgent(name="failing", model=MODEL, tools=[script.fail])
approving = LlmAgent(
    name="approving", model=MODEL, tools=[FunctionTool(script.delete, require_confirmation=True)]
)
asking = LlmAgent(name="asking", model=MODEL, tools=[LongRunningFunctionTool(question)])
