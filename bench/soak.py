"""The soak: conversations and random faults for an hour, after which nothing may be left.

    python -m bench.soak
    python -m bench.soak --minutes 3 --clients 10 --seed 7 --out soak.json

Clients of this project talk to one server process through lines that are cut, half-open and slow;
clients are killed and come back. When they have left, the server's tasks, sockets, threads and
memory have to be what they were before, and the database has to have each confirmed message once,
with its end. The exit code is 1 where something is left.
"""

import argparse
import contextlib
import os
import random
import secrets
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jwt
import orjson
import trio
from attrs import asdict, define, field, frozen

from bench.faults import HOST
from bench.machine import machine
from bench.servers import ROOT, child, tail
from bench.talkers import Talker, Tally
from bench.watcher import SETTLE_SECONDS, Sample, Watcher
from bench.workloads import UNLIMITED
from netra_trio.client import connect
from netra_trio.errors import leaves
from netra_trio.stores.sql.database import CONNECTIONS, WRITERS

MINUTES = 60.0
WARM_UP = 0.15  # of the time: what a process takes once, it has taken then
CLIENTS = 20
FAULT_SECONDS = 8.0  # on average, from one fault of a client to the next
SAMPLES = 60  # over the whole time, but no more than one a second
HEARTBEAT_SECONDS = 1.0
WINDOW_SECONDS = 5.0  # how long sessions outlive their connections
SEND_SECONDS = 2.0  # that a peer may take nothing
STARTING_SECONDS = 60.0
ENDING_SECONDS = 12.0  # of the server, from SIGTERM: the drain and two seconds, and some
DATABASE_FILES = 3 * (CONNECTIONS + WRITERS)  # the pool's, each with its log and index
MEMORY_FACTOR = 1.15  # of what it was; freed memory is not all given back
MEMORY_KIB = 8 * 1024.0  # besides
ENDED = ("completed", "failed", "cancelled", "timed_out", "interrupted")

_KEPT = ("PATH", "LD_LIBRARY_PATH", "LANG", "TMPDIR", "VIRTUAL_ENV")


@frozen
class Plan:
    """What to do.

    Attributes:
        minutes: How long, warm-up included.
        clients: How many users talk at once.
        seed: Of chance: the same faults at the same times, as far as the machine goes along.
    """

    minutes: float = MINUTES
    clients: int = CLIENTS
    seed: int = 1


@frozen
class Served:
    """The server's process."""

    process: "subprocess.Popen[bytes]"
    port: int
    secret: str
    database: Path
    output: Path

    def token(self, user: str) -> str:
        """Return a token that outlives the soak."""
        claims = {"sub": user, "exp": int(time.time()) + 7 * 24 * 3600}
        return jwt.encode(claims, self.secret, algorithm="HS256")


class SoakError(Exception):
    """The soak cannot go on; the text says why."""


@contextmanager
def serving() -> Iterator[Served]:
    """Run the server in an empty folder; on leaving it is gone.

    Raises:
        SoakError: It does not start.
    """
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        folder = Path(name)
        secret = secrets.token_urlsafe(48)
        output = folder / "output.log"
        agents = [f"--agent={agent}=bench.peers.soaked:{agent}" for agent in ("talk", "look")]
        command = [sys.executable, "-m", "netra_trio", "serve", "--port", "0", *agents]
        environ = {
            **{key: value for key, value in os.environ.items() if key in _KEPT},
            "HOME": name,
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "JWT_SECRET_KEY": secret,
            "WEBSOCKET_HEARTBEAT_INTERVAL": str(round(HEARTBEAT_SECONDS * 1000)),
            "WEBSOCKET_RESUME_WINDOW": str(round(WINDOW_SECONDS * 1000)),
            "WEBSOCKET_SEND_TIMEOUT": str(round(SEND_SECONDS * 1000)),
            "WEBSOCKET_MAX_MESSAGE_RATE": UNLIMITED,
        }
        with (
            output.open("wb") as file,
            child(
                command,
                cwd=folder,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            ) as process,
        ):
            port = _port_of(process, output)
            yield Served(process, port, secret, folder / ".netra" / "netra.db", output)


