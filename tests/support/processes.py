"""Processes that a program has started."""

import os
from collections.abc import Iterable


def sessions(pids: Iterable[int]) -> list[int]:
    """Return the processes that lead a session.

    A server or a load of the benchmark does; a helper that a module runs while it is imported, as
    Trio runs `ldconfig`, does not.
    """
    return [pid for pid in pids if _leads(pid)]


def _leads(pid: int) -> bool:
    try:
        return os.getsid(pid) == pid
    except ProcessLookupError:  # it has ended
        return False
