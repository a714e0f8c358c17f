"""Watchers of one thread on three nodes: they show the texts of the agents, or have a gap."""

import logging

import pytest
from support.watching_nodes import simulate

pytestmark = pytest.mark.unmeasured


@pytest.mark.parametrize("faulty", [False, True])
@pytest.mark.parametrize("seed", range(2))
def test_watchers_show_the_text_of_the_agents(
    seed: int, *, faulty: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    assert simulate(seed, faulty=faulty) == []
