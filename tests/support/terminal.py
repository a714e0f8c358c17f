r"""A program in a pseudo-terminal, with keys that a test presses.

with terminal(["-m", "netra_trio", "chat"], directory=tmp_path) as chat:
    chat.wait_for("> ")
    chat.press("hello\r")
    chat.press(CTRL_D)
    assert chat.wait() == 0
"""

import os
import pty
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.server import SOON, clean_environ

CTRL_C, CTRL_D = "\x03", "\x04"


class Terminal:
    """A program in a pseudo-terminal, started as a shell does."""

    # The terminal becomes its controlling terminal, so that Ctrl-C sends SIGINT.
    START = (
        "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )

    def __init__(self, arguments: list[str], *, directory: Path, **environ: str) -> None:
        self.master, slave = pty.openpty()
        self.popen = subprocess.Popen(  # noqa: S603 - a test's own command line
            [sys.executable, "-c", self.START, *arguments],
            cwd=directory,
            env=clean_environ(directory, {"TERM": "xterm", **environ}),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self.shown = ""
        self._read_to = 0
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._gather, daemon=True)
        self._thread.start()

    def _gather(self) -> None:
        while True:
            try:
                data = os.read(self.master, 65536)
            except OSError:  # the program has closed its terminal
                return
            if not data:
                return
            with self._changed:
                self.shown += data.decode(errors="replace")
                self._changed.notify_all()

    def wait_for(self, text: str) -> None:
        """Wait until a text is shown after the texts that were waited for before."""
        deadline = time.monotonic() + SOON
        with self._changed:
            while (place := self.shown.find(text, self._read_to)) < 0:
                left = deadline - time.monotonic()
                assert left > 0, f"{text!r} is not in {self.shown[self._read_to :]!r}"
                self._changed.wait(left)
            self._read_to = place + len(text)

    def press(self, keys: str) -> None:
        """Press keys."""
        os.write(self.master, keys.encode())

    def wait(self) -> int:
        """Return the exit code."""
        return self.popen.wait(SOON)

    def close(self) -> None:
        """Kill the program if it is running, and release the terminal."""
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait()
        self._thread.join(SOON)
        os.close(self.master)


@contextmanager
def terminal(arguments: list[str], *, directory: Path, **environ: str) -> Iterator[Terminal]:
    shown = Terminal(arguments, directory=directory, **environ)
    try:
        yield shown
    finally:
        shown.close()
