"""Sessions that sent events before these were copied to the directory.

note_uncopied(connection, session_id, number)       # in a transaction, may be executed twice
number = find_uncopied(connection, session_id)
"""

from sqlalchemy import Connection, delete, select, update

from netra_trio.ids import SessionId
from netra_trio.stores.base import UNCOPIED_SECONDS
from netra_trio.stores.sql.leases import now
from netra_trio.stores.sql.rows import insert_missing
from netra_trio.stores.sql.schema import uncopied


def note_uncopied(connection: Connection, session_id: SessionId, number: int) -> None:
    """Note the number of an event that is going to be sent without a copy."""
    moment = now(connection)
    row = {"session": session_id, "number": number, "noted_at": moment}
    this = uncopied.c.session == session_id
    connection.execute(delete(uncopied).where(uncopied.c.noted_at < moment - UNCOPIED_SECONDS))
    connection.execute(insert_missing(connection, uncopied).values(row))
    connection.execute(update(uncopied).where(this).values(row))


def find_uncopied(connection: Connection, session_id: SessionId) -> int | None:
    """Return the number that was noted last for a session, None if none was."""
    query = select(uncopied.c.number).where(uncopied.c.session == session_id)
    return connection.scalar(query)
