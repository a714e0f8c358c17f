"""The first steps of the supervisor after the end of a worker, before it starts the next one.

await on_worker_ended(number, node, code, redis_url)
"""

import structlog

from netra_trio.broker.valkey.choice import backend_of
from netra_trio.errors import BrokerUnavailable, BrokerUnusable, leaves
from netra_trio.ids import NodeId, new_node_id

_log = structlog.get_logger(__name__)


async def on_worker_ended(
    number: int, node: NodeId | None, code: int, redis_url: str | None
) -> None:
    """Delete the lease of the node of a worker that has ended by itself.

    Other nodes take over its sessions at once then, instead of after the lease has run out. The
    caller bounds the time; cancelling leaves the lease to run out.

    Args:
        number: The number of the worker, from 1.
        node: Its node; None if it was not ready yet.
        code: Its exit code; a negative number is a signal.
        redis_url: The broker; None without one.
    """
    _log.warning("worker_ended", worker=number, node=node, code=code)
    if node is None:
        return
    try:
        backend = backend_of(redis_url, new_node_id())
        if backend is not None:
            async with backend.open():
                await backend.directory.resign(node)
    except* (BrokerUnavailable, BrokerUnusable) as faults:
        reason = str(next(leaves(faults)))
        _log.warning("lease_left", node=node, reason=reason)
