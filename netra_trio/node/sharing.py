"""Connects a node to the others: limits, order of threads, runs of other nodes, disabled users.

shared = share(cluster, parts, local=local_limit, store=store, start_soon=node.start_soon)
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from attrs import evolve, frozen

from netra_trio.auth.tickets import SharedTickets
from netra_trio.broker.base import Backend, SessionRecord
from netra_trio.cluster.admission import CHECK, FIRST, INTERRUPT, ClusterAdmission
from netra_trio.cluster.cluster import Cluster
from netra_trio.errors import BrokerUnavailable, StoreUnavailable
from netra_trio.files.rate import SharedUploadRate
from netra_trio.ids import NodeId
from netra_trio.node import remote_runs, shared_limits
from netra_trio.node.capacity import LocalConnectionLimit
from netra_trio.node.remote_runs import RemoteRuns, RunRequests
from netra_trio.node.shared_limits import NodeParts, SharedLimits
from netra_trio.protocol.fields import JsonObject
from netra_trio.services import Services
from netra_trio.stores.base import Store


@frozen
class Shared:
    """The services that a node shares with the other nodes, in place of its own.

    Attributes:
        limits: The limits of users over all nodes.
        runs: The runs of other nodes.
        admission: The message rate and the order of threads over all nodes.
    """

    limits: SharedLimits
    runs: RemoteRuns
    admission: ClusterAdmission

    def services(self, services: Services, backend: Backend) -> Services:
        """Return services that count and find over all nodes."""
        return evolve(
            services,
            tickets=SharedTickets(backend.limits),
            upload_rate=SharedUploadRate(backend.limits),
            other_nodes=self.runs,
            admission=self.admission,
            broker=backend.broker,
        )


def share(
    cluster: Cluster,
    parts: NodeParts,
    *,
    local: LocalConnectionLimit,
    store: Store,
    start_soon: Callable[..., Any],
) -> Shared:
    """Connect the parts of a node to the other nodes.

    Args:
        cluster: The part of the node in the cluster.
        parts: The parts of the node.
        local: The connection limit of this node alone.
        store: Holds users and runs.
        start_soon: Starts a task of the node.
    """
    directory, mailbox = cluster.backend.directory, cluster.mailbox

    async def post(node: NodeId, kind: str, header: JsonObject, data: bytes) -> None:
        # A message that is lost is sent again when its reason is found again.
        with suppress(BrokerUnavailable):
            await mailbox.post(node, kind, header, data)

    def send(node: NodeId, kind: str, header: JsonObject, data: bytes = b"") -> None:
        start_soon(post, node, kind, header, data)

    async def discard(record: SessionRecord) -> None:
        """Forget a session that no other node has, and end its runs."""
        with suppress(StoreUnavailable):  # then the runs end with the lease of their node
            await store.take_over(record.session_id, owner=record.lease, runs=())
        await directory.drop([record])

    limits = SharedLimits(cluster.backend, parts, local=local, send=send, discard=discard)
    requests = RunRequests(parts.users, parts.sessions, mailbox, send)
    mailbox.handle(shared_limits.EVICT, limits.on_evict)
    mailbox.handle(shared_limits.EVICT_RELAYED, limits.on_evict_relayed)
    mailbox.handle(shared_limits.RECOUNT, limits.on_recount)
    mailbox.handle(shared_limits.END_SESSION, limits.on_end_session)
    mailbox.handle(remote_runs.STOP, requests.on_stop)
    mailbox.handle(remote_runs.ANSWER_QUESTION, requests.on_answer)
    mailbox.handle(remote_runs.ANSWERED, requests.on_answered)
    cluster.on_lost.append(limits.report_all)
    start_soon(limits.run)
    admission = ClusterAdmission(
        cluster.backend.threads, mailbox.post, settings=parts.settings, metrics=parts.metrics
    )
    mailbox.handle_now(FIRST, admission.on_first)
    mailbox.handle_now(INTERRUPT, admission.on_interrupt)
    mailbox.handle_now(CHECK, admission.on_check)
    start_soon(admission.run)
    return Shared(limits, RemoteRuns(directory, store, mailbox), admission)
