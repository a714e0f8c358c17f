"""The scenarios of the load: one function for each kind of workload.

    figures = await SCENARIOS["loop"](Load(target, processes, secret), {"connections": 50, ...})

Each returns figures by the names of `bench.figures`, and checks that say whether the figures are
valid: `load_core`, the CPU time of the load as a part of one core (near 1.0 the load was the
bottleneck), and `merged`, the number of events that the server merged into others.
"""

import asyncio
import gc
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import count
from time import perf_counter

import jwt
from attrs import define, field, frozen

from bench.connection import (
    Connection,
    Counters,
    LoadError,
    ResumePoint,
    Target,
    open_connection,
)
from bench.figures import latencies
from bench.proc import connections_of, cpu_seconds, memory

Parameters = Mapping[str, float | str]
Result = dict[str, dict[str, float]]

OPENING_AT_ONCE = 50  # connections that are opened concurrently
TOKEN_SECONDS = 3600  # longer than any workload
ECHO_CHARACTERS = 100  # results in a frame of about 190 bytes
ANSWER_SECONDS = 30.0  # for an answer; a longer time is a failure
MEMORY_MESSAGES = 10  # that a connection exchanges before its memory is measured
MEMORY_WARM_UP = OPENING_AT_ONCE  # connections opened and closed before: one-time allocations
_SLOT_DIGITS = 2  # at the start of a message: the slot that its answer belongs to


@frozen
class Processes:
    """The processes of a server.

    Attributes:
        pid: The first one; the others are its descendants.
        workers: How many of them serve connections.
        valkey: Its Valkey, if it has one; not a descendant.
    """

    pid: int
    workers: int = 1
    valkey: int | None = None


@define
class Window:
    """The activity in a measured window.

    Attributes:
        seconds: How long it was.
        cpu: CPU time of the server.
        own_cpu: CPU time of the load.
        events: Frames with an event.
        numbers: Sequence numbers of those events.
        wire_bytes: Bytes that the load received.
        valkey_cpu: CPU time of the server's Valkey; None if it has none.
        spread: The connections of the busiest process over those of the least busy one; None for
            a server with one process.
    """

    seconds: float
    cpu: float
    own_cpu: float
    events: int
    numbers: int
    wire_bytes: int
    valkey_cpu: float | None = None
    spread: float | None = None

    def costs(self, units: int) -> dict[str, float]:
        """Return CPU time and bytes per unit, units per second, and the spread of connections."""
        figures = {
            "cpu_us": self.cpu / units * 1e6,
            "wire_bytes": self.wire_bytes / units,
            "per_second": units / self.seconds,
        }
        if self.valkey_cpu is not None:
            figures["all_cpu_us"] = (self.cpu + self.valkey_cpu) / units * 1e6
        if self.spread is not None:
            figures["spread"] = self.spread
        return figures

    def checks(self) -> dict[str, float]:
        """Return the checks that say whether the figures are valid."""
        merged = self.numbers - self.events if self.numbers else 0
        return {"load_core": self.own_cpu / self.seconds, "merged": float(merged)}


@frozen
class Load:
    """The load on one server."""

    target: Target
    processes: Processes
    secret: str
    counters: Counters = field(factory=Counters)
    _users: "count[int]" = field(factory=count)

    @property
    def pid(self) -> int:
        """The server's first process."""
        return self.processes.pid

    def token(self, user: int) -> str:
        """Return a token of the user with this number."""
        expires = int(time.time()) + TOKEN_SECONDS
        claims = {"sub": f"bench-{user:06}", "exp": expires}
        return jwt.encode(claims, self.secret, algorithm="HS256")

    async def connect(
        self,
        user: int | None = None,
        resume: ResumePoint | None = None,
        *,
        acknowledges: bool = True,
    ) -> Connection:
        """Open one connection, of a new user if none is given."""
        token = self.token(next(self._users) if user is None else user)
        return await open_connection(
            self.target, token, self.counters, resume, acknowledges=acknowledges
        )

    async def connect_many(self, number: int) -> list[Connection]:
        """Open many connections."""
        limit = asyncio.Semaphore(OPENING_AT_ONCE)

        async def connect() -> Connection:
            async with limit:
                return await self.connect()

        connections = await asyncio.gather(*(connect() for _ in range(number)))
        gc.collect()
        gc.freeze()  # they last: traversing them again and again would cost the load CPU time
        return connections

    async def run_for(self, seconds: float) -> None:
        """Let the load run for a time.

        Raises:
            LoadError: If something fails meanwhile.
        """
        await asyncio.wait([self.counters.fault], timeout=seconds)
        if self.counters.fault.done():
            raise LoadError(self.counters.fault.result())

    async def measure(self, seconds: float) -> Window:
        """Let the load run for a time, and return the activity."""
        counters = self.counters
        started, events, numbers = perf_counter(), counters.events, counters.numbers
        wire_bytes = counters.wire_bytes
        valkey = self._valkey_seconds()
        cpu, own = cpu_seconds(self.pid), time.process_time()
        await self.run_for(seconds)
        return Window(
            cpu=cpu_seconds(self.pid) - cpu,
            own_cpu=time.process_time() - own,
            seconds=perf_counter() - started,
            events=counters.events - events,
            numbers=counters.numbers - numbers,
            wire_bytes=counters.wire_bytes - wire_bytes,
            valkey_cpu=None if valkey is None else (self._valkey_seconds() or 0.0) - valkey,
            spread=self._spread(),
        )

    def _valkey_seconds(self) -> float | None:
        valkey = self.processes.valkey
        return None if valkey is None else cpu_seconds(valkey)

    def _spread(self) -> float | None:
        workers = self.processes.workers
        return spread(connections_of(self.pid, self.target.port), workers) if workers > 1 else None


