"""Fixtures for tests of any folder: real servers, each started when it is first requested.

Where several workers run the tests each has one of its own, as it has its own of all fixtures.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, settings
from support.postgres import PostgresServer, postgres_server
from support.unmeasured import pytest_runtest_protocol
from support.valkey import Server, server
from support.workers import ModuleScheduling, is_last

__all__ = ["pytest_runtest_protocol"]  # a hook

# Other workers take their part of the machine: how long an example takes says nothing. (In CI that
# is so anyway; the rest of that profile, or of the usual one, stays as it is.)
settings.register_profile(
    "beside others", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("beside others")

# By default an exception is logged with rich and all variables: seconds for one of a deep stack.
structlog.configure(
    processors=[
        *structlog.get_config()["processors"][:-1],
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
    ]
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Share the tests out among the workers, where there are some."""
    return ModuleScheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put last what has to be there in seconds: by then there is little else at work."""
    items.sort(key=lambda item: is_last(item.nodeid))


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """Return the server of all tests that don't hurt theirs; those run `postgres_server()`."""
    with postgres_server() as server:
        yield server


@pytest.fixture
def database_url(postgres: PostgresServer) -> Iterator[str]:
    """Return the url of a fresh, empty database."""
    url = postgres.create_database()
    yield url
    postgres.drop_database(url.rpartition("/")[2])


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[Server]:
    """Return the Valkey server of all tests that don't hurt theirs; those run `server()`."""
    with server("valkey") as running:
        yield running


@pytest.fixture
def valkey_url(valkey_server: Server) -> str:
    """Return the url of an empty Valkey server."""
    valkey_server.command("FLUSHALL")
    return valkey_server.url
