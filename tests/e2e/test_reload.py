"""`netra-trio serve --reload`: the server restarts after an edit, and ends with its parent."""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
from support.ports import HOST
from support.server import (
    PATIENCE,
    SOON,
    Process,
    Server,
    open_line,
    serving,
    write_agents,
)
from support.terminal import CTRL_C, terminal

from netra_trio.cli.errors import CommandError
from netra_trio.cli.workers import worker
from netra_trio.cli.workers.changes import listed, watch

AGENT = "--agent=outside_agents:answer"
SOURCE = """
import os
import pathlib
import time

import trio


async def answer(run):
    await run.emit(f"ANSWER {os.getpid()}")
    if run.content == "wait":
        await trio.sleep_forever()
    if run.content == "shield":
        with trio.CancelScope(shield=True):
            await trio.sleep_forever()
    if run.content == "block":
        pathlib.Path("part").write_text(str(os.getpid()))
        os.rename("part", "pid")
        time.sleep(3600)
"""
# While the module is imported, until there is a file `go`.
WAITS = """
import pathlib
import time
pathlib.Path("importing").touch()
while not pathlib.Path("go").exists():
    time.sleep(0.01)
"""
EXIT_SECONDS = 10.0  # from the signal to the end of both processes
BUSY_SECONDS = 6.0  # more on a busy machine


def write(folder: Path, answer: str = "one", more: str = "") -> None:
    write_agents(folder, more + SOURCE.replace("ANSWER", answer))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    write(tmp_path)
    with serving(tmp_path, AGENT, "--reload") as running:
        yield running


def wait_until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SOON
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def wait_ready(process: Process, count: int) -> None:
    process.out.wait_for(lambda lines: sum("Ready on" in line for line in lines) >= count)


def errors(process: Process) -> list[str]:
    return [line for line in process.err.lines if not line.startswith("{")]


async def said(server: Server, content: str = "hi") -> tuple[str, int]:
    """Return what the agent answers, and the process that it is in."""
    async with server.connect() as client:
        await client.say(content)
        frames = await client.until("partial_result")
        text, _, pid = frames[-1]["payload"]["content"].partition(" ")
        return text, int(pid)


