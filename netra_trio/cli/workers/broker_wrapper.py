"""Runs the private Valkey or Redis of one server, as long as a process of that server needs it.

    python -I broker_wrapper.py valkey-server /tmp/netra-1 3 4 10.0

A process of its own, so that the private server ends even if the supervisor is killed. It needs the
standard library only: it starts in some ten milliseconds and stays small.
"""

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

SOCKET = "valkey.sock"  # in the folder
LOG = "valkey.log"  # likewise
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0  # seconds before a server that has ended starts again
STABLE_SECONDS = 30.0  # after so long a life the pause is the first one again

_KEPT = ("PATH", "LD_LIBRARY_PATH", "LANG", "TZ")  # variables: the others may be secrets
_PR_SET_PDEATHSIG = 1


class Need:
    """Whether the private server is needed, which the ends of two pipes tell.

    Args:
        alive: The reading end of a pipe that is closed when the supervisor ends.
        users: The reading end of one that the supervisor and every worker hold open. A byte in it
            ends the private server at once.
        grace: Seconds that the workers have to end after the supervisor.
    """

    def __init__(self, alive: int, users: int, grace: float) -> None:
        self._alive = alive
        self._users = users
        self._grace = grace
        self._deadline: float | None = None  # once the supervisor has ended

    def wait(self, others: Sequence[int] = (), seconds: float | None = None) -> bool:
        """Wait until the private server is not needed: True; or for something else: False.

        Args:
            others: Descriptors: one that is readable ends the wait.
            seconds: As does this time.
        """
        until = None if seconds is None else time.monotonic() + seconds
        while True:
            watched = [self._users, *others, *([self._alive] if self._deadline is None else [])]
            readable, _, _ = select.select(watched, [], [], self._left(until))
            if self._users in readable or self._is_late():
                return True
            if self._alive in readable:
                self._deadline = time.monotonic() + self._grace
            elif readable or (until is not None and time.monotonic() >= until):
                return False

    def _left(self, until: float | None) -> float | None:
        ends = [end for end in (until, self._deadline) if end is not None]
        return max(0.0, min(ends) - time.monotonic()) if ends else None

    def _is_late(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline


def arguments(executable: str, folder: Path) -> list[str]:
    """Return the command: a Unix socket, no port, nothing on disk, and nothing is evicted."""
    return [
        executable,
        *("--port", "0", "--unixsocket", str(folder / SOCKET), "--unixsocketperm", "700"),
        *("--save", "", "--appendonly", "no", "--dir", str(folder)),
        *("--maxmemory-policy", "noeviction", "--daemonize", "no"),
        *("--logfile", "", "--loglevel", "warning"),
    ]


def run(command: Sequence[str], folder: Path, need: Need) -> None:
    """Run a server while it is needed, start it again when it ends, and remove its folder."""
    pause = FIRST_PAUSE
    try:
        while True:
            started = time.monotonic()
            if _run_once(command, folder, need):
                return
            if time.monotonic() - started >= STABLE_SECONDS:
                pause = FIRST_PAUSE
            if need.wait(seconds=pause):
                return
            pause = min(pause * 2, LONGEST_PAUSE)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run_once(command: Sequence[str], folder: Path, need: Need) -> bool:
    """Run a server until it is not needed: True; or until it ends by itself: False."""
    ended, held = os.pipe()  # the server has the writing end, which is closed when it ends
    try:
        with (folder / LOG).open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 - the supervisor has chosen it
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[held],
                cwd=folder,
                env={name: os.environ[name] for name in _KEPT if name in os.environ},
                preexec_fn=_end_with_this_process,  # noqa: PLW1509 - there are no threads
            )
    except OSError as error:
        with contextlib.suppress(OSError):
            (folder / LOG).write_text(f"{command[0]}: {error.strerror}\n", encoding="utf-8")
        os.close(held)
        os.close(ended)
        return False
    os.close(held)
    try:
        return need.wait([ended])
    finally:
        process.kill()  # there is nothing to save
        process.wait()
        os.close(ended)


def _end_with_this_process() -> None:
    """Let Linux kill the server when this process is killed; elsewhere it would stay."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main(argv: Sequence[str]) -> None:
    """Run `executable folder alive users grace`; signals to all processes do not end it."""
    executable, folder, alive, users, grace = argv
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)  # not SIG_IGN, which the server would inherit
    need = Need(int(alive), int(users), float(grace))
    run(arguments(executable, Path(folder)), Path(folder), need)


if __name__ == "__main__":
    main(sys.argv[1:])
