"""Brings the schema of a database up to date, once, also if several processes start together.

await database.write(migrate)
"""

from typing import Any

import structlog
from sqlalchemy import Connection, inspect, select, table, text
from sqlalchemy import column as named

from netra_trio.errors import DatabaseUnusable
from netra_trio.stores.sql.schema import REVISIONS

LOCK = 7_145_623_918  # the key of an advisory lock of PostgreSQL; the same in every version
SCRIPTS = "netra_trio:stores/sql/migrations"

_log = structlog.get_logger(__name__)

_VERSIONS = table("alembic_version", named("version_num"))


def migrate(
    connection: Connection, revision: str = REVISIONS[-1], *, is_rehearsal: bool = False
) -> None:
    """Bring the schema to a revision, up or down, in the transaction of this connection.

    Another process that does the same waits until this transaction has ended. A rehearsal, which is
    rolled back, is not logged.

    Raises:
        DatabaseUnusable: If the schema is that of a newer version.
    """
    if connection.dialect.name == "postgresql":
        # A migration of a large table, and the wait for it, may take any time.
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        connection.execute(text("SET LOCAL lock_timeout = 0"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
    current = current_revision(connection)
    check_known(current)
    if current != revision:
        _run(connection, current, revision)
    if current != revision and not is_rehearsal:
        _log.info("schema_changed", before=current, now=revision)


def check_known(revision: str | None) -> None:
    """Check that the schema of a database is not that of a newer version.

    Raises:
        DatabaseUnusable: If it is.
    """
    if revision is not None and revision not in REVISIONS:
        raise DatabaseUnusable(
            f"DATABASE_URL: the database has the schema {revision}, made by a newer version; this "
            f"one knows {REVISIONS[-1]} and before; install the newer one, or restore a backup"
        )


def current_revision(connection: Connection) -> str | None:
    """Return the revision of the schema, None if the database has no schema yet."""
    if not inspect(connection).has_table(_VERSIONS.name):
        return None
    revision: str | None = connection.scalar(select(_VERSIONS.c.version_num))
    return revision


def _run(connection: Connection, current: str | None, revision: str) -> None:
    # Imported only when needed: a start with an up-to-date schema is a quarter of a second faster.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", SCRIPTS)
    is_down = current is not None and REVISIONS.index(revision) < REVISIONS.index(current)
    move: Any = command.downgrade if is_down else command.upgrade
    move(config, revision)
