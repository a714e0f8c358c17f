"""What the load does with sessions that outlive their connections: come back to them.

    figures = await RETURNING["resume"](Load(target, pid, secret), {"connections": 10, ...})

Both scenarios need a server whose sessions can be resumed, and fail where one is not exactly.
"""

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from time import perf_counter

from attrs import define, field

from bench.connection import Connection, LoadError, Place
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
    ask,
)

STREAMS, ECHOES = 4, 47  # runs that a client is behind, which are 1 000 events
RUN_EVENTS = 3  # of a run beside its deltas: confirmed, started, completed
BEHIND = STREAMS * (len(TOKENS) + RUN_EVENTS) + ECHOES * (1 + RUN_EVENTS)
PAUSES = (1.0, 30.0)  # seconds: the ceiling of the first pause and of any, as the clients have them
BACK_SECONDS = 60.0  # for all of a storm to be back: what takes longer is a failure


@define(eq=False)
class Client:
    """A user with a session, over as many connections as it takes."""

    load: Load
    user: int
    connection: Connection
    is_silent: bool = False  # acknowledges nothing, so that nothing leaves the log
    session_id: str = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.session_id = self.connection.welcome["session_id"]

    @classmethod
    async def open(cls, load: Load, user: int, *, is_silent: bool = False) -> "Client":
        """Begin a session."""
        return cls(load, user, await load.connect(user, is_silent=is_silent), is_silent)

    async def come_back(self, seq: int) -> str:
        """Go on with the session after a number; return the verdict."""
        place = Place(self.session_id, seq)
        self.connection = await self.load.connect(self.user, place, is_silent=self.is_silent)
        verdict: str = self.connection.welcome["resume"]["verdict"]
        return verdict


async def resume(load: Load, parameters: Parameters) -> Result:
    """Stream; then come back to sessions 1 000 events behind, all of it replayed each time."""
    number = int(parameters["connections"])
    warm_up, seconds = float(parameters["warm_up"]), float(parameters["seconds"])
    streaming = await load.connect_many(number)
    going = Loop(load, agent="stream")
    going.start(streaming, 1, number)
    await load.run_for(warm_up)
    streamed = await load.measure(seconds)
    await going.stop()
    await asyncio.gather(*(connection.close() for connection in streaming))

    clients = [await Client.open(load, number + user, is_silent=True) for user in range(number)]
    await asyncio.gather(*(_fall_behind(client) for client in clients))
    took: list[float] = []
    returning = [asyncio.create_task(_keep_coming_back(client, took)) for client in clients]
    try:
        await _run_for(load, warm_up, returning)
        took.clear()
        replayed = await load.measure(seconds)
    finally:
        for task in returning:
            task.cancel()
    await _end(returning)
    if not streamed.numbers or not replayed.numbers:
        raise LoadError("nothing was streamed, or nothing replayed")
    stream_cpu, replay_cpu = (one.cpu / one.numbers * 1e6 for one in (streamed, replayed))
    figures = {
        "stream_cpu_us": stream_cpu,
        "replay_cpu_us": replay_cpu,
        **({"replay": replay_cpu / stream_cpu} if stream_cpu else {}),
        **latencies("", took),
    }
    return {"figures": figures, "checks": {"load_core": replayed.own_cpu / replayed.seconds}}


async def _fall_behind(client: Client) -> None:
    """Have 1 000 events that are never acknowledged, and lose the line."""
    for agent in ["stream"] * STREAMS + ["echo"] * ECHOES:
        await ask(client.connection, agent)
    if client.connection.seen != BEHIND:
        raise LoadError(f"expected {BEHIND} events, got {client.connection.seen}")
    client.connection.drop()


async def _keep_coming_back(client: Client, took: list[float]) -> None:
    """Come back, take all that is replayed, and lose the line, for ever."""
    while True:
        started = perf_counter()
        verdict = await client.come_back(0)
        if verdict != "exact":
            raise LoadError(f"expected the verdict exact, got {verdict}")
        await _take(client, BEHIND)
        took.append(perf_counter() - started)
        client.connection.drop()


async def _take(client: Client, seq: int) -> None:
    """Wait until a number has come."""
    connection = client.connection
    news = asyncio.Event()
    connection.on_event = lambda *_: news.set()
    async with asyncio.timeout(ANSWER_SECONDS):
        while connection.seen < seq:
            await news.wait()
            news.clear()


async def storm(load: Load, parameters: Parameters) -> Result:
    """Lose every line at once in the middle of a run, and come back as the clients do."""
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
    back = await asyncio.gather(*(_return(client, lost, attempts) for client in clients))
    took = perf_counter() - lost
    figures = {
        "exact_percent": 100.0 * sum(verdict == "exact" for verdict, _ in back) / number,
        "peak_per_second": float(busiest(attempts)),
        "cpu_us": (cpu_seconds(load.pid) - cpu) / number * 1e6,
        **latencies("", [seconds for _, seconds in back]),
    }
    checks = {"load_core": (time.process_time() - own) / took}
    # What a client missed comes now: its run goes on, and ends.
    await asyncio.gather(
        *(
            _take(client, len(TOKENS) + RUN_EVENTS)
            for client, (verdict, _) in zip(clients, back, strict=True)
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
        await _take(client, 1)


async def _return(client: Client, lost: float, attempts: list[float]) -> tuple[str, float]:
    """Come back after pauses of full jitter; return the verdict, and seconds since the loss."""
    first, most = PAUSES
    seq = client.connection.seen
    for failures in range(10):
        pause = min(most, first * 2**failures) * random.random()  # noqa: S311 - no secret
        await asyncio.sleep(pause)
        attempts.append(perf_counter())
        try:
            verdict = await client.come_back(seq)
        except (LoadError, OSError):
            if perf_counter() - lost > BACK_SECONDS:
                break
            continue
        return verdict, perf_counter() - lost
    raise LoadError(f"not back within {BACK_SECONDS:g} s")


def busiest(times: Sequence[float], seconds: float = 1.0) -> int:
    """Return how many of these moments lie within a second, where they are densest.

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
    """Let tasks go on for a while; what one of them raises comes out."""
    await load.run_for(seconds)
    for task in tasks:
        if task.done():
            task.result()


async def _end(tasks: Sequence["asyncio.Task[None]"]) -> None:
    """Wait for tasks that were cancelled; what else one of them raises comes out."""
    for ended in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(ended, Exception):
            raise ended


RETURNING: Mapping[str, Scenario] = {"resume": resume, "storm": storm}
