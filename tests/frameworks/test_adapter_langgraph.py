"""The adapter for LangGraph, beyond the graphs that are served by the command."""

import asyncio
import gc
import threading
from base64 import b64encode
from collections.abc import AsyncIterator
from typing import Any, TypedDict

import pytest
import trio
from frameworks.attaching import NAMED, PDF, PNG, TEXT, attach
from frameworks.hello_langgraph import MODEL, Fake
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import interrupt
from support.asyncio_agents import ask, end_of, serve_agents, text_of
from support.memory import Frame, kinds

from netra_trio.aio import langgraph
from netra_trio.aio.frameworks.langgraph import CUT_OFF
from netra_trio.errors import QuestionExpired


def of_kind(frames: list[Frame], kind: str) -> list[Frame]:
    return [frame["payload"] for frame in frames if frame["type"] == kind]


def graph_of(node: Any, state: Any = MessagesState, **options: Any) -> Any:
    """Return a graph with one node."""
    builder = StateGraph(state, **options)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    builder.add_edge("node", END)
    return builder


class Size(TypedDict):
    """A state without messages."""

    text: str
    size: int


async def test_a_graph_without_messages_needs_an_input_and_has_its_state_as_result() -> None:
    graph = graph_of(lambda state: {"size": len(state["text"])}, Size).compile()
    with pytest.raises(TypeError, match="input"):
        langgraph(graph)
    adapted = langgraph(graph, input=lambda run: {"text": run.content})
    async with serve_agents(agent=adapted) as server, server.connect() as client:
        frames = await ask(client)
    assert end_of(frames)["result"] == {"text": "hello", "size": 5}
    assert text_of(frames) == '{"text":"hello","size":5}'


async def test_a_graph_with_a_checkpointer_keeps_the_thread_of_a_user() -> None:
    def count(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(f"{len(state['messages'])} messages")]}

    adapted = langgraph(graph_of(count).compile(checkpointer=InMemorySaver()))
    async with serve_agents(agent=adapted) as server:
        async with server.connect("alice") as client:
            assert text_of(await ask(client, thread_id="t-1")) == "1 messages"
            assert text_of(await ask(client, thread_id="t-1")) == "3 messages"
        async with server.connect("bob") as client:
            assert text_of(await ask(client, thread_id="t-2")) == "1 messages"


async def test_two_agents_with_one_checkpointer_keep_their_own_states() -> None:
    def count(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(f"{len(state['messages'])} messages")]}

    saver = InMemorySaver()
    agents = {
        name: langgraph(graph_of(count).compile(checkpointer=saver), history=0)
        for name in ("one", "other")
    }
    async with serve_agents(**agents) as server, server.connect() as client:
        for name in agents:
            frames = await ask(client, agent=name, thread_id="t-1")
            assert text_of(frames) == "1 messages"


