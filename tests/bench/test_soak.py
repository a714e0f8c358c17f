"""The soak works from end to end, and notices what is left over."""

import json
import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import evolve, fields

from bench import soak
from bench.faults import HOST, Relay
from bench.talkers import FAULTS
from bench.watcher import TABLES, Sample, rows_of

PATIENCE = 20.0  # seconds: a bound, not a wait
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


def test_a_short_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "soak.json"
    code = soak.main(["--minutes", "0.15", "--clients", "4", "--out", str(out)])
    shown = capsys.readouterr().out
    assert code == 0, shown
    assert shown.endswith("Nothing is left over.\n")
    found = json.loads(out.read_text())
    assert found["plan"] == {"minutes": 0.15, "clients": 4, "seed": 1}
    assert {"cpu", "cores", "kernel", "python", "versions"} <= set(found["machine"])
    assert set(found["before"]) == {field.name for field in fields(Sample)}
    assert found["counts"]["confirmed"] > 0
    assert found["after"]["rows"]["runs"] > found["counts"]["confirmed"]
    assert set(found["faults"]) <= set(FAULTS)
    assert found["samples"]
    assert found["wrong"] == []


@pytest.mark.parametrize("arguments", [["--minutes", "0"], ["--clients", "0"]])
def test_what_cannot_be_done(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        soak.main(arguments)


def test_a_server_that_does_not_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(soak, "UNLIMITED", "not a number")
    assert soak.main(["--minutes", "1", "--out", str(tmp_path / "soak.json")]) == 1
    assert "WEBSOCKET_MAX_MESSAGE_RATE" in capsys.readouterr().out
    assert not (tmp_path / "soak.json").exists()


# What is left over.


def test_nothing_is() -> None:
    assert soak.left_over(BEFORE, BEFORE) == []
    assert soak.left_over(BEFORE, evolve(BEFORE, tasks=16, threads=2, objects=9_999)) == []


@pytest.mark.parametrize("name", ["tasks", "sockets", "files", "threads"])
def test_one_more_is_left_over(name: str) -> None:
    more: dict[str, Any] = {name: getattr(BEFORE, name) + 1}
    (told,) = soak.left_over(BEFORE, evolve(BEFORE, **more))
    assert told.startswith(f"{name}: ")


def test_memory_at_its_bound_and_beyond() -> None:
    bound = BEFORE.rss_kib * soak.MEMORY_FACTOR + soak.MEMORY_KIB
    assert soak.left_over(BEFORE, evolve(BEFORE, rss_kib=bound)) == []
    (told,) = soak.left_over(BEFORE, evolve(BEFORE, rss_kib=bound + 1))
    assert told.startswith("memory: ")


def test_files_of_the_database_at_their_bound_and_beyond() -> None:
    bound = evolve(BEFORE, database_files=soak.DATABASE_FILES)
    assert soak.left_over(BEFORE, bound) == []
    (told,) = soak.left_over(BEFORE, evolve(bound, database_files=soak.DATABASE_FILES + 1))
    assert told.startswith("database: ")


def test_a_row_of_an_owner() -> None:
    rows = {**BEFORE.rows, "owners": 2}
    assert soak.left_over(BEFORE, evolve(BEFORE, rows=rows)) == ["owners: 1 rows before, 2 after"]


@pytest.mark.parametrize(
    ("rows", "owners", "told"),
    [
        ({"a": "completed", "b": "cancelled"}, 0, []),
        ({"a": "completed"}, 0, ["b: confirmed, and not in the database"]),
        ({"a": "running", "b": "interrupted"}, 0, ["a: running in the end"]),
        ({"a": "completed", "b": "failed", "c": "queued"}, 0, ["c: queued in the end"]),
        ({"a": "completed", "b": "timed_out"}, 1, ["1 owners in the end"]),
    ],
    ids=["fine", "lost", "running", "queued", "owner"],
)
def test_what_the_database_has_in_the_end(
    tmp_path: Path, rows: Mapping[str, str], owners: int, told: list[str]
) -> None:
    database = database_of(tmp_path, list(rows.items()), owners)
    assert soak.unsettled(database, {"a", "b"}) == told


def test_a_message_that_is_there_twice(tmp_path: Path) -> None:
    database = database_of(tmp_path, [("a", "completed"), ("a", "completed")], 0)
    assert soak.unsettled(database, {"a"}) == ["a: 2 times in the database"]


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


# What happens to lines.


@asynccontextmanager
async def relayed() -> AsyncIterator[tuple[Relay, trio.SocketStream, trio.SocketStream]]:
    """Return a relay, a client's end of a line through it, and the server's end."""
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
                assert await far.receive_some() == b"?"  # so the relay has the line
                yield relay, near, far
            nursery.cancel_scope.cancel()


async def test_a_line_passes_everything_on() -> None:
    async with relayed() as (_, near, far):
        await near.send_all(b"there")
        assert await far.receive_some() == b"there"
        await far.send_all(b"back")
        assert await near.receive_some() == b"back"
        await near.send_eof()
        assert await far.receive_some() == b""
        await far.send_all(b"still")
        assert await near.receive_some() == b"still"


async def test_a_line_that_is_cut_is_reset_on_both_sides() -> None:
    async with relayed() as (relay, near, far):
        relay.cut()
        for end in (near, far):
            with pytest.raises(trio.BrokenResourceError):
                await end.receive_some()


async def test_a_half_open_line_says_nothing_and_then_ends() -> None:
    async with relayed() as (relay, near, far):
        relay.freeze(0.3)
        await near.send_all(b"lost")
        started = trio.current_time()
        with pytest.raises(trio.BrokenResourceError):
            await far.receive_some()
        assert trio.current_time() - started > 0.2


async def test_a_slow_line_passes_everything_on_in_pieces() -> None:
    async with relayed() as (relay, near, far):
        relay.slow(PATIENCE)
        await near.send_all(b"first")  # whoever waits to read has asked for more than is slow
        assert await far.receive_some() == b"first"
        await near.send_all(b"x" * 1000)
        assert len(await far.receive_some()) <= 256


async def end_of(line: trio.SocketStream) -> bool:
    """Return whether there is nothing more to read."""
    try:
        return await line.receive_some() == b""
    except trio.BrokenResourceError:
        return True


async def test_nobody_behind_a_relay() -> None:
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            relay = Relay(1)
            port = await nursery.start(relay.serve)
            async with await trio.open_tcp_stream(HOST, port) as near:
                assert await end_of(near)
            nursery.cancel_scope.cancel()
