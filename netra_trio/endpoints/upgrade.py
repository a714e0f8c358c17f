"""Serve an upgrade to a WebSocket: from the request to the end of the connection.

answer = await serve_upgrade(entrance, request, "/ws", make_transport)
"""

from collections.abc import Callable

import trio

from netra_trio.endpoints.answer import Answer, refusal
from netra_trio.endpoints.checks import AcceptedUpgrade, check_upgrade
from netra_trio.endpoints.entrance import Entrance
from netra_trio.endpoints.paths import check_websocket_path
from netra_trio.endpoints.request import Request, trace_of
from netra_trio.protocol.problem import Problem, Refused
from netra_trio.telemetry.events import UpgradeFailed, UpgradeStarted
from netra_trio.transports.base import Transport


async def serve_upgrade(
    entrance: Entrance,
    request: Request,
    path: str,
    make_transport: Callable[[AcceptedUpgrade], Transport],
    *,
    fault: Problem | None = None,
) -> Answer | None:
    """Serve a WebSocket to its end, or return the answer that rejects it.

    Cancelling aborts the connection.

    Args:
        entrance: Admits it to its node.
        request: Its headers, query and peer.
        path: Its path, decoded.
        make_transport: Makes the transport, after every check has passed.
        fault: The fault of the handshake itself, if it has one.
    """
    since, services = trio.current_time(), entrance.node.services
    note = services.instruments.note
    note(UpgradeStarted(trace_of(request)))

    async def check() -> AcceptedUpgrade:
        if fault is not None:
            raise Refused(fault)
        check_websocket_path(path)
        return await check_upgrade(request, services, now=since)

    try:
        await entrance.serve(request, check, make_transport)
    except Refused as refused:
        now = services.wall_clock()
        return refusal(refused.problem, now, request, path, note, upgrade=True)
    except Exception:
        note(UpgradeFailed())
        raise
    return None
