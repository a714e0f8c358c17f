"""Python functions as tools: schema, arguments, and calls that a model asks for."""

import threading
import time
from typing import Annotated, Any

import pytest
import trio
from models.serving import ask, end_of, of_kind, talking, text_of
from support.model_server import calls, chunk, open_model_server, results_in, says, sends

from netra_trio import Run, ToolError
from netra_trio.models import calls as tool_calls
from netra_trio.models import chat, tool
from netra_trio.models.tools import function_tool


def weather(city: str, days: Annotated[int, "How many days."] = 1) -> dict[str, Any]:
    """Return the forecast of a city.

    It is always sunny.

    Args:
        city: Its English name.
        days: Not used, because the annotation has a text.
    """
    return {"city": city, "days": ["sun"] * days}


def test_the_schema_of_a_function() -> None:
    made = function_tool(weather)
    assert (made.name, made.approve) == ("weather", False)
    assert made.description == "Return the forecast of a city.\n\nIt is always sunny."
    assert made.parameters == {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "Its English name."},
            "days": {"type": "integer", "description": "How many days.", "default": 1},
        },
        "required": ["city"],
        "additionalProperties": False,
    }


def test_arguments() -> None:
    made = function_tool(weather)
    assert made.bind({"city": "Oslo"}) == {"city": "Oslo", "days": 1}
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, r'invalid arguments: \$: "city" is a required property'),
        ({"city": 1}, r'\$.city: 1 is not of type "string"'),
        ({"city": "Oslo", "days": "2"}, r'\$.days: "2" is not of type "integer"'),
        ({"city": "Oslo", "land": "x"}, "'land' was unexpected"),
    ]
    for arguments, text in cases:
        with pytest.raises(ToolError, match=text):
            made.bind(arguments)


def test_parameters_with_unusual_names() -> None:
    def odd(_hidden: int, class_: str, *, key: bool = False) -> None: ...

    made = function_tool(odd)
    assert made.bind({"_hidden": 1, "class_": "a"}) == {"_hidden": 1, "class_": "a", "key": False}


def test_a_function_without_parameters_and_docstring() -> None:
    def ping() -> None: ...

    made = function_tool(ping)
    assert made.description == ""
    assert made.parameters["properties"] == {}
    assert made.bind({}) == {}


def test_the_decorator() -> None:
    @tool(name="remove-file", approve=True)
    def remove(path: str) -> str:
        return path

    @tool
    def keep(path: str) -> str:
        return path

    assert remove("a") == "a"
    made = function_tool(remove)
    assert (made.name, made.approve) == ("remove-file", True)
    assert (function_tool(keep).name, function_tool(keep).approve) == ("keep", False)


def test_what_cannot_be_a_tool() -> None:
    def untyped(a):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
        ...

    def many(*values: int) -> None: ...

    def first(a: int, /) -> None: ...

    def raw(data: bytes) -> None: ...

    def unknown(a: "Missing") -> None: ...  # type: ignore[name-defined] # noqa: F821

    @tool(name="two words")
    def named() -> None: ...

    for function, text in [
        (untyped, "the tool untyped: the parameter a has no type"),
        (many, "cannot be given by name"),
        (first, "cannot be given by name"),
        (raw, "bytes cannot be read from JSON"),
        (unknown, "Missing"),
    ]:
        with pytest.raises(TypeError, match=text):
            function_tool(function)
    with pytest.raises(ValueError, match="'two words': a name has 1 to 64"):
        function_tool(named)
    with pytest.raises(ValueError, match="two functions have the name 'weather'"):
        chat("m", tools=[weather, weather])


