"""The connection limits of a user and of the server, and how slots become free."""

import trio
from support.memory import Client, Server, as_kind, kinds, open_server
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio.agents.run import Run
from netra_trio.connections.connection import CLOSE_WAIT
from netra_trio.ids import UserId
from netra_trio.protocol.codes import EndReason, ErrorCode
from netra_trio.transports.memory import MemoryTransport

LIMIT = 5  # connections of a user, the default


async def open_connection(server: Server, user: str = "alice") -> Client:
    """Open a connection."""
    client = server.start(user)
    client.hello = await client.expect("connection_established")
    return client


async def expect_refusal(server: Server, user: str = "alice") -> ErrorCode:
    """Start a connection that is refused; return the error code."""
    client = server.start(user)
    await client.done.wait()
    assert client.refused is not None
    problem = client.refused.problem
    assert problem.retry_after_ms is not None
    assert problem.recoverable
    assert not client.transport.accepted.is_set()
    return problem.code


# The limit of a user: the oldest connection is evicted.


async def test_no_connection_is_evicted_at_the_limit(autojump_clock: MockClock) -> None:
    async with open_server() as server:
        clients = [await open_connection(server) for _ in range(LIMIT)]
        for client in clients:
            assert await client.sync() == []


async def test_the_oldest_connection_is_evicted_beyond_the_limit(autojump_clock: MockClock) -> None:
    async with open_server() as server:
        clients = [await open_connection(server) for _ in range(LIMIT + 2)]
        for evicted in clients[:2]:
            frames, code = await evicted.rest()
            assert [frame["payload"]["code"] for frame in frames] == ["CONNECTION_LIMIT_EXCEEDED"]
            assert frames[0]["payload"]["recoverable"] is False
            assert code == 4429
            await evicted.done.wait()
            assert evicted.ended is EndReason.EVICTED
        for client in clients[2:]:
            assert await client.sync() == []
        assert server.node.statistics()["connections"] == LIMIT


async def test_each_user_has_a_separate_limit(autojump_clock: MockClock) -> None:
    async with open_server(max_connections_per_user=1) as server:
        alice, bob = await open_connection(server), await open_connection(server, "bob")
        assert await alice.sync() == await bob.sync() == []


async def test_a_slot_is_free_after_each_kind_of_end(autojump_clock: MockClock) -> None:
    async with open_server(max_connections_per_user=2) as server:
        kept = await open_connection(server)
        for end in ("close", "cut", "cancel"):
            client = await open_connection(server)
            getattr(client.scope if end == "cancel" else client.peer, end)()
            await client.done.wait()
        await open_connection(server)
        assert await kept.sync() == []


async def test_an_evicted_peer_that_does_not_read_uses_no_slot_of_its_user(
    autojump_clock: MockClock,
) -> None:
    async with open_server(max_connections_per_user=1, max_connections=2) as server:
        stuck = server.start(buffer_bytes=1000)
        await stuck.send("ping", {"a": "x" * 900})
        await stuck.send("ping", {"a": "x" * 900})
        await wait_all_tasks_blocked()
        newer = await open_connection(server)
        assert trio.current_time() == 0
        newest = await open_unless_full(server)
        assert newest is None  # the slot of the server is used until the connection has ended
        await stuck.done.wait()
        assert trio.current_time() == 5.0
        assert stuck.ended is EndReason.EVICTED
        assert await newer.sync() == []
        await open_connection(server)


async def open_unless_full(server: Server) -> Client | None:
    """Open a connection of another user; return None if the server is full."""
    client = server.start("bob")
    await wait_all_tasks_blocked()
    return None if client.refused is not None else client


async def test_an_evicted_peer_that_does_not_reply_is_dropped(autojump_clock: MockClock) -> None:
    async with open_server(max_connections_per_user=1) as server:
        silent = await open_connection(server)
        await open_connection(server)
        await silent.done.wait()
        assert trio.current_time() == CLOSE_WAIT


async def test_a_run_of_an_evicted_session_is_cancelled(autojump_clock: MockClock) -> None:
    cancelled = trio.Event()

    async def wait(run: Run) -> None:
        try:
            await run.emit("…")
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async with open_server(agents={"wait": wait}, max_connections_per_user=1) as server:
        client = await open_connection(server)
        await client.say("go")
        await client.until("partial_result")
        await open_connection(server)
        await client.rest()
        await cancelled.wait()
        await client.done.wait()
        await wait_all_tasks_blocked()
        assert server.node.statistics()["sessions"] == 1


