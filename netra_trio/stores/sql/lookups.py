"""Joins concurrent look-ups into few queries.

    lookups = Lookups(query)          # async: takes keys, returns a mapping of the keys it found
    alice = await lookups.get("alice")

A look-up runs its query at once if no other query runs. Look-ups that are called during a query
share the next one, which one of them runs: a thousand concurrent look-ups take two or three
queries, and one thread at a time.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Generic, TypeVar

import trio
from attrs import define, field

from netra_trio.errors import StoreUnavailable

KEYS = 500  # of a query: half of the parameters that the oldest SQLite accepts

_Key = TypeVar("_Key")
_Found = TypeVar("_Found")


@define(eq=False)
class _Query(Generic[_Key, _Found]):
    """A shared query; when `over` is set without result, the task that ran it was cancelled."""

    keys: set[_Key] = field(factory=set)
    found: Mapping[_Key, _Found] | None = None
    error: str | None = None
    over: trio.Event = field(factory=trio.Event)


class Lookups(Generic[_Key, _Found]):
    """Look-ups that share their queries.

    Args:
        query: Returns the values of the keys that it finds; raises `StoreUnavailable`.
    """

    def __init__(
        self, query: Callable[[Collection[_Key]], Awaitable[Mapping[_Key, _Found]]]
    ) -> None:
        self._query = query
        self._running = trio.Lock()
        self._next: _Query[_Key, _Found] | None = None  # waits for the running one; may be joined

    async def get(self, key: _Key) -> _Found | None:
        """Return the value of a key, None if there is none; cancelling is safe.

        Raises:
            StoreUnavailable: If the store cannot answer now.
        """
        while True:
            query = self._next
            if query is not None and len(query.keys) < KEYS:
                query.keys.add(key)
                await query.over.wait()
            else:
                query = _Query({key})
                await self._run(query)
            if query.error is not None:
                raise StoreUnavailable(query.error)
            if query.found is not None:
                return query.found.get(key)

    async def _run(self, query: _Query[_Key, _Found]) -> None:
        """Run a query for its own key and for those that join while another query runs."""
        self._next = query
        try:
            async with self._running:
                self._close(query)
                query.found = await self._query(query.keys)
        except StoreUnavailable as unavailable:
            query.error = str(unavailable)
        finally:
            self._close(query)
            query.over.set()

    def _close(self, query: _Query[_Key, _Found]) -> None:
        """Let no further look-up join."""
        if self._next is query:
            self._next = None
