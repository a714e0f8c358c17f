"""The report: measurements as a table for people, and as JSON for whatever comes after.

print(table(plan, measurements))
write(Path("bench.json"), plan, measurements, machine())
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from bench.figures import FIGURES, Figure, median_ratio
from bench.measure import Measurement, Plan
from bench.servers import BASE
from bench.workloads import WORKLOADS, shown

BUSY_LOAD = 0.9  # of a core: from here on the load is as slow as what it measures
NOTHING = "-"

Values = Mapping[tuple[str, str], Mapping[str, Sequence[float]]]


def values_of(measurements: Sequence[Measurement]) -> Values:
    """Return each figure's values in the order of repetition, by workload and server."""
    values: dict[tuple[str, str], dict[str, list[float]]] = {}
    for one in measurements:
        figures = values.setdefault((one.workload, one.server), {})
        for name, value in one.figures.items():
            figures.setdefault(name, []).append(value)
    return values


def ratios_of(measurements: Sequence[Measurement], server: str, workload: str) -> dict[str, float]:
    """Return the median of each figure's ratios to the base, over repetitions that have both."""
    found = {(one.server, one.repetition): one for one in measurements if one.workload == workload}
    pairs = [
        (one.figures, found[BASE, one.repetition].figures)
        for one in found.values()
        if one.server == server and (BASE, one.repetition) in found
    ]
    ratios: dict[str, float] = {}
    for name in FIGURES:
        both = [(mine[name], base[name]) for mine, base in pairs if name in mine and name in base]
        ratio = median_ratio([mine for mine, _ in both], [base for _, base in both])
        if ratio is not None:
            ratios[name] = ratio
    return ratios


def table(plan: Plan, measurements: Sequence[Measurement]) -> Table:
    """Return the table: a row for each figure, a column for each server."""
    shown_table = Table("workload", "figure")
    for server in plan.servers:
        shown_table.add_column(server, justify="right")
    values = values_of(measurements)
    for workload, parameters in plan.workloads.items():
        title = shown(workload, parameters)
        ratios = {server: ratios_of(measurements, server, workload) for server in plan.servers}
        for name, figure in FIGURES.items():
            cells = [
                _cell(
                    figure, values.get((workload, server), {}).get(name), ratios[server].get(name)
                )
                for server in plan.servers
            ]
            if any(cell != NOTHING for cell in cells):
                label = figure.label.format(unit=WORKLOADS[workload].unit)
                is_main = name == WORKLOADS[workload].figure
                shown_table.add_row(title, label, *cells, style="bold" if is_main else None)
                title = ""
        shown_table.add_section()
    return shown_table


def _cell(figure: Figure, values: Sequence[float] | None, ratio: float | None) -> str:
    if not values:
        return NOTHING
    shown_ratio = "" if ratio is None else f" ({ratio:.2f}x)"
    return f"{median(values):.{figure.digits}f}{shown_ratio}"


def notes(measurements: Sequence[Measurement]) -> list[str]:
    """Return what a reader of the table has to know."""
    found = []
    for one in measurements:
        where = f"{one.workload} on {one.server}, repetition {one.repetition + 1}"
        if one.error is not None:
            found.append(f"{where}: failed: {one.error.splitlines()[0]}")
        if one.checks.get("load_core", 0) > BUSY_LOAD:
            busy = one.checks["load_core"] * 100
            found.append(f"{where}: the load was {busy:.0f} % busy; its rates are the load's own")
        if one.checks.get("merged", 0):
            found.append(f"{where}: {one.checks['merged']:.0f} events were merged into others")
    return found


def show(plan: Plan, measurements: Sequence[Measurement], machine: Mapping[str, Any]) -> None:
    """Print the machine, the table and the notes."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=200)
    cores, python = machine["cores"], machine["python"]
    console.print(f"{machine['cpu']}, {cores} cores, {python}, Linux {machine['kernel']}")
    console.print(table(plan, measurements))
    console.print(f"Medians of {plan.repeat}; in brackets the median ratio to {BASE}.")
    for note in notes(measurements):
        console.print(f"note: {note}", markup=False)


def write(
    path: Path, plan: Plan, measurements: Sequence[Measurement], machine: Mapping[str, Any]
) -> None:
    """Write everything that was measured, raw."""
    values = values_of(measurements)
    found = {
        "machine": machine,
        "repeat": plan.repeat,
        "plain": plan.plain,
        "base": BASE,
        "results": {
            workload: {
                "parameters": parameters,
                "unit": WORKLOADS[workload].unit,
                "figure": WORKLOADS[workload].figure,
                "servers": {
                    server: {
                        "median": {
                            name: median(each)
                            for name, each in values.get((workload, server), {}).items()
                        },
                        "ratio": ratios_of(measurements, server, workload),
                        "repetitions": [
                            {"figures": one.figures, "checks": one.checks, "error": one.error}
                            for one in measurements
                            if (one.workload, one.server) == (workload, server)
                        ],
                    }
                    for server in plan.servers
                },
            }
            for workload, parameters in plan.workloads.items()
        },
    }
    path.write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2) + b"\n")
