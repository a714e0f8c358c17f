"""What tests of any folder share: a real database server, started when it is first asked for."""

from collections.abc import Iterator

import pytest
from support.postgres import PostgresServer, postgres_server


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
