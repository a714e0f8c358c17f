"""Tests the migration and the writes of a server, in a transaction that is rolled back.

revision = await database.rehearse(rehearse)
"""

import time

from sqlalchemy import Connection, delete, false, insert, select, text, update

from netra_trio.errors import DatabaseUnusable
from netra_trio.ids import (
    CorrelationId,
    UserId,
    new_file_id,
    new_message_id,
    new_run_id,
    new_thread_id,
)
from netra_trio.protocol.messages import RunStatus
from netra_trio.stores.base import NewMessage, RunEnd
from netra_trio.stores.files import StoredFile
from netra_trio.stores.sql.batch import Batch
from netra_trio.stores.sql.entries import CreateUser, DeleteMessage, EndRun, RecordMessage
from netra_trio.stores.sql.files import finish, reserve
from netra_trio.stores.sql.leases import Lease
from netra_trio.stores.sql.migrate import check_known, current_revision, migrate
from netra_trio.stores.sql.schema import REVISIONS, metadata
from netra_trio.stores.sql.thread_numbers import ThreadNumbers

_TOUCH_REVISION = text("UPDATE alembic_version SET version_num = version_num")

# Only the owner of a table, or a member of the owning role, can alter it.
_NOT_OWNED = text(
    "SELECT relname FROM pg_class WHERE relkind = 'r' AND relname = ANY(:tables) "
    "AND relnamespace = current_schema()::regnamespace AND NOT pg_has_role(relowner, 'USAGE') "
    "ORDER BY relname"
)
_MAY_CREATE = text("SELECT has_schema_privilege(current_schema(), 'CREATE')")


def rehearse(connection: Connection) -> str | None:
    """Try to bring the schema up to date and to write; return the present revision of the schema.

    A missing schema is created, and rolled back. An older one is not migrated, because running
    servers would wait until that ends: only the rights to migrate are checked.

    Args:
        connection: In a transaction, which the caller rolls back.

    Raises:
        DatabaseUnusable: If the schema is that of a newer version, or cannot be migrated.
    """
    revision = current_revision(connection)
    check_known(revision)
    if revision is None:
        migrate(connection, is_rehearsal=True)
    elif revision != REVISIONS[-1]:
        _check_migration(connection)
        return revision
    _touch_tables(connection)
    _write_sample(connection)
    return revision


def _check_migration(connection: Connection) -> None:
    connection.execute(_TOUCH_REVISION)
    if connection.dialect.name != "postgresql":
        return
    tables = {"tables": [*metadata.tables, "alembic_version"]}
    foreign = connection.scalars(_NOT_OWNED, tables).all()
    if foreign:
        raise DatabaseUnusable(
            f"DATABASE_URL: its role does not own the tables {', '.join(foreign)}, which the next "
            "start has to change; make it their owner, or a member of the role that is"
        )
    if not connection.scalar(_MAY_CREATE):
        raise DatabaseUnusable(
            "DATABASE_URL: its role may create no table, which the next start has to do; let the "
            "owner of the schema run: GRANT CREATE ON SCHEMA public TO the role"
        )


def _touch_tables(connection: Connection) -> None:
    """Run an insert, update and delete of zero rows on each table, to check the rights."""
    for table in metadata.sorted_tables:
        column = next(iter(table.columns))
        nothing = select(table).where(false())
        connection.execute(insert(table).from_select([*table.columns.keys()], nothing))
        connection.execute(update(table).where(false()).values({column: column}))
        connection.execute(delete(table).where(false()))


def _write_sample(connection: Connection) -> None:
    """Store a user, a file, a message that names it, and its run; delete the message.

    Then write as much as a large message.
    """
    user_id, run_id, moment = UserId(new_thread_id()), new_run_id(), time.time()
    file = StoredFile(new_file_id(), user_id, "", "text/plain", 1, "", moment)
    message = NewMessage(
        user_id,
        new_thread_id(),
        new_message_id(),
        run_id,
        "check",
        CorrelationId("check"),
        CorrelationId("check"),
        b"",
        "check",
        moment,
        attachments=(file.file_id,),
    )
    reserve(connection, file, max_bytes=file.size)
    finish(connection, file.file_id)
    end = RunEnd(run_id, RunStatus.COMPLETED, new_message_id(), "check", False, moment, b"{}")
    lease = Lease()
    entries = [CreateUser(user_id, moment), RecordMessage(message), EndRun(end)]
    Batch(entries, lease.id, ThreadNumbers()).write(connection)
    Batch([DeleteMessage(run_id)], lease.id, ThreadNumbers()).write(connection)
    lease.probe_space(connection)
