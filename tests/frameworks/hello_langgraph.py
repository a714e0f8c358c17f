"""Graphs of LangGraph, as a user would write them, with a fake model."""

from collections.abc import AsyncIterator
from typing import Any

from frameworks import script
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.tools import tool
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import interrupt
from pydantic import Field


class Fake(BaseChatModel):
    """Answers as the script says."""

    tools: list[str] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "fake"

    def bind_tools(self, tools: Any, **_: Any) -> Any:
        """Return a model with these tools."""
        return Fake(tools=[each.name for each in tools])

    def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
        raise NotImplementedError

    async def _astream(
        self, messages: list[BaseMessage], *_: Any, **__: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        kinds = [message.type for message in messages]
        results = [message.content for message in messages if message.type == "tool"]
        step = script.next_step(self.tools, results, len(kinds) - 1 - 2 * len(results))
        pieces: list[Any]
        if isinstance(step, str):
            thought = {"type": "reasoning", "reasoning": script.THOUGHT, "index": 0}
            pieces = [{"content": [thought]}]
            pieces += [
                {"content": [{"type": "text", "text": word, "index": 1}]}
                for word in script.words(step)
            ]
        else:
            call = {"name": step[0], "args": script.as_json(step[1]), "id": "call", "index": 0}
            pieces = [{"content": [], "tool_call_chunks": [call]}]
        read, written = script.TOKENS
        usage = {"input_tokens": read, "output_tokens": written, "total_tokens": read + written}
        metadata = {"model_name": script.MODEL_NAME}
        pieces.append({"content": [], "usage_metadata": usage, "response_metadata": metadata})
        for piece in pieces:
            yield ChatGenerationChunk(message=AIMessageChunk(**piece))


MODEL = Fake()


def ask(state: MessagesState) -> dict[str, Any]:
    """Ask the user."""
    return {"messages": [AIMessage(f"The tool says {interrupt('question')} after 0 messages.")]}


hello = create_agent(MODEL, [tool(script.weather)])
slow = create_agent(MODEL, [tool(script.fetch)])
blocking = create_agent(MODEL, [tool(script.block)])
stubborn = create_agent(MODEL, [tool(script.stubborn)])
failing = create_agent(MODEL, [tool(script.fail)])
approving = create_agent(
    MODEL,
    [tool(script.delete)],
    middleware=[HumanInTheLoopMiddleware(interrupt_on={"delete": True})],
)
builder = StateGraph(MessagesState)
builder.add_node("ask", ask)
builder.add_edge(START, "ask")
builder.add_edge("ask", END)
asking = builder.compile()
