"""Amounts, limits and days, as budgets count them."""

from decimal import Decimal

import pytest

from netra_trio.protocol.usage import (
    AMOUNT_MAX,
    Amounts,
    UsageLimits,
    amounts,
    day_of,
    seconds_left,
    shown,
)

MIDNIGHT = 1_800_057_600.0  # the end of 2027-01-15


@pytest.mark.parametrize(
    ("limit", "used", "unit"),
    [
        (UsageLimits(10, None), Amounts(10, AMOUNT_MAX), None),
        (UsageLimits(10, None), Amounts(11, 0), "tokens"),
        (UsageLimits(None, 10), Amounts(AMOUNT_MAX, 10), None),
        (UsageLimits(None, 10), Amounts(0, 11), "cost"),
        (UsageLimits(10, 10), Amounts(11, 11), "tokens"),
        (UsageLimits(None, None), Amounts(AMOUNT_MAX, AMOUNT_MAX), None),
    ],
)
def test_only_beyond_a_limit_is_exceeded(
    limit: UsageLimits, used: Amounts, unit: str | None
) -> None:
    assert limit.exceeded(used) == unit


@pytest.mark.parametrize(
    ("limit", "warning"), [(1, 1), (2, 2), (4, 4), (5, 4), (10, 8), (11, 9), (1000, 800)]
)
def test_a_warning_is_at_80_percent_or_the_next_whole_amount(limit: int, warning: int) -> None:
    assert UsageLimits(limit, None).warnings == {"tokens": warning}
    assert UsageLimits(None, limit).warnings == {"cost": warning}


def test_limits_of_settings() -> None:
    assert not UsageLimits.of_settings(None, None)
    assert UsageLimits.of_settings(1, None)
    limits = UsageLimits.of_settings(None, Decimal(9000000))
    assert limits
    assert limits.cost == 9 * 10**15 < AMOUNT_MAX
    assert UsageLimits.of_settings(None, Decimal("0.000000001")).cost == 1
    assert (limits.shown("cost"), limits.shown("tokens")) == (9_000_000.0, 0)


@pytest.mark.parametrize(
    ("tokens", "cost", "expected"),
    [
        (3, None, Amounts(3, 0)),
        (3, 0.1 + 0.2, Amounts(3, 300_000_000)),
        (0, 4e-10, Amounts(0, 0)),
        (0, 6e-10, Amounts(0, 1)),
        (2**54, 1e300, Amounts(AMOUNT_MAX, AMOUNT_MAX)),
        (float(2**60), 1.0, Amounts(AMOUNT_MAX, 10**9)),
    ],
)
def test_amounts_are_whole_and_bounded(
    tokens: float, cost: float | None, expected: Amounts
) -> None:
    assert amounts(tokens, cost) == expected
    assert expected.plus(Amounts(AMOUNT_MAX, AMOUNT_MAX)) == Amounts(AMOUNT_MAX, AMOUNT_MAX)
    assert Amounts().minus(expected) == Amounts()


def test_amounts_are_shown_in_tokens_and_in_the_currency() -> None:
    assert shown("tokens", 5) == 5
    assert shown("cost", 2_500_000_000) == 2.5


@pytest.mark.parametrize(
    ("moment", "day", "left"),
    [
        (MIDNIGHT - 1, "2027-01-15", 1.0),
        (MIDNIGHT - 0.25, "2027-01-15", 0.25),
        (MIDNIGHT, "2027-01-16", 86_400.0),
    ],
)
def test_a_day_ends_at_midnight_in_utc(moment: float, day: str, left: float) -> None:
    assert day_of(moment) == day
    assert seconds_left(moment) == left
