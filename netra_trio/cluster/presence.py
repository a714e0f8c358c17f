"""Exchanges the presence of rooms with the other nodes.

share_presence(presence, cluster)       # before both run
"""

from collections.abc import Collection

import orjson
from attrs import frozen

from netra_trio.cluster.cluster import Cluster
from netra_trio.cluster.mailbox import Mailbox
from netra_trio.cluster.membership import Membership
from netra_trio.ids import NodeId
from netra_trio.protocol.fields import JsonObject
from netra_trio.rooms.presence import Presence
from netra_trio.rooms.presence_sharing import Counts

PRESENCE = "presence"  # the kind of the message that requests the counts of a room
ASK_SECONDS = 1.0  # for the answer of a node: a live one needs milliseconds


@frozen
class ClusterPeers:
    """The other nodes, as `presence_sharing.Peers`."""

    _mailbox: Mailbox
    _membership: Membership

    @property
    def node(self) -> NodeId:
        """The id of this node."""
        return self._mailbox.node

    def live(self) -> Collection[NodeId]:
        """Return the other live nodes."""
        return self._membership.peers.keys()

    async def ask(self, node: NodeId, room: str) -> Counts:
        """Return the counts of another node.

        Raises:
            BrokerUnavailable: If it does not answer.
        """
        answer = await self._mailbox.ask(node, PRESENCE, {"room": room}, seconds=ASK_SECONDS)
        return Counts(answer.header["number"], **orjson.loads(answer.data))


def share_presence(presence: Presence, cluster: Cluster | None) -> None:
    """Share the presence of this node with the other nodes, if there may be any."""
    if cluster is None:
        return
    mailbox, membership = cluster.mailbox, cluster.membership
    sharing = presence.connect(ClusterPeers(mailbox, membership))

    async def on_request(node: NodeId, request: JsonObject, _: bytes) -> None:
        counts = sharing.own_counts(presence.get(request["room"]))
        data = orjson.dumps({"users": counts.users, "ages": counts.ages})
        await mailbox.answer(node, request, {"number": counts.number}, data)

    mailbox.handle(PRESENCE, on_request)
    membership.on_gone.append(sharing.forget)
    membership.on_new.append(sharing.request_forgotten)
    cluster.on_lost.append(sharing.announce_all)