def spread(connections: Sequence[int], workers: int) -> float:
    """Return the largest number of connections over the smallest one; none counts as one.

    Args:
        connections: Of each process.
        workers: How many processes should have some.

    >>> spread([0, 120, 100], workers=2)
    1.2
    >>> spread([0, 7, 0], workers=2)
    7.0
    """
    counts = sorted(connections, reverse=True)[:workers]
    return counts[0] / max(1, counts[-1])


Slot = tuple[Connection, int]


class Loop:
    """A closed loop: a complete answer sends the next message, on the slot that waits longest."""

    def __init__(
        self, load: Load, *, agent: str, keyed: bool = False, threads: bool = False
    ) -> None:
        self.seconds: list[float] = []
        self.confirmed: list[float] = []
        self._load = load
        self._agent = agent
        self._keyed = keyed
        self._threads = threads
        self._waiting: deque[Slot] = deque()
        self._sent: dict[Slot, float] = {}
        self._is_ending = False
        self._numbers = count()

    def start(self, connections: Sequence[Connection], in_flight: int, active: int) -> None:
        """Send the first messages: `in_flight` on each of `active` connections."""
        self._is_ending = False
        for connection in connections:
            connection.on_event = self._on_event
        self._waiting = deque((one, slot) for slot in range(in_flight) for one in connections)
        for _ in range(active * in_flight):
            self._send(self._waiting.popleft())

    async def stop(self) -> None:
        """Send no more messages, and wait until each one is answered."""
        self._is_ending = True
        deadline = perf_counter() + ANSWER_SECONDS
        while self._sent:
            if perf_counter() > deadline:
                raise LoadError(f"{len(self._sent)} messages were not answered")
            await self._load.run_for(0.01)

    def reset(self) -> None:
        """Discard the latencies of the warm-up."""
        self.seconds.clear()
        self.confirmed.clear()

    def _send(self, slot: Slot) -> None:
        connection, number = slot
        content = f"{number:0{_SLOT_DIGITS}}".ljust(ECHO_CHARACTERS, ".")
        payload = {"content": content, "agent": self._agent}
        if self._threads:
            payload["thread_id"] = f"thread-{number}"
        key = f"key-{next(self._numbers)}" if self._keyed else None
        wire = connection.dialect.message("user_message", payload, key)
        self._sent[slot] = perf_counter()
        connection.send(wire)

    def _on_event(self, connection: Connection, kind: bytes, frame: bytes) -> None:
        if kind == b"agent_completed":
            self._complete((connection, slot_of(connection, frame)))
        elif kind == b"message_confirmed" and self._keyed:
            self.confirmed.append(perf_counter() - self._sent[connection, 0])

    def _complete(self, slot: Slot) -> None:
        self.seconds.append(perf_counter() - self._sent.pop(slot))
        if not self._is_ending:
            self._waiting.append(slot)
            self._send(self._waiting.popleft())


def slot_of(connection: Connection, frame: bytes) -> int:
    """Return the slot of the message that was answered: the result repeats the message.

    Raises:
        LoadError: If the run did not complete.
    """
    payload = connection.dialect.payload(frame)
    if payload["status"] != "completed":
        raise LoadError(f"a run did not complete: {payload}")
    return int(payload["result"][:_SLOT_DIGITS])


async def loop(load: Load, parameters: Parameters) -> Result:
    """Keep messages in flight on every connection: stream, echo, echo16, keyed."""
    keyed, in_flight = bool(parameters.get("keyed")), int(parameters["in_flight"])
    connections = await load.connect_many(int(parameters["connections"]))
    messages = Loop(load, agent=str(parameters["agent"]), keyed=keyed, threads=in_flight > 1)
    messages.start(connections, in_flight, len(connections))
    await load.run_for(float(parameters["warm_up"]))
    messages.reset()
    window = await load.measure(float(parameters["seconds"]))
    seconds, confirmed = list(messages.seconds), list(messages.confirmed)
    await messages.stop()
    units = window.events if parameters["unit"] == "event" else len(seconds)
    if not units:
        raise LoadError(f"nothing was answered within {window.seconds:.1f} s")
    figures = {
        **window.costs(units),
        **latencies("", seconds),
        **latencies("confirmed_", confirmed),
    }
    return {"figures": figures, "checks": window.checks()}


