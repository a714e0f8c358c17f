"""The command: `python -m bench`."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.load import raise_file_limit
from bench.machine import machine
from bench.measure import Measurement, Plan, measure
from bench.processes import INTERRUPTED, raise_on_signals
from bench.report import show, write
from bench.servers import PACKAGE, SERVERS, Name
from bench.workloads import WORKLOADS

FULL_REPEAT = 5  # repetitions: the median is not moved by one outlier
COUNTS = ("connections", "few", "rate", "first", "most")  # reduced by --scale
TIMES = ("ramp", "warm_up", "seconds")  # shortened by --scale


def parser() -> argparse.ArgumentParser:
    """Return the parser of the arguments."""
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
                "netra@FOLDER is this project's server with the source of another checkout.",
                "workers is measured if two of netra, netra-broker and netra-workers are.",
                "python -m bench.nodes measures how sessions get from one node to another.",
                "",
                "The quick pass takes about four minutes, the full one about three hours.",
                "Do not run anything else on the machine meanwhile.",
            ]
        ),
    )
    add = found.add_argument
    add("--full", action="store_true", help="reliable figures; the quick pass shows trends")
    add("--only", action="append", metavar="WORKLOAD", help="this workload only; may be repeated")
    add(
        "--servers",
        metavar="NAME,...",
        help="these servers; default: all that are installed; netra-broker, netra-workers, "
        "netra-asyncio and netra-stock only with --full",
    )
    add("--repeat", type=int, metavar="N", help=f"repetitions; 1, or {FULL_REPEAT} with --full")
    add("--out", type=Path, default=Path("bench.json"), help="the JSON (default: bench.json)")
    add("--plain", action="store_true", help="clients of this project do not acknowledge events")
    add("--scale", type=float, default=1.0, metavar="X", help="part of times and connections")
    return found


def plan_of(arguments: Sequence[str]) -> tuple[Plan, Path]:
    """Return the plan and the path of the JSON; exits if an argument is invalid."""
    reading = parser()
    given = reading.parse_args(arguments)
    unknown = [name for name in given.only or () if name not in WORKLOADS]
    if unknown:
        reading.error(f"--only: expected one of {', '.join(WORKLOADS)}, got {unknown[0]!r}")
    repeat = given.repeat if given.repeat is not None else (FULL_REPEAT if given.full else 1)
    if repeat < 1:
        reading.error(f"--repeat: expected 1 or more, got {repeat}")
    if not 0 < given.scale <= 1:
        reading.error(f"--scale: expected more than 0 and at most 1, got {given.scale:g}")
    if not given.out.absolute().parent.is_dir():
        reading.error(f"--out: expected a file in an existing folder, got {str(given.out)!r}")
    plan = Plan(
        workloads={
            name: scaled(workload.parameters(full=given.full), given.scale)
            for name, workload in WORKLOADS.items()
            if given.only is None or name in given.only
        },
        servers=_servers_of(reading, given.servers, full=given.full),
        repeat=repeat,
        plain=given.plain,
    )
    if not len(plan):
        reading.error("--only: none of the servers is measured in these workloads")
    return plan, given.out


def scaled(parameters: dict[str, float | str], scale: float) -> dict[str, float | str]:
    """Return the parameters of a part of a workload; every count is at least 1.

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
    """Return the servers to measure; without a choice, those that are not installed are skipped."""
    if given is None:
        wanted = {name: kind for name, kind in SERVERS.items() if full or not kind.only_full}
        missing = {name: kind.missing for name, kind in wanted.items()}
        for name, modules in missing.items():
            if modules:
                _log(f"{name} is left out: {', '.join(modules)} not installed")
        return [name for name, modules in missing.items() if not modules]
    names = list(dict.fromkeys(name.strip() for name in given.split(",")))
    for name in names:
        _check_server(reading, name)
    order = list(SERVERS)
    return sorted(names, key=lambda name: order.index(Name.parse(name).kind))


def _check_server(reading: argparse.ArgumentParser, text: str) -> None:
    """Exit if a server that was requested cannot be measured."""
    name = Name.parse(text)
    kind = SERVERS.get(name.kind)
    if kind is None:
        reading.error(f"--servers: expected some of {', '.join(SERVERS)}, got {text!r}")
    if lacking := ", ".join(kind.missing):
        reading.error(f"--servers: {text} needs modules that are not installed: {lacking}")
    if name.checkout is None:
        return
    if not kind.has_checkouts:
        reading.error(f"--servers: {name.kind} does not run from another checkout, got {text!r}")
    if not (name.checkout / PACKAGE / "__main__.py").is_file():
        reading.error(f"--servers: expected a folder with {PACKAGE}, got {str(name.checkout)!r}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, show, write; return the exit code: 1 if a measurement failed."""
    plan, out = plan_of(sys.argv[1:] if arguments is None else arguments)
    if raise_file_limit() < plan.files:
        _log(f"only {raise_file_limit()} files may be open, {plan.files} are needed: ulimit -n")
    found = machine()
    measurements: list[Measurement] = []
    try:
        for measurement in measure(plan, _log):
            measurements.append(measurement)
            write(out, plan, measurements, found)
    except KeyboardInterrupt:
        _log("interrupted")
        return INTERRUPTED
    finally:
        if measurements:
            show(plan, measurements, found)
    _log(f"raw figures: {out}")
    return int(any(one.error is not None for one in measurements))


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise_on_signals()
    sys.exit(main())
