"""Real nodes on one broker and one database, and a load of clients that checks every promise.

    nodes = Nodes(tmp_path, 2, REDIS_URL=valkey.url, DATABASE_URL=database_url)
    with nodes:
        load = Load(nodes)
        await load.run(faults)      # talks while `faults(load)` runs
        load.check()
        nodes.check_runs(load.ends)

The clients' connections go to the nodes in turn, as behind a plain load balancer.
"""

import itertools
import json
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

import psycopg
import trio
from attrs import define, field, frozen

from netra_trio.client import Event, NoAnswer, OpeningRefused, connect
from netra_trio.client.network import Network, WebSocket
from support.server import PATIENCE, Process, Server, ready, sign

TOKENS = 60  # of each answer
PAUSE = 0.02  # seconds between two tokens: the pace of a fast model
AGENT = f"""
import trio

async def count(run):
    for number in range({TOKENS}):
        await run.emit(f"{{number}} ")
        await trio.sleep({PAUSE})
"""
ANSWER = "".join(f"{number} " for number in range(TOKENS))
UNFINISHED = {"queued", "running"}
ENDING = 45.0  # seconds: for a lease of the store, which ends the runs of a node that is gone


@frozen
class Place:
    """The place of a node.

    Attributes:
        before: The arguments before its command.
        options: More options of its command.
        environ: More settings.
    """

    before: Sequence[str] = ()
    options: Sequence[str] = ()
    environ: Mapping[str, str] = field(factory=dict)


class Nodes:
    """Server processes, which can be killed, paused and started again.

    Args:
        folder: Their working directory.
        count: How many there are.
        places: Where each one runs: the arguments before its command, and its own options and
            settings; by default they all run here.
        environ: Their settings.
    """

    def __init__(
        self,
        folder: Path,
        count: int,
        places: Sequence["Place"] | None = None,
        **environ: str,
    ) -> None:
        self._folder = folder
        self._environ = environ
        self._places = [Place() for _ in range(count)] if places is None else list(places)
        self.servers: list[Server | None] = []
        self._processes: list[Process] = []
        (folder / "counting.py").write_text(AGENT)

    def __enter__(self) -> Self:
        starting = [self._start(place) for place in self._places]
        self.servers = [ready(process) for process in starting]
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            if process.running:
                process.send_signal(signal.SIGCONT)
            process.__exit__()

    def _start(self, place: "Place") -> Process:
        command = ["-m", "netra_trio", "serve", "--port", "0", "--agent", "counting:count"]
        process = Process(
            [*command, *place.options],
            directory=self._folder,
            environ={**self._environ, **place.environ},
            measured=False,
            before=place.before,
        )
        self._processes.append(process)
        return process.__enter__()

    def server(self, number: int) -> Server:
        """Return a node that is up."""
        server = self.servers[number]
        assert server is not None
        return server

    def kill(self, number: int) -> None:
        """Kill a node with SIGKILL."""
        server, self.servers[number] = self.server(number), None
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()

    def pause(self, number: int) -> None:
        """Stop a node with SIGSTOP."""
        self.server(number).process.send_signal(signal.SIGSTOP)

    def go_on(self, number: int) -> None:
        """Let a node continue."""
        self.server(number).process.send_signal(signal.SIGCONT)

    async def start(self, number: int) -> None:
        """Start another node in the place of one that was killed or drained."""
        process = self._start(self._places[number])
        self.servers[number] = await trio.to_thread.run_sync(ready, process)

    async def drain(self, number: int) -> int:
        """Send SIGTERM to a node; return its exit code."""
        server, self.servers[number] = self.server(number), None
        server.process.send_signal(signal.SIGTERM)
        return await trio.to_thread.run_sync(server.process.wait)

    def runs(self) -> dict[str, tuple[str, Any]]:
        """Return the status and the payload of the end of each run in the database."""
        query = "SELECT run_id, status, completed FROM runs"
        url = self._environ["DATABASE_URL"]
        rows: Sequence[Sequence[Any]]
        if url.startswith("sqlite"):
            with sqlite3.connect(url.removeprefix("sqlite:///")) as database:
                rows = database.execute(query).fetchall()
            database.close()
        else:
            with psycopg.connect(url) as server:
                rows = server.execute(query).fetchall()
        return {
            run_id: (status, None if completed is None else json.loads(bytes(completed)))
            for run_id, status, completed in rows
        }

    async def ended_runs(self) -> dict[str, tuple[str, Any]]:
        """Wait until every run in the database has ended, and return them."""
        deadline = time.monotonic() + ENDING
        while True:
            runs = await trio.to_thread.run_sync(self.runs)
            left = [run_id for run_id, (status, _) in runs.items() if status in UNFINISHED]
            if not left:
                return runs
            assert time.monotonic() < deadline, f"unfinished: {left}"
            await trio.sleep(0.2)


