"""The end of the process: a drain on the first signal, and a forced exit where that does not end.

with ExitStack() as timers:
    drained = await nursery.start(drain_on_signal, drain, 8.0, timers)
    await drained.wait()
"""

import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import ExitStack

import structlog
import trio

from netra_trio.telemetry.logs import flush

FINAL_LOG_SECONDS = 0.3  # bound on the last log line of a forced exit
FORCED_AFTER = 1.5  # seconds after the drain timeout: then threads that do not end are left behind

_log = structlog.get_logger(__name__)


async def drain_on_signal(
    drain: Callable[[], Awaitable[None]],
    seconds: float,
    timers: ExitStack,
    task_status: trio.TaskStatus[trio.Event] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Drain at the first SIGTERM or SIGINT, exit with code 1 at the second.

    The task status starts with the event that is set when the drain is done.

    Args:
        drain: Closes every connection.
        seconds: The time that it may take; 1.5 s later the process exits in any case.
        timers: Cancels that forced exit when it is closed.
        task_status: See above.
    """
    drained = trio.Event()

    async def end() -> None:
        timers.callback(exit_later(seconds + FORCED_AFTER).cancel)
        await drain()
        drained.set()

    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started(drained)
        draining = False
        async with trio.open_nursery() as nursery:
            async for number in signals:
                if draining:
                    exit_now(1, "second signal: ended at once")
                _log.info("signal", signal=signal.Signals(number).name)
                draining = True
                nursery.start_soon(end)


def exit_later(seconds: float) -> threading.Timer:
    """Exit with code 0 after a time, unless the returned timer is cancelled.

    A thread that an agent left behind would otherwise keep the process for ever.
    """
    timer = threading.Timer(seconds, exit_now, (0, "tasks did not end in time: ended without them"))
    timer.daemon = True
    timer.start()
    return timer


def exit_now(code: int, why: str) -> None:
    """Log the reason and exit without any clean-up.

    The log line is written by a thread: its output may be a full pipe, and the exit must not wait
    for its reader.
    """
    logger = threading.Thread(target=_log_exit, args=(code, why), daemon=True)
    logger.start()
    logger.join(FINAL_LOG_SECONDS)
    os._exit(code)


def _log_exit(code: int, why: str) -> None:
    _log.warning("exit", code=code, why=why)
    flush()
    sys.stdout.flush()
    sys.stderr.flush()
