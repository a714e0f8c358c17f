"""A run is stopped, and its question answered, from whichever node the user asks."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from support.memory import Client, Frame, kinds
from support.shared_nodes import LinkedNode, open_nodes
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio.agents.run import Run
from netra_trio.errors import StoreUnavailable
from netra_trio.ids import RunId, UserId, new_node_id
from netra_trio.node.remote_runs import REGISTERED_SECONDS, REPLY_SECONDS
from netra_trio.protocol.messages import RunStatus
from netra_trio.stores.base import RunOwner

ALICE = UserId("alice")


async def work(run: Run) -> Any:
    """Ask, or work until it is stopped."""
    if run.content == "ask":
        return await run.ask("Which color?", {"type": "string", "enum": ["red", "blue"]})
    await run.emit("…")
    return await trio.sleep_forever()


@asynccontextmanager
async def two_clients(
    content: str = "work", asker: str = "alice"
) -> AsyncIterator[tuple[LinkedNode, LinkedNode, Client, Client, Frame]]:
    """Start a run on the first node; yield the payload of its first event, and another client."""
    async with (
        open_nodes(2, agents={"work": work}, heartbeat_interval_ms=3_600_000) as (one, two),
        one.connect() as owner,
        two.connect(asker) as other,
    ):
        await owner.say(content, "k", thread_id="main")
        first = await owner.until("agent_asking" if content == "ask" else "partial_result")
        yield one, two, owner, other, first[-1]["payload"]


def asked_by(node: LinkedNode) -> object:
    """Return the requests of a node that wait for an answer."""
    assert node.node.cluster is not None
    return node.node.cluster.mailbox._asked


async def stop(client: Client, run_id: str) -> None:
    await client.send("stop_agent", {"run_id": run_id}, "stop-1")


async def code_of(client: Client) -> str:
    frame = await client.expect("error")
    assert frame["correlation_id"] in {"stop-1", "a-1"}
    assert frame["payload"]["recoverable"] is True
    return str(frame["payload"]["code"])


async def answer(client: Client, question_id: str, **payload: Any) -> None:
    await client.send("answer", {"question_id": question_id, **payload}, "a-1")


# Stop.


async def test_a_run_of_another_node_is_stopped(autojump_clock: MockClock) -> None:
    async with two_clients() as (_, _, owner, other, started):
        await stop(other, started["run_id"])
        end = await owner.expect("agent_completed")
        assert end["payload"]["status"] == "cancelled"
        assert end["correlation_id"] == "k"
        assert await other.sync() == []
        # It has ended.
        await stop(other, started["run_id"])
        assert await code_of(other) == "RUN_NOT_FOUND"


@pytest.mark.parametrize("run_id", ["unknown", "run_0"])
async def test_an_unknown_run_is_not_found(autojump_clock: MockClock, run_id: str) -> None:
    async with two_clients() as (_, _, owner, other, _):
        for client in (owner, other):
            await stop(client, run_id)
            assert await code_of(client) == "RUN_NOT_FOUND"


async def test_a_run_of_another_user_is_not_found(autojump_clock: MockClock) -> None:
    async with two_clients(asker="bob") as (_, _, owner, other, started):
        await stop(other, started["run_id"])
        assert await code_of(other) == "RUN_NOT_FOUND"
        assert await owner.sync() == []


async def test_a_run_of_a_node_that_is_gone_ends_interrupted(autojump_clock: MockClock) -> None:
    async with two_clients() as (one, two, _, other, started):
        await one.kill()
        begin = trio.current_time()
        await stop(other, started["run_id"])
        await trio.sleep(REGISTERED_SECONDS + 0.1)
        assert await other.sync() == []
        assert trio.current_time() - begin < REPLY_SECONDS
        assert await two.store.find_run(ALICE, RunId(started["run_id"])) is None
        await other.send("get_thread_history", {"thread_id": "main"})
        history = await other.expect("thread_history")
        assert history["payload"]["messages"][0]["run"]["status"] == "interrupted"
        await stop(other, started["run_id"])
        assert await code_of(other) == "RUN_NOT_FOUND"


async def test_a_node_that_registers_again_is_not_gone(autojump_clock: MockClock) -> None:
    """The server restarted empty, and the owner's lease is renewed a moment later."""
    async with two_clients() as (one, two, owner, other, started):
        two.memory.server.leases.pop(one.id)
        await stop(other, started["run_id"])
        end = await owner.expect("agent_completed")
        assert end["payload"]["status"] == "cancelled"