class Caller(Fake):
    """Calls two tools, then says in how many messages it was called; notes what it gets."""

    given: list[list[BaseMessage]]

    def bind_tools(self, tools: Any, **_: Any) -> Any:
        """Return the model itself: the calls are fixed."""
        return self

    async def _astream(
        self, messages: list[BaseMessage], *_: Any, **__: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        self.given.append(messages)
        if len(self.given) == 1:
            calls = [
                {"name": name, "args": "{}", "id": f"call-{name}", "index": index}
                for index, name in enumerate(["quick", "slow"])
            ]
            yield ChatGenerationChunk(message=AIMessageChunk("", tool_call_chunks=calls))
        else:
            yield ChatGenerationChunk(message=AIMessageChunk(f"{len(messages)} messages"))


@pytest.mark.parametrize("is_given", [False, True], ids=["adapter", "input"])
async def test_a_run_after_a_stop_has_a_result_for_each_tool_call(is_given: bool) -> None:
    started = trio.Event()
    token = trio.lowlevel.current_trio_token()

    @tool
    async def quick() -> str:
        """Return at once."""
        return "quick result"

    @tool
    async def slow() -> str:
        """Wait, once the result of the other tool is stored."""
        while not is_stored():  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.01)
        token.run_sync_soon(started.set)
        await asyncio.sleep(100)
        return ""

    def is_stored() -> bool:
        found = saver.get_tuple({"configurable": {"thread_id": "agent/alice/t-1"}})
        return found is not None and any(
            channel == "messages" for _, channel, _ in found.pending_writes or ()
        )

    saver, model = InMemorySaver(), Caller(given=[])
    graph = create_agent(model, [quick, slow], checkpointer=saver)
    options: Any = {"input": lambda run: {"messages": run.content}} if is_given else {}
    adapted = langgraph(graph, **options)
    async with serve_agents(agent=adapted) as server, server.connect() as client:
        await client.say("one", thread_id="t-1")
        run_id = (await client.until("tool_executing"))[-1]["payload"]["run_id"]
        await started.wait()
        await client.send("stop_agent", {"run_id": run_id})
        await client.until("agent_completed")
        assert text_of(await ask(client, "two", thread_id="t-1")) == "5 messages"
        assert text_of(await ask(client, "three", thread_id="t-1")) == "7 messages"
    assert [(each.type, each.content) for each in model.given[-1]] == [
        ("human", "one"),
        ("ai", ""),
        ("tool", "quick result"),
        ("tool", CUT_OFF),
        ("human", "two"),
        ("ai", "5 messages"),
        ("human", "three"),
    ]


async def test_a_run_after_a_question_without_an_answer_has_a_result_for_its_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @tool
    async def slow() -> str:
        """Ask the user."""
        return str(interrupt("Which?"))

    @tool
    async def quick() -> str:
        """Return at once."""
        return "quick result"

    model = Caller(given=[])
    graph = create_agent(model, [quick, slow], checkpointer=InMemorySaver())
    adapted = langgraph(graph)
    monkeypatch.setattr("netra_trio.aio.run.AsyncioRun.ask", expire)
    async with serve_agents(agent=adapted) as server, server.connect() as client:
        assert end_of(await ask(client, "one", thread_id="t-1"))["status"] == "failed"
        assert text_of(await ask(client, "two", thread_id="t-1")) == "5 messages"
    assert [each.type for each in model.given[-1]] == ["human", "ai", "tool", "tool", "human"]
    assert [each.content for each in model.given[-1][2:4]] == ["quick result", CUT_OFF]


async def expire(*_: Any) -> None:
    """Stand for a question that no user answers within five minutes."""
    raise QuestionExpired("no answer")


async def test_messages_that_are_replaced_get_no_result() -> None:
    """The state of this graph has the input only: a result would have no call."""

    def count(state: Any) -> dict[str, Any]:
        call = {"name": "slow", "args": {}, "id": "call-1"}
        return {"messages": [AIMessage(f"{len(state['messages'])}", tool_calls=[call])]}

    adapted = langgraph(graph_of(count, Replaced).compile(checkpointer=InMemorySaver()))
    async with serve_agents(agent=adapted) as server, server.connect() as client:
        assert text_of(await ask(client, thread_id="t-1")) == "1"
        assert text_of(await ask(client, thread_id="t-1")) == "1"


class Replaced(TypedDict):
    """A state whose messages are replaced by each update."""

    messages: list[BaseMessage]


async def test_a_context_is_made_for_each_run() -> None:
    def greet(state: MessagesState, runtime: Runtime[Any]) -> dict[str, Any]:
        return {"messages": [AIMessage(f"Hello {runtime.context['name']}")]}

    adapted = langgraph(
        graph_of(greet, context_schema=dict).compile(),
        context=lambda run: {"name": run.user},
        history=0,
    )
    async with serve_agents(agent=adapted) as server, server.connect() as client:
        assert text_of(await ask(client)) == "Hello alice"


