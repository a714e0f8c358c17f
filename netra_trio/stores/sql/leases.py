"""Whose runs are at work, and which owners are gone.

Each process that serves is an owner: a row with a lease that it renews. What an owner that is gone
has left unfinished, the next one that looks ends `interrupted`. Whether one is gone is known at
once for a process of this machine: Linux says whether it lives, and when it began. Of any other
only the lease tells. It runs on the database's clock, so no two clocks are compared.
"""

import os
import platform
import secrets
import time
from pathlib import Path
from typing import Any

from attrs import field, frozen
from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    and_,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)

from netra_trio.protocol.messages import RunStatus
from netra_trio.stores.sql.schema import owners, runs

LEASE_SECONDS = 30.0  # the figure: three renewals may fail
RENEW_SECONDS = 10.0  # between two renewals, each with a look at the others

ROOM_BYTES = 64 * 1024  # the longest text of an agent in history

UNFINISHED = (RunStatus.QUEUED, RunStatus.RUNNING)

_START_TIME = 22  # the field of /proc/<pid>/stat with the time at which the process began

_here: set[str] = set()
"""The owners of this very process that have not left: an application may be made twice in it."""


def _machine() -> str:
    """Return what this process's number is a number of: a boot of a system, and a set of processes.

    A container has a set of its own, in which the number 1 is another process.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # not Linux
        return f"{platform.node()} {platform.system()}"


def _process(pid: int) -> str | None:
    """Return a process's number and when it began, None if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None if Path("/proc/self/stat").exists() or not _is_alive(pid) else str(pid)
    # The program's name, in parentheses, may hold anything.
    state, *fields = stat.rpartition(")")[2].split()
    return None if state in "ZX" else f"{pid} {fields[_START_TIME - 4]}"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@frozen
class Owner:
    """The process that this is, as its row names it.

    Attributes:
        id: Of this start of the server; never used again.
        machine: The system that the process number belongs to: this boot, these processes.
        process: The process's number, and when it began where the system tells.
    """

    id: str = field(factory=lambda: f"own_{secrets.token_hex(8)}")
    machine: str = field(factory=_machine)
    process: str = field(factory=lambda: _process(os.getpid()) or str(os.getpid()))

    def renew(self, connection: Connection) -> int:
        """Renew the lease, or take one, and end the runs of others that are gone.

        Returns how many runs that were.
        """
        _here.add(self.id)
        moment = now(connection)
        until = moment + LEASE_SECONDS
        had_until = connection.scalar(select(owners.c.lease_until).where(self._own))
        if had_until is None:
            row = {"owner": self.id, "machine": self.machine, "process": self.process}
            connection.execute(insert(owners).values(**row, lease_until=until))
        else:
            connection.execute(update(owners).where(self._own).values(lease_until=until))
        # Who could not renew a lease while the database was out of reach gets the time to do so;
        # it was so for everybody if it was for this one.
        was_out = had_until is not None and had_until < moment
        is_new = moment - _up_since(connection) < LEASE_SECONDS
        return self._end_gone(connection, moment, is_patient=was_out or is_new)

    @property
    def _own(self) -> ColumnElement[bool]:
        return owners.c.owner == self.id

    def try_room(self, connection: Connection) -> None:
        """Write what a large message would need, and take it away again in the same transaction."""
        name = f"{self.id} tries"
        filler = secrets.token_hex(ROOM_BYTES // 2)  # which no database makes smaller
        row = {"owner": name, "machine": filler, "process": "", "lease_until": 0.0}
        connection.execute(insert(owners).values(**row))
        connection.execute(delete(owners).where(owners.c.owner == name))

    def leave(self, connection: Connection) -> None:
        """End what is left of this owner's runs, and give the lease up."""
        self.forget()
        end_runs(connection, self.id)
        connection.execute(delete(owners).where(self._own))

    def forget(self) -> None:
        """Have left, even where the database could not be told: the next one here ends the rest."""
        _here.discard(self.id)

    def _end_gone(self, connection: Connection, moment: float, *, is_patient: bool) -> int:
        ended = 0
        for row in connection.execute(select(owners).where(~self._own)).all():
            if self._is_gone(row, moment, is_patient=is_patient):
                ended += end_runs(connection, row.owner)
                connection.execute(delete(owners).where(owners.c.owner == row.owner))
        return ended + _end_orphans(connection)

    def _is_gone(self, row: Row[Any], moment: float, *, is_patient: bool) -> bool:
        if row.machine == self.machine:
            if row.process == self.process:
                return str(row.owner) not in _here
            pid = int(row.process.partition(" ")[0])
            return bool(_process(pid) != row.process)
        return bool(row.lease_until < moment) and not is_patient


def _end_orphans(connection: Connection) -> int:
    """End runs whose owner has no row: of a schema before the owners, or of a backup."""
    known = select(owners.c.owner)
    return _end(connection, or_(runs.c.owner.is_(None), runs.c.owner.not_in(known)))


def end_runs(connection: Connection, owner: str) -> int:
    """End every unfinished run of this owner; return how many there were.

    Each keeps its owner: should that be alive after all, its own word on the end is the last.
    """
    return _end(connection, runs.c.owner == owner)


def now(connection: Connection) -> float:
    """Return Unix seconds on the database's clock; SQLite has this machine's."""
    if connection.dialect.name == "sqlite":
        return time.time()
    moment = select(func.extract("epoch", func.clock_timestamp()))
    return float(connection.execute(moment).scalar_one())


def _up_since(connection: Connection) -> float:
    """Return when the database began to answer, in Unix seconds; SQLite always did."""
    if connection.dialect.name == "sqlite":
        return 0.0
    started = select(func.extract("epoch", func.pg_postmaster_start_time()))
    return float(connection.execute(started).scalar_one())


def _end(connection: Connection, whose: ColumnElement[bool]) -> int:
    unfinished = and_(runs.c.status.in_(UNFINISHED), whose)
    return connection.execute(
        update(runs).where(unfinished).values(status=RunStatus.INTERRUPTED)
    ).rowcount
