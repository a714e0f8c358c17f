"""Stops runs of this node whose stop was requested in the store: by `netra-trio runs --stop`.

nursery.start_soon(RunStops(users, store).run)
"""

import trio

from netra_trio.errors import StoreUnavailable
from netra_trio.sessions.users import Users
from netra_trio.stores.base import Store

POLL_SECONDS = 1.0


class RunStops:
    """Polls the store for requests to stop runs, while this node has runs.

    Args:
        users: The users of this node, with their live runs.
        store: Has the requests.
    """

    def __init__(self, users: Users, store: Store) -> None:
        self._users = users
        self._store = store

    async def run(self) -> None:
        """Poll until cancelled; if the store cannot answer, poll again a second later."""
        newest = -1
        while True:
            # Requests from before the start of this node concern none of its runs.
            if newest < 0 or self._users.have_runs:
                try:
                    newest, requested = await self._store.stop_requests(newest)
                except StoreUnavailable:
                    requested = ()
                for run_id in requested:
                    live = self._users.find_run(run_id)
                    if live is not None:
                        live.stop()
            await trio.sleep(POLL_SECONDS)
