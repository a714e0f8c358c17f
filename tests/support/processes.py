"""Processes that a program has started."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


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


def children_of(pid: int) -> list[int]:
    """Return the processes that a process has started and that have not ended, on Linux."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if int(parent) == pid and state != "Z":
                    found.append(int(entry.name))
    return sorted(found)