# The limit of a user: the new connection is refused.


async def test_a_new_connection_is_refused_with_the_policy_reject(
    autojump_clock: MockClock,
) -> None:
    async with open_server(connection_limit_policy="reject") as server:
        clients = [await open_connection(server) for _ in range(LIMIT)]
        assert await expect_refusal(server) is ErrorCode.CONNECTION_LIMIT_EXCEEDED
        for client in clients:
            assert await client.sync() == []
        clients[0].peer.close()
        await clients[0].done.wait()
        await open_connection(server)
        assert await expect_refusal(server) is ErrorCode.CONNECTION_LIMIT_EXCEEDED


# The limit of the server.


async def test_a_full_server_refuses_connections(autojump_clock: MockClock) -> None:
    async with open_server(max_connections=2) as server:
        await open_connection(server)
        bob = await open_connection(server, "bob")
        assert await expect_refusal(server, "carol") is ErrorCode.SERVER_FULL
        bob.peer.close()
        await bob.done.wait()
        await open_connection(server, "carol")
        assert await expect_refusal(server, "bob") is ErrorCode.SERVER_FULL


async def test_a_slot_is_used_from_the_first_check(autojump_clock: MockClock) -> None:
    async with open_server(max_connections=1) as server:
        with server.node.capacity.connection_slot():
            assert server.node.statistics()["slots"] == 1
            assert await expect_refusal(server) is ErrorCode.SERVER_FULL
        assert server.node.statistics()["slots"] == 0
        await open_connection(server)


async def test_a_refused_connection_leaves_no_state(autojump_clock: MockClock) -> None:
    async with open_server(connection_limit_policy="reject", max_connections_per_user=1) as server:
        await open_connection(server)
        before = server.node.statistics()
        for _ in range(10):
            await expect_refusal(server)
        assert server.node.statistics() == before


async def test_an_upgrade_that_is_cancelled_leaves_no_state(autojump_clock: MockClock) -> None:
    class Slow(MemoryTransport):
        async def accept(self) -> None:
            await trio.sleep_forever()

    async with open_server() as server:
        client = server.start(wrap=as_kind(Slow))
        await wait_all_tasks_blocked()
        assert server.node.statistics() == {
            "slots": 1,
            "connections": 1,
            "sessions": 1,
            "detached": 0,
            "users": 1,
        }
        client.scope.cancel()
        await client.done.wait()
        await wait_all_tasks_blocked()
        assert server.node.statistics() == {
            "slots": 0,
            "connections": 0,
            "sessions": 0,
            "detached": 0,
            "users": 1,
        }
        assert server.node._users.get(UserId("alice"), 0).connections == []


# State of users.


async def test_idle_users_are_removed(
    autojump_clock: MockClock,
) -> None:
    async with open_server(resume_window_ms=0) as server:
        for number in range(100):
            client = await open_connection(server, f"user{number}")
            client.peer.close()
            await client.done.wait()
        assert server.node.statistics()["users"] <= 2


async def test_the_message_rate_is_kept_over_a_reconnect(autojump_clock: MockClock) -> None:
    async with open_server(max_message_rate=1, burst_queue=0) as server:
        async with server.connect() as client:
            await client.say("one")
            await client.until("agent_completed")
        async with server.connect() as client:
            await client.say("two")
            assert (await client.error())["code"] == "RATE_LIMIT_EXCEEDED"
            await client.send("pong")
            await trio.sleep(60)
            await client.sync()
            await client.say("three")
            assert kinds(await client.until("agent_completed"))[0] == "message_confirmed"


# Closing the node.


async def test_closing_the_node_ends_its_connections(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        async with open_server() as server:
            server.nursery = nursery  # this nursery is not cancelled
            client = await open_connection(server)
        await client.rest()
        await client.done.wait()
        assert client.ended is EndReason.ABORTED
        late = server.start()
        await late.done.wait()
        assert late.refused is not None
        assert late.refused.problem.code is ErrorCode.SERVER_DRAINING
        assert server.node.statistics()["connections"] == server.node.statistics()["slots"] == 0