async def connect(load: Load, parameters: Parameters) -> Result:
    """Open and close connections at a steady rate; a latency begins when one is due."""
    rate = float(parameters["rate"])
    seconds: list[float] = []

    async def open_and_close(number: int, due: float) -> None:
        connection = await load.connect(number % int(rate))
        seconds.append(perf_counter() - due)
        await connection.close()

    async def open_all(number: int) -> None:
        started = perf_counter()
        async with asyncio.TaskGroup() as group:
            for index in range(number):
                due = started + index / rate
                await asyncio.sleep(max(0.0, due - perf_counter()))
                group.create_task(open_and_close(index, due))

    await open_all(int(rate * float(parameters["warm_up"])))
    seconds.clear()
    number = max(1, int(rate * float(parameters["seconds"])))
    cpu, own, started = cpu_seconds(load.pid), time.process_time(), perf_counter()
    await open_all(number)
    took = perf_counter() - started
    figures = {
        "cpu_us": (cpu_seconds(load.pid) - cpu) / number * 1e6,
        "per_second": number / took,
        **latencies("", seconds),
    }
    return {"figures": figures, "checks": {"load_core": (time.process_time() - own) / took}}


async def memory_after_traffic(load: Load, parameters: Parameters) -> Result:
    """Measure the memory that each connection keeps after traffic."""
    warm = await load.connect_many(MEMORY_WARM_UP)
    await exchange(load, warm)
    await asyncio.gather(*(connection.close() for connection in warm))
    await load.run_for(1.0)
    before = memory(load.pid)
    connections = await load.connect_many(int(parameters["connections"]))
    await exchange(load, connections)
    await load.run_for(float(parameters["seconds"]))
    after, number = memory(load.pid), len(connections)
    figures = {
        "pss_kib": (after.pss - before.pss) / number,
        "uss_kib": (after.uss - before.uss) / number,
        "rss_kib": (after.rss - before.rss) / number,
    }
    return {"figures": figures, "checks": {"empty_server_pss_kib": before.pss}}


async def exchange(load: Load, connections: Sequence[Connection]) -> None:
    """Exchange ten messages on each connection, and then stream one answer."""
    limit = asyncio.Semaphore(OPENING_AT_ONCE)

    async def exchange_on(connection: Connection) -> None:
        async with limit:
            for _ in range(MEMORY_MESSAGES):
                await run_once(connection, "echo")
            await run_once(connection, "stream")

    await asyncio.gather(*(exchange_on(connection) for connection in connections))
    await load.run_for(0)


async def run_once(connection: Connection, agent: str) -> None:
    """Send a message, and wait until its run has ended."""
    answered: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def on_event(connection: Connection, kind: bytes, frame: bytes) -> None:
        if kind == b"agent_completed":
            answered.set_result(slot_of(connection, frame))

    connection.on_event = on_event
    content = "00".ljust(ECHO_CHARACTERS, ".")
    connection.send(
        connection.dialect.message("user_message", {"content": content, "agent": agent})
    )
    async with asyncio.timeout(ANSWER_SECONDS):
        await answered


async def idle(load: Load, parameters: Parameters) -> Result:
    """Measure the CPU time of connections without traffic but heartbeats."""
    await load.connect_many(int(parameters["connections"]))
    await load.run_for(float(parameters["warm_up"]))
    window = await load.measure(float(parameters["seconds"]))
    percent = window.cpu / window.seconds * 100
    return {"figures": {"core_percent": percent}, "checks": window.checks()}


async def growth(load: Load, parameters: Parameters) -> Result:
    """Stream on few connections, then on as many at a time of a large number, in rotation."""
    few, many = int(parameters["few"]), int(parameters["connections"])
    warm_up, seconds = float(parameters["warm_up"]), float(parameters["seconds"])
    connections = await load.connect_many(few)
    messages = Loop(load, agent="stream")
    costs: list[float] = []
    for number in (few, many):
        connections += await load.connect_many(number - len(connections))
        messages.start(connections, 1, few)
        await load.run_for(warm_up)
        window = await load.measure(seconds)
        await messages.stop()
        costs.append(window.cpu / max(1, window.events) * 1e6)
    ratio = costs[1] / costs[0] if costs[0] else 0.0
    figures = {"few_cpu_us": costs[0], "many_cpu_us": costs[1], "growth": ratio}
    return {"figures": figures, "checks": window.checks()}


Scenario = Callable[[Load, Parameters], Awaitable[Result]]

SCENARIOS: Mapping[str, Scenario] = {
    "loop": loop,
    "connect": connect,
    "memory": memory_after_traffic,
    "idle": idle,
    "growth": growth,
}


@asynccontextmanager
async def loading(target: Target, processes: Processes, secret: str) -> AsyncIterator[Load]:
    """Make a load whose events are acknowledged; its connections close with the block."""
    load = Load(target, processes, secret)
    acknowledging = asyncio.create_task(load.counters.acknowledge_all())
    try:
        yield load
    finally:
        acknowledging.cancel()
        ending = [connection.close() for connection in load.counters.connections]
        await asyncio.gather(*ending)