async def test_a_tool_call() -> None:
    async with open_model_server() as server, talking(server, tools=[weather]) as client:
        server.will(
            calls(("weather", {"city": "Oslo", "days": 2}), text="Let me see."),
            says("Sunny."),
        )
        frames = await ask(client, "weather in Oslo?")
    assert of_kind(frames, "tool_executing", "arguments") == [{"city": "Oslo", "days": 2}]
    assert of_kind(frames, "tool_completed", "result") == [{"city": "Oslo", "days": ["sun", "sun"]}]
    assert text_of(frames) == end_of(frames)["result"] == "Let me see.\n\nSunny."
    first, second = (request.body for request in server.requests)
    assert first["tools"] == second["tools"]
    assert first["tools"][0]["type"] == "function"
    assert first["tools"][0]["function"]["name"] == "weather"
    assistant, result = second["messages"][-2:]
    assert assistant["role"] == "assistant"
    assert assistant["content"] == "Let me see."
    assert result == {
        "role": "tool",
        "tool_call_id": assistant["tool_calls"][0]["id"],
        "content": '{"city":"Oslo","days":["sun","sun"]}',
    }


async def test_calls_of_one_answer_run_side_by_side_and_keep_their_order() -> None:
    both = trio.Event()
    started: list[str] = []

    async def meet(name: str) -> str:
        started.append(name)
        if len(started) == 2:
            both.set()
        await both.wait()
        return name

    async with open_model_server() as server, talking(server, tools=[meet]) as client:
        server.will(calls(("meet", {"name": "a"}), ("meet", {"name": "b"})), says("ok"))
        await ask(client, "go")
    assert results_in(server.requests[1].body["messages"]) == ["a", "b"]


async def test_a_function_that_is_not_async_runs_in_a_thread() -> None:
    threads: list[threading.Thread] = []

    def where(run: Run) -> str:
        threads.append(threading.current_thread())
        return run.user

    async with open_model_server() as server, talking(server, tools=[where]) as client:
        server.will(calls(("where", {})), says("ok"))
        frames = await ask(client, "go")
    assert threads[0] is not threading.current_thread()
    assert of_kind(frames, "tool_completed", "result") == ["alice"]
    assert server.requests[0].body["tools"][0]["function"]["parameters"]["properties"] == {}


async def test_failures_go_back_to_the_model() -> None:
    async def refuse() -> None:
        raise ToolError("no such city")

    def break_() -> None:
        raise OSError("disk \udc80")

    def strange() -> object:
        return object()

    tools = [refuse, break_, strange, weather]
    async with open_model_server() as server, talking(server, tools=tools) as client:
        wanted = [
            ("refuse", {}),
            ("break_", {}),
            ("strange", {}),
            ("nothing", {}),
            ("weather", {"city": 1}),
            ("weather", "{"),
            ("weather", "[]"),
        ]
        server.will(calls(*wanted), says("ok"))
        frames = await ask(client, "go")
    assert end_of(frames)["status"] == "completed"
    results = results_in(server.requests[1].body["messages"])
    assert results[:5] == [
        "Error: no such city",
        "Error: OSError: disk ?",
        "Error: the result, a object, is not JSON",
        "Error: there is no tool 'nothing'. The tools are: refuse, break_, strange, weather.",
        'Error: invalid arguments: $.city: 1 is not of type "string"',
    ]
    assert results[5].startswith("Error: the arguments are not JSON")
    assert results[6] == "Error: the arguments have to be a JSON object."
    # The client does not get the text of any other exception than a ToolError.
    shown = {
        frame["payload"]["tool_name"]: frame["payload"]["error"]
        for frame in frames
        if frame["type"] == "tool_completed"
    }
    assert shown == {
        "refuse": "no such city",
        "break_": "The tool failed.",
        "strange": "the result, a object, is not JSON",
        "weather": 'invalid arguments: $.city: 1 is not of type "string"',
    }


