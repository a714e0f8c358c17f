"""Answers to questions of agents: settled by the event, rejected, and repeated after a loss."""

from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import pytest
import trio
from support.scripted import LIMITS, Frame, Peer, ScriptedNetwork, opened
from support.server import Server, serving, write_agents
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio.client import ClientClosed, Event, MessageRefused, connect


@pytest.fixture
def network() -> ScriptedNetwork:
    return ScriptedNetwork()


class Answering:
    """An answer that a test does not wait for yet."""

    def __init__(self, nursery: trio.Nursery, call: Callable[[], Awaitable[Event]]) -> None:
        self.closed: Event | None = None
        self.error: Exception | None = None
        self.done = trio.Event()
        nursery.start_soon(self._run, call)

    async def _run(self, call: Callable[[], Awaitable[Event]]) -> None:
        try:
            self.closed = await call()
        except Exception as error:
            self.error = error
        self.done.set()

    async def outcome(self) -> str:
        await self.done.wait()
        if self.error is not None:
            raise self.error
        assert self.closed is not None
        return str(self.closed.payload["outcome"])


def answered(peer: Peer, outcome: str, key: str = "c-1", **more: Any) -> None:
    payload = {"run_id": "run_1", "question_id": "q_1", "outcome": outcome, **more}
    peer.event("agent_answered", payload, key)


@pytest.mark.parametrize(
    ("given", "outcome", "more"),
    [
        ({"answer": "blue"}, "answered", {"answer": "blue"}),
        ({"answer": False}, "answered", {"answer": False}),
        ({"answer": ("a", 1)}, "answered", {"answer": ["a", 1]}),
        ({"approve": True}, "approved", {}),
        ({"approve": False}, "denied", {}),
    ],
)
async def test_the_event_settles_the_answer(
    network: ScriptedNetwork,
    autojump_clock: MockClock,
    given: dict[str, Any],
    outcome: str,
    more: Frame,
) -> None:
    async with opened(network) as (client, peer), trio.open_nursery() as nursery:
        answer = Answering(nursery, lambda: client.answer("q_1", **given))
        frame = await peer.expect("answer")
        sent = {name: list(x) if isinstance(x, tuple) else x for name, x in given.items()}
        assert frame["payload"] == {"question_id": "q_1", **sent}
        # Of another question, and of an answer that says something else.
        peer.event("agent_answered", {"run_id": "r", "question_id": "q_2", "outcome": outcome})
        answered(peer, "expired")
        answered(peer, "answered", answer="red")
        await wait_all_tasks_blocked()
        assert not answer.done.is_set()
        answered(peer, outcome, **more)
        assert await answer.outcome() == outcome


async def test_a_rejected_answer(network: ScriptedNetwork, autojump_clock: MockClock) -> None:
    async with opened(network) as (client, peer), trio.open_nursery() as nursery:
        answer = Answering(nursery, lambda: client.answer("q_1", approve=True))
        frame = await peer.expect("answer")
        answered(peer, "denied")  # by another session, which was first
        peer.error("ANSWER_REJECTED", frame["correlation_id"])
        with pytest.raises(MessageRefused) as refused:
            await answer.outcome()
        assert refused.value.code == "ANSWER_REJECTED"


async def test_two_sessions_say_the_same(
    network: ScriptedNetwork, autojump_clock: MockClock
) -> None:
    async with opened(network) as (client, peer), trio.open_nursery() as nursery:
        answer = Answering(nursery, lambda: client.answer("q_1", approve=True))
        frame = await peer.expect("answer")
        answered(peer, "approved")
        assert await answer.outcome() == "approved"
        errors = client.stats.errors_encountered
        peer.error("ANSWER_REJECTED", frame["correlation_id"])
        peer.event("partial_result", {"run_id": "run_1", "content": "x"})
        kinds: list[str] = []
        async for event in client.events():
            kinds.append(event.type)
            if event.type == "partial_result":
                break
        assert "error" not in kinds
        assert client.stats.errors_encountered == errors


async def test_a_copy_for_a_run_of_another_session(
    network: ScriptedNetwork, autojump_clock: MockClock
) -> None:
    async with opened(network) as (client, peer), trio.open_nursery() as nursery:
        answer = Answering(nursery, lambda: client.answer("q_1", approve=True))
        frame = await peer.expect("answer")
        answered(peer, "approved", frame["correlation_id"])
        assert await answer.outcome() == "approved"


async def test_an_answer_is_sent_again_after_a_loss(
    network: ScriptedNetwork, autojump_clock: MockClock
) -> None:
    async with opened(network) as (client, peer), trio.open_nursery() as nursery:
        answer = Answering(nursery, lambda: client.answer("q_1", approve=True))
        frame = await peer.expect("answer")
        peer.close(1006)
        again = await network.accept()
        again.hello("exact")
        assert await again.expect("answer") == frame
        answered(again, "approved")
        assert await answer.outcome() == "approved"


