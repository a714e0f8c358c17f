"""The CPU time of this process for each append to the log of a session on Valkey or Redis.

    python -m bench.broker
    python -m bench.broker --appends 50000 --url redis://127.0.0.1:6379

Without a URL it runs a private server (`bench.valkey`) on a Unix socket. Each append has 200
bytes. The sessions that it registers are dropped.
"""

import argparse
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import trio
from structlog import ReturnLoggerFactory, configure

from bench.valkey import valkey
from netra_trio.broker.base import Batch, Directory, SessionRecord
from netra_trio.broker.valkey.backend import ValkeyBackend
from netra_trio.ids import ThreadId, UserId, new_node_id, new_session_id

APPENDS = 20_000
SESSIONS = 50  # of one pipeline, and tasks at once
DATA = b"x" * 200
KEPT_SECONDS = 60.0

Work = Callable[[Directory, Sequence[SessionRecord], int], Awaitable[None]]


async def one_at_a_time(
    directory: Directory, records: Sequence[SessionRecord], appends: int
) -> None:
    """Await each append before the next one."""
    for at in range(appends):
        await directory.append([_batch(records[0], at)])


async def pipelined(directory: Directory, records: Sequence[SessionRecord], appends: int) -> None:
    """Append to all sessions in one call."""
    for at in range(appends // len(records)):
        await directory.append([_batch(record, at) for record in records])


async def at_once(directory: Directory, records: Sequence[SessionRecord], appends: int) -> None:
    """Append to each session in a task of its own."""
    async with trio.open_nursery() as nursery:
        for record in records:
            nursery.start_soon(one_at_a_time, directory, [record], appends // len(records))


WORK: Mapping[str, Work] = {
    "one at a time": one_at_a_time,
    f"{SESSIONS} in one call": pipelined,
    f"{SESSIONS} tasks at once": at_once,
}


async def measure(url: str, appends: int) -> dict[str, float]:
    """Return the CPU time of an append, in microseconds, for each kind of work."""
    backend = ValkeyBackend(new_node_id(), url)
    figures = {}
    async with backend.open():
        directory = backend.directory
        for name, work in WORK.items():
            records = [_record(directory) for _ in range(SESSIONS)]
            await directory.append([_batch(record, None) for record in records])
            started = time.process_time()
            await work(directory, records, appends)
            figures[name] = (time.process_time() - started) / appends * 1e6
            await directory.drop(records)
    return figures


def _record(directory: Directory) -> SessionRecord:
    return SessionRecord(
        session_id=new_session_id(),
        user_id=UserId("bench"),
        owner=directory.node,
        epoch=1,
        acknowledging=True,
        is_anonymous=False,
        thread_id=ThreadId("bench"),
        lease=directory.node,
    )


def _batch(record: SessionRecord, previous: int | None) -> Batch:
    last = 0 if previous is None else previous + 1
    return Batch(record, previous, last, DATA, KEPT_SECONDS)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a table."""
    reading = argparse.ArgumentParser(prog="python -m bench.broker", description=__doc__)
    reading.add_argument("--url", help="a value of REDIS_URL; default: a server of its own")
    reading.add_argument("--appends", type=int, default=APPENDS, metavar="N")
    given = reading.parse_args(arguments)
    configure(logger_factory=ReturnLoggerFactory())  # the table is the output
    if given.url is not None:
        _show(trio.run(measure, given.url, given.appends))
        return
    with tempfile.TemporaryDirectory() as folder, valkey(Path(folder)) as server:
        _show(trio.run(measure, server.url, given.appends))


def _show(figures: Mapping[str, float]) -> None:
    print("CPU µs of this process for each append:")
    for name, microseconds in figures.items():
        print(f"  {name:18} {microseconds:6.1f}")


if __name__ == "__main__":
    main()
