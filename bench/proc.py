"""CPU time, memory and connections of a process and its children, from /proc.

before = cpu_seconds(pid)
...
spent = cpu_seconds(pid) - before
"""

import os
from pathlib import Path

from attrs import frozen

_PROC = Path("/proc")
_TICK = os.sysconf("SC_CLK_TCK")  # per second: 100, so CPU time is known to 10 ms
_LOCAL, _STATE, _INODE = 1, 3, 9  # fields of /proc/net/tcp (proc_net(5))
_ESTABLISHED = "01"
_UTIME, _STIME = 11, 12  # fields after the name in /proc/PID/stat (proc(5), 14 and 15)


@frozen
class Memory:
    """The memory of a process and its children, in KiB.

    Attributes:
        pss: Private pages and its share of shared ones; the resident set without smaps_rollup.
        uss: Private pages; the same fallback.
        rss: The resident set.
    """

    pss: float
    uss: float
    rss: float


def tree(pid: int) -> list[int]:
    """Return a process and its descendants: Hypercorn serves from a child."""
    pids = [pid]
    for parent in pids:  # grows during the iteration
        for task in _PROC.joinpath(str(parent), "task").glob("*"):
            pids += [int(child) for child in _read(task / "children").split()]
    return pids


def is_alive(pid: int) -> bool:
    """Return whether a process exists and is not a zombie."""
    fields = _read(_PROC / str(pid) / "stat").rpartition(")")[2].split()
    return bool(fields) and fields[0] != "Z"


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process, its threads and its descendants: user and system."""
    ticks = 0
    for one in tree(pid):
        fields = _read(_PROC / str(one) / "stat").rpartition(")")[2].split()
        ticks += int(fields[_UTIME]) + int(fields[_STIME]) if fields else 0
    return ticks / _TICK


def memory(pid: int) -> Memory:
    """Return the memory of a process and its descendants."""
    each = [_memory_of(one) for one in tree(pid)]
    return Memory(
        pss=sum(one.pss for one in each),
        uss=sum(one.uss for one in each),
        rss=sum(one.rss for one in each),
    )


def connections_of(pid: int, port: int) -> list[int]:
    """Return the number of open IPv4 connections to a port that each process of a tree has."""
    lines = (line.split() for line in _read(_PROC / "net" / "tcp").splitlines()[1:])
    end = f":{port:04X}"
    inodes = {
        f"socket:[{fields[_INODE]}]"
        for fields in lines
        if fields[_LOCAL].endswith(end) and fields[_STATE] == _ESTABLISHED
    }
    return [sum(file in inodes for file in _files(one)) for one in tree(pid)]


def _files(pid: int) -> list[str]:
    """Return what the file descriptors of a process refer to."""
    found = []
    for link in _PROC.joinpath(str(pid), "fd").glob("*"):
        try:
            found.append(str(link.readlink()))
        except OSError:  # closed meanwhile
            continue
    return found


def _memory_of(pid: int) -> Memory:
    found = _sizes(_read(_PROC / str(pid) / "smaps_rollup"))
    if "Pss" in found:
        own = found["Private_Clean"] + found["Private_Dirty"]
        return Memory(pss=found["Pss"], uss=own, rss=found["Rss"])
    resident = _sizes(_read(_PROC / str(pid) / "status")).get("VmRSS", 0.0)
    return Memory(pss=resident, uss=resident, rss=resident)


def _sizes(text: str) -> dict[str, float]:
    """Return the sizes of lines such as `Pss:   4050 kB`, in KiB."""
    lines = (line.split() for line in text.splitlines() if line.endswith(" kB"))
    return {words[0].rstrip(":"): float(words[1]) for words in lines}


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # the process has ended
        return ""
