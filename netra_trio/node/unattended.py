"""The tasks of a node for runs without a session, and whether a user is attached at any node.

services = serve_unattended(services, users, sessions.watch, node.start_soon)
"""

from collections.abc import Callable
from typing import Any

from attrs import evolve

from netra_trio.ids import UserId
from netra_trio.node.registry import SessionWatch
from netra_trio.node.run_stops import RunStops
from netra_trio.services import Services
from netra_trio.sessions.users import Users
from netra_trio.webhook.endpoint import Endpoint
from netra_trio.webhook.notifier import Notifier


class AttachedUsers:
    """The users that have a connection, at this node or at another one.

    Args:
        users: The users of this node.
        others: The sessions of other nodes; None if there are none.
    """

    def __init__(self, users: Users, others: SessionWatch | None) -> None:
        self._users = users
        self._others = others

    async def is_attached(self, user_id: UserId) -> bool:
        """Return whether a user has a connection; False if unknown. Cancelling is safe."""
        user = self._users.find(user_id)
        if user is not None and any(each.reason is None for each in user.connections):
            return True
        return self._others is not None and await self._others.is_attached_elsewhere(user_id)


def serve_unattended(
    services: Services,
    users: Users,
    others: SessionWatch | None,
    start_soon: Callable[..., Any],
) -> Services:
    """Start the tasks of a node for runs without a session.

    Args:
        services: The services of the node.
        users: The users of the node.
        others: The sessions of other nodes; None if there are none.
        start_soon: Starts a task of the node.

    Returns:
        The services, with a notifier if there is a webhook.
    """
    start_soon(RunStops(users, services.store).run)
    url, secret = services.settings.notify_webhook, services.settings.notify_webhook_secret
    if url is None or secret is None:
        return services
    notifier = Notifier(
        services.store,
        Endpoint(url, secret, wall_clock=services.wall_clock),
        is_attached=AttachedUsers(users, others).is_attached,
        note=services.instruments.note,
    )
    start_soon(notifier.run)
    return evolve(services, notifier=notifier)
