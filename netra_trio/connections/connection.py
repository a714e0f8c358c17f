"""A connection: the state that its tasks share, and the method that ends it.

connection.end(EndReason.EVICTED, problem)    # from any task, without waiting
"""

from collections.abc import Callable
from functools import partial

import trio
from attrs import define, field

from netra_trio.auth.identity import Identity
from netra_trio.config.settings import Settings
from netra_trio.connections.outgoing import Outgoing
from netra_trio.errors import TransportClosed
from netra_trio.ids import ConnectionId, SessionId, new_connection_id
from netra_trio.protocol.codes import ABNORMAL, EndReason
from netra_trio.protocol.keepalive import Liveness, TokenLife
from netra_trio.protocol.messages import ConnectionEstablished, Outbound
from netra_trio.protocol.problem import Problem
from netra_trio.protocol.wire_format import EventEncoder, WireFormat
from netra_trio.rooms.feed import RoomFeed
from netra_trio.services import Services
from netra_trio.sessions.session import Session
from netra_trio.telemetry.metrics import Metrics
from netra_trio.transports.base import SendShared, Sent, Transport
from netra_trio.transports.frames import SharedPayload

CLOSE_WAIT = 2.0  # seconds for the peer to reply to the close frame: two slow round trips


@define(eq=False)
class Connection:
    """One connection of a session.

    Attributes:
        session: The session, which outlives the connection.
        transport: The WebSocket.
        identity: The identity of its newest token.
        services: The services of the application.
        wire: Its wire format.
        encoder: Encodes its first frame, and its events in their order.
        outgoing: The channels to its writer.
        reason: Why it ends; None while it is open.
        final_error: The encoded error that is sent right before the close frame.
        reads_data: Whether the file storage is asked for the data of events of another node.
        is_finishing: Whether the writer has started to send the last frames.
        changed: Set when it ends; set and replaced when a new token is accepted.
        ping_due: Whether the writer has to send a protocol ping with its next write.
        scope: The cancel scope of all its tasks.
        ended: Set when all its tasks have ended.
        peer_code: The close code of the peer, if it sent one.
        frames_in: The number of received frames.
        frames_out: The number of sent frames.
        on_end: Called when it ends, where something has to know it before its tasks have ended.
    """

    session: Session
    transport: Transport
    identity: Identity
    services: Services
    wire: WireFormat
    outgoing: Outgoing
    encoder: EventEncoder = field(init=False)
    id: ConnectionId = field(factory=new_connection_id)
    reason: EndReason | None = None
    peer_code: int | None = None
    final_error: bytes | None = None
    reads_data: bool = True
    is_finishing: bool = False
    frames_in: int = 0
    frames_out: int = 0
    on_end: Callable[[], None] | None = None
    liveness: Liveness = field(init=False)
    token: TokenLife = field(init=False)
    changed: trio.Event = field(factory=trio.Event)
    ping_due: bool = False
    ended: trio.Event = field(factory=trio.Event)
    scope: trio.CancelScope = field(factory=trio.CancelScope)

    def __attrs_post_init__(self) -> None:
        interval = self.settings.heartbeat_interval_ms / 1000
        self.liveness = Liveness(interval=interval, now=trio.current_time())
        self.token = self._token_life()
        self.encoder = self.wire.encoder()

    @property
    def settings(self) -> Settings:
        """The limits."""
        return self.services.settings

    @property
    def metrics(self) -> Metrics:
        """The metrics of the server."""
        return self.services.instruments.metrics

    @property
    def session_id(self) -> SessionId:
        """The id of its session."""
        return self.session.id

    def end(self, reason: EndReason, problem: Problem | None = None) -> None:
        """End the connection, with an error as its last frame; the first reason counts."""
        if self.reason is not None:
            return
        self.reason = reason
        self.changed.set()
        if self.on_end is not None:
            self.on_end()
        if problem is not None:
            self.metrics.note_error(problem.code)
            self.final_error = self.wire.encode_problem(problem, self.services.wall_clock())
        self.outgoing.close()

    def abort(self) -> None:
        """End the connection now, without a close frame."""
        self.end(EndReason.ABORTED)
        self.scope.cancel()

    def closed_by(self, closed: TransportClosed) -> None:
        """End the connection because its transport is closed."""
        self.peer_code = closed.code
        if closed.timed_out:
            # The reader may have reported PEER_LOST already, because of this timeout.
            if self.reason is EndReason.PEER_LOST:
                self.reason = None
            self.end(EndReason.SEND_TIMEOUT)
        elif closed.code is None or closed.code == ABNORMAL:
            self.end(EndReason.PEER_LOST)
        else:
            self.end(EndReason.PEER_CLOSED)

    def renew(self, identity: Identity) -> None:
        """Replace the token by a new one of the same user."""
        self.identity = identity
        self.session.permissions = identity.permissions
        self.token = self._token_life()
        self.changed.set()
        self.changed = trio.Event()
        rooms = self.outgoing.rooms
        if rooms is not None:
            self.services.rooms.note_permissions(rooms)

    async def send(self, message: Outbound, correlation_id: str | None = None) -> None:
        """Send a control frame; waits for room if the peer does not read. Cancelling is safe."""
        self.metrics.control_sent[message.TYPE] += 1
        now = self.services.wall_clock()
        await self.outgoing.put(self.wire.encode_control(message, now, correlation_id))

    def try_send(self, message: Outbound) -> bool:
        """Send a control frame if there is room; return whether there was."""
        frame = self.wire.encode_control(message, self.services.wall_clock())
        has_room = self.outgoing.offer(frame)
        self.metrics.control_sent[message.TYPE] += has_room
        return has_room

    def send_hello(self, hello: ConnectionEstablished) -> None:
        """Send the first frame; a new connection has room for it."""
        self.metrics.control_sent[hello.TYPE] += 1
        self.outgoing.offer(self.encoder.encode_hello(hello, self.services.wall_clock()))

    async def send_error(self, problem: Problem, correlation_id: str | None = None) -> None:
        """Send an error; waits for room if the peer does not read. Cancelling is safe."""
        self.metrics.note_error(problem.code)
        now = self.services.wall_clock()
        await self.outgoing.put(self.wire.encode_problem(problem, now, correlation_id))

    def open_rooms(self) -> RoomFeed:
        """Return the feed of its rooms."""
        session, send_shared = self.session, self.transport.send_shared
        send_now = None if send_shared is None else partial(self._send_now, send_shared)
        return self.outgoing.open_rooms(
            self.services.rooms, session.user.id, session.id, send_now, self._permissions
        )

    def _permissions(self) -> frozenset[str]:
        return self.identity.permissions

    def _send_now(self, send_shared: SendShared, frame: SharedPayload) -> bool:
        """Send a frame without the writer, if no frame is waiting; return whether it was sent."""
        sent = send_shared(frame)
        if sent is Sent.NOTHING:
            return False
        self.frames_out += 1
        if sent is Sent.PART:
            self.outgoing.flush()
        return True

    def _token_life(self) -> TokenLife:
        return TokenLife(expires_at=self.identity.expires_at, now=self.services.wall_clock())
