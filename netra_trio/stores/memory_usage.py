"""The usage of the newest day, of the store in memory.

usage = MemoryUsage()
usage.record(report)
amounts = usage.of(key)
"""

from netra_trio.ids import UsageId
from netra_trio.protocol.usage import NOTHING, Amounts, UsageKey, amounts, day_of
from netra_trio.stores.usage import Usage

SUMS = 100_000  # of users and agents; beyond it, the one that was used least recently is dropped
REPORTS = 1000  # newest ones that are known, so that one that is repeated counts once


class MemoryUsage:
    """The sums of the newest day, by user and agent."""

    def __init__(self, *, sums: int = SUMS) -> None:
        self._max_sums = sums
        self._day = ""
        self._sums: dict[UsageKey, Amounts] = {}
        self._reports: dict[UsageId, None] = {}

    def record(self, usage: Usage) -> None:
        """Add a report; an earlier day's is dropped."""
        day = day_of(usage.created_at)
        if usage.id in self._reports or day < self._day:
            return
        if day > self._day:
            self._day = day
            self._sums.clear()
        self._reports[usage.id] = None
        if len(self._reports) > REPORTS:
            del self._reports[next(iter(self._reports))]
        key = UsageKey(usage.user_id, usage.agent_name, day)
        used = amounts(usage.input_tokens + usage.output_tokens, usage.cost)
        self._sums[key] = self._sums.pop(key, NOTHING).plus(used)
        if len(self._sums) > self._max_sums:
            del self._sums[next(iter(self._sums))]

    def of(self, key: UsageKey) -> Amounts:
        """Return the sum of a user and an agent in a day."""
        return self._sums.get(key, NOTHING)
