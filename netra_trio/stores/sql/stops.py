"""Numbered requests to stop runs, which the nodes poll.

is_unfinished = request_stop(connection, run_id)
newest, run_ids = find_stops(connection, after=newest)
"""

from collections.abc import Sequence

from sqlalchemy import Connection, select

from netra_trio.ids import RunId
from netra_trio.stores.notifications import STOP_SECONDS
from netra_trio.stores.sql.changes import Changes
from netra_trio.stores.sql.ends import is_unfinished
from netra_trio.stores.sql.schema import runs, stops

_STOPS = Changes(stops, stops.c.run_id, kept_seconds=STOP_SECONDS)


def request_stop(connection: Connection, run_id: RunId) -> bool:
    """Add a request to stop a run; return whether there is such an unfinished run."""
    this = select(runs.c.message).where(runs.c.run_id == run_id, is_unfinished)
    if connection.scalar(this) is None:
        return False
    _STOPS.lock(connection)
    _STOPS.note(connection, run_id)
    return True


def find_stops(connection: Connection, after: int) -> tuple[int, Sequence[RunId]]:
    """Return the newest number of a request, and the runs of later requests; none for -1."""
    newest, found = _STOPS.find(connection, after)
    return newest, [RunId(run_id) for run_id in found]
