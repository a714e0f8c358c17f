"""The soak works from end to end, and detects leaks and errors."""

import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import evolve, fields
from support.processes import sessions

from bench import proc, soak
from bench.faults import HOST, Relay
from bench.monitor import TABLES, Sample, rows_of
from bench.processes import INTERRUPTED
from bench.users import FAULTS

PATIENCE = 100.0  # seconds: an upper bound
BEFORE = Sample(
    at=1.0,
    tasks=17,
    objects=1000,
    sockets=6,
    files=6,
    database_files=9,
    threads=3,
    rss_kib=80_000.0,
    rows=dict.fromkeys(TABLES, 1),
)


def test_a_short_soak(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "soak.json"
    code = soak.main(["--minutes", "0.15", "--clients", "4", "--out", str(out)])
    shown = capsys.readouterr().out
    assert code == 0, shown
    assert shown.endswith("No leaks and no errors.\n")
    found = json.loads(out.read_text())
    assert found["plan"] == {"minutes": 0.15, "clients": 4, "seed": 1}
    assert {"cpu", "cores", "kernel", "python", "versions"} <= set(found["machine"])
    assert set(found["before"]) == {field.name for field in fields(Sample)}
    assert found["counts"]["confirmed"] > 0
    assert found["after"]["rows"]["runs"] > found["counts"]["confirmed"]
    assert set(found["faults"]) <= set(FAULTS)
    assert found["samples"]
    assert found["errors"] == []


@pytest.mark.parametrize("arguments", [["--minutes", "0"], ["--clients", "0"]])
def test_invalid_arguments_are_rejected(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        soak.main(arguments)


@pytest.mark.parametrize(
    ("number", "first_line"),
    [(signal.SIGTERM, ""), (signal.SIGTERM, "before: "), (signal.SIGINT, "before: ")],
    ids=["SIGTERM at the start", "SIGTERM in a phase", "SIGINT in a phase"],
)
def test_a_signal_ends_the_server_too(
    tmp_path: Path, number: signal.Signals, first_line: str
) -> None:
    arguments = ["--minutes", "0.5", "--clients", "2", "--out", str(tmp_path / "soak.json")]
    command = [sys.executable, "-u", "-m", "bench.soak", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        assert process.stdout is not None
        deadline = time.monotonic() + 3 * PATIENCE
        while not sessions(started := proc.tree(process.pid)):  # of its server
            assert time.monotonic() < deadline
            time.sleep(0.02)
        while first_line and not process.stdout.readline().startswith(first_line):
            assert time.monotonic() < deadline
        process.send_signal(number)
        process.communicate(timeout=PATIENCE)
        assert process.returncode == INTERRUPTED
    assert not [pid for pid in started if proc.is_alive(pid)]
    assert not (tmp_path / "soak.json").exists()


def test_a_server_that_does_not_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(soak, "UNLIMITED", "not a number")
    assert soak.main(["--minutes", "1", "--out", str(tmp_path / "soak.json")]) == 1
    assert "WEBSOCKET_MAX_MESSAGE_RATE" in capsys.readouterr().out
    assert not (tmp_path / "soak.json").exists()


# Leaks.


def test_no_leaks() -> None:
    assert soak.leaks(BEFORE, BEFORE) == []
    assert soak.leaks(BEFORE, evolve(BEFORE, tasks=16, threads=2, objects=900)) == []


@pytest.mark.parametrize("name", ["tasks", "sockets", "files", "threads"])
def test_one_more_is_a_leak(name: str) -> None:
    more: dict[str, Any] = {name: getattr(BEFORE, name) + 1}
    (error,) = soak.leaks(BEFORE, evolve(BEFORE, **more))
    assert error.startswith(f"{name}: ")


def test_memory_at_its_bound_and_beyond() -> None:
    bound = BEFORE.rss_kib * soak.MEMORY_FACTOR + soak.MEMORY_KIB
    assert soak.leaks(BEFORE, evolve(BEFORE, rss_kib=bound)) == []
    (error,) = soak.leaks(BEFORE, evolve(BEFORE, rss_kib=bound + 1))
    assert error.startswith("memory: ")


def test_objects_at_their_bound_and_beyond() -> None:
    bound = round(BEFORE.objects * soak.OBJECTS_FACTOR) + soak.OBJECTS
    assert soak.leaks(BEFORE, evolve(BEFORE, objects=bound)) == []
    (error,) = soak.leaks(BEFORE, evolve(BEFORE, objects=bound + 1))
    assert error.startswith("objects: ")


@pytest.mark.parametrize(
    ("counts", "faults", "errors"),
    [
        ({"completed": 1}, {"cut": 1}, []),
        ({"refused: SERVICE_UNAVAILABLE": 9}, {"cut": 1}, ["no message was answered"]),
        ({"completed": 1}, {}, ["no fault was injected"]),
    ],
)
def test_a_soak_in_which_nothing_happened_is_an_error(
    counts: Mapping[str, int], faults: Mapping[str, int], errors: list[str]
) -> None:
    assert soak.idleness(counts, faults) == errors


def test_files_of_the_database_at_their_bound_and_beyond() -> None:
    bound = evolve(BEFORE, database_files=soak.DATABASE_FILES)
    assert soak.leaks(BEFORE, bound) == []
    (error,) = soak.leaks(BEFORE, evolve(bound, database_files=soak.DATABASE_FILES + 1))
    assert error.startswith("database: ")


def test_a_row_of_an_owner_is_a_leak() -> None:
    rows = {**BEFORE.rows, "owners": 2}
    assert soak.leaks(BEFORE, evolve(BEFORE, rows=rows)) == ["owners: 1 rows before, 2 after"]


@pytest.mark.parametrize(
    ("rows", "owners", "errors"),
    [
        ({"a": "completed", "b": "cancelled"}, 0, []),
        ({"a": "completed"}, 0, ["b: confirmed, not in the database"]),
        ({"a": "running", "b": "interrupted"}, 0, ["a: running in the end"]),
        ({"a": "completed", "b": "failed", "c": "queued"}, 0, ["c: queued in the end"]),
        ({"a": "completed", "b": "timed_out"}, 1, ["1 owners in the end"]),
    ],
    ids=["fine", "lost", "running", "queued", "owner"],
)
def test_the_database_has_each_message_once_with_its_end(
    tmp_path: Path, rows: Mapping[str, str], owners: int, errors: list[str]
) -> None:
    database = database_of(tmp_path, list(rows.items()), owners)
    assert soak.database_errors(database, {"a", "b"}) == errors


def test_a_duplicate_message_is_an_error(tmp_path: Path) -> None:
    database = database_of(tmp_path, [("a", "completed"), ("a", "completed")], 0)
    assert soak.database_errors(database, {"a"}) == ["a: 2 times in the database"]


def database_of(folder: Path, rows: list[tuple[str, str]], owners: int) -> Path:
    path = folder / "soak.db"
    with sqlite3.connect(path) as connection:
        for name in set(TABLES) - {"runs"}:
            connection.execute(f"CREATE TABLE {name} (number)")
        connection.execute("CREATE TABLE runs (correlation_id, status, keyed)")
        connection.executemany("INSERT INTO runs VALUES (?, ?, 1)", rows)
        connection.executemany("INSERT INTO owners VALUES (?)", [(n,) for n in range(owners)])
    connection.close()
    assert rows_of(path)["runs"] == len(rows)
    return path


# The relay.


@asynccontextmanager
async def relayed() -> AsyncIterator[tuple[Relay, trio.SocketStream, trio.SocketStream]]:
    """Yield a relay, and the client's and the server's end of a connection through it."""
    arrived, arrivals = trio.open_memory_channel[trio.SocketStream](1)

    async def take(stream: trio.SocketStream) -> None:
        await arrived.send(stream)
        await trio.sleep_forever()

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            listeners = await trio.open_tcp_listeners(0, host=HOST)
            nursery.start_soon(trio.serve_listeners, take, listeners)
            relay = Relay(listeners[0].socket.getsockname()[1])
            port = await nursery.start(relay.serve)
            async with await trio.open_tcp_stream(HOST, port) as near:
                far = await arrivals.receive()
                await near.send_all(b"?")
                assert await far.receive_some() == b"?"  # the relay has the connection
                yield relay, near, far
            nursery.cancel_scope.cancel()


async def test_a_connection_forwards_all_bytes() -> None:
    async with relayed() as (_, near, far):
        await near.send_all(b"there")
        assert await far.receive_some() == b"there"
        await far.send_all(b"back")
        assert await near.receive_some() == b"back"
        await near.send_eof()
        assert await far.receive_some() == b""
        await far.send_all(b"still")
        assert await near.receive_some() == b"still"


async def test_a_cut_connection_is_reset_on_both_sides() -> None:
    async with relayed() as (relay, near, far):
        relay.cut()
        for end in (near, far):
            with pytest.raises(trio.BrokenResourceError):
                await end.receive_some()


async def test_a_half_open_connection_forwards_nothing_and_is_reset() -> None:
    async with relayed() as (relay, near, far):
        started = trio.current_time()
        relay.freeze(0.3)
        await near.send_all(b"lost")
        with pytest.raises(trio.BrokenResourceError):
            await far.receive_some()
        assert trio.current_time() - started > 0.2


async def test_a_slow_connection_forwards_all_bytes_in_pieces() -> None:
    async with relayed() as (relay, near, far):
        relay.slow(PATIENCE)
        await near.send_all(b"first")  # the pending read still has the full size
        assert await far.receive_some() == b"first"
        await near.send_all(b"x" * 1000)
        assert len(await far.receive_some()) <= 256


async def has_ended(stream: trio.SocketStream) -> bool:
    """Return whether the stream has ended, by EOF or reset."""
    try:
        return await stream.receive_some() == b""
    except trio.BrokenResourceError:
        return True


async def test_a_relay_without_a_server_closes() -> None:
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            relay = Relay(1)
            port = await nursery.start(relay.serve)
            async with await trio.open_tcp_stream(HOST, port) as near:
                assert await has_ended(near)
            nursery.cancel_scope.cancel()
