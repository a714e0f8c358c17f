"""The load: a process of its own that drives one server through one workload.

    python -m bench.load < job.json > result.json

The job is the JSON of a `Job`, and the result is what a scenario returns, or `{"error": …}`.
"""

import asyncio
import gc
import resource
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import orjson
from attrs import frozen

from bench.connection import LoadError, Target
from bench.dialects import DIALECTS
from bench.returning import RETURNING
from bench.scenarios import SCENARIOS, Result, loading

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@frozen
class Job:
    """What the load is to do.

    Attributes:
        port: The server's, on this machine.
        pid: The server's process, whose CPU and memory are measured.
        secret: What tokens are signed with.
        dialect: What the server speaks.
        scenario: The kind of workload.
        parameters: How much of it.
    """

    port: int
    pid: int
    secret: str
    dialect: str
    scenario: str
    parameters: dict[str, float | str]


async def work(job: Job) -> Result:
    """Do it, and return what came of it.

    Raises:
        LoadError: If the server did not do its part.
    """
    target = Target("127.0.0.1", job.port, DIALECTS[job.dialect])
    try:
        async with loading(target, job.pid, job.secret) as load:
            return await {**SCENARIOS, **RETURNING}[job.scenario](load, job.parameters)
    except* LoadError as faults:
        error: BaseException = faults
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        wrong = str(error)
    except* (OSError, TimeoutError) as faults:
        wrong = f"the server does not answer: {faults.exceptions[0]!r}"
    raise LoadError(wrong)


def raise_file_limit() -> int:
    """Allow this process, and those it starts, as many files as it may; return how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard != resource.RLIM_INFINITY else sys.maxsize


def _runner() -> Run:
    """Return uvloop's way to run where it is installed: the load should not be what is slow."""
    try:
        import uvloop  # noqa: PLC0415 - it may be missing
    except ImportError:
        return asyncio.run
    run: Run = uvloop.run
    return run


def main() -> None:
    """Read the job, do it, and print the result."""
    job = Job(**orjson.loads(sys.stdin.buffer.read()))
    raise_file_limit()
    gc.set_threshold(100_000)
    result: dict[str, Any]
    try:
        result = _runner()(work(job))
    except LoadError as error:
        result = {"error": str(error)}
    sys.stdout.buffer.write(orjson.dumps(result))


if __name__ == "__main__":
    main()
