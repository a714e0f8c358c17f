"""The open connections of the events door by session, and the way of a frame to one of any node.

    inboxes = Inboxes(node)
    with inboxes.registered(connection, identity):
        ...
    await inboxes.put(session_id, identity, frame)      # of another request, or another node

A client sends its frames in requests of their own, which may reach another node than its stream.
The directory knows the node of the session; if that node only has the session, and another one has
the stream, it names that one.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import trio
from attrs import frozen

from netra_trio.auth.identity import Identity
from netra_trio.cluster.cluster import Cluster
from netra_trio.cluster.mailbox import Answer
from netra_trio.cluster.relay import RelayTransport
from netra_trio.endpoints.doors.connection import DoorConnection
from netra_trio.errors import BrokerUnavailable, TransportClosed
from netra_trio.ids import NodeId, SessionId, UserId
from netra_trio.node.node import Node
from netra_trio.node.registry import is_of
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.fields import JsonObject
from netra_trio.protocol.problem import Refused, broker_unavailable, problem

TAKE_SECONDS = 2.0  # for which a frame waits for room
REPLY_SECONDS = 1.0  # for the reply of another node, beside that
RETRY_MS = 1000  # after a frame for which there was no room
HOPS = 3  # from node to node, while a session moves

FRAME = "door_frame"  # the kind of the message to another node
TAKEN, BUSY, UNKNOWN, AT = "taken", "busy", "unknown", "at"


class NoOpenConnection(Refused):
    """A session has no open connection at this door, or is another user's."""

    def __init__(self) -> None:
        text = "This session has no open stream and no open poll."
        super().__init__(problem(ErrorCode.BAD_REQUEST, text, status=404, help="Open one first."))


@frozen
class Opened:
    """An open connection, and whose it is."""

    connection: DoorConnection
    user_id: UserId
    is_anonymous: bool


