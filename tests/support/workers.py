"""How tests are shared out among workers: a module at a time, as its tests share their servers.

    pytest --numprocesses 3

Modules come in their usual order, which has those that wait for other processes near the start and
many short ones at the end, so that all workers end at about the same time.
"""

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

APART = (
    "e2e/test_chat_line.py",
    "e2e/test_client_line.py",
    "e2e/test_client_outbox.py",
    "e2e/test_crash.py",
    "e2e/test_identity_provider.py",
    "e2e/test_outage.py",
    "e2e/test_serve.py",
    "harness/test_every_checkpoint.py",
)
"""Modules of long tests that share nothing: each test goes to whoever is free."""

LAST = (
    "e2e/test_outage.py::test_a_server_ends_without_its_database",
    "e2e/test_serve.py::test_it_exits_within_ten_seconds_in_the_worst_case",
)
"""Tests that wait for seconds, then hold a server to them: beside others that do the same."""


def is_last(nodeid: str) -> bool:
    """Return whether a test comes after all others, apart from its module."""
    return nodeid.partition("[")[0].endswith(LAST)


class Sharing(LoadScopeScheduling):  # type: ignore[misc]  # the package has no types
    """Gives a module to a worker, or a test of those that stand apart."""

    def __init__(self, config: pytest.Config, log: Any) -> None:
        config.option.loadscopereorder = False  # not the longest modules first, by number of tests
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        return nodeid if module.endswith(APART) or is_last(nodeid) else module
