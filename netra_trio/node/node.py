"""The node: the live sessions and connections of one process.

    async with open_node(settings, agents=agents, store=store, verifier=verifier) as node:
        with node.capacity.connection_slot():
            await node.serve(transport, identity, JSON_ACKNOWLEDGING)

Each context manager removes what it registered.
"""

import random as random_module
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager, nullcontext
from typing import Any

import structlog
import trio
from attrs import evolve, field, frozen

from netra_trio.agents.options import listed
from netra_trio.agents.run import Agent
from netra_trio.auth.identity import Identity
from netra_trio.auth.tokens import TokenVerifier
from netra_trio.broker.base import Backend, SessionRecord
from netra_trio.cluster.cluster import Cluster
from netra_trio.cluster.link import Link
from netra_trio.cluster.moves import Missing
from netra_trio.cluster.presence import share_presence
from netra_trio.cluster.relay import relay
from netra_trio.cluster.request import ElsewhereRequest
from netra_trio.config.capabilities import connection_limits, features
from netra_trio.config.settings import Settings
from netra_trio.connections.connection import Connection
from netra_trio.connections.outgoing import Outgoing
from netra_trio.connections.serve import serve_connection
from netra_trio.files.base import FileStorage
from netra_trio.files.choice import storage_of
from netra_trio.ids import ConnectionId, NodeId, SessionId, new_connection_id, new_error_id
from netra_trio.node.admin import open_admin
from netra_trio.node.budgets import serve_budgets
from netra_trio.node.capacity import Capacity, ConnectionLimit, LocalConnectionLimit, Place
from netra_trio.node.drain import drain
from netra_trio.node.gauges import read_gauges
from netra_trio.node.host import SessionHost
from netra_trio.node.registry import NEVER_OPENED, ResumeRequest, Sessions, check_kind, resume
from netra_trio.node.shared_limits import NodeParts
from netra_trio.node.sharing import share
from netra_trio.node.thread_watch import watch_threads
from netra_trio.node.unattended import serve_unattended
from netra_trio.node.user_threads import NodeThreads, starting_in
from netra_trio.node.user_watch import UserWatch
from netra_trio.protocol.codes import EndReason, ErrorCode
from netra_trio.protocol.messages import (
    ConnectionEstablished,
    ResetReason,
    ResumeState,
    RunStatus,
    Verdict,
)
from netra_trio.protocol.problem import problem
from netra_trio.protocol.rooms import user_room
from netra_trio.protocol.wire_format import WireFormat
from netra_trio.rooms.permission import PermissionCheck
from netra_trio.services import Services
from netra_trio.sessions.session import Session
from netra_trio.sessions.users import User, Users
from netra_trio.stores.base import Store
from netra_trio.stores.timeout import TimeoutStore
from netra_trio.telemetry.events import LOST, ConnectionOpened, ConnectionResumed
from netra_trio.telemetry.instruments import Instruments
from netra_trio.telemetry.metrics import Gauges, Metrics
from netra_trio.transports.base import Transport

CLOSE_SECONDS = 2.0  # for the sessions to end when the node is closed
USERS_LISTED = 100  # in the statistics: enough to find users with too many connections

_log = structlog.get_logger(__name__)


@frozen
class _Arrival:
    """A connection whose upgrade passed all checks.

    Attributes:
        since: When its upgrade request came, on Trio's clock.
        traceparent: The trace of its upgrade request.
    """

    transport: Transport
    identity: Identity
    wire: WireFormat
    since: float | None
    traceparent: str | None
    connection_id: ConnectionId = field(factory=new_connection_id)


