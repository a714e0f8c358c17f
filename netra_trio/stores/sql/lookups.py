"""Questions of one kind that come together, asked as one.

    lookups = Lookups(ask)            # async: keys to what is found of them
    alice = await lookups.get("alice")

Who comes while nobody asks asks at once. Who comes while somebody does is asked for together with
all others of that time, by one of them, when the answer is there: a thousand look-ups at once take
two or three questions, and one thread at a time.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Generic, TypeVar

import trio
from attrs import define, field

from netra_trio.errors import StoreUnavailable

TOGETHER = 500  # keys in a question: half of what the oldest SQLite takes as parameters

_Key = TypeVar("_Key")
_Found = TypeVar("_Found")


@define(eq=False)
class _Question(Generic[_Key, _Found]):
    """What is asked together; answered when `over`, unless whoever asked was cancelled."""

    keys: set[_Key] = field(factory=set)
    found: Mapping[_Key, _Found] | None = None
    fault: str | None = None
    over: trio.Event = field(factory=trio.Event)


class Lookups(Generic[_Key, _Found]):
    """Look-ups that join each other.

    Args:
        ask: Returns what is found, without what is not; raises `StoreUnavailable`.
    """

    def __init__(self, ask: Callable[[Collection[_Key]], Awaitable[Mapping[_Key, _Found]]]) -> None:
        self._ask = ask
        self._turns = trio.Lock()
        self._next: _Question[_Key, _Found] | None = None  # whose asker waits for its turn

    async def get(self, key: _Key) -> _Found | None:
        """Return what is found under a key, None for nothing; cancelling is safe.

        Raises:
            StoreUnavailable: If the store cannot answer now.
        """
        while True:
            question = self._next
            if question is not None and len(question.keys) < TOGETHER:
                question.keys.add(key)
                await question.over.wait()
            else:
                question = _Question({key})
                await self._lead(question)
            if question.fault is not None:
                raise StoreUnavailable(question.fault)
            if question.found is not None:
                return question.found.get(key)

    async def _lead(self, question: _Question[_Key, _Found]) -> None:
        """Ask for all who join until it is their turn."""
        self._next = question
        try:
            async with self._turns:
                self._close(question)
                question.found = await self._ask(question.keys)
        except StoreUnavailable as unavailable:
            question.fault = str(unavailable)
        finally:
            self._close(question)
            question.over.set()

    def _close(self, question: _Question[_Key, _Found]) -> None:
        if self._next is question:
            self._next = None
