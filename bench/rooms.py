"""Rooms: one client publishes at a steady rate, and many members receive each event.

    figures = await ROOMS["fanout"](Load(target, processes, secret), {"connections": 1000, ...})

The latency of a delivery is the time from when the publisher sent the message to when a member has
read the event. Both are connections of the load, so there is one clock.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import count
from time import perf_counter

from attrs import define, field

from bench.connection import Connection, LoadError
from bench.figures import latencies
from bench.frames import client_frame
from bench.scenarios import ANSWER_SECONDS, Load, Parameters, Result, Scenario

ROOM = "bench"
CONTENT_CHARACTERS = 100
RECEIVE_BUFFER = 4096  # of a slow member: the kernel must not read for it
SLOW_BYTES, SLOW_SECONDS = 102, 0.1  # of each read of a slow member, and between two: 1 KiB/s
READ_BYTES = 65_536

_CONTENT = b'"content":"'
_DIGITS = 20  # of the time at the start of a content


@define(eq=False)
class Members:
    """The members of a room.

    Attributes:
        seconds: The latency of each delivery.
        gaps: How many `room_gap` frames they have got.
    """

    load: Load
    seconds: list[float] = field(factory=list)
    gaps: int = 0
    _joined: int = 0

    async def join(self, connections: Sequence[Connection]) -> None:
        """Join the room with each connection, and wait until all are members.

        Raises:
            LoadError: If that takes too long.
        """
        for connection in connections:
            connection.on_room = self._on_room
            connection.send(connection.dialect.message("join_room", {"room": ROOM}))
        deadline = perf_counter() + ANSWER_SECONDS
        while self._joined < len(connections):
            if perf_counter() > deadline:
                raise LoadError(f"{len(connections) - self._joined} members could not join")
            await self.load.run_for(0.01)

    def _on_room(self, connection: Connection, kind: bytes, frame: bytes) -> None:  # noqa: ARG002 - its interface
        if kind == b"room_event":
            start = frame.index(_CONTENT) + len(_CONTENT)
            self.seconds.append(perf_counter() - float(frame[start : start + _DIGITS]))
        elif kind == b"room_joined":
            self._joined += 1
        elif kind == b"room_gap":
            self.gaps += 1


async def publish(publisher: Connection, rate: float) -> None:
    """Publish at a steady rate until cancelled; what is due late is sent at once."""
    started = perf_counter()
    for number in count():
        await asyncio.sleep(max(0.0, started + number / rate - perf_counter()))
        content = f"{perf_counter():<{_DIGITS}.6f}".ljust(CONTENT_CHARACTERS, ".")
        payload = {"room": ROOM, "content": content}
        publisher.send(publisher.dialect.message("room_message", payload))


async def read_slowly(load: Load, user: int, size: int) -> None:
    """Be a member that reads `size` bytes every 100 ms, or nothing, until cancelled."""
    loop, target = asyncio.get_running_loop(), load.target
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        sock.setblocking(False)
        await loop.sock_connect(sock, (target.host, target.port))
        await loop.sock_sendall(sock, target.request(load.token(user)))
        await _read_until(sock, b"connection_established")
        wire = target.dialect.message("join_room", {"room": ROOM})
        await loop.sock_sendall(sock, client_frame(wire))
        await _read_until(sock, b"room_joined")
        while True:
            await asyncio.sleep(SLOW_SECONDS)
            if size and not await loop.sock_recv(sock, size):
                return  # the server has given it up


async def _read_until(sock: socket.socket, text: bytes) -> None:
    received = b""
    while text not in received:
        data = await asyncio.get_running_loop().sock_recv(sock, READ_BYTES)
        if not data:
            raise LoadError(f"the server closed before {text.decode()}")
        received += data


@asynccontextmanager
async def slow_members(load: Load, number: int) -> AsyncIterator[None]:
    """Have a member that reads nothing, and one that reads 1 KiB a second; or none."""
    sizes = (0, SLOW_BYTES)[:number]
    tasks = [
        asyncio.create_task(read_slowly(load, 1_000_000 + index, size))
        for index, size in enumerate(sizes)
    ]
    try:
        yield
        for task in tasks:
            if task.done() and task.exception() is not None:
                raise LoadError(f"a slow member failed: {task.exception()!r}")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def fanout(load: Load, parameters: Parameters) -> Result:
    """Publish to a room with many members, of which some may read slowly."""
    rate, warm_up = float(parameters["rate"]), float(parameters["warm_up"])
    publisher = await load.connect()
    connections = await load.connect_many(int(parameters["connections"]))
    members = Members(load)
    async with slow_members(load, int(parameters.get("slow", 0))):
        await members.join(connections)
        publishing = asyncio.create_task(publish(publisher, rate))
        try:
            await load.run_for(warm_up)
            members.seconds.clear()
            window = await load.measure(float(parameters["seconds"]))
        finally:
            publishing.cancel()
    seconds = list(members.seconds)
    if not seconds:
        raise LoadError(f"no event was delivered within {window.seconds:.1f} s")
    figures = {**window.costs(len(seconds)), **latencies("", seconds)}
    return {"figures": figures, "checks": {**window.checks(), "gaps": float(members.gaps)}}


ROOMS: Mapping[str, Scenario] = {"fanout": fanout}
