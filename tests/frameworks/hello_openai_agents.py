"""Agents of the OpenAI Agents SDK, as a user would write them, with a fake model."""

from collections.abc import AsyncIterator
from typing import Any

from agents import Agent, Model, ModelResponse, function_tool
from frameworks import script
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseFunctionToolCall,
    ResponseOutputMessage,
    ResponseOutputText,
    ResponseReasoningSummaryTextDeltaEvent,
    ResponseReasoningSummaryTextDoneEvent,
    ResponseTextDeltaEvent,
    ResponseUsage,
)
from openai.types.responses.response_usage import InputTokensDetails, OutputTokensDetails


class Fake(Model):
    """Answers as the script says."""

    model = script.MODEL_NAME

    async def get_response(self, *args: Any, **kwargs: Any) -> ModelResponse:
        """Refuse: the adapter streams."""
        raise NotImplementedError

    async def stream_response(
        self,
        system_instructions: Any,
        items: Any,
        model_settings: Any,
        tools: Any,
        *_: Any,
        **__: Any,
    ) -> AsyncIterator[Any]:
        """Yield the events of an answer."""
        kinds = [item.get("type", "message") for item in items]
        results = [item["output"] for item in items if item.get("type") == "function_call_output"]
        names = [tool.name for tool in tools]
        step = script.next_step(names, results, kinds.count("message") - 1)
        item: Any
        if isinstance(step, str):
            place = {"item_id": "m", "output_index": 0, "sequence_number": 0}
            yield ResponseReasoningSummaryTextDeltaEvent(
                delta=script.THOUGHT,
                summary_index=0,
                type="response.reasoning_summary_text.delta",
                **place,
            )
            yield ResponseReasoningSummaryTextDoneEvent(
                text=script.THOUGHT,
                summary_index=0,
                type="response.reasoning_summary_text.done",
                **place,
            )
            for word in script.words(step):
                yield ResponseTextDeltaEvent(
                    delta=word,
                    content_index=0,
                    logprobs=[],
                    type="response.output_text.delta",
                    **place,
                )
            text = ResponseOutputText(annotations=[], text=step, type="output_text")
            item = ResponseOutputMessage(
                id="m", content=[text], role="assistant", status="completed", type="message"
            )
        else:
            item = ResponseFunctionToolCall(
                arguments=script.as_json(step[1]),
                call_id=f"call-{len(results)}",
                name=step[0],
                type="function_call",
            )
        yield completed(item)


def completed(item: Any) -> ResponseCompletedEvent:
    """Return the end of an answer."""
    read, written = script.TOKENS
    usage = ResponseUsage(
        input_tokens=read,
        output_tokens=written,
        total_tokens=read + written,
        input_tokens_details=InputTokensDetails.model_construct(cached_tokens=0),
        output_tokens_details=OutputTokensDetails(reasoning_tokens=0),
    )
    response = Response(
        id="r",
        created_at=0,
        model=script.MODEL_NAME,
        object="response",
        output=[item],
        parallel_tool_calls=True,
        tool_choice="auto",
        tools=[],
        usage=usage,
    )
    return ResponseCompletedEvent(response=response, sequence_number=9, type="response.completed")


MODEL = Fake()

hello = Agent(name="hello", model=MODEL, tools=[function_tool(script.weather)])
slow = Agent(name="slow", model=MODEL, tools=[function_tool(script.fetch)])
blocking = Agent(name="blocking", model=MODEL, tools=[function_tool(script.block)])
stubborn = Agent(name="stubborn", model=MODEL, tools=[function_tool(script.stubborn)])
failing = Agent(
    name="failing",
    model=MODEL,
    tools=[function_tool(script.fail, failure_error_function=None)],
)
approving = Agent(
    name="approving", model=MODEL, tools=[function_tool(script.delete, needs_approval=True)]
)
