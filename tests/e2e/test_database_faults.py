"""Databases that a server cannot use, and faults of a database that are no outage."""

import os
import pwd
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import trio
from sqlalchemy import Connection
from stores.conftest import bring_up
from stores.samples import change
from support.commands import Typed
from support.postgres import PostgresServer, postgres_server
from support.server import Server, run, serving

from netra_trio.cli.check_services import check_database
from netra_trio.config.settings import Settings
from netra_trio.stores.sql.migrate import migrate
from netra_trio.stores.sql.schema import REVISIONS

pytestmark = pytest.mark.unmeasured

ROLE = "chat"
UNSTORABLE = "what no encoding has"
REFUSE = f"""
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE 'no' USING ERRCODE = 'untranslatable_character'; END $$;
CREATE TRIGGER refuses BEFORE INSERT ON messages FOR EACH ROW
    WHEN (NEW.content = '{UNSTORABLE}') EXECUTE FUNCTION refuse();
"""


@pytest.fixture(scope="module")
def own_server() -> Iterator[PostgresServer]:
    """Return a server whose settings the tests here change."""
    with postgres_server(can_be_standby=True) as server:
        server.execute(f"CREATE ROLE {ROLE} LOGIN")
        yield server


@pytest.fixture
def name(own_server: PostgresServer) -> Iterator[str]:
    """Return the name of an empty database."""
    name = own_server.create_database().rpartition("/")[2]
    yield name
    own_server.drop_database(name)


def as_role(server: PostgresServer, name: str) -> str:
    """Return the url of a database for a role that owns nothing."""
    return server.url(name).replace("postgres@", f"{ROLE}@")


def line_of(out: str) -> str:
    """Return the line about the database."""
    (line,) = [line for line in out.splitlines() if line.startswith("database: ")]
    return line


def contents_of(server: PostgresServer, name: str) -> list[str]:
    """Return what is in a database: its tables, and the rows of each."""
    listed = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1"
    names = [row[0] for row in server.execute(listed, name)]
    tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"
    for (table,) in server.execute(tables, name):
        names += [str(row) for row in server.execute(f"SELECT * FROM {table}", name)]  # noqa: S608
    return names


# --- check


def test_check_tries_to_create_the_schema(
    typed: Typed, own_server: PostgresServer, name: str
) -> None:
    code, out, _ = typed("check", DATABASE_URL=own_server.url(name))
    assert code == 0
    assert line_of(out).endswith("takes writes, no schema yet; the first start creates it")
    assert contents_of(own_server, name) == []


def test_check_tries_to_write(typed: Typed, own_server: PostgresServer, name: str) -> None:
    url = own_server.url(name)
    typed("user", "add", "alice", DATABASE_URL=url)
    before = contents_of(own_server, name)
    code, out, _ = typed("check", DATABASE_URL=url)
    assert code == 0
    assert line_of(out).endswith(f"takes writes, schema {REVISIONS[-1]}")
    assert contents_of(own_server, name) == before


def test_check_of_a_role_that_may_not_create_the_schema(
    typed: Typed, own_server: PostgresServer, name: str
) -> None:
    code, out, err = typed("check", DATABASE_URL=as_role(own_server, name))
    assert code == 1
    line = line_of(out)
    assert line.startswith("database: cannot be used: InsufficientPrivilege: permission denied")
    assert "GRANT USAGE, CREATE ON SCHEMA public" in line
    assert "a service that they name does not answer" in err
    own_server.execute(f"GRANT USAGE, CREATE ON SCHEMA public TO {ROLE}", name)
    assert typed("check", DATABASE_URL=as_role(own_server, name))[0] == 0


