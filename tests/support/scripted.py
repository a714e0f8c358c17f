"""A scripted server for the client, on a network in memory.

network = ScriptedNetwork()
async with opened(network) as (client, peer):
    nursery.start_soon(client.send, "hello")
    message = await peer.expect("user_message")
    await peer.confirm(message)
"""

from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson
import trio
from attrs import define, field

from netra_trio.client import Client, NoAnswer, OpeningRefused, SocketClosed, connect
from netra_trio.client.session import PROBE

URL = "ws://server.example:8000/ws"
EPOCH = 1_800_000_000.0  # Unix seconds at second 0 of the virtual clock
LIMITS = {"max_message_size": 10_240, "heartbeat_interval": 30_000, "resume_window": 120_000}
CONFIG = {"websocket_config": {"version": "1.0", "connection_limits": LIMITS}}

Frame = dict[str, Any]


def wall_clock() -> float:
    """Return Unix seconds that pass with the virtual clock."""
    return EPOCH + trio.current_time()


class _Socket:
    """The client's end of a connection."""

    def __init__(self, peer: "Peer") -> None:
        self._peer = peer

    async def send(self, text: str | bytes) -> None:
        await trio.lowlevel.checkpoint()
        if self._peer.closed is not None:
            raise SocketClosed(self._peer.closed)
        frame = orjson.loads(text)
        if frame.get("correlation_id") == PROBE:
            if not self._peer.deaf:
                self._peer.control("pong", {}, PROBE)
            return
        self._peer.received.append(frame)
        self._peer.notify()

    async def receive(self) -> str:
        await trio.lowlevel.checkpoint()
        peer = self._peer
        while not peer.sent:
            if peer.closed is not None:
                raise SocketClosed(peer.closed)
            await peer.waiting.park()
        return peer.sent.popleft()

    async def close(self, code: int) -> None:
        self._peer.client_closed = code
        self._peer.notify()
        if not self._peer.deaf:
            self._peer.close(code)
        while self._peer.closed is None:
            await self._peer.waiting.park()


