"""What the tasks of one connection share: who it is, whether it ends, and why.

connection.end(EndReason.EVICTED, problem)    # from anywhere, at once
"""

from collections.abc import Callable

import trio
from attrs import define, field

from netra_trio.auth.identity import Identity, user_refusal
from netra_trio.auth.tokens import TokenVerifier
from netra_trio.config.settings import Settings
from netra_trio.errors import TransportClosed
from netra_trio.ids import ConnectionId, RunId, new_connection_id
from netra_trio.protocol.codec import encode, encode_problem
from netra_trio.protocol.codes import ABNORMAL, EndReason
from netra_trio.protocol.keepalive import Liveness, TokenLife
from netra_trio.protocol.messages import Outbound
from netra_trio.protocol.problem import Problem
from netra_trio.sessions.outbox import Outbox
from netra_trio.sessions.session import Session
from netra_trio.stores.base import Store
from netra_trio.telemetry.metrics import Metrics
from netra_trio.transports.base import Transport

CLOSE_WAIT = 2.0  # seconds for the peer to answer the close frame: a slow round trip, twice over


@define(eq=False)
class Connection:
    """One socket of a session.

    Attributes:
        session: What survives it.
        transport: The line.
        identity: Who it belongs to, as the newest token says.
        figures: Where it is counted.
        outbox: What is to be written.
        reason: Why it ends, once that is known.
        last_words: An error to send right before the close frame.
        is_finishing: Whether the last words and the close frame are on their way.
        changed: Set when it ends; set and replaced when a new token was accepted.
        ping_due: Whether the writer is to send a protocol ping with its next write.
        scope: Holds all its tasks.
        ended: Set when nothing of it is left.
        peer_code: The close code that the peer sent, if it did.
        frames_in: How many frames came in.
        frames_out: How many frames went out.
    """

    session: Session
    transport: Transport
    identity: Identity
    settings: Settings
    store: Store
    verifier: TokenVerifier
    wall_clock: Callable[[], float]
    metrics: Metrics
    id: ConnectionId = field(factory=new_connection_id)
    outbox: Outbox = field(factory=Outbox)
    reason: EndReason | None = None
    peer_code: int | None = None
    final_error: bytes | None = None
    is_finishing: bool = False
    frames_in: int = 0
    frames_out: int = 0
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

    def end(self, reason: EndReason, problem: Problem | None = None) -> None:
        """End the connection, with an error as its last word; the first reason stays."""
        if self.reason is not None:
            return
        self.reason = reason
        self.changed.set()
        if problem is not None:
            self.metrics.note_error(problem.code)
            self.final_error = encode_problem(problem, self.wall_clock())
        self.outbox.close()

    def abort(self) -> None:
        """End the connection now, without a close frame."""
        self.end(EndReason.ABORTED)
        self.scope.cancel()

    def lost(self, gone: TransportClosed) -> None:
        """Note that the line is gone."""
        self.peer_code = gone.code
        if gone.timed_out:
            # The reader may have heard first that the line is cut; this is why it was.
            if self.reason is EndReason.PEER_LOST:
                self.reason = None
            self.end(EndReason.SEND_TIMEOUT)
        elif gone.code is None or gone.code == ABNORMAL:
            self.end(EndReason.PEER_LOST)
        else:
            self.end(EndReason.PEER_CLOSED)

    def renew(self, identity: Identity) -> None:
        """Go on with a new token of the same user."""
        self.identity = identity
        self.session.permissions = identity.permissions
        self.token = self._token_life()
        self.changed.set()
        self.changed = trio.Event()

    async def reply(self, message: Outbound, correlation_id: str | None = None) -> None:
        """Send a control frame; waits only for a peer that does not read its replies."""
        self.metrics.control_sent[message.TYPE] += 1
        await self.outbox.put(encode(message, self.wall_clock(), correlation_id))

    def tell(self, message: Outbound) -> bool:
        """Send a control frame if there is room for it; a peer that does not read misses it."""
        has_room = self.outbox.offer(encode(message, self.wall_clock()))
        self.metrics.control_sent[message.TYPE] += has_room
        return has_room

    async def refuse(self, problem: Problem, correlation_id: str | None = None) -> None:
        """Send an error; waits only for a peer that does not read its replies."""
        self.metrics.note_error(problem.code)
        await self.outbox.put(encode_problem(problem, self.wall_clock(), correlation_id))

    def stop_run(self, run_id: RunId) -> bool:
        """Stop a run of this user, in whatever session; return whether there is one."""
        live = self.session.user.runs.get(run_id)
        if live is None:
            return False
        live.stop()
        return True

    def _token_life(self) -> TokenLife:
        return TokenLife(expires_at=self.identity.expires_at, now=self.wall_clock())


async def check_user(connection: Connection) -> bool:
    """Look whether the user may still be here, and end the connection if not.

    Cancelling is safe.

    Raises:
        StoreUnavailable: If the store cannot answer now; the user stays.
    """
    if connection.identity.is_anonymous:
        return True
    user = await connection.store.get_user(connection.session.user.id)
    refusal = user_refusal(user)
    if refusal is not None:
        connection.end(EndReason.USER_DISABLED, refusal)
    return refusal is None