def _port_of(process: "subprocess.Popen[bytes]", output: Path) -> int:
    deadline = time.monotonic() + STARTING_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        for line in output.read_text(errors="replace").splitlines():
            if line.startswith("Ready on http://"):
                return int(line.split()[2].rpartition(":")[2])
        time.sleep(0.05)
    raise SoakError(f"the server does not start:\n{tail(output.read_text(errors='replace'))}")


@frozen
class Result:
    """What came of it."""

    plan: Plan
    machine: Mapping[str, Any]
    before: Sample
    after: Sample
    samples: Sequence[Sample]
    faults: Mapping[str, int]
    counts: Mapping[str, int]
    wrong: Sequence[str]


async def soak(plan: Plan, served: Served, tell: Callable[[str], None]) -> Result:
    """Talk and break things for as long as the plan says; return what is left.

    Raises:
        SoakError: The server ended.
    """
    started, found = trio.current_time(), machine()
    url = f"ws://{HOST}:{served.port}/ws"
    async with connect(url, token=served.token("watcher")) as client:
        watcher = Watcher(served.process.pid, served.database, client, started)
        work = _Work(plan, served, watcher, tell)
        fresh = await watcher.look()
        await work.phase(plan.minutes * 60 * WARM_UP, plan.seed)
        before = await watcher.settle(
            lambda now: now.tasks <= fresh.tasks and now.sockets <= fresh.sockets
        )
        tell(f"before: {before}")
        await work.phase(plan.minutes * 60 * (1 - WARM_UP), plan.seed + 1)
        after = await watcher.settle(lambda now: not left_over(before, now))
        tell(f"after:  {after}")
    wrong = [*work.tally.wrong, *left_over(before, after)]
    wrong += await trio.to_thread.run_sync(_end, served)
    wrong += unsettled(served.database, work.tally.confirmed)
    return Result(
        plan,
        found,
        before,
        after,
        work.samples,
        dict(work.faults),
        dict(work.tally.counts),
        wrong,
    )


