"""The usage of the newest day, of the store in memory."""

from netra_trio.ids import RunId, UserId, new_usage_id
from netra_trio.protocol.usage import NOTHING, Amounts, UsageKey, day_of
from netra_trio.stores.memory_usage import REPORTS, MemoryUsage
from netra_trio.stores.usage import Usage

DAY = 86_400.0
NOW = 1_800_000_000.0


def report(user: str, tokens: int, at: float = NOW) -> Usage:
    return Usage(new_usage_id(), RunId("run_0"), UserId(user), "chat", "m", tokens, 0, None, at)


def key(user: str, at: float = NOW) -> UsageKey:
    return UsageKey(UserId(user), "chat", day_of(at))


def test_only_the_newest_day_is_kept() -> None:
    usage = MemoryUsage()
    usage.record(report("alice", 1))
    usage.record(report("alice", 2, NOW + DAY))
    usage.record(report("alice", 4, NOW))  # late
    assert usage.of(key("alice")) == NOTHING
    assert usage.of(key("alice", NOW + DAY)) == Amounts(2, 0)


def test_beyond_the_bound_the_least_recently_used_sum_is_dropped() -> None:
    usage = MemoryUsage(sums=2)
    for user in ("alice", "bob", "alice", "carol"):
        usage.record(report(user, 1))
    assert [usage.of(key(user)).tokens for user in ("alice", "bob", "carol")] == [2, 0, 1]


def test_the_newest_reports_count_once() -> None:
    usage = MemoryUsage()
    first = report("alice", 1)
    for _ in range(2):
        usage.record(first)
    assert usage.of(key("alice")) == Amounts(1, 0)
    for _ in range(REPORTS):
        usage.record(report("bob", 1))
    usage.record(first)  # forgotten
    assert usage.of(key("alice")) == Amounts(2, 0)
