"""The hub: every live session and connection; who is let in, who has to go, and the drain.

    async with open_node(settings, agents=agents, store=store, verifier=verifier) as hub:
        with hub.seat():
            await hub.serve(transport, identity, acknowledging=True)

Leaving a context manager is the clean-up: nothing is unregistered by hand.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import structlog
import trio
from attrs import evolve

from netra_trio.agents.run import Agent
from netra_trio.auth.identity import Identity
from netra_trio.auth.tokens import TokenVerifier
from netra_trio.config.capabilities import connection_limits, features
from netra_trio.config.settings import Settings
from netra_trio.connections.connection import Connection
from netra_trio.connections.serve import serve_connection
from netra_trio.ids import ConnectionId, SessionId, new_error_id
from netra_trio.node.registry import ResumeRequest, Sessions, resume
from netra_trio.node.services import Services
from netra_trio.protocol.codec import encode
from netra_trio.protocol.codes import EndReason, ErrorCode
from netra_trio.protocol.messages import (
    ConnectionEstablished,
    ResumeState,
    RunStatus,
    ServerDraining,
    Verdict,
)
from netra_trio.protocol.problem import Problem, Refused, problem
from netra_trio.sessions.admission import RECONNECT_AFTER_MS
from netra_trio.sessions.session import Session
from netra_trio.sessions.users import ClosableConnection, User, Users
from netra_trio.stores.base import Store
from netra_trio.stores.timeout import TimeoutStore
from netra_trio.telemetry.events import LOST, ConnectionOpened, ConnectionResumed
from netra_trio.telemetry.instruments import Instruments
from netra_trio.telemetry.metrics import Gauges, Metrics
from netra_trio.transports.base import Transport

FULL_RETRY_MS = 5000  # of a client that found no seat: a place frees when somebody leaves
CLOSING_SHARE = 0.25  # of the drain's time is kept for cancelling, flushing and closing
CLOSING_SECONDS = 2.0  # of it at most
LEFT_OVER_SECONDS = 2.0  # for what is still there when the hub is left
USERS_LISTED = 100  # in the statistics: more nobody reads, and a server may have 10 000

_log = structlog.get_logger(__name__)


class Node:
    """All that is live in this process; made by `open_node`.

    Attributes:
        services: What it shares with the endpoints and with its connections.
        sessions: The sessions that are live.
    """

    def __init__(
        self,
        services: Services,
        *,
        agents: Mapping[str, Agent],
        nursery: trio.Nursery,
        service_nursery: trio.Nursery,
    ) -> None:
        settings = services.settings
        self.services = services
        self.sessions = Sessions(settings, services.instruments)
        services.instruments.metrics.read_gauges = self._gauges
        self._settings = settings
        self._agents = agents
        self._nursery = nursery
        self._service_nursery = service_nursery
        self._users = Users(rate=settings.max_message_rate, waiting=settings.burst_queue)
        self._connections: dict[ConnectionId, Connection] = {}
        self._lines: dict[SessionId, Connection] = {}  # the newest connection of each session
        self._slots_used = 0
        self._draining = False
        self._drained = trio.Event()

    @property
    def is_draining(self) -> bool:
        """Whether the server is about to go."""
        return self._draining

    def check_open(self) -> None:
        """Refuse whatever comes while the server drains.

        Raises:
            Refused: SERVER_DRAINING.
        """
        if self._draining:
            text = "The server is about to restart."
            raise Refused(
                problem(ErrorCode.SERVER_DRAINING, text, retry_after_ms=RECONNECT_AFTER_MS)
            )

    def check_room(self) -> None:
        """Refuse whoever comes while the server drains, or is full.

        Raises:
            Refused: SERVER_DRAINING or SERVER_FULL.
        """
        self.check_open()
        if self._slots_used >= self._settings.max_connections:
            text = f"All {self._settings.max_connections} places are taken."
            raise Refused(problem(ErrorCode.SERVER_FULL, text, retry_after_ms=FULL_RETRY_MS))

    @contextmanager
    def connection_slot(self) -> Iterator[None]:
        """Hold one of the server's places, from the first look at an opening to its end.

        Raises:
            Refused: SERVER_DRAINING or SERVER_FULL.
        """
        self.check_room()
        self._slots_used += 1
        try:
            yield
        finally:
            self._slots_used -= 1

    async def serve(
        self,
        transport: Transport,
        identity: Identity,
        *,
        acknowledging: bool,
        wanted: ResumeRequest | None = None,
        since: float | None = None,
        traceparent: str | None = None,
    ) -> EndReason:
        """Serve a connection that may come in, from its upgrade to its end; say why it ended.

        Cancelling aborts it.

        Args:
            transport: The line.
            identity: Who it is.
            acknowledging: Whether the client acknowledges events.
            wanted: The session to go on with, None for a new one.
            since: When its opening began, on Trio's clock.
            traceparent: The trace that its opening belongs to.

        Raises:
            Refused: SERVER_DRAINING, CONNECTION_LIMIT_EXCEEDED or BAD_REQUEST, before the upgrade
                is answered.
        """
        self.check_open()
        found = self.sessions.find(wanted, identity)
        if found is not None and identity.is_anonymous:
            identity = evolve(identity, user_id=found.user.id)
        user = self._users.get(identity.user_id, trio.current_time())
        replaced = None
        # A number that was never written makes it a reset, which is one connection more.
        if found is not None and wanted is not None and found.event_stream.knows(wanted.last_seq):
            replaced = self._lines.get(found.id)
        crowded_out = self._check_limit(user, replaced)
        if found is not None and found.event_stream.acknowledging is not acknowledging:
            kind = "offer netra.v1" if found.event_stream.acknowledging else "offer no subprotocol"
            text = f"The session was opened in the other way; {kind} to go on with it."
            raise Refused(problem(ErrorCode.BAD_REQUEST, text))
        session, state = resume(found, wanted)
        if session is None:
            session = self._new_session(user, identity, acknowledging=acknowledging)
        elif replaced is not None:
            replaced.end(EndReason.TAKEN_OVER)
        if crowded_out is not None:
            fault = self._limit_problem(recoverable=False)
            crowded_out.end(EndReason.EVICTED, fault)
        session.traceparent = traceparent
        return await self._serve(session, transport, identity, state, since)

    async def _serve(
        self,
        session: Session,
        transport: Transport,
        identity: Identity,
        state: ResumeState,
        since: float | None,
    ) -> EndReason:
        """Attach a connection to its session and serve it."""
        connection = Connection(
            session=session,
            transport=transport,
            identity=identity,
            settings=self._settings,
            store=self.services.store,
            verifier=self.services.verifier,
            wall_clock=self.services.wall_clock,
            metrics=self.services.instruments.metrics,
        )
        session.permissions = identity.permissions
        connection.outbox.offer(self._welcome(connection, state))
        self.services.instruments.metrics.control_sent[ConnectionEstablished.TYPE] += 1
        session.event_stream.attach(connection.outbox)
        session.user.connections.append(connection)
        self._connections[connection.id] = self._lines[session.id] = connection
        opened = self._opened(session, state, since)
        try:
            return await serve_connection(connection, opened, self.services.instruments.note)
        finally:
            del self._connections[connection.id]
            session.user.connections.remove(connection)
            if session.event_stream.detach(connection.outbox):
                del self._lines[session.id]
                if connection.frames_out or state.verdict in {Verdict.EXACT, Verdict.GAP}:
                    self._lost(session, connection.reason)
                else:  # nobody was told its id
                    self.sessions.close(session, "never_opened")

    def _opened(
        self, session: Session, state: ResumeState, since: float | None
    ) -> ConnectionOpened | ConnectionResumed:
        """Note that a session has a connection, and return how that came."""
        away, was_lost, session.is_lost = self.sessions.attach(session), session.is_lost, False
        seconds = None if since is None else trio.current_time() - since
        if state.verdict in {Verdict.NEW, Verdict.RESET}:
            return ConnectionOpened(state.verdict, state.reason, session.id, seconds)
        return ConnectionResumed(
            state.verdict,
            None if away is None else round(away, 3),
            state.replayed,
            was_lost,
            session.id,
            seconds,
        )

    def _lost(self, session: Session, reason: EndReason | None) -> None:
        """Let a session wait for its next connection, unless its user may not come back."""
        if reason is EndReason.USER_DISABLED:
            self.sessions.close(session, "user_disabled")
        elif self._draining:
            self.sessions.close(session, "drained", RunStatus.INTERRUPTED)
        else:
            session.is_lost = reason in LOST
            self.sessions.detach(session)

    def _new_session(self, user: User, identity: Identity, *, acknowledging: bool) -> Session:
        session = Session(
            user=user,
            permissions=identity.permissions,
            agents=self._agents,
            store=self.services.store,
            settings=self._settings,
            acknowledging=acknowledging,
            wall_clock=self.services.wall_clock,
            instruments=self.services.instruments,
            is_anonymous=identity.is_anonymous,
            wake=self._wake,
        )
        self.sessions.add(session)
        return session

    def _wake(self, session: Session) -> None:
        """Let a session have a task while it has something to do."""
        self.sessions.note_busy(session)
        self._nursery.start_soon(self._host, session)

    async def drain(self, reason: str = "restart") -> None:
        """Let nobody in, let runs finish, and close every connection with 1012.

        Takes at most the drain timeout, whatever the peers and the agents do; ends early when
        everything is done. A second call waits for the first.
        """
        if self._draining:
            await self._drained.wait()
            return
        self._draining = True
        timeout = self._settings.drain_timeout_ms / 1000
        deadline = trio.current_time() + timeout
        closing = min(CLOSING_SECONDS, timeout * CLOSING_SHARE)
        grace, patience = deadline - closing, deadline - closing / 2
        _log.info("draining", connections=len(self._connections), seconds=timeout)
        try:
            with trio.move_on_at(deadline):
                async with trio.open_nursery() as nursery:
                    for session in self.sessions:
                        drain = partial(self._drain_session, grace=grace, patience=patience)
                        nursery.start_soon(drain, session, reason)
        finally:
            _log.info("drained", aborted=len(self._connections))
            self.close()

    def start_soon(self, function: Callable[..., Awaitable[object]], *args: object) -> None:
        """Start a task that is cancelled when the hub is left and its last session is gone."""
        self._service_nursery.start_soon(function, *args)

    def close(self) -> None:
        """Let nobody in and end all there is, at once; the tasks of it end by themselves."""
        self._draining = True
        for connection in list(self._connections.values()):
            connection.abort()
        for session in self.sessions:
            self.sessions.close(session, "closed", RunStatus.INTERRUPTED)
        self._drained.set()

    def statistics(self) -> dict[str, int]:
        """Return how many seats, connections, sessions, detached ones and users there are."""
        return {
            "seats": self._slots_used,
            "connections": len(self._connections),
            **self.sessions.statistics(),
            "users": len(self._users),
        }

    def largest_users(self) -> tuple[dict[str, Any], ...]:
        """Return the users with the most connections, and what each has."""
        return self._users.largest(USERS_LISTED)

    def _gauges(self) -> Gauges:
        """Return what there is right now, for the figures."""
        sessions = list(self.sessions)
        depths = []
        active = waiting = 0
        for session in sessions:
            event_stream = session.event_stream
            event_stream.delivery.settle()
            depths.append(event_stream.log.depth)
            if not session.is_idle:
                schedule = session.statistics()
                active += schedule["active"]
                waiting += schedule["waiting"]
        detached = self.sessions.statistics()["detached"]
        return Gauges(
            connections=len(self._connections),
            users=self._users.by_connections(),
            sessions={"attached": len(sessions) - detached, "detached": detached},
            runs={"active": active, "waiting": waiting},
            log_events=sum(depths),
            log_events_max=max(depths, default=0),
            tasks=trio.lowlevel.current_statistics().tasks_living,
        )

    def _check_limit(self, user: User, replaced: Connection | None) -> ClosableConnection | None:
        """Return the connection of a user that has to go for one more, if one has to.

        Raises:
            Refused: CONNECTION_LIMIT_EXCEEDED, where it is the new one.
        """
        # One that is on its way out counts no more: whoever reconnects would evict a healthy one.
        staying = [
            connection
            for connection in user.connections
            if connection.reason is None and connection is not replaced
        ]
        if len(staying) < self._settings.max_connections_per_user:
            return None
        if self._settings.connection_limit_policy == "reject":
            raise Refused(self._limit_problem(retry_after_ms=FULL_RETRY_MS))
        return staying[0]

    def _limit_problem(self, **more: Any) -> Problem:
        limit = self._settings.max_connections_per_user
        text = f"A user may have {limit} connections at once."
        return problem(ErrorCode.CONNECTION_LIMIT_EXCEEDED, text, **more)

    def _welcome(self, connection: Connection, resume: ResumeState) -> bytes:
        now = self.services.wall_clock()
        established = ConnectionEstablished(
            connection_id=connection.id,
            session_id=connection.session.id,
            user_id=connection.session.user.id,
            server_time=now,
            heartbeat_interval=self._settings.heartbeat_interval_ms,
            features=features(self._settings),
            limits=connection_limits(self._settings),
            resume=resume,
        )
        return encode(established, now)

    async def _host(self, session: Session) -> None:
        """Keep a session running; its fault ends it and its connection, and nothing else."""
        try:
            await session.serve()
        except* Exception as faults:
            error_id = new_error_id()
            _log.error("session_failed", error_id=error_id, exc_info=faults)
            line = self._lines.get(session.id)
            if line is not None:
                fault = problem(ErrorCode.INTERNAL_ERROR, "The server failed.", error_id=error_id)
                line.end(EndReason.INTERNAL, fault)
        finally:
            if session.is_closing:  # by itself, where it was not closed from here
                self.sessions.close(session, "ended", RunStatus.INTERRUPTED)

    async def _drain_session(
        self, session: Session, reason: str, *, grace: float, patience: float
    ) -> None:
        """Let runs go on until `grace` and end until `patience`, both on Trio's clock; close."""
        session.drain()
        line = self._lines.get(session.id)
        with trio.move_on_at(grace):
            if line is not None:
                await line.reply(ServerDraining(reason, RECONNECT_AFTER_MS))
            await session.wait_idle()
        session.interrupt()
        with trio.move_on_at(patience):
            await session.wait_idle()
        await session.abandon()
        if line is not None:
            line.end(EndReason.DRAINED)
            await line.ended.wait()
        self.sessions.close(session, "drained", RunStatus.INTERRUPTED)


@asynccontextmanager
async def open_node(
    settings: Settings,
    *,
    agents: Mapping[str, Agent],
    store: Store,
    verifier: TokenVerifier,
    wall_clock: Callable[[], float] = time.time,
    instruments: Instruments | None = None,
) -> AsyncIterator[Node]:
    """Open the store and the nursery of all sessions; what is left is ended within 2 seconds.

    Raises:
        DatabaseUnusable: If the store can never work.
    """
    store = TimeoutStore(store)
    # The store is there before the first session, and takes what the last one leaves. What looks
    # after sessions does so until the last one is gone, and no longer.
    async with store.open(), trio.open_nursery() as service_nursery:
        async with trio.open_nursery() as nursery:
            services = Services(
                settings=settings,
                store=store,
                verifier=verifier,
                instruments=instruments or Instruments(Metrics(tuple(agents))),
                wall_clock=wall_clock,
            )
            node = Node(services, agents=agents, nursery=nursery, service_nursery=service_nursery)
            node.start_soon(node.sessions.expire)
            node.start_soon(node.sessions.reap)
            try:
                yield node
            finally:
                node.close()
                nursery.cancel_scope.deadline = trio.current_time() + LEFT_OVER_SECONDS
        service_nursery.cancel_scope.cancel()