async def test_no_run_is_ended_by_a_node_without_a_lease(autojump_clock: MockClock) -> None:
    async with two_clients() as (one, two, owner, other, started):

        async def lose_all(name: str) -> None:
            if name == "nodes":
                two.memory.server.leases.clear()

        two.link.on_call = lose_all
        await stop(other, started["run_id"])
        assert await code_of(other) == "SERVICE_UNAVAILABLE"
        two.link.on_call = None
        assert await owner.sync() == []
        assert await one.store.find_run(ALICE, RunId(started["run_id"])) is not None


@pytest.mark.parametrize("lost", ["stop", "answer"])
async def test_a_node_that_does_not_answer(autojump_clock: MockClock, lost: str) -> None:
    async with two_clients() as (one, two, _, other, started):
        one.link.lost = two.link.lost = {lost}
        begin = trio.current_time()
        await stop(other, started["run_id"])
        assert await code_of(other) == "SERVICE_UNAVAILABLE"
        assert trio.current_time() - begin == REPLY_SECONDS
        # It is asked again, as the error says.
        one.link.lost = two.link.lost = set()
        await stop(other, started["run_id"])
        assert await other.sync() == [] if lost == "stop" else await code_of(other)
        await trio.sleep(0.1)  # until the last answer has arrived
        assert asked_by(two) == {}


@pytest.mark.parametrize("call", ["nodes", "post"])
async def test_the_broker_does_not_answer(autojump_clock: MockClock, call: str) -> None:
    async with two_clients() as (_, two, owner, other, started):

        async def cut(name: str) -> None:
            two.link.is_cut = name == call

        two.link.on_call = cut
        await stop(other, started["run_id"])
        assert await code_of(other) == "SERVICE_UNAVAILABLE"
        assert await owner.sync() == []


async def test_a_late_reply_is_ignored(autojump_clock: MockClock) -> None:
    async with two_clients() as (one, two, _, other, started):

        async def delay(name: str) -> None:
            if name == "post":
                await trio.sleep(REPLY_SECONDS + 0.1)

        one.link.on_call = delay
        await stop(other, started["run_id"])
        assert await code_of(other) == "SERVICE_UNAVAILABLE"
        await trio.sleep(1)
        assert await other.sync() == []
        await trio.sleep(0.1)  # until the last answer has arrived
        assert asked_by(two) == {}


async def test_a_client_that_leaves_ends_its_requests(autojump_clock: MockClock) -> None:
    """At each wait of a request: the look-up of the nodes, the message, the reply."""
    for call in ("nodes", "post", "reply"):
        async with two_clients() as (one, two, _, other, started):
            waiting = trio.Event()

            async def wait(name: str, call: str = call, waiting: trio.Event = waiting) -> None:
                if name == call:
                    waiting.set()
                    await trio.sleep_forever()

            two.link.on_call = wait
            if call == "reply":
                one.link.lost = {"answer"}
            await stop(other, started["run_id"])
            if call == "reply":
                await wait_all_tasks_blocked()
            else:
                await waiting.wait()
            other.peer.cut()
            await other.done.wait()
            await trio.sleep(0.1)  # until the last answer has arrived
            assert asked_by(two) == {}


