"""Rows of the output of a command: lines of JSON for programs, or a table."""

from typing import Any

import orjson
from rich.table import Table


def print_row(row: dict[str, Any]) -> None:
    """Print an object as one line of JSON."""
    print(orjson.dumps(row).decode())  # noqa: T201 - a command's own output


def new_table() -> Table:
    """Return a table without borders."""
    return Table(box=None, pad_edge=False, header_style="bold")
