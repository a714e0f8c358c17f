"""The output of all adapters: gaps, paragraphs of thoughts, tools by id, values as JSON."""

import asyncio
import datetime as dt
from collections import UserDict
from typing import Any

import pytest
from support.asyncio_agents import ask, end_of, serve_agents, text_of
from support.live import waits_of
from support.memory import Frame, kinds

from netra_trio.aio import AsyncioRun, asyncio_agent
from netra_trio.aio.frameworks.output import FrameworkOutput, arguments_of, plain, prompt_of


async def frames_of(function: Any, *, approve: bool | None = None) -> list[Frame]:
    """Run a function of an `FrameworkOutput` as an agent; return the frames of its run."""

    @asyncio_agent
    async def agent(run: AsyncioRun) -> Any:
        return await function(FrameworkOutput(run))

    async with serve_agents(agent=agent) as server, server.connect() as client:
        if approve is None:
            return (await ask(client))[2:]
        await client.say("hello")
        frames = await client.until("agent_asking")
        question_id = frames[-1]["payload"]["question_id"]
        await client.send("answer", {"question_id": question_id, "approve": approve})
        return (frames + await client.until("agent_completed"))[2:]


async def test_texts_before_and_after_a_tool_are_apart() -> None:
    async def show(output: FrameworkOutput) -> Any:
        await output.text("Let ")
        await output.text("")
        await output.text("me see.")
        await output.start_tool("1", "look", None)
        await output.end_tool("1", "found")
        await output.text("Found.")
        return await output.result("Found.")

    frames = await frames_of(show)
    assert text_of(frames) == "Let me see.\n\nFound."
    assert end_of(frames)["result"] == "Found."


async def test_a_text_after_a_tool_only_has_no_gap() -> None:
    async def show(output: FrameworkOutput) -> None:
        await output.start_tool("1", "look", None)
        await output.end_tool("1")
        await output.text("Found.")

    assert text_of(await frames_of(show)) == "Found."


async def test_each_paragraph_is_a_thought() -> None:
    async def show(output: FrameworkOutput) -> None:
        for piece in ("First", " step.\n", "\nSecond step.\n\n", "  \n\nThird"):
            await output.thought(piece)
        await output.text("Answer")

    frames = await frames_of(show)
    thoughts = [f["payload"]["thought"] for f in frames if f["type"] == "agent_thinking"]
    assert thoughts == ["First step.", "Second step.", "Third"]
    assert kinds(frames)[-2:] == ["partial_result", "agent_completed"]


async def test_a_tool_is_started_once_and_ended_once() -> None:
    async def show(output: FrameworkOutput) -> None:
        await output.start_tool("1", "look", '{"city": "Oslo"}')
        await output.start_tool("1", "look", {})
        await output.end_tool("1", {"sky": "clear"})
        await output.end_tool("1", "again")
        await output.start_tool("2", "look", {})
        await output.end_tool("2", error=ValueError("x"))
        await output.start_tool("3", "look", {})
        output.cut_tool("3")
        output.cut_tool("3")

    frames = await frames_of(show)
    started = [f["payload"]["arguments"] for f in frames if f["type"] == "tool_executing"]
    ended = [f["payload"]["success"] for f in frames if f["type"] == "tool_completed"]
    assert (started, ended) == ([{"city": "Oslo"}, {}, {}], [True, False])


@pytest.mark.parametrize("approve", [True, False])
async def test_a_model_cannot_ask_for_or_skip_an_approval_by_an_argument(approve: bool) -> None:
    async def show(output: FrameworkOutput) -> None:
        await output.start_tool("1", "look", {"approve": approve})
        await output.end_tool("1")

    frames = await frames_of(show)
    assert frames[0]["payload"]["arguments"] == {"arguments": {"approve": approve}}
    assert "agent_asking" not in kinds(frames)


async def test_an_approved_call_goes_on() -> None:
    async def show(output: FrameworkOutput) -> None:
        await output.start_tool("1", "delete", {"path": "x"}, approve=True)
        await output.start_tool("1", "delete", {"path": "x"})
        await output.end_tool("1", "deleted")

    frames = await frames_of(show, approve=True)
    assert kinds(frames)[-3:] == ["tool_executing", "tool_completed", "agent_completed"]