async def test_an_answer_waits_for_the_replay_that_may_show_it(
    network: ScriptedNetwork, autojump_clock: MockClock
) -> None:
    async with opened(network) as (client, peer), trio.open_nursery() as nursery:
        arrived = Answering(nursery, lambda: client.answer("q_1", approve=True))
        other = Answering(nursery, lambda: client.answer("q_2", answer="x"))
        await peer.expect("answer")
        await peer.expect("answer")
        peer.close(1006)
        again = await network.accept()
        again.hello("exact", replayed=2)
        await wait_all_tasks_blocked()
        assert "answer" not in [frame["type"] for frame in again.received]
        answered(again, "approved")
        again.event("partial_result", {"run_id": "run_1", "content": "x"})
        assert await arrived.outcome() == "approved"
        # Only the one that the replay has not shown.
        frame = await again.expect("answer")
        assert frame["payload"]["question_id"] == "q_2"
        payload = {"run_id": "run_1", "question_id": "q_2", "outcome": "answered", "answer": "x"}
        again.event("agent_answered", payload)
        assert await other.outcome() == "answered"


@pytest.mark.parametrize("given", [{}, {"answer": "x", "approve": True}, {"answer": None}])
async def test_either_an_answer_or_an_approval(
    network: ScriptedNetwork, autojump_clock: MockClock, given: dict[str, Any]
) -> None:
    async with opened(network) as (client, _):
        with pytest.raises(ValueError, match="either an answer or approve"):
            await client.answer("q_1", **given)


async def test_the_size_of_an_answer(network: ScriptedNetwork, autojump_clock: MockClock) -> None:
    limit = LIMITS["max_message_size"]
    async with opened(network) as (client, peer), trio.open_nursery() as nursery:
        Answering(nursery, lambda: client.answer("q_1", answer=""))
        empty = len(orjson.dumps(await peer.expect("answer")))
        Answering(nursery, lambda: client.answer("q_1", answer="x" * (limit - empty)))
        assert len(orjson.dumps(await peer.expect("answer"))) == limit
        with pytest.raises(MessageRefused) as refused:
            await client.answer("q_2", answer="x" * (limit - empty + 1))
        assert refused.value.code == "MESSAGE_TOO_LARGE"
        with pytest.raises(TypeError):
            await client.answer("q_2", answer=object())
        nursery.cancel_scope.cancel()


async def test_a_cancelled_answer_is_not_sent_again(
    network: ScriptedNetwork, autojump_clock: MockClock
) -> None:
    async with opened(network) as (client, peer):
        with trio.move_on_after(1):
            await client.answer("q_1", approve=True)
        await peer.expect("answer")
        peer.close(1006)
        again = await network.accept()
        again.hello("exact")
        await wait_all_tasks_blocked()
        assert "answer" not in [frame["type"] for frame in again.received]
    with pytest.raises(ClientClosed):
        await client.answer("q_1", approve=True)


# --- with a server

AGENT = """
from netra_trio.errors import ToolDenied


async def ask(run):
    colour = await run.ask("Which colour?", {"enum": ["red", "blue"]})
    try:
        async with run.tool("paint", approve=True, colour=colour) as tool:
            tool.result = "painted"
    except ToolDenied:
        return "not painted"
    return colour
"""


async def test_a_conversation_with_questions(tmp_path: Any) -> None:
    write_agents(tmp_path, AGENT)
    with serving(tmp_path, "--agent=outside_agents:ask", JWT_SECRET_KEY="") as server:
        async with client_of(server) as client, client_of(server) as other:
            run = await client.send("paint it")
            outcomes: list[str] = []
            async for event in run:
                if event.type == "agent_asking" and event.payload["kind"] == "question":
                    with pytest.raises(MessageRefused, match="red"):
                        await client.answer(event.payload["question_id"], answer="green")
                    closed = await client.answer(event.payload["question_id"], answer="blue")
                    assert closed.payload["answer"] == "blue"
                elif event.type == "agent_asking":
                    assert event.payload["arguments"] == {"colour": "blue"}
                    # By another session of the user; a second answer is rejected.
                    closed = await other.answer(event.payload["question_id"], approve=True)
                    assert closed.payload["outcome"] == "approved"
                    with pytest.raises(MessageRefused, match="closed: approved"):
                        await client.answer(event.payload["question_id"], approve=False)
                elif event.type == "agent_answered":
                    outcomes.append(event.payload["outcome"])
            assert outcomes == ["answered", "approved"]
            assert await run.result() == "blue"


def client_of(server: Server) -> Any:
    return connect(server.url, token=server.token)
