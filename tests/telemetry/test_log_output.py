"""The output of the log, with real pipes: it never blocks, and counts the lines that it drops."""

import fcntl
import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog

from netra_trio.telemetry import logs
from netra_trio.telemetry.log_output import (
    BATCH_LINES,
    BATCH_SECONDS,
    FLUSH_SECONDS,
    QUEUE_LINES,
    LogOutput,
    _Writer,
)

PATIENCE = 100.0  # seconds of real time for another thread or process: a bound, not a wait
LONG = "x" * 100_000  # more than a pipe holds


@contextmanager
def pipe() -> Iterator[tuple[io.TextIOWrapper, int]]:
    """Return a stream into a pipe, and the descriptor of the end to read from."""
    reader, writer = os.pipe()
    stream = io.TextIOWrapper(io.FileIO(writer, "w"), encoding="utf-8", write_through=True)
    with ExitStack() as stack:
        stack.callback(os.close, reader)
        stack.callback(stream.close)
        yield stream, reader


def wait_until(is_so: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def drained(reader: int, last: str) -> str:
    """Read a pipe until a text is in it; return all of it."""
    data = b""
    while last.encode() not in data:
        piece = os.read(reader, 65536)
        assert piece
        data += piece
    return data.decode()


class Gate:
    """Takes batches of lines, one each time that it is opened."""

    def __init__(self) -> None:
        self.batches: list[Sequence[Any]] = []
        self._open = threading.Semaphore(0)

    def __call__(self, lines: Sequence[Any]) -> None:
        self.batches.append(lines)
        assert self._open.acquire(timeout=PATIENCE)

    def open(self, batches: int = 1) -> None:
        self._open.release(batches)


def test_the_queue_at_its_bound_and_one_line_beyond() -> None:
    gate = Gate()
    writer = _Writer(gate)
    assert writer.put("first", at_once=True)
    wait_until(lambda: gate.batches)  # the thread is busy with it
    for number in range(QUEUE_LINES):
        assert writer.put(f"{number}", at_once=False)
    assert not writer.put("beyond", at_once=True)
    assert not writer.flush(0.01)
    gate.open(2)
    assert writer.flush(PATIENCE)
    assert gate.batches == [["first"], [f"{number}" for number in range(QUEUE_LINES)]]
    assert writer.put("again", at_once=True)
    gate.open()
    assert writer.flush(PATIENCE)
    assert gate.batches[-1] == ["again"]
    writer.stop()


@pytest.mark.parametrize("lines", [BATCH_LINES, BATCH_LINES + 1])
def test_lines_wait_for_others_up_to_a_bound(monkeypatch: pytest.MonkeyPatch, lines: int) -> None:
    monkeypatch.setattr("netra_trio.telemetry.log_output.BATCH_SECONDS", 3600.0)
    gate = Gate()
    gate.open(2)
    writer = _Writer(gate)
    writer.put("0", at_once=False)
    wait_until(lambda: writer._queue.qsize() == 0)  # the thread waits for others
    for number in range(1, lines + 1):
        writer.put(f"{number}", at_once=False)
    if lines == BATCH_LINES:
        time.sleep(2 * BATCH_SECONDS)
        assert gate.batches == []
    else:
        wait_until(lambda: gate.batches)
    assert writer.flush(PATIENCE)
    assert sum(map(len, gate.batches)) == lines + 1
    writer.stop()


def test_a_line_that_is_written_at_once_takes_earlier_lines_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("netra_trio.telemetry.log_output.BATCH_SECONDS", 3600.0)
    with pipe() as (stream, reader):
        logs.configure(stream=stream)
        log = structlog.get_logger("a")
        log.info("first")
        log.warning("second")
        written = drained(reader, "second")
        logs._OUTPUT.open(None)
    assert [json.loads(line)["event"] for line in written.splitlines()] == ["first", "second"]


def test_an_unread_pipe_blocks_nothing_and_the_dropped_lines_are_counted() -> None:
    with pipe() as (stream, reader):
        logs.configure(stream=stream)
        before = logs.dropped_lines()
        log = structlog.get_logger("a")
        for number in range(3 * QUEUE_LINES):
            log.warning("line", number=number, text="x" * 100)
        dropped = logs.dropped_lines() - before
        assert dropped > 0
        assert not logs.flush(0.01)
        numbers: list[int] = []
        reported = 0
        with os.fdopen(os.dup(reader), encoding="utf-8") as lines:
            while reported < dropped or len(numbers) < 3 * QUEUE_LINES - dropped:
                line = json.loads(next(lines))
                if line["event"] == "lines_dropped":
                    assert line["level"] == "warning"
                    reported += line["lines"]
                else:
                    numbers.append(line["number"])
            assert reported == dropped
            assert numbers == sorted(set(numbers))
            log.warning("after")
            assert json.loads(next(lines))["event"] == "after"
        logs._OUTPUT.open(None)


def test_a_held_line_has_the_values_and_the_time_of_its_call() -> None:
    with pipe() as (stream, reader):
        logs.configure(stream=stream)
        log = structlog.get_logger("a")
        changing = ["then"]
        log.info("list", value=changing)
        with structlog.contextvars.bound_contextvars(bound=changing):
            log.info("bound")
        changing[0] = "now"
        listed, bound = map(json.loads, drained(reader, "bound").splitlines())
        logs._OUTPUT.open(None)
    assert (listed["value"], bound["bound"]) == (["then"], ["then"])
    assert listed["timestamp"] <= bound["timestamp"]


def test_a_reader_that_has_exited_raises_nothing() -> None:
    with pipe() as (stream, reader):
        logs.configure(stream=stream)
        before = logs.dropped_lines()
        with pipe() as (_, other):
            os.dup2(other, reader)  # closes the only reader of the first pipe
        structlog.get_logger("a").warning("hello")
        wait_until(lambda: logs.dropped_lines() == before + 1)
        logs._OUTPUT.open(None)


def test_a_descriptor_that_is_set_to_non_blocking_loses_nothing() -> None:
    with pipe() as (stream, reader):
        flags = fcntl.fcntl(stream.fileno(), fcntl.F_GETFL)
        fcntl.fcntl(stream.fileno(), fcntl.F_SETFL, flags | os.O_NONBLOCK)
        output = LogOutput(str)
        output.open(stream)
        output.write(LONG)
        output.write("end")
        assert drained(reader, "end\n") == f"{LONG}\nend\n"
        assert output.dropped == 0
        output.open(None)


def test_a_file_of_another_encoding_gets_replacements(tmp_path: Path) -> None:
    file = tmp_path / "log"
    with file.open("w", encoding="ascii") as stream:
        output = LogOutput(str)
        output.open(stream)
        output.write("größer")
        assert output.flush(PATIENCE)
        output.open(None)
    assert file.read_text() == "gr??er\n"


def test_a_full_device_drops_lines() -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as stream:
        output = LogOutput(str)
        output.open(stream)
        output.write("one")
        assert output.flush(PATIENCE)
        output.open(None)
    assert output.dropped == 1


PROGRAM = """
import os, sys, structlog
from netra_trio.telemetry import logs
logs.configure()
log = structlog.get_logger("a")
{}
"""
LINES = "for number in range(1000): log.info('line', number=number, text='x' * 100)"
FORKS = """
log.warning("parent")
child = os.fork()
log.warning("child" if child == 0 else "parent again")
if child == 0:
    logs.flush()
    os._exit(0)
os.waitpid(child, 0)
"""


def run(program: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM.format(program)]
    return subprocess.run(  # noqa: S603 - a test's own program
        command, capture_output=True, text=True, check=True, timeout=PATIENCE
    )


def test_an_exit_waits_for_its_lines() -> None:
    numbers = [json.loads(line)["number"] for line in run(LINES).stderr.splitlines()]
    assert numbers == list(range(1000))


def test_the_child_of_a_fork_has_an_output_of_its_own() -> None:
    events = [json.loads(line)["event"] for line in run(FORKS).stderr.splitlines()]
    assert sorted(events) == ["child", "parent", "parent again"]


def test_an_unread_pipe_does_not_hold_an_exit_up() -> None:
    started = time.monotonic()
    command = [sys.executable, "-c", PROGRAM.format(LINES + "\nprint('done', flush=True)")]
    with subprocess.Popen(  # noqa: S603 - a test's own program
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read() == b"done\n"
        assert process.wait(PATIENCE) == 0
    assert time.monotonic() - started < PATIENCE + FLUSH_SECONDS
