"""Leases: which process has which runs at work, and which processes are gone.

Each process that serves holds a lease: a row of the table `owners` that it renews. A process that
starts or renews its lease ends the unfinished runs of processes that are gone, as `interrupted`.
For a process of this machine, the system tells at once whether it is alive, if it shows it. For any
other process, only the lease tells. Leases are measured on the database's clock, so the
clocks of two machines are never compared.

A lease without a process has runs that were handed over: no process renews it.
"""

import secrets
import time
from typing import Any

from attrs import field, frozen
from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    case,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)

from netra_trio.ids import NodeId, new_node_id
from netra_trio.stores.base import HAND_OVER_SECONDS
from netra_trio.stores.sql.ends import interrupt
from netra_trio.stores.sql.processes import ProcessState, machine, state_of, this_process
from netra_trio.stores.sql.schema import owners, runs

LEASE_SECONDS = 30.0  # three renewals may fail
RENEW_SECONDS = 10.0  # between two renewals

PROBE_BYTES = 64 * 1024  # the longest text of an agent in history

_is_handed_over = owners.c.machine == ""

_held_here: set[str] = set()
"""The leases that this process holds: one for each open store."""


@frozen
class Lease:
    """The lease of this process.

    Attributes:
        id: Of this start of the node; never used again.
        machine: The process id namespace.
        process: The process id, with the start time where the system tells it.
    """

    id: NodeId = field(factory=new_node_id)
    machine: str = field(factory=machine)
    process: str = field(factory=this_process)

    def renew(self, connection: Connection) -> int:
        """Take or renew the lease, and end the runs of processes that are gone.

        Returns the number of runs that were ended.
        """
        _held_here.add(self.id)
        moment = now(connection)
        until = moment + LEASE_SECONDS
        had_until = connection.scalar(select(owners.c.lease_until).where(self._own))
        if had_until is None:
            row = {"owner": self.id, "machine": self.machine, "process": self.process}
            connection.execute(insert(owners).values(**row, lease_until=until))
        else:
            connection.execute(update(owners).where(self._own).values(lease_until=until))
        was_out = had_until is not None and had_until < moment
        return self._end_gone(connection, moment, was_out=was_out)

    @property
    def _own(self) -> ColumnElement[bool]:
        return owners.c.owner == self.id

    def end_gone(self, connection: Connection) -> int:
        """End the runs of ended processes, without taking the lease; return their number."""
        return self._end_gone(connection, now(connection), was_out=False)

    def probe_space(self, connection: Connection) -> None:
        """Write as much as a large message needs, and delete it in the same transaction."""
        name = f"{self.id} tries"
        filler = secrets.token_hex(PROBE_BYTES // 2)  # random: no database compresses it
        row = {"owner": name, "machine": filler, "process": "", "lease_until": 0.0}
        connection.execute(insert(owners).values(**row))
        connection.execute(delete(owners).where(owners.c.owner == name))

    def release(self, connection: Connection) -> None:
        """End this process's unfinished runs, and delete the lease."""
        self.forget()
        interrupt(connection, runs.c.owner == self.id)
        connection.execute(delete(owners).where(self._own))

    def forget(self) -> None:
        """Note that the store is closed, also if the database could not be told.

        The next store of this process then ends the runs that are left.
        """
        _held_here.discard(self.id)

    def _end_gone(self, connection: Connection, moment: float, *, was_out: bool) -> int:
        ended = 0
        # While the database was out of reach, no process could renew its lease: each one gets
        # the time to do so now.
        in_grace = was_out or moment - _up_since(connection) < LEASE_SECONDS
        # A lease from before the clock was set back would be valid for too long.
        longest = case((_is_handed_over, HAND_OVER_SECONDS), else_=LEASE_SECONDS)
        too_long = owners.c.lease_until > moment + longest + LEASE_SECONDS
        connection.execute(update(owners).where(too_long).values(lease_until=moment + longest))
        others = select(owners).where(~self._own).order_by(owners.c.owner)
        for row in connection.execute(others).all():
            if self._is_gone(row, moment, in_grace=in_grace):
                ended += interrupt(connection, runs.c.owner == row.owner)
                connection.execute(delete(owners).where(owners.c.owner == row.owner))
        return ended + _end_orphans(connection)

    def _is_gone(self, row: Row[Any], moment: float, *, in_grace: bool) -> bool:
        if row.machine == self.machine:
            if row.process == self.process:
                return str(row.owner) not in _held_here
            state = state_of(row.process)
            if state is not ProcessState.UNKNOWN:
                return state is ProcessState.GONE
        return bool(row.lease_until < moment) and not in_grace


def _end_orphans(connection: Connection) -> int:
    """End runs without a lease: of an older schema, or of a backup."""
    known = select(owners.c.owner)
    return interrupt(connection, or_(runs.c.owner.is_(None), runs.c.owner.not_in(known)))


def now(connection: Connection) -> float:
    """Return Unix seconds on the database's clock; SQLite has this machine's."""
    if connection.dialect.name == "sqlite":
        return time.time()
    moment = select(func.extract("epoch", func.clock_timestamp()))
    return float(connection.execute(moment).scalar_one())


def _up_since(connection: Connection) -> float:
    """Return when the database was started, in Unix seconds; SQLite is always up."""
    if connection.dialect.name == "sqlite":
        return 0.0
    started = select(func.extract("epoch", func.pg_postmaster_start_time()))
    return float(connection.execute(started).scalar_one())
