"""Watchers of one thread on three nodes: what they show is what was said, or they know of a gap."""

import logging

import pytest
from support.watching_nodes import simulate


@pytest.mark.parametrize("faulty", [False, True])
@pytest.mark.parametrize("seed", range(2))
def test_what_watchers_show_is_what_was_said(
    seed: int, *, faulty: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    assert simulate(seed, faulty=faulty) == []