class Spoken(Fake):
    """Answers at once, and only to a call that is not async."""

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        usage = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
        message = AIMessage("said", usage_metadata=usage, response_metadata={})  # type: ignore[arg-type, unused-ignore]
        return ChatResult(generations=[ChatGeneration(message=message)])


@pytest.mark.parametrize("is_async", [True, False])
async def test_a_model_and_a_tool_that_are_not_async_are_shown(is_async: bool) -> None:
    """Their callbacks come in another loop; in an async node, while the loop is blocked."""

    @tool
    def look(where: str) -> list[int]:
        """Look somewhere."""
        return [1, 2]

    def work(state: MessagesState) -> dict[str, Any]:
        look.invoke({"where": "here"})
        return {"messages": [Spoken().invoke([HumanMessage("x")])]}

    async def work_async(state: MessagesState) -> dict[str, Any]:
        return work(state)

    adapted = langgraph(graph_of(work_async if is_async else work).compile())
    async with serve_agents(agent=adapted) as server, server.connect() as client:
        frames = await ask(client)
    assert text_of(frames) == end_of(frames)["result"] == "said"
    assert of_kind(frames, "tool_executing")[0]["arguments"] == {"where": "here"}
    assert of_kind(frames, "tool_completed")[0]["result"] == [1, 2]
    assert of_kind(frames, "agent_usage")[0]["model"] == "unknown"


async def test_a_model_whose_text_is_not_to_be_shown_is_not() -> None:
    async def work(state: MessagesState) -> dict[str, Any]:
        said = await MODEL.with_config(tags=["nostream"]).ainvoke([HumanMessage("x")])
        return {"messages": [AIMessage(f"I thought of {len(said.content)} pieces.")]}

    async with (
        serve_agents(agent=langgraph(graph_of(work).compile())) as server,
        server.connect() as client,
    ):
        assert text_of(await ask(client)) == "I thought of 2 pieces."


@pytest.mark.parametrize(
    ("value", "schema", "prompt"),
    [
        ("Which city?", None, "Which city?"),
        ({"question": "Which city?"}, {"type": "string"}, "Which city?"),
        (["a", "b"], None, 'The graph asks: {"value":["a","b"]}'),
    ],
    ids=["text", "dictionary", "list"],
)
async def test_an_interrupt_is_a_question(value: Any, schema: Any, prompt: str) -> None:
    options = {} if schema is None else {"response_schema": schema}

    def node(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(f"To {interrupt(value, **options)}.")]}

    adapted = langgraph(graph_of(node).compile())
    async with serve_agents(agent=adapted) as server, server.connect() as client:
        await client.say("hello")
        question = (await client.until("agent_asking"))[-1]["payload"]
        assert (question["prompt"], question.get("schema")) == (prompt, schema)
        given = {"question_id": question["question_id"], "answer": "Oslo"}
        await client.send("answer", given)
        assert text_of(await client.until("agent_completed")) == "To Oslo."


async def test_an_interrupt_in_a_tool_is_a_question_of_one_call() -> None:
    @tool
    async def weather(city: str) -> str:
        """Return the weather."""
        return f"sun at {interrupt('At what time?')}"

    agent = create_agent(MODEL, [weather])
    async with serve_agents(agent=langgraph(agent)) as server, server.connect() as client:
        await client.say("hello")
        frames = await client.until("agent_asking")
        question = frames[-1]["payload"]
        assert question["prompt"] == "At what time?"
        given = {"question_id": question["question_id"], "answer": "noon"}
        await client.send("answer", given)
        frames += await client.until("agent_completed")
    (started,), (ended,) = of_kind(frames, "tool_executing"), of_kind(frames, "tool_completed")
    assert started["tool_call_id"] == ended["tool_call_id"]
    assert (ended["success"], ended["result"]) == (True, "sun at noon")


