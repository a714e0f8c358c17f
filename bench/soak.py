"""The soak: conversations with random faults for an hour, after which no resource may leak.

    python -m bench.soak
    python -m bench.soak --minutes 3 --clients 10 --seed 7 --out soak.json

Clients of this project exchange messages with one server process over connections that are cut,
half-open and slow; clients are killed and replaced. After all have disconnected, the server's
tasks, sockets, threads and memory must be as before, and the database must contain each confirmed
message once, with the end of its run. The exit code is 1 if something has leaked, and 130 after a
signal.
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
from bench.monitor import SETTLE_SECONDS, Monitor, Sample
from bench.processes import ENDING, INTERRUPTED, child, raise_on_signals, tail
from bench.servers import ROOT
from bench.users import Observations, User
from bench.workloads import UNLIMITED
from netra_trio.client import connect
from netra_trio.errors import leaves
from netra_trio.stores.sql.database import CONNECTIONS, WRITERS

MINUTES = 60.0
WARM_UP = 0.15  # of the time: one-time allocations happen in it
CLIENTS = 20
FAULT_SECONDS = 8.0  # on average, from one fault of a client to the next
SAMPLES = 60  # over the whole time, but no more than one a second
HEARTBEAT_SECONDS = 1.0
WINDOW_SECONDS = 5.0  # that sessions outlive their connections
SEND_SECONDS = 2.0  # that a peer may not read
STARTING_SECONDS = 60.0
ENDING_SECONDS = 12.0  # of the server, from SIGTERM: the drain, two seconds, and a margin
DATABASE_FILES = 3 * (CONNECTIONS + WRITERS)  # the pool's, each with its log and index
MEMORY_FACTOR = 1.15  # of the memory before; not all freed memory is returned to the system
MEMORY_KIB = 8 * 1024.0  # in addition
OBJECTS_FACTOR = 1.05  # of the Python objects before: caches with a bound may still grow
OBJECTS = 2_000  # in addition: an hour has twenty times as many runs, so one for each run is a leak
ENDED = ("completed", "failed", "cancelled", "timed_out", "interrupted")

_AGENTS = "bench.peers.soak_agents"
_KEPT = ("PATH", "LD_LIBRARY_PATH", "LANG", "TMPDIR", "VIRTUAL_ENV")


@frozen
class Plan:
    """The parameters of a soak.

    Attributes:
        minutes: The duration, with the warm-up.
        clients: The number of users at once.
        seed: Of the random generators: the same faults, at the same times if the machine allows.
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
        """Return a token that is valid beyond the soak."""
        claims = {"sub": user, "exp": int(time.time()) + 7 * 24 * 3600}
        return jwt.encode(claims, self.secret, algorithm="HS256")


class SoakError(Exception):
    """The soak cannot continue; the text has the reason."""


@contextmanager
def serving() -> Iterator[Served]:
    """Run the server in an empty folder; both end with the block.

    Raises:
        SoakError: If it does not start.
    """
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        folder = Path(name)
        secret = secrets.token_urlsafe(48)
        output = folder / "output.log"
        agents = [f"--agent={name}={_AGENTS}:{name}" for name in ("repeat", "statistics")]
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
    """The result of a soak."""

    plan: Plan
    machine: Mapping[str, Any]
    before: Sample
    after: Sample
    samples: Sequence[Sample]
    faults: Mapping[str, int]
    counts: Mapping[str, int]
    errors: Sequence[str]


async def run(plan: Plan, served: Served, log: Callable[[str], None]) -> Result | None:
    """Run the soak; None if a signal of `ENDING` has cancelled it.

    Raises:
        SoakError: If the server ends before.
    """
    result: Result | None = None
    with trio.open_signal_receiver(*ENDING) as signals:
        async with trio.open_nursery() as nursery:

            async def cancel_on_signal() -> None:
                async for _ in signals:
                    nursery.cancel_scope.cancel()

            nursery.start_soon(cancel_on_signal)
            result = await soak(plan, served, log)
            nursery.cancel_scope.cancel()
    return result


async def soak(plan: Plan, served: Served, log: Callable[[str], None]) -> Result:
    """Exchange messages and inject faults as planned; return the result.

    Raises:
        SoakError: If the server ends before.
    """
    started, found = trio.current_time(), machine()
    url = f"ws://{HOST}:{served.port}/ws"
    async with connect(url, token=served.token("monitor")) as client:
        monitor = Monitor(served.process.pid, served.database, client, started)
        phases = _Phases(plan, served, monitor, log)
        fresh = await monitor.sample()
        await phases.run(plan.minutes * 60 * WARM_UP, plan.seed)
        before = await monitor.settle(
            lambda now: now.tasks <= fresh.tasks and now.sockets <= fresh.sockets
        )
        log(f"before: {before}")
        await phases.run(plan.minutes * 60 * (1 - WARM_UP), plan.seed + 1)
        after = await monitor.settle(lambda now: not leaks(before, now))
        log(f"after:  {after}")
    observations = phases.observations
    errors = [*observations.errors, *idleness(observations.counts, phases.faults)]
    errors += leaks(before, after)
    errors += await trio.to_thread.run_sync(_end, served)
    errors += database_errors(served.database, observations.confirmed)
    return Result(
        plan,
        found,
        before,
        after,
        phases.samples,
        dict(phases.faults),
        dict(observations.counts),
        errors,
    )


