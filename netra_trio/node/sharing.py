"""Connects a node to the other nodes: the limits, the runs of other nodes, and disabled users.

services = Services(…, tickets=SharedTickets(cluster.backend.limits), other_nodes=remote)
limits = share(parts, cluster, remote, …)
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Protocol

import trio

from netra_trio.broker.base import Backend, SessionRecord
from netra_trio.errors import BrokerUnavailable, StoreUnavailable
from netra_trio.ids import NodeId
from netra_trio.node.capacity import LocalConnectionLimit
from netra_trio.node.remote_runs import Header, RemoteRuns, RunRequests
from netra_trio.node.shared_limits import NodeParts, SharedLimits
from netra_trio.node.user_watch import UserWatch
from netra_trio.stores.base import Store

Handler = Callable[[NodeId, Header, bytes], Awaitable[None]]
"""Handles a message of another node: takes its sender, its header and its data."""


class Cluster(Protocol):
    """The other nodes, as one node sees them."""

    @property
    def backend(self) -> Backend:
        """The state that the nodes share."""
        ...

    def handle(self, kind: str, handler: Handler) -> None:
        """Let a function handle the messages of a kind, one after the other."""
        ...

    async def post(self, node: NodeId, kind: str, header: Header, data: bytes = b"") -> None:
        """Send a message to another node.

        Raises:
            BrokerUnavailable: If the broker does not answer.
        """
        ...


def share(
    cluster: Cluster,
    parts: NodeParts,
    *,
    local: LocalConnectionLimit,
    remote: RemoteRuns,
    store: Store,
    nursery: trio.Nursery,
) -> SharedLimits:
    """Connect the parts of a node to the other nodes; return its limits.

    Args:
        cluster: The other nodes.
        parts: The parts of this node.
        local: The connection limit of this node alone.
        remote: Asks other nodes for their runs.
        store: Holds users and runs.
        nursery: Holds the tasks of all this.
    """
    directory = cluster.backend.directory

    async def post(node: NodeId, kind: str, header: Header, data: bytes) -> None:
        # A message that is lost is repeated, or its sender stops waiting for the reply.
        with suppress(BrokerUnavailable):
            await cluster.post(node, kind, header, data)

    def send(node: NodeId, kind: str, header: Header, data: bytes = b"") -> None:
        nursery.start_soon(post, node, kind, header, data)

    async def discard(record: SessionRecord) -> None:
        """Forget a session that no other node has, and end its runs."""
        with suppress(StoreUnavailable):  # then the runs end with the lease of their node
            await store.take_over(record.session_id, owner=record.lease, runs=())
        await directory.drop([record])

    limits = SharedLimits(cluster.backend, parts, local=local, send=send, discard=discard)
    requests = RunRequests(parts.users, parts.sessions, send)
    cluster.handle("evict", limits.on_evict)
    cluster.handle("recount", limits.on_recount)
    cluster.handle("end_session", limits.on_end_session)
    cluster.handle("stop", requests.on_stop)
    cluster.handle("answer", requests.on_answer)
    cluster.handle("answered", requests.on_answered)
    cluster.handle("reply", remote.on_reply)
    nursery.start_soon(limits.run)
    nursery.start_soon(UserWatch(parts.users, store).run)
    return limits
