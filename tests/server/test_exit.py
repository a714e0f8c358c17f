"""The exit of the process: in time, whatever is blocked, and with its reason where it can."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs
from support.ports import kept_port
from support.server import PATIENCE, STARTING, clean_environ, serving, stock_command, write_agents
from trio.testing import wait_all_tasks_blocked

from netra_trio.server import exit as exits

EXIT_SECONDS = 10.0  # from the signal to the exit
BUSY_SECONDS = 6.0  # more on a busy machine


@pytest.fixture
def codes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the exit codes that the process would have ended with."""
    asked: list[int] = []
    monkeypatch.setattr("os._exit", asked.append)
    return asked


def watched(watchdog: exits.ExitWatchdog) -> None:
    """Wait for the watchdog's thread."""
    watchdog._thread.join(60)
    assert not watchdog._thread.is_alive()


def test_a_forced_exit_logs_its_reason(codes: list[int]) -> None:
    with capture_logs() as logs:
        exits.exit_now(1, "second signal: ended at once")
    assert codes == [1]
    assert [(line["event"], line["code"]) for line in logs] == [("exit", 1)]


def test_an_unread_output_does_not_delay_the_exit(
    codes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    read, written = threading.Event(), threading.Event()

    def flush() -> None:
        read.wait(PATIENCE)
        written.set()

    monkeypatch.setattr(exits, "flush", flush)
    exits.exit_now(0, "tasks did not end in time")
    exits.flush_or_exit(3)
    assert codes == [0, 3]
    assert not written.is_set()
    read.set()


def test_an_output_that_is_read_needs_no_exit(codes: list[int]) -> None:
    exits.flush_or_exit()
    assert codes == []


def test_an_end_without_a_signal_stops_the_watchdog(codes: list[int]) -> None:
    with exits.ExitWatchdog(0.0) as watchdog:
        pass
    watched(watchdog)
    assert codes == []


def test_an_end_in_time_stops_the_watchdog(codes: list[int]) -> None:
    with exits.ExitWatchdog(60.0) as watchdog:
        watchdog.note(signal.SIGTERM)
    watched(watchdog)
    assert codes == []


def test_a_drain_that_takes_too_long_exits_with_code_0(
    codes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exits, "FORCED_AFTER", 0.05)
    with exits.ExitWatchdog(0.0) as watchdog:
        watchdog.note(signal.SIGTERM)
        watched(watchdog)
    assert codes == [0]


def test_a_second_signal_exits_with_code_1(codes: list[int]) -> None:
    with exits.ExitWatchdog(60.0) as watchdog:
        watchdog.note(signal.SIGTERM)
        watchdog.note(signal.SIGINT)
        watched(watchdog)
    assert codes == [1]


def test_a_second_signal_without_effect(codes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exits, "FORCED_AFTER", 0.05)
    with exits.ExitWatchdog(0.0, ignores_second=True) as watchdog:
        watchdog.note(signal.SIGTERM)
        watchdog.note(signal.SIGTERM)
        watched(watchdog)
    assert codes == [0]


async def test_the_first_signal_drains_and_the_watchdog_gets_every_one(codes: list[int]) -> None:
    drains: list[str] = []

    async def drain() -> None:
        await trio.lowlevel.checkpoint()
        drains.append("drained")

    before = [signal.getsignal(number) for number in exits.SIGNALS]
    with exits.ExitWatchdog(60.0) as watchdog:
        async with trio.open_nursery() as nursery:
            drained: trio.Event = await nursery.start(exits.drain_on_signal, drain, watchdog)
            os.kill(os.getpid(), signal.SIGTERM)
            with trio.fail_after(PATIENCE):
                await drained.wait()
            assert drains == ["drained"]
            os.kill(os.getpid(), signal.SIGINT)
            await wait_all_tasks_blocked(0.01)
            watched(watchdog)
            nursery.cancel_scope.cancel()
    assert codes == [1]
    assert [signal.getsignal(number) for number in exits.SIGNALS] == before


def full_pipe() -> tuple[int, int]:
    """Return a pipe that holds as much as it can: a write to it blocks."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        while True:
            os.write(writing, b"x" * 4096)
    except BlockingIOError:
        pass
    os.set_blocking(writing, True)
    return reading, writing


@pytest.mark.parametrize("host", ["own", "stock"])
def test_it_exits_in_time_though_nothing_reads_its_outputs(tmp_path: Path, host: str) -> None:
    """Standard output and standard error are full pipes from the start."""
    reading, writing = full_pipe()
    with kept_port() as port, ExitStack() as stack:
        stack.callback(os.close, reading)
        stack.callback(os.close, writing)
        own = ["-m", "netra_trio", "serve", "--port", str(port)]
        stock = [*stock_command()[:-1], f"127.0.0.1:{port}"]
        process = subprocess.Popen(  # noqa: S603 - a test's own command line
            [sys.executable, *(own if host == "own" else stock)],
            cwd=tmp_path,
            env=clean_environ(tmp_path, {"WEBSOCKET_DRAIN_TIMEOUT": "2000"}, measured=False),
            stdin=subprocess.DEVNULL,
            stdout=writing,
            stderr=writing,
        )
        stack.callback(process.kill)
        deadline = time.monotonic() + STARTING
        while not is_answering(port):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
        assert time.monotonic() - begun < EXIT_SECONDS + BUSY_SECONDS


def is_answering(port: int) -> bool:
    """Return whether the server answers a request: it handles signals by then."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as sock:
            sock.sendall(b"GET /ws/health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            return bool(sock.recv(1))
    except OSError:
        return False


AGENTS = """
import time

import trio

async def block(run):
    await run.emit("blocking")
    await trio.sleep(0.5)
    time.sleep(60)
"""


async def test_it_exits_in_time_though_an_agent_blocks_the_loop(tmp_path: Path) -> None:
    write_agents(tmp_path, AGENTS)
    agent = ("--agent", "outside_agents:block")
    with serving(tmp_path, *agent, WEBSOCKET_DRAIN_TIMEOUT="1000") as server:
        async with server.connect() as client:
            await client.say("block")
            await client.until("partial_result")
            begun = time.monotonic()
            code = await trio.to_thread.run_sync(server.process.end)
        assert code == 0
        assert time.monotonic() - begun < EXIT_SECONDS + BUSY_SECONDS
        assert server.process.logs("exit")
