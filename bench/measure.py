"""The measurements: each workload on each server, in turns, as often as requested.

    for measurement in measure(plan, print):
        ...

The servers take turns (A B A B), so that other activity of the machine affects all of them. Each
measurement starts a new server, with an empty database, and a new load.
"""

import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import orjson
from attrs import asdict, field, frozen

from bench.load import Job
from bench.processes import child, tail
from bench.servers import ROOT, Name, Server, kind_of, running, separate_cpus
from bench.workloads import WORKLOADS

EXTRA_SECONDS = 120.0  # for a load, beyond twice the time that its workload takes
OTHER_FILES = 50  # open files of a server or a load that are not connections


class MeasureError(Exception):
    """A measurement failed; the text has the reason."""


@frozen
class Plan:
    """The measurements to make.

    Attributes:
        workloads: The parameters of each, by name.
        servers: Their names.
        repeat: The number of repetitions.
        plain: Whether clients of this project do not acknowledge events.
    """

    workloads: Mapping[str, Mapping[str, float | str]]
    servers: Sequence[str]
    repeat: int = 1
    plain: bool = False

    def __len__(self) -> int:
        return sum(len(self.servers_of(name)) for name in self.workloads) * self.repeat

    def servers_of(self, workload: str) -> list[str]:
        """Return the servers that support a workload; none if it compares others."""
        wanted = WORKLOADS[workload]
        compares = wanted.compares
        found = [name for name in self.servers if kind_of(name).resumes or not wanted.resumes]
        if wanted.rooms:
            found = [name for name in found if kind_of(name).rooms is not None]
        if not compares:
            return found
        found = [name for name in found if Name.parse(name).kind in compares]
        return found if len({Name.parse(name).kind for name in found}) > 1 else []

    def bases_of(self, workload: str) -> list[str]:
        """Return the servers that ratios of a workload refer to."""
        bases = {*WORKLOADS[workload].bases, *self._bases_of_servers}
        return [name for name in self.bases if name in bases]

    @property
    def bases(self) -> list[str]:
        """The servers that ratios of any workload refer to."""
        of_workloads = (base for name in self.workloads for base in WORKLOADS[name].bases)
        named = dict.fromkeys([*of_workloads, *self._bases_of_servers])
        return [name for name in named if name in self.servers]

    @property
    def _bases_of_servers(self) -> list[str]:
        """The servers that ratios of all workloads refer to: bases of kinds, other checkouts."""
        of_kinds = [base for name in self.servers for base in kind_of(name).bases]
        checkouts = [name for name in self.servers if Name.parse(name).checkout]
        return [*of_kinds, *checkouts]

    @property
    def files(self) -> int:
        """The greatest number of files that one of its processes has open."""
        amounts = self.workloads.values()
        numbers = [float(one.get("connections", one.get("most", 0))) for one in amounts]
        return int(max(numbers, default=0)) + OTHER_FILES


@frozen
class Measurement:
    """One workload on one server, once.

    Attributes:
        figures: By their names in `bench.figures`.
        checks: Whether the figures are valid: see `bench.scenarios`.
        error: The reason if there are no figures.
    """

    workload: str
    server: str
    repetition: int
    figures: Mapping[str, float] = field(factory=dict)
    checks: Mapping[str, float] = field(factory=dict)
    error: str | None = None


def measure(plan: Plan, progress: Callable[[str], None]) -> Iterator[Measurement]:
    """Make all measurements; a failure is reported, and the others continue."""
    number = 0
    for workload, parameters in plan.workloads.items():
        for repetition in range(plan.repeat):
            for server in plan.servers_of(workload):
                number += 1
                progress(f"[{number}/{len(plan)}] {workload} on {server}, {repetition + 1}")
                try:
                    result = _measure_one(workload, parameters, server, plain=plan.plain)
                except Exception as fault:
                    progress(f"failed: {fault}")
                    yield Measurement(workload, server, repetition, error=str(fault))
                else:
                    figures, checks = result["figures"], result["checks"]
                    yield Measurement(workload, server, repetition, figures, checks)


def _measure_one(
    workload: str, parameters: Mapping[str, float | str], name: str, *, plain: bool
) -> dict[str, dict[str, float]]:
    heartbeat, unlimited = float(parameters["heartbeat"]), WORKLOADS[workload].unlimited
    cpus = separate_cpus() if WORKLOADS[workload].pinned else None
    server_cpus, load_cpus = cpus or (None, None)
    rooms = WORKLOADS[workload].rooms
    with running(
        name, heartbeat=heartbeat, unlimited=unlimited, rooms=rooms, cpus=server_cpus
    ) as server:
        dialect = kind_of(name).dialect
        job = Job(
            port=server.port,
            pid=server.pid,
            secret=server.secret,
            dialect="netra-plain" if plain and dialect == "netra" else dialect,
            scenario=WORKLOADS[workload].scenario,
            parameters=dict(parameters),
            workers=kind_of(name).workers,
            valkey_pid=None if server.valkey is None else server.valkey.pid,
        )
        result = _load(job, server, load_cpus)
    if WORKLOADS[workload].pinned:
        result["checks"]["pinned"] = float(cpus is not None)
    return result


def _load(job: Job, server: Server, cpus: Collection[int] | None) -> dict[str, dict[str, float]]:
    """Run the load, and return its result."""
    command = [sys.executable, "-m", "bench.load"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with child(command, cpus=cpus, cwd=ROOT, **pipes) as process:
        question = orjson.dumps(asdict(job))
        timeout = EXTRA_SECONDS + 2 * _seconds_of(job.parameters)
        try:
            output, _ = process.communicate(question, timeout=timeout)
        except subprocess.TimeoutExpired:
            raise MeasureError("the load does not end") from None
    result: dict[str, dict[str, float]] = orjson.loads(output) if output else {}
    if "figures" not in result:
        said = tail(server.output.read_text(errors="replace"))
        raise MeasureError(f"{result.get('error', 'the load broke')}\nThe server's output:\n{said}")
    return result


def _seconds_of(parameters: Mapping[str, float | str]) -> float:
    """Return how long a workload takes, its probes and ramps included."""
    each = sum(float(parameters.get(name, 0)) for name in ("ramp", "ramp", "warm_up", "seconds"))
    return each * float(parameters.get("probes", 1))
