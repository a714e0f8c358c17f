"""Measures how late the event loop wakes a task.

nursery.start_soon(watch_loop, metrics.loop_lag.observe, log_sink.write_summaries)
"""

from collections.abc import Callable

import trio

PERIOD = 0.5  # seconds between two measurements


async def watch_loop(observe: Callable[[float], None], each_time: Callable[[float], None]) -> None:
    """Measure permanently how many seconds late this task is woken; cancel it to stop.

    Args:
        observe: Is called with the delay in seconds.
        each_time: Is called after each measurement with the time on Trio's clock.
    """
    while True:
        wanted = trio.current_time() + PERIOD
        await trio.sleep_until(wanted)
        now = trio.current_time()
        observe(max(0.0, now - wanted))
        each_time(now)
