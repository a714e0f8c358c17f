"""The backend that a setting asks for; without one, nothing of Valkey is imported."""

from typing import TYPE_CHECKING

from netra_trio.ids import NodeId

if TYPE_CHECKING:
    from netra_trio.broker.valkey.backend import ValkeyBackend


def backend_of(url: str | None, node: NodeId) -> "ValkeyBackend | None":
    """Return the backend for a value of REDIS_URL; None without one.

    Raises:
        BrokerUnusable: If a file that the URL names cannot be used.
    """
    if url is None:
        return None
    from netra_trio.broker.valkey.backend import ValkeyBackend  # noqa: PLC0415 - loads hiredis

    return ValkeyBackend(node, url)
