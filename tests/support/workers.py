"""The distribution of tests among workers: by module, because the tests of a module share servers.

    pytest --numprocesses 3

Modules keep their usual order: modules that wait for other processes are near the start, and many
short ones at the end, so that all workers end at about the same time.
"""

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

SEPARATE = (
    "e2e/test_chat_line.py",
    "e2e/test_client_line.py",
    "e2e/test_client_outbox.py",
    "e2e/test_crash.py",
    "e2e/test_identity_provider.py",
    "e2e/test_outage.py",
    "e2e/test_serve.py",
    "harness/test_every_checkpoint.py",
)
"""Modules of long tests that share no server: each test is given to any free worker."""

LAST = (
    "e2e/test_outage.py::test_a_server_stops_without_its_database",
    "e2e/test_serve.py::test_it_exits_within_ten_seconds_in_the_worst_case",
)
"""Tests that check how long a server takes: they run last, so that they run beside each other."""


def is_last(nodeid: str) -> bool:
    """Return whether a test runs after all others, separated from its module."""
    return nodeid.partition("[")[0].endswith(LAST)


class ModuleScheduling(LoadScopeScheduling):  # type: ignore[misc]  # the package has no types
    """Gives a worker a whole module, or a single test of the modules in `SEPARATE`."""

    def __init__(self, config: pytest.Config, log: Any) -> None:
        config.option.loadscopereorder = False  # keep the order of the modules
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        return nodeid if module.endswith(SEPARATE) or is_last(nodeid) else module
