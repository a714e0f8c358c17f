"""Fixtures of the tests of `SqlStore`."""

from collections.abc import AsyncIterator

import pytest

from netra_trio.stores.sql import write_behind
from netra_trio.stores.sql.store import SqlStore


@pytest.fixture
def short_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry soon after a failure: no test here depends on the time."""
    monkeypatch.setattr(write_behind, "RETRY_SECONDS", 0.2)


@pytest.fixture
async def store(url: str) -> AsyncIterator[SqlStore]:
    """Open an empty store."""
    opened = SqlStore(url)
    async with opened.open():
        yield opened
