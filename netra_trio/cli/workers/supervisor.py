"""A process that holds the sockets, and starts the workers again: `--workers` and `--reload`.

    code = supervise(plan, listen_for_workers("127.0.0.1", 8000, 4))

The sockets stay open, so that connections wait while a worker restarts. The workers notice the end
of this process, even if it is killed, by the end of a pipe.
"""

import os
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import structlog
import trio
from attrs import asdict, define, evolve, field, frozen

from netra_trio.cli.serving import ServeOptions, print_greeting
from netra_trio.cli.streams import report
from netra_trio.cli.workers.backoff import Backoff
from netra_trio.cli.workers.changes import listed, watch
from netra_trio.cli.workers.channel import Channel, Message
from netra_trio.cli.workers.ended import on_worker_ended
from netra_trio.cli.workers.gathering import Gathering
from netra_trio.cli.workers.private_broker import PrivateBroker
from netra_trio.cli.workers.worker import EXIT_SECONDS
from netra_trio.ids import NodeId
from netra_trio.server.exit import FORCED_AFTER, SIGNALS

STARTS = 5  # of one worker, each of which ends before it is ready: then the server ends
KILLED_AFTER = FORCED_AFTER + 0.4  # seconds after the drain timeout, for a worker that has to end
LAST_MESSAGES = 1.0  # seconds to read what a worker has written before it ended
HOOK_SECONDS = 2.0  # for `on_worker_ended`, which delays the next start

# The other process gets the sys.path of this one; `-P` keeps the working directory out of sys.path
# until it is set.
_PROGRAM = """
import sys
sys.path[:] = sys.argv[2:]
from netra_trio.cli.workers.worker import main
main(sys.argv[1])
"""

_log = structlog.get_logger(__name__)


@frozen
class Plan:
    """The workers that the supervisor runs, and their broker.

    Attributes:
        options: The options of the command.
        drain_seconds: The drain timeout of a worker.
        is_reloaded: Whether the workers are restarted when a file has changed.
        redis_url: The broker of the workers; None without one.
        private_broker: The path of a Valkey or Redis to run for them; None for none.
    """

    options: ServeOptions
    drain_seconds: float
    is_reloaded: bool = False
    redis_url: str | None = None
    private_broker: str | None = None


def supervise(plan: Plan, socks: Sequence[Sequence[socket.socket]]) -> int:
    """Run the workers and restart them until SIGTERM or SIGINT; return the exit code.

    A second signal kills the workers. The exit code is 1 then, and if a worker cannot be started.

    Args:
        plan: What to run.
        socks: The listening sockets of each worker, which are closed at the end.

    Raises:
        CommandError: The working directory cannot be watched, or the private broker does not start.
    """
    alive, kept = os.pipe()  # the end that is kept is closed with this process
    try:
        return trio.run(_Supervisor(plan, socks, alive).run)
    finally:
        for sock in {sock for own in socks for sock in own}:
            sock.close()
        os.close(alive)
        os.close(kept)


@define(eq=False)
class _Worker:
    """A process of a worker.

    Attributes:
        number: Its number, from 1.
        process: The process.
        channel: The connection to it.
        listening: Cancelled to stop reading its messages.
        is_silent: Set when there are no more messages.
        ready: Its message that it serves connections.
        fault: Why it cannot start, as it has told.
    """

    number: int
    process: trio.Process
    channel: Channel
    listening: trio.CancelScope = field(factory=trio.CancelScope)
    is_silent: trio.Event = field(factory=trio.Event)
    ready: Message | None = None
    fault: str | None = None


