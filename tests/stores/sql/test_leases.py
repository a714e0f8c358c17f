"""Leases: whose runs are ended, and whose are kept."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio
from sqlalchemy import Connection, insert, select, update
from stores.samples import (
    again,
    change,
    duplicate_of,
    end_of,
    new,
    of_user,
    page_of,
    record,
    wait_until,
)
from support.postgres import is_alive

from netra_trio.errors import StoreUnavailable
from netra_trio.protocol.messages import RunStatus
from netra_trio.stores.base import NewMessage, interrupted
from netra_trio.stores.sql import leases
from netra_trio.stores.sql.ends import interrupt
from netra_trio.stores.sql.leases import LEASE_SECONDS, Lease
from netra_trio.stores.sql.processes import ProcessState
from netra_trio.stores.sql.schema import owners as table
from netra_trio.stores.sql.schema import runs
from netra_trio.stores.sql.store import SqlStore

T = TypeVar("T")

ELSEWHERE = "another machine"
DAEMON, NOBODY = 1, 65534  # users that every Debian has
PIPES: dict[str, Any] = {
    "stdin": subprocess.PIPE,
    "stdout": subprocess.PIPE,
    "text": True,
    "env": {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
}

SERVES = """
import sys, trio
from netra_trio.stores.sql.store import SqlStore
from stores.samples import new

async def main(url):
    store = SqlStore(url)
    async with store.open():
        queued, running = new("queued", key="queued"), new("running", key="running")
        await store.record(queued)
        await store.record(running)
        store.start_run(running.run_id)
        await store.find(running)
        print(queued.run_id, running.run_id, flush=True)
        sys.stdin.readline()

trio.run(main, sys.argv[1])
"""


def statuses(url: str) -> list[str]:
    """Return the status of every run, in the order of their messages."""
    query = select(runs.c.status).order_by(runs.c.message)
    return change(url, lambda connection: list(connection.scalars(query)))


def ids(url: str) -> list[str]:
    """Return the ids of all leases."""
    return change(url, lambda connection: list(connection.scalars(select(table.c.owner))))


async def record_run_of(url: str, lease: Lease, seconds: float = 1000.0) -> NewMessage:
    """Record a running run of another lease, which expires in so many seconds."""
    message = new()
    store = SqlStore(url)
    async with store.open():
        await record(store, message)

    def work(connection: Connection) -> None:
        until = leases.now(connection) + seconds
        row = {"owner": lease.id, "machine": lease.machine, "process": lease.process}
        connection.execute(insert(table).values(**row, lease_until=until))
        change_run = update(runs).where(runs.c.run_id == message.run_id)
        connection.execute(change_run.values(owner=lease.id, status=RunStatus.RUNNING))

    change(url, work)
    return message


async def look(url: str) -> None:
    """Open and close a store, which ends the runs of processes that are gone."""
    async with SqlStore(url).open():
        pass


@pytest.fixture
def long_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that the database was started long ago."""
    monkeypatch.setattr(leases, "_up_since", lambda _: 0.0)


# In this process


async def test_two_stores_of_one_process_keep_each_others_runs(
    url: str, logs: list[Any], long_up: None
) -> None:
    one, other = SqlStore(url), SqlStore(url)
    async with one.open():
        mine = new()
        await record(one, mine)
        async with other.open():
            theirs = new()
            await record(other, theirs)
            await one._upkeep.renew()
            await other._upkeep.renew()
            assert statuses(url) == ["queued", "queued"]
        await one._upkeep.renew()
        assert statuses(url) == ["queued", "interrupted"]
        assert len(ids(url)) == 1
    assert statuses(url) == ["interrupted", "interrupted"]
    assert ids(url) == []
    assert logs == []


