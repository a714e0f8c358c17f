"""Programs of the package that share the time of their imports: a process is forked, not started.

Three quarters of the processor time of a short server are for imports. So one process per worker of
the tests imports the command line once, and each program is a fork of it, with an environment, a
directory and streams of its own. It never runs an event loop, and has no threads.
"""

import atexit
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO

import orjson

from support.unmeasured import is_measured

_REQUEST_BYTES = 1 << 17
_STATUS_BYTES = 8  # what one answer takes: a process id, or what `waitpid` says
_PROGRAM = """
import os, select, signal, socket, sys
import orjson
import netra_trio
from netra_trio.cli import chat, check, main, runs, serve, serving, token, usage, user

channel = socket.socket(fileno=int(sys.argv[1]))
heard, woken = os.pipe()  # signals
os.set_blocking(heard, False)
os.set_blocking(woken, False)
signal.signal(signal.SIGCHLD, lambda *_: None)
signal.set_wakeup_fd(woken)
statuses = {}


def tell(descriptor, number):
    try:
        os.write(descriptor, number.to_bytes(8, "big"))
    except BrokenPipeError:
        pass  # the test has ended


def reap():
    os.read(heard, 1000)
    while statuses:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        descriptor = statuses.pop(pid)
        tell(descriptor, status)
        os.close(descriptor)


def become(request, streams):
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    channel.close()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    for descriptor in (heard, woken, *streams, *statuses.values()):
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(request["environ"])
    os.chdir(request["directory"])
    sys.path[0] = os.getcwd()
    sys.argv[:] = [netra_trio.__file__.replace("__init__", "__main__"), *request["arguments"]]
    main.main()


def run():
    while True:
        readable, _, _ = select.select([channel, heard], [], [])
        if heard in readable:
            reap()
        if channel not in readable:
            continue
        data, descriptors, _, _ = socket.recv_fds(channel, 1 << 17, 4)
        if not data:
            return
        *streams, status = descriptors
        pid = os.fork()
        if pid == 0:
            os.close(status)
            become(orjson.loads(data), streams)
        for stream in streams:
            os.close(stream)
        statuses[pid] = status
        tell(status, pid)


run()
"""


def begin(
    arguments: Sequence[str],
    directory: Path,
    environ: Mapping[str, str],
    *,
    typed: bool,
    before: Sequence[str],
) -> "subprocess.Popen[str] | Forked":
    """Begin a Python program with pipes for its output, and with one for its input if `typed`."""
    if not before and can_be_forked(arguments, environ):
        return Forked(arguments[2:], directory, environ, typed=typed)
    return subprocess.Popen(  # noqa: S603 - a test's own command line
        [*before, sys.executable, *arguments],
        cwd=directory,
        env=environ,
        stdin=subprocess.PIPE if typed else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
    )


class Forked:
    """A forked program, with the methods of `subprocess.Popen` that the tests use."""

    def __init__(
        self, arguments: Sequence[str], directory: Path, environ: Mapping[str, str], *, typed: bool
    ) -> None:
        self.returncode: int | None = None
        self.stdin: IO[str] | None = None
        self._looking = threading.Lock()
        if typed:
            source, write = os.pipe()
            self.stdin = os.fdopen(write, "w", encoding="utf-8")
        else:
            source = os.open(os.devnull, os.O_RDONLY)
        out, its_out = os.pipe()
        err, its_err = os.pipe()
        status, its_status = os.pipe()
        given = [source, its_out, its_err, its_status]
        self.stdout = os.fdopen(out, "r", encoding="utf-8", errors="replace")
        self.stderr = os.fdopen(err, "r", encoding="utf-8", errors="replace")
        self._status = os.fdopen(status, "rb", buffering=0)
        request = {
            "arguments": arguments,
            "directory": os.fspath(directory),
            "environ": dict(environ),
        }
        origin = _origin(measured=is_measured(environ))
        socket.send_fds(origin, [orjson.dumps(request)], given)
        for descriptor in given:
            os.close(descriptor)
        self.pid = self._next()

    def poll(self) -> int | None:
        """Return the exit code, if it has ended."""
        with self._looking:
            if self.returncode is None and self._is_readable(0):
                self._end()
            return self.returncode

    def wait(self, timeout: float) -> int:
        """Wait until it has ended, and return its exit code."""
        with self._looking:
            if self.returncode is None:
                if not self._is_readable(timeout):
                    raise subprocess.TimeoutExpired("netra-trio", timeout)
                self._end()
            assert self.returncode is not None
            return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal, if it has not ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it has ended, and its exit code is not sent yet
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)

    def _is_readable(self, seconds: float) -> bool:
        return bool(select.select([self._status], [], [], seconds)[0])

    def _end(self) -> None:
        self.returncode = os.waitstatus_to_exitcode(self._next())
        self._status.close()

    def _next(self) -> int:
        data = self._status.read(_STATUS_BYTES)
        assert len(data) == _STATUS_BYTES, "the process that forks others has ended"
        return int.from_bytes(data, "big")


def can_be_forked(arguments: Sequence[str], environ: Mapping[str, str]) -> bool:
    """Whether a fork is the same as a start: no own code, and nothing for the interpreter."""
    return (
        list(arguments[:2]) == ["-m", "netra_trio"]
        and not {"--reload", "--workers"}.intersection(arguments)
        and all(name == "PYTHONUNBUFFERED" or not name.startswith("PYTHON") for name in environ)
        and environ.get("LANG") == "C.UTF-8"
        and not any(name.startswith("LC_") for name in environ)
        and all(value.isprintable() for value in (*arguments, *environ, *environ.values()))
        and sum(map(len, (*arguments, *environ, *environ.values()))) < _REQUEST_BYTES // 8
    )


@cache
def _origin(*, measured: bool) -> socket.socket:
    """Start the process whose forks are the programs; return the socket for requests."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environ = {
        name: value
        for name, value in os.environ.items()
        if name in ("PATH", "LD_LIBRARY_PATH", "TMPDIR")
        or (measured and name.startswith(("COVERAGE_", "COV_CORE_")))
    }
    # Coverage shortens the paths of files below the directory that it begins in: there are none.
    folder = tempfile.TemporaryDirectory()
    with theirs:
        process = subprocess.Popen(  # noqa: S603 - the program is above
            [sys.executable, "-c", _PROGRAM, str(theirs.fileno())],
            cwd=folder.name,
            env={**environ, "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1"},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )

    def end() -> None:
        ours.close()
        process.wait()  # it writes its coverage data
        folder.cleanup()

    atexit.register(end)
    return ours
