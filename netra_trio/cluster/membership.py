"""Membership: this node's lease, and the other live nodes.

The event loop itself renews the lease, so a node whose loop is blocked loses it. A node that finds
its lease gone may have lost sessions to other nodes, or the directory may have lost everything: in
both cases it copies all its sessions again, and is fenced where it is not the owner any more.
"""

from collections.abc import Callable, Collection
from contextlib import suppress

import structlog
import trio

from netra_trio.broker.base import RENEW_SECONDS, Directory
from netra_trio.errors import BrokerUnavailable
from netra_trio.ids import NodeId

SETTLE_SECONDS = 3.0  # after a server was found empty, for all nodes to register again

_log = structlog.get_logger(__name__)


class Membership:
    """The lease of this node, and the live nodes.

    Args:
        directory: Has the leases.

    Attributes:
        on_lost: Called when this node found its lease gone.
        on_new: Called for each node that has become live, after it is in `peers`.
        on_gone: Called for each node that is not live any more, after it has left `peers`.
        peers: The other live nodes; for each, whether it drains.
    """

    def __init__(self, directory: Directory) -> None:
        self.on_lost: Callable[[], None] = _do_nothing
        self.on_new: list[Callable[[NodeId], None]] = []
        self.on_gone: list[Callable[[NodeId], None]] = []
        self.peers: dict[NodeId, bool] = {}
        self._directory = directory
        self._has_started = False
        self._is_draining = False
        self._woken = trio.Event()
        self._looking = trio.Lock()
        self._empty_since = -SETTLE_SECONDS

    def has_peers_beside(self, nodes: Collection[NodeId]) -> bool:
        """Whether there is another live node that does not drain, and is none of these."""
        return any(node not in nodes and not drains for node, drains in self.peers.items())

    @property
    def settled_in(self) -> float:
        """The seconds until all nodes have registered their sessions; at most 0 if they have."""
        return self._empty_since + SETTLE_SECONDS - trio.current_time()

    def note_unregistered(self) -> None:
        """Note that the lease of this node is gone although it is renewed in time."""
        if self.settled_in <= 0:
            self._empty_since = trio.current_time()

    async def renew(self) -> None:
        """Renew the lease once, and look at the other nodes.

        Raises:
            BrokerUnavailable: If the directory does not answer.
        """
        directory = self._directory
        was_held = await directory.renew(draining=self._is_draining)
        if not was_held and self._has_started:
            _log.warning("node_lease_lost", node=directory.node)
            self.note_unregistered()
            self.on_lost()
        self._has_started = True
        await self.look()

    async def look(self) -> None:
        """Read the live nodes now: one may have started since the last renewal.

        Raises:
            BrokerUnavailable: If the directory does not answer.
        """
        directory = self._directory
        async with self._looking:  # an older answer must not be applied after a newer one
            nodes = dict(await directory.nodes())
            nodes.pop(directory.node, None)
            self._note(nodes)

    async def find_peers(self) -> list[NodeId]:
        """Return the other live nodes now; those known before, if the directory does not answer."""
        with suppress(BrokerUnavailable):
            await self.look()
        return list(self.peers)

    def _note(self, nodes: dict[NodeId, bool]) -> None:
        """Note the other live nodes."""
        # In the order of the directory: the order of a set would depend on the ids.
        gone = [node for node in self.peers if node not in nodes]
        new = [node for node in nodes if node not in self.peers]
        self.peers = nodes
        for functions, changed in ((self.on_gone, gone), (self.on_new, new)):
            for node in changed:
                for function in functions:
                    function(node)

    async def run(self) -> None:
        """Renew the lease until cancelled."""
        while True:
            with suppress(BrokerUnavailable):  # the backend logs it
                await self.renew()
            with trio.move_on_after(RENEW_SECONDS):
                await self._woken.wait()
            self._woken = trio.Event()

    def start_draining(self) -> None:
        """Tell the other nodes at once that this one drains."""
        self._is_draining = True
        self._woken.set()

    async def resign(self) -> None:
        """Delete the lease: other nodes may take everything over at once."""
        await self._directory.resign()


def _do_nothing() -> None:
    """Do nothing."""
