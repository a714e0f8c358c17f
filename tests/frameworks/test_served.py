"""Agents of a framework, served unmodified by the command, over real WebSockets."""

import re
import shlex
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import orjson
import pytest
import trio
from frameworks import script
from frameworks.provider import Provider
from support.cutting import HOST, cutting
from support.markdown import DOCS, blocks
from support.server import PATIENCE, Client, Frame, Process, Server, serving, sign, write_agents

from netra_trio.client import connect

PAGES = {
    "pydantic-ai": "agents-pydantic-ai",
    "langgraph": "agents-langgraph",
    "openai-agents": "agents-openai",
    "google-adk": "agents-adk",
}
TESTS = Path(__file__).parents[1]
SOON = 1.0  # seconds within which a stop is done


async def ask(client: Client, agent: str, content: str = "hello", **payload: Any) -> list[Frame]:
    await client.say(content, agent=agent, **payload)
    return await client.until("agent_completed")


def of_kind(frames: list[Frame], kind: str) -> list[Frame]:
    return [frame["payload"] for frame in frames if frame["type"] == kind]


def text_of(frames: list[Frame]) -> str:
    return "".join(payload["content"] for payload in of_kind(frames, "partial_result"))


def noted(notes: Path) -> list[str]:
    """Return the events that the tools have noted."""
    return notes.read_text().splitlines()


def wait_for_note(notes: Path, event: str) -> None:
    """Wait until a tool has noted an event."""
    deadline = time.monotonic() + PATIENCE
    while event not in noted(notes):
        assert time.monotonic() < deadline, event
        time.sleep(0.01)


async def test_text_thoughts_tools_and_usage(server: Server, framework: str) -> None:
    async with server.connect("hello") as client:
        frames = await ask(client, "hello")
    said = "The tool says clear in Oslo after 0 messages."
    [end] = of_kind(frames, "agent_completed")
    assert (end["status"], end["result"]) == ("completed", said)
    assert text_of(frames) == said
    assert len(of_kind(frames, "partial_result")) > 3
    [tool] = of_kind(frames, "tool_executing")
    assert (tool["tool_name"], tool["arguments"]) == ("weather", {"city": "Oslo"})
    [done] = of_kind(frames, "tool_completed")
    assert done["success"]
    assert "clear in Oslo" in str(done["result"])
    assert [thought["thought"] for thought in of_kind(frames, "agent_thinking")] == [script.THOUGHT]
    [usage] = of_kind(frames, "agent_usage")
    assert usage["model"] == script.MODEL_NAME
    if framework != "pydantic-ai":  # its fake model estimates the tokens
        tokens = (usage["input_tokens"], usage["output_tokens"])
        assert tokens == tuple(2 * count for count in script.TOKENS)


def test_the_command_line_of_websockets_talks_to_it(server: Server) -> None:
    command = ["-m", "websockets", f"{server.url}?token={sign('typing')}"]
    with Process(command, directory=server.process.directory, environ={}, typed=True) as client:

        def shown(text: str) -> None:
            client.out.wait_for(lambda lines: any(text in line for line in lines))

        shown('"connection_established"')
        payload = {"content": "typed by hand", "agent": "hello"}
        client.type(orjson.dumps({"type": "user_message", "payload": payload}).decode())
        shown('"tool_completed"')
        shown('"result":"The tool says clear in Oslo after 0 messages."')
        client.hang_up()


async def test_the_history_of_the_thread_is_the_frameworks(server: Server) -> None:
    async with server.connect("history") as client:
        for number in range(3):
            frames = await ask(client, "hello", thread_id="t-1")
            assert f"after {2 * number} messages" in text_of(frames)
        assert "after 0 messages" in text_of(await ask(client, "hello", thread_id="t-2"))


async def test_a_stop_in_a_tool_ends_its_task_and_its_socket(
    server: Server, provider: Provider, notes: Path
) -> None:
    opened, closed = provider.opened, provider.closed
    async with server.connect("stop") as client:
        await client.say("hello", agent="slow")
        run_id = (await client.until("tool_executing"))[-1]["payload"]["run_id"]
        await trio.to_thread.run_sync(lambda: provider.wait_for(opened=opened + 1, closed=closed))
        before = time.monotonic()
        await client.send("stop_agent", {"run_id": run_id})
        end = (await client.until("agent_completed"))[-1]["payload"]
        took = time.monotonic() - before
        ended = await trio.to_thread.run_sync(
            lambda: provider.wait_for(opened=opened + 1, closed=closed + 1)
        )
    assert (end["status"], end.get("abandoned")) == ("cancelled", None)
    assert took < SOON
    assert ended - before < SOON
    assert noted(notes)[-1] == "fetch ended"


