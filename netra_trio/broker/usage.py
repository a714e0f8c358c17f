"""The interface `UsageCounters`: what has been used in a day, counted over all nodes.

    seen = await counters.read(key) or await counters.seed(key, stored, …)
    seen = await counters.count(key, seen.counter, seen.own.plus(used), …)

A counter begins with the sum of the store, because the server may have lost it. Each node reports
everything that it has counted since, not only the newest report: so a call that is repeated counts
once, if its answer was lost. The suite `tests/broker/test_usage_contract.py` checks each
implementation.

Every method raises `BrokerUnavailable` if the server does not answer in time. Cancelling is always
safe. After a call that raised or was cancelled, its change may have been made all the same.
"""

from collections.abc import Mapping
from typing import Protocol

from attrs import frozen

from netra_trio.protocol.usage import Amounts, Unit, UsageKey


@frozen
class DayUsage:
    """The state of a counter.

    Attributes:
        counter: The id of the counter; a new one has another id.
        total: Of all nodes.
        own: The part of the total that this node has counted.
        reached: The units whose warning this call was the first one to reach.
    """

    counter: str
    total: Amounts
    own: Amounts
    reached: frozenset[Unit] = frozenset()


class UsageCounters(Protocol):
    """The counters, as one node sees them."""

    async def read(self, key: UsageKey) -> DayUsage | None:
        """Return a counter; None if there is none."""
        ...

    async def seed(
        self, key: UsageKey, stored: Amounts, *, warnings: Mapping[Unit, int], seconds: float
    ) -> DayUsage:
        """Make a counter, unless there is one; in any case raise its total to what is stored.

        Args:
            key: The user, the agent and the day.
            stored: The sum of the store.
            warnings: For each unit, the amount at which a warning is due.
            seconds: How long it is kept.
        """
        ...

    async def count(
        self, key: UsageKey, counter: str, own: Amounts, *, warnings: Mapping[Unit, int]
    ) -> DayUsage | None:
        """Count what this node has used; less than before has no effect.

        Args:
            key: The user, the agent and the day.
            counter: The id of the counter.
            own: Everything that this node has used since the counter was made.
            warnings: For each unit, the amount at which a warning is due.

        Returns:
            The counter; None if there is none with this id, and nothing was counted.
        """
        ...
