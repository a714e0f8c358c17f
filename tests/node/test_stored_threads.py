"""Threads on two nodes with a database: SQLite and PostgreSQL."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from support.devices import call, converse, devices, history, threads
from support.memory import Client, Frame, Server, open_server

from netra_trio.agents.run import Run
from netra_trio.broker.memory import MemoryBackend, MemoryServer
from netra_trio.ids import ThreadId, UserId
from netra_trio.protocol.rooms import thread_room
from netra_trio.stores.base import Store
from netra_trio.stores.sql.store import SqlStore

Stores = Callable[[], tuple[Store, Store]]


@pytest.fixture(params=["sqlite", "postgresql"])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Stores:
    """Return what makes the stores of two nodes on the same data."""
    url = (
        f"sqlite:///{tmp_path / 'store.db'}"
        if request.param == "sqlite"
        else str(request.getfixturevalue("database_url"))
    )
    return lambda: (SqlStore(url), SqlStore(url))


async def agent(run: Run) -> Any:
    """Do the steps in the message."""
    await run.think("Hm.")
    await run.emit(f"about {run.content}")
    if run.content == "title":
        await run.set_title("By the agent")
    if run.content == "work":
        await trio.sleep(60)
    if run.content == "ask":
        return await run.ask("Which one?")
    async with run.tool("look up", word=run.content) as tool:
        tool.result = [run.content]
    return None


@asynccontextmanager
async def two_nodes(stores: Stores) -> AsyncIterator[Sequence[Server]]:
    """Open two nodes."""
    shared = MemoryServer()
    async with AsyncExitStack() as stack:
        servers = [
            await stack.enter_async_context(
                open_server(
                    agents={"agent": agent},
                    store=store,
                    backend=MemoryBackend(store.owner, shared),
                    users=(),
                    heartbeat_interval_ms=3_600_000,
                )
            )
            for store in stores()
        ]
        await until(lambda: all(_knows_others(server) for server in servers))
        yield servers


def _knows_others(server: Server) -> bool:
    assert server.node.cluster is not None
    return bool(server.node.cluster.membership.peers)


def user_of(client: Client) -> UserId:
    return UserId(client.hello["payload"]["user_id"])


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds, in real time."""
    with trio.fail_after(10):
        while not condition():  # noqa: ASYNC110 - there is no event
            await trio.sleep(0.01)


async def told(client: Client, **expected: Any) -> Frame:
    """Return the next change with these values; those before it are dropped."""
    with trio.fail_after(10):
        while True:
            frame = await client.next()
            changed: Frame = frame["payload"]
            seen = {**changed, **changed.get("thread", {})}
            if frame["type"] == "thread_changed" and expected.items() <= seen.items():
                return changed


Scenario = Callable[[Sequence[Server], Client, Client], Awaitable[None]]


async def list_and_search(_: Sequence[Server], one: Client, two: Client) -> None:
    await converse(one, "Lisbon")
    await told(two, runs_active=0)
    await converse(two, "bread", thread_id="food")
    await told(one, thread_id="food", runs_active=0)
    for client in (one, two):
        await client.sync()
        listed = await threads(client)
        assert [each["thread_id"] for each in listed] == ["food", "t"]
        assert listed[1]["room"] == thread_room(user_of(client), ThreadId("t"))
        assert [each["title"] for each in listed] == ["bread", "Lisbon"]
        assert [each["unread"] for each in listed] == [1, 1]
        assert [each["title"] for each in await threads(client, query="LISB")] == ["Lisbon"]
        assert [each["title"] for each in await threads(client, limit=1)] == ["bread"]
        assert [each["title"] for each in await threads(client, before="food")] == ["Lisbon"]
        await trio.sleep(0.3)  # 10 requests a second


async def change(_: Sequence[Server], one: Client, two: Client) -> None:
    await converse(one, "title")
    seen = (await told(two, change="renamed"))["thread"]
    assert seen["title"] == "By the agent"
    if seen["runs_active"]:  # otherwise both changes were sent as one
        await told(two, runs_active=0)
    renamed = await call(two, "rename_thread", {"thread_id": "t", "title": "Mine"})
    assert await told(one, change="renamed", title="Mine") == renamed
    await one.say("title", "again", thread_id="t")
    await one.until("agent_completed")
    assert (await told(two, runs_active=0, unread=2))["thread"]["title"] == "Mine"
    messages = await history(two)
    rated = {"message_id": messages[1]["message_id"], "rating": "down", "comment": "no"}
    reply = await call(two, "feedback", rated)
    assert await told(one, change="updated") == reply
    assert (await history(one))[1]["feedback"] == {"rating": "down", "comment": "no"}
    mark = {"thread_id": "t", "message_id": messages[1]["message_id"]}
    reply = await call(two, "mark_read", mark)
    assert await told(one, unread=1) == reply