@define(eq=False)
class _Supervisor:
    """Starts the workers, and starts them again.

    Args:
        plan: What to run.
        socks: The listening sockets of each worker.
        alive: The reading end of a pipe, which is closed when this process ends.
    """

    _plan: Plan
    _socks: Sequence[Sequence[socket.socket]]
    _alive: int
    _workers: dict[int, _Worker] = field(factory=dict)
    _working: trio.CancelScope = field(factory=trio.CancelScope)
    _nursery: trio.Nursery = field(init=False)
    _gathering: Gathering = field(init=False)
    _environ: Mapping[str, str] = field(factory=lambda: dict(os.environ))
    _kept: Sequence[int] = ()  # descriptors that each worker keeps open
    _reported: set[str] = field(factory=set)  # faults of workers since the last change
    _is_greeted: bool = False
    _code: int = 0

    async def run(self) -> int:
        """Restart the workers until a signal; return the exit code."""
        with trio.open_signal_receiver(*SIGNALS) as signals:
            # What goes on until the last worker has ended.
            async with trio.open_nursery() as self._nursery:
                self._gathering = Gathering(self._nursery, len(self._socks))
                self._nursery.start_soon(self._end_on_signals, signals)
                with self._working:
                    await self._work()
                self._nursery.cancel_scope.cancel()
        return self._code

    async def _end_on_signals(self, signals: AsyncIterator[int]) -> None:
        async for _ in signals:
            if self._working.cancel_called:
                self._code = 1
                for worker in self._workers.values():
                    worker.process.kill()
            self._working.cancel()

    def _give_up(self, reason: str) -> None:
        if not self._working.cancel_called:
            report(reason)
            self._code = 1
        self._working.cancel()

    async def _work(self) -> None:
        plan = self._plan
        if plan.private_broker is not None:
            grace = plan.drain_seconds + EXIT_SECONDS
            broker = PrivateBroker(plan.private_broker, self._alive, grace)
            self._kept = [broker.held]
            url = await self._nursery.start(broker.run)
            self._plan = evolve(plan, redis_url=url)
            self._environ = {**self._environ, "REDIS_URL": url}
        if not plan.is_reloaded:
            await self._keep_all(trio.sleep_forever)
        send, changes = trio.open_memory_channel[list[str]](0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, Path.cwd().resolve(), send)
            while True:
                names = await self._keep_all(changes.receive)
                report(f"{listed(names)} changed: the server restarts")
                self._is_greeted = False
                self._reported.clear()

    async def _keep_all(self, wait: Any) -> Any:
        """Keep every worker running until `wait` returns; then end all, and return its result."""
        async with trio.open_nursery() as nursery:
            for number in range(1, len(self._socks) + 1):
                nursery.start_soon(self._keep, number)
            result = await wait()
            nursery.cancel_scope.cancel()
        return result

    async def _keep(self, number: int) -> None:
        """Start a worker, and start it again when it ends."""
        backoff, failed_starts = Backoff(), 0
        while True:
            since = trio.current_time()
            worker = await self._run(number)
            code = await worker.process.wait()
            await self._note_end(worker, code)
            if self._plan.is_reloaded:
                self._report_once(worker.fault)
                name = "The server" if len(self._socks) == 1 else f"Worker {number}"
                after = "it starts again after the next change"
                report(f"{name} has ended (exit code {code}); {after}.")
                await trio.sleep_forever()
            failed_starts = 0 if worker.ready is not None else failed_starts + 1
            if worker.fault is not None and not self._is_greeted:
                self._give_up(worker.fault)  # as one process does: nothing serves yet
                return
            self._report_once(worker.fault)
            if failed_starts >= STARTS:
                self._give_up(
                    f"worker {number} has ended {STARTS} times before it was ready, the last time "
                    f"with exit code {code}: the server ends. Correct what the worker has "
                    "reported above, and start again."
                )
                return
            pause = backoff.next(lived=trio.current_time() - since)
            _log.info("worker_restarts", worker=number, seconds=pause)
            await trio.sleep(pause)

    async def _run(self, number: int) -> _Worker:
        """Run a worker until it ends; end it if this is cancelled."""
        own, theirs = socket.socketpair()
        with own:
            with theirs, trio.CancelScope(shield=True):
                process = await self._start(number, theirs)
            worker = self._workers[number] = _Worker(number, process, Channel(own))
            self._nursery.start_soon(self._listen, worker)
            try:
                await process.wait()
            finally:
                with trio.CancelScope(shield=True):
                    await self._end(worker)
        return worker

    async def _start(self, number: int, control: socket.socket) -> trio.Process:
        socks = [sock.fileno() for sock in self._socks[number - 1]]
        given = {
            "number": number,
            "workers": len(self._socks),
            "socks": socks,
            "alive": self._alive,
            "control": control.fileno(),
            "kept": self._kept,
            "options": asdict(self._options_of(number)),
            "is_reloaded": self._plan.is_reloaded,
            # After an edit there are new workers, which get the sessions.
            "owns_broker": bool(self._kept) and not self._plan.is_reloaded,
        }
        command = [sys.executable, "-P", "-c", _PROGRAM, orjson.dumps(given).decode(), *sys.path]
        start = partial(trio.lowlevel.open_process, command, stdin=None, env=self._environ)
        return await start(pass_fds=[*socks, self._alive, control.fileno(), *self._kept])

    def _options_of(self, number: int) -> ServeOptions:
        """Return the options of a worker: the page is opened once, whatever restarts."""
        options = self._plan.options
        closed = evolve(options, opens_page=False)
        if number == 1:
            self._plan = evolve(self._plan, options=closed)
            return options
        return closed

    async def _end(self, worker: _Worker) -> None:
        """End a worker, if it has not ended, and process its last messages."""
        process = worker.process
        process.terminate()
        with trio.move_on_after(self._plan.drain_seconds + KILLED_AFTER):
            await process.wait()
        process.kill()
        await process.wait()
        with trio.move_on_after(LAST_MESSAGES):
            await worker.is_silent.wait()
        worker.listening.cancel()
        await worker.is_silent.wait()
        self._gathering.remove(worker.number)
        del self._workers[worker.number]

    async def _listen(self, worker: _Worker) -> None:
        try:
            with worker.listening:
                await worker.channel.run(partial(self._receive, worker))
        finally:
            worker.is_silent.set()

    def _receive(self, worker: _Worker, message: Message) -> None:
        if message["type"] == "ready":
            worker.ready = message
            self._gathering.add(worker.number, worker.channel)
            self._tell_nodes()
            self._greet(message["greeting"])
        elif message["type"] == "failed":
            worker.fault = message["fault"]
        else:
            self._gathering.receive(worker.number, message)

    def _tell_nodes(self) -> None:
        """Tell the workers which nodes end with them: those are none to send clients to."""
        ready = [worker for worker in self._workers.values() if worker.ready is not None]
        nodes = [worker.ready["node_id"] for worker in ready if worker.ready is not None]
        for worker in ready:
            worker.channel.post({"type": "nodes", "nodes": nodes})

    def _greet(self, greeting: str) -> None:
        ready = [worker for worker in self._workers.values() if worker.ready is not None]
        if len(ready) == len(self._socks) and not self._is_greeted:
            self._is_greeted = True
            self._nursery.start_soon(print_greeting, greeting)

    def _report_once(self, fault: str | None) -> None:
        """Report why workers cannot start; all of them have the same reason."""
        if fault is not None and fault not in self._reported:
            self._reported.add(fault)
            report(fault)

    async def _note_end(self, worker: _Worker, code: int) -> None:
        node = None if worker.ready is None else NodeId(worker.ready["node_id"])
        try:
            with trio.move_on_after(HOOK_SECONDS):
                await on_worker_ended(worker.number, node, code, self._plan.redis_url)
        except Exception:
            _log.exception("hook_failed", worker=worker.number)
