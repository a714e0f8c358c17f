"""The `Host` of `cluster.moves`: the part of a node with which the cluster moves sessions."""

from collections.abc import Mapping
from typing import Protocol

import attrs
import trio

from netra_trio.agents.run import Agent, RunSpec
from netra_trio.auth.identity import Identity
from netra_trio.broker.base import SessionRecord
from netra_trio.cluster.cluster import Cluster
from netra_trio.cluster.link import Link
from netra_trio.cluster.relay import RelayTransport
from netra_trio.cluster.request import ElsewhereRequest
from netra_trio.connections.connection import Connection
from netra_trio.ids import SessionId, ThreadId
from netra_trio.node.registry import Sessions, check_kind, is_of
from netra_trio.protocol.codes import EndReason
from netra_trio.protocol.fields import JsonObject
from netra_trio.protocol.messages import HistoryMessage
from netra_trio.protocol.threads import ThreadChange
from netra_trio.protocol.wire_format import WireFormat
from netra_trio.services import Services
from netra_trio.sessions.session import Session
from netra_trio.stores.base import NewMessage
from netra_trio.stores.files import StoredFile
from netra_trio.transports.base import Transport


class ClusterNode(Protocol):
    """The part of the node that this module uses."""

    services: Services
    sessions: Sessions

    def new_session(self, identity: Identity, record: SessionRecord) -> Session:
        """Return an empty session with the ids of a record; it is not registered."""
        ...

    def newest_connection(self, session_id: SessionId) -> Connection | None:
        """Return the newest connection of a session."""
        ...

    async def serve_relayed(
        self, session: Session, transport: Transport, request: ElsewhereRequest
    ) -> None:
        """Serve a connection of a session whose socket is at another node."""
        ...


class SessionHost:
    """Implements `cluster.moves.Host` for a node.

    Args:
        node: The node.
        cluster: Copies its sessions.
        agents: The agents by name.
    """

    def __init__(self, node: ClusterNode, cluster: Cluster, agents: Mapping[str, Agent]) -> None:
        self._node = node
        self._sessions = node.sessions
        self._cluster = cluster
        self._agents = agents

    def find(self, session_id: SessionId) -> Session | None:
        """Return a session of this node."""
        return self._sessions.get(session_id)

    def check(self, record: SessionRecord, identity: Identity, wire: WireFormat) -> bool:
        """Return whether a session belongs to a user; raises `Refused` for another wire format."""
        if not is_of(identity, record.user_id, is_anonymous=record.is_anonymous):
            return False
        check_kind(wire, acknowledging=record.acknowledging)
        return True

    def make(self, record: SessionRecord) -> Session:
        """Return a new, empty session with the ids of this one."""
        return self._node.new_session(Identity(record.user_id), record)

    def dump_run(self, spec: RunSpec) -> JsonObject:
        """Return a waiting run as JSON."""
        message = attrs.asdict(spec.message)
        message["fingerprint"] = spec.message.fingerprint.hex()
        return {
            "message": message,
            "permissions": sorted(spec.permissions),
            "input": spec.input,
            "timeout": spec.timeout,
            "history": None if spec.history is None else [*map(attrs.asdict, spec.history)],
            "files": [*map(attrs.asdict, spec.files)],
        }

    def load_run(self, dumped: JsonObject) -> RunSpec | None:
        """Return a waiting run; None if its agent does not exist at this node."""
        fields = {**dumped["message"]}
        fields["fingerprint"] = bytes.fromhex(fields["fingerprint"])
        fields["attachments"] = tuple(fields.get("attachments", ()))  # earlier versions: none
        message = NewMessage(**fields)
        agent = self._agents.get(message.agent_name)
        if agent is None:
            return None
        posted = dumped.get("history")  # of a node of an earlier version: none
        return RunSpec(
            message,
            agent,
            frozenset(dumped["permissions"]),
            dumped["input"],
            dumped["timeout"],
            trio.current_time(),
            None if posted is None else tuple(HistoryMessage(**each) for each in posted),
            tuple(StoredFile(**each) for each in dumped.get("files", ())),
        )

    def adopt(self, session: Session, record: SessionRecord) -> None:
        """Register a session that was restored, and copy it from now on."""
        self._cluster.replicate(session, record)
        self._sessions.adopt(session)

    def note_end(self, session: Session, thread_id: ThreadId) -> None:
        """Send the other sessions of the user the change of a thread by a run of another node."""
        threads = self._node.services.threads
        threads.publish(session.user.id, thread_id, ThreadChange.UPDATED, excluded=session.id)

    def hold(self, session: Session) -> float:
        """Take a session out of the registry; return the seconds that it is kept."""
        session.hold()
        return self._sessions.hold(session)

    def unhold(self, session: Session, seconds: float, *, stays_held: bool) -> None:
        """Put a session back; with `stays_held` it still refuses messages."""
        self._sessions.unhold(session, seconds, is_attached=session.events.is_attached)
        if not stays_held:
            session.unhold()

    def disown(self, session: Session, why: str, *, reason: EndReason | None) -> None:
        """End a session, because another node has it or may have it."""
        if self._sessions.get(session.id) is session:
            self._sessions.hold(session)
        self._cluster.forget(session, has_moved=True)
        connection = self._node.newest_connection(session.id)
        if reason is not None and connection is not None:
            connection.end(reason)
        self._sessions.end_held(session, why)

    async def serve_link(self, session: Session, link: Link, request: ElsewhereRequest) -> None:
        """Serve a connection whose socket is at another node, until it ends."""
        await self._node.serve_relayed(session, RelayTransport(link), request)
