"""A real PgBouncer in front of a PostgreSQL server.

    with pgbouncer(server, "transaction", pool_size=3) as pooler:
        url = pooler.url("netra")

The program is the installed one, or Debian's package, which is unpacked without installation.
Without both, tests that need it are skipped with a reason; in CI they fail.
"""

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NoReturn

import psycopg
import pytest
from attrs import frozen

from support.debian import libraries, unpacked
from support.ports import HOST, kept_port
from support.postgres import PATIENCE, PostgresServer

POLL_SECONDS = 0.02


def missing(what: str) -> NoReturn:
    """Fail in CI, skip elsewhere: a requirement is missing."""
    text = f"NOT TESTED with PgBouncer, for want of {what}"
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(text)
    pytest.skip(text)


@cache
def program() -> tuple[Path, str]:
    """Return the path of PgBouncer, and the folders of its libraries; download it if necessary."""
    own = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if own is not None:
        return Path(own), ""
    folder = unpacked("pgbouncer", missing)
    return folder / "usr" / "sbin" / "pgbouncer", ":".join(libraries(folder))


@frozen
class PgBouncer:
    """A running PgBouncer.

    Attributes:
        port: The port on which it listens.
        log_file: The file of its log.
    """

    port: int
    log_file: Path

    def url(self, database: str) -> str:
        """Return the url of a database of the server, through it."""
        return f"postgresql://postgres@{HOST}:{self.port}/{database}"

    @property
    def log(self) -> str:
        """Its log."""
        return self.log_file.read_text()


@contextmanager
def pgbouncer(
    server: PostgresServer,
    mode: str,
    *,
    pool_size: int = 20,
    ignored: str = "",
    wait_seconds: int = 60,
) -> Iterator[PgBouncer]:
    """Run PgBouncer in front of a server.

    Args:
        server: The server.
        mode: `session`, `transaction` or `statement`.
        pool_size: The greatest number of connections to each database.
        ignored: The start-up parameters that it ignores; it refuses unknown ones otherwise.
        wait_seconds: For how long a client may wait for a connection to the server.
    """
    binary, library_path = program()
    with tempfile.TemporaryDirectory(prefix="pgbouncer-") as name, kept_port() as port:
        folder = Path(name)
        folder.chmod(0o755)  # PgBouncer refuses to run as root, and changes to another user
        settings = {
            "listen_addr": HOST,
            "listen_port": port,
            "unix_socket_dir": "",
            "auth_type": "any",
            "pool_mode": mode,
            "default_pool_size": pool_size,
            "ignore_startup_parameters": ignored,
            "query_wait_timeout": wait_seconds,
        }
        lines = [f"{key} = {value}" for key, value in settings.items()]
        target = f"* = host={HOST} port={server.port} user=postgres"
        (folder / "pgbouncer.ini").write_text(
            "\n".join(["[databases]", target, "[pgbouncer]", *lines, ""])
        )
        log = folder / "log"
        command = [str(binary)]
        if os.geteuid() == 0:
            command.append(f"--user={pwd.getpwnam('nobody').pw_name}")
        environ = {**os.environ, "LD_LIBRARY_PATH": library_path}
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603 - a test's own command line
                [*command, str(folder / "pgbouncer.ini")], env=environ, stdout=output, stderr=output
            )
        try:
            pooler = PgBouncer(port, log)
            _wait_until_ready(process, pooler)
            yield pooler
        finally:
            process.kill()
            process.wait(PATIENCE)


def _wait_until_ready(process: "subprocess.Popen[bytes]", pooler: PgBouncer) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        assert process.poll() is None, pooler.log
        try:
            psycopg.connect(pooler.url("postgres"), connect_timeout=60).close()
        except psycopg.OperationalError as error:
            if "refused" not in str(error):
                raise
            time.sleep(POLL_SECONDS)
        else:
            return
    raise AssertionError("PgBouncer is not ready")
