"""Processes of this machine: their ids, and whether one of them is still alive.

    process = this_process()          # "4711 98765": the process id and the start time
    state_of(process)                 # ProcessState.ALIVE

A process that cannot be seen is not taken for dead: /proc hides the processes of other users where
it is mounted with `hidepid`, as systemd does for `ProtectProc=invisible`, and it may be missing.
"""

import enum
import os
import platform
import secrets
from pathlib import Path

_START_TIME = 22  # the field of /proc/<pid>/stat that holds the start time of the process


class ProcessState(enum.Enum):
    """The state of a process; UNKNOWN if a process has its id, and it may be another process."""

    ALIVE = "alive"
    GONE = "gone"
    UNKNOWN = "unknown"


def machine() -> str:
    """Return an id of the process id namespace: of this boot, and of this container.

    The process 1 of a container is another one than the process 1 of its host. On a Linux that
    does not tell, the id is one that no other process has.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        if platform.system() == "Linux":
            return f"unknown {secrets.token_hex(16)}"
        return f"{platform.node()} {platform.system()}"


def this_process() -> str:
    """Return the id of this process, with its start time where the system tells it."""
    pid = os.getpid()
    stat = _stat(pid)
    return str(pid) if stat is None else f"{pid} {stat[1]}"


def state_of(process: str) -> ProcessState:
    """Return the state of a process of this machine, which `this_process` returned there."""
    pid, _, started = process.partition(" ")
    stat = _stat(int(pid))
    if stat is None:
        return ProcessState.UNKNOWN if _exists(int(pid)) else ProcessState.GONE
    state, now_started = stat
    if state in "ZX":
        return ProcessState.GONE
    if not started:
        return ProcessState.UNKNOWN
    return ProcessState.ALIVE if started == now_started else ProcessState.GONE


def _stat(pid: int) -> tuple[str, str] | None:
    """Return state and start time of a process, None if /proc does not show it."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The name of the program, in parentheses, may contain anything.
    state, *fields = stat.rpartition(")")[2].split()
    return state, fields[_START_TIME - 4]


def _exists(pid: int) -> bool:
    """Return whether any process has this id, of any user."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
