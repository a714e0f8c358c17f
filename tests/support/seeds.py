"""Scripts that a seed determines, in virtual time.

world = in_virtual_time(partial(run_script, seed))
raise SystemExit(run_seeds(violations_of))
"""

import logging
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import structlog
import trio
from trio.testing import MockClock

T = TypeVar("T")


def in_virtual_time(script: Callable[[], Awaitable[T]]) -> T:
    """Run a script on a clock that jumps to the next deadline; return its result."""
    return trio.run(script, clock=MockClock(autojump_threshold=0))


def run_seeds(violations_of: Callable[[int], Sequence[str]]) -> int:
    """Run the seeds A:B of the command line; return how many have failed, at most 100."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    low, _, high = sys.argv[-1].partition(":")
    failed = 0
    for seed in range(int(low), int(high)):
        violations = violations_of(seed)
        if violations:
            failed += 1
            sys.stdout.write(f"seed {seed}: {violations}\n")
    sys.stdout.write(f"{int(high) - int(low)} seeds, {failed} failed\n")
    return min(failed, 100)
