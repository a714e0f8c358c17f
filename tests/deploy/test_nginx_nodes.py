"""Two nodes behind a real nginx, with `deploy/nginx-nodes.conf`: balance, drain, loss, return."""

import signal
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio
from support.nginx import CONFIGURATION, NODES_CONFIGURATION, ORIGIN, POLL_SECONDS, Nginx
from support.nginx_nodes import SETTINGS, Cluster, opened, opened_at, running, until
from support.postgres import postgres_server
from support.server import PATIENCE, bearer, serving

from netra_trio.client import OpeningRefused, Socket, SocketClosed

OPENINGS = 6  # while a node is away: more than there are nodes
WAIT = '{"type": "user_message", "payload": {"content": "x", "agent": "wait"}}'


@pytest.fixture
def cluster(tmp_path: Path, database_url: str) -> Iterator[Cluster]:
    """Return a cluster whose nodes a test may end."""
    with running(tmp_path, database_url) as cluster:
        yield cluster


def check_requests(proxy: Nginx, user: str) -> None:
    """Check that page, discovery, health and tickets are answered through nginx."""
    for path in ("/", "/ws/config", "/ws/health"):
        assert proxy.http("GET", path).status_code == 200
    answer = proxy.http("POST", "/ws/ticket", [bearer(user), ("Origin", ORIGIN)])
    assert answer.status_code == 200


async def open_one_by_one(proxy: Nginx, prefix: str, stack: AsyncExitStack) -> list[Socket]:
    """Open connections of different users, and leave them open."""
    return [
        await stack.enter_async_context(opened(proxy, f"{prefix}{number}"))
        for number in range(OPENINGS)
    ]


async def close_codes(sockets: Sequence[Socket], count: int) -> list[int | None]:
    """Return the close codes of the first `count` sockets that end."""
    codes: list[int | None] = []

    async def read(socket: Socket, scope: trio.CancelScope) -> None:
        with pytest.raises(SocketClosed) as closed:
            await until(socket, "nothing")
        codes.append(closed.value.code)
        if len(codes) == count:
            scope.cancel()

    async with trio.open_nursery() as nursery:
        for socket in sockets:
            nursery.start_soon(read, socket, nursery.cancel_scope)
    return codes


def test_both_configurations_agree_on_everything_else() -> None:
    one, several = CONFIGURATION.read_text(), NODES_CONFIGURATION.read_text()
    start, end = "    server {\n        listen 80;", "        proxy_next_upstream"
    assert (
        one[one.index("user www-data") : one.index("    upstream")]
        == (several[several.index("user www-data") : several.index("    # Any node")])
    )
    one_server = one[one.index(start) : one.index(end)]
    assert several[several.index(start) :].startswith(one_server)
    sockets = one[one.index("            proxy_set_header Host") : one.index("        # Files")]
    assert sockets in several
    files = one[one.index("        # Files") : one.index("        # Metrics")]
    assert files in several
    metrics = one[one.index("        # Metrics") : one.index("        # The chat page")]
    assert metrics in several


async def test_a_draining_node_gets_no_client_and_none_is_refused(cluster: Cluster) -> None:
    proxy, (first, second) = cluster.proxy, cluster.nodes
    async with AsyncExitStack() as stack:
        working = await stack.enter_async_context(opened(proxy, "working"))
        await working.send(WAIT)
        await until(working, "partial_result")
        draining, other = (first, second) if opened_at(first) else (second, first)
        draining.process.send_signal(signal.SIGTERM)
        await until(working, "server_draining")
        assert draining.http("GET", "/ws/health").status_code == 503
        # A liveness probe that asks this path does not kill a node that drains.
        assert draining.http("GET", "/ws/config").status_code == 200
        draining.upgrade("", bearer("direct")).refuses(503, "SERVER_DRAINING")
        await open_one_by_one(proxy, "during", stack)
        for number in range(OPENINGS):
            await trio.to_thread.run_sync(check_requests, proxy, f"ticket{number}")
        assert (opened_at(draining), opened_at(other)) == (1, OPENINGS)
        await trio.to_thread.run_sync(draining.process.wait)
        with pytest.raises(SocketClosed) as closed:
            await until(working, "nothing")
        assert closed.value.code == 1012
        await open_one_by_one(proxy, "after", stack)
        await trio.to_thread.run_sync(check_requests, proxy, "after")


async def test_connections_are_spread_and_a_killed_node_is_skipped(cluster: Cluster) -> None:
    proxy, (first, second) = cluster.proxy, cluster.nodes
    async with AsyncExitStack() as stack:
        sockets = await open_one_by_one(proxy, "before", stack)
        assert [opened_at(first), opened_at(second)] == [OPENINGS // 2] * 2
        first.process.send_signal(signal.SIGKILL)
        codes = await close_codes(sockets, OPENINGS // 2)
        assert codes == [1006] * (OPENINGS // 2)
        await open_one_by_one(proxy, "after", stack)
        assert opened_at(second) == OPENINGS // 2 + OPENINGS
        for number in range(OPENINGS):
            await trio.to_thread.run_sync(check_requests, proxy, f"ticket{number}")
        restarted = await trio.to_thread.run_sync(cluster.start, 0)
        # Nginx tries a node again after `fail_timeout`: then the one with the fewest connections
        # gets the next one.
        deadline = trio.current_time() + PATIENCE
        while opened_at(restarted) < 2 and trio.current_time() < deadline:
            async with opened(proxy, "again"):
                await trio.sleep(POLL_SECONDS)
        await stack.enter_async_context(opened(proxy, "last"))
        assert opened_at(restarted) == 3


async def test_nodes_that_refuse_sockets_still_answer_the_rest(
    tmp_path: Path, database_url: str
) -> None:
    """The first refusal comes through with its reason; then nginx skips both nodes (502)."""
    with running(tmp_path, database_url, WEBSOCKET_MAX_CONNECTIONS="1") as cluster:
        async with AsyncExitStack() as stack:
            for user in ("alice", "bob"):
                await stack.enter_async_context(opened(cluster.proxy, user))
            refusals = []
            for _ in range(OPENINGS):
                with pytest.raises(OpeningRefused) as caught:
                    await stack.enter_async_context(opened(cluster.proxy, "carol"))
                refusals.append(caught.value)
            assert (refusals[0].status, refusals[0].body["code"]) == (503, "SERVER_FULL")
            assert {refused.status for refused in refusals} <= {502, 503}
            for path in ("/ws/health", "/ws/config", "/"):
                answer = await trio.to_thread.run_sync(cluster.proxy.http, "GET", path)
                assert answer.status_code == 200


def test_no_probe_fails_without_the_database(tmp_path: Path) -> None:
    """A restart of a node, or taking it out, would not help against an outage of the database."""
    with postgres_server() as database:
        settings = {**SETTINGS, "DATABASE_URL": database.create_database()}
        with serving(tmp_path, **settings) as node:
            database.kill()
            health = node.http("GET", "/ws/health")
            assert (health.status_code, health.json()["status"]) == (200, "degraded")
            assert node.http("GET", "/ws/config").status_code == 200
