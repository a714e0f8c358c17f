"""The load: a process of its own that drives one server through one workload.

    python -m bench.load < job.json > result.json

The job is the JSON of a `Job`. The result is that of a scenario, or `{"error": …}`.
"""

import asyncio
import gc
import resource
import sys
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import orjson
from attrs import frozen

from bench.connection import LoadError, Target
from bench.dialects import DIALECTS
from bench.pacing import PACED
from bench.resuming import RESUMING
from bench.rooms import ROOMS
from bench.scenarios import SCENARIOS, Processes, Result, Scenario, loading

Run = Callable[[Coroutine[Any, Any, Any]], Any]

ALL_SCENARIOS: Mapping[str, Scenario] = {**SCENARIOS, **PACED, **RESUMING, **ROOMS}
"""Every function of the load, by the name that a workload has for it."""


@frozen
class Job:
    """A job for the load.

    Attributes:
        port: The server's port on this machine.
        pid: The server's process, whose CPU and memory are measured.
        secret: The key that signs tokens.
        dialect: The name of the server's dialect.
        scenario: The name of the function to run.
        parameters: The parameters of the workload.
        workers: How many of the server's processes serve connections.
        valkey_pid: The server's Valkey, if it has one.
    """

    port: int
    pid: int
    secret: str
    dialect: str
    scenario: str
    parameters: dict[str, float | str]
    workers: int = 1
    valkey_pid: int | None = None


async def work(job: Job) -> Result:
    """Run a job, and return its result.

    Raises:
        LoadError: If the server did not do what was requested.
    """
    target = Target("127.0.0.1", job.port, DIALECTS[job.dialect])
    try:
        processes = Processes(job.pid, job.workers, job.valkey_pid)
        async with loading(target, processes, job.secret) as load:
            return await ALL_SCENARIOS[job.scenario](load, job.parameters)
    except* LoadError as faults:
        error: BaseException = faults
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        wrong = str(error)
    except* (OSError, TimeoutError) as faults:
        wrong = f"the server does not answer: {faults.exceptions[0]!r}"
    raise LoadError(wrong)


def raise_file_limit() -> int:
    """Raise the limit of open files to the hard limit, which children inherit; return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard != resource.RLIM_INFINITY else sys.maxsize


def runner() -> Run:
    """Return the `run` of uvloop if it is installed: the load must not be the bottleneck."""
    try:
        import uvloop  # noqa: PLC0415 - optional
    except ImportError:
        return asyncio.run
    run: Run = uvloop.run
    return run


def main() -> None:
    """Read the job, run it, and print the result."""
    job = Job(**orjson.loads(sys.stdin.buffer.read()))
    raise_file_limit()
    gc.set_threshold(100_000)
    result: dict[str, Any]
    try:
        result = runner()(work(job))
    except LoadError as error:
        result = {"error": str(error)}
    sys.stdout.buffer.write(orjson.dumps(result))


if __name__ == "__main__":
    main()
