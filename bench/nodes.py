"""Two nodes with one Valkey: what a relayed connection costs, and how long a resume takes.

    python -m bench.nodes
    python -m bench.nodes --sessions 50 --rounds 10 --out nodes.json

It measures a ping and the first delta of a message over a local and a relayed connection, in turns;
the time of a resume at the node of the session, of a session that moves, of a relayed one, and of
one that is taken over from a node that was killed, whose lease is still there or was deleted; and
the memory of sessions in the Valkey. Both nodes are `netra-trio serve` with a database in SQLite.
"""

import argparse
import secrets
import sys
import tempfile
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import orjson
from attrs import asdict, frozen
from rich.console import Console
from rich.table import Table

from bench.connection import LoadError
from bench.elsewhere import Node, Times, nodes_of, open_again, remember, take_over, talk
from bench.figures import latencies
from bench.load import runner
from bench.machine import machine
from bench.processes import INTERRUPTED, ServerError, raise_on_signals
from bench.servers import running
from bench.valkey import Valkey, valkey
from bench.workloads import HEARTBEAT, NETRA

SESSIONS = 20  # of each kind of resume, and in each takeover
MESSAGES = 200  # over each connection in each round
ROUNDS = 5
REMEMBERED = 10  # times as many sessions for their memory: a single one is less than the noise


@frozen
class Plan:
    """The amounts.

    Attributes:
        sessions: Of each kind of resume, and in each takeover.
        messages: Pings, and messages, over each connection in each round.
        rounds: How often the connections take turns, and nodes are killed.
    """

    sessions: int = SESSIONS
    messages: int = MESSAGES
    rounds: int = ROUNDS


@frozen
class Result:
    """The measured values.

    Attributes:
        plan: The amounts.
        machine: On which machine.
        latencies: p50 and p99 in milliseconds, and the number of values, by name.
        valkey_kib: KiB in the Valkey for each session, by its state.
    """

    plan: Plan
    machine: Mapping[str, Any]
    latencies: Mapping[str, Mapping[str, float]]
    valkey_kib: Mapping[str, float]


@frozen
class Shared:
    """The broker and the settings that nodes share."""

    valkey: Valkey
    environ: Mapping[str, str]

    @contextmanager
    def node(self) -> Iterator[Node]:
        """Run a node; it ends with the block.

        Raises:
            ServerError: If it does not start.
        """
        before = nodes_of(self.valkey)
        with running(NETRA, heartbeat=HEARTBEAT, unlimited=True, environ=self.environ) as server:
            (own,) = nodes_of(self.valkey) - before
            yield Node(server, own, self.valkey)


@contextmanager
def sharing() -> Iterator[Shared]:
    """Run a Valkey for nodes in an empty folder, which also has their database."""
    with tempfile.TemporaryDirectory(prefix="nodes-") as name, valkey(Path(name)) as broker:
        environ = {
            "REDIS_URL": broker.url,
            "DATABASE_URL": f"sqlite:///{name}/nodes.db",
            "JWT_SECRET_KEY": secrets.token_urlsafe(48),
        }
        yield Shared(broker, environ)


def measure(plan: Plan, log: Callable[[str], None]) -> Result:
    """Make all measurements.

    Raises:
        LoadError: If a session is not where it should be, or a resume is not exact.
        ServerError: If a node or the Valkey does not start.
    """
    found, seconds = machine(), dict[str, list[float]]()

    def note(times: Times) -> None:
        for name, each in times.items():
            seconds.setdefault(name, []).extend(each)

    with sharing() as shared:
        with shared.node() as here:
            log("memory")
            memory = run(remember(here, sessions=plan.sessions * REMEMBERED))
        with shared.node() as here, shared.node() as there:
            log("a local and a relayed connection")
            note(run(talk(here, there, messages=plan.messages, rounds=plan.rounds)))
        with shared.node() as here, shared.node() as there:
            log("resumes")
            note(run(open_again(here, there, sessions=plan.sessions)))
        for number in range(plan.rounds):
            for has_lease in (True, False):
                log(f"takeover {number + 1}, {'with' if has_lease else 'without'} a lease")
                with shared.node() as dying, shared.node() as there:
                    taking = take_over(dying, there, sessions=plan.sessions, has_lease=has_lease)
                    note(run(taking))
    shown = {name: {**latencies("", each), "count": len(each)} for name, each in seconds.items()}
    return Result(plan, found, shown, memory)


def run(measuring: Coroutine[Any, Any, Any]) -> Any:
    """Run a measurement to its end.

    Raises:
        LoadError: If it fails.
    """
    try:
        return runner()(measuring)
    except (OSError, TimeoutError) as error:
        raise LoadError(f"a node does not answer: {error!r}") from error


def table(result: Result) -> Table:
    """Return the figures as a table."""
    shown = Table("measured", "p50 ms", "p99 ms", "values")
    for name, each in result.latencies.items():
        p50, p99 = (f"{each[key]:.2f}" for key in ("p50_ms", "p99_ms"))
        shown.add_row(name, p50, p99, f"{each['count']:.0f}")
    shown.add_section()
    for name, kib in result.valkey_kib.items():
        shown.add_row(f"KiB in Valkey, {name}", f"{kib:.2f}", "", "")
    return shown


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, show, write; return the exit code: 1 if a measurement failed."""
    reading = argparse.ArgumentParser(prog="python -m bench.nodes", description=__doc__)
    add = reading.add_argument
    add("--sessions", type=int, default=SESSIONS, help=f"of each kind (default: {SESSIONS})")
    add("--messages", type=int, default=MESSAGES, help=f"of each kind (default: {MESSAGES})")
    add("--rounds", type=int, default=ROUNDS, help=f"of messages and kills (default: {ROUNDS})")
    add("--out", type=Path, default=Path("nodes.json"), help="the JSON (default: nodes.json)")
    given = reading.parse_args(arguments)
    plan = Plan(given.sessions, given.messages, given.rounds)
    if min(plan.sessions, plan.messages, plan.rounds) < 1:
        reading.error("--sessions, --messages and --rounds: expected 1 or more")
    log = partial(print, file=sys.stderr, flush=True)
    try:
        result = measure(plan, log)
    except (LoadError, ServerError) as error:
        log(f"failed: {error}")
        return 1
    except KeyboardInterrupt:
        log("interrupted")
        return INTERRUPTED
    given.out.write_bytes(orjson.dumps(asdict(result), option=orjson.OPT_INDENT_2) + b"\n")
    cpu, cores, load = (result.machine[name] for name in ("cpu", "cores", "load_before"))
    console = Console(highlight=False)
    console.print(f"{cpu}, {cores} cores, load average {load:.1f} before")
    console.print(table(result))
    return 0


if __name__ == "__main__":
    raise_on_signals()
    sys.exit(main())