@define(eq=False)
class _Work:
    """What goes on in a phase, and what came of all of them."""

    plan: Plan
    served: Served
    watcher: Watcher
    tell: Callable[[str], None]
    tally: Tally = field(factory=Tally)
    faults: Counter[str] = field(factory=Counter)
    samples: list[Sample] = field(factory=list)

    async def phase(self, seconds: float, seed: int) -> None:
        """Let everybody talk and suffer for so long, and leave."""
        async with trio.open_nursery() as relays:
            talkers = [self._talker(f"user-{seed}-{n}", n) for n in range(self.plan.clients)]
            for talker in talkers:
                await relays.start(talker.relay.serve)
            async with trio.open_nursery() as nursery:
                for talker in talkers:
                    nursery.start_soon(talker.talk)
                with trio.move_on_after(seconds):
                    async with trio.open_nursery() as meanwhile:
                        meanwhile.start_soon(self._break_things, talkers, seed)
                        meanwhile.start_soon(self._sample)
                for talker in talkers:
                    talker.is_leaving = True
                # Whoever waits for an answer gets it, or hears that the server forgot it.
                nursery.cancel_scope.deadline = trio.current_time() + SETTLE_SECONDS
            if nursery.cancel_scope.cancelled_caught:
                self.tally.wrong.append(f"a client got no end within {SETTLE_SECONDS:g} s")
            relays.cancel_scope.cancel()

    def _talker(self, name: str, number: int) -> Talker:
        served, seed = self.served, self.plan.seed * 1000 + number
        return Talker(name, served.port, served.token(name), self.tally, seed=seed)

    async def _break_things(self, talkers: Sequence[Talker], seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311 - faults, not secrets
        while True:
            await trio.sleep(chance.expovariate(len(talkers) / FAULT_SECONDS))
            self.faults[chance.choice(talkers).suffer()] += 1

    async def _sample(self) -> None:
        pause = max(1.0, self.plan.minutes * 60 / SAMPLES)
        while True:
            await trio.sleep(pause)
            if self.served.process.poll() is not None:
                raise SoakError(f"the server ended:\n{tail(self.served.output.read_text())}")
            self.samples.append(await self.watcher.look())
            self.tell(str(self.samples[-1]))


def left_over(before: Sample, after: Sample) -> list[str]:
    """Say what did not come back to where it was."""
    found = [
        f"{name}: {getattr(before, name)} before, {getattr(after, name)} after"
        for name in ("tasks", "sockets", "files", "threads")
        if getattr(after, name) > getattr(before, name)
    ]
    if after.database_files > DATABASE_FILES:
        found.append(f"database: {after.database_files} files, at most {DATABASE_FILES} expected")
    if after.rss_kib > before.rss_kib * MEMORY_FACTOR + MEMORY_KIB:
        found.append(f"memory: {before.rss_kib:.0f} KiB before, {after.rss_kib:.0f} after")
    if after.rows["owners"] != before.rows["owners"]:
        found.append(f"owners: {before.rows['owners']} rows before, {after.rows['owners']} after")
    return found


def _end(served: Served) -> list[str]:
    """End the server; say what is wrong with how it ended."""
    served.process.send_signal(signal.SIGTERM)
    try:
        code = served.process.wait(ENDING_SECONDS)
    except subprocess.TimeoutExpired:
        return [f"the server did not end within {ENDING_SECONDS:g} s"]
    return [] if code == 0 else [f"the server ended with {code}"]


def unsettled(database: Path, confirmed: set[str]) -> list[str]:
    """Say which messages the database does not have once, with an end; and who is still there."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        found = connection.execute("SELECT correlation_id, status FROM runs WHERE keyed").fetchall()
        owners = connection.execute("SELECT count(*) FROM owners").fetchone()[0]
    times = Counter(str(key) for key, _ in found)
    wrong = [f"{key}: confirmed, and not in the database" for key in sorted(confirmed - set(times))]
    wrong += [f"{key}: {count} times in the database" for key, count in times.items() if count > 1]
    wrong += [f"{key}: {status} in the end" for key, status in found if status not in ENDED]
    return wrong + ([f"{owners} owners in the end"] if owners else [])


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak, show, write; return the exit code."""
    reading = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    add = reading.add_argument
    add("--minutes", type=float, default=MINUTES, help=f"how long (default: {MINUTES:g})")
    add("--clients", type=int, default=CLIENTS, help=f"users at once (default: {CLIENTS})")
    add("--seed", type=int, default=1, help="of chance (default: 1)")
    add("--out", type=Path, default=Path("soak.json"), help="the JSON (default: soak.json)")
    asked = reading.parse_args(arguments)
    if asked.minutes <= 0 or asked.clients < 1:
        reading.error("--minutes and --clients: expected more than 0")
    plan = Plan(asked.minutes, asked.clients, asked.seed)
    tell = partial(print, flush=True)
    result: Result | None = None
    try:
        with serving() as served:
            result = trio.run(soak, plan, served, tell)
    except* SoakError as errors:
        tell("\n".join(map(str, leaves(errors))))
    if result is None:
        return 1
    asked.out.write_bytes(orjson.dumps(asdict(result), option=orjson.OPT_INDENT_2))
    tell(f"faults: {_listed(result.faults)}")
    tell(f"ends: {_listed(result.counts)}")
    tell("\n".join(["LEFT OVER:", *result.wrong]) if result.wrong else "Nothing is left over.")
    return int(bool(result.wrong))


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


if __name__ == "__main__":
    sys.exit(main())
