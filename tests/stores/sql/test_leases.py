"""Leases: whose runs are ended, and whose are kept."""

import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio
from sqlalchemy import Connection, insert, select, update
from stores.samples import (
    ALICE,
    again,
    change,
    duplicate_of,
    end_of,
    new,
    of_agent,
    of_user,
    page_of,
    record,
    wait_until,
)

from netra_trio.errors import StoreUnavailable
from netra_trio.protocol.messages import RunStatus
from netra_trio.stores.base import NewMessage
from netra_trio.stores.sql import leases
from netra_trio.stores.sql.leases import LEASE_SECONDS, Lease, end_runs
from netra_trio.stores.sql.schema import owners as table
from netra_trio.stores.sql.schema import runs
from netra_trio.stores.sql.store import SqlStore

T = TypeVar("T")

ELSEWHERE = "another machine"

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


def test_a_lease_is_renewed(url: str) -> None:
    lease = Lease()

    def seconds_left(connection: Connection) -> float:
        until = connection.scalar(select(table.c.lease_until))
        return float(until or 0) - leases.now(connection)

    try:
        for _ in range(2):
            change(url, lambda c: c.execute(update(table).values(lease_until=1.0)))
            assert change(url, lease.renew) == 0
            assert LEASE_SECONDS - 5 < change(url, seconds_left) <= LEASE_SECONDS
            assert len(ids(url)) == 1
    finally:
        change(url, lease.release)


# Another process of this machine


@pytest.fixture
def server(url: str) -> Iterator["subprocess.Popen[str]"]:
    """Run a process with a queued and a running run."""
    with subprocess.Popen(  # noqa: S603 - a test's own command line
        [sys.executable, "-c", SERVES, url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
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
    return leases._process(pid) is None


async def test_a_reused_process_id_is_not_the_owner(url: str) -> None:
    """The process id exists, but its process started at another time."""
    await record_run_of(url, Lease(process=f"{os.getppid()} 1"))
    await look(url)
    assert statuses(url) == ["interrupted"]


async def test_an_earlier_lease_of_this_process_is_gone(url: str) -> None:
    await record_run_of(url, Lease())
    await look(url)
    assert statuses(url) == ["interrupted"]


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


async def test_a_process_that_was_taken_for_gone_stores_its_own_ends(url: str) -> None:
    store = SqlStore(url)
    async with store.open():
        message = new()
        await record(store, message)
        change(url, lambda c: end_runs(c, store._upkeep.lease.id))
        known = await store.find(again(message))
        assert known is not None
        assert known.status is RunStatus.INTERRUPTED
        end = end_of(message)
        await store.end_run(end)
        expected = [of_user(message, RunStatus.COMPLETED), of_agent(end)]
        assert await page_of(store) == (expected, False)
        known = await store.find(again(message))
        assert known == duplicate_of(message, RunStatus.COMPLETED, end.completed)


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


# Processes of Linux


class Proc:
    """A scripted /proc."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, files: dict[str, str]) -> None:
        def path(name: str) -> "Proc.File":
            return Proc.File(files.get(name))

        monkeypatch.setattr(leases, "Path", path)

    class File:
        """A file that exists or not."""

        def __init__(self, content: str | None) -> None:
            self._content = content

        def read_text(self, **_: object) -> str:
            if self._content is None:
                raise FileNotFoundError
            return self._content

        def readlink(self) -> str:
            return self.read_text()

        def exists(self) -> bool:
            return self._content is not None


FIELDS = " ".join(str(number) for number in range(4, 53))  # the value of each field is its number


@pytest.mark.parametrize("name", ["python", "a b", "a) R 1", ")", "(", "", ") Z 1 2 3", "\n", "é"])
def test_the_name_of_a_program_may_contain_anything(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    Proc(monkeypatch, {"/proc/7/stat": f"7 ({name}) S {FIELDS}\n"})
    assert leases._process(7) == "7 22"


@pytest.mark.parametrize(("state", "expected"), [("S", "7 22"), ("Z", None), ("X", None)])
def test_a_zombie_is_gone(
    monkeypatch: pytest.MonkeyPatch, state: str, expected: str | None
) -> None:
    Proc(monkeypatch, {"/proc/7/stat": f"7 (python) {state} {FIELDS}\n"})
    assert leases._process(7) == expected


def test_on_linux_a_process_without_a_stat_file_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Proc(monkeypatch, {"/proc/self/stat": "here"})
    assert leases._process(os.getpid()) is None


@pytest.mark.parametrize(
    ("fault", "expected"),
    [(None, "7"), (PermissionError, "7"), (ProcessLookupError, None)],
)
def test_on_other_systems_a_signal_finds_a_process(
    monkeypatch: pytest.MonkeyPatch, fault: type[OSError] | None, expected: str | None
) -> None:
    asked: list[tuple[int, int]] = []

    def kill(pid: int, number: int) -> None:
        asked.append((pid, number))
        if fault is not None:
            raise fault

    Proc(monkeypatch, {})
    monkeypatch.setattr(os, "kill", kill)
    assert leases._process(7) == expected
    assert asked == [(7, 0)]


def test_this_process_is_found_with_its_start_time() -> None:
    pid, began = str(leases._process(os.getpid())).split()
    assert int(pid) == os.getpid()
    assert int(began) > 0
    assert Lease().process == Lease().process
    assert Lease().id != Lease().id


def test_a_machine_is_a_boot_and_a_process_id_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    boot, processes = "/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"
    Proc(monkeypatch, {boot: "a-boot\n", processes: "pid:[1]"})
    assert leases._machine() == "a-boot pid:[1]"
    Proc(monkeypatch, {boot: "a-boot\n", processes: "pid:[2]"})
    assert leases._machine() == "a-boot pid:[2]"
    Proc(monkeypatch, {})
    monkeypatch.setattr(platform, "node", lambda: "node")
    monkeypatch.setattr(platform, "system", lambda: "Other")
    assert leases._machine() == "node Other"


def test_without_a_start_time_a_process_is_its_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "_process", lambda _: None)
    assert Lease().process == str(os.getpid())


async def test_without_start_times_runs_of_a_living_process_are_kept(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "_process", lambda pid: "1" if pid == 1 else None)
    message = await record_run_of(url, Lease(process="1"))
    await record_run_of(url, Lease(process="2"))
    store = SqlStore(url)
    async with store.open():
        assert statuses(url) == ["running", "interrupted"]
        assert await store.find(again(message)) == duplicate_of(message, RunStatus.RUNNING)
        assert await store.get_user(ALICE) is None
