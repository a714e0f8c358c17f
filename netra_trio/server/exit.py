"""The end of the process: a drain on the first signal, and an exit in time whatever is blocked.

with ExitWatchdog(drain_timeout=8.0) as watchdog:
    drained = await nursery.start(drain_on_signal, drain, watchdog)
    await drained.wait()
"""

import atexit
import multiprocessing.util
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any, Self

import structlog
import trio

from netra_trio.telemetry.logs import flush

SIGNALS = (signal.SIGTERM, signal.SIGINT)
FORCED_AFTER = 1.5  # seconds after the drain timeout: then the process exits, whatever still runs
OUTPUT_SECONDS = 0.3  # bound on the last writes to the outputs: nothing may read them

_log = structlog.get_logger(__name__)


class ExitWatchdog:
    """A thread that ends the process in time after a signal, even if the event loop is blocked.

    The loop may be blocked by an agent, or by a thread that an agent has left behind.

    Args:
        drain_timeout: Seconds that a drain may take after the first signal. The process exits with
            code 0 when they and another 1.5 s have passed, with code 1 at a second signal.
        ignores_second: Whether a second signal has no effect.
    """

    def __init__(self, drain_timeout: float, *, ignores_second: bool = False) -> None:
        self._seconds = drain_timeout + FORCED_AFTER
        self._ignores_second = ignores_second
        # Its `put` may be called by a signal handler, whatever the interrupted code does.
        self._signals: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="exit watchdog")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop watching: the server has ended by itself."""
        self._signals.put(None)

    def note(self, number: int) -> None:
        """Note a signal; safe in a signal handler."""
        self._signals.put(number)

    def _watch(self) -> None:
        if self._signals.get() is None:
            return
        deadline = time.monotonic() + self._seconds
        try:
            while self._signals.get(timeout=max(0.0, deadline - time.monotonic())) is not None:
                if not self._ignores_second:
                    exit_now(1, "second signal: ended at once")
                    return
        except queue.Empty:
            exit_now(0, "tasks did not end in time: ended without them")


async def drain_on_signal(
    drain: Callable[[], Awaitable[None]],
    watchdog: ExitWatchdog,
    numbers: Collection[signal.Signals] = SIGNALS,
    *,
    task_status: trio.TaskStatus[trio.Event] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Drain at the first signal, by default SIGTERM or SIGINT; cancelled by the caller.

    The task status starts with the event that is set when the drain is done.

    Args:
        drain: Closes every connection.
        watchdog: Is told of every signal.
        numbers: The signals.
        task_status: See above.
    """
    drained, is_draining = trio.Event(), False

    async def end() -> None:
        await drain()
        drained.set()

    with trio.open_signal_receiver(*numbers) as signals, _told(watchdog, numbers):
        task_status.started(drained)
        async with trio.open_nursery() as nursery:
            async for number in signals:
                if not is_draining:  # at a second signal the watchdog exits
                    _log.info("signal", signal=signal.Signals(number).name)
                    is_draining = True
                    nursery.start_soon(end)


@contextmanager
def _told(watchdog: ExitWatchdog, numbers: Collection[signal.Signals]) -> Iterator[None]:
    """Tell the watchdog of signals, from the signal handler itself: the loop may be blocked."""
    handlers: dict[int, Any] = {number: signal.getsignal(number) for number in numbers}
    for number, handler in handlers.items():
        signal.signal(number, partial(_handle, watchdog, handler))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _handle(
    watchdog: ExitWatchdog,
    handler: Callable[[int, FrameType | None], None],
    number: int,
    frame: FrameType | None,
) -> None:
    watchdog.note(number)
    handler(number, frame)


def exit_now(code: int, why: str) -> None:
    """Log the reason and exit without any clean-up."""
    _bounded(partial(_log_exit, code, why))
    os._exit(code)


def flush_or_exit(code: int = 0) -> None:
    """Write what the outputs have buffered; exit if nothing reads it.

    The end of the interpreter flushes them too, and would wait for ever.
    """
    if not _bounded(_flush):
        os._exit(code)


def flush_at_exit() -> None:
    """Call `flush_or_exit` at the end of this process, and of the worker processes it starts."""
    atexit.register(flush_or_exit)
    multiprocessing.util.Finalize(None, flush_or_exit, exitpriority=0)


def _bounded(write: Callable[[], None]) -> bool:
    """Write in a thread; return whether it was done in time."""
    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    thread.join(OUTPUT_SECONDS)
    return not thread.is_alive()


def _log_exit(code: int, why: str) -> None:
    _log.warning("exit", code=code, why=why)
    _flush()


def _flush() -> None:
    flush()
    sys.stdout.flush()
    sys.stderr.flush()