async def test_runs_of_a_store_that_could_not_release_its_lease_are_ended(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def is_down(_: Callable[[Connection], T]) -> T:
        raise StoreUnavailable("down")

    store = SqlStore(url)
    async with store.open():
        await record(store, new())
        monkeypatch.setattr(store.database, "write", is_down)
    assert statuses(url) == ["queued"]
    await look(url)
    assert statuses(url) == ["interrupted"]


async def test_releasing_a_lease_ends_its_runs(url: str) -> None:
    lease = Lease()
    message = await record_run_of(url, lease)
    change(url, lease.release)
    assert ids(url) == []
    assert statuses(url) == ["interrupted"]
    assert message.run_id.startswith("run_")


def test_every_store_has_a_lease_of_its_own() -> None:
    assert Lease().process == Lease().process
    assert Lease().id != Lease().id


def test_a_lease_is_renewed(url: str) -> None:
    lease = Lease()

    def seconds_left(connection: Connection) -> float:
        until = connection.scalar(select(table.c.lease_until))
        return float(until or 0) - leases.now(connection)

    try:
        for _ in range(2):
            change(url, lambda c: c.execute(update(table).values(lease_until=1.0)))
            begun = time.monotonic()
            assert change(url, lease.renew) == 0
            left = change(url, seconds_left)
            passed = time.monotonic() - begun
            assert LEASE_SECONDS - passed - 0.1 < left <= LEASE_SECONDS
            assert len(ids(url)) == 1
    finally:
        change(url, lease.release)


# Another process of this machine


@pytest.fixture
def server(url: str) -> Iterator["subprocess.Popen[str]"]:
    """Run a process with a queued and a running run."""
    with subprocess.Popen(  # noqa: S603 - a test's own command line
        [sys.executable, "-c", SERVES, url], **PIPES
    ) as process:
        yield process
        process.kill()


async def started(server: "subprocess.Popen[str]") -> list[str]:
    """Wait until the process has recorded its messages; return the ids of their runs."""
    assert server.stdout is not None
    line = await trio.to_thread.run_sync(server.stdout.readline)
    return line.split()


async def test_runs_are_kept_while_their_process_lives_and_ended_once_it_is_gone(
    url: str, server: "subprocess.Popen[str]", logs: list[Any], long_up: None
) -> None:
    run_ids = await started(server)
    change(url, lambda c: c.execute(update(table).values(lease_until=1.0)))
    await look(url)
    assert statuses(url) == ["queued", "running"]
    assert len(ids(url)) == 1
    server.send_signal(signal.SIGKILL)
    # Its parent has not waited for it: a zombie is gone, too.
    await wait_until(lambda: _is_over(server.pid))
    store = SqlStore(url)
    async with store.open():
        assert statuses(url) == ["interrupted", "interrupted"]
        for key, run_id in zip(("queued", "running"), run_ids, strict=True):
            known = await store.find(new(key=key))
            assert known is not None
            assert known.status is RunStatus.INTERRUPTED
            completed = f'{{"run_id":"{run_id}","status":"interrupted","duration_ms":0}}'
            assert known.completed == completed.encode()
        assert len(ids(url)) == 1
    interrupted = {"event": "runs_interrupted", "log_level": "warning", "runs": 2}
    assert logs == [interrupted]


async def _is_over(pid: int) -> bool:
    return not is_alive(pid)


async def test_a_reused_process_id_is_not_the_owner(url: str) -> None:
    """The process id exists, but its process started at another time."""
    await record_run_of(url, Lease(process=f"{os.getppid()} 1"))
    await look(url)
    assert statuses(url) == ["interrupted"]


async def test_an_earlier_lease_of_this_process_is_gone(url: str) -> None:
    await record_run_of(url, Lease())
    await look(url)
    assert statuses(url) == ["interrupted"]


async def test_without_start_times_runs_of_a_living_process_are_kept(url: str) -> None:
    message = await record_run_of(url, Lease(process=f"{os.getppid()}"))
    ended = await trio.run_process(["sh", "-c", "echo $$"], capture_stdout=True)
    await record_run_of(url, Lease(process=ended.stdout.decode().strip()))
    store = SqlStore(url)
    async with store.open():
        assert statuses(url) == ["running", "interrupted"]
        assert await store.find(again(message)) == duplicate_of(message, RunStatus.RUNNING)


# Another machine: only the lease counts


async def test_runs_of_a_valid_lease_are_kept(url: str, long_up: None) -> None:
    await record_run_of(url, Lease(machine=ELSEWHERE), seconds=5)
    await look(url)
    assert statuses(url) == ["running"]
    assert len(ids(url)) == 1


async def test_runs_of_an_expired_lease_are_ended(url: str, long_up: None) -> None:
    lease = Lease(machine=ELSEWHERE)
    await record_run_of(url, lease, seconds=-1)
    await look(url)
    assert statuses(url) == ["interrupted"]
    assert ids(url) == []


@pytest.mark.parametrize(
    ("seconds", "left"), [(2 * LEASE_SECONDS - 1, 2 * LEASE_SECONDS - 1), (3600.0, LEASE_SECONDS)]
)
async def test_a_lease_from_before_the_clock_was_set_back_is_shortened(
    url: str, long_up: None, seconds: float, left: float
) -> None:
    await record_run_of(url, Lease(machine=ELSEWHERE), seconds=seconds)

    def left_of(connection: Connection) -> float:
        until = connection.scalars(select(table.c.lease_until)).one()
        return float(until - leases.now(connection))

    await look(url)
    assert statuses(url) == ["running"]
    assert change(url, left_of) == pytest.approx(left, abs=LEASE_SECONDS / 2)


async def test_a_process_of_another_machine_may_have_the_same_process_id(
    url: str, long_up: None
) -> None:
    await record_run_of(url, Lease(machine=ELSEWHERE, process=Lease().process), seconds=5)
    await look(url)
    assert statuses(url) == ["running"]


@pytest.mark.parametrize(("seconds", "expected"), [(1, "running"), (100, "interrupted")])
async def test_after_a_restart_of_the_database_leases_may_be_renewed(
    url: str, monkeypatch: pytest.MonkeyPatch, seconds: float, expected: str
) -> None:
    monkeypatch.setattr(leases, "_up_since", lambda c: leases.now(c) - seconds)
    await record_run_of(url, Lease(machine=ELSEWHERE), seconds=-1)
    await look(url)
    assert statuses(url) == [expected]


async def test_a_server_whose_own_lease_expired_waits_for_the_others(
    url: str, long_up: None
) -> None:
    store = SqlStore(url)
    async with store.open():
        await record_run_of(url, Lease(machine=ELSEWHERE), seconds=-1000)
        # The helper opened a store, which ended the run; the helper then restored run and lease.
        own = table.c.owner == store._upkeep.lease.id
        change(url, lambda c: c.execute(update(table).where(own).values(lease_until=1.0)))
        await store._upkeep.renew()
        assert statuses(url) == ["running"]
        await store._upkeep.renew()
        assert statuses(url) == ["interrupted"]


def test_the_start_time_of_the_database_is_on_its_own_clock(url: str) -> None:
    up, moment = change(url, lambda c: (leases._up_since(c), leases.now(c)))
    assert up <= moment
    assert up == 0.0 or moment - up < 3600


# Taken for gone, and alive


@pytest.mark.parametrize("started", [False, True])
async def test_the_late_end_of_a_process_that_was_taken_for_gone_is_refused(
    url: str, started: bool
) -> None:
    store = SqlStore(url)
    async with store.open():
        message = new()
        await record(store, message)
        if started:
            store.start_run(message.run_id)
            await store.find(message)
        stands = interrupted(message.run_id)
        assert change(url, lambda c: interrupt(c, runs.c.owner == store.owner)) == 1
        expected = duplicate_of(message, RunStatus.INTERRUPTED, stands.completed)
        assert await store.find(again(message)) == expected
        assert await store.end_run(end_of(message)) == stands
        assert await page_of(store) == ([of_user(message, RunStatus.INTERRUPTED)], False)
        assert await store.find(again(message)) == expected


async def test_an_interrupted_run_of_an_older_version_has_a_payload(url: str) -> None:
    """An older version keeps the owner of such a run, and stores no payload."""
    store = SqlStore(url)
    async with store.open():
        message = new()
        await record(store, message)
        change(url, lambda c: c.execute(update(runs).values(status=RunStatus.INTERRUPTED)))
        stands = interrupted(message.run_id)
        expected = duplicate_of(message, RunStatus.INTERRUPTED, stands.completed)
        assert await store.find(again(message)) == expected
        assert await store.end_run(end_of(message)) == stands
        assert await store.find_run(message.user_id, message.run_id) is None


async def test_a_deleted_lease_is_taken_again(url: str) -> None:
    store = SqlStore(url)
    async with store.open():
        change(url, lambda c: c.execute(table.delete()))
        await store._upkeep.renew()
        assert len(ids(url)) == 1


async def test_runs_without_an_owner_are_ended(url: str, logs: list[Any]) -> None:
    store = SqlStore(url)
    async with store.open():
        ended, unfinished, orphan = new(), new(), new()
        await record(store, ended, unfinished, orphan)
        end = end_of(ended, "")
        await store.end_run(end)

        def work(connection: Connection) -> None:
            for message, owner in ((unfinished, None), (orphan, "own_of_a_backup")):
                this = update(runs).where(runs.c.run_id == message.run_id)
                connection.execute(this.values(owner=owner))

        change(url, work)
        await store._upkeep.renew()
        assert statuses(url) == ["completed", "interrupted", "interrupted"]
    assert [log["runs"] for log in logs] == [2]


# Processes that this one cannot see


def hidden(user: int, *command: str) -> list[str]:
    """Return a command that runs as another user, without sight of the processes of others.

    The capability only lets it read the interpreter and the package, wherever they are.
    """
    become = f"setpriv --reuid={user} --regid={user} --clear-groups"
    reading = "--inh-caps=+dac_read_search --ambient-caps=+dac_read_search"
    script = f'mount -t proc -o hidepid=2 proc /proc && exec {become} {reading} "$@"'
    return ["unshare", "--mount", "--", "sh", "-c", script, "sh", *command]


OPENS = """
import sys, trio
from netra_trio.stores.sql.processes import this_process
from netra_trio.stores.sql.store import SqlStore

async def main(url):
    async with SqlStore(url).open():
        print(this_process(), flush=True)

trio.run(main, sys.argv[1])
"""


@pytest.fixture
def hidden_server(postgres_url: str) -> Iterator["subprocess.Popen[str]"]:
    """Run a server of another user, which has a queued and a running run."""
    if os.geteuid() != 0:
        pytest.skip("NOT TESTED with other users, for want of root")
    with subprocess.Popen(  # noqa: S603 - a test's own command line
        hidden(NOBODY, sys.executable, "-c", SERVES, postgres_url), **PIPES
    ) as process:
        yield process
        process.kill()


async def test_a_process_that_cannot_be_seen_is_not_taken_for_gone(
    postgres_url: str, hidden_server: "subprocess.Popen[str]"
) -> None:
    await started(hidden_server)
    command = hidden(DAEMON, sys.executable, "-c", OPENS, postgres_url)
    opened = await trio.run_process(command, capture_stdout=True, env=PIPES["env"])
    pid, _ = opened.stdout.split()
    assert int(pid) != hidden_server.pid
    assert statuses(postgres_url) == ["queued", "running"]
    hidden_server.kill()
    hidden_server.wait()
    await trio.run_process(command, capture_stdout=True, env=PIPES["env"])
    assert statuses(postgres_url) == ["interrupted", "interrupted"]


async def test_the_lease_decides_about_a_process_that_cannot_be_seen(
    url: str, monkeypatch: pytest.MonkeyPatch, long_up: None
) -> None:
    monkeypatch.setattr(leases, "state_of", lambda _: ProcessState.UNKNOWN)
    await record_run_of(url, Lease(process="7 22"), seconds=5)
    await look(url)
    assert statuses(url) == ["running"]
    change(url, lambda c: c.execute(update(table).values(lease_until=1.0)))
    await look(url)
    assert statuses(url) == ["interrupted"]
