"""Fixtures for the tests of the benchmark."""

from collections.abc import Iterator

import pytest
from support.unmeasured import unmeasured_processes


@pytest.fixture(autouse=True)
def _not_measured() -> Iterator[None]:
    """Run the measured servers without coverage: it takes a third of their time."""
    with unmeasured_processes():
        yield