async def test_usage_is_summed_by_model() -> None:
    async def show(output: FrameworkOutput) -> None:
        for model, tokens in (("a", 1), ("b", 2), ("a", 3), (None, 4), ("empty", 0)):
            output.add_usage(model, tokens, 0)
        await output.report_usage()
        await output.report_usage()

    frames = await frames_of(show)
    usage = [f["payload"] for f in frames if f["type"] == "agent_usage"]
    assert {(each["model"], each["input_tokens"]) for each in usage} == {
        ("a", 4),
        ("b", 2),
        ("unknown", 4),
    }
    assert len(usage) == 3


@pytest.mark.parametrize(
    ("output", "text"), [({"size": 3}, '{"size":3}'), ("only a result", "only a result")]
)
async def test_a_result_without_text_is_emitted_for_the_history(output: Any, text: str) -> None:
    async def show(shown: FrameworkOutput) -> Any:
        return await shown.result(output)

    frames = await frames_of(show)
    assert (text_of(frames), end_of(frames)["result"]) == (text, output)


async def test_a_cancelled_run_reports_no_usage() -> None:
    started = asyncio.Event()

    async def show(output: FrameworkOutput) -> None:
        output.add_usage("m", 1, 1)
        try:
            started.set()
            await asyncio.sleep(100)
        finally:
            await output.report_usage()

    @asyncio_agent
    async def agent(run: AsyncioRun) -> Any:
        return await show(FrameworkOutput(run))

    async with serve_agents(agent=agent) as server, server.connect() as client:
        frames = await ask(client, deadline_ms=100)
    assert "agent_usage" not in kinds(frames)
    assert end_of(frames)["status"] == "timed_out"


class Model:
    """Has the method of Pydantic's models."""

    def model_dump(self, *, mode: str) -> dict[str, Any]:
        return {"mode": mode}


class Odd:
    def __repr__(self) -> str:
        return "odd"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        ("text", "text"),
        ([1, (2, 3)], [1, [2, 3]]),
        ({1: {"b"}}, {"1": ["b"]}),
        (frozenset({1}), [1]),
        (UserDict({"a": 1}), {"a": 1}),
        (Model(), {"mode": "json"}),
        (dt.date(2026, 1, 2), "2026-01-02"),
        (Odd(), "odd"),
    ],
)
def test_any_value_becomes_json(value: Any, expected: Any) -> None:
    assert plain(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, {}),
        ("", {}),
        ('{"a": 1}', {"a": 1}),
        ("[1]", {"input": [1]}),
        ("{half", {"input": "{half"}),
        ({"a": Odd()}, {"a": "odd"}),
    ],
)
def test_arguments_are_a_dictionary(value: Any, expected: dict[str, Any]) -> None:
    assert arguments_of(value) == expected


@pytest.mark.parametrize(
    ("arguments", "prompt"),
    [
        ({}, "ask"),
        ({"question": "Which?"}, "Which?"),
        ({"question": ""}, 'ask: {"question":""}'),
        ({"a": 1}, 'ask: {"a":1}'),
        ({"text": "x" * 10_000}, "x" * 8192),
    ],
)
def test_a_question_is_the_text_of_a_call(arguments: dict[str, Any], prompt: str) -> None:
    assert prompt_of("ask", arguments) == prompt


async def test_a_call_of_a_model_is_what_the_run_waits_for() -> None:
    seen: list[list[str | None]] = []

    @asyncio_agent
    async def agent(run: AsyncioRun) -> None:
        output = FrameworkOutput(run)
        seen.append(waits_of(server))
        with run.model_call():
            seen.append(waits_of(server))
        output.model_started()
        output.model_started()
        output.model_ended()
        seen.append(waits_of(server))
        await output.report_usage()  # the other one has failed
        seen.append(waits_of(server))
        output.model_ended()  # no effect

    async with serve_agents(agent=agent) as server, server.connect() as client:
        end_of(await ask(client))
    assert seen == [[None], ["model"], ["model"], [None]]
