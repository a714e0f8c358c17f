"""The worlds of the contract suite: nodes on a broker in memory, on Valkey, and on Redis."""

from collections.abc import Iterator

import pytest
import trio
from support.valkey import Server, server
from support.worlds import World

from netra_trio.broker.memory import MemoryServer


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Server]:
    """Return the Redis server of all tests that don't hurt theirs; those run `server()`."""
    with server("redis") as running:
        yield running


@pytest.fixture(params=["memory", "valkey", "redis"])
def world(request: pytest.FixtureRequest, nursery: trio.Nursery) -> World:
    """Return nodes on each broker in turn."""
    kind = request.param
    running = None if kind == "memory" else request.getfixturevalue(f"{kind}_server")
    return World(running or MemoryServer(), nursery)
