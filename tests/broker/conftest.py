"""The worlds and backends of the contract suites: in memory, on Valkey, and on Redis."""

from collections.abc import AsyncIterator, Iterator

import pytest
import trio
from support.valkey import Server, server
from support.worlds import World

from netra_trio.broker.base import Backend
from netra_trio.broker.memory import MemoryBackend, MemoryServer
from netra_trio.broker.valkey.backend import ValkeyBackend
from netra_trio.ids import new_node_id


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Server]:
    """Return the Redis server of all tests that don't hurt theirs; those run `server()`."""
    with server("redis") as running:
        yield running


@pytest.fixture(params=["memory", "valkey", "redis"])
async def backends(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Backend, Backend]]:
    """Return two nodes' backends on each server in turn; those in memory in virtual time."""
    nodes = (new_node_id(), new_node_id())
    one: Backend
    two: Backend
    if request.param == "memory":
        request.getfixturevalue("autojump_clock")
        server = MemoryServer()
        one, two = (MemoryBackend(node, server) for node in nodes)
    else:
        running = request.getfixturevalue(f"{request.param}_server")
        running.command("FLUSHALL")
        one, two = (ValkeyBackend(node, running.url) for node in nodes)
    async with one.open(), two.open():
        yield one, two


@pytest.fixture(params=["memory", "valkey", "redis"])
def world(request: pytest.FixtureRequest, nursery: trio.Nursery) -> World:
    """Return nodes on each broker in turn."""
    kind = request.param
    running = None if kind == "memory" else request.getfixturevalue(f"{kind}_server")
    return World(running or MemoryServer(), nursery)
