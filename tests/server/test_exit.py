"""The end of a server that waits for nothing: it says why if it can, and goes in any case."""

import threading
import time

import pytest
from structlog.testing import capture_logs

from netra_trio.server import exit as exits


@pytest.fixture
def codes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the exit codes that the process would have ended with."""
    asked: list[int] = []
    monkeypatch.setattr("os._exit", asked.append)
    return asked


def test_the_last_words_are_said(codes: list[int]) -> None:
    with capture_logs() as logs:
        exits.exit_now(1, "second signal: ended at once")
    assert codes == [1]
    assert [(line["event"], line["code"]) for line in logs] == [("exit", 1)]


def test_an_output_that_nobody_reads_holds_up_no_end(
    codes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = threading.Event()
    monkeypatch.setattr(exits, "flush", read.wait)
    started = time.monotonic()
    exits.exit_now(0, "tasks did not end in time")
    assert codes == [0]
    assert time.monotonic() - started < 10 * exits.FINAL_LOG_SECONDS
    read.set()


def test_an_end_in_time_needs_no_last_resort(codes: list[int]) -> None:
    timer = exits.exit_later(0.05)
    timer.cancel()
    timer.join()
    assert codes == []


def test_the_last_resort_ends_what_does_not_end(codes: list[int]) -> None:
    exits.exit_later(0.0).join()
    assert codes == [0]
