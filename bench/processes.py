"""Processes that the benchmark starts, and the signals that end them with it.

with child(["valkey-server", "--port", "0"]) as process:
    ...
"""

import os
import signal
import subprocess
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

STOPPING_SECONDS = 3.0  # from SIGTERM to SIGKILL: the measurement is over

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that end the benchmark, and everything it started."""

INTERRUPTED = 130
"""The exit code after one of these signals, as in shells after Ctrl-C."""


class ServerError(Exception):
    """A server does not start; the text has the end of its output."""


@contextmanager
def child(
    command: Sequence[str], *, cpus: Collection[int] | None = None, **options: Any
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a process in a session of its own; the whole session ends with the block."""
    process = None
    try:
        with _uninterrupted(), _inherited(cpus):  # a process that nothing refers to would remain
            process = subprocess.Popen(command, start_new_session=True, **options)
        yield process
    finally:
        if process is not None:
            _end(process)


@contextmanager
def _inherited(cpus: Collection[int] | None) -> Iterator[None]:
    """Let processes that start in the block run on these CPUs only, with all their threads."""
    if cpus is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def raise_on_signals() -> None:
    """Raise KeyboardInterrupt for every signal of `ENDING`, so that blocks end their children."""
    for one in ENDING:
        signal.signal(one, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 - a handler
    raise KeyboardInterrupt


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Delay signals that would end this process until the block has ended."""
    received: list[int] = []
    before = {one: signal.signal(one, lambda number, _: received.append(number)) for one in ENDING}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    if received:
        signal.raise_signal(received[0])


def _end(process: "subprocess.Popen[bytes]") -> None:
    try:
        if process.poll() is None:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOPPING_SECONDS)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def tail(text: str, lines: int = 20) -> str:
    """Return the last lines of a text."""
    return "\n".join(text.splitlines()[-lines:])
