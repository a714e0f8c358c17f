"""Messages that replace others: edit and run again, regenerate, also while a run is active."""

from typing import Any

import pytest
import trio
from support.devices import call, changed, devices, history
from support.memory import Client, Frame, open_server
from support.threads import shielded
from trio.testing import MockClock

from netra_trio.agents.run import Run

QUIET: dict[str, Any] = {"heartbeat_interval_ms": 3_600_000}


async def answer(run: Run) -> None:
    """Answer with what the agent knows of the thread; work for as many seconds as asked."""
    known = "|".join(message.content for message in await run.history())
    await run.emit(f"({known}) {run.content}")
    await trio.sleep(float(run.content) if run.content.isdigit() else 0)


AGENTS = {"answer": answer, "shielded": shielded}


async def say(client: Client, content: str, **payload: Any) -> Frame:
    """Send a message, and return the payload of its confirmation."""
    await client.say(content, None, **{"thread_id": "t", **payload})
    confirmed: Frame = (await client.until("message_confirmed"))[-1]["payload"]
    return confirmed


async def converse(client: Client, content: str, **payload: Any) -> Frame:
    """Send a message, and return the payload of its confirmation once its run has ended."""
    confirmed = await say(client, content, **payload)
    await client.until("agent_completed")
    return confirmed


async def contents(client: Client) -> list[str]:
    return [message["content"] for message in await history(client)]


async def test_an_edited_question_begins_a_new_branch(autojump_clock: MockClock) -> None:
    async with open_server(agents=AGENTS, **QUIET) as server, devices(server, 2) as (one, two):
        first = await converse(one, "a")
        second = await converse(one, "b")
        await converse(one, "c")
        await converse(one, "b edited", replaces=second["message_id"])
        expected = ["a", "() a", "b edited", "(a|() a) b edited"]
        assert await contents(one) == expected
        await trio.sleep(1)
        assert (await changed(two))["thread"]["unread"] == 2
        # The first message of the thread.
        await converse(one, "from the start", replaces=first["message_id"])
        assert await contents(one) == ["from the start", "() from the start"]
        [thread] = (await call(one, "list_threads"))["threads"]
        assert thread["unread"] == 1


async def test_an_answer_is_made_again(autojump_clock: MockClock) -> None:
    """The message that replaces an answer begins at its question."""
    async with open_server(agents=AGENTS, **QUIET) as server, devices(server, 1) as (one,):
        await converse(one, "a")
        await converse(one, "b")
        messages = await history(one)
        assert messages[3]["reply_to"] == messages[2]["message_id"]
        await converse(one, "b", replaces=messages[3]["message_id"])
        assert await contents(one) == ["a", "() a", "b", "(a|() a) b"]
        again = await history(one)
        assert again[2]["message_id"] != messages[2]["message_id"]
        # Again and again.
        await converse(one, "b", replaces=again[3]["message_id"])
        assert await contents(one) == ["a", "() a", "b", "(a|() a) b"]


@pytest.mark.parametrize("replaces", ["question", "answer"])
async def test_a_message_of_a_hidden_branch(autojump_clock: MockClock, replaces: str) -> None:
    """It is still a message of the thread; nothing more is hidden than what follows it."""
    async with open_server(agents=AGENTS, **QUIET) as server, devices(server, 1) as (one,):
        await converse(one, "a")
        await converse(one, "b")
        question, hidden = (await history(one))[2:]
        await converse(one, "c", replaces=question["message_id"])
        named = question if replaces == "question" else hidden
        await converse(one, "d", replaces=named["message_id"])
        assert await contents(one) == ["a", "() a", "d", "(a|() a) d"]


async def test_a_message_that_does_not_exist(autojump_clock: MockClock) -> None:
    async with (
        open_server(agents=AGENTS, **QUIET) as server,
        devices(server, 1) as (one,),
        devices(server, 1, user="bob") as (bob,),
    ):
        mine = await converse(one, "a")
        await converse(one, "b", thread_id="u")
        for client, thread_id, replaces in (
            (one, "t", "unknown"),
            (one, "u", mine["message_id"]),
            (one, "new", mine["message_id"]),
            (bob, "t", mine["message_id"]),
        ):
            for key in (None, "k"):
                await client.say("x", key, thread_id=thread_id, replaces=replaces)
                error = (await client.expect("error"))["payload"]
                assert error["code"] == "VALIDATION_ERROR"
                assert error["error"].startswith("$.payload.replaces")
        assert await contents(one) == ["a", "() a"]
        # The key is free, and so is the place in the thread.
        await one.say("x", "k", thread_id="t")
        assert (await one.until("agent_completed"))[0]["payload"]["status"] == "accepted"


