"""Two nodes with one database, and a real nginx with `deploy/nginx-nodes.conf` in front of them.

with running(tmp_path, database_url) as cluster:
    async with opened(cluster.proxy, "alice") as socket:
        await until(socket, "heartbeat")
    cluster.nodes[0].process.end()
    cluster.start(0)
"""

import re
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import orjson
import trio

from netra_trio.client import Client, Network, Socket, connect
from support.nginx import AGENTS, NAME, NAMES, ORIGIN, UNLIMITED, Nginx, nginx
from support.ports import HOST, kept_port
from support.server import PATIENCE, Frame, Server, bearer, serving, sign, write_agents

SETTINGS = {
    "ENVIRONMENT": "production",
    "WEBSOCKET_ALLOWED_ORIGINS": ORIGIN,
    "AUTH_AUTO_PROVISION": "true",
    "METRICS_PUBLIC": "true",
    "WEBSOCKET_DRAIN_TIMEOUT": "6000",
    "WEBSOCKET_MAX_MESSAGE_RATE": "1000000",
}


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
        with ThreadPoolExecutor() as threads:  # a start takes seconds
            self.nodes = list(threads.map(self.start, range(2)))
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


@asynccontextmanager
async def client_of(proxy: Nginx, user: str = "alice") -> AsyncIterator[Client]:
    """Open this project's client through nginx."""
    with trio.fail_after(PATIENCE):
        async with connect(proxy.url, token=sign(user), dialer=Network(tls=proxy.tls)) as client:
            yield client


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


def opened_at(node: Server) -> int:
    """Return how many connections a node has accepted."""
    text = node.http("GET", "/metrics").text
    numbers = re.findall(r"^netra_connections_opened_total{.*} (\S+)$", text, re.MULTILINE)
    return sum(map(int, map(float, numbers)))
