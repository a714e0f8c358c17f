"""Servers that the tests of this folder hurt."""

from collections.abc import Iterator

import pytest
from support.valkey import Server, server


@pytest.fixture(params=["valkey", "redis"])
def own_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Return a server of this test alone, of each kind in turn."""
    with server(request.param) as running:
        yield running
