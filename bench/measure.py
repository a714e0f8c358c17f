"""The measuring: each workload on each server, in turn, as often as asked for.

    for measurement in measure(plan):
        ...

The servers take turns (A B A B), so that what the machine does meanwhile meets all of them. Each
measurement has a fresh server, with an empty database, and a fresh load.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence

import orjson
from attrs import asdict, field, frozen

from bench.load import Job
from bench.servers import ROOT, SERVERS, Server, child, running, tail
from bench.workloads import WORKLOADS

PATIENCE = 120.0  # seconds a load may take beyond its warm-up and what it measures, twice over
STAYING = 50  # open files of a server or a load that are no connections


class MeasureError(Exception):
    """Something could not be measured; the text says what and why."""


@frozen
class Plan:
    """What to measure.

    Attributes:
        workloads: The parameters of each, by name.
        servers: Their names.
        repeat: How often.
        plain: Whether clients of this project leave acknowledging away.
    """

    workloads: Mapping[str, Mapping[str, float | str]]
    servers: Sequence[str]
    repeat: int = 1
    plain: bool = False

    def __len__(self) -> int:
        return sum(len(self.servers_of(name)) for name in self.workloads) * self.repeat

    def servers_of(self, workload: str) -> list[str]:
        """Return the servers that can do this workload."""
        resumes = WORKLOADS[workload].resumes
        return [name for name in self.servers if SERVERS[name].resumes or not resumes]

    @property
    def files(self) -> int:
        """How many files a process of it has open, at the most."""
        numbers = [float(amount.get("connections", 0)) for amount in self.workloads.values()]
        return int(max(numbers, default=0)) + STAYING


@frozen
class Measurement:
    """One workload on one server, once.

    Attributes:
        figures: By their names in `bench.figures`.
        checks: Whether to believe them: see `bench.scenarios`.
        error: Why there are none.
    """

    workload: str
    server: str
    repetition: int
    figures: Mapping[str, float] = field(factory=dict)
    checks: Mapping[str, float] = field(factory=dict)
    error: str | None = None


def measure(plan: Plan, tell: Callable[[str], None]) -> Iterator[Measurement]:
    """Measure everything; whatever cannot be measured is told, and the rest goes on."""
    number = 0
    for workload, parameters in plan.workloads.items():
        for repetition in range(plan.repeat):
            for server in plan.servers_of(workload):
                number += 1
                tell(f"[{number}/{len(plan)}] {workload} on {server}, {repetition + 1}")
                try:
                    result = _measure_one(workload, parameters, server, plain=plan.plain)
                except Exception as fault:
                    tell(f"failed: {fault}")
                    yield Measurement(workload, server, repetition, error=str(fault))
                else:
                    figures, checks = result["figures"], result["checks"]
                    yield Measurement(workload, server, repetition, figures, checks)


def _measure_one(
    workload: str, parameters: Mapping[str, float | str], name: str, *, plain: bool
) -> dict[str, dict[str, float]]:
    heartbeat, unlimited = float(parameters["heartbeat"]), WORKLOADS[workload].unlimited
    with running(name, heartbeat=heartbeat, unlimited=unlimited) as server:
        dialect = SERVERS[name].dialect
        job = Job(
            port=server.port,
            pid=server.pid,
            secret=server.secret,
            dialect="netra-plain" if plain and dialect == "netra" else dialect,
            scenario=WORKLOADS[workload].scenario,
            parameters=dict(parameters),
        )
        return _load(job, server)


def _load(job: Job, server: Server) -> dict[str, dict[str, float]]:
    """Run the load, and return what it found."""
    going = float(job.parameters.get("warm_up", 0)) + float(job.parameters["seconds"])
    command = [sys.executable, "-m", "bench.load"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with child(command, cwd=ROOT, **pipes) as process:
        question = orjson.dumps(asdict(job))
        try:
            output, _ = process.communicate(question, timeout=PATIENCE + 2 * going)
        except subprocess.TimeoutExpired:
            raise MeasureError("the load does not end") from None
    result: dict[str, dict[str, float]] = orjson.loads(output) if output else {}
    if "figures" not in result:
        said = tail(server.output.read_text(errors="replace"))
        raise MeasureError(f"{result.get('error', 'the load broke')}\nThe server said:\n{said}")
    return result