class Node:
    """The sessions and connections of this process; made by `open_node`.

    Attributes:
        services: The services that it shares with the endpoints.
        sessions: The live sessions.
        capacity: Decides whether a new connection is accepted.
        connection_limit: Counts the connections of each user.
        cluster: Its part in a cluster; None without other nodes.
        watch: The threads that are watched.
        admin: Its part of the live page.
        start_soon: Starts a task that ends with the node; none after its end.
        listed_agents: The agents as clients are told of them.
    """

    def __init__(
        self,
        services: Services,
        *,
        agents: Mapping[str, Agent],
        users: Users,
        threads: NodeThreads,
        nursery: trio.Nursery,
        start_soon: Callable[..., None],
        backend: Backend | None = None,
    ) -> None:
        settings = services.settings
        self.services = services
        self.sessions = Sessions(settings, services.instruments)
        self.capacity = Capacity(settings)
        services.instruments.metrics.read_gauges = self._gauges
        self._settings = settings
        self._agents = agents
        self.listed_agents = listed(agents)
        self._nursery = nursery
        self.start_soon = start_soon
        self._users = users
        self._threads = threads
        self._connections: dict[ConnectionId, Connection] = {}
        self._newest: dict[SessionId, Connection] = {}  # the newest connection of each session
        local_limit = LocalConnectionLimit(self.capacity, self._users, self._newest)
        self.connection_limit: ConnectionLimit = local_limit
        self._drained = trio.Event()
        self.cluster: Cluster | None = None
        if backend is not None:
            self.cluster = cluster = Cluster(
                backend, store=services.store, settings=settings, start_soon=self.start_soon
            )
            cluster.host(SessionHost(self, cluster, agents), self.sessions.seconds_left)
            self.sessions.on_close = cluster.forget
            parts = NodeParts(
                settings=settings,
                capacity=self.capacity,
                users=self._users,
                sessions=self.sessions,
                connections=self._connections,
                newest=self._newest,
                metrics=services.instruments.metrics,
            )
            shared = share(
                cluster, parts, local=local_limit, store=services.store, start_soon=self.start_soon
            )
            self.connection_limit = self.sessions.watch = shared.limits
            self.services = shared.services(services, backend)
        self.start_soon(UserWatch(users, services.store).run)
        self.services = serve_budgets(self.services, users, self.cluster, self.start_soon)
        self.services = serve_unattended(self.services, users, self.sessions.watch, self.start_soon)
        self.watch = watch = watch_threads(
            self.services, self._users, self.cluster, self.start_soon
        )
        self.services = evolve(self.services, watch=watch)
        self.services.rooms.observers.append(watch)
        share_presence(self.services.presence, self.cluster)
        threads.connect(self.services, self.cluster, watch)
        self.admin = open_admin(self, users, self._connections, self._newest)

    async def serve(
        self,
        transport: Transport,
        identity: Identity,
        wire: WireFormat,
        *,
        wanted: ResumeRequest | None = None,
        since: float | None = None,
        traceparent: str | None = None,
    ) -> EndReason | None:
        """Serve a connection whose upgrade passed all checks until it ends; return the reason.

        The reason is None if another node has the session, and this one relays the connection.

        Cancelling aborts the connection, without a close frame.

        Args:
            transport: The WebSocket.
            identity: The identity of its token.
            wire: Its wire format.
            wanted: The session to resume; None for a new session.
            since: When its upgrade request came, on Trio's clock.
            traceparent: The trace of its upgrade request.

        Raises:
            Refused: SERVER_DRAINING, CONNECTION_LIMIT_EXCEEDED, BAD_REQUEST or
                SERVICE_UNAVAILABLE, before the upgrade is answered.
        """
        while True:
            self.capacity.check_open()
            found, missing = self.sessions.find(wanted, identity), ResetReason.UNKNOWN
            if wanted is not None and self.cluster is not None:
                request = ElsewhereRequest(
                    wanted.session_id, wanted.last_seq, identity, wire, traceparent
                )
                located = await self._locate(self.cluster, found, request)
                if isinstance(located, Link):
                    await self._relay(transport, located, wanted.session_id, identity)
                    return None
                self.capacity.check_open()
                if isinstance(located, Missing):
                    found, missing = None, ResetReason(located.value)
                else:
                    found = located
            if found is not None and identity.is_anonymous:
                identity = evolve(identity, user_id=found.user.id)
            arrival = _Arrival(transport, identity, wire, since, traceparent)
            resumed = None
            # A number that was never sent is a reset: the new connection replaces none.
            if found is not None and wanted is not None:
                resumed = found.id if wanted.last_seq <= found.events.last_sent else None
            limit, connection_id = self.connection_limit, arrival.connection_id
            with await limit.admit(identity.user_id, connection_id, resumed) as place:
                self.capacity.check_open()
                if found is None or self.sessions.find(wanted, identity) is found:
                    return await self._serve_here(arrival, place, found, wanted, missing)
            # The session has ended or moved while other nodes were asked for the limit.

    async def _locate(
        self, cluster: Cluster, found: Session | None, request: ElsewhereRequest
    ) -> Session | Link | Missing:
        """Find the session of a resume on all nodes.

        Args:
            cluster: The other nodes.
            found: The session of that id at this node.
            request: The resume.

        Raises:
            Refused: SERVER_DRAINING, BAD_REQUEST or SERVICE_UNAVAILABLE.
        """
        if found is not None:
            is_owned = await cluster.is_owned(found)
            self.capacity.check_open()
            if is_owned:
                return found
        return await cluster.moves.locate(request)

    async def _serve_here(
        self,
        arrival: _Arrival,
        place: Place,
        found: Session | None,
        wanted: ResumeRequest | None,
        missing: ResetReason,
    ) -> EndReason:
        """Serve a connection of a session of this node, or of a new one."""
        identity, wire = arrival.identity, arrival.wire
        if found is not None:
            check_kind(wire, acknowledging=found.events.acknowledging)
        session, state = resume(found, wanted, missing)
        if session is None:
            user = self._users.get(identity.user_id, trio.current_time())
            session = self._new_session(user, identity, acknowledging=wire.acknowledges)
            self.sessions.add(session)
            if self.cluster is not None:
                self.cluster.replicate(session)
        elif (replaced := self._newest.get(session.id)) is not None:
            replaced.end(EndReason.TAKEN_OVER)
        place.evict()
        return await self._attach(session, state, arrival, place)

    async def _attach(
        self, session: Session, state: ResumeState, arrival: _Arrival, place: Place | None
    ) -> EndReason:
        """Attach a connection to its session and serve it.

        Args:
            session: The session.
            state: What the client is told of its resume.
            arrival: The connection.
            place: Its place; None if another node counts it.
        """
        identity = arrival.identity
        session.permissions, session.traceparent = identity.permissions, arrival.traceparent
        with session.attach() as feed:
            connection = Connection(
                id=arrival.connection_id,
                session=session,
                transport=arrival.transport,
                identity=identity,
                services=self.services,
                wire=arrival.wire,
                outgoing=Outgoing(feed),
            )
            if place is not None:
                place.hold(connection)
            session.client = connection
            connection.send_hello(self._hello(connection, state))
            return await self._serve(connection, state, arrival.since)

    async def _serve(
        self, connection: Connection, state: ResumeState, since: float | None
    ) -> EndReason:
        """Serve a connection that is attached to its session."""
        session = connection.session
        session.user.connections.append(connection)
        self._connections[connection.id] = self._newest[session.id] = connection
        self._threads.attached(connection)
        opened = self._on_connect(session, state, since)
        try:
            return await serve_connection(connection, opened)
        finally:
            del self._connections[connection.id]
            session.user.connections.remove(connection)
            self._threads.detached(connection)
            if self._newest.get(session.id) is connection:
                del self._newest[session.id]
                if connection.frames_out or state.verdict in {Verdict.EXACT, Verdict.GAP}:
                    self._on_disconnect(session, connection.reason)
                else:  # the client has not received the session id, so it cannot resume
                    self.sessions.close(session, NEVER_OPENED)

    def _on_connect(
        self, session: Session, state: ResumeState, since: float | None
    ) -> ConnectionOpened | ConnectionResumed:
        """Register that a session has a connection; return the telemetry event of it."""
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

    def _on_disconnect(self, session: Session, reason: EndReason | None) -> None:
        """Keep a session for its next connection, or end it if no connection may follow."""
        if reason is EndReason.USER_DISABLED:
            self.sessions.close(session, "user_disabled")
        elif self.capacity.is_draining:
            self.sessions.close(session, "drained", RunStatus.INTERRUPTED)
        else:
            session.is_lost = reason in LOST
            self.sessions.detach(session)

    def _new_session(
        self,
        user: User,
        identity: Identity,
        *,
        acknowledging: bool,
        record: SessionRecord | None = None,
    ) -> Session:
        return Session(
            user=user,
            permissions=identity.permissions,
            agents=self._agents,
            services=self.services,
            acknowledging=acknowledging,
            is_anonymous=identity.is_anonymous if record is None else record.is_anonymous,
            wake=self._wake,
            session_id=None if record is None else record.session_id,
            default_thread=None if record is None else record.thread_id,
        )

    # For the cluster.

    def new_session(self, identity: Identity, record: SessionRecord) -> Session:
        """Return an empty session with the ids of a record; it is not registered."""
        user = self._users.get(identity.user_id, trio.current_time())
        return self._new_session(user, identity, acknowledging=record.acknowledging, record=record)

    def newest_connection(self, session_id: SessionId) -> Connection | None:
        """Return the newest connection of a session."""
        return self._newest.get(session_id)

    async def serve_relayed(
        self, session: Session, transport: Transport, request: ElsewhereRequest
    ) -> None:
        """Serve a connection of a session whose socket is at another node.

        The other node has checked the request, and counts the connection.
        """
        replaced = self._newest.get(session.id)
        state = session.events.resume(request.last_seq)
        if replaced is not None:
            replaced.end(EndReason.TAKEN_OVER)
        identity = request.identity
        if identity.is_anonymous:
            identity = evolve(identity, user_id=session.user.id)
        now = trio.current_time()
        arrival = _Arrival(transport, identity, request.wire, now, request.traceparent)
        await self._attach(session, state, arrival, None)

    async def _relay(
        self, transport: Transport, link: Link, session_id: SessionId, identity: Identity
    ) -> None:
        """Relay a connection, and count it here: its upgrade may still be refused."""
        assert self.cluster is not None  # noqa: S101 - for mypy: a link is of the cluster
        limit, connection_id = self.connection_limit, new_connection_id()
        try:
            with await limit.admit(identity.user_id, connection_id, session_id) as place:
                place.evict()
                place.relay(session_id, link.peer)
                await relay(transport, link)
        finally:
            self.cluster.links.close(link)

    def _hello(self, connection: Connection, resume: ResumeState) -> ConnectionEstablished:
        """Return the first frame of a connection."""
        return ConnectionEstablished(
            connection_id=connection.id,
            session_id=connection.session.id,
            user_id=connection.session.user.id,
            server_time=self.services.wall_clock(),
            heartbeat_interval=self._settings.heartbeat_interval_ms,
            features=features(self._settings),
            limits=connection_limits(self._settings),
            resume=resume,
            user_room=user_room(connection.session.user.id),
            agents=self.listed_agents,
        )

    def _wake(self, session: Session) -> None:
        """Start the agent task of a session that has something to do."""
        self.sessions.note_busy(session)
        self._nursery.start_soon(self._run_session, session)

    async def _run_session(self, session: Session) -> None:
        """Run the tasks of a session; an exception ends only this session and its connection."""
        try:
            await session.serve()
        except* Exception as faults:
            error_id = new_error_id()
            _log.error("session_failed", error_id=error_id, exc_info=faults)
            connection = self._newest.get(session.id)
            if connection is not None:
                fault = problem(ErrorCode.INTERNAL_ERROR, "The server failed.", error_id=error_id)
                connection.end(EndReason.INTERNAL, fault)
        finally:
            if session.is_closing:  # by an exception or a cancellation
                self.sessions.close(session, "ended", RunStatus.INTERRUPTED)
                self.sessions.note_served(session)

    async def drain(
        self,
        reason: str = "restart",
        *,
        has_peers: bool | None = None,
        beside: Collection[NodeId] = (),
        is_last: bool = False,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        """Refuse new connections, wait for runs to end, and close all connections with 1012.

        Takes at most the drain timeout, and less if all runs and connections end earlier. A second
        call waits for the first. On several nodes, sessions are released to the other ones.

        Args:
            reason: The `reason` of `server_draining`.
            has_peers: Whether other nodes accept the clients meanwhile; by default, whether the
                cluster has other nodes than those of `beside`.
            beside: Nodes that drain at the same time.
            is_last: Whether the broker ends with these nodes: then no session is released.
            random: Returns a number from 0 to 1, for the times at which clients leave for them.
        """
        if has_peers is None:
            membership = None if self.cluster is None else self.cluster.membership
            has_peers = membership is not None and membership.has_peers_beside(beside)
        if self.capacity.is_draining:
            await self._drained.wait()
            return
        self.capacity.is_draining = True
        timeout = self._settings.drain_timeout_ms / 1000
        _log.info("draining", connections=len(self._connections), seconds=timeout)
        if self.cluster is not None:
            self.cluster.membership.start_draining()
        try:
            await drain(
                self.sessions,
                self._newest,
                seconds=timeout,
                reason=reason,
                has_peers=has_peers,
                random=random,
                give=None if self.cluster is None or is_last else self.cluster.give_to_any,
            )
        finally:
            _log.info("drained", aborted=len(self._connections))
            self.close()

    def close(self) -> None:
        """Refuse new connections, and end all connections and sessions at once."""
        self.capacity.is_draining = True
        for connection in list(self._connections.values()):
            connection.abort()
        for session in [*self.sessions, *self.sessions.left]:
            self.sessions.close(session, "closed", RunStatus.INTERRUPTED)
        self._drained.set()

    def statistics(self) -> dict[str, int]:
        """Return the numbers of slots, connections, sessions, detached sessions and users."""
        return {
            "slots": self.capacity.slots_used,
            "connections": len(self._connections),
            **self.sessions.statistics(),
            "users": len(self._users),
        }

    def largest_users(self) -> tuple[dict[str, Any], ...]:
        """Return the users with the most connections, each with its numbers."""
        return self._users.largest(USERS_LISTED)

    def _gauges(self) -> Gauges:
        """Return the current gauges, for the metrics."""
        return read_gauges(
            self.sessions, self._users, len(self._connections), self.services.rooms, self.cluster
        )


@asynccontextmanager
async def open_node(
    settings: Settings,
    *,
    agents: Mapping[str, Agent],
    store: Store,
    verifier: TokenVerifier,
    wall_clock: Callable[[], float] = time.time,
    instruments: Instruments | None = None,
    backend: Backend | None = None,
    may: PermissionCheck | None = None,
    storage: FileStorage | None = None,
) -> AsyncIterator[Node]:
    """Open the store and the nursery of all sessions.

    With a backend, the node shares its sessions with the other nodes on it. Without a storage,
    files are kept where the settings say.

    At the end of the block, sessions have 2 seconds to end; then their tasks are cancelled.

    Raises:
        DatabaseUnusable: If the store can never work.
    """
    store, storage = TimeoutStore(store), storage or storage_of(settings.files_url)
    # The store and the tasks that expire sessions are opened first, and closed after the sessions.
    opened = nullcontext() if backend is None else backend.open()
    async with opened, store.open(), storage.open(), trio.open_nursery() as service_nursery:
        async with trio.open_nursery() as nursery:
            users = Users(rate=settings.max_message_rate, waiting=settings.burst_queue)
            start_soon = starting_in(service_nursery)
            threads = NodeThreads(users, store, start_soon)
            services = Services(
                settings=settings,
                store=store,
                verifier=verifier,
                instruments=instruments or Instruments(Metrics(tuple(agents))),
                wall_clock=wall_clock,
                threads=threads,
                storage=storage,
                may=may,
            )
            node = Node(
                services,
                agents=agents,
                users=users,
                threads=threads,
                nursery=nursery,
                start_soon=start_soon,
                backend=backend,
            )
            own, given = node.sessions, node.services
            given_tasks = (given.rooms.run, given.presence.run, given.files.run)
            for task in (own.expire, own.reap, *given_tasks, node.watch.run):
                node.start_soon(task)
            if node.cluster is not None:
                node.start_soon(node.cluster.run)
            try:
                yield node
            finally:
                node.close()
                nursery.cancel_scope.deadline = trio.current_time() + CLOSE_SECONDS
        await node.watch.stop()
        await node.admin.view.stop()
        if node.cluster is not None:
            await node.cluster.stop()
        service_nursery.cancel_scope.cancel()
