"""The servers: how each is started, and what it needs.

    with running("netra", heartbeat=30.0, unlimited=True) as server:
        server.port, server.pid

A server runs in an empty folder of its own, where its database is too, and in a session of its
own: Ctrl-C reaches the benchmark alone, which ends everything it started.
"""

import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from attrs import frozen

from bench.workloads import UNLIMITED

STARTING_SECONDS = 30.0  # until a server is ready; one that takes longer is broken
STOPPING_SECONDS = 3.0  # from SIGTERM to SIGKILL: the measuring is over
LOOK_SECONDS = 0.02  # from one look at a server that starts to the next

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that end the benchmark, and everything it started."""

ROOT = Path(__file__).parent.parent
_KEPT = ("PATH", "LD_LIBRARY_PATH", "LANG", "TMPDIR", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE")
_MEASURING = ("COVERAGE_", "COV_CORE_")
_READY = re.compile(r"(?:Ready|Running) on http://127\.0\.0\.1:(?P<port>\d+)")


class ServerError(Exception):
    """A server does not start; the text has what it said."""


@frozen
class Kind:
    """A server that can be measured.

    Attributes:
        about: What it is, in a line.
        command: The arguments of Python that run it.
        dialect: What it speaks.
        needs: Modules that must be installed.
        only_full: Whether a quick pass leaves it out, unless it is asked for.
        resumes: Whether a client that lost its line can go on with its session.
    """

    about: str
    command: Sequence[str]
    dialect: str = "plain"
    needs: Sequence[str] = ()
    only_full: bool = False
    resumes: bool = False

    @property
    def missing(self) -> list[str]:
        """The modules it needs that are not installed."""
        return [module for module in self.needs if find_spec(module) is None]


@frozen
class Server:
    """A server that is ready."""

    pid: int
    port: int
    secret: str
    output: Path


_AGENTS = ("echo", "stream")

SERVERS: Mapping[str, Kind] = {
    "netra": Kind(
        "this project, `netra-trio serve`",
        (
            *("-m", "netra_trio", "serve", "--port", "0"),
            *(part for name in _AGENTS for part in ("--agent", f"{name}=bench.peers.netra:{name}")),
        ),
        dialect="netra",
        resumes=True,
    ),
    "netra-stock": Kind(
        "this project under the stock Hypercorn command",
        (
            *("-m", "hypercorn", "--worker-class", "trio"),
            *("-b", "127.0.0.1:0", "bench.peers.netra_stock:app"),
        ),
        dialect="netra",
        only_full=True,
        resumes=True,
    ),
    "fastapi": Kind(
        "FastAPI on uvicorn, as the guide describes",
        ("-m", "bench.peers.fastapi"),
        needs=("fastapi", "uvicorn", "uvloop", "httptools", "websockets"),
    ),
    "socketio": Kind(
        "python-socketio on uvicorn",
        ("-m", "bench.peers.socketio"),
        dialect="socketio",
        needs=("socketio", "pydantic", "uvicorn", "uvloop", "httptools", "websockets"),
    ),
    "floor": Kind("raw Trio, no features", ("-m", "bench.peers.floor")),
}
"""Every server, in the order in which it is shown."""

BASE = "fastapi"
"""The one that the ratios are to."""


@contextmanager
def running(name: str, *, heartbeat: float, unlimited: bool) -> Iterator[Server]:
    """Run a server; on leaving it is ended, whatever happened.

    Raises:
        ServerError: If it does not start.
    """
    directory = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        secret = secrets.token_urlsafe(48)
        output = directory / "output.log"
        with (
            output.open("wb") as file,
            child(
                [sys.executable, *SERVERS[name].command],
                cwd=directory,
                env=_environ(directory, secret, heartbeat=heartbeat, unlimited=unlimited),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            ) as process,
        ):
            yield Server(process.pid, _wait_until_ready(name, process, output), secret, output)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def child(command: Sequence[str], **options: Any) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a process in a session of its own; on leaving it is ended, with all of that session."""
    process = None
    try:
        with _uninterrupted():  # or it would have started, and nobody would know of it
            process = subprocess.Popen(command, start_new_session=True, **options)
        yield process
    finally:
        if process is not None:
            _end(process)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Keep signals that would end this process until the block has ended."""
    came: list[int] = []
    before = {one: signal.signal(one, lambda number, _: came.append(number)) for one in ENDING}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    if came:
        signal.raise_signal(came[0])


def _end(process: "subprocess.Popen[bytes]") -> None:
    try:
        if process.poll() is None:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOPPING_SECONDS)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _environ(
    directory: Path, secret: str, *, heartbeat: float, unlimited: bool
) -> Mapping[str, str]:
    """Return settings by the names of the guide, and nothing of whoever runs the benchmark."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT or name.startswith(_MEASURING)
    }
    return {
        **kept,
        "HOME": str(directory),
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "JWT_SECRET_KEY": secret,
        "WEBSOCKET_HEARTBEAT_INTERVAL": str(round(heartbeat * 1000)),
        # Users of the connect workload come back while their last connection still ends.
        "WEBSOCKET_MAX_CONNECTIONS_PER_USER": "1000",
        **({"WEBSOCKET_MAX_MESSAGE_RATE": UNLIMITED} if unlimited else {}),
    }


def _wait_until_ready(name: str, process: "subprocess.Popen[bytes]", output: Path) -> int:
    """Return the port, once the server says it."""
    deadline = time.monotonic() + STARTING_SECONDS
    while time.monotonic() < deadline:
        has_ended = process.poll() is not None
        text = output.read_text(errors="replace")
        found = _READY.search(text)
        if found is not None:
            return int(found["port"])
        if has_ended:
            raise ServerError(f"{name} ended with {process.returncode}:\n{tail(text)}")
        time.sleep(LOOK_SECONDS)
    raise ServerError(f"{name} is not ready after {STARTING_SECONDS:g} s:\n{tail(text)}")


def tail(text: str, lines: int = 20) -> str:
    """Return the last lines of a text."""
    return "\n".join(text.splitlines()[-lines:])
