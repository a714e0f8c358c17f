"""`serve --reload`: a process that holds the sockets, and restarts the server in another one.

    code = supervise(ServeOptions(agents=("my_agents:shout",)), listen("127.0.0.1", 8000))

The sockets stay open, so that connections wait while the server restarts. A server that ends by
itself, for example because an agent cannot be imported, is started again after the next change. The
server notices the end of this process, even if it is killed, by the end of a pipe.
"""

import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path

import orjson
import trio
import watchfiles
from attrs import asdict, define, evolve

from netra_trio.cli.errors import CommandError
from netra_trio.cli.serving import RELOAD_DRAIN_MS, ServeOptions
from netra_trio.cli.streams import report
from netra_trio.cli.watched_files import WatchedFiles
from netra_trio.server.exit import FORCED_AFTER, SIGNALS

SETTLED_MS = 200  # without a further change, until the server restarts
CHANGES_MS = 2_000  # at most from a change to the restart, while changes go on
KILLED_AFTER = RELOAD_DRAIN_MS / 1000 + FORCED_AFTER + 2.0  # seconds, for a server that has to end

_SHOWN_FILES = 3  # names of changed files in a report
# The other process gets the sys.path of this one; `-P` keeps the working directory out of sys.path
# until it is set.
_PROGRAM = """
import sys
sys.path[:] = sys.argv[2:]
from netra_trio.cli.reloaded import main
main(sys.argv[1])
"""


def supervise(options: ServeOptions, socks: Sequence[socket.socket]) -> int:
    """Run the server and restart it until SIGTERM or SIGINT; return the exit code.

    Takes over the listening sockets. A second signal kills the server.

    Raises:
        CommandError: The working directory cannot be watched.
    """
    alive, kept = os.pipe()  # the end that is kept is closed with this process
    try:
        return trio.run(_Supervisor(options, socks, alive).run)
    finally:
        for sock in socks:
            sock.close()
        os.close(alive)
        os.close(kept)


@define(eq=False)
class _Supervisor:
    """Starts the server, and starts it again.

    Args:
        options: The options of the command.
        socks: The listening sockets.
        alive: The reading end of a pipe, which is closed when this process ends.
    """

    _options: ServeOptions
    _socks: Sequence[socket.socket]
    _alive: int
    _process: trio.Process | None = None
    _code: int = 0

    async def run(self) -> int:
        """Restart the server until a signal; return the exit code."""
        with trio.open_signal_receiver(*SIGNALS) as signals:
            async with trio.open_nursery() as nursery:
                working = trio.CancelScope()
                nursery.start_soon(self._end_on_signals, signals, working)
                with working:
                    await self._work()
                nursery.cancel_scope.cancel()
        return self._code

    async def _end_on_signals(self, signals: AsyncIterator[int], working: trio.CancelScope) -> None:
        async for _ in signals:
            if working.cancel_called and self._process is not None:
                self._code = 1
                self._process.kill()
            working.cancel()

    async def _work(self) -> None:
        send, changes = trio.open_memory_channel[list[str]](0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_watch, Path.cwd().resolve(), send)
            while True:
                names = await self._serve_until_changed(changes)
                report(f"{_listed(names)} changed: the server restarts")
                self._options = evolve(self._options, opens_page=False)

    async def _serve_until_changed(
        self, changes: trio.MemoryReceiveChannel[list[str]]
    ) -> list[str]:
        """Run a server in a process of its own until files have changed; return their names."""
        with trio.CancelScope(shield=True):
            self._process = process = await self._start()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_report_end, process)
                names = await changes.receive()
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await _end(process)
        return names

    async def _start(self) -> trio.Process:
        socks = [sock.fileno() for sock in self._socks]
        given = {"socks": socks, "alive": self._alive, "options": asdict(self._options)}
        command = [sys.executable, "-P", "-c", _PROGRAM, orjson.dumps(given).decode(), *sys.path]
        start = partial(trio.lowlevel.open_process, command, stdin=None)
        return await start(pass_fds=[*socks, self._alive])


async def _report_end(process: trio.Process) -> None:
    code = await process.wait()
    report(f"The server has ended (exit code {code}); it starts again after the next change.")


async def _end(process: trio.Process) -> None:
    process.terminate()
    with trio.move_on_after(KILLED_AFTER):
        await process.wait()
    process.kill()
    await process.wait()


async def _watch(root: Path, send: trio.MemorySendChannel[list[str]]) -> None:
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


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN_FILES} more" if len(names) > _SHOWN_FILES else ""
    return ", ".join(names[:_SHOWN_FILES]) + more