@pytest.mark.parametrize("right", ["INSERT", "UPDATE", "DELETE", "SELECT"])
@pytest.mark.parametrize("table", ["users", "runs", "owners"])
def test_check_of_a_role_without_a_right(
    typed: Typed, own_server: PostgresServer, name: str, table: str, right: str
) -> None:
    bring_up(own_server.url(name))
    own_server.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {ROLE}", name)
    own_server.execute(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {ROLE}", name)
    url = as_role(own_server, name)
    assert typed("check", DATABASE_URL=url)[0] == 0
    own_server.execute(f"REVOKE {right} ON {table} FROM {ROLE}", name)
    code, out, _ = typed("check", DATABASE_URL=url)
    assert code == 1
    assert f"permission denied for table {table}" in line_of(out)


@pytest.mark.parametrize("has_schema", [True, False])
def test_check_of_a_server_that_only_reads(
    typed: Typed, own_server: PostgresServer, name: str, has_schema: bool
) -> None:
    if has_schema:
        bring_up(own_server.url(name))
    own_server.demote()
    try:
        code, out, _ = typed("check", DATABASE_URL=own_server.url(name))
    finally:
        own_server.promote()
    assert code == 1
    line = line_of(out)
    assert line.startswith("database: cannot be used: ReadOnlySqlTransaction: ")
    assert "name the primary, or all servers, in DATABASE_URL" in line
    assert typed("check", DATABASE_URL=own_server.url(name))[0] == 0


def test_check_of_several_servers_without_a_primary(
    typed: Typed, own_server: PostgresServer, name: str
) -> None:
    host = f"127.0.0.1:{own_server.port}"
    own_server.refuse_writes()
    try:
        url = f"postgresql://postgres@/{name}?host={host}&host={host}"
        code, out, _ = typed("check", DATABASE_URL=url)
    finally:
        own_server.refuse_writes(refuse=False)
    assert code == 1
    assert line_of(out).startswith("database: does not answer: OperationalError: ")
    assert typed("check", DATABASE_URL=url)[0] == 0


def to_oldest(connection: Connection) -> None:
    migrate(connection, REVISIONS[0])


def test_check_of_an_older_schema(typed: Typed, own_server: PostgresServer, name: str) -> None:
    url = own_server.url(name)
    bring_up(url)
    change(url, to_oldest)
    before = contents_of(own_server, name)
    code, out, _ = typed("check", DATABASE_URL=url)
    assert code == 0
    expected = f"schema {REVISIONS[0]}; the next start brings it to {REVISIONS[-1]}"
    assert line_of(out).endswith(expected)
    assert contents_of(own_server, name) == before


def test_check_of_an_older_schema_that_may_not_be_changed(
    typed: Typed, own_server: PostgresServer, name: str
) -> None:
    bring_up(own_server.url(name))
    change(own_server.url(name), to_oldest)
    own_server.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {ROLE}", name)
    code, out, _ = typed("check", DATABASE_URL=as_role(own_server, name))
    assert code == 1
    assert "does not own the tables alembic_version, messages, runs, threads, users" in line_of(out)
    for table in ("alembic_version", "messages", "runs", "threads", "users"):
        own_server.execute(f"ALTER TABLE {table} OWNER TO {ROLE}", name)
    code, out, _ = typed("check", DATABASE_URL=as_role(own_server, name))
    assert code == 1
    assert "its role may create no table" in line_of(out)
    own_server.execute(f"GRANT CREATE ON SCHEMA public TO {ROLE}", name)
    assert typed("check", DATABASE_URL=as_role(own_server, name))[0] == 0
    assert typed("user", "list", DATABASE_URL=as_role(own_server, name))[0] == 0


def test_check_of_a_newer_schema(typed: Typed, own_server: PostgresServer, name: str) -> None:
    bring_up(own_server.url(name))
    own_server.execute("UPDATE alembic_version SET version_num = '9999'", name)
    code, out, _ = typed("check", DATABASE_URL=own_server.url(name))
    assert code == 1
    assert line_of(out).startswith("database: cannot be used: DATABASE_URL: the database has")


def test_check_of_a_database_with_other_tables(
    typed: Typed, own_server: PostgresServer, name: str
) -> None:
    own_server.execute("CREATE TABLE users (other text)", name)
    code, out, _ = typed("check", DATABASE_URL=own_server.url(name))
    assert code == 1
    assert "use another database" in line_of(out)


def test_check_of_an_older_sqlite_schema(typed: Typed, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/chat.db"
    bring_up(url)
    change(url, to_oldest)
    code, out, _ = typed("check", DATABASE_URL=url)
    assert code == 0
    assert f"the next start brings it to {REVISIONS[-1]}" in line_of(out)


def test_check_of_an_sqlite_file_that_only_reads(typed: Typed, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/chat.db"
    bring_up(url)
    with closing(sqlite3.connect(tmp_path / "chat.db", isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode=DELETE")
        other.execute("BEGIN EXCLUSIVE")
        code, out, _ = typed("check", DATABASE_URL=url)
        assert code == 1
        assert "database is locked" in line_of(out)
        other.execute("ROLLBACK")
    assert typed("check", DATABASE_URL=url)[0] == 0


def test_check_of_an_sqlite_file_in_no_folder(typed: Typed, tmp_path: Path) -> None:
    code, out, _ = typed("check", DATABASE_URL=f"sqlite:///{tmp_path}/no/where.db")
    assert code == 1
    assert f"create {tmp_path}/no, or use another path" in line_of(out)
    assert not (tmp_path / "no").exists()


@contextmanager
def unprivileged() -> Iterator[None]:
    """Be another user than root, who may write anywhere."""
    own = os.geteuid()
    if own == 0:
        os.seteuid(pwd.getpwnam("nobody").pw_uid)
    try:
        yield
    finally:
        os.seteuid(own)


async def test_check_of_an_sqlite_file_in_a_folder_of_others() -> None:
    with unprivileged():
        found = await check_database(Settings(database_url="sqlite:////proc/1/chat.db"))
    text = "/proc/1/chat.db cannot be created; make /proc/1 writable, or use another path"
    assert found == (False, text)


# --- user


def test_a_user_whom_the_database_refuses(
    typed: Typed, own_server: PostgresServer, name: str
) -> None:
    bring_up(own_server.url(name))
    own_server.execute("ALTER TABLE users ADD CHECK (user_id <> 'bob')", name)
    code, out, err = typed("user", "add", "alice", "bob", DATABASE_URL=own_server.url(name))
    assert code == 1
    assert out.splitlines()[-1] == "alice: added"
    assert err.startswith("the database refuses it: CheckViolation: ")
    assert len(err.splitlines()) == 1


# --- encodings


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
@pytest.mark.parametrize("command", [("serve", "--port", "0"), ("check",), ("user", "list")])
def test_an_encoding_that_cannot_hold_every_text_is_refused_in_one_line(
    tmp_path: Path, own_server: PostgresServer, encoding: str, command: tuple[str, ...]
) -> None:
    name = f"in_{encoding.lower()}"
    own_server.execute(
        f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0 "
        "LC_COLLATE 'C' LC_CTYPE 'C' LOCALE_PROVIDER libc"
    )
    environ = {"DATABASE_URL": own_server.url(name)}
    code, out, err = run(["-m", "netra_trio", *command], directory=tmp_path, environ=environ)
    own_server.drop_database(name)
    assert code == 1
    expected = f"the database has the encoding {encoding}, which cannot hold every text; use one"
    assert len([line for line in (out + err).splitlines() if expected in line]) == 1
    assert "Traceback" not in out + err
    if command[0] != "check":
        assert err.splitlines()[-1].startswith("DATABASE_URL: ")


# --- a running server


async def health(server: Server) -> str:
    answer = await trio.to_thread.run_sync(server.http, "GET", "/ws/health")
    status: str = answer.json()["status"]
    return status


async def test_what_can_never_be_stored_is_refused_permanently(
    tmp_path: Path, own_server: PostgresServer, name: str
) -> None:
    bring_up(own_server.url(name))
    own_server.execute(REFUSE, name)
    with serving(tmp_path, DATABASE_URL=own_server.url(name)) as server:
        async with server.connect() as client:
            for key in ("first", "first", "second"):
                await client.say(UNSTORABLE, key)
                error = await client.error("VALIDATION_ERROR")
                assert error["recoverable"] is True
                assert "retry_after_ms" not in error
                assert "refused again" in error["help"]
            await client.answers()
            await client.say("what every encoding has", "first")  # the key is free
            await client.until("agent_completed")
        assert await health(server) == "healthy"
        logged = server.process.logs()
    assert [line["event"] for line in logged if line["level"] != "info"].count("write_refused") == 3


async def test_ended_sessions_of_the_database_do_not_reach_clients(
    tmp_path: Path, own_server: PostgresServer, name: str
) -> None:
    sessions = f"FROM pg_stat_activity WHERE datname = '{name}'"
    end = f"SELECT count(pg_terminate_backend(pid, 60000)) {sessions}"
    ended = 0
    with serving(tmp_path, DATABASE_URL=own_server.url(name)) as server:
        async with server.connect() as client:
            for number in range(5):
                await client.say("hello", f"{number}")
                await client.until("agent_completed")
                ended += own_server.execute(end)[0][0]
                assert server.upgrade().status == 401  # no token: before any database
                answer = await trio.to_thread.run_sync(server.ticket)
                assert answer
                ended += own_server.execute(end)[0][0]
                assert await health(server) == "healthy"
        logged = [line["event"] for line in server.process.logs()]
    assert ended >= 10
    assert "store_unavailable" not in logged
    stored = own_server.execute("SELECT count(*) FROM runs WHERE status = 'completed'", name)
    assert stored == [(5,)]
