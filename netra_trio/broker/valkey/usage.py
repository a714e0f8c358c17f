"""The counters of usage on Valkey or Redis: a hash for each user, agent and day.

Its fields are `id`, the total `tokens` and `cost`, of each node `tokens:<node>` and `cost:<node>`,
and `warned:<unit>:<amount>` for each warning that was reached. All amounts are below 2^53, so the
numbers of Lua are exact.
"""

from collections.abc import Mapping
from typing import Any

from attrs import define

from netra_trio.broker.usage import DayUsage
from netra_trio.broker.valkey import keys, scripts
from netra_trio.broker.valkey.calls import Calls, milliseconds
from netra_trio.ids import NodeId, new_counter_id
from netra_trio.protocol.usage import UNITS, Amounts, Unit, UsageKey


@define(eq=False)
class ValkeyUsage:
    """The `UsageCounters` of one node."""

    node: NodeId
    _calls: Calls

    async def read(self, key: UsageKey) -> DayUsage | None:
        """Return a counter."""
        return _seen(await self._calls.run(scripts.READ_USAGE, [keys.usage(key)], [self.node]))

    async def seed(
        self, key: UsageKey, stored: Amounts, *, warnings: Mapping[Unit, int], seconds: float
    ) -> DayUsage:
        """Make a counter, or raise the total of the one that is there."""
        arguments = [new_counter_id(), milliseconds(seconds), *_amounts(stored, warnings)]
        seen = _seen(
            await self._calls.run(scripts.SEED_USAGE, [keys.usage(key)], [self.node, *arguments])
        )
        assert seen is not None  # noqa: S101 - for mypy: the script has made it
        return seen

    async def count(
        self, key: UsageKey, counter: str, own: Amounts, *, warnings: Mapping[Unit, int]
    ) -> DayUsage | None:
        """Count what this node has used."""
        arguments = [self.node, counter, *_amounts(own, warnings)]
        return _seen(await self._calls.run(scripts.COUNT_USAGE, [keys.usage(key)], arguments))


def _amounts(amounts: Amounts, warnings: Mapping[Unit, int]) -> list[str | int]:
    """Return the amount and the warning of each unit; no warning is empty."""
    return [value for unit in UNITS for value in (amounts.of(unit), warnings.get(unit, ""))]


def _seen(reply: Any) -> DayUsage | None:
    if not reply:
        return None
    counter, *values = (value.decode() for value in reply)
    tokens, cost, own_tokens, own_cost = (int(value) for value in values[:4])
    reached = frozenset(unit for unit in UNITS if unit in values[4:])
    return DayUsage(counter, Amounts(tokens, cost), Amounts(own_tokens, own_cost), reached)
