"""The usage of models by runs, as stores keep it."""

from typing import Protocol

from attrs import frozen

from netra_trio.ids import RunId, UsageId, UserId
from netra_trio.protocol.usage import Amounts, UsageKey


@frozen
class Usage:
    """A report of the usage of a model by a run.

    Attributes:
        id: Of this report: a report that is stored twice counts once.
        cost: In the currency that the agent uses; None if it is unknown.
        created_at: Unix seconds.
    """

    id: UsageId
    run_id: RunId
    user_id: UserId
    agent_name: str
    model: str
    input_tokens: int
    output_tokens: int
    cost: float | None
    created_at: float


class UsageRecorder(Protocol):
    """Records what runs have used: a store, or the budgets of users."""

    async def record_usage(self, usage: Usage) -> None:
        """Record a report."""
        ...


class UsageStore(Protocol):
    """The part of a `Store` for usage."""

    async def record_usage(self, usage: Usage) -> None:
        """Store, now or later, what a run has used; does not raise `StoreUnavailable`.

        It waits only for room in a queue, for 3 seconds at most.
        """
        ...

    async def used_in_day(self, key: UsageKey) -> Amounts:
        """Return what an agent has used for a user in a day.

        All reports of this node count, also those that wait to be stored.

        Raises:
            StoreUnavailable: If the store cannot answer now.
        """
        ...
