"""Users that are disabled lose their connections on every node, within two seconds."""

import pytest
import trio
from support.memory import open_server
from support.shared_nodes import open_nodes
from trio.testing import MockClock

from netra_trio.errors import StoreUnavailable
from netra_trio.ids import UserId
from netra_trio.node.user_watch import OPENING_SECONDS, POLL_SECONDS
from netra_trio.protocol.codes import EndReason

ALICE, BOB = UserId("alice"), UserId("bob")
SOON = 2.0  # seconds: what the contract permits


async def test_a_disabled_user_loses_all_connections(autojump_clock: MockClock) -> None:
    async with open_nodes(2) as (one, two):
        clients = [one.start(), two.start(), two.start()]
        bob = two.start("bob")
        for client in (*clients, bob):
            await client.expect("connection_established")
        await trio.sleep(10.3)
        begin = trio.current_time()
        assert await one.store.set_user_enabled(ALICE, enabled=False)
        for client in clients:
            frames, code = await client.rest()
            assert frames[-1]["payload"]["code"] == "USER_DISABLED"
            assert code == 4403
        assert trio.current_time() - begin <= POLL_SECONDS < SOON
        await bob.sync()
        # Without a connection the session is gone.
        assert one.node.statistics()["sessions"] == 0


async def test_a_user_that_is_enabled_again_keeps_the_connections(
    autojump_clock: MockClock,
) -> None:
    async with open_nodes(1) as (one,), one.connect() as client:
        for enabled in (False, True):
            await one.store.set_user_enabled(ALICE, enabled=enabled)
        await trio.sleep(SOON)
        await client.sync()


async def test_a_connection_that_was_being_opened_is_ended_too(autojump_clock: MockClock) -> None:
    """Its upgrade has seen the user enabled; it is open after the change was polled."""
    for late, is_ended in ((OPENING_SECONDS - 0.5, True), (OPENING_SECONDS + 1.5, False)):
        async with open_nodes(1) as (one,):
            await trio.sleep(0.5)
            await one.store.set_user_enabled(ALICE, enabled=False)
            await trio.sleep(late)
            client = one.start()
            await client.expect("connection_established")
            await trio.sleep(SOON)
            [connection] = one.node._connections.values()
            assert (connection.reason is EndReason.USER_DISABLED) is is_ended


@pytest.mark.parametrize("call", ["changed_users", "get_user"])
async def test_while_the_store_does_not_answer_it_is_asked_again(
    autojump_clock: MockClock, call: str
) -> None:
    async with open_nodes(1) as (one,):
        client = one.start()
        await client.expect("connection_established")
        asked = getattr(one.store, call)

        async def fail(*_: object) -> None:
            raise StoreUnavailable("down")

        setattr(one.store, call, fail)
        await one.store.set_user_enabled(ALICE, enabled=False)
        await trio.sleep(30)
        [connection] = one.node._connections.values()
        assert connection.reason is None
        setattr(one.store, call, asked)
        await trio.sleep(SOON)
        assert connection.reason is EndReason.USER_DISABLED


async def test_one_node_alone_polls_too(autojump_clock: MockClock) -> None:
    """A command of the operator changes the users of its database."""
    async with open_server() as server:
        client = server.start()
        await client.expect("connection_established")
        await server.node.services.store.set_user_enabled(ALICE, enabled=False)
        await trio.sleep(SOON)
        frames, code = await client.rest()
        assert (frames[-1]["payload"]["code"], code) == ("USER_DISABLED", 4403)
