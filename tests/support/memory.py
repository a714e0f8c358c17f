"""A server without a network, in virtual time, and clients that send and receive frames.

async with open_server(agents={"echo": echo}) as server:
    async with server.connect("alice") as client:
        await client.say("hello")
        events = await client.until("agent_completed")
"""

import math
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import trio
from attrs import define, evolve, field

from netra_trio.agents.demo.echo import echo
from netra_trio.agents.run import Agent
from netra_trio.auth.identity import Identity
from netra_trio.auth.tokens import TokenVerifier
from netra_trio.broker.base import Backend
from netra_trio.config.settings import Settings
from netra_trio.errors import TransportClosed
from netra_trio.ids import SessionId, UserId
from netra_trio.node.node import Node, open_node
from netra_trio.node.registry import ResumeRequest
from netra_trio.protocol.codes import EndReason
from netra_trio.protocol.problem import Refused
from netra_trio.protocol.wire_format import JSON_ACKNOWLEDGING, JSON_PLAIN, WireFormat
from netra_trio.rooms.permission import PermissionCheck
from netra_trio.stores.base import Store
from netra_trio.stores.memory import MemoryStore
from netra_trio.transports.base import Transport
from netra_trio.transports.memory import MemoryClient, MemoryTransport, memory_pair
from support.frame_client import FrameClient

SECRET = "a-secret-of-at-least-thirty-two-bytes"
EPOCH = 1_800_000_000.0  # Unix seconds at second 0 of the virtual clock
TEST_SECONDS = 200_000.0  # of virtual time: then a test that waits forever fails


Frame = dict[str, Any]


def wall_clock() -> float:
    """Return Unix seconds that pass with the virtual clock."""
    return EPOCH + trio.current_time()


@define(eq=False)
class Client(FrameClient):
    """A client over the memory transport.

    Attributes:
        peer: The client's end of the transport.
        transport: The server's end.
        ended: Why the connection ended.
        refused: The error of a connection that was refused.
        done: Set when the call of `Node.serve` has returned.
        scope: The cancel scope of that call.
    """

    peer: MemoryClient
    transport: MemoryTransport
    ended: EndReason | None = None
    refused: Refused | None = None
    done: trio.Event = field(factory=trio.Event)
    scope: trio.CancelScope = field(factory=trio.CancelScope)

    async def send_raw(self, data: str | bytes) -> None:
        await self.peer.send(data)

    async def receive_raw(self) -> bytes:
        return await self.peer.receive()

    async def sync(self) -> list[Frame]:
        """Send a ping, and return the frames before its pong: all sent frames are handled then."""
        await self.send("ping", {}, "sync")
        frames = [await self.next()]
        while frames[-1].get("correlation_id") != "sync":
            frames.append(await self.next())
        assert frames.pop()["type"] == "pong"
        return frames

    async def rest(self) -> tuple[list[Frame], int | None]:
        """Return the frames up to the end of the connection, and the close code."""
        frames: list[Frame] = []
        while True:
            try:
                frames.append(await self.next())
            except TransportClosed as closed:
                return frames, closed.code


@define(eq=False)
class Server:
    """A node, and a nursery for its connections."""

    node: Node
    nursery: trio.Nursery

    def start(
        self,
        user: str = "alice",
        *,
        acknowledging: bool = False,
        wire: WireFormat | None = None,
        expires_at: float = EPOCH + 1e9,
        anonymous: bool = False,
        permissions: frozenset[str] = frozenset(),
        wrap: Callable[[Transport], Transport] | None = None,
        session_id: str | None = None,
        last_seq: int = 0,
        **options: Any,
    ) -> Client:
        """Start a connection, without waiting for its first frame.

        Args:
            user: The id of the user.
            acknowledging: Whether the client offers `netra.v1`.
            wire: The wire format, instead of `acknowledging`.
            expires_at: When the token expires, in Unix seconds.
            anonymous: Whether the user is not authenticated.
            permissions: The permissions of the token.
            wrap: Replaces the transport.
            session_id: The session to resume.
            last_seq: The last number that the client has.
            options: Options of `memory_pair`.
        """
        wanted = None if session_id is None else ResumeRequest(SessionId(session_id), last_seq)
        transport, memory_client = memory_pair(**options)
        client = Client(memory_client, transport)
        if wire is None:
            wire = JSON_ACKNOWLEDGING if acknowledging else JSON_PLAIN
        expires = math.inf if anonymous else expires_at
        identity = Identity(UserId(user), expires, permissions)

        async def serve() -> None:
            try:
                with client.scope, self.node.capacity.connection_slot():
                    client.ended = await self.node.serve(
                        transport if wrap is None else wrap(transport),
                        identity,
                        wire,
                        wanted=wanted,
                    )
            except Refused as refused:
                client.refused = refused
                client.peer.cut()
            finally:
                client.peer.close(1006)  # as an HTTP server does; no effect if it is closed already
                client.done.set()

        self.nursery.start_soon(serve)
        return client

    @asynccontextmanager
    async def connect(self, user: str = "alice", **options: Any) -> AsyncIterator[Client]:
        """Open a connection; at the end of the block, close it with 1000 and wait for its end."""
        client = self.start(user, **options)
        client.hello = await client.expect("connection_established")
        yield client
        client.peer.close()
        await client.done.wait()


@asynccontextmanager
async def open_server(
    *,
    agents: Mapping[str, Agent] | None = None,
    store: Store | None = None,
    users: tuple[str, ...] = ("alice", "bob"),
    backend: Backend | None = None,
    may: PermissionCheck | None = None,
    **settings: Any,
) -> AsyncIterator[Server]:
    """Open a server on the memory transport; `settings` are fields of `Settings`."""
    store = MemoryStore() if store is None else store
    for user in users:
        await store.create_user(UserId(user))
    chosen = evolve(Settings(), jwt_secret_key=SECRET, **settings)
    with trio.fail_after(TEST_SECONDS):
        async with (
            trio.open_nursery() as nursery,
            open_node(
                chosen,
                agents={"echo": echo} if agents is None else agents,
                store=store,
                verifier=TokenVerifier(SECRET),
                wall_clock=wall_clock,
                backend=backend,
                may=may,
            ) as node,
        ):
            yield Server(node, nursery)
            nursery.cancel_scope.cancel()


def token(user: str = "alice", *, expires_at: float = EPOCH + 1e9) -> str:
    """Return a token that the server accepts."""
    return TokenVerifier(SECRET).sign(user, expires_at=expires_at)


def kinds(frames: list[Frame]) -> list[str]:
    """Return the types of frames."""
    return [frame["type"] for frame in frames]


def as_kind(kind: type[MemoryTransport]) -> Callable[[Transport], Transport]:
    """Return a `wrap` that turns a transport into one of a subclass, which a test defines."""

    def replace(transport: Transport) -> Transport:
        assert isinstance(transport, MemoryTransport)
        transport.__class__ = kind
        return transport

    return replace