@pytest.mark.parametrize("approve", [True, False])
async def test_an_approval(approve: bool) -> None:
    removed: list[str] = []

    @tool(approve=True)
    async def remove(path: str) -> str:
        removed.append(path)
        return "removed"

    async with open_model_server() as server, talking(server, tools=[remove]) as client:
        server.will(calls(("remove", {"path": "a"}), ("remove", {"path": 1})), says("ok"))
        await client.say("go")
        frames = await client.until("agent_asking")
        asked = frames[-1]["payload"]
        assert removed == []
        await client.send("answer", {"question_id": asked["question_id"], "approve": approve})
        frames += await client.until("agent_completed")
    assert (asked["tool_name"], asked["arguments"]) == ("remove", {"path": "a"})
    # Invalid arguments are refused without a question.
    assert len(of_kind(frames, "agent_asking", "question_id")) == 1
    assert removed == (["a"] if approve else [])
    result, invalid = results_in(server.requests[1].body["messages"])
    assert result == (
        "removed" if approve else "Error: the call of remove was not approved: denied"
    )
    assert invalid.startswith("Error: invalid arguments")


async def test_an_argument_of_the_name_approve_asks_nobody() -> None:
    async def vote(approve: bool) -> bool:
        return approve

    async with open_model_server() as server, talking(server, tools=[vote]) as client:
        server.will(calls(("vote", {"approve": True})), says("ok"))
        frames = await ask(client, "go")
    assert of_kind(frames, "tool_executing", "arguments") == [{"arguments": {"approve": True}}]
    assert results_in(server.requests[1].body["messages"]) == ["true"]


async def test_a_long_result_is_cut_for_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool_calls, "RESULT_BYTES", 5)

    async def long(size: int) -> str:
        return "x" * size

    async with open_model_server() as server, talking(server, tools=[long]) as client:
        server.will(calls(("long", {"size": 5}), ("long", {"size": 6})), says("ok"))
        await ask(client, "go")
    results = results_in(server.requests[1].body["messages"])
    assert results == ["xxxxx", "xxxxx\n(The rest was cut.)"]


@pytest.mark.parametrize("rounds", [0, 1, 2])
async def test_the_number_of_rounds_is_limited(rounds: int) -> None:
    called: list[str] = []

    async def send(text: str) -> None:
        called.append(text)

    async with open_model_server() as server:
        server.always(calls(("send", {"text": "a"})))
        async with talking(server, tools=[send], max_rounds=rounds) as client:
            end = end_of(await ask(client, "go"))
    assert (end["status"], len(server.requests)) == ("failed", rounds + 1)
    assert len(called) == rounds
    text = f"The model asked for tools more than {rounds} times in a row."
    assert end["error"]["error"] == text


async def test_the_last_allowed_round() -> None:
    async with open_model_server() as server:
        server.will(calls(("weather", {"city": "Oslo"})), says("ok"))
        async with talking(server, tools=[weather], max_rounds=1) as client:
            assert end_of(await ask(client, "go"))["status"] == "completed"


async def test_the_limit_of_tokens_within_a_tool_call() -> None:
    pieces = [{"index": 0, "id": "c", "function": {"name": "weather", "arguments": '{"ci'}}]
    async with open_model_server() as server, talking(server, tools=[weather]) as client:
        server.will(sends(chunk(tool_calls=pieces), chunk("length")))
        end = end_of(await ask(client, "go"))
    assert end["error"]["error"] == "The model reached its limit of tokens within a tool call."


async def test_a_stop_ends_a_tool_and_abandons_a_thread() -> None:
    release, entered = threading.Event(), threading.Event()
    cancelled = trio.Event()

    async def wait() -> None:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    def block() -> None:
        entered.set()
        release.wait(60)

    async with open_model_server() as server, talking(server, tools=[wait, block]) as client:
        server.will(calls(("wait", {}), ("block", {})))
        await client.say("go")
        run = (await client.until("tool_executing"))[-1]["payload"]["run_id"]
        await trio.to_thread.run_sync(entered.wait, 60)
        began = time.monotonic()
        await client.send("stop_agent", {"run_id": run})
        assert end_of(await client.until("agent_completed"))["status"] == "cancelled"
        assert time.monotonic() - began < 30
        assert cancelled.is_set()
        release.set()
    assert len(server.requests) == 1
