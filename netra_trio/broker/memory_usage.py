"""The `UsageCounters` in memory: for several nodes in one process."""

from collections.abc import Mapping

import trio
from attrs import define, field

from netra_trio.broker.usage import DayUsage
from netra_trio.ids import NodeId, new_counter_id
from netra_trio.protocol.usage import NOTHING, Amounts, Unit, UsageKey


@define(eq=False)
class _Counter:
    until: float  # on Trio's clock
    id: str = field(factory=new_counter_id)
    total: Amounts = NOTHING
    own: dict[NodeId, Amounts] = field(factory=dict)
    warned: set[tuple[Unit, int]] = field(factory=set)

    def reach(self, warnings: Mapping[Unit, int]) -> frozenset[Unit]:
        """Return the units whose warning is reached for the first time."""
        reached = {each for each in warnings.items() if self.total.of(each[0]) >= each[1]}
        new = reached - self.warned
        self.warned |= new
        return frozenset(unit for unit, _ in new)


@define(eq=False)
class UsageState:
    """The counters of all nodes."""

    counters: dict[UsageKey, _Counter] = field(factory=dict)

    def find(self, key: UsageKey) -> _Counter | None:
        """Return a counter."""
        now = trio.current_time()
        for old in [old for old, counter in self.counters.items() if counter.until <= now]:
            del self.counters[old]
        return self.counters.get(key)

    def clear(self) -> None:
        """Lose everything, as a server that restarts empty."""
        self.counters.clear()


@define(eq=False)
class MemoryUsage:
    """The `UsageCounters` of one node."""

    node: NodeId
    _state: UsageState

    async def read(self, key: UsageKey) -> DayUsage | None:
        """Return a counter."""
        await trio.lowlevel.checkpoint()
        counter = self._state.find(key)
        return None if counter is None else self._seen(counter)

    async def seed(
        self, key: UsageKey, stored: Amounts, *, warnings: Mapping[Unit, int], seconds: float
    ) -> DayUsage:
        """Make a counter, or raise the total of the one that is there."""
        await trio.lowlevel.checkpoint()
        counter = self._state.find(key)
        if counter is None:
            counter = _Counter(trio.current_time() + seconds)
            self._state.counters[key] = counter
        counter.total = counter.total.at_least(stored)
        return self._seen(counter, counter.reach(warnings))

    async def count(
        self, key: UsageKey, counter: str, own: Amounts, *, warnings: Mapping[Unit, int]
    ) -> DayUsage | None:
        """Count what this node has used."""
        await trio.lowlevel.checkpoint()
        known = self._state.find(key)
        if known is None or known.id != counter:
            return None
        before = known.own.get(self.node, NOTHING)
        known.own[self.node] = before.at_least(own)
        known.total = known.total.plus(own.minus(before))
        return self._seen(known, known.reach(warnings))

    def _seen(self, counter: _Counter, reached: frozenset[Unit] = frozenset()) -> DayUsage:
        own = counter.own.get(self.node, NOTHING)
        return DayUsage(counter.id, counter.total, own, reached)
