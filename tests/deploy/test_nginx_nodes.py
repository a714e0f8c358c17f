"""Two nodes behind a real nginx, with `deploy/nginx-nodes.conf`: balance, drain, loss, return."""

import signal
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import orjson
import pytest
import trio
from support.nginx import CONFIGURATION, NAME, NODES_CONFIGURATION, Nginx, nginx
from support.ports import HOST, kept_port
from support.postgres import postgres_server
from support.server import PATIENCE, Frame, Server, bearer, serving, write_agents

from netra_trio.client import Network, OpeningRefused, Socket, SocketClosed

ORIGIN = "https://chat.example.com"
UNLIMITED = {"burst=100 nodelay": "burst=10000 nodelay"}
OPENINGS = 6  # while a node is away: more than there are nodes
AGENTS = """
import trio


async def echo(run):
    await run.emit(run.content)


async def wait(run):
    await run.emit("waiting")
    await trio.sleep_forever()
"""
NAMES = [f"--agent=outside_agents:{name}" for name in ("echo", "wait")]
SETTINGS = {
    "ENVIRONMENT": "production",
    "WEBSOCKET_ALLOWED_ORIGINS": ORIGIN,
    "AUTH_AUTO_PROVISION": "true",
    "WEBSOCKET_DRAIN_TIMEOUT": "6000",
}
WAIT = '{"type": "user_message", "payload": {"content": "x", "agent": "wait"}}'


class Cluster:
    """Two nodes with one database, on ports that they keep, and nginx in front of them.

    Args:
        folder: An empty folder.
        settings: The settings of both nodes.
        stack: Ends everything.
    """

    def __init__(self, folder: Path, settings: Mapping[str, str], stack: ExitStack) -> None:
        write_agents(folder, AGENTS)
        self._folder = folder
        self._settings = settings
        self._stack = stack
        self._ports = [stack.enter_context(kept_port()) for _ in range(2)]
        self.nodes = [self.start(number) for number in range(2)]
        (folder / "nginx").mkdir()
        addresses = [f"{HOST}:{port}" for port in self._ports]
        self.proxy = stack.enter_context(nginx(folder / "nginx", *addresses, changes=UNLIMITED))

    def start(self, number: int) -> Server:
        """Start a node on its port."""
        port = str(self._ports[number])
        node = serving(self._folder, *NAMES, port=port, **self._settings)
        return self._stack.enter_context(node)


@contextmanager
def running(folder: Path, database: str, **settings: str) -> Iterator[Cluster]:
    """Run a cluster."""
    with ExitStack() as stack:
        all_settings = {**SETTINGS, "DATABASE_URL": database, **settings}
        yield Cluster(folder, all_settings, stack)


@pytest.fixture
def cluster(tmp_path: Path, database_url: str) -> Iterator[Cluster]:
    """Return a cluster whose nodes a test may end."""
    with running(tmp_path, database_url) as cluster:
        yield cluster


@asynccontextmanager
async def opened(proxy: Nginx, user: str) -> AsyncIterator[Socket]:
    """Open a WebSocket through nginx and wait until it is established."""
    headers = dict([bearer(user), ("Origin", ORIGIN)])
    url = f"wss://{NAME}:{proxy.port}/ws"
    with trio.fail_after(PATIENCE):
        async with Network(tls=proxy.tls).open(
            url, headers=headers, subprotocols=("netra.v1",)
        ) as socket:
            await until(socket, "connection_established")
            yield socket


async def until(socket: Socket, kind: str) -> Frame:
    """Return the next frame of this type."""
    while True:
        frame: Frame = orjson.loads(await socket.receive())
        if frame["type"] == kind:
            return frame


def openings(node: Server, prefix: str) -> list[str]:
    """Return the users with this prefix that opened a connection at a node, in their order."""
    lines = node.process.logs("connection_opened")
    return [line["user_id"] for line in lines if line["user_id"].startswith(prefix)]


def ticket_status(proxy: Nginx, user: str) -> int:
    """Return the status of the answer to a request for a ticket, through nginx."""
    answer = proxy.http("POST", "/ws/ticket", [bearer(user), ("Origin", ORIGIN)])
    return answer.status_code


async def open_one_by_one(proxy: Nginx, prefix: str, stack: AsyncExitStack) -> list[Socket]:
    """Open connections of different users, and leave them open."""
    return [
        await stack.enter_async_context(opened(proxy, f"{prefix}{number}"))
        for number in range(OPENINGS)
    ]


