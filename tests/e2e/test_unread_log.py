"""A server whose standard error is a full pipe that is not read: it serves, and ends in time."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import trio
from support.ports import kept_port
from support.server import Server, clean_environ

PATIENCE = 120.0  # seconds until it is ready: a bound, not a wait
EXIT_SECONDS = 10.0  # from the signal to the end of the process
OPENINGS = 100


@contextmanager
def full_pipe() -> Iterator[int]:
    """Return the descriptor of a pipe that accepts no further byte."""
    reader, writer = os.pipe()
    try:
        flags = fcntl.fcntl(writer, fcntl.F_GETFL)
        fcntl.fcntl(writer, fcntl.F_SETFL, flags | os.O_NONBLOCK)
        for size in (65536, 1):
            try:
                while True:
                    os.write(writer, b"x" * size)
            except BlockingIOError:
                pass
        fcntl.fcntl(writer, fcntl.F_SETFL, flags)
        yield writer
    finally:
        os.close(reader)
        os.close(writer)


@contextmanager
def serving_unread(directory: Path, command: list[str], port: int) -> Iterator[Server]:
    """Run a server with a full pipe as its standard error; leaving sends SIGTERM."""
    with full_pipe() as errors, (directory / "out").open("wb") as out:
        process = subprocess.Popen(  # noqa: S603 - a test's own command line
            [sys.executable, *command],
            cwd=directory,
            env=clean_environ(directory, {}, measured=False),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=errors,
        )
        try:
            server = Server(cast("Any", None), f"127.0.0.1:{port}")
            wait_until_ready(server, process)
            yield server
            process.send_signal(signal.SIGTERM)
            assert process.wait(EXIT_SECONDS) == 0
        finally:
            process.kill()
            process.wait()


def wait_until_ready(server: Server, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        assert process.poll() is None
        assert time.monotonic() < deadline, "it is not ready"
        try:
            server.upgrade("?ticket=none")
        except OSError:
            time.sleep(0.05)
        else:
            return


async def converse(server: Server) -> None:
    """Open many connections, and send a message over each."""
    for number in range(OPENINGS):
        async with server.connect(f"user-{number}") as client:
            await client.send("user_message", {"content": "hello", "agent": "echo"})
            await client.until("agent_completed")


@pytest.mark.parametrize("host", ["own", "stock"])
def test_an_unread_log_blocks_neither_the_server_nor_its_exit(tmp_path: Path, host: str) -> None:
    with kept_port() as port:
        own = ["-m", "netra_trio", "serve", "--port", f"{port}"]
        stock = ["-m", "hypercorn", "--worker-class", "trio", "netra_trio.asgi:app"]
        command = own if host == "own" else [*stock, "-b", f"127.0.0.1:{port}"]
        with serving_unread(tmp_path, command, port) as server:
            trio.run(converse, server)
            assert server.http("GET", "/ws/health").status_code == 200
            text = server.http("GET", "/metrics").text
            assert f'\nnetra_openings_total{{result="opened"}} {OPENINGS}.0\n' in text
            assert "\nnetra_log_lines_dropped_total 0.0\n" in text
