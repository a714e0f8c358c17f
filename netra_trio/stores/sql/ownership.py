"""Which node has a run: taking over, handing over, and finding the node of a run.

    ends = take_over(connection, session_id, owner=gone, taker=own, asked=ids, waiting=())

All of these are compare-and-set of `runs.owner`, in a transaction, and may be executed twice.
"""

from collections.abc import Collection, Mapping, Sequence

from attrs import frozen
from sqlalchemy import Connection, select, update

from netra_trio.ids import NodeId, RunId, SessionId, UserId
from netra_trio.protocol.messages import RunStatus
from netra_trio.stores.base import RunOwner, StoredEnd
from netra_trio.stores.sql.ends import find_ends, interrupt, interrupt_rows, is_unfinished, locked
from netra_trio.stores.sql.leases import now
from netra_trio.stores.sql.rows import insert_missing
from netra_trio.stores.sql.schema import owners, runs


@frozen
class Taken:
    """The result of a takeover.

    Attributes:
        ends: The ends of the runs that were asked for; None of an unfinished one.
        adopted: The runs that this node has now.
    """

    ends: Mapping[RunId, StoredEnd | None]
    adopted: Collection[RunId]


def take_over(
    connection: Connection,
    session_id: SessionId,
    *,
    owner: NodeId,
    taker: NodeId,
    asked: Collection[RunId],
    waiting: Collection[RunId],
) -> Taken:
    """Adopt the queued ones of `waiting`, and end all other runs of the session.

    Only runs that `owner` still has are changed.
    """
    these = (runs.c.session == session_id, runs.c.owner == owner, is_unfinished)
    rows = connection.execute(
        locked(select(runs.c.message, runs.c.run_id, runs.c.status).where(*these))
    ).all()
    adopted = {
        row.message for row in rows if row.status == RunStatus.QUEUED and row.run_id in waiting
    }
    _give(connection, adopted, taker)
    others = [row for row in rows if row.message not in adopted]
    interrupt_rows(connection, others)
    found = find_ends(connection, {*asked, *waiting})
    return Taken(
        {run_id: found[run_id][1] for run_id in asked if run_id in found},
        [run_id for run_id in waiting if run_id in found and found[run_id] == (taker, None)],
    )


def hand_over(
    connection: Connection,
    run_ids: Collection[RunId],
    *,
    owner: NodeId,
    lease: NodeId,
    seconds: float,
) -> Sequence[RunId]:
    """Give the queued ones of these runs to a lease that no process renews; return them."""
    # Without a machine: no process is looked for, also not by an older version.
    row = {"owner": lease, "machine": "", "process": "", "lease_until": now(connection) + seconds}
    connection.execute(insert_missing(connection, owners).values(row))
    these = (runs.c.run_id.in_(run_ids), runs.c.owner == owner, runs.c.status == RunStatus.QUEUED)
    _give(connection, connection.scalars(locked(select(runs.c.message).where(*these))).all(), lease)
    given = select(runs.c.run_id).where(runs.c.owner == lease, is_unfinished)
    return [RunId(run_id) for run_id in connection.scalars(given)]


def _give(connection: Connection, messages: Collection[int], owner: NodeId) -> None:
    if messages:
        connection.execute(update(runs).where(runs.c.message.in_(messages)).values(owner=owner))


def find_run(connection: Connection, user_id: UserId, run_id: RunId) -> RunOwner | None:
    """Return the node of an unfinished run of this user, None if there is none."""
    this = (runs.c.run_id == run_id, runs.c.user_id == user_id, runs.c.owner.is_not(None))
    row = connection.execute(
        select(runs.c.owner, runs.c.status).where(*this, is_unfinished)
    ).one_or_none()
    return None if row is None else RunOwner(row.owner, RunStatus(row.status))


def run_status(connection: Connection, run_id: RunId) -> RunStatus | None:
    """Return the status of a run, None if it is unknown."""
    status = connection.scalar(select(runs.c.status).where(runs.c.run_id == run_id))
    return None if status is None else RunStatus(status)


def interrupt_run(connection: Connection, run_id: RunId, *, owner: NodeId) -> StoredEnd | None:
    """End a run if `owner` still has it; return its end, None if it has none."""
    interrupt(connection, runs.c.run_id == run_id, runs.c.owner == owner)
    _, end = find_ends(connection, [run_id]).get(run_id, (None, None))
    return end
