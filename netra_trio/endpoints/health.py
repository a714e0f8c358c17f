"""`GET /ws/health`: whether the server and its dependencies can answer."""

from collections.abc import Callable

import trio

from netra_trio.endpoints.answer import Answer
from netra_trio.endpoints.call import Call
from netra_trio.errors import StoreUnavailable
from netra_trio.stores.base import Store

CHECK_SECONDS = 2.0  # for a dependency to answer a health check


async def health(is_draining: Callable[[], bool], call: Call) -> Answer:
    """Return the state of the server and of each dependency; 503 while it drains.

    Args:
        is_draining: Returns whether the server drains.
        call: The request.
    """
    checks = {"store": await _check_store(call.services.store)}
    keys = call.services.verifier.is_key_server_available
    if keys is not None:
        checks["keys"] = "ok" if keys else "unavailable"
    draining = is_draining()
    is_healthy = all(outcome == "ok" for outcome in checks.values())
    status = "draining" if draining else "healthy" if is_healthy else "degraded"
    return Answer(503 if draining else 200, {"status": status, "checks": checks})


async def _check_store(store: Store) -> str:
    outcome = "ok"
    with trio.move_on_after(CHECK_SECONDS) as patience:
        try:
            await store.check()
        except StoreUnavailable:
            outcome = "unavailable"
    if patience.cancelled_caught:
        outcome = "no answer"
    return outcome