async def test_the_store_does_not_answer(autojump_clock: MockClock) -> None:
    async with two_clients() as (_, two, owner, other, started):

        async def fail(*_: object, **__: object) -> None:
            raise StoreUnavailable("down")

        two.store.find_run = fail  # type: ignore[method-assign]
        await stop(other, started["run_id"])
        assert await code_of(other) == "SERVICE_UNAVAILABLE"
        assert await owner.sync() == []


async def test_a_run_that_moves_is_followed(autojump_clock: MockClock) -> None:
    """It has moved to this node, or further, since the store named its node."""
    async with two_clients() as (one, two, owner, other, started):
        asked: list[RunOwner | None] = [
            RunOwner(one.id, RunStatus.QUEUED),
            RunOwner(new_node_id(), RunStatus.QUEUED),
            RunOwner(two.id, RunStatus.RUNNING),
        ]

        async def find_run(*_: object) -> RunOwner | None:
            return asked.pop(0)

        two.store.find_run = find_run  # type: ignore[method-assign,assignment]
        # The first node does not have it any more, the second one is gone and has not had it.
        user = one.node._users.find(ALICE)
        assert user is not None
        live = user.runs.pop(RunId(started["run_id"]))
        mine = two.node._users.find(ALICE)
        assert mine is not None
        mine.runs[RunId("other")] = live
        await stop(other, started["run_id"])
        assert await code_of(other) == "RUN_NOT_FOUND"
        assert asked == []

        asked = [RunOwner(one.id, RunStatus.QUEUED), RunOwner(two.id, RunStatus.RUNNING)]
        two.link.on_call = None

        async def arrive(name: str) -> None:
            if name == "post":
                mine.runs[RunId(started["run_id"])] = live

        two.link.on_call = arrive
        await stop(other, started["run_id"])
        assert (await owner.expect("agent_completed"))["payload"]["status"] == "cancelled"
        del mine.runs[RunId("other")], mine.runs[RunId(started["run_id"])]


async def test_a_run_that_moves_on_and_on_is_given_up(autojump_clock: MockClock) -> None:
    async with two_clients() as (one, two, _, other, _):
        asked = 0

        async def find_run(*_: object) -> RunOwner | None:
            nonlocal asked
            asked += 1
            return RunOwner(one.id, RunStatus.RUNNING)

        two.store.find_run = find_run  # type: ignore[method-assign,assignment]
        await stop(other, "run_unknown")
        assert await code_of(other) == "RUN_NOT_FOUND"
        assert asked == 3


# Answers.


async def test_a_question_of_another_node_is_answered(autojump_clock: MockClock) -> None:
    async with two_clients("ask") as (_, two, owner, other, asked):
        await answer(other, asked["question_id"], answer="red")
        frames = await owner.until("agent_completed")
        assert kinds(frames) == ["agent_answered", "agent_completed"]
        assert frames[0]["payload"]["answer"] == "red"
        assert frames[0]["payload"]["user_id"] == "alice"
        assert frames[1]["payload"]["result"] == "red"
        # The session that answered gets a copy, as one of the same node does.
        copy = await other.expect("agent_answered")
        assert copy["payload"] == frames[0]["payload"]
        assert copy["correlation_id"] == "a-1"
        assert copy["seq"] == 1
        # The first answer decides.
        await answer(other, asked["question_id"], answer="blue")
        error = await other.expect("error")
        assert error["payload"]["code"] == "ANSWER_REJECTED"
        assert "answered" in error["payload"]["error"]
        await trio.sleep(0.1)  # until the last answer has arrived
        assert asked_by(two) == {}


async def test_an_answer_that_does_not_fit_is_rejected(autojump_clock: MockClock) -> None:
    async with two_clients("ask") as (_, _, owner, other, asked):
        await answer(other, asked["question_id"], answer="green")
        error = await other.expect("error")
        assert error["correlation_id"] == "a-1"
        assert error["payload"]["code"] == "ANSWER_REJECTED"
        assert "$.payload.answer" in error["payload"]["error"]
        assert await owner.sync() == []
        await answer(other, asked["question_id"], answer="blue")
        assert (await owner.until("agent_completed"))[-1]["payload"]["result"] == "blue"


