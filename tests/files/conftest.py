"""Servers of this folder's tests."""

from collections.abc import Iterator

import pytest
from support.s3 import S3Server, running


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Return a server of S3 with an empty bucket."""
    with running(tmp_path_factory.mktemp("s3")) as server:
        yield server
