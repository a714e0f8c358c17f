"""The checks of what a node depends on: the store, the files, the broker, the keys of tokens."""

from collections.abc import Awaitable, Callable

import trio

from netra_trio.cluster.cluster import Cluster
from netra_trio.errors import (
    BrokerUnavailable,
    NetraError,
    StorageUnavailable,
    StoreUnavailable,
)
from netra_trio.protocol.admin import State
from netra_trio.services import Services

CHECK_SECONDS = 2.0  # for a dependency to answer


async def check_dependencies(services: Services, cluster: Cluster | None) -> dict[str, State]:
    """Return the state of each dependency: `store`, `files`, and `broker` and `keys` if any."""
    checks = {"store": await _check(services.store.check, StoreUnavailable)}
    checks["files"] = await _check(services.files.check, StorageUnavailable)
    if cluster is not None:
        checks["broker"] = await _check(cluster.backend.check, BrokerUnavailable)
    keys = services.verifier.is_key_server_available
    if keys is not None:
        checks["keys"] = "ok" if keys else "unavailable"
    return checks


async def _check(check: Callable[[], Awaitable[None]], unavailable: type[NetraError]) -> State:
    """Return the outcome of the check of a dependency, which raises `unavailable` if it fails."""
    with trio.move_on_after(CHECK_SECONDS):
        try:
            await check()
        except unavailable:
            return "unavailable"
        return "ok"
    return "no answer"