async def test_the_example_of_the_documentation(
    framework: str, agents: ModuleType, tmp_path: Path
) -> None:
    """It is served by the command on its page, with the fake model in place of its model."""
    page = DOCS / f"{PAGES[framework]}.md"
    [example] = [block for block in blocks("python") if block.page == page]
    [command] = [
        block.text
        for block in blocks("console")
        if block.page == page and "netra-trio serve" in block.text
    ]
    model = re.compile(r"^MODEL = .*$", re.MULTILINE)
    text, count = model.subn(f"from {agents.__name__} import MODEL", example.text)
    assert count == 1
    write_agents(tmp_path, text, "shop")
    options = shlex.split(command)[2:]
    with serving(tmp_path, *options, PYTHONPATH=str(TESTS), NOTES="") as server:
        async with server.connect() as client:
            await client.say("How many spades are there?")
            frames = await client.until("agent_completed")
    assert of_kind(frames, "tool_executing")[0]["arguments"] == {"product": "spade"}
    assert of_kind(frames, "agent_completed")[0]["status"] == "completed"
    assert "The tool says 5" in text_of(frames)


async def test_a_line_that_is_cut_at_every_second_event_loses_nothing(server: Server) -> None:
    last = [0]

    def is_cut(frames: int) -> bool:
        is_due = frames // 2 > last[0]
        last[0] = frames // 2
        return is_due

    async with (
        cutting(server.port, is_cut) as (port, relay),
        connect(f"ws://{HOST}:{port}/ws", token=sign("cut"), random=lambda: 0.0) as client,
    ):
        run = await client.send("hello", agent="hello")
        events = [event async for event in run]
    assert relay.cuts > 3
    text = "".join(e.payload["content"] for e in events if e.type == "partial_result")
    assert text == "The tool says clear in Oslo after 0 messages."
    kinds = [event.type for event in events if event.type != "partial_result"]
    assert sorted(kinds[-5:]) == sorted(
        ["tool_executing", "tool_completed", "agent_thinking", "agent_usage", "agent_completed"]
    )


async def test_a_blocking_agent_does_not_delay_native_runs(server: Server) -> None:
    async with server.connect("block") as client:
        await client.say("hello", agent="blocking", thread_id="t-1")
        await client.until("tool_executing")
        await client.say("meanwhile", agent="echo", thread_id="t-2")
        frames = await client.until("agent_completed")
        assert of_kind(frames, "agent_completed")[0]["result"] == "meanwhile"
        assert of_kind(frames, "tool_completed") == []
        end = (await client.until("agent_completed"))[-1]["payload"]
    assert end["status"] == "completed"


async def test_an_agent_that_swallows_cancellation_ends_and_delays_no_other(
    server: Server, notes: Path
) -> None:
    async with server.connect("swallow") as client:
        await client.say("hello", agent="stubborn", thread_id="t-1")
        run_id = (await client.until("tool_executing"))[-1]["payload"]["run_id"]
        await trio.to_thread.run_sync(wait_for_note, notes, "stubborn started")
        await client.send("stop_agent", {"run_id": run_id})
        await client.say("meanwhile", agent="echo", thread_id="t-2")
        ends = [(await client.until("agent_completed"))[-1]["payload"] for _ in range(2)]
    assert [(end["status"], end.get("abandoned")) for end in ends] == [
        ("completed", None),
        ("cancelled", None),
    ]
    assert noted(notes).count("swallowed") == 2


async def test_a_tool_that_fails_fails_the_run_and_keeps_its_text(server: Server) -> None:
    async with server.connect("fail") as client:
        frames = await ask(client, "failing")
    [end] = of_kind(frames, "agent_completed")
    assert (end["status"], end["error"]["code"]) == ("failed", "AGENT_ERROR")
    assert "a secret" not in str(frames)


@pytest.mark.parametrize("approve", [True, False])
async def test_an_approval_of_the_framework_is_a_question(
    server: Server, notes: Path, approve: bool
) -> None:
    before = noted(notes).count("deleted notes.txt")
    async with server.connect("approve") as client:
        await client.say("hello", agent="approving")
        frames = await client.until("agent_asking")
        question = frames[-1]["payload"]
        assert (question["kind"], question["tool_name"]) == ("approval", "delete")
        assert question["arguments"] == {"path": "notes.txt"}
        assert noted(notes).count("deleted notes.txt") == before
        await client.send("answer", {"question_id": question["question_id"], "approve": approve})
        frames += await client.until("agent_completed")
    assert len(of_kind(frames, "tool_executing")) == int(approve)
    assert len(of_kind(frames, "tool_completed")) == int(approve)
    assert noted(notes).count("deleted notes.txt") == before + int(approve)
    assert ("deleted notes.txt" in text_of(frames)) == approve
    assert of_kind(frames, "agent_completed")[0]["status"] == "completed"


async def test_a_question_of_the_framework_is_asked(server: Server, agents: ModuleType) -> None:
    if not hasattr(agents, "asking"):
        assert agents.__name__ == "frameworks.hello_openai_agents"  # the SDK has approvals only
        return
    async with server.connect("ask") as client:
        await client.say("hello", agent="asking")
        question = (await client.until("agent_asking"))[-1]["payload"]
        assert (question["kind"], question["prompt"]) == ("question", "question")
        await client.send("answer", {"question_id": question["question_id"], "answer": "blue"})
        frames = await client.until("agent_completed")
    assert text_of(frames) == "The tool says blue after 0 messages."
