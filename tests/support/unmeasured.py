"""Tests without coverage, which takes twice the time of a test: those marked as `unmeasured`.

They run many random cases, one case at every step, or whole servers, over lines that other tests
run too:

    @pytest.mark.unmeasured
    def test_any_sequence_of_frames_is_answered() -> None: ...

Their threads are measured; the processes that they start are not.
"""

import os
import sys
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager

import pytest

INHERITED = frozenset({"COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START"})
"""The variables that make coverage begin in a process."""


def is_measured(environ: Mapping[str, str]) -> bool:
    """Whether coverage begins in a process with these variables: `COVERAGE_RUN` alone is none."""
    return not INHERITED.isdisjoint(environ)


@contextmanager
def unmeasured_processes() -> Iterator[None]:
    """Start processes without coverage in the block."""
    inherited = {name: value for name, value in os.environ.items() if name in INHERITED}
    for name in inherited:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(inherited)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Pause coverage during a test that is marked; a debugger goes on."""
    if item.get_closest_marker("unmeasured") is None:
        return (yield)
    tracer = sys.gettrace()
    measures = type(tracer).__module__.startswith("coverage")
    with unmeasured_processes():
        if measures:
            sys.settrace(None)
        try:
            return (yield)
        finally:
            if measures:
                sys.settrace(tracer)
