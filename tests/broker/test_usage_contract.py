"""The contract of `UsageCounters`, which each implementation passes; two nodes share one server."""

from collections.abc import Mapping
from typing import Any

import pytest
import trio
from attrs import define

from netra_trio.broker.base import Backend
from netra_trio.broker.usage import UsageCounters
from netra_trio.ids import UserId
from netra_trio.protocol.usage import AMOUNT_MAX, NOTHING, Amounts, Unit, UsageKey

KEY = UsageKey(UserId("alice"), "chat: {of} \x00 any:characters\u20ac", "2027-01-15")
NONE: Mapping[Unit, int] = {}


@define
class Two:
    """The counters as two nodes see them."""

    one: UsageCounters
    two: UsageCounters


@pytest.fixture
def counters(backends: tuple[Backend, Backend]) -> Two:
    """Return the counters on each server in turn."""
    one, two = backends
    return Two(one.usage, two.usage)


async def seeded(
    counters: UsageCounters, stored: Amounts = NOTHING, *, seconds: float = 60.0, **options: Any
) -> str:
    """Make the counter; return its id."""
    options = {"warnings": NONE, **options}
    return (await counters.seed(KEY, stored, seconds=seconds, **options)).counter


async def test_a_counter_begins_with_what_is_stored(counters: Two) -> None:
    assert await counters.one.read(KEY) is None
    seen = await counters.one.seed(KEY, Amounts(5, 7), warnings=NONE, seconds=60.0)
    assert (seen.total, seen.own) == (Amounts(5, 7), NOTHING)
    assert await counters.two.read(KEY) == seen
    # Only the larger sums count, and the counter stays the same.
    again = await counters.two.seed(KEY, Amounts(6, 3), warnings=NONE, seconds=60.0)
    assert (again.counter, again.total) == (seen.counter, Amounts(6, 7))
    for other in (
        UsageKey(UserId("bob"), KEY.agent_name, KEY.day),
        UsageKey(KEY.user_id, "chat", KEY.day),
        UsageKey(KEY.user_id, KEY.agent_name, "2027-01-16"),
    ):
        assert await counters.one.read(other) is None


async def test_each_node_counts_everything_that_it_has_used(counters: Two) -> None:
    counter = await seeded(counters.one, Amounts(100, 0))
    own = Amounts(10, 1)
    for _ in range(2):  # a call that is repeated counts once
        seen = await counters.one.count(KEY, counter, own, warnings=NONE)
        assert seen is not None
        assert (seen.total, seen.own) == (Amounts(110, 1), own)
    seen = await counters.two.count(KEY, counter, Amounts(5, 0), warnings=NONE)
    assert seen is not None
    assert (seen.total, seen.own) == (Amounts(115, 1), Amounts(5, 0))
    # An earlier call that arrives late has no effect.
    seen = await counters.one.count(KEY, counter, Amounts(9, 0), warnings=NONE)
    assert seen is not None
    assert (seen.total, seen.own) == (Amounts(115, 1), own)
    assert (await seen_at(counters.two)).own == Amounts(5, 0)


async def seen_at(counters: UsageCounters) -> Any:
    seen = await counters.read(KEY)
    assert seen is not None
    return seen


async def test_nothing_is_counted_for_another_counter(counters: Two) -> None:
    assert await counters.one.count(KEY, "cnt_0", Amounts(1, 1), warnings=NONE) is None
    assert await counters.one.read(KEY) is None
    await seeded(counters.one)
    assert await counters.one.count(KEY, "cnt_0", Amounts(1, 1), warnings=NONE) is None
    assert (await seen_at(counters.one)).total == NOTHING


async def test_a_warning_is_reached_once_over_all_nodes(counters: Two) -> None:
    warnings: Mapping[Unit, int] = {"tokens": 80, "cost": 8}
    counter = await seeded(counters.one, Amounts(70, 0), warnings=warnings)
    reached = []
    for node, own in (
        (counters.one, Amounts(9, 0)),  # one below
        (counters.two, Amounts(1, 0)),  # 80 tokens
        (counters.one, Amounts(10, 8)),  # a cost of 8
        (counters.two, Amounts(100, 100)),
    ):
        seen = await node.count(KEY, counter, own, warnings=warnings)
        assert seen is not None
        reached.append(set(seen.reached))
    assert reached == [set(), {"tokens"}, {"cost"}, set()]
    # A higher limit has a warning of its own.
    seen = await counters.one.count(KEY, counter, Amounts(500, 0), warnings={"tokens": 300})
    assert seen is not None
    assert set(seen.reached) == {"tokens"}


async def test_a_warning_that_the_stored_sum_has_reached_is_not_repeated(counters: Two) -> None:
    warnings: Mapping[Unit, int] = {"tokens": 80}
    counter = await seeded(counters.one, Amounts(80, 0), warnings=warnings)
    seen = await counters.one.count(KEY, counter, Amounts(1, 0), warnings=warnings)
    assert seen is not None
    assert not seen.reached


async def test_amounts_stop_at_the_largest_exact_number(counters: Two) -> None:
    counter = await seeded(counters.one, Amounts(AMOUNT_MAX - 1, AMOUNT_MAX))
    for own in (Amounts(1, 0), Amounts(AMOUNT_MAX, AMOUNT_MAX)):
        seen = await counters.one.count(KEY, counter, own, warnings=NONE)
        assert seen is not None
        assert (seen.total, seen.own) == (Amounts(AMOUNT_MAX, AMOUNT_MAX), own)


async def test_reports_at_the_same_time_are_all_counted(counters: Two) -> None:
    counter = await seeded(counters.one)
    async with trio.open_nursery() as nursery:
        for number in range(1, 31):
            for node in (counters.one, counters.two):
                nursery.start_soon(count, node, counter, Amounts(number, 0))
    assert (await seen_at(counters.one)).total == Amounts(60, 0)


async def count(counters: UsageCounters, counter: str, own: Amounts) -> None:
    await counters.count(KEY, counter, own, warnings=NONE)


async def test_a_counter_expires(counters: Two) -> None:
    first = await seeded(counters.one, Amounts(1, 0), seconds=0.05)
    with trio.fail_after(60):
        while await counters.two.read(KEY) is not None:  # noqa: ASYNC110 - of the server
            await trio.sleep(0.02)
    assert await counters.one.count(KEY, first, Amounts(1, 0), warnings=NONE) is None
    assert await seeded(counters.two) != first
