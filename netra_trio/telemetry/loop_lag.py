"""How late the event loop is: a task that asks to be woken, and measures when it is.

nursery.start_soon(watch_loop, figures.loop_lag.observe, story.sum_up)
"""

from collections.abc import Callable

import trio

PERIOD = 0.5  # seconds: what blocks the loop for longer than a user notices is seen


async def watch_loop(observe: Callable[[float], None], each_time: Callable[[float], None]) -> None:
    """Measure for ever how many seconds late this task is woken; cancel it to end.

    Args:
        observe: Takes the seconds.
        each_time: Is called besides with the time on Trio's clock.
    """
    while True:
        wanted = trio.current_time() + PERIOD
        await trio.sleep_until(wanted)
        now = trio.current_time()
        observe(max(0.0, now - wanted))
        each_time(now)
