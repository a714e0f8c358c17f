"""The command `usage`: sums what agents have used of models."""

from collections.abc import Sequence
from datetime import date
from typing import Annotated, Any, Literal

import cyclopts
import trio
from rich.console import Console
from rich.table import Table

from netra_trio.cli.arguments import Flag
from netra_trio.cli.errors import CommandError
from netra_trio.cli.rows import new_table, print_row
from netra_trio.cli.user import load_settings, open_store
from netra_trio.config.settings import Settings
from netra_trio.errors import StoreUnavailable
from netra_trio.stores.sql.questions import UsageSum

SUM_SECONDS = 600  # for the statement that reads the whole table, which may be large


def usage(
    *,
    by: Annotated[
        tuple[Literal["user", "agent", "model", "day"], ...], cyclopts.Parameter(negative=())
    ] = ("day",),
    since: str | None = None,
    json: Flag = False,
) -> None:
    """Sum what agents have used of models, as they have reported it.

    Parameters
    ----------
    by
        What to sum by. Give it several times to sum by each combination.
    since
        The first day that counts, as 2026-11-30, in UTC. By default all days count.
    json
        Print one JSON object for each line, for programs.
    """
    chosen = tuple(dict.fromkeys(by))
    settings = load_settings()
    sums = trio.run(sum_usage, settings, chosen, _day(since))
    if json:
        for each in sums:
            print_row(_row(each))
    elif sums:
        console = Console()
        console.print(_table(chosen, sums))
        if limits := _limits(settings):
            console.print(f"Limits for one user and one agent in a day of UTC: {limits}.")
    else:
        print("No agent has reported any usage.")  # noqa: T201 - a command's own output


async def sum_usage(settings: Settings, by: Sequence[str], since: str | None) -> Sequence[UsageSum]:
    """Return the usage in the configured database, summed.

    Raises:
        CommandError: There is no database, it does not answer, or it takes too long to sum.
        DatabaseUnusable: The database can never work.
    """
    async with open_store(settings, statement_seconds=SUM_SECONDS) as store:
        try:
            return await store.sum_usage(by, since)
        except StoreUnavailable as error:
            raise CommandError(
                f"the usage cannot be summed: {error}; if it takes too long, use --since"
            ) from None


def _day(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise CommandError(f"--since: expected a day like 2026-11-30, got {text!r}") from None


def _limits(settings: Settings) -> str:
    """Return the limits of a day as text; empty if there are none."""
    tokens, cost = settings.usage_limit_tokens, settings.usage_limit_cost
    shown = ["" if tokens is None else f"{tokens:,} tokens"]
    shown += ["" if cost is None else f"a cost of {cost:f}"]
    return ", ".join(each for each in shown if each)


def _row(each: UsageSum) -> dict[str, Any]:
    cost = {} if each.cost is None else {"cost": each.cost}
    return {
        **each.by,
        "runs": each.runs,
        "input_tokens": each.input_tokens,
        "output_tokens": each.output_tokens,
        **cost,
    }


def _table(by: Sequence[str], sums: Sequence[UsageSum]) -> Table:
    table = new_table()
    for name in by:
        table.add_column(name.title(), no_wrap=True)
    for name in ("Runs", "Input tokens", "Output tokens", "Cost"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in sums:
        counts = (each.runs, each.input_tokens, each.output_tokens)
        cost = "" if each.cost is None else f"{each.cost:.4f}"
        table.add_row(*(each.by[name] for name in by), *(f"{count:,}" for count in counts), cost)
    return table
