"""Sessions and their connections on two nodes with one Valkey.

    found = await talk(here, there, messages=200, rounds=3)
    found["ping, relayed"]  # seconds, one for each

Each function returns times in seconds by the name of what was measured. Each check of where a
session is, and of its verdict, fails the measurement: its figures would be of something else.
"""

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from time import perf_counter

from attrs import frozen

from bench.connection import Connection, LoadError, Target
from bench.dialects import DIALECTS
from bench.resuming import Client
from bench.scenarios import ANSWER_SECONDS, Load, Processes, exchange, loading, run_once
from bench.servers import Server
from bench.valkey import Valkey
from netra_trio.broker.valkey import keys
from netra_trio.ids import NodeId, SessionId

Times = Mapping[str, Sequence[float]]

RUN_TOKENS = 4000  # of a run that is at work during a measurement: 200 s
SETTLE_SECONDS = 1.5  # for the last acknowledgement (1 s), and for the copy (0.05 s)
EXACT = "exact"


@frozen
class Node:
    """A node that runs.

    Attributes:
        server: Its process.
        id: Its id in the Valkey.
        valkey: Which has its lease.
    """

    server: Server
    id: NodeId
    valkey: Valkey

    @property
    def target(self) -> Target:
        """Its address."""
        return Target("127.0.0.1", self.server.port, DIALECTS["netra"])

    @property
    def processes(self) -> Processes:
        """Its process."""
        return Processes(self.server.pid)

    def kill(self) -> None:
        """Kill it; its lease stays."""
        os.kill(self.server.pid, signal.SIGKILL)

    def delete_lease(self) -> None:
        """Delete its lease, as a supervisor does when it has seen the end of the process."""
        self.valkey.command("DEL", keys.lease(self.id), keys.inbox(self.id))
        self.valkey.command("ZREM", keys.NODES, self.id)

    def check_owns(self, client: Client) -> None:
        """Check that the session of a client is at this node.

        Raises:
            LoadError: If it is not.
        """
        name = keys.session(SessionId(client.session_id))
        owner = (self.valkey.command("HGET", name, "node") or b"").decode()
        if owner != self.id:
            raise LoadError(f"expected a session at {self.id}, found it at {owner or 'no node'}")


def nodes_of(valkey: Valkey) -> set[NodeId]:
    """Return the nodes that have a lease."""
    leases = valkey.command("KEYS", f"{keys.LEASE_PREFIX}*")
    return {NodeId(lease.decode().removeprefix(keys.LEASE_PREFIX)) for lease in leases}


async def talk(here: Node, there: Node, *, messages: int, rounds: int) -> Times:
    """Send pings and messages over a local and over a relayed connection, in turns.

    Both sessions are at `here`, with a run at work, which emits a token every 50 ms; so the
    session of the relayed connection does not move.
    """
    times: dict[str, list[float]] = {}
    async with _loading(here) as near, _loading(there) as far:
        local, relayed = [await Client.open(near, user) for user in range(2)]
        await _begin_run(local)
        await _begin_run(relayed)
        await _reopen(relayed, far)
        here.check_owns(relayed)
        for number in range(rounds):
            for name, client in (("local", local), ("relayed", relayed)):
                connection = client.connection
                pings = times.setdefault(f"ping, {name}", [])
                pings += [await _ping(connection) for _ in range(messages)]
                deltas = times.setdefault(f"first delta, {name}", [])
                marks = [f"mark {number} {each}" for each in range(messages)]
                deltas += [await _first_delta(connection, mark) for mark in marks]
        here.check_owns(relayed)
    return times


async def open_again(here: Node, there: Node, *, sessions: int) -> Times:
    """Resume idle sessions at their node and at the other one, and busy ones at the other one."""
    times: dict[str, list[float]] = {name: [] for name in ("local", "moved", "relayed")}
    async with _loading(here) as near, _loading(there) as far:
        for user in range(sessions):
            client = await Client.open(near, user)
            await run_once(client.connection, "stream")
            times["local"].append(await _reopen(client, near))
            here.check_owns(client)
            times["moved"].append(await _reopen(client, far))
            there.check_owns(client)
            busy = await Client.open(near, sessions + user)
            await _begin_run(busy)
            times["relayed"].append(await _reopen(busy, far))
            here.check_owns(busy)
            await client.connection.close()
    return {f"opening, {name}": each for name, each in times.items()}


