"""The command: `python -m bench`."""

import argparse
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from bench.load import raise_file_limit
from bench.machine import machine
from bench.measure import Measurement, Plan, measure
from bench.report import show, write
from bench.servers import ENDING, SERVERS
from bench.workloads import WORKLOADS

FULL_REPEAT = 5  # repetitions: enough for a median that one odd one does not move
INTERRUPTED = 130  # exit code after Ctrl-C, as shells have it
COUNTS = ("connections", "few", "rate")  # what --scale makes fewer
TIMES = ("warm_up", "seconds")  # what it makes shorter


def parser() -> argparse.ArgumentParser:
    """Return what reads the arguments."""
    found = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure this server and others at the same work, side by side.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(
            [
                "workloads:",
                *(f"  {name:13} {one.about}" for name, one in WORKLOADS.items()),
                "",
                "servers:",
                *(f"  {name:13} {kind.about}" for name, kind in SERVERS.items()),
                "",
                "The quick pass takes about three minutes, the full one about two hours.",
                "What runs beside it on the machine is measured too: let nothing.",
            ]
        ),
    )
    add = found.add_argument
    add("--full", action="store_true", help="long enough to trust; the quick pass shows trends")
    add("--only", action="append", metavar="WORKLOAD", help="this workload alone; may be repeated")
    add(
        "--servers",
        metavar="NAME,...",
        help="these servers; without it all that are installed, netra-stock only with --full",
    )
    add("--repeat", type=int, metavar="N", help=f"repetitions; 1, or {FULL_REPEAT} with --full")
    add("--out", type=Path, default=Path("bench.json"), help="the JSON (default: bench.json)")
    add("--plain", action="store_true", help="clients of this project do not acknowledge events")
    add("--scale", type=float, default=1.0, metavar="X", help="of time and connections, to try out")
    return found


def plan_of(arguments: Sequence[str]) -> tuple[Plan, Path]:
    """Return what was asked for, and where the JSON goes; ends the process where it is wrong."""
    reading = parser()
    asked = reading.parse_args(arguments)
    unknown = [name for name in asked.only or () if name not in WORKLOADS]
    if unknown:
        reading.error(f"--only: expected one of {', '.join(WORKLOADS)}, got {unknown[0]!r}")
    repeat = asked.repeat if asked.repeat is not None else (FULL_REPEAT if asked.full else 1)
    if repeat < 1:
        reading.error(f"--repeat: expected 1 or more, got {repeat}")
    if not 0 < asked.scale <= 1:
        reading.error(f"--scale: expected more than 0 and at most 1, got {asked.scale:g}")
    if not asked.out.absolute().parent.is_dir():
        reading.error(f"--out: expected a file in a folder that exists, got {str(asked.out)!r}")
    plan = Plan(
        workloads={
            name: scaled(workload.parameters(full=asked.full), asked.scale)
            for name, workload in WORKLOADS.items()
            if asked.only is None or name in asked.only
        },
        servers=_servers_of(reading, asked.servers, full=asked.full),
        repeat=repeat,
        plain=asked.plain,
    )
    return plan, asked.out


def scaled(parameters: dict[str, float | str], scale: float) -> dict[str, float | str]:
    """Return less of a workload; at least one of what is counted.

    >>> scaled({"connections": 50, "in_flight": 16, "seconds": 1.5}, 0.1)
    {'connections': 5, 'in_flight': 16, 'seconds': 0.15000000000000002}
    """
    if scale == 1:
        return parameters
    counts = {
        name: max(1, round(float(parameters[name]) * scale)) for name in _in(parameters, COUNTS)
    }
    times = {name: float(parameters[name]) * scale for name in _in(parameters, TIMES)}
    return {**parameters, **counts, **times}


def _in(parameters: Mapping[str, object], names: Sequence[str]) -> list[str]:
    return [name for name in names if name in parameters]


def _servers_of(reading: argparse.ArgumentParser, given: str | None, *, full: bool) -> list[str]:
    """Return the servers to measure; what is not installed is told."""
    if given is None:
        wanted = {name: kind for name, kind in SERVERS.items() if full or not kind.only_full}
        missing = {name: kind.missing for name, kind in wanted.items()}
        for name, modules in missing.items():
            if modules:
                _tell(f"{name} is left out: {', '.join(modules)} not installed")
        return [name for name, modules in missing.items() if not modules]
    names = [name.strip() for name in given.split(",")]
    for name in names:
        if name not in SERVERS:
            reading.error(f"--servers: expected some of {', '.join(SERVERS)}, got {name!r}")
        if lacking := ", ".join(SERVERS[name].missing):
            reading.error(f"--servers: {name} needs what is not installed: {lacking}")
    return [name for name in SERVERS if name in names]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, show, write; return the exit code: 1 where something could not be measured."""
    plan, out = plan_of(sys.argv[1:] if arguments is None else arguments)
    if raise_file_limit() < plan.files:
        _tell(f"only {raise_file_limit()} files may be open, {plan.files} are needed: ulimit -n")
    found = machine()
    measurements: list[Measurement] = []
    try:
        for measurement in measure(plan, _tell):
            measurements.append(measurement)
            write(out, plan, measurements, found)
    except KeyboardInterrupt:
        _tell("interrupted")
        return INTERRUPTED
    finally:
        if measurements:
            show(plan, measurements, found)
    _tell(f"raw figures: {out}")
    return int(any(one.error is not None for one in measurements))


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 - as signal wants it
    raise KeyboardInterrupt


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    for one in ENDING:
        signal.signal(one, _interrupt)
    sys.exit(main())
