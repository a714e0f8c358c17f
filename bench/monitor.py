"""The resources of the soak's server, measured in its process and from outside.

sample = await Monitor(pid, database, client, started).sample()
sample.tasks, sample.sockets, sample.rss_kib
"""

import contextlib
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path

import orjson
import trio
from attrs import frozen

from bench.proc import memory
from netra_trio.client import Client

SETTLE_SECONDS = 90.0  # for resources to be released
TABLES = ("users", "threads", "messages", "runs", "owners")


@frozen
class Sample:
    """The resources of the server at one time.

    Attributes:
        at: Seconds since the start.
        tasks: Trio tasks that are alive.
        objects: Objects that the garbage collector tracks.
        sockets: Open sockets, including the listening one.
        files: Open files that are neither sockets nor the database's.
        database_files: Open files of the database: its pool keeps some connections.
        threads: Threads of the process.
        rss_kib: Resident memory.
        rows: The number of rows of each table.
    """

    at: float
    tasks: int
    objects: int
    sockets: int
    files: int
    database_files: int
    threads: int
    rss_kib: float
    rows: Mapping[str, int]

    def __str__(self) -> str:
        return (
            f"{self.at:7.1f} s  {self.tasks:4} tasks  {self.sockets:3} sockets  "
            f"{self.threads:2} threads  {self.rss_kib / 1024:6.1f} MiB  "
            f"{self.objects} objects  {self.rows['runs']} runs"
        )


class Monitor:
    """Samples the server's resources, over a connection of its own and from /proc."""

    def __init__(self, pid: int, database: Path, client: Client, started: float) -> None:
        self._pid = pid
        self._database = database.resolve()
        self._client = client
        self._started = started

    async def sample(self) -> Sample:
        """Return the resources now."""
        run = await self._client.send("sample", agent="statistics", thread_id="statistics")
        end = [event async for event in run][-1]
        inside = orjson.loads(end.payload["result"])
        files, threads = await trio.to_thread.run_sync(_files_and_threads, self._pid)
        sockets = sum(target.startswith("socket:") for target in files)
        databases = sum(target.startswith(str(self._database)) for target in files)
        return Sample(
            at=round(trio.current_time() - self._started, 1),
            tasks=inside["tasks"],
            objects=inside["objects"],
            sockets=sockets,
            files=len(files) - sockets - databases,
            database_files=databases,
            threads=threads,
            rss_kib=memory(self._pid).rss,
            rows=await trio.to_thread.run_sync(rows_of, self._database),
        )

    async def settle(self, is_settled: Callable[[Sample], bool]) -> Sample:
        """Sample once a second until a condition holds, or for at most 90 s."""
        with trio.move_on_after(SETTLE_SECONDS):
            while True:
                sample = await self.sample()
                if is_settled(sample):
                    return sample
                await trio.sleep(1)
        return await self.sample()


def _files_and_threads(pid: int) -> tuple[list[str], int]:
    """Return the targets of a process's open files, and the number of its threads."""
    found = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found.append(str(path.readlink()))
    return found, len(list(Path(f"/proc/{pid}/task").iterdir()))


def rows_of(database: Path) -> dict[str, int]:
    """Return the number of rows of each table of a database."""
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return {
            name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0]  # noqa: S608 - ours
            for name in TABLES
        }