def has_ended(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[0] == "Z"  # nobody has waited for it


@contextmanager
def ends_in_time() -> Iterator[None]:
    start = time.monotonic()
    yield
    assert time.monotonic() - start < EXIT_SECONDS + BUSY_SECONDS


async def test_an_edit_restarts_the_server(server: Server, tmp_path: Path) -> None:
    first, pid = await said(server)
    assert first == "one"
    async with server.connect() as client:
        await client.say("wait")
        await client.until("partial_result")
        write(tmp_path, "two", WAITS)
        frames, code = await client.rest()
    assert code == 1012
    ends = [f["payload"] for f in frames if f["type"] == "agent_completed"]
    assert [end["status"] for end in ends] == ["interrupted"]
    assert "server_draining" in [frame["type"] for frame in frames]

    # While the new server starts, connections wait: they are not refused.
    wait_until((tmp_path / "importing").exists)
    line = await trio.to_thread.run_sync(open_line, server.address)
    with line:
        line.sendall(b"GET /ws/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        (tmp_path / "go").touch()
        assert await trio.to_thread.run_sync(line.recv, 12) == b"HTTP/1.1 200"
    second, other_pid = await said(server)
    assert (second, other_pid != pid, has_ended(pid)) == ("two", True, True)
    assert errors(server.process) == ["outside_agents.py changed: the server restarts"]


async def test_a_broken_agent_waits_for_the_next_edit(server: Server, tmp_path: Path) -> None:
    write_agents(tmp_path, "def answer(:\n")
    waits = "The server has ended (exit code 1); it starts again after the next change."
    server.process.err.wait_for(lambda lines: waits in lines)
    assert errors(server.process) == [
        "outside_agents.py changed: the server restarts",
        "--agent outside_agents:answer: outside_agents.py:1: invalid syntax: def answer(:",
        waits,
    ]
    # None of these is a source.
    (tmp_path / "server.log").touch()
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "agents.py").touch()
    write(tmp_path, "corrected")
    assert (await said(server))[0] == "corrected"
    changes = [line for line in errors(server.process) if "changed" in line]
    assert changes == ["outside_agents.py changed: the server restarts"] * 2


def test_a_broken_agent_at_the_start(tmp_path: Path) -> None:
    write_agents(tmp_path, "")
    command = ["-m", "netra_trio", "serve", "--port", "0", AGENT, "--reload"]
    with Process(command, directory=tmp_path, environ={}) as process:
        process.err.wait_for(lambda lines: any("has ended" in line for line in lines))
        assert "outside_agents has no answer" in process.err.text
        write(tmp_path)
        wait_ready(process, 1)
        assert process.end(signal.SIGINT) == 0


def test_wrong_settings_stop_the_start(tmp_path: Path) -> None:
    command = ["-m", "netra_trio", "serve", "--port", "0", "--reload"]
    wrong = {"WEBSOCKET_BURST_QUEUE": "many"}
    with Process(command, directory=tmp_path, environ=wrong) as process:
        assert process.wait() == 1
        assert process.err.text.startswith("WEBSOCKET_BURST_QUEUE: ")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_both_processes(server: Server, number: signal.Signals) -> None:
    _, pid = await said(server, "wait")
    with ends_in_time():
        assert await trio.to_thread.run_sync(server.process.end, number) == 0
    assert has_ended(pid)
    assert "Traceback" not in server.process.err.text


def test_ctrl_c_in_a_terminal(tmp_path: Path) -> None:
    write(tmp_path)
    command = ["-m", "netra_trio", "serve", "--port", "0", AGENT, "--reload"]
    with terminal(command, directory=tmp_path) as shown:
        shown.wait_for("Ctrl-C stops it.")
        with ends_in_time():
            shown.press(CTRL_C)
            assert shown.wait() == 0
        assert "Traceback" not in shown.shown


async def test_a_second_signal_ends_at_once(server: Server) -> None:
    _, pid = await said(server, "shield")
    server.process.send_signal(signal.SIGTERM)
    await trio.to_thread.run_sync(lambda: server.process.wait_log("draining"))
    assert await trio.to_thread.run_sync(server.process.end) == 1
    assert has_ended(pid)


@pytest.mark.parametrize("blocks", [False, True])
async def test_the_server_ends_with_a_killed_parent(
    server: Server, tmp_path: Path, blocks: bool
) -> None:
    if blocks:  # its event loop, so that nothing it has sent arrives
        async with server.connect() as client:
            await client.say("block")
            await trio.to_thread.run_sync(wait_until, (tmp_path / "pid").exists)
            pid = int((tmp_path / "pid").read_text())
            await killed(server, pid)
    else:
        _, pid = await said(server, "wait")
        await killed(server, pid)


async def killed(server: Server, pid: int) -> None:
    """Kill the parent: the process of the server has to end, and with it the socket."""
    with ends_in_time():
        server.process.popen.kill()
        await trio.to_thread.run_sync(wait_until, lambda: has_ended(pid))
        # The sockets of a process are closed with its last thread, just after that.
        await trio.to_thread.run_sync(wait_until, lambda: refuses(server.port))


def refuses(port: int) -> bool:
    try:
        socket.create_connection((HOST, port)).close()
    except ConnectionRefusedError:
        return True
    return False


async def test_a_server_that_was_killed_starts_after_the_next_edit(
    server: Server, tmp_path: Path
) -> None:
    _, pid = await said(server)
    os.kill(pid, signal.SIGKILL)
    server.process.err.wait_for(lambda lines: any("exit code -9" in line for line in lines))
    write(tmp_path, "again")
    assert (await said(server))[0] == "again"


# --- parts


async def test_a_folder_that_cannot_be_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no space left for watches")

    monkeypatch.setattr("watchfiles.awatch", fail)
    send, _ = trio.open_memory_channel[list[str]](0)
    with pytest.RaisesGroup(
        pytest.RaisesExc(CommandError, match="no space left for watches; WATCHFILES_FORCE")
    ):
        await watch(tmp_path, send)


async def test_the_watcher_ends_when_it_is_cancelled(tmp_path: Path) -> None:
    send, changes = trio.open_memory_channel[list[str]](0)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, tmp_path, send)
            found: list[str] = []
            while "a.py" not in found:  # the watcher begins some time after the task
                (tmp_path / "a.py").write_text("")
                with trio.move_on_after(0.5):
                    found = await changes.receive()
            start = trio.current_time()
            nursery.cancel_scope.cancel()
    assert trio.current_time() - start < 4  # not after the poll of a watcher's thread


@pytest.mark.parametrize(
    ("names", "shown"),
    [(["a.py"], "a.py"), (["a", "b", "c"], "a, b, c"), (list("abcde"), "a, b, c and 2 more")],
)
def test_the_names_of_changed_files(names: list[str], shown: str) -> None:
    assert listed(names) == shown


def test_the_end_of_the_other_process(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[object] = []
    monkeypatch.setattr("os.kill", lambda *given: ended.append(given))
    monkeypatch.setattr("os._exit", ended.append)
    monkeypatch.setattr("time.sleep", ended.append)
    alive, kept = os.pipe()
    os.close(kept)
    worker.end_with(alive, 2.5)
    os.close(alive)
    assert ended == [(os.getpid(), signal.SIGTERM), 2.5, 1]