@define(eq=False)
class _Phases:
    """The phases of a soak, and their observations."""

    plan: Plan
    served: Served
    monitor: Monitor
    log: Callable[[str], None]
    observations: Observations = field(factory=Observations)
    faults: Counter[str] = field(factory=Counter)
    samples: list[Sample] = field(factory=list)

    async def run(self, seconds: float, seed: int) -> None:
        """Run all users with faults for some seconds, and wait until they have disconnected."""
        async with trio.open_nursery() as relays:
            users = [self._user(f"user-{seed}-{n}", n) for n in range(self.plan.clients)]
            for user in users:
                await relays.start(user.relay.serve)
            async with trio.open_nursery() as nursery:
                for user in users:
                    nursery.start_soon(user.run)
                with trio.move_on_after(seconds):
                    async with trio.open_nursery() as meanwhile:
                        meanwhile.start_soon(self._inject_faults, users, seed)
                        meanwhile.start_soon(self._sample)
                for user in users:
                    user.is_stopping = True
                # A client that waits for an end receives it, or learns that the run is lost.
                nursery.cancel_scope.deadline = trio.current_time() + SETTLE_SECONDS
            if nursery.cancel_scope.cancelled_caught:
                error = f"a client received no end within {SETTLE_SECONDS:g} s"
                self.observations.errors.append(error)
            relays.cancel_scope.cancel()

    def _user(self, name: str, number: int) -> User:
        served, seed = self.served, self.plan.seed * 1000 + number
        return User(name, served.port, served.token(name), self.observations, seed=seed)

    async def _inject_faults(self, users: Sequence[User], seed: int) -> None:
        generator = random.Random(seed)  # noqa: S311 - faults, not secrets
        while True:
            await trio.sleep(generator.expovariate(len(users) / FAULT_SECONDS))
            self.faults[generator.choice(users).inject_fault()] += 1

    async def _sample(self) -> None:
        pause = max(1.0, self.plan.minutes * 60 / SAMPLES)
        while True:
            await trio.sleep(pause)
            if self.served.process.poll() is not None:
                raise SoakError(f"the server ended:\n{tail(self.served.output.read_text())}")
            self.samples.append(await self.monitor.sample())
            self.log(str(self.samples[-1]))


def leaks(before: Sample, after: Sample) -> list[str]:
    """Return the resources that exceed their bound after the soak."""
    found = [
        f"{name}: {getattr(before, name)} before, {getattr(after, name)} after"
        for name in ("tasks", "sockets", "files", "threads")
        if getattr(after, name) > getattr(before, name)
    ]
    if after.database_files > DATABASE_FILES:
        found.append(f"database: {after.database_files} files, at most {DATABASE_FILES} expected")
    if after.objects > before.objects * OBJECTS_FACTOR + OBJECTS:
        found.append(f"objects: {before.objects} before, {after.objects} after")
    if after.rss_kib > before.rss_kib * MEMORY_FACTOR + MEMORY_KIB:
        found.append(f"memory: {before.rss_kib:.0f} KiB before, {after.rss_kib:.0f} after")
    if after.rows["owners"] != before.rows["owners"]:
        found.append(f"owners: {before.rows['owners']} rows before, {after.rows['owners']} after")
    return found


def idleness(counts: Mapping[str, int], faults: Mapping[str, int]) -> list[str]:
    """Return what has not happened at all: a soak of an idle server shows nothing."""
    found = [] if counts.get("completed") else ["no message was answered"]
    return found if faults else [*found, "no fault was injected"]


def _end(served: Served) -> list[str]:
    """Stop the server; return an error if it does not stop in time, with exit code 0."""
    served.process.send_signal(signal.SIGTERM)
    try:
        code = served.process.wait(ENDING_SECONDS)
    except subprocess.TimeoutExpired:
        return [f"the server did not end within {ENDING_SECONDS:g} s"]
    return [] if code == 0 else [f"the server ended with {code}"]


def database_errors(database: Path, confirmed: set[str]) -> list[str]:
    """Return the confirmed messages that are missing, duplicated or without an end; and owners."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        found = connection.execute("SELECT correlation_id, status FROM runs WHERE keyed").fetchall()
        owners = connection.execute("SELECT count(*) FROM owners").fetchone()[0]
    times = Counter(str(key) for key, _ in found)
    errors = [f"{key}: confirmed, not in the database" for key in sorted(confirmed - set(times))]
    errors += [f"{key}: {count} times in the database" for key, count in times.items() if count > 1]
    errors += [f"{key}: {status} in the end" for key, status in found if status not in ENDED]
    return errors + ([f"{owners} owners in the end"] if owners else [])


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak, show, write; return the exit code."""
    reading = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    add = reading.add_argument
    add("--minutes", type=float, default=MINUTES, help=f"duration (default: {MINUTES:g})")
    add("--clients", type=int, default=CLIENTS, help=f"users at once (default: {CLIENTS})")
    add("--seed", type=int, default=1, help="of the random generators (default: 1)")
    add("--out", type=Path, default=Path("soak.json"), help="the JSON (default: soak.json)")
    given = reading.parse_args(arguments)
    if given.minutes <= 0 or given.clients < 1:
        reading.error("--minutes and --clients: expected more than 0")
    plan = Plan(given.minutes, given.clients, given.seed)
    log = partial(print, flush=True)
    result: Result | None = None
    code = INTERRUPTED
    try:
        with serving() as served:
            result = trio.run(run, plan, served, log)
    except* SoakError as errors:
        log("\n".join(map(str, leaves(errors))))
        code = 1
    except* KeyboardInterrupt:  # before the soak began, or after
        code = INTERRUPTED
    if result is None:
        return code
    given.out.write_bytes(orjson.dumps(asdict(result), option=orjson.OPT_INDENT_2))
    log(f"faults: {_listed(result.faults)}")
    log(f"ends: {_listed(result.counts)}")
    log("\n".join(["ERRORS:", *result.errors]) if result.errors else "No leaks and no errors.")
    return int(bool(result.errors))


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


if __name__ == "__main__":
    raise_on_signals()
    sys.exit(main())
