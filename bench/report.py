"""The report: measurements as a table, and as JSON for other programs.

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
from bench.servers import Name
from bench.workloads import WORKLOADS, shown

BUSY_LOAD = 0.9  # of a core: above it, the load is the bottleneck
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


def ratios_of(
    measurements: Sequence[Measurement], server: str, workload: str, base: str
) -> dict[str, float]:
    """Return the median of each figure's ratios to a base, over repetitions that have both."""
    found = {(one.server, one.repetition): one for one in measurements if one.workload == workload}
    pairs = [
        (one.figures, found[base, one.repetition].figures)
        for one in found.values()
        if one.server == server and (base, one.repetition) in found
    ]
    ratios: dict[str, float] = {}
    for name, figure in FIGURES.items():
        both = [
            (mine[name], theirs[its])
            for mine, theirs in pairs
            for its in [name if name in theirs else figure.otherwise or name]
            if name in mine and its in theirs
        ]
        ratio = median_ratio([mine for mine, _ in both], [theirs for _, theirs in both])
        if ratio is not None:
            ratios[name] = ratio
    return ratios


def all_ratios(
    plan: Plan, measurements: Sequence[Measurement], server: str, workload: str
) -> dict[str, dict[str, float]]:
    """Return the ratios of a server to each base of a workload, by the name of the base."""
    bases = plan.bases_of(workload)
    return {base: ratios_of(measurements, server, workload, base) for base in bases}


def table(plan: Plan, measurements: Sequence[Measurement]) -> Table:
    """Return the table: a row for each figure, a column for each server."""
    shown_table = Table("workload", "figure")
    for server in plan.servers:
        shown_table.add_column(Name.parse(server).short, justify="right")
    values = values_of(measurements)
    for workload, parameters in plan.workloads.items():
        title = shown(workload, parameters)
        ratios = {one: all_ratios(plan, measurements, one, workload) for one in plan.servers}
        for name, figure in FIGURES.items():
            cells = [
                _cell(
                    figure,
                    values.get((workload, server), {}).get(name),
                    [ratios[server].get(base, {}).get(name) for base in plan.bases],
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


def _cell(figure: Figure, values: Sequence[float] | None, ratios: Sequence[float | None]) -> str:
    """Return a value with its ratios in the order of the bases, `-` for a missing one.

    >>> _cell(Figure("p50 ms"), [2.0, 3.0, 4.0], [0.5, None])
    '3.0 (0.50x -)'
    """
    if not values:
        return NOTHING
    value = f"{median(values):.{figure.digits}f}"
    if all(ratio is None for ratio in ratios):
        return value
    listed = " ".join(NOTHING if ratio is None else f"{ratio:.2f}x" for ratio in ratios)
    return f"{value} ({listed})"


def notes(measurements: Sequence[Measurement]) -> list[str]:
    """Return the remarks that limit the validity of figures."""
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
        if one.checks.get("ended", 0):
            found.append(f"{where}: {one.checks['ended']:.0f} runs ended within the window")
        if one.checks.get("is_lower_bound", 0):
            found.append(f"{where}: the greatest number of runs that was tried passed")
        if one.checks.get("pinned", 1) == 0:
            found.append(f"{where}: only one CPU; server and load shared it")
    return found


def show(plan: Plan, measurements: Sequence[Measurement], machine: Mapping[str, Any]) -> None:
    """Print the machine, the table and the notes."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=200)
    cores, python = machine["cores"], machine["python"]
    console.print(f"{machine['cpu']}, {cores} cores, {python}, Linux {machine['kernel']}")
    console.print(table(plan, measurements))
    bases = ", ".join(plan.bases)
    ratios = f"; in brackets the median ratios to {bases}" if bases else ""
    console.print(f"Medians of {plan.repeat}{ratios}.", markup=False)
    for note in notes(measurements):
        console.print(f"note: {note}", markup=False)


def write(
    path: Path, plan: Plan, measurements: Sequence[Measurement], machine: Mapping[str, Any]
) -> None:
    """Write all measurements, and their medians and ratios."""
    values = values_of(measurements)
    found = {
        "machine": machine,
        "repeat": plan.repeat,
        "plain": plan.plain,
        "bases": plan.bases,
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
                        "ratios": all_ratios(plan, measurements, server, workload),
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
