"""Background tasks of rooms: an exception of one must not end the node.

nursery.start_soon(run_contained, repair, room)
"""

from collections.abc import Awaitable, Callable
from typing import Any

import structlog

_log = structlog.get_logger(__name__)


async def run_contained(function: Callable[..., Awaitable[object]], *args: Any) -> None:
    """Run a function; an exception is logged, and ends this task only."""
    try:
        await function(*args)
    except* Exception as faults:
        _log.error("room_task_failed", task=function.__name__, exc_info=faults)
