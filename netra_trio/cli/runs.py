"""The command `runs`: lists the runs that have not ended, and stops one."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import trio
from attrs import frozen
from rich.console import Console

from netra_trio.cli.arguments import Flag, OptionalText
from netra_trio.cli.errors import CommandError
from netra_trio.cli.rows import new_table, print_row
from netra_trio.cli.user import load_settings, open_store
from netra_trio.config.settings import Settings
from netra_trio.errors import StoreUnavailable
from netra_trio.ids import RunId, UserId
from netra_trio.protocol.messages import RunStatus
from netra_trio.stores.sql.database import is_in_memory
from netra_trio.stores.sql.store import SqlStore
from netra_trio.stores.threads import UNFINISHED, UnfinishedRun

STOP_SECONDS = (
    10.0  # for a run to end: its node polls each second, and abandons the run after 2 more
)
LOOK_SECONDS = 0.1  # between two polls of the status
WIDE = 250  # columns of a table outside of a terminal: nothing is cut


def runs(
    *,
    user: OptionalText = None,
    stop: OptionalText = None,
    json: Flag = False,
) -> None:
    """List the runs that have not ended, on all nodes, or stop one of them.

    Parameters
    ----------
    user
        Only the runs of this user.
    stop
        The id of a run to stop. The command waits until the run has ended, for 10 s at most. A run
        of an ended server ends as interrupted.
    json
        Print one JSON object on each line.
    """
    settings = load_settings()
    owner = None if user is None else UserId(user)
    if stop is not None:
        stopped = trio.run(stop_run, settings, RunId(stop), owner)
        _print_stopped(stopped, as_json=json)
        return
    found = trio.run(list_runs, settings, owner)
    if json:
        for each in found:
            print_row(_row(each))
    elif found:
        _print_table(found)
    else:
        print("No run is at work or waits.")  # noqa: T201 - a command's own output


@frozen
class Stopped:
    """A run that has ended.

    Attributes:
        status: Its status.
        was_ended: Whether it had ended before the command.
    """

    run_id: RunId
    status: RunStatus
    was_ended: bool = False


async def list_runs(settings: Settings, user: UserId | None) -> Sequence[UnfinishedRun]:
    """Return the runs that have not ended, oldest first.

    Raises:
        CommandError: There is no database, or it does not answer.
        DatabaseUnusable: The database can never work.
    """
    async with _open_runs(settings) as store:
        return await store.unfinished_runs(user)


async def stop_run(settings: Settings, run_id: RunId, user: UserId | None) -> Stopped:
    """Stop a run, and wait until it has ended.

    Raises:
        CommandError: There is no such run, it does not end, or an error of `list_runs`.
        DatabaseUnusable: The database can never work.
    """
    async with _open_runs(settings) as store:
        await store.end_gone_runs()
        found = [run for run in await store.unfinished_runs(user) if run.run_id == run_id]
        if not found or not await store.request_stop(run_id):
            status = await store.run_status(run_id)
            if status is None or status in UNFINISHED:  # it belongs to another user
                whose = "" if user is None else f" of user {user!r}"
                raise CommandError(
                    f"there is no run {run_id!r}{whose}; list those at work with: netra-trio runs"
                )
            return Stopped(run_id, status, was_ended=True)
        with trio.move_on_after(STOP_SECONDS):
            while (status := await store.run_status(run_id)) in UNFINISHED:  # noqa: ASYNC110 - a database sends no event
                await trio.sleep(LOOK_SECONDS)
            # None if its thread was deleted meanwhile, which also stops its runs.
            return Stopped(run_id, status or RunStatus.CANCELLED)
    raise CommandError(
        f"{run_id} has not ended within {STOP_SECONDS:g} s: its node {found[0].owner} does not "
        "answer now; the request stands for an hour, look again with: netra-trio runs"
    )


@asynccontextmanager
async def _open_runs(settings: Settings) -> AsyncIterator[SqlStore]:
    """Open the runs in the configured database, whose schema is brought up to date."""
    if settings.database_url is None or is_in_memory(settings.database_url):
        raise CommandError(
            "runs in memory are known to their server only: set DATABASE_URL to its database"
        )
    async with open_store(settings) as store:
        try:
            yield store
        except StoreUnavailable as error:
            raise CommandError(f"the database does not answer: {error}") from None


def _row(run: UnfinishedRun) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "user_id": run.user_id,
        "thread_id": run.thread_id,
        "agent_name": run.agent_name,
        "status": run.status,
        "node": run.owner,
        "unattended": run.unattended,
        "created_at": run.created_at,
    }


def _print_stopped(stopped: Stopped, *, as_json: bool) -> None:
    if as_json:
        print_row({"run_id": stopped.run_id, "status": stopped.status})
    elif stopped.was_ended:
        print(f"{stopped.run_id}: has ended before, {stopped.status}")  # noqa: T201 - a command's own output
    else:
        print(f"{stopped.run_id}: {stopped.status}")  # noqa: T201 - likewise


def _print_table(found: Sequence[UnfinishedRun]) -> None:
    table = new_table()
    for name in ("Run", "User", "Thread", "Agent", "Status", "Unattended", "Age", "Node"):
        table.add_column(name, overflow="fold")
    now = time.time()
    for run in found:
        table.add_row(
            run.run_id,
            run.user_id,
            run.thread_id,
            run.agent_name,
            run.status,
            "continue" if run.unattended else "cancel",
            str(timedelta(seconds=max(0, round(now - run.created_at)))),
            run.owner,
        )
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = WIDE
    console.print(table)