async def test_a_blocking_tool_that_ends_after_a_stop_is_ignored(
    recwarn: pytest.WarningsRecorder,
) -> None:
    started = trio.Event()
    token = trio.lowlevel.current_trio_token()
    ended = threading.Event()

    @tool
    def weather(city: str) -> str:
        """Return the weather."""
        token.run_sync_soon(started.set)
        ended.wait()
        return "sun"

    agent = create_agent(MODEL, [weather])
    async with serve_agents(agent=langgraph(agent)) as server, server.connect() as client:
        await client.say("hello")
        await started.wait()
        frames = await client.until("tool_executing")
        await client.send("stop_agent", {"run_id": frames[-1]["payload"]["run_id"]})
        frames = await client.until("agent_completed")
        assert end_of(frames)["status"] == "cancelled"
        ended.set()
    gc.collect()
    assert [str(each.message) for each in recwarn if "never awaited" in str(each.message)] == []


async def test_a_tool_that_returns_half_a_json_is_shown_as_text() -> None:
    @tool
    async def weather(city: str) -> str:
        """Return the weather."""
        return "{half"

    agent = create_agent(MODEL, [weather])
    async with serve_agents(agent=langgraph(agent)) as server, server.connect() as client:
        frames = await ask(client)
    assert of_kind(frames, "tool_completed")[0]["result"] == "{half"


async def test_a_stop_in_a_tool_cuts_its_call() -> None:
    started = trio.Event()
    token = trio.lowlevel.current_trio_token()

    @tool
    async def slow() -> str:
        """Wait."""
        token.run_sync_soon(started.set)
        await asyncio.sleep(100)
        return ""

    agent = create_agent(MODEL, [slow])
    async with serve_agents(agent=langgraph(agent)) as server, server.connect() as client:
        await client.say("hello")
        run_id = (await client.until("tool_executing"))[-1]["payload"]["run_id"]
        await started.wait()
        await client.send("stop_agent", {"run_id": run_id})
        frames = await client.until("agent_completed")
    assert kinds(frames) == ["agent_completed"]
    assert end_of(frames)["status"] == "cancelled"


class Endless(Fake):
    """Yields large pieces, and counts them."""

    most: int
    done: Any
    pieces: list[int]

    async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        for _ in range(self.most):
            self.pieces.append(1)
            yield ChatGenerationChunk(message=AIMessageChunk("x" * 10_000))
        self.done()


async def test_the_model_is_read_as_fast_as_the_client_reads() -> None:
    most, done = 1000, trio.Event()
    token = trio.lowlevel.current_trio_token()
    model = Endless(most=most, pieces=[], done=lambda: token.run_sync_soon(done.set))

    async def node(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    graph = graph_of(node).compile()
    async with serve_agents(agent=langgraph(graph)) as server:
        client = server.start(buffer_bytes=1000)
        await client.say("hello")
        await client.until("partial_result")
        with trio.move_on_after(0.5):
            await done.wait()
        assert 1 <= len(model.pieces) < most / 2


async def test_the_model_gets_the_files_of_this_message_and_of_earlier_ones() -> None:
    seen: list[list[Any]] = []

    def node(state: MessagesState) -> dict[str, Any]:
        seen.append([message.content for message in state["messages"]])
        return {"messages": [AIMessage("seen")]}

    graph = graph_of(node).compile()
    await attach(langgraph(graph))
    looked = [
        {"type": "text", "text": TEXT},
        {"type": "image", "base64": b64encode(PNG).decode(), "mime_type": "image/png"},
        {
            "type": "file",
            "base64": b64encode(PDF).decode(),
            "mime_type": "application/pdf",
            "filename": "b.pdf",
        },
    ]
    assert seen == [[looked], [looked, "seen", "and?"]]
    seen.clear()
    await attach(langgraph(graph, images=False, pdfs=False))
    assert seen == [[NAMED], [NAMED, "seen", "and?"]]
