"""The servers: how each is started, and which packages it needs.

    with running("netra", heartbeat=30.0, unlimited=True) as server:
        server.port, server.pid

The name of a server of this project may have a folder, `netra@/path/to/checkout`: it then runs
with the source of that checkout, in the same environment and with the same agents.

A server runs in an empty folder, which also contains its database, and in a session of its own:
Ctrl-C reaches only the benchmark, which ends everything it started.
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
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from attrs import frozen

from bench.workloads import FASTAPI, FLOOR, UNLIMITED

STARTING_SECONDS = 30.0  # until a server is ready; a longer time is a failure
STOPPING_SECONDS = 3.0  # from SIGTERM to SIGKILL: the measurement is over
POLL_SECONDS = 0.02  # between two reads of the output of a server that starts

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that end the benchmark, and everything it started."""

INTERRUPTED = 130
"""The exit code after one of these signals, as in shells after Ctrl-C."""

ROOT = Path(__file__).parent.parent
PACKAGE = "netra_trio"
_KEPT = ("PATH", "LD_LIBRARY_PATH", "LANG", "TMPDIR", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE")
_KEPT_PREFIXES = ("COVERAGE_", "COV_CORE_", "BENCH_")
_READY = re.compile(r"(?:Ready|Running) on http://127\.0\.0\.1:(?P<port>\d+)")


class ServerError(Exception):
    """A server does not start; the text has the end of its output."""


@frozen
class Kind:
    """A server that can be measured.

    Attributes:
        about: A line that describes it.
        command: The arguments of Python that run it.
        dialect: The name of its dialect.
        needs: Modules that must be installed.
        only_full: Whether a quick pass leaves it out, unless it is requested.
        resumes: Whether a client can resume its session.
        has_checkouts: Whether it can run with the source of another checkout: it is started with
            public names of this project only.
    """

    about: str
    command: Sequence[str]
    dialect: str = "plain"
    needs: Sequence[str] = ()
    only_full: bool = False
    resumes: bool = False
    has_checkouts: bool = False

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


_AGENTS = ("echo", "stream", "paced")


def _serve(module: str) -> tuple[str, ...]:
    """Return the command of this project with the agents of a module."""
    agents = [part for name in _AGENTS for part in ("--agent", f"{name}={module}:{name}")]
    return ("-m", PACKAGE, "serve", "--port", "0", *agents)


SERVERS: Mapping[str, Kind] = {
    "netra": Kind(
        "this project, `netra-trio serve`",
        _serve("bench.peers.netra"),
        dialect="netra",
        resumes=True,
        has_checkouts=True,
    ),
    "netra-asyncio": Kind(
        "the same command, with agents for asyncio",
        _serve("bench.peers.netra_asyncio"),
        dialect="netra",
        only_full=True,
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
    FASTAPI: Kind(
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
    FLOOR: Kind(
        "raw Trio, an agent task and a writer task per connection, no features",
        ("-m", "bench.peers.floor"),
    ),
}
"""Every server, in the order in which it is shown."""


@frozen
class Name:
    """The name of a server: a kind, and the folder of its checkout if it is not this one.

    >>> name = Name.parse("netra@/srv/before")
    >>> name.kind, str(name.checkout), name.short
    ('netra', '/srv/before', 'netra@before')
    """

    kind: str
    checkout: Path | None = None

    @classmethod
    def parse(cls, text: str) -> "Name":
        """Return the name in `kind` or `kind@folder`."""
        kind, at, folder = text.partition("@")
        return cls(kind, Path(folder).absolute() if at else None)

    @property
    def short(self) -> str:
        """The name with the last part of the folder only."""
        return self.kind if self.checkout is None else f"{self.kind}@{self.checkout.name}"


def kind_of(name: str) -> Kind:
    """Return the kind of a server by its name, with or without a folder."""
    return SERVERS[Name.parse(name).kind]


@contextmanager
def running(
    name: str, *, heartbeat: float, unlimited: bool, cpus: Collection[int] | None = None
) -> Iterator[Server]:
    """Run a server, on some CPUs only if they are given; it ends with the block.

    Raises:
        ServerError: If it does not start.
    """
    directory = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        secret = secrets.token_urlsafe(48)
        output = directory / "output.log"
        environ = {
            **_environ(secret, heartbeat=heartbeat, unlimited=unlimited),
            "HOME": str(directory),
            "PYTHONPATH": _python_path(directory, Name.parse(name).checkout or ROOT),
        }
        with (
            output.open("wb") as file,
            child(
                [sys.executable, *kind_of(name).command],
                cpus=cpus,
                cwd=directory,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            ) as process,
        ):
            yield Server(process.pid, _wait_until_ready(name, process, output), secret, output)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _python_path(directory: Path, checkout: Path) -> str:
    """Return where modules are found: `bench` of this checkout, everything else of the given one.

    The agents and the peers are always those of this benchmark; another checkout may not have them.
    """
    modules = directory / "modules"
    modules.mkdir()
    modules.joinpath("bench").symlink_to(ROOT / "bench")
    return os.pathsep.join([str(modules), str(checkout)])


@contextmanager
def child(
    command: Sequence[str], *, cpus: Collection[int] | None = None, **options: Any
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a process in a session of its own; the whole session ends with the block."""
    process = None
    try:
        with _uninterrupted(), _inherited(cpus):  # a process that nothing refers to would remain
            process = subprocess.Popen(command, start_new_session=True, **options)
        yield process
    finally:
        if process is not None:
            _end(process)


@contextmanager
def _inherited(cpus: Collection[int] | None) -> Iterator[None]:
    """Let processes that start in the block run on these CPUs only, with all their threads."""
    if cpus is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def separate_cpus() -> tuple[Collection[int], Collection[int]] | None:
    """Return one CPU for the server and the others for the load; None if there is only one."""
    *others, last = sorted(os.sched_getaffinity(0))
    return ([last], others) if others else None


def raise_on_signals() -> None:
    """Raise KeyboardInterrupt for every signal of `ENDING`, so that blocks end their children."""
    for one in ENDING:
        signal.signal(one, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 - a handler
    raise KeyboardInterrupt


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Delay signals that would end this process until the block has ended."""
    received: list[int] = []
    before = {one: signal.signal(one, lambda number, _: received.append(number)) for one in ENDING}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    if received:
        signal.raise_signal(received[0])


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


def _environ(secret: str, *, heartbeat: float, unlimited: bool) -> Mapping[str, str]:
    """Return settings by the names of the guide; other variables of the caller are left out."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT or name.startswith(_KEPT_PREFIXES)
    }
    return {
        **kept,
        "PYTHONUNBUFFERED": "1",
        "JWT_SECRET_KEY": secret,
        "WEBSOCKET_HEARTBEAT_INTERVAL": str(round(heartbeat * 1000)),
        # A user of the connect workload returns while the previous connection still ends.
        "WEBSOCKET_MAX_CONNECTIONS_PER_USER": "1000",
        "WEBSOCKET_OPENING_RATE": "10000",  # the load opens many connections of few users
        **({"WEBSOCKET_MAX_MESSAGE_RATE": UNLIMITED} if unlimited else {}),
    }


def _wait_until_ready(name: str, process: "subprocess.Popen[bytes]", output: Path) -> int:
    """Return the port from the server's output."""
    deadline = time.monotonic() + STARTING_SECONDS
    while time.monotonic() < deadline:
        has_ended = process.poll() is not None
        text = output.read_text(errors="replace")
        found = _READY.search(text)
        if found is not None:
            return int(found["port"])
        if has_ended:
            raise ServerError(f"{name} ended with {process.returncode}:\n{tail(text)}")
        time.sleep(POLL_SECONDS)
    raise ServerError(f"{name} is not ready after {STARTING_SECONDS:g} s:\n{tail(text)}")


def tail(text: str, lines: int = 20) -> str:
    """Return the last lines of a text."""
    return "\n".join(text.splitlines()[-lines:])
