"""The adapter for Google ADK, beyond the agents that are served by the command."""

from collections.abc import AsyncIterator
from typing import Any

import trio
from frameworks import script
from frameworks.attaching import NAMED, PDF, PNG, TEXT, attach
from frameworks.hello_adk import MODEL, Fake, response_of
from google.adk.agents import LlmAgent
from google.adk.apps.app import App
from google.adk.models.llm_response import LlmResponse
from google.adk.plugins.base_plugin import BasePlugin
from google.adk.tools.long_running_tool import LongRunningFunctionTool
from google.genai import types
from pydantic import BaseModel
from support.asyncio_agents import ask, end_of, serve_agents, text_of
from support.live import waits_of
from support.memory import Frame

from netra_trio.aio import AsyncioRun, adk


def of_kind(frames: list[Frame], kind: str) -> list[Frame]:
    return [frame["payload"] for frame in frames if frame["type"] == kind]


class Closing(BasePlugin):
    """Notes that it was closed."""

    def __init__(self) -> None:
        super().__init__(name="closing")
        self.is_closed = False

    async def close(self) -> None:
        """Note it."""
        self.is_closed = True


async def test_an_app_keeps_its_plugins_and_is_closed() -> None:
    plugin = Closing()
    root = LlmAgent(name="root", model=MODEL, tools=[script.weather])
    app = App(name="shop", root_agent=root, plugins=[plugin])
    async with serve_agents(agent=adk(app, history=0)) as server, server.connect() as client:
        frames = await ask(client)
        assert text_of(frames) == "The tool says clear in Oslo after 0 messages."
    assert plugin.is_closed
    assert app.plugins == [plugin]


class Scripted(Fake):
    """Yields given responses."""

    responses: list[Any]

    async def generate_content_async(
        self, llm_request: Any, stream: bool = False
    ) -> AsyncIterator[LlmResponse]:
        """Yield the next responses."""
        for response in self.responses.pop(0):
            yield response


async def test_a_model_without_pieces_is_shown_too() -> None:
    model = Scripted(responses=[[response_of([types.Part(text="All at once.")])]])
    agent = LlmAgent(name="whole", model=model)
    async with serve_agents(agent=adk(agent)) as server, server.connect() as client:
        frames = await ask(client)
    assert text_of(frames) == end_of(frames)["result"] == "All at once."


async def test_an_error_of_the_model_fails_the_run() -> None:
    model = Scripted(responses=[[LlmResponse(error_code="SAFETY", error_message="no")]])
    agent = LlmAgent(name="refused", model=model)
    async with serve_agents(agent=adk(agent)) as server, server.connect() as client:
        end = end_of(await ask(client))
    assert (end["status"], end["error"]["code"]) == ("failed", "AGENT_ERROR")


class Town(BaseModel):
    """An output that is not a text."""

    name: str


async def test_a_structured_output_is_text() -> None:
    model = Scripted(responses=[[response_of([types.Part(text='{"name": "Oslo"}')])]])
    agent = LlmAgent(name="structured", model=model, output_schema=Town)
    async with serve_agents(agent=adk(agent)) as server, server.connect() as client:
        frames = await ask(client)
    assert text_of(frames) == '{"name": "Oslo"}'
    assert "Oslo" in str(end_of(frames)["result"])


async def test_a_question_without_an_answer_is_told_to_the_model(monkeypatch: Any) -> None:
    async def expire(self: AsyncioRun, prompt: str, schema: Any = None, expires: float = 0) -> Any:
        return await self._bridge.call("ask", prompt, schema, 0.01)

    monkeypatch.setattr("netra_trio.aio.run.AsyncioRun.ask", expire)

    def question() -> None:
        """Ask the user."""

    agent = LlmAgent(name="asking", model=MODEL, tools=[LongRunningFunctionTool(question)])
    async with serve_agents(agent=adk(agent)) as server, server.connect() as client:
        assert "The user did not answer." in text_of(await ask(client))


async def test_a_request_for_credentials_fails_the_run() -> None:
    def adk_request_credential() -> None:
        """Ask for credentials."""

    tool = LongRunningFunctionTool(adk_request_credential)
    agent = LlmAgent(name="credential", model=MODEL, tools=[tool])
    async with serve_agents(agent=adk(agent)) as server, server.connect() as client:
        assert end_of(await ask(client))["status"] == "failed"


class Endless(Fake):
    """Yields large pieces, and counts them."""

    most: int
    done: Any
    count: list[int]

    async def generate_content_async(
        self, llm_request: Any, stream: bool = False
    ) -> AsyncIterator[LlmResponse]:
        """Yield the pieces."""
        for _ in range(self.most):
            self.count.append(1)
            yield response_of([types.Part(text="x" * 10_000)], partial=True)
        self.done()


async def test_the_model_is_read_as_fast_as_the_client_reads() -> None:
    most, done = 1000, trio.Event()
    token = trio.lowlevel.current_trio_token()
    count: list[int] = []
    model = Endless(most=most, count=count, done=lambda: token.run_sync_soon(done.set))
    agent = LlmAgent(name="endless", model=model)
    async with serve_agents(agent=adk(agent)) as server:
        client = server.start(buffer_bytes=1000)
        await client.say("hello")
        await client.until("partial_result")
        with trio.move_on_after(0.5):
            await done.wait()
        assert 1 <= len(model.count) < most / 2


async def test_the_run_waits_for_the_model_while_it_is_asked() -> None:
    seen: list[list[str | None]] = []

    class Watched(Fake):
        """Notes what the run waits for while the model is asked."""

        async def generate_content_async(
            self, llm_request: Any, stream: bool = False
        ) -> AsyncIterator[LlmResponse]:
            """Yield one response."""
            seen.append(waits_of(server))
            yield LlmResponse(content=types.Content(role="model", parts=[types.Part(text="Hi.")]))

    agent = adk(LlmAgent(name="root", model=Watched(model="watched")))
    async with serve_agents(agent=agent) as server, server.connect() as client:
        end_of(await ask(client))
    assert seen == [["model"]]


def _blob(data: Any) -> tuple[str, bytes]:
    return data.mime_type, data.data


class Seeing(Fake):
    """Notes what it gets."""

    seen: list[Any]

    async def generate_content_async(
        self, llm_request: Any, stream: bool = False
    ) -> AsyncIterator[LlmResponse]:
        """Answer with a text."""
        parts = [part for content in llm_request.contents for part in content.parts]
        self.seen.append([part.text or _blob(part.inline_data) for part in parts])
        yield response_of([types.Part(text="seen")])


async def test_the_model_gets_the_files_of_this_message_and_of_earlier_ones() -> None:
    model = Seeing(seen=[])
    await attach(adk(LlmAgent(name="shop", model=model)))
    looked = [TEXT, ("image/png", PNG), ("application/pdf", PDF)]
    assert model.seen == [looked, [*looked, "seen", "and?"]]
    model.seen.clear()
    await attach(adk(LlmAgent(name="shop", model=model), images=False, pdfs=False))
    assert model.seen == [[NAMED], [NAMED, "seen", "and?"]]