async def test_a_question_of_another_user_is_unknown(autojump_clock: MockClock) -> None:
    async with two_clients("ask", asker="bob") as (_, _, owner, other, asked):
        await answer(other, asked["question_id"], answer="red")
        assert await code_of(other) == "ANSWER_REJECTED"
        assert await owner.sync() == []


async def test_a_question_of_a_node_that_is_gone_is_cancelled(autojump_clock: MockClock) -> None:
    async with two_clients("ask") as (one, _, _, other, asked):
        await one.kill()
        await answer(other, asked["question_id"], answer="red")
        error = await other.expect("error")
        assert error["payload"]["code"] == "ANSWER_REJECTED"
        assert "cancelled" in error["payload"]["error"]


async def test_a_question_that_was_closed_meanwhile(autojump_clock: MockClock) -> None:
    async with two_clients("ask") as (_, two, owner, other, asked):

        async def first(name: str) -> None:
            if name == "post":
                two.link.on_call = None
                await answer(owner, asked["question_id"], answer="blue")
                await owner.until("agent_completed")

        two.link.on_call = first
        await answer(other, asked["question_id"], answer="red")
        error = await other.expect("error")
        assert error["payload"]["code"] == "ANSWER_REJECTED"
        assert "answered" in error["payload"]["error"]


async def test_a_question_that_this_node_has_closed_is_rejected(autojump_clock: MockClock) -> None:
    """Its end is not stored yet, so the store still names this node."""
    async with two_clients("ask") as (one, _, owner, _, asked):
        user = one.node._users.find(ALICE)
        assert user is not None
        question = user.questions.pop(asked["question_id"])
        await answer(owner, asked["question_id"], answer="red")
        assert await code_of(owner) == "ANSWER_REJECTED"
        user.questions[question.asking.question_id] = question


@pytest.mark.parametrize("lost", ["answer_question", "answer"])
async def test_the_node_of_a_question_does_not_answer(autojump_clock: MockClock, lost: str) -> None:
    async with two_clients("ask") as (one, two, _, other, asked):
        one.link.lost = two.link.lost = {lost}
        begin = trio.current_time()
        await answer(other, asked["question_id"], answer="red")
        frames = await other.until("error")
        assert frames[-1]["payload"]["code"] == "SERVICE_UNAVAILABLE"
        assert trio.current_time() - begin == REPLY_SECONDS


async def test_a_session_that_has_ended_gets_no_copy(autojump_clock: MockClock) -> None:
    async with two_clients("ask") as (one, two, owner, other, asked):
        waiting = trio.Event()

        async def wait(name: str) -> None:
            await waiting.wait()

        one.link.on_call = wait
        await answer(other, asked["question_id"], answer="red")
        await owner.until("agent_completed")
        [session] = two.node.sessions
        two.node.sessions.close(session, "ended")
        waiting.set()
        await trio.sleep(0.1)
        assert await owner.sync() == []


async def test_an_approval_of_another_node(autojump_clock: MockClock) -> None:
    async def delete(run: Run) -> str:
        async with run.tool("delete", approve=True, path="x") as tool:
            tool.result = "gone"
        return "deleted"

    async with (
        open_nodes(2, agents={"delete": delete}) as (one, two),
        one.connect() as owner,
        two.connect() as other,
    ):
        await owner.say("go", "k")
        asked = (await owner.until("agent_asking"))[-1]["payload"]
        await answer(other, asked["question_id"], approve=True)
        assert (await owner.until("agent_completed"))[-1]["payload"]["result"] == "deleted"
        assert (await other.expect("agent_answered"))["payload"]["outcome"] == "approved"
