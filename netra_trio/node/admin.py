"""The part of a node for the live page: its view of itself, and the administrator's actions.

admin = open_admin(node, users, connections, newest)
"""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from importlib.metadata import version
from typing import Protocol

import trio
from attrs import frozen

from netra_trio.cluster.cluster import Cluster
from netra_trio.connections.connection import Connection
from netra_trio.ids import ConnectionId, SessionId
from netra_trio.node.admin_actions import AdminActions
from netra_trio.node.capacity import Capacity
from netra_trio.node.health import check_dependencies
from netra_trio.node.live_part import LiveParts
from netra_trio.node.live_view import LiveView
from netra_trio.node.registry import Sessions
from netra_trio.rooms.tasks import run_contained
from netra_trio.services import Services
from netra_trio.sessions.users import Users
from netra_trio.telemetry.samples import Samples

RESTART_SECONDS = 10.0  # after a fault: the next part may be made without it


@frozen
class Admin:
    """The live page of a node."""

    view: LiveView
    actions: AdminActions


class AdministeredNode(Protocol):
    """The part of the node that this module uses."""

    services: Services
    sessions: Sessions
    capacity: Capacity
    cluster: Cluster | None
    start_soon: Callable[..., None]

    async def drain(self) -> None:
        """Drain the node."""
        ...


def open_admin(
    host: AdministeredNode,
    users: Users,
    connections: Mapping[ConnectionId, Connection],
    newest: Mapping[SessionId, Connection],
) -> Admin:
    """Return the live page of a node, whose tasks end with the node.

    Args:
        host: The node.
        users: Its users.
        connections: Its open connections.
        newest: The newest connection of each session.
    """
    services, cluster, start_soon = host.services, host.cluster, host.start_soon
    node = services.store.owner if cluster is None else cluster.node
    parts = LiveParts(
        node=node,
        version=version("netra-trio"),
        settings=services.settings,
        sessions=host.sessions,
        users=users,
        capacity=host.capacity,
        connections=connections.__len__,
        cluster=cluster,
        wall_clock=services.wall_clock,
        opened_at=trio.current_time(),
    )
    metrics = services.instruments.metrics
    samples = Samples(metrics, parts.levels, wall_clock=services.wall_clock)
    view = LiveView(
        parts,
        samples,
        services.broker,
        check=partial(check_dependencies, services, cluster),
        start_soon=start_soon,
        mailbox=None if cluster is None else cluster.mailbox,
        nodes=None if cluster is None else cluster.membership,
    )
    services.rooms.observers.append(view)
    for task in (samples.run, view.run):
        start_soon(_run_always, task)
    actions = AdminActions(
        node=node,
        users=users,
        sessions=host.sessions,
        newest=newest,
        store=services.store,
        cluster=cluster,
        start_soon=start_soon,
        drain=host.drain,
    )
    return Admin(view, actions)


async def _run_always(task: Callable[[], Awaitable[None]]) -> None:
    """Run a task until cancelled; a fault of it is logged, and must not end the node."""
    while True:
        await run_contained(task)
        await trio.sleep(RESTART_SECONDS)
