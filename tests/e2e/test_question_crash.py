"""Questions of a server that is killed: they are cancelled, and a late answer is told so."""

import signal
from pathlib import Path

import pytest
from support.server import Client, Frame, serving, servings, write_agents

pytestmark = pytest.mark.unmeasured

AGENTS = """
async def asking(run):
    return await run.ask("Well?")


async def deleting(run):
    async with run.tool("delete", approve=True, path=run.content) as tool:
        open("deleted", "w").close()
"""
MODULE = "asking_agents"
ARGUMENTS = ["--agent", f"{MODULE}:asking", "--agent", f"{MODULE}:deleting"]


async def ask(client: Client, agent: str) -> Frame:
    await client.say("file", "k", agent=agent, thread_id="main")
    payload: Frame = (await client.until("agent_asking"))[-1]["payload"]
    return payload


async def outcomes(client: Client) -> list[str]:
    """Return the outcomes of the questions in the history."""
    await client.send("get_thread_history", {"thread_id": "main"})
    messages = (await client.expect("thread_history"))["payload"]["messages"]
    runs = [message["run"] for message in messages if "run" in message]
    return [question["outcome"] for run in runs for question in run.get("questions", [])]


@pytest.mark.parametrize("agent", ["asking", "deleting"])
async def test_a_question_ends_with_its_server(tmp_path: Path, url: str, agent: str) -> None:
    write_agents(tmp_path, AGENTS, MODULE)
    with servings(tmp_path, *ARGUMENTS, DATABASE_URL=url) as start_server:
        server = start_server()
        async with server.connect() as client:
            question = await ask(client, agent)
            server.process.send_signal(signal.SIGKILL)
            await client.rest()
        assert server.process.wait() == -signal.SIGKILL
        server = start_server()
        async with server.connect() as client:
            given = {"approve": True} if agent == "deleting" else {"answer": "yes"}
            await client.send("answer", {"question_id": question["question_id"], **given})
            error = await client.error("ANSWER_REJECTED")
            assert error["error"] == "The question is closed: cancelled."
            assert await outcomes(client) == ["cancelled"]
            await client.say("file", "k", agent=agent, thread_id="main")  # sent again: a duplicate
            frames = await client.until("agent_completed")
            assert [frame["type"] for frame in frames] == ["message_confirmed", "agent_completed"]
            assert frames[-1]["payload"]["status"] == "interrupted"
        assert server.process.end() == 0
    assert not (tmp_path / "deleted").exists()


async def test_an_answer_outlives_its_server(tmp_path: Path, url: str) -> None:
    write_agents(tmp_path, AGENTS, MODULE)
    with serving(tmp_path, *ARGUMENTS, DATABASE_URL=url) as server:
        async with server.connect() as client:
            question = await ask(client, "deleting")
            await client.send("answer", {"question_id": question["question_id"], "approve": True})
            await client.until("agent_completed")
    assert (tmp_path / "deleted").exists()
    with serving(tmp_path, *ARGUMENTS, DATABASE_URL=url) as server:
        async with server.connect() as client:
            assert await outcomes(client) == ["approved"]
            await client.send("answer", {"question_id": question["question_id"], "approve": True})
            error = await client.error("ANSWER_REJECTED")
            assert error["error"] == "The question is closed: approved."
