"""Watches the working directory, and reports which files have changed.

send, changes = trio.open_memory_channel[list[str]](0)
nursery.start_soon(watch, Path.cwd(), send)
print(listed(await changes.receive()))
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import trio
import watchfiles

from netra_trio.cli.errors import CommandError
from netra_trio.cli.workers.watched_files import WatchedFiles

SETTLED_MS = 200  # without a further change, until the server restarts
CHANGES_MS = 2_000  # at most from a change to the restart, while changes go on

_SHOWN_FILES = 3  # names of changed files in a report


async def watch(root: Path, send: trio.MemorySendChannel[list[str]]) -> None:
    """Send the names of changed files, some for each group of changes.

    Raises:
        CommandError: The folder cannot be watched.
    """
    logging.getLogger("watchfiles").setLevel(logging.WARNING)  # changes are reported here
    watched, stop = WatchedFiles(root), trio.Event()

    async def stop_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            stop.set()  # a watcher's thread sees nothing else

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop_when_cancelled)
        try:
            async for changes in watchfiles.awatch(
                root,
                watch_filter=lambda _, name: watched.includes(name),
                debounce=CHANGES_MS,
                step=SETTLED_MS,
                stop_event=stop,
                ignore_permission_denied=True,
            ):
                await send.send(sorted({str(Path(name).relative_to(root)) for _, name in changes}))
        except (OSError, RuntimeError) as error:
            hint = "WATCHFILES_FORCE_POLLING=1 watches without the system's help"
            raise CommandError(f"--reload: cannot watch {root}: {error}; {hint}") from None


def listed(names: Sequence[str]) -> str:
    """Return the names of some files for a report."""
    more = f" and {len(names) - _SHOWN_FILES} more" if len(names) > _SHOWN_FILES else ""
    return ", ".join(names[:_SHOWN_FILES]) + more
