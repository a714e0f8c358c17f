"""Serve an upgrade to a WebSocket: from the request to the end of the connection.

answer = await serve_upgrade(node, request, "/ws", make_transport)
"""

from collections.abc import Callable

import trio

from netra_trio.endpoints.answer import Answer, refusal
from netra_trio.endpoints.checks import AcceptedUpgrade, check_upgrade
from netra_trio.endpoints.opening_rate import OpeningRate
from netra_trio.endpoints.paths import check_websocket_path
from netra_trio.endpoints.request import Request, trace_of
from netra_trio.node.node import Node
from netra_trio.protocol.problem import Problem, Refused
from netra_trio.telemetry.events import UpgradeFailed, UpgradeStarted
from netra_trio.transports.base import Transport

REJECTED = frozenset({400, 401, 403, 404, 426})  # the statuses that count for an address


async def serve_upgrade(
    node: Node,
    rate: OpeningRate,
    request: Request,
    path: str,
    make_transport: Callable[[AcceptedUpgrade], Transport],
    *,
    fault: Problem | None = None,
) -> Answer | None:
    """Serve a WebSocket to its end, or return the answer that rejects it.

    Cancelling aborts the connection.

    Args:
        node: The node that serves it.
        rate: The rate of openings.
        request: Its headers, query and peer.
        path: Its path, decoded.
        make_transport: Makes the transport, after every check has passed.
        fault: The fault of the handshake itself, if it has one.
    """
    since, note = trio.current_time(), node.services.instruments.note
    note(UpgradeStarted(trace_of(request)))
    try:
        with node.capacity.connection_slot():
            rate.check_address(request.peer, since)
            _check_handshake(path, fault)
            accepted = await check_upgrade(request, node.services, now=since)
            user_id = accepted.identity.user_id
            wait = await node.connection_limit.take_opening(user_id)
            if wait is None:
                rate.take(user_id, since)
            else:
                rate.check(wait)
            await node.serve(
                make_transport(accepted),
                accepted.identity,
                accepted.wire,
                wanted=accepted.wanted,
                since=since,
                traceparent=accepted.traceparent,
            )
    except Refused as refused:
        if refused.problem.status in REJECTED:
            rate.note_rejected(request.peer, since)
        now = node.services.wall_clock()
        return refusal(refused.problem, now, request, path, note, upgrade=True)
    except Exception:
        note(UpgradeFailed())
        raise
    return None


def _check_handshake(path: str, fault: Problem | None) -> None:
    if fault is not None:
        raise Refused(fault)
    check_websocket_path(path)