@define(eq=False)
class Peer:
    """The server's end of a connection, and its upgrade request.

    Attributes:
        url: The address.
        headers: The headers.
        received: Frames of the client that the test has not taken.
        client_closed: The code with which the client closed; None before that.
        deaf: Whether close frames and probes of the client get no answer.
        gone: Set when the client has released the connection.
    """

    url: str
    headers: Mapping[str, str]
    subprotocols: Sequence[str]
    received: deque[Frame] = field(factory=deque)
    sent: deque[str] = field(factory=deque)
    closed: int | None = None
    client_closed: int | None = None
    deaf: bool = False
    seq: int = 0
    gone: trio.Event = field(factory=trio.Event)
    waiting: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot)
    answered: trio.Event = field(factory=trio.Event)
    refusal: Exception | None = None

    @property
    def query(self) -> dict[str, str]:
        """The query of the upgrade request."""
        return {k: v[0] for k, v in parse_qs(urlsplit(self.url).query).items()}

    def notify(self) -> None:
        self.waiting.unpark_all()

    def refuse(
        self, status: int, *, retry_after: float | None = None, body: Mapping[str, Any] = {}
    ) -> None:
        """Answer the upgrade request with an HTTP status."""
        self.refusal = OpeningRefused(status, retry_after=retry_after, body=body)
        self.answered.set()

    def ignore(self) -> None:
        """Give no answer to the upgrade request."""
        self.refusal = NoAnswer("no server")
        self.answered.set()

    def hello(
        self,
        verdict: str = "new",
        *,
        session_id: str = "sess_1",
        last_seq: int = 0,
        replayed: int = 0,
        runs: Sequence[Frame] = (),
        heartbeat_interval: int = 30_000,
        limits: Mapping[str, Any] = LIMITS,
        **resume: Any,
    ) -> None:
        """Accept the upgrade, and send the first frame."""
        self.seq = last_seq
        state = {"verdict": verdict, "last_seq": last_seq, "replayed": replayed, **resume}
        self.control(
            "connection_established",
            {
                "connection_id": "conn_1",
                "session_id": session_id,
                "user_id": "alice",
                "server_time": EPOCH,
                "heartbeat_interval": heartbeat_interval,
                "features": {},
                "limits": dict(limits),
                "resume": {**state, "runs": list(runs)},
            },
        )
        self.answered.set()

    def write(self, frame: Frame | str) -> None:
        """Send a frame unchanged."""
        self.sent.append(frame if isinstance(frame, str) else orjson.dumps(frame).decode())
        self.notify()

    def control(self, kind: str, payload: Frame, correlation_id: str | None = None) -> None:
        """Send a frame without a number."""
        frame = {"type": kind, "payload": payload, "timestamp": wall_clock()}
        self.write(frame if correlation_id is None else {**frame, "correlation_id": correlation_id})

    def error(self, code: str, correlation_id: str | None = None, **more: Any) -> None:
        """Send an error."""
        body = {"code": code, "error": "No.", "help": "Don't.", "recoverable": True, **more}
        self.control("error", {**body, "timestamp": wall_clock()}, correlation_id)

    def event(self, kind: str, payload: Frame, key: str = "c-1", *, merged: int = 1) -> int:
        """Send an event that covers so many numbers; return its number."""
        first, self.seq = self.seq + 1, self.seq + merged
        frame: Frame = {"type": kind, "payload": payload, "timestamp": wall_clock()}
        frame |= {"correlation_id": key, "seq": self.seq}
        self.write(frame if merged == 1 else {**frame, "seq_from": first})
        return self.seq

    def confirm(self, message: Frame, run_id: str = "run_1", status: str = "accepted") -> int:
        """Confirm a message."""
        payload = {"message_id": "msg_1", "run_id": run_id, "thread_id": "main", "status": status}
        return self.event("message_confirmed", payload, message["correlation_id"])

    def delta(self, content: str, run_id: str = "run_1", *, merged: int = 1) -> int:
        """Send a piece of an answer."""
        payload = {"run_id": run_id, "content": content}
        return self.event("partial_result", payload, merged=merged)

    def complete(self, run_id: str = "run_1", status: str = "completed", **more: Any) -> int:
        """End a run."""
        payload = {"run_id": run_id, "status": status, "duration_ms": 5, **more}
        return self.event("agent_completed", payload)

    def close(self, code: int) -> None:
        """End the connection; 1006 stands for a lost one."""
        if self.closed is None:
            self.closed = code
        self.notify()

    async def next(self) -> Frame:
        """Return the next frame of the client, of any type."""
        while not self.received:
            await self.waiting.park()
        return self.received.popleft()

    async def expect(self, kind: str) -> Frame:
        """Return the next frame that is not an `ack`; it must be of this type."""
        while (frame := await self.next())["type"] == "ack" != kind:
            pass
        assert frame["type"] == kind, frame
        return frame

    def acks(self) -> list[int]:
        """Return the acknowledged numbers that the test has not taken."""
        return [frame["payload"]["seq"] for frame in self.received if frame["type"] == "ack"]


class ScriptedNetwork:
    """A `Dialer` whose upgrade requests a test answers.

    Attributes:
        config: What discovery answers: a document, or an exception.
        discoveries: The addresses that were read.
        times: When each upgrade request came.
    """

    def __init__(self) -> None:
        self.config: Mapping[str, Any] | Exception = CONFIG
        self.discoveries: list[str] = []
        self.times: list[float] = []
        self._send, self._receive = trio.open_memory_channel[Peer](100)

    async def discover(self, url: str) -> Mapping[str, Any]:
        await trio.lowlevel.checkpoint()
        self.discoveries.append(url)
        if isinstance(self.config, Exception):
            raise self.config
        return self.config

    @asynccontextmanager
    async def open(
        self, url: str, *, headers: Mapping[str, str], subprotocols: Sequence[str]
    ) -> AsyncIterator[_Socket]:
        peer = Peer(url, headers, subprotocols)
        self.times.append(trio.current_time())
        self._send.send_nowait(peer)
        try:
            await peer.answered.wait()
            if peer.refusal is not None:
                raise peer.refusal
            yield _Socket(peer)
        finally:
            peer.gone.set()

    async def accept(self) -> Peer:
        """Return the next upgrade request, which waits for an answer."""
        return await self._receive.receive()


@asynccontextmanager
async def opened(network: ScriptedNetwork, **options: Any) -> AsyncIterator[tuple[Client, Peer]]:
    """Open a client with a token and without jitter, and send its first frame."""
    given: dict[str, Any] = {"token": "t.o.k", "random": lambda: 0.0, "wall_clock": wall_clock}
    first: list[Peer] = []

    async def answer() -> None:
        first.append(await network.accept())
        first[0].hello()

    with trio.fail_after(100_000):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            async with connect(URL, dialer=network, **{**given, **options}) as client:
                yield client, first[0]
            nursery.cancel_scope.cancel()
