"""Scenarios with sessions that outlive their connections, and are resumed.

    figures = await RESUMING["resume"](Load(target, processes, secret), {"connections": 10, ...})

Both scenarios need a server whose sessions can be resumed. `resume` fails if a resume is not exact.
"""

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from time import perf_counter

from attrs import define, field

from bench.connection import Connection, LoadError, ResumePoint
from bench.figures import latencies
from bench.peers.work import TOKENS
from bench.proc import cpu_seconds
from bench.scenarios import (
    ANSWER_SECONDS,
    OPENING_AT_ONCE,
    Load,
    Loop,
    Parameters,
    Result,
    Scenario,
    run_once,
)

STREAMS, ECHOES = 4, 47  # runs that a client is behind: 1 000 events
RUN_EVENTS = 3  # of a run beside its deltas: confirmed, started, completed
BEHIND = STREAMS * (len(TOKENS) + RUN_EVENTS) + ECHOES * (1 + RUN_EVENTS)
PAUSES = (1.0, 30.0)  # seconds: upper bounds of the first and of any pause, as in the clients
RECONNECT_SECONDS = 60.0  # for all clients of a storm to reconnect; a longer time is a failure


@define(eq=False)
class Client:
    """A user with one session, over any number of connections."""

    load: Load
    user: int
    connection: Connection
    acknowledges: bool = True  # without it, no event leaves the server's log
    session_id: str = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.session_id = self.connection.hello["session_id"]

    @classmethod
    async def open(cls, load: Load, user: int, *, acknowledges: bool = True) -> "Client":
        """Begin a session."""
        connection = await load.connect(user, acknowledges=acknowledges)
        return cls(load, user, connection, acknowledges)

    async def resume(self, seq: int) -> str:
        """Resume the session after a number, on a new connection; return the verdict."""
        point = ResumePoint(self.session_id, seq)
        self.connection = await self.load.connect(self.user, point, acknowledges=self.acknowledges)
        verdict: str = self.connection.hello["resume"]["verdict"]
        return verdict


async def resume(load: Load, parameters: Parameters) -> Result:
    """Stream; then resume sessions 1 000 events behind, with all of them replayed each time."""
    number = int(parameters["connections"])
    warm_up, seconds = float(parameters["warm_up"]), float(parameters["seconds"])
    streaming = await load.connect_many(number)
    messages = Loop(load, agent="stream")
    messages.start(streaming, 1, number)
    await load.run_for(warm_up)
    streamed = await load.measure(seconds)
    await messages.stop()
    await asyncio.gather(*(connection.close() for connection in streaming))

    users = range(number, 2 * number)
    clients = [await Client.open(load, user, acknowledges=False) for user in users]
    await asyncio.gather(*(_fall_behind(client) for client in clients))
    took: list[float] = []
    resuming = [asyncio.create_task(_keep_resuming(client, took)) for client in clients]
    try:
        await _run_for(load, warm_up, resuming)
        took.clear()
        replayed = await load.measure(seconds)
    finally:
        for task in resuming:
            task.cancel()
    await _end(resuming)
    if not streamed.numbers or not replayed.numbers:
        raise LoadError("no event was streamed, or none was replayed")
    stream_cpu, replay_cpu = (one.cpu / one.numbers * 1e6 for one in (streamed, replayed))
    figures = {
        "stream_cpu_us": stream_cpu,
        "replay_cpu_us": replay_cpu,
        **({"replay": replay_cpu / stream_cpu} if stream_cpu else {}),
        **latencies("", took),
    }
    return {"figures": figures, "checks": {"load_core": replayed.own_cpu / replayed.seconds}}


async def _fall_behind(client: Client) -> None:
    """Receive 1 000 events without acknowledging them, and lose the connection."""
    for agent in ["stream"] * STREAMS + ["echo"] * ECHOES:
        await run_once(client.connection, agent)
    if client.connection.seen != BEHIND:
        raise LoadError(f"expected {BEHIND} events, got {client.connection.seen}")
    client.connection.drop()


