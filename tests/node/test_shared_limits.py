"""The limits of a user over several nodes: connections and sessions."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs
from support.memory import Client, token
from support.shared_nodes import LinkedNode, open_nodes
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio.agents.run import Run
from netra_trio.broker.base import LEASE_SECONDS, Batch, SessionRecord
from netra_trio.broker.limits import USER_SECONDS
from netra_trio.broker.memory import MemoryServer
from netra_trio.endpoints.answer import Answer
from netra_trio.endpoints.entrance import Entrance
from netra_trio.endpoints.opening_rate import OpeningRate
from netra_trio.endpoints.request import Request
from netra_trio.endpoints.upgrade import serve_upgrade
from netra_trio.ids import NodeId, SessionId, ThreadId, UserId
from netra_trio.node.shared_limits import REPORT_SECONDS, RETRY_SECONDS, SharedLimits
from netra_trio.protocol.codes import ErrorCode
from netra_trio.transports.memory import memory_pair

ALICE = UserId("alice")


async def open_at(node: LinkedNode, user: str = "alice", **options: Any) -> Client:
    """Open a connection; what is reported behind has arrived when this returns."""
    client = node.start(user, **options)
    client.hello = await client.expect("connection_established")
    await trio.sleep(0.01)
    return client


async def refused_at(node: LinkedNode, **options: Any) -> ErrorCode:
    """Return the error of a connection that is refused."""
    client = node.start(**options)
    await client.done.wait()
    assert client.refused is not None
    assert not client.transport.accepted.is_set()
    return client.refused.problem.code


async def close(client: Client) -> None:
    client.peer.close()
    await client.done.wait()
    await trio.sleep(0.01)


async def expect_evicted(client: Client) -> None:
    frames, code = await client.rest()
    assert [frame["payload"]["code"] for frame in frames] == ["CONNECTION_LIMIT_EXCEEDED"]
    assert code == 4429


async def expect_open(*clients: Client) -> None:
    for client in clients:
        assert await client.sync() == []


def counted(server: MemoryServer) -> int:
    """Return how many connections of alice the server counts."""
    return len(server.limits.connections.get(ALICE, {}))


def session_of(client: Client) -> str:
    session_id: str = client.hello["payload"]["session_id"]
    return session_id


def is_known(node: LinkedNode, client: Client) -> bool:
    """Whether a node has the session of a client."""
    return node.node.sessions.get(SessionId(session_of(client))) is not None


# Connections.


async def test_the_oldest_connection_is_evicted_on_whichever_node(
    autojump_clock: MockClock,
) -> None:
    async with open_nodes(3, max_connections_per_user=3) as (one, two, three):
        clients = [await open_at(node) for node in (one, two, three)]
        await expect_open(*clients)
        newer = await open_at(two)
        await expect_evicted(clients[0])
        newest = await open_at(two)
        await expect_evicted(clients[1])
        await expect_open(clients[2], newer, newest)


async def test_a_connection_beyond_the_limit_is_rejected_on_each_node(
    autojump_clock: MockClock,
) -> None:
    server = MemoryServer()
    options: dict[str, Any] = {"max_connections_per_user": 2, "connection_limit_policy": "reject"}
    async with open_nodes(2, server=server, **options) as (one, two):
        first, second = await open_at(one), await open_at(two)
        for node in (one, two):
            assert await refused_at(node) is ErrorCode.CONNECTION_LIMIT_EXCEEDED
        await open_at(one, "bob")
        await expect_open(first, second)
        await close(first)
        await open_at(two)
        assert await refused_at(one) is ErrorCode.CONNECTION_LIMIT_EXCEEDED
        assert counted(server) == 2


async def test_openings_at_once_do_not_exceed_the_limit(autojump_clock: MockClock) -> None:
    options: dict[str, Any] = {"max_connections_per_user": 5, "connection_limit_policy": "reject"}
    async with open_nodes(2, **options) as nodes:
        clients = [nodes[number % 2].start() for number in range(20)]
        await wait_all_tasks_blocked()
        assert sum(client.refused is None for client in clients) == 5


async def test_a_resume_that_replaces_its_own_socket_is_not_one_more(
    autojump_clock: MockClock,
) -> None:
    server = MemoryServer()
    options: dict[str, Any] = {"max_connections_per_user": 2, "connection_limit_policy": "reject"}
    async with open_nodes(2, server=server, **options) as (one, two):
        first, other = await open_at(one), await open_at(two)
        again = await open_at(one, session_id=session_of(first))
        assert again.hello["payload"]["resume"]["verdict"] == "exact"
        await first.rest()
        await first.done.wait()
        await expect_open(other, again)
        await trio.sleep(0.01)
        assert counted(server) == 2
        assert await refused_at(two) is ErrorCode.CONNECTION_LIMIT_EXCEEDED


async def test_an_ending_connection_does_not_count(autojump_clock: MockClock) -> None:
    """It may take seconds to end, while its client is connecting to another node."""
    async with open_nodes(2, max_connections_per_user=2) as (one, two):
        stuck = one.start(buffer_bytes=1000)
        await stuck.send("ping", {"a": "x" * 900})
        await stuck.send("ping", {"a": "x" * 900})
        await wait_all_tasks_blocked()
        kept = await open_at(two)
        connection = next(iter(one.node._connections.values()))
        one.node.capacity.evict(connection)
        await trio.sleep(0.01)
        assert not stuck.done.is_set()
        await open_at(two)
        await expect_open(kept)


async def test_connections_of_a_killed_node_do_not_count(autojump_clock: MockClock) -> None:
    options: dict[str, Any] = {"max_connections_per_user": 2, "connection_limit_policy": "reject"}
    async with open_nodes(2, **options) as (one, two):
        await open_at(one)
        await open_at(one)
        assert await refused_at(two) is ErrorCode.CONNECTION_LIMIT_EXCEEDED
        one.link.is_cut = True  # it is killed: its lease ends
        await trio.sleep(LEASE_SECONDS - 0.8)
        assert await refused_at(two) is ErrorCode.CONNECTION_LIMIT_EXCEEDED
        await trio.sleep(0.8)
        await open_at(two)
        await open_at(two)
        assert await refused_at(two) is ErrorCode.CONNECTION_LIMIT_EXCEEDED


async def test_a_node_without_its_own_lease_takes_no_node_for_gone(
    autojump_clock: MockClock,
) -> None:
    """The server has restarted empty, and not all nodes have renewed their leases."""
    server = MemoryServer()
    options: dict[str, Any] = {"max_connections_per_user": 1, "connection_limit_policy": "reject"}
    async with open_nodes(2, server=server, **options) as (one, two):
        await open_at(one)
        server.leases.clear()
        assert await refused_at(two) is ErrorCode.CONNECTION_LIMIT_EXCEEDED


async def test_a_refused_opening_evicts_no_connection(autojump_clock: MockClock) -> None:
    """The session of the resume has another wire format, which is found after the limit."""
    server = MemoryServer()
    async with open_nodes(2, server=server, max_connections_per_user=2) as (one, two):
        remote, local = await open_at(one), await open_at(two)
        detached = await open_at(two)  # evicts `remote`
        await expect_evicted(remote)
        await close(detached)
        remote = await open_at(one)
        for _ in range(3):
            session = session_of(detached)
            code = await refused_at(two, session_id=session, acknowledging=True)
            assert code is ErrorCode.BAD_REQUEST
            await trio.sleep(0.01)
            assert counted(server) == 2
        await expect_open(remote, local)
        # Now the one at the other node is the oldest.
        await close(local)
        local = await open_at(two)
        code = await refused_at(two, session_id=session_of(detached), acknowledging=True)
        assert code is ErrorCode.BAD_REQUEST
        await trio.sleep(0.01)
        assert counted(server) == 2
        await expect_open(remote, local)


async def test_a_cancelled_opening_is_not_counted(autojump_clock: MockClock) -> None:
    """At each of its waits; the server counts it all the same, and is told a moment later."""
    server = MemoryServer()
    async with open_nodes(2, server=server, max_connections_per_user=1) as (one, two):
        await open_at(one)

        async def cancelled_at(call: str, number: int) -> bool:
            """Cancel an opening in this call; return whether it was made."""
            seen = 0

            async def on_call(name: str) -> None:
                nonlocal seen
                seen += name == call
                if seen == number:
                    client.scope.cancel()

            client = two.start()
            two.link.on_call = on_call
            await client.done.wait()
            two.link.on_call = None
            await trio.sleep(0.01)
            return seen >= number

        assert await cancelled_at("open_connection", 1)
        assert counted(server) == 1
        assert await cancelled_at("nodes", 1)
        assert counted(server) == 1
        assert await cancelled_at("open_connection", 2)
        assert counted(server) <= 1
        assert two.node.statistics()["connections"] == 0


async def test_everything_is_reported_again(autojump_clock: MockClock) -> None:
    server = MemoryServer()
    async with open_nodes(2, server=server, max_connections_per_user=2) as (one, two):
        clients = [await open_at(one, heartbeat) for heartbeat in ("alice", "alice")]
        server.limits.clear()
        assert REPORT_SECONDS < USER_SECONDS / 2
        one.node.connection_limit.report_all()  # type: ignore[attr-defined]
        await trio.sleep(0.01)
        assert counted(server) == 2
        assert len(server.limits.sessions[ALICE]) == 2
        await open_at(two)
        await expect_evicted(clients[0])


async def test_reports_are_repeated_after_some_minutes(autojump_clock: MockClock) -> None:
    server = MemoryServer()
    async with open_nodes(1, server=server, heartbeat_interval_ms=3_600_000) as (one,):
        await open_at(one)
        server.limits.clear()
        await trio.sleep(REPORT_SECONDS - 1)
        assert counted(server) == 0
        await trio.sleep(2)
        assert counted(server) == 1
        assert len(server.limits.sessions[ALICE]) == 1


# Openings.


async def open_upgrade(node: LinkedNode, rate: OpeningRate) -> int | None:
    """Open a connection by an upgrade, and close it; return the status if it is refused."""
    server, client = memory_pair()
    request = Request({"authorization": [f"Bearer {token()}"]}, {}, (), "127.0.0.1")
    answers: list[Answer | None] = []

    async def serve() -> None:
        answers.append(
            await serve_upgrade(Entrance(node.node, rate), request, "/ws", lambda _: server)
        )
        client.close(1006)

    node.nursery.start_soon(serve)
    await wait_all_tasks_blocked()
    client.close()
    await wait_all_tasks_blocked()
    [answer] = answers
    return None if answer is None else answer.status


async def test_the_rate_of_openings_holds_over_all_nodes(autojump_clock: MockClock) -> None:
    async with open_nodes(2, opening_rate=1) as nodes:
        burst = nodes[0].node.services.settings.opening_burst
        rates = [OpeningRate(1, burst) for _ in nodes]
        for number in range(burst):
            assert await open_upgrade(nodes[number % 2], rates[number % 2]) is None
        for node, rate in zip(nodes, rates, strict=True):
            assert await open_upgrade(node, rate) == 429
        # Without the broker a node counts its own, and asks again even if there is nothing to tell.
        await trio.sleep(0.1)
        nodes[0].link.is_cut = True
        assert await open_upgrade(nodes[0], rates[0]) is None
        await trio.sleep(10 * RETRY_SECONDS)
        nodes[0].link.is_cut = False
        await trio.sleep(RETRY_SECONDS + 0.1)
        assert nodes[0].node.connection_limit.is_counting  # type: ignore[attr-defined]


async def test_an_outage_that_an_opening_has_found_ends(autojump_clock: MockClock) -> None:
    async with open_nodes(1) as (one,):
        limits = one.node.connection_limit
        assert isinstance(limits, SharedLimits)
        await trio.sleep(1)
        one.link.is_cut = True
        assert await limits.take_opening(ALICE) is None
        await trio.sleep(10 * RETRY_SECONDS)
        assert not limits.is_counting
        one.link.is_cut = False
        await trio.sleep(RETRY_SECONDS + 0.1)
        assert await limits.take_opening(ALICE) == 0


# Without the broker.


async def test_a_node_counts_alone_while_the_broker_does_not_answer(
    autojump_clock: MockClock,
) -> None:
    server = MemoryServer()
    with capture_logs() as lines:
        async with open_nodes(2, server=server, max_connections_per_user=2) as (one, two):
            remote = await open_at(two)
            first = await open_at(one)
            one.link.is_cut = True
            second = await open_at(one)
            third = await open_at(one)
            await expect_evicted(first)
            await expect_open(remote, second, third)
            metrics = one.node.services.instruments.metrics
            assert metrics.broker_fallbacks["connections"] == 2
            # One opening has asked; the others do not wait for the broker.
            assert one.link.calls.count("open_connection") == 2
            one.link.is_cut = False
            await trio.sleep(RETRY_SECONDS + 0.1)
            assert counted(server) == 3
            await open_at(two)
            await expect_evicted(remote)
            await expect_evicted(second)
            await expect_open(third)
            assert counted(server) == 2
    names = [line["event"] for line in lines]
    assert names.count("limits_local") == names.count("limits_shared") == 1


async def test_the_limit_of_a_node_alone_may_reject(autojump_clock: MockClock) -> None:
    server = MemoryServer()
    options: dict[str, Any] = {"max_connections_per_user": 1, "connection_limit_policy": "reject"}
    async with open_nodes(1, server=server, **options) as (one,):
        first = await open_at(one)
        one.link.is_cut = True
        for _ in range(2):  # one that asks the broker, and one that does not
            assert await refused_at(one) is ErrorCode.CONNECTION_LIMIT_EXCEEDED
        await close(first)
        await open_at(one)
        one.link.is_cut = False
        await trio.sleep(RETRY_SECONDS + 0.1)
        assert counted(server) == 1


async def test_connections_that_the_server_never_saw_are_not_reported(
    autojump_clock: MockClock,
) -> None:
    """In a long outage, what is to be reported afterwards does not grow."""
    server = MemoryServer()
    async with open_nodes(1, server=server, resume_window_ms=0) as (one,):
        one.link.is_cut = True
        for _ in range(10):
            await close(await open_at(one))
        limits = one.node.connection_limit
        changes = limits._changes[ALICE]  # type: ignore[attr-defined]
        assert len(changes.closed_connections) <= 1  # of the opening that found the link cut
        assert len(changes.closed_sessions) <= 10
        one.link.is_cut = False
        await trio.sleep(RETRY_SECONDS + 0.1)
        assert limits._changes == {}  # type: ignore[attr-defined]
        assert counted(server) == 0
        assert server.limits.sessions == {}


async def test_a_lost_answer_leaves_no_connection_behind(autojump_clock: MockClock) -> None:
    """The server has counted the opening; the node has not heard of it."""
    server = MemoryServer()
    async with open_nodes(1, server=server, max_connections_per_user=2) as (one,):
        one.link.is_cut_behind = "open_connection"
        client = await open_at(one)
        assert counted(server) == 1
        await close(client)
        one.link.is_cut = False
        await trio.sleep(RETRY_SECONDS + 0.1)
        assert counted(server) == 0


# Sessions.


async def detached_at(node: LinkedNode) -> Client:
    """Open a session and leave it; the clock passes, so that their order is clear."""
    client = await open_at(node)
    await close(client)
    await trio.sleep(0.1)
    return client


async def test_the_session_detached_longest_ends_on_whichever_node(
    autojump_clock: MockClock,
) -> None:
    async with open_nodes(2, max_sessions_per_user=3) as (one, two):
        first, second = await detached_at(one), await detached_at(two)
        attached = await open_at(two)
        assert is_known(one, first)
        assert is_known(two, second)
        await open_at(two)
        assert not is_known(one, first)
        assert is_known(two, second)
        await open_at(one)
        assert not is_known(two, second)
        await open_at(one)  # attached sessions never end
        await expect_open(attached)
        assert two.node.statistics()["sessions"] + one.node.statistics()["sessions"] == 4


async def test_a_session_without_a_run_ends_first(autojump_clock: MockClock) -> None:
    may_end = trio.Event()

    async def work(run: Run) -> None:
        await may_end.wait()

    async with open_nodes(2, agents={"work": work}, max_sessions_per_user=3) as (one, two):
        busy = await open_at(one)
        await busy.say("go")
        await busy.until("agent_started")
        await close(busy)
        idle = await detached_at(two)
        other = await detached_at(two)
        await open_at(two)
        assert is_known(one, busy)
        assert not is_known(two, idle)
        may_end.set()  # an idle session is noticed within a second or two
        await trio.sleep(2.5)
        await open_at(two)
        assert not is_known(one, busy)
        assert is_known(two, other)


async def test_a_session_with_a_run_ends_if_there_is_no_other(autojump_clock: MockClock) -> None:
    cancelled = trio.Event()

    async def work(run: Run) -> None:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async with open_nodes(2, agents={"work": work}, max_sessions_per_user=1) as (one, two):
        busy = await open_at(one)
        await busy.say("go")
        await busy.until("agent_started")
        await close(busy)
        await open_at(two)
        await cancelled.wait()
        assert not is_known(one, busy)


async def test_a_session_that_was_attached_meanwhile_stays(autojump_clock: MockClock) -> None:
    """The other nodes have an old state of it, so its own node decides."""
    async with open_nodes(2, max_sessions_per_user=1) as (one, two):
        first = await detached_at(one)
        one.link.is_cut = True  # its report is late
        again = await open_at(one, session_id=session_of(first))
        await open_at(two)
        assert is_known(one, first)
        await expect_open(again)
        one.link.is_cut = False
        await trio.sleep(RETRY_SECONDS + 0.1)
        await expect_open(again)


async def test_an_ended_session_that_is_still_counted_is_removed(
    autojump_clock: MockClock,
) -> None:
    server = MemoryServer()
    async with open_nodes(2, server=server, max_sessions_per_user=2) as (one, two):
        first, second = await detached_at(one), await detached_at(one)
        session = one.node.sessions.get(SessionId(session_of(first)))
        assert session is not None
        one.node.sessions.watch = None  # its end is not reported
        one.node.sessions.close(session, "ended")
        one.node.sessions.watch = one.node.connection_limit  # type: ignore[assignment]
        await open_at(two)
        assert is_known(one, second)
        assert SessionId(session_of(first)) not in server.limits.sessions[ALICE]


def a_record(
    session_id: str, node: LinkedNode | NodeId | None, lease: NodeId | None = None
) -> SessionRecord:
    owner = node.id if isinstance(node, LinkedNode) else node
    thread = ThreadId("thread")
    return SessionRecord(
        SessionId(session_id), ALICE, owner, 3, True, False, thread, lease or owner or NodeId("x")
    )


async def put(node: LinkedNode, record: SessionRecord) -> None:
    """Put a session into the directory, as its owner does."""
    await node.memory.directory.append([Batch(record, None, 1, b"", 120.0)])


async def test_sessions_of_a_killed_node_count_until_the_directory_forgets_them(
    autojump_clock: MockClock,
) -> None:
    server = MemoryServer()
    async with open_nodes(2, server=server, max_sessions_per_user=3) as (one, two):
        kept, forgotten = await open_at(one), await open_at(one)
        await put(one, a_record(session_of(kept), one))
        await one.kill()
        server.sessions.pop(SessionId(session_of(forgotten)), None)
        mine = await detached_at(two)
        await open_at(two)  # the forgotten one does not count
        assert is_known(two, mine)
        assert set(server.limits.sessions[ALICE]) >= {session_of(kept)}
        assert session_of(forgotten) not in server.limits.sessions[ALICE]
        # The other one was attached when its node was killed, so it counts as detached just now.
        await open_at(two)
        assert not is_known(two, mine)
        await open_at(two)
        assert session_of(kept) not in server.limits.sessions[ALICE]
        assert SessionId(session_of(kept)) not in server.sessions


async def test_a_released_session_counts_as_detached(autojump_clock: MockClock) -> None:
    server = MemoryServer()
    async with open_nodes(2, server=server, max_sessions_per_user=1) as (one, two):
        client = await open_at(one, acknowledging=True)
        session = one.node.sessions.get(SessionId(session_of(client)))
        assert session is not None
        assert one.node.cluster is not None
        one.node.cluster.membership.start_draining()
        assert await one.node.cluster.give_to_any(session)
        await trio.sleep(0.1)
        assert set(server.limits.sessions[ALICE]) == {session.id}
        assert server.sessions[session.id].record.owner is None
        await open_at(two)
        await trio.sleep(0.1)
        assert session.id not in server.sessions
        assert session.id not in server.limits.sessions[ALICE]


async def test_a_session_that_moved_belongs_to_its_new_node(autojump_clock: MockClock) -> None:
    server = MemoryServer()
    async with open_nodes(2, server=server, max_sessions_per_user=2) as (one, two):
        client = await open_at(one, acknowledging=True)
        await trio.sleep(0.1)  # until it is copied
        again = await open_at(two, session_id=session_of(client), acknowledging=True)
        assert again.hello["payload"]["resume"]["verdict"] == "exact"
        await trio.sleep(0.1)
        [known] = server.limits.sessions[ALICE].values()
        assert known.node == two.id
        assert known.detached_at is None


# Connections of sessions at other nodes.


async def test_a_resume_at_another_node_is_not_one_more(autojump_clock: MockClock) -> None:
    """An idle session moves; its old socket does not count."""
    server = MemoryServer()
    options: dict[str, Any] = {
        "max_connections_per_user": 2,
        "connection_limit_policy": "reject",
    }
    async with open_nodes(2, server=server, **options) as (one, two):
        first = await open_at(one, acknowledging=True)
        other = await open_at(one)
        await trio.sleep(0.1)  # until it is copied
        again = await open_at(two, session_id=session_of(first), acknowledging=True)
        assert again.hello["payload"]["resume"]["verdict"] == "exact"
        assert (await first.rest())[1] == 4409
        await first.done.wait()
        await expect_open(other, again)
        assert await refused_at(one) is ErrorCode.CONNECTION_LIMIT_EXCEEDED
        assert counted(server) == 2


async def test_a_session_that_moves_while_other_nodes_are_asked(autojump_clock: MockClock) -> None:
    """The limit is asked for at the one node while another client takes the session away."""
    async with open_nodes(2) as (one, two):
        first = await open_at(one, acknowledging=True)
        session_id = session_of(first)
        await close(first)
        await trio.sleep(0.1)  # until it is copied
        others: list[Client] = []

        async def move(name: str) -> None:
            if name == "open_connection" and not others:
                others.append(two.start(session_id=session_id, acknowledging=True))
                await others[0].expect("connection_established")

        one.link.on_call = move
        newest = await open_at(one, session_id=session_id, acknowledging=True)
        assert newest.hello["payload"]["resume"]["verdict"] == "exact"
        assert (await others[0].rest())[1] == 4409
        await expect_open(newest)


@pytest.mark.parametrize("is_draining", [False, True])
async def test_a_session_that_ends_while_other_nodes_are_asked(
    autojump_clock: MockClock, is_draining: bool
) -> None:
    async with open_nodes(1) as (one,):
        first = await open_at(one)
        session = one.node.sessions.get(SessionId(session_of(first)))
        assert session is not None
        await close(first)

        async def end(name: str) -> None:
            if name == "open_connection" and not session.is_closing:
                one.node.capacity.is_draining = is_draining
                one.node.sessions.close(session, "window_passed")

        one.link.on_call = end
        if is_draining:
            assert await refused_at(one, session_id=session.id) is ErrorCode.SERVER_DRAINING
        else:
            again = await open_at(one, session_id=session.id)
            assert again.hello["payload"]["resume"]["reason"] == "unknown"
            await trio.sleep(0.1)
            assert counted(one.memory.server) == 1


@asynccontextmanager
async def relayed(
    **options: Any,
) -> AsyncIterator[tuple[MemoryServer, LinkedNode, LinkedNode, Client, Client]]:
    """Open a session with a run at the first node; yield its old client, and one at the second."""

    async def work(run: Run) -> None:
        await trio.sleep_forever()

    server = MemoryServer()
    async with open_nodes(2, server=server, agents={"work": work}, **options) as (one, two):
        first = await open_at(one, acknowledging=True)
        await first.say("go")
        await first.until("agent_started")
        again = await open_at(two, session_id=session_of(first), acknowledging=True, last_seq=2)
        assert again.hello["payload"]["resume"]["verdict"] == "exact"
        assert (await first.rest())[1] == 4409
        await first.done.wait()
        yield server, one, two, first, again


async def test_a_relayed_connection_counts_once(autojump_clock: MockClock) -> None:
    options: dict[str, Any] = {"max_connections_per_user": 2, "connection_limit_policy": "reject"}
    async with relayed(**options) as (server, one, two, _, again):
        assert one.node.statistics()["sessions"] == 1
        other = await open_at(one)
        assert await refused_at(two) is ErrorCode.CONNECTION_LIMIT_EXCEEDED
        assert counted(server) == 2
        await expect_open(other, again)
        await close(again)
        await trio.sleep(0.1)
        assert counted(server) == 1
        await open_at(two)


@pytest.mark.parametrize("evicting", [0, 1], ids=["by its owner", "by its edge"])
async def test_a_relayed_connection_is_evicted(autojump_clock: MockClock, evicting: int) -> None:
    async with relayed(max_connections_per_user=1) as (server, one, two, _, again):
        newer = await open_at((one, two)[evicting])
        await expect_evicted(again)
        await again.done.wait()
        await expect_open(newer)
        assert counted(server) == 1
        assert one.node.statistics()["sessions"] + two.node.statistics()["sessions"] == 2


async def test_a_relayed_connection_may_be_rejected(autojump_clock: MockClock) -> None:
    options: dict[str, Any] = {"max_connections_per_user": 1, "connection_limit_policy": "reject"}
    async with relayed(**options) as (server, one, two, _, again):
        session_id = session_of(again)
        await close(again)
        await trio.sleep(0.1)
        other = await open_at(one)
        code = await refused_at(two, session_id=session_id, acknowledging=True, last_seq=2)
        assert code is ErrorCode.CONNECTION_LIMIT_EXCEEDED
        await trio.sleep(0.1)
        assert counted(server) == 1
        await close(other)
        await open_at(two, session_id=session_id, acknowledging=True, last_seq=2)


async def test_an_eviction_that_comes_too_late_has_no_effect(autojump_clock: MockClock) -> None:
    async with open_nodes(1) as (one,):
        kept = await open_at(one)
        limits = one.node.connection_limit
        assert isinstance(limits, SharedLimits)
        await limits.on_evict(one.id, {"user": "alice", "connection": "gone"}, b"")
        await limits.on_evict_relayed(one.id, {"session": "gone"}, b"")
        await limits.on_recount(one.id, {"user": "nobody"}, b"")
        await limits.on_end_session(one.id, {"user": "alice", "session": session_of(kept)}, b"")
        await expect_open(kept)


async def test_a_session_that_another_node_has_just_taken_is_left_alone(
    autojump_clock: MockClock,
) -> None:
    server = MemoryServer()
    async with open_nodes(3, server=server, max_sessions_per_user=1) as (one, two, three):
        client = await open_at(one)
        await put(one, a_record(session_of(client), one))
        await one.kill()
        directory = three.memory.directory
        assert await directory.take(SessionId(session_of(client)), owner=one.id, epoch=3)
        await open_at(two)
        assert server.sessions[SessionId(session_of(client))].record.owner == three.id


async def test_a_session_that_ends_at_once_is_not_reported(autojump_clock: MockClock) -> None:
    server = MemoryServer()
    async with open_nodes(1, server=server) as (one,):
        client = one.start()
        client.scope.cancel()  # before its first frame was sent
        await client.done.wait()
        await trio.sleep(0.1)
        assert server.limits.sessions == {}
        client = await open_at(one)
        session = one.node.sessions.get(SessionId(session_of(client)))
        assert session is not None
        limits = one.node.connection_limit
        assert isinstance(limits, SharedLimits)
        limits.added(session)
        one.node.sessions.close(session, "ended")
        assert limits._changes[ALICE].claimed_sessions == set()
        await trio.sleep(0.1)


async def test_a_taken_over_session_belongs_to_its_new_node(autojump_clock: MockClock) -> None:
    server = MemoryServer()
    async with open_nodes(2, server=server) as (one, two):
        client = await open_at(one)
        session = one.node.sessions.get(SessionId(session_of(client)))
        assert session is not None
        two.node.connection_limit.added(session)  # type: ignore[attr-defined]
        two.node.sessions._all[session.id] = session
        await trio.sleep(0.01)
        assert server.limits.sessions[ALICE][session.id].node == two.id
        one.node.sessions._note_changed(session)
        await trio.sleep(0.01)
        await close(client)
        one.node.sessions.close(session, "ended")
        await trio.sleep(0.01)
        assert server.limits.sessions[ALICE][session.id].node == two.id
        del two.node.sessions._all[session.id]


async def test_a_node_alone_applies_the_limit_of_sessions(autojump_clock: MockClock) -> None:
    async with open_nodes(2, max_sessions_per_user=2) as (one, two):
        first = await detached_at(one)
        remote = await detached_at(two)
        one.link.is_cut = True
        await open_at(one)  # finds the link cut; beyond the limit of all nodes, not of this one
        await trio.sleep(0.1)
        assert is_known(one, first)
        await open_at(one)
        assert not is_known(one, first)
        metrics = one.node.services.instruments.metrics
        assert metrics.broker_fallbacks["sessions"] >= 1
        assert is_known(two, remote)
        one.link.is_cut = False
        await trio.sleep(RETRY_SECONDS + 0.1)
        assert not is_known(two, remote)


@pytest.mark.parametrize("call", ["nodes", "find", "take", "drop"])
async def test_the_limit_of_sessions_is_applied_after_an_outage(
    autojump_clock: MockClock, call: str
) -> None:
    """The link is cut at each call that ends a session of a killed node."""
    server = MemoryServer()
    async with open_nodes(2, server=server, max_sessions_per_user=1) as (one, two):
        client = await open_at(one)
        await put(one, a_record(session_of(client), one))
        await one.kill()

        async def cut(name: str) -> None:
            two.link.is_cut = name == call

        two.link.on_call = cut
        await open_at(two)
        await trio.sleep(0.1)
        two.link.on_call = None
        two.link.is_cut = False
        await trio.sleep(2 * RETRY_SECONDS + 0.1)
        left = server.sessions.get(SessionId(session_of(client)))
        # After the loss of its answer the session is this node's, and ends with its time.
        assert left is None or (call == "drop" and left.record.owner == two.id)
