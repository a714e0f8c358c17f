"""Questions in the thread of another user: `may(user, room, "answer")` decides who may answer."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from attrs import define, field
from support.memory import Client, open_server
from support.shared_nodes import open_nodes
from trio.testing import MockClock

from netra_trio.agents.run import Run
from netra_trio.ids import ThreadId, UserId
from netra_trio.protocol.rooms import thread_room

ROOM = thread_room(UserId("alice"), ThreadId("main"))
QUIET: dict[str, Any] = {"heartbeat_interval_ms": 3_600_000}


async def ask(run: Run) -> Any:
    return await run.ask("Which color?", {"type": "string", "enum": ["red", "blue"]})


@define
class Permissions:
    """A function of an application, which may fail."""

    answer: bool = True
    fails: bool = False
    asked: list[tuple[str, str, str]] = field(factory=list)

    async def may(self, user: str, room: str, action: str) -> bool:
        await trio.lowlevel.checkpoint()
        self.asked.append((user, room, action))
        if self.fails:
            raise OSError("the database of the application is away")
        return self.answer


@asynccontextmanager
async def asking(permissions: Permissions, nodes: int) -> AsyncIterator[tuple[Client, Client, str]]:
    """Yield the client of alice, whose run has a question, the client of bob, and the question."""
    options: dict[str, Any] = {"agents": {"ask": ask}, "may": permissions.may, **QUIET}
    if nodes == 1:
        async with (
            open_server(**options) as server,
            server.connect("alice") as alice,
            server.connect("bob") as bob,
        ):
            yield alice, bob, await question_of(alice)
    else:
        async with (
            open_nodes(2, **options) as (one, two),
            one.connect("alice") as alice,
            two.connect("bob") as bob,
        ):
            yield alice, bob, await question_of(alice)


async def question_of(client: Client) -> str:
    await client.say("hello", "k", thread_id="main")
    frames = await client.until("agent_asking")
    return str(frames[-1]["payload"]["question_id"])


async def answer(client: Client, question_id: str, value: str) -> Any:
    await client.send("answer", {"question_id": question_id, "answer": value}, "a-1")
    with trio.fail_after(5):
        while True:
            frame = await client.next()
            if frame["type"] in {"agent_answered", "error"}:
                return frame


@pytest.mark.parametrize("nodes", [1, 2])
async def test_an_allowed_user_answers(autojump_clock: MockClock, nodes: int) -> None:
    permissions = Permissions()
    async with asking(permissions, nodes) as (alice, bob, question_id):
        closed = await answer(bob, question_id, "red")
        assert closed["type"] == "agent_answered"
        assert closed["payload"]["outcome"] == "answered"
        assert closed["payload"]["user_id"] == "bob"
        frames = await alice.until("agent_completed")
        assert frames[-1]["payload"]["result"] == "red"
        told = [frame for frame in frames if frame["type"] == "agent_answered"]
        assert [frame["payload"]["user_id"] for frame in told] == ["bob"]
        assert permissions.asked == [("bob", ROOM, "answer")]


@pytest.mark.parametrize("nodes", [1, 2])
async def test_the_first_answer_counts(autojump_clock: MockClock, nodes: int) -> None:
    async with asking(Permissions(), nodes) as (alice, bob, question_id):
        await answer(alice, question_id, "blue")
        late = await answer(bob, question_id, "red")
        assert late["payload"]["code"] == "ANSWER_REJECTED"


@pytest.mark.parametrize("nodes", [1, 2])
async def test_an_answer_that_does_not_fit_leaves_the_question_open(
    autojump_clock: MockClock, nodes: int
) -> None:
    async with asking(Permissions(), nodes) as (_, bob, question_id):
        wrong = await answer(bob, question_id, "green")
        assert wrong["payload"]["code"] == "ANSWER_REJECTED"
        assert (await answer(bob, question_id, "red"))["type"] == "agent_answered"


@pytest.mark.parametrize("nodes", [1, 2])
async def test_a_user_who_is_not_allowed_is_rejected_as_for_an_unknown_question(
    autojump_clock: MockClock, nodes: int
) -> None:
    async with asking(Permissions(answer=False), nodes) as (alice, bob, question_id):
        rejected = await answer(bob, question_id, "red")
        unknown = await answer(bob, "q_unknown", "red")
        assert rejected["payload"]["code"] == "ANSWER_REJECTED"
        for frame in (rejected, unknown):
            del frame["timestamp"], frame["payload"]["timestamp"]
        assert rejected == unknown
        assert (await answer(alice, question_id, "blue"))["type"] == "agent_answered"


async def test_without_a_function_only_the_user_answers(autojump_clock: MockClock) -> None:
    async with (
        open_server(agents={"ask": ask}, **QUIET) as server,
        server.connect("alice") as alice,
        server.connect("bob") as bob,
    ):
        question_id = await question_of(alice)
        rejected = await answer(bob, question_id, "red")
        assert rejected["payload"]["code"] == "ANSWER_REJECTED"


async def test_a_function_that_fails_is_a_temporary_error(autojump_clock: MockClock) -> None:
    permissions = Permissions(fails=True)
    async with asking(permissions, 1) as (_, bob, question_id):
        failed = await answer(bob, question_id, "red")
        assert failed["payload"]["code"] == "SERVICE_UNAVAILABLE"
        assert failed["payload"]["recoverable"] is True
        permissions.fails = False
        assert (await answer(bob, question_id, "red"))["type"] == "agent_answered"
