"""The actions of an administrator, at one node and at two."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import trio
from attrs import frozen
from support.live import ADMIN, LivePage
from support.memory import Client, Server, kinds, open_server
from support.shared_nodes import open_nodes
from support.stores import ScriptedStore
from trio.testing import MockClock

from netra_trio import Run, agent
from netra_trio.errors import NotStorable
from netra_trio.ids import UserId
from netra_trio.node.admin_actions import DRAIN_DELAY_SECONDS
from netra_trio.protocol.admin import AdminAction
from netra_trio.protocol.codes import EndReason
from netra_trio.protocol.problem import Refused

QUIET: dict[str, Any] = {"heartbeat_interval_ms": 300_000}
STOP, END = AdminAction.STOP_RUN, AdminAction.END_SESSION
DISABLE, DRAIN = AdminAction.DISABLE_USER, AdminAction.DRAIN_NODE


async def sleeps(_: Run) -> None:
    await trio.sleep_forever()


@frozen
class World:
    """A node that is asked, and one with a client; the same one, or two.

    Attributes:
        asked: The node that is asked.
        owner: The node of the client.
        client: A client of alice, with a run at work.
        run_id: Its run.
    """

    asked: Server
    owner: Server
    client: Client
    run_id: str

    @property
    def session_id(self) -> str:
        session_id: str = self.client.hello["payload"]["session_id"]
        return session_id

    @property
    def owner_id(self) -> str:
        return id_of(self.owner)

    async def perform(self, action: AdminAction, target: str) -> list[str]:
        return [*await self.asked.node.admin.actions.perform(action, target)]

    async def code(self, action: AdminAction, target: str) -> tuple[str, int]:
        with pytest.raises(Refused) as caught:
            await self.perform(action, target)
        return str(caught.value.problem.code), caught.value.problem.status


def id_of(server: Server) -> str:
    cluster = server.node.cluster
    return server.node.services.store.owner if cluster is None else cluster.node


@asynccontextmanager
async def world(nodes: int, **options: Any) -> AsyncIterator[World]:
    """Open one or two nodes, and a client with a run at the last one."""
    options = {"agents": {"agent": sleeps}, **QUIET, **options}
    async with AsyncExitStack() as stack:
        servers: list[Server] = []
        if nodes == 1:
            servers.append(await stack.enter_async_context(open_server(**options)))
        else:
            servers.extend(await stack.enter_async_context(open_nodes(nodes, **options)))
        client = await stack.enter_async_context(servers[-1].connect(acknowledging=True))
        await client.say("hello", "k")
        run_id = (await client.until("agent_started"))[-1]["payload"]["run_id"]
        yield World(servers[0], servers[-1], client, run_id)


both = pytest.mark.parametrize("nodes", [1, 2])


@both
async def test_a_run_is_stopped(nodes: int, autojump_clock: MockClock) -> None:
    async with world(nodes) as it:
        assert await it.perform(STOP, it.run_id) == [it.owner_id]
        ended = await it.client.expect("agent_completed")
        assert ended["payload"]["status"] == "cancelled"
        assert await it.code(STOP, it.run_id) == ("RUN_NOT_FOUND", 404)


async def test_a_run_of_a_node_that_has_just_started(autojump_clock: MockClock) -> None:
    async with world(2) as it:
        assert it.asked.node.cluster is not None
        it.asked.node.cluster.membership.peers = {}
        assert await it.perform(STOP, it.run_id) == [it.owner_id]


async def stubborn(_: Run) -> None:
    with trio.CancelScope(shield=True):
        await trio.sleep(1)


@both
async def test_a_run_that_ends_already_may_be_stopped_again(
    nodes: int, autojump_clock: MockClock
) -> None:
    async with world(nodes, agents={"agent": stubborn}) as it:
        for _ in range(2):
            assert await it.perform(STOP, it.run_id) == [it.owner_id]


@both
async def test_a_session_ends_with_its_runs_and_its_connection(
    nodes: int, autojump_clock: MockClock
) -> None:
    agents = {"agent": agent(sleeps, unattended="continue")}
    async with world(nodes, agents=agents) as it:
        assert await it.perform(END, it.session_id) == [it.owner_id]
        frames, code = await it.client.rest()
        assert kinds(frames) == ["agent_completed"]
        assert frames[0]["payload"]["status"] == "cancelled"
        assert code == 1000
        await it.client.done.wait()
        assert it.client.ended is EndReason.SESSION_ENDED
        assert it.owner.node.statistics()["sessions"] == 0
        assert await it.code(END, it.session_id) == ("BAD_REQUEST", 404)
        async with it.owner.connect(acknowledging=True, session_id=it.session_id) as client:
            assert client.hello["payload"]["resume"]["verdict"] == "reset"


@both
async def test_a_session_without_a_connection_ends(nodes: int, autojump_clock: MockClock) -> None:
    async with world(nodes) as it:
        it.client.peer.close()
        await it.client.done.wait()
        assert it.owner.node.statistics()["detached"] == 1
        assert await it.perform(END, it.session_id) == [it.owner_id]
        await trio.sleep(1)
        assert it.owner.node.statistics()["sessions"] == 0


async def test_a_connection_does_not_stay_for_a_run_that_does_not_end(
    autojump_clock: MockClock,
) -> None:
    async def never_ends(_: Run) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(60)

    async with world(1, agents={"agent": never_ends}) as it:
        started = trio.current_time()
        await it.perform(END, it.session_id)
        _, code = await it.client.rest()
        assert code == 1000
        assert trio.current_time() - started < 4


@both
async def test_a_user_is_disabled(nodes: int, autojump_clock: MockClock) -> None:
    async with world(nodes) as it:
        assert await it.perform(DISABLE, "alice") == [it.owner_id]
        frames, code = await it.client.rest()
        assert frames[-1]["payload"]["code"] == "USER_DISABLED"
        assert code == 4403
        user = await it.asked.node.services.store.get_user(UserId("alice"))
        assert user is not None
        assert not user.enabled
        await it.client.done.wait()
        assert await it.perform(DISABLE, "alice") == []  # is disabled already
        assert await it.code(DISABLE, "nobody") == ("USER_NOT_FOUND", 404)


@both
async def test_a_node_drains_after_the_answer(nodes: int, autojump_clock: MockClock) -> None:
    async with world(nodes, drain_timeout_ms=2000) as it:
        for _ in range(2):
            assert await it.perform(DRAIN, it.owner_id) == [it.owner_id]
            assert not it.owner.node.capacity.is_draining
        await trio.sleep(DRAIN_DELAY_SECONDS + 0.01)
        assert it.owner.node.capacity.is_draining
        assert it.asked.node.capacity.is_draining is (nodes == 1)
        assert await it.perform(DRAIN, it.owner_id) == [it.owner_id]
        _, code = await it.client.rest()
        assert code == 1012
        assert await it.code(DRAIN, "nowhere") == ("BAD_REQUEST", 404)


@both
async def test_unknown_targets_are_not_found(nodes: int, autojump_clock: MockClock) -> None:
    async with world(nodes) as it:
        assert await it.code(STOP, "run_0") == ("RUN_NOT_FOUND", 404)
        assert await it.code(END, "sess_0") == ("BAD_REQUEST", 404)
        assert await it.code(DRAIN, "node_0") == ("BAD_REQUEST", 404)
        assert await it.client.sync() == []


@pytest.mark.parametrize("action", [STOP, END])
async def test_a_node_that_does_not_answer_may_have_the_target(
    action: AdminAction, autojump_clock: MockClock
) -> None:
    async with open_nodes(2, **QUIET) as (one, two):
        two.link.is_cut = True
        with pytest.raises(Refused) as caught:
            await one.node.admin.actions.perform(action, "x")
        assert str(caught.value.problem.code) == "SERVICE_UNAVAILABLE"


async def test_a_node_that_does_not_answer_does_not_drain(autojump_clock: MockClock) -> None:
    async with open_nodes(2, **QUIET) as (one, two):
        two.link.is_cut = True
        with pytest.raises(Refused) as caught:
            await one.node.admin.actions.perform(DRAIN, two.id)
        assert str(caught.value.problem.code) == "SERVICE_UNAVAILABLE"


async def test_a_user_is_disabled_also_while_a_node_does_not_answer(
    autojump_clock: MockClock,
) -> None:
    async with open_nodes(2, **QUIET) as (one, two), two.connect() as client:
        two.link.lost.add("answer")
        assert await one.node.admin.actions.perform(DISABLE, "alice") == []
        _, code = await client.rest()
        assert code == 4403


async def test_an_id_that_cannot_be_stored_is_no_user(autojump_clock: MockClock) -> None:
    class Strict(ScriptedStore):
        """Refuses what a database refuses."""

        async def set_user_enabled(self, user_id: UserId, *, enabled: bool) -> bool:
            if not is_encodable(user_id):
                raise NotStorable("UnicodeEncodeError")
            return await super().set_user_enabled(user_id, enabled=enabled)

    async with world(1, store=Strict()) as it:
        assert await it.code(DISABLE, "a\ud800") == ("USER_NOT_FOUND", 404)
        assert await it.perform(DISABLE, "alice") == [it.owner_id]


def is_encodable(text: str) -> bool:
    return text.encode(errors="ignore").decode() == text


async def test_a_user_is_not_disabled_without_the_store(autojump_clock: MockClock) -> None:
    class Down(ScriptedStore):
        async def set_user_enabled(self, user_id: UserId, *, enabled: bool) -> bool:
            await self._wait_or_fail()
            return await super().set_user_enabled(user_id, enabled=enabled)

    store = Down()
    async with open_server(store=store, **QUIET) as server, server.connect() as client:
        store.is_down = True
        with pytest.raises(Refused) as caught:
            await server.node.admin.actions.perform(DISABLE, "alice")
        assert str(caught.value.problem.code) == "SERVICE_UNAVAILABLE"
        assert await client.sync() == []


async def test_the_live_page_shows_the_effect(autojump_clock: MockClock) -> None:
    async with world(2) as it, it.asked.connect("bob", permissions=ADMIN) as watcher:
        page = await LivePage.join(watcher)
        await page.until(lambda: page.run(it.run_id))
        await it.perform(END, it.session_id)
        await page.until(lambda: page.session(it.session_id) is None or None)
        assert page.run(it.run_id) is None
        await it.perform(DRAIN, it.owner_id)
        await page.until(lambda: any(part["draining"] for part in page.parts.values()))
