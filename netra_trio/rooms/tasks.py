"""Background tasks of rooms: an exception of one must not end the node.

start_contained(nursery, repair, room)
"""

from collections.abc import Awaitable, Callable
from typing import Any

import structlog
import trio

_log = structlog.get_logger(__name__)


def start_contained(
    nursery: trio.Nursery | None, function: Callable[..., Awaitable[object]], *args: Any
) -> bool:
    """Start a function as a task; return False if there is no nursery, or it is cancelled."""
    if nursery is None or nursery.cancel_scope.cancel_called:
        return False
    nursery.start_soon(run_contained, function, *args)
    return True


async def run_contained(function: Callable[..., Awaitable[object]], *args: Any) -> None:
    """Run a function; an exception is logged, and ends this task only."""
    try:
        await function(*args)
    except* Exception as faults:
        _log.error("room_task_failed", task=function.__name__, exc_info=faults)