def test_both_configurations_agree_on_everything_else() -> None:
    one, several = CONFIGURATION.read_text(), NODES_CONFIGURATION.read_text()
    start, end = "    server {\n        listen 80;", "        proxy_next_upstream"
    assert (
        one[one.index("user www-data") : one.index("    upstream")]
        == (several[several.index("user www-data") : several.index("    # Any node")])
    )
    one_server = one[one.index(start) : one.index(end)]
    assert several[several.index(start) :].startswith(one_server)
    sockets = one[one.index("            proxy_set_header Host") : one.index("        # Metrics")]
    assert sockets in several
    metrics = one[one.index("        # Metrics") : one.index("        # The chat page")]
    assert metrics in several


async def test_connections_are_spread_and_a_restarted_node_gets_the_next(cluster: Cluster) -> None:
    proxy, (first, second) = cluster.proxy, cluster.nodes
    async with AsyncExitStack() as stack:
        await open_one_by_one(proxy, "spread", stack)
        counts = [len(openings(node, "spread")) for node in (first, second)]
        assert counts == [OPENINGS // 2] * 2
        await trio.to_thread.run_sync(first.process.end)
        restarted = await trio.to_thread.run_sync(cluster.start, 0)
        # Nginx may have noticed that the node was away; it tries again after fail_timeout.
        with trio.fail_after(PATIENCE):
            number = 0
            while not openings(restarted, "again"):
                number += 1
                await stack.enter_async_context(opened(proxy, f"again{number}"))
        before = len(openings(second, "again"))
        await stack.enter_async_context(opened(proxy, "last"))
        assert openings(restarted, "last") == ["last"]
        assert len(openings(second, "again")) == before


async def test_a_draining_node_gets_no_client_and_none_is_refused(cluster: Cluster) -> None:
    proxy, (first, second) = cluster.proxy, cluster.nodes
    async with AsyncExitStack() as stack:
        working = await stack.enter_async_context(opened(proxy, "working"))
        await working.send(WAIT)
        await until(working, "partial_result")
        draining, other = (first, second) if openings(first, "working") else (second, first)
        draining.process.send_signal(signal.SIGTERM)
        await until(working, "server_draining")

        def ask(path: str) -> tuple[int, int]:
            return draining.http("GET", path).status_code, proxy.http("GET", path).status_code

        assert await trio.to_thread.run_sync(ask, "/ws/health") == (503, 200)
        # A liveness probe that asks this path does not kill a node that drains.
        assert await trio.to_thread.run_sync(ask, "/ws/config") == (200, 200)
        refused = await trio.to_thread.run_sync(draining.upgrade, "", bearer("direct"))
        refused.refuses(503, "SERVER_DRAINING")
        await open_one_by_one(proxy, "during", stack)
        assert len(openings(other, "during")) == OPENINGS
        for number in range(OPENINGS):
            status = await trio.to_thread.run_sync(ticket_status, proxy, f"ticket{number}")
            assert status == 200
        assert draining.process.running, "all of that was during the drain"
        with pytest.raises(SocketClosed) as closed:
            await until(working, "nothing")
        assert closed.value.code == 1012
        assert await trio.to_thread.run_sync(draining.process.wait) == 0
        await open_one_by_one(proxy, "after", stack)
        assert len(openings(other, "after")) == OPENINGS


async def test_a_killed_node_is_skipped(cluster: Cluster) -> None:
    proxy, (first, second) = cluster.proxy, cluster.nodes
    async with AsyncExitStack() as stack:
        sockets = await open_one_by_one(proxy, "before", stack)
        gone = openings(first, "before")
        first.process.send_signal(signal.SIGKILL)
        for number, socket in enumerate(sockets):
            if f"before{number}" in gone:
                with pytest.raises(SocketClosed) as closed:
                    await until(socket, "nothing")
                assert closed.value.code == 1006
        await open_one_by_one(proxy, "after", stack)
        assert len(openings(second, "after")) == OPENINGS
        for path in ("/ws/health", "/ws/config", "/"):
            answer = await trio.to_thread.run_sync(proxy.http, "GET", path)
            assert answer.status_code == 200
        for number in range(OPENINGS):
            status = await trio.to_thread.run_sync(ticket_status, proxy, f"ticket{number}")
            assert status == 200


async def test_nodes_that_refuse_sockets_still_answer_the_rest(
    tmp_path: Path, database_url: str
) -> None:
    """The first refusal comes through with its reason; later ones may be those of nginx."""
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
