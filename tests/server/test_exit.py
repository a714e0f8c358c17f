"""A forced exit: it logs its reason if it can, and never waits for its output."""

import threading

import pytest
from structlog.testing import capture_logs
from support.server import PATIENCE

from netra_trio.server import exit as exits


@pytest.fixture
def codes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the exit codes that the process would have ended with."""
    asked: list[int] = []
    monkeypatch.setattr("os._exit", asked.append)
    return asked


def test_a_forced_exit_logs_its_reason(codes: list[int]) -> None:
    with capture_logs() as logs:
        exits.exit_now(1, "second signal: ended at once")
    assert codes == [1]
    assert [(line["event"], line["code"]) for line in logs] == [("exit", 1)]


def test_an_unread_output_does_not_delay_the_exit(
    codes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    read, written = threading.Event(), threading.Event()

    def flush() -> None:
        read.wait(PATIENCE)
        written.set()

    monkeypatch.setattr(exits, "flush", flush)
    exits.exit_now(0, "tasks did not end in time")
    assert codes == [0]
    assert not written.is_set()
    read.set()


def test_a_cancelled_timer_does_not_exit(codes: list[int]) -> None:
    timer = exits.exit_later(3600)
    timer.cancel()
    timer.join()
    assert codes == []


def test_the_timer_exits_with_code_0(codes: list[int]) -> None:
    exits.exit_later(0.0).join()
    assert codes == [0]