class Balancer:
    """A `Dialer` that gives connections to the nodes in turn, and can cut them."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self._network = Network()
        self._turn = itertools.count()
        self._open: dict[WebSocket, int] = {}

    @asynccontextmanager
    async def open(
        self, url: str, *, headers: Mapping[str, str], subprotocols: Sequence[str]
    ) -> AsyncIterator[WebSocket]:
        """Open a WebSocket at the next node that accepts it (see `Dialer`)."""
        last: NoAnswer | OpeningRefused = NoAnswer("no node is up")
        async with AsyncExitStack() as stack:
            for _ in self._nodes.servers:
                number = next(self._turn) % len(self._nodes.servers)
                server = self._nodes.servers[number]
                if server is None:
                    continue
                place = urlunsplit(urlsplit(url)._replace(netloc=server.address))
                opening = self._network.open(place, headers=headers, subprotocols=subprotocols)
                try:
                    socket = await stack.enter_async_context(opening)
                except (NoAnswer, OpeningRefused) as error:
                    if isinstance(error, OpeningRefused) and error.status != 503:
                        raise
                    last = error
                    continue
                assert isinstance(socket, WebSocket)
                self._open[socket] = number
                try:
                    yield socket
                finally:
                    del self._open[socket]
                return
        raise last

    async def cut(self, number: int) -> None:
        """Cut all connections to a node."""
        for socket, at in list(self._open.items()):
            if at == number:
                await trio.aclose_forcefully(socket._connection._stream)

    async def discover(self, url: str) -> Mapping[str, Any]:
        """Read a JSON object (see `Dialer`)."""
        server = next(server for server in self._nodes.servers if server is not None)
        return await self._network.discover(
            urlunsplit(urlsplit(url)._replace(netloc=server.address))
        )


@define(eq=False)
class Told:
    """The events that a client received."""

    events: list[Event] = field(factory=list)
    sent: int = 0


class Load:
    """Clients that send messages one after the other, while faults happen.

    Args:
        nodes: The nodes.
        clients: How many clients there are; every second one has a user of its own.
    """

    def __init__(self, nodes: Nodes, clients: int = 6) -> None:
        self.nodes = nodes
        self.balancer = Balancer(nodes)
        self.told = [Told() for _ in range(clients)]
        self._is_over = trio.Event()

    async def run(self, faults: Callable[["Load"], Awaitable[None]]) -> None:
        """Talk until the faults are over, and until each client has all its answers."""
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                for number, told in enumerate(self.told):
                    nursery.start_soon(self._talk, f"user-{number // 2}", told)
                await faults(self)
                self._is_over.set()

    async def _talk(self, user: str, told: Told) -> None:
        async with (
            connect(self.nodes.server(0).url, token=sign(user), dialer=self.balancer) as client,
            trio.open_nursery() as nursery,
        ):

            async def record() -> None:
                async for event in client.events():
                    told.events.append(event)

            nursery.start_soon(record)
            while not self._is_over.is_set():
                run = await client.send("count")
                told.sent += 1
                async for _ in run:
                    pass
            nursery.cancel_scope.cancel()

    @property
    def verdicts(self) -> Counter[str]:
        """The verdicts of all resumes, with their numbers."""
        return Counter(
            event.payload["verdict"]
            for told in self.told
            for event in told.events
            if event.type == "connected"
        )

    def check(
        self, runs: Mapping[str, tuple[str, Any]], *, allows_gap: bool = False
    ) -> Counter[str]:
        """Check what the clients were told, and compare it with the runs of the database.

        Args:
            runs: The runs of the database.
            allows_gap: Whether a client may be told that events are missing.

        Returns:
            The statuses of the ends, with their numbers.
        """
        statuses: Counter[str] = Counter()
        for told in self.told:
            ends = _check_events(told.events, allows_gap=allows_gap)
            assert len(ends) == told.sent
            for run_id, (payload, text) in ends.items():
                statuses[payload["status"]] += 1
                assert runs[run_id] == (payload["status"], payload)
                if text is None:
                    continue
                if payload["status"] == "completed":
                    assert text == ANSWER
                else:
                    assert ANSWER.startswith(text)
        return statuses


@define
class _Check:
    """The state of one client according to its events so far.

    Attributes:
        last: The last number; None after a gap.
        begun: The runs that have started.
        texts: The texts of runs; None if a part may be missing.
        ends: The payload of the end of each run, and its text.
    """

    last: int | None = 0
    begun: set[str] = field(factory=set)
    texts: dict[str, str | None] = field(factory=dict)
    ends: dict[str, tuple[dict[str, Any], str | None]] = field(factory=dict)

    def number(self, event: Event) -> None:
        """Check the number of an event."""
        assert self.last is None or event.first == self.last + 1, (event, self.last)
        self.last = event.seq

    def run(self, event: Event, run_id: str) -> None:
        """Check an event of a run."""
        if event.type == "agent_started":
            assert run_id not in self.begun, f"{run_id} started again"
            self.begun.add(run_id)
            self.texts[run_id] = ""
        elif event.type == "partial_result":
            text = self.texts.get(run_id)
            self.texts[run_id] = None if text is None else text + event.payload["content"]
        elif event.type == "agent_completed":
            assert run_id not in self.ends, f"{run_id} has two ends"
            self.ends[run_id] = (event.payload, self.texts.get(run_id, ""))

    def gap(self) -> None:
        """Note that events are missing."""
        self.last = None
        self.texts.update(dict.fromkeys(self.texts))


def _check_events(
    events: Sequence[Event], *, allows_gap: bool
) -> dict[str, tuple[dict[str, Any], str | None]]:
    """Check numbers, starts and ends; return the payload of each end, and the text of its run."""
    check = _Check()
    for event in events:
        if event.type == "gap" and allows_gap:
            check.gap()
        assert event.type not in {"reset", "lagged", "lost"}, event
        assert event.type != "gap" or allows_gap, event
        if event.seq is not None:
            check.number(event)
            if event.run_id is not None:
                check.run(event, event.run_id)
    return check.ends