async def test_replaces_counts_for_the_key(autojump_clock: MockClock) -> None:
    async with open_server(agents=AGENTS, **QUIET) as server, devices(server, 1) as (one,):
        first = await converse(one, "a")
        await one.say("x", "k", thread_id="t", replaces=first["message_id"])
        await one.until("agent_completed")
        await one.say("x", "k", thread_id="t", replaces=first["message_id"])
        assert (await one.until("agent_completed"))[0]["payload"]["status"] == "duplicate"
        for replaces in ({}, {"replaces": "other"}):
            await one.say("x", "k", thread_id="t", **replaces)
            error = (await one.expect("error"))["payload"]
            assert error["code"] == "VALIDATION_ERROR"
            assert error["error"].startswith("$.correlation_id")
        assert await contents(one) == ["x", "() x"]


async def test_a_run_of_the_old_branch_is_interrupted(autojump_clock: MockClock) -> None:
    async with open_server(agents=AGENTS, **QUIET) as server, devices(server, 2) as (one, two):
        await converse(one, "a")
        old = await say(one, "60")
        await one.until("partial_result")
        new = await say(two, "b", replaces=old["message_id"], on_busy="interrupt")
        assert new["status"] == "queued"
        end = (await one.until("agent_completed"))[-1]["payload"]
        assert (end["run_id"], end["status"]) == (old["run_id"], "cancelled")
        await two.until("agent_completed")
        # What the old run has emitted is stored, and not shown.
        assert await contents(one) == ["a", "() a", "b", "(a|() a) b"]


async def test_a_regenerated_answer_while_the_run_is_active(autojump_clock: MockClock) -> None:
    """The answer has no id yet; its question has."""
    async with open_server(agents=AGENTS, **QUIET) as server, devices(server, 1) as (one,):
        old = await say(one, "60")
        await one.until("partial_result")
        await one.say("a", thread_id="t", replaces=old["message_id"], on_busy="interrupt")
        assert (await one.until("agent_completed"))[-1]["payload"]["run_id"] == old["run_id"]
        await one.until("agent_completed")
        assert await contents(one) == ["a", "() a"]


@pytest.mark.parametrize("agent", ["answer", "shielded"])
async def test_a_late_answer_of_a_hidden_question_is_not_shown(
    autojump_clock: MockClock, agent: str
) -> None:
    async with (
        open_server(agents=AGENTS, **QUIET) as server,
        server.connect() as reader,
        devices(server, 1) as (one,),
    ):
        await converse(one, "a")
        old = await say(one, "3", agent=agent)
        await one.until("partial_result")
        waits = await say(one, "2")
        new = await say(one, "b", replaces=old["message_id"])
        assert (waits["position"], new["position"]) == (1, 2)
        assert await contents(reader) == ["a", "() a", "b"]
        if agent == "shielded":
            await one.send("stop_agent", {"run_id": old["run_id"]})
        for _ in range(3):
            await one.until("agent_completed")
            assert (await contents(reader))[:3] == ["a", "() a", "b"]
        # The runs of the hidden branch went on, and the agent saw what a user sees.
        assert await contents(reader) == ["a", "() a", "b", "(a|() a) b"]
        [thread] = (await call(reader, "list_threads"))["threads"]
        assert (thread["runs_active"], thread["unread"]) == (0, 2)


async def test_a_hidden_branch_is_not_searched(autojump_clock: MockClock) -> None:
    async with open_server(agents=AGENTS, **QUIET) as server, devices(server, 1) as (one,):
        await converse(one, "a")
        old = await converse(one, "zebra")
        await converse(one, "b", replaces=old["message_id"])
        assert (await call(one, "list_threads", {"query": "zebra"}))["threads"] == []
        assert len((await call(one, "list_threads", {"query": "b"}))["threads"]) == 1
