"""What the tests of the benchmark share."""

import os

import pytest


@pytest.fixture(autouse=True)
def _not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the measured servers without coverage: it takes a third of their time."""
    for name in os.environ:
        if name.startswith("COVERAGE_"):
            monkeypatch.delenv(name)
