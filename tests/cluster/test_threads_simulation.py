"""One thread on three nodes: never two runs at once, in order, and no run waits for ever."""

import logging

import pytest
from support.thread_nodes import simulate

pytestmark = pytest.mark.unmeasured


@pytest.mark.parametrize("seed", range(10))
def test_the_runs_of_a_thread_are_in_order_on_three_nodes(
    seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    world = simulate(seed, faulty=False)
    assert not world.violations, (seed, world.violations)
    assert sum(message.status == "completed" for message in world.messages.values()) > 5


@pytest.mark.parametrize("seed", range(25))
def test_a_thread_recovers_from_faults_of_nodes_and_server(
    seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    world = simulate(seed, faulty=True)
    assert not world.violations, (seed, world.violations)