async def take_over(dying: Node, there: Node, *, sessions: int, has_lease: bool) -> Times:
    """Kill a node with sessions that have runs at work, and resume all of them at the other one.

    Times begin with the death of the node.
    """
    async with _loading(dying) as near, _loading(there) as far:
        clients = [await Client.open(near, user) for user in range(sessions)]
        for client in clients:
            await _begin_run(client)
        dying.kill()
        started = perf_counter()
        if not has_lease:
            dying.delete_lease()
        times = await asyncio.gather(*(_reopen(client, far, started) for client in clients))
        for client in clients:
            there.check_owns(client)
    return {f"opening, taken over, {'with' if has_lease else 'without'} a lease": times}


async def remember(node: Node, *, sessions: int) -> Mapping[str, float]:
    """Return the KiB in Valkey for each session, with all keys of its user, in three states."""
    valkey = node.valkey
    async with _loading(node) as load:
        await exchange(load, await load.connect_many(1))
        await load.run_for(SETTLE_SECONDS)

        async def grown() -> float:
            await load.run_for(SETTLE_SECONDS)
            return (valkey.used_bytes() - before) / sessions / 1024

        before = valkey.used_bytes()
        idle = await load.connect_many(sessions)
        found = {"a new session": await grown()}
        await exchange(load, idle)
        found["after 10 messages and 200 deltas, acknowledged"] = await grown()
        before = valkey.used_bytes()
        users = range(sessions + 1, 2 * sessions + 1)  # the load has numbered the others
        behind = [await Client.open(load, user, acknowledges=False) for user in users]
        for client in behind:
            await run_once(client.connection, "stream")
        found["with 200 deltas, not acknowledged"] = await grown()
    return found


def _loading(node: Node) -> AbstractAsyncContextManager[Load]:
    return loading(node.target, node.processes, node.server.secret)


async def _begin_run(client: Client) -> None:
    """Start a run that lasts, and wait until it is at work."""
    is_at_work = asyncio.Event()
    client.connection.on_delta = lambda *_: is_at_work.set()
    payload = {"content": f"00 {RUN_TOKENS}", "agent": "paced"}
    client.connection.send(client.connection.dialect.message("user_message", payload))
    async with asyncio.timeout(ANSWER_SECONDS):
        await is_at_work.wait()
    client.connection.on_delta = None


async def _reopen(client: Client, load: Load, started: float | None = None) -> float:
    """Lose the connection of a client and resume at a node; return the seconds that it took."""
    client.connection.drop()
    client.load = load
    started = perf_counter() if started is None else started
    verdict = await client.resume(client.connection.seen)
    took = perf_counter() - started
    if verdict != EXACT:
        raise LoadError(f"expected the verdict {EXACT}, got {verdict}")
    return took


async def _ping(connection: Connection) -> float:
    """Send a ping; return the seconds until its answer."""
    answered = asyncio.Event()
    connection.on_pong = answered.set
    return await _timed(connection, connection.dialect.message("ping", {}), answered)


async def _first_delta(connection: Connection, mark: str) -> float:
    """Send a message in a thread of its own; return the seconds until its delta."""
    text = mark.encode()
    arrived, ended = asyncio.Event(), asyncio.Event()

    def on_delta(data: bytes, start: int, end: int) -> None:
        if text in data[start:end]:
            arrived.set()

    def on_event(_: Connection, kind: bytes, frame: bytes) -> None:
        if kind == b"agent_completed" and text in frame:
            ended.set()

    connection.on_delta, connection.on_event = on_delta, on_event
    payload = {"content": f"{mark}.", "agent": "echo", "thread_id": "latency"}
    took = await _timed(connection, connection.dialect.message("user_message", payload), arrived)
    async with asyncio.timeout(ANSWER_SECONDS):
        await ended.wait()
    return took


async def _timed(connection: Connection, message: bytes, answered: asyncio.Event) -> float:
    started = perf_counter()
    connection.send(message)
    async with asyncio.timeout(ANSWER_SECONDS):
        await answered.wait()
    return perf_counter() - started