async def steps_in_order(_: Sequence[Server], one: Client, two: Client) -> None:
    for content in ("a", "b", "c"):
        await one.say(content, content, thread_id="t")
    for _number in range(3):
        await one.until("agent_completed")
    await told(two, runs_active=0, unread=3)
    messages = await history(two)
    assert [each["content"] for each in messages] == [
        "a", "about a", "b", "about b", "c", "about c",
    ]  # fmt: skip
    for question, answer in zip(messages[::2], messages[1::2], strict=True):
        assert answer["reply_to"] == question["message_id"]
        assert answer["run"]["duration_ms"] >= 0
        thought, tool = answer["steps"]
        assert thought == {"type": "thought", "at": 0, "thought": "Hm."}
        assert (tool["at"], tool["tool_name"], tool["success"]) == (7, "look up", True)
        assert tool["result"] == [question["content"]]


async def branch(_: Sequence[Server], one: Client, two: Client) -> None:
    await converse(one, "a")
    old = await converse(one, "b")
    await told(two, runs_active=0, unread=2)
    new = await converse(two, "c", replaces=old["message_id"])
    messages = await history(two)
    assert [each["content"] for each in messages] == ["a", "about a", "c", "about c"]
    await two.say("c", "again", thread_id="t", replaces=messages[3]["message_id"])
    await two.until("agent_completed")
    await told(one, runs_active=0, unread=2)
    assert [each["content"] for each in await history(one)] == ["a", "about a", "c", "about c"]
    for key in (None, "k"):
        await one.say("d", key, thread_id="t", replaces="unknown")
        error = (await one.until("error"))[-1]["payload"]
        assert error["code"] == "VALIDATION_ERROR"
        assert error["error"].startswith("$.payload.replaces")
    await one.say("c", "c", thread_id="t", replaces=old["message_id"])
    confirmed = (await one.until("message_confirmed"))[-1]["payload"]
    assert (confirmed["status"], confirmed["run_id"]) == ("duplicate", new["run_id"])


async def edit_while_it_runs(_: Sequence[Server], one: Client, two: Client) -> None:
    await one.say("work", "work", thread_id="t")
    old = (await one.until("message_confirmed"))[-1]["payload"]
    await one.until("partial_result")
    await two.say("b", "b", thread_id="t", replaces=old["message_id"], on_busy="interrupt")
    assert (await one.until("agent_completed"))[-1]["payload"]["status"] == "cancelled"
    await two.until("agent_completed")
    await two.sync()
    assert [each["content"] for each in await history(two)] == ["b", "about b"]


async def delete(servers: Sequence[Server], one: Client, two: Client) -> None:
    await converse(one, "first")
    await one.say("work", "work", thread_id="t")
    await one.until("partial_result")
    await one.say("ask", "ask", thread_id="t")
    await one.until("message_confirmed")
    await told(two, runs_active=2)
    await two.sync()
    with trio.fail_after(4):
        reply = await call(two, "delete_thread", {"thread_id": "t"})
    assert reply == {"thread_id": "t", "change": "deleted"}
    await told(one, change="deleted")
    for client in (one, two):
        await client.sync()
        assert await threads(client) == []
        await client.say("first", "first", thread_id="t")
        assert (await client.until("error"))[-1]["payload"]["code"] == "THREAD_NOT_FOUND"
    for server in servers:
        assert await server.node.services.store.unfinished_runs(user_of(one)) == []
    await converse(one, "second")
    await told(two, title="second", unread=1)


async def refuse_what_no_database_can_store(_: Sequence[Server], one: Client, __: Client) -> None:
    """Send a zero character, which PostgreSQL does not store in a text."""
    await converse(one, "a")
    answer = (await history(one))[1]["message_id"]
    for kind, payload in (
        ("list_threads", {"query": "a\0b"}),
        ("rename_thread", {"thread_id": "t", "title": "a\0b"}),
        ("mark_read", {"thread_id": "t", "message_id": "\0"}),
        ("feedback", {"message_id": answer, "rating": "up", "comment": "a\0b"}),
        ("feedback", {"message_id": "\0", "rating": "up"}),
    ):
        reply = await call(one, kind, payload)
        assert reply.get("code", "VALIDATION_ERROR") == "VALIDATION_ERROR", reply
    await one.say("b", "b", thread_id="t", replaces="\0")
    assert (await one.until("error"))[-1]["payload"]["code"] == "VALIDATION_ERROR"


SCENARIOS: Sequence[Scenario] = (
    list_and_search,
    change,
    steps_in_order,
    branch,
    edit_while_it_runs,
    delete,
    refuse_what_no_database_can_store,
)


async def play(scenario: Scenario, servers: Sequence[Server]) -> None:
    """Play a scenario with a user of its own, who has a session on each node."""
    user = scenario.__name__
    await servers[0].node.services.store.create_user(UserId(user))
    async with (
        devices(servers[0], 1, user=user) as (one,),
        devices(servers[1], 1, user=user) as (two,),
    ):
        for client in (one, two):
            await threads(client)  # from now on, changes of the other node are received
        await scenario(servers, one, two)


async def test_threads_on_two_nodes(stores: Stores) -> None:
    async with two_nodes(stores) as servers, trio.open_nursery() as nursery:
        for scenario in SCENARIOS:
            nursery.start_soon(play, scenario, servers)
