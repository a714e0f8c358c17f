"""Tests without coverage, which takes twice the time of a test: those marked as `unmeasured`.

They run many random cases, or one case at every step, over lines that other tests run too:

    @pytest.mark.unmeasured
    def test_any_sequence_of_frames_is_answered() -> None: ...

Their threads, and the processes that they start, are measured.
"""

import sys
from collections.abc import Generator

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Pause coverage during a test that is marked; a debugger goes on."""
    tracer = sys.gettrace()
    measures = type(tracer).__module__.startswith("coverage")
    if not measures or item.get_closest_marker("unmeasured") is None:
        return (yield)
    sys.settrace(None)
    try:
        return (yield)
    finally:
        sys.settrace(tracer)
