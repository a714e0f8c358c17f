"""The runs of killed nodes: finds their threads, and detects their ends in the store.

lost = LostRuns(store)
threads = await lost.find(node)                  # None if the store does not answer
async for key in lost.ended(node, threads):      # later: the lease of the node in the store ends

The runs of a killed node stay unfinished until the store ends them: when a client resumes the
session at another node, or when the lease of the node in the store has ended. No node has these
runs, so no node reports their ends.
"""

from collections.abc import AsyncIterator, Collection
from typing import TypeAlias

import trio
from attrs import define

from netra_trio.errors import StoreUnavailable
from netra_trio.ids import NodeId, ThreadId, UserId
from netra_trio.stores.threads import ThreadStore

FIND_SECONDS = 1.0  # for the store: it delays the gap for the members of rooms
POLL_SECONDS = 1.0
FOLLOW_SECONDS = 90.0  # two and a half leases in the store: then an ended node has no runs

Key: TypeAlias = tuple[UserId, ThreadId]


@define(eq=False)
class LostRuns:
    """Finds the runs of killed nodes in the store.

    Args:
        store: Has the runs.
    """

    _store: ThreadStore

    async def find(self, node: NodeId) -> set[Key] | None:
        """Return the threads with unfinished runs of a node; None if the store does not answer."""
        with trio.move_on_after(FIND_SECONDS):
            try:
                runs = await self._store.unfinished_runs()
            except StoreUnavailable:
                return None
            return {(run.user_id, run.thread_id) for run in runs if run.owner == node}
        return None

    async def ended(self, node: NodeId, threads: Collection[Key]) -> AsyncIterator[Key]:
        """Yield each of these threads when the store has no unfinished run of the node there.

        Ends with the last one, or after `FOLLOW_SECONDS`, if the store has not ended the runs.
        """
        left, until = set(threads), trio.current_time() + FOLLOW_SECONDS
        while left and trio.current_time() < until:
            await trio.sleep(POLL_SECONDS)
            unfinished = await self.find(node)
            if unfinished is not None:
                for key in sorted(left - unfinished):
                    yield key
                left &= unfinished
