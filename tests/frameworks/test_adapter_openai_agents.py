"""The adapter for the OpenAI Agents SDK, beyond the agents that the command serves."""

from collections.abc import AsyncIterator, Callable
from typing import Any, Self

from agents import (
    Agent,
    OpenAIChatCompletionsModel,
    RunContextWrapper,
    function_tool,
    set_tracing_disabled,
)
from frameworks.attaching import NAMED, PDF, PNG, TEXT, attach, url
from frameworks.hello_openai_agents import MODEL, Fake, completed
from openai import AsyncOpenAI
from openai.types.responses import (
    ResponseOutputMessage,
    ResponseOutputRefusal,
    ResponseOutputText,
)
from support.asyncio_agents import ask, end_of, serve_agents, text_of
from support.live import waits_of
from support.memory import Frame
from support.model_server import open_model_server, says

from netra_trio.aio import AsyncioRun, openai_agents


def of_kind(frames: list[Frame], kind: str) -> list[Frame]:
    return [frame["payload"] for frame in frames if frame["type"] == kind]


class Whole(Fake):
    """Gives whole messages, without pieces, and has no name that is a text."""

    model: Any = None

    def __init__(self, *parts: Any) -> None:
        self.parts = parts

    async def stream_response(self, *_: Any, **__: Any) -> AsyncIterator[Any]:
        """Yield the end of an answer only."""
        yield completed(
            ResponseOutputMessage(
                id="m",
                content=list(self.parts),
                role="assistant",
                status="completed",
                type="message",
            )
        )


async def test_a_model_without_pieces_is_shown_too() -> None:
    part = ResponseOutputText(annotations=[], text="All at once.", type="output_text")
    agent = Agent(name="whole", model=Whole(part))
    async with serve_agents(agent=openai_agents(agent)) as server, server.connect() as client:
        frames = await ask(client)
    assert text_of(frames) == end_of(frames)["result"] == "All at once."
    assert [usage["model"] for usage in of_kind(frames, "agent_usage")] == ["unknown"]


async def test_a_refusal_is_text() -> None:
    part = ResponseOutputRefusal(refusal="I will not.", type="refusal")
    agent = Agent(name="refusing", model=Whole(part))
    async with serve_agents(agent=openai_agents(agent)) as server, server.connect() as client:
        assert text_of(await ask(client)) == "I will not."


async def test_a_context_is_made_for_each_run() -> None:
    @function_tool
    async def weather(ctx: RunContextWrapper[str], city: str) -> str:
        return f"{ctx.context} in {city}"

    def context(run: AsyncioRun) -> str:
        return f"{run.user} asks"

    agent = Agent[Any](name="context", model=MODEL, tools=[weather])
    adapted = openai_agents(agent, context=context, history=0)
    async with serve_agents(agent=adapted) as server, server.connect() as client:
        frames = await ask(client)
    assert [done["result"] for done in of_kind(frames, "tool_completed")] == ["alice asks in Oslo"]


class ToolServer:
    """Stands for a server of tools: it has the context manager of one, and no tools."""

    def __init__(self, events: list[str], name: str) -> None:
        self.events = events
        self.name = name

    async def __aenter__(self) -> Self:
        self.events.append(f"connect {self.name}")
        return self

    async def __aexit__(self, *_: object) -> None:
        self.events.append(f"close {self.name}")


async def test_servers_of_tools_are_connected_with_the_application() -> None:
    events: list[str] = []
    shared: Any = ToolServer(events, "shared")
    own: Any = ToolServer(events, "own")
    second = Agent(name="second", model=MODEL, mcp_servers=[shared, own])
    first = Agent(name="first", model=MODEL, mcp_servers=[shared], handoffs=[second, second])
    async with serve_agents(agent=openai_agents(first)):
        assert events == ["connect shared", "connect own"]
    assert events[2:] == ["close own", "close shared"]


class Watched(Whole):
    """Notes what the run waits for while the model is asked."""

    def __init__(self, note: Callable[[], None]) -> None:
        super().__init__(ResponseOutputText(annotations=[], text="Hello.", type="output_text"))
        self._note = note

    async def stream_response(self, *args: Any, **options: Any) -> AsyncIterator[Any]:
        """Yield the end of an answer only."""
        self._note()
        async for event in super().stream_response(*args, **options):
            yield event


async def test_the_run_waits_for_the_model_while_it_is_asked() -> None:
    seen: list[list[str | None]] = []
    agent = Agent(name="watched", model=Watched(lambda: seen.append(waits_of(server))))
    async with serve_agents(agent=openai_agents(agent)) as server, server.connect() as client:
        end_of(await ask(client))
    assert seen == [["model"]]


async def test_the_model_gets_the_files_of_this_message_and_of_earlier_ones() -> None:
    """Over HTTP: the framework turns the content into that of the Chat Completions API."""
    set_tracing_disabled(disabled=True)
    async with open_model_server() as server:
        server.always(says("seen"))
        # A connection that is kept would be of a loop that has ended.
        headers = {"connection": "close"}
        provider = AsyncOpenAI(base_url=server.url, api_key="k", default_headers=headers)
        model = OpenAIChatCompletionsModel("m", provider)
        await attach(openai_agents(Agent(name="a", model=model)))
        named = Agent(name="b", model=model)
        await attach(openai_agents(named, images=False, pdfs=False))
    looked, again, *others = ([*request.body["messages"]] for request in server.requests)
    [content] = [message["content"] for message in looked]
    assert content[0] == {"type": "text", "text": TEXT}
    assert content[1]["image_url"]["url"] == url("image/png", PNG)
    document = {"filename": "b.pdf", "file_data": url("application/pdf", PDF)}
    assert content[2] == {"type": "file", "file": document}
    assert [message["content"] for message in again][0::2] == [content, "and?"]
    assert [messages[0]["content"] for messages in others] == [NAMED, NAMED]