class Inboxes:
    """The open connections of this node.

    Args:
        node: The node.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._opened: dict[SessionId, Opened] = {}
        if node.cluster is not None:
            node.cluster.mailbox.handle(FRAME, self._on_frame)

    @contextmanager
    def registered(self, connection: DoorConnection, identity: Identity) -> Iterator[None]:
        """Register a connection during the block, unless a newer one of its session comes.

        Args:
            connection: The connection.
            identity: Of the request that has opened it.
        """
        user_id = connection.user_id
        opened = Opened(connection, user_id, identity.is_anonymous)
        self._opened[connection.session_id] = opened
        try:
            yield
        finally:
            if self._opened.get(connection.session_id) is opened:
                del self._opened[connection.session_id]

    def find(self, session_id: SessionId, identity: Identity) -> DoorConnection | None:
        """Return the open connection of a session of a user at this node."""
        opened = self._opened.get(session_id)
        if opened is None or not is_of(identity, opened.user_id, is_anonymous=opened.is_anonymous):
            return None
        return opened.connection

    async def put(self, session_id: SessionId, identity: Identity, frame: str) -> None:
        """Give a frame to the connection of a session. Cancelling is safe, at this node.

        Raises:
            NoOpenConnection: If no node has an open connection of the session.
            Refused: SERVICE_UNAVAILABLE, if there is no room in time, or its node does not answer.
        """
        state = await self._put_here(session_id, identity, frame)
        if state == UNKNOWN and self._node.cluster is not None:
            data = frame.encode()
            # A frame beyond the limit is refused by its size alone, and a mail has a limit.
            data = data[: self._node.services.settings.max_message_size + 1]
            seconds = TAKE_SECONDS + REPLY_SECONDS
            answer = await self.ask(session_id, identity, FRAME, {}, data, seconds=seconds)
            state = UNKNOWN if answer is None else answer.header["state"]
        if state == BUSY:
            text = "The server does not take more frames of this session now."
            raise Refused(problem(ErrorCode.SERVICE_UNAVAILABLE, text, retry_after_ms=RETRY_MS))
        if state == UNKNOWN:
            raise NoOpenConnection

    async def _put_here(self, session_id: SessionId, identity: Identity, frame: str) -> str:
        connection = self.find(session_id, identity)
        if connection is None or connection.is_closed:
            return UNKNOWN
        with trio.move_on_after(TAKE_SECONDS):
            try:
                await connection.send_text(frame)
            except TransportClosed:
                return UNKNOWN
            return TAKEN
        return BUSY

    # Other nodes.

    async def ask(
        self,
        session_id: SessionId,
        identity: Identity,
        kind: str,
        header: JsonObject,
        data: bytes = b"",
        *,
        seconds: float,
    ) -> Answer | None:
        """Ask the node with the connection of a session; return its answer, None if there is none.

        Raises:
            Refused: SERVICE_UNAVAILABLE, if the broker or the node does not answer.
        """
        cluster = self._node.cluster
        assert cluster is not None  # noqa: S101 - for mypy: it is asked in a cluster only
        asked = {**header, "session": session_id, "identity": identity.dump()}
        try:
            for node in await self._owners(cluster, session_id, identity):
                place: NodeId | None = node
                for _ in range(HOPS):
                    if place is None or place == cluster.node:
                        break
                    answer = await cluster.mailbox.ask(place, kind, asked, data, seconds=seconds)
                    state = answer.header["state"]
                    if state == AT:
                        place = NodeId(answer.header["node"])
                    elif state == UNKNOWN:
                        break
                    else:
                        return answer
        except BrokerUnavailable:
            text = "The node with the stream of the session does not answer now."
            raise Refused(broker_unavailable(text)) from None
        return None

    async def _owners(
        self, cluster: Cluster, session_id: SessionId, identity: Identity
    ) -> list[NodeId]:
        """Return the nodes that may have a session, or know the node of its connection.

        Raises:
            BrokerUnavailable: If the directory does not answer.
        """
        if self._node.sessions.get(session_id) is not None:
            edge = self._edge(session_id)
            return [] if edge is None else [edge]
        found = await cluster.backend.directory.find(session_id)
        record = found.record
        if record is None:  # it is new, or sessions are not kept without a connection
            return list(cluster.membership.peers)
        if not is_of(identity, record.user_id, is_anonymous=record.is_anonymous):
            return []
        return [record.owner] if record.owner is not None and found.owner_is_live else []

    def _edge(self, session_id: SessionId) -> NodeId | None:
        """Return the node that relays the newest connection of a session of this node."""
        newest = self._node.newest_connection(session_id)
        transport = None if newest is None else newest.transport
        return transport.edge if isinstance(transport, RelayTransport) else None

    async def _on_frame(self, sender: NodeId, header: JsonObject, data: bytes) -> None:
        """Take a frame that has reached another node.

        Raises:
            BrokerUnavailable: If the answer could not be sent.
        """
        session_id, identity = caller_of(header)
        state = await self._put_here(session_id, identity, data.decode(errors="replace"))
        await self.answer(sender, header, session_id, {"state": state})

    async def answer(
        self,
        sender: NodeId,
        asked: JsonObject,
        session_id: SessionId,
        header: JsonObject,
        data: bytes = b"",
    ) -> None:
        """Answer another node; where the session is unknown, with the node that relays it, if any.

        Raises:
            BrokerUnavailable: If the answer could not be sent.
        """
        assert self._node.cluster is not None  # noqa: S101 - for mypy: another node has asked
        edge = self._edge(session_id) if header["state"] == UNKNOWN else None
        if edge is not None:
            header = {"state": AT, "node": edge}
        await self._node.cluster.mailbox.answer(sender, asked, header, data)


def caller_of(header: JsonObject) -> tuple[SessionId, Identity]:
    """Return the session and the caller that another node asks for."""
    return SessionId(header["session"]), Identity.load(header["identity"])