async def _keep_resuming(client: Client, took: list[float]) -> None:
    """Resume, receive all replayed events, and lose the connection, until cancelled."""
    while True:
        started = perf_counter()
        verdict = await client.resume(0)
        if verdict != "exact":
            raise LoadError(f"expected the verdict exact, got {verdict}")
        await _wait_for(client, BEHIND)
        took.append(perf_counter() - started)
        client.connection.drop()


async def _wait_for(client: Client, seq: int) -> None:
    """Wait until a number is received."""
    connection = client.connection
    received = asyncio.Event()
    connection.on_event = lambda *_: received.set()
    async with asyncio.timeout(ANSWER_SECONDS):
        while connection.seen < seq:
            await received.wait()
            received.clear()


async def storm(load: Load, parameters: Parameters) -> Result:
    """Lose every connection at once in the middle of a run, and reconnect as the clients do."""
    number = int(parameters["connections"])
    clients: list[Client] = []
    for start in range(0, number, OPENING_AT_ONCE):
        users = range(start, min(start + OPENING_AT_ONCE, number))
        clients += await asyncio.gather(*(Client.open(load, user) for user in users))
    await load.run_for(float(parameters["seconds"]))
    await _begin_runs(clients)

    cpu, own, lost = cpu_seconds(load.pid), time.process_time(), perf_counter()
    for client in clients:
        client.connection.drop()
    attempts: list[float] = []
    resumed = await asyncio.gather(*(_reconnect(client, lost, attempts) for client in clients))
    took = perf_counter() - lost
    figures = {
        "exact_percent": 100.0 * sum(verdict == "exact" for verdict, _ in resumed) / number,
        "peak_per_second": float(busiest(attempts)),
        "cpu_us": (cpu_seconds(load.pid) - cpu) / number * 1e6,
        **latencies("", [seconds for _, seconds in resumed]),
    }
    checks = {"load_core": (time.process_time() - own) / took}
    # The missed events arrive now, and the rest of the run.
    await asyncio.gather(
        *(
            _wait_for(client, len(TOKENS) + RUN_EVENTS)
            for client, (verdict, _) in zip(clients, resumed, strict=True)
            if verdict == "exact"
        )
    )
    return {"figures": figures, "checks": checks}


async def _begin_runs(clients: Sequence[Client]) -> None:
    """Send each client's message, and wait until each is confirmed."""
    for client in clients:
        dialect = client.connection.dialect
        payload = {"content": "00", "agent": "stream"}
        client.connection.send(dialect.message("user_message", payload))
    for client in clients:
        await _wait_for(client, 1)


async def _reconnect(client: Client, lost: float, attempts: list[float]) -> tuple[str, float]:
    """Resume after pauses with full jitter; return the verdict, and seconds since the loss."""
    first, most = PAUSES
    seq = client.connection.seen
    for failures in range(10):
        pause = min(most, first * 2**failures) * random.random()  # noqa: S311 - not a secret
        await asyncio.sleep(pause)
        attempts.append(perf_counter())
        try:
            verdict = await client.resume(seq)
        except (LoadError, OSError):
            if perf_counter() - lost > RECONNECT_SECONDS:
                break
            continue
        return verdict, perf_counter() - lost
    raise LoadError(f"not reconnected within {RECONNECT_SECONDS:g} s")


def busiest(times: Sequence[float], seconds: float = 1.0) -> int:
    """Return the greatest number of these times that lie within one second.

    >>> busiest([0.0, 0.4, 0.9, 1.0, 1.1, 5.0])
    4
    """
    ordered = sorted(times)
    most = first = 0
    for last, moment in enumerate(ordered):
        while ordered[first] <= moment - seconds:
            first += 1
        most = max(most, last - first + 1)
    return most


async def _run_for(load: Load, seconds: float, tasks: Sequence["asyncio.Task[None]"]) -> None:
    """Let tasks run for a time; raise the error of one that failed."""
    await load.run_for(seconds)
    for task in tasks:
        if task.done():
            task.result()


async def _end(tasks: Sequence["asyncio.Task[None]"]) -> None:
    """Wait for cancelled tasks; raise the error of one that failed."""
    for ended in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(ended, Exception):
            raise ended


RESUMING: Mapping[str, Scenario] = {"resume": resume, "storm": storm}
