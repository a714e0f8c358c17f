"""`POST /ws/admin/…`: the actions of an administrator."""

import trio

from netra_trio.endpoints.answer import Answer
from netra_trio.endpoints.call import Call
from netra_trio.endpoints.checks import check_permission
from netra_trio.endpoints.paths import ADMIN_ACTIONS, endpoint_of, target_of
from netra_trio.node.admin_actions import AdminActions
from netra_trio.protocol.admin import ADMINISTRATOR, AdminAction
from netra_trio.protocol.problem import Refused, rate_limited
from netra_trio.protocol.ratelimit import TokenBucket
from netra_trio.telemetry.events import AdminActed

RATE, BURST = 10, 20  # actions a second at one node, actions at once: docs/admin.md, Actions

ACCEPTED = 202
STATUSES = {
    AdminAction.STOP_RUN: (ACCEPTED, "stopping"),
    AdminAction.END_SESSION: (ACCEPTED, "ending"),
    AdminAction.DISABLE_USER: (200, "disabled"),
    AdminAction.DRAIN_NODE: (ACCEPTED, "draining"),
}


class AdminEndpoint:
    """Performs the actions at any node.

    Args:
        actions: The actions of this node.
    """

    def __init__(self, actions: AdminActions) -> None:
        self._actions = actions
        self._bucket = TokenBucket(rate=RATE, burst=BURST, now=trio.current_time())

    async def act(self, call: Call) -> Answer:
        """Perform the action of the path.

        Raises:
            Refused: The first fault, in the order of docs/protocol.md; FORBIDDEN,
                RATE_LIMIT_EXCEEDED, and those of `AdminActions.perform`.
        """
        services, now = call.services, trio.current_time()
        pattern = endpoint_of(call.path)
        target = target_of(call.path, pattern)
        assert target is not None  # noqa: S101 - for mypy: the router has matched the path
        identity = await check_permission(call.request, services, ADMINISTRATOR, now=now)
        wait = self._bucket.take(trio.current_time())
        if wait:
            services.instruments.metrics.rate_events["requests", "refused"] += 1
            raise Refused(rate_limited(f"Too fast: at most {RATE} actions a second.", wait))
        action, result = ADMIN_ACTIONS[pattern], "done"
        try:
            nodes = await self._actions.perform(action, target)
        except Refused as refused:
            result = str(refused.problem.code)
            raise
        except BaseException:
            result = "unknown"
            raise
        finally:
            services.instruments.note(AdminActed(identity.user_id, action, target, result))
        code, status = STATUSES[action]
        return Answer(code, {"action": action, "target": target, "status": status, "nodes": nodes})
