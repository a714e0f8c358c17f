"""The rate limits: never more than the rate, slots in order, exact retry times."""

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from netra_trio.protocol.ratelimit import WINDOW, SlidingWindow, TokenBucket

GROUPS = 512
GROUP_SECONDS = WINDOW / GROUPS

# Sixty-fourths of a second, so that sums and differences of times are exact.
STEPS = st.lists(st.integers(0, 64 * 70).map(lambda ticks: ticks / 64) | st.just(0.0), max_size=60)
RATES = st.integers(1, 6)
WAITING = st.integers(0, 5)


def times(steps: list[float]) -> list[float]:
    now, found = 0.0, []
    for step in steps:
        now += step
        found.append(now)
    return found


def check_rate(slots: list[float], rate: int) -> None:
    """Assert that no 60 seconds have more than `rate` slots."""
    for first, beyond in zip(slots, slots[rate:], strict=False):
        assert beyond - first >= WINDOW


@given(RATES, WAITING, STEPS)
def test_a_window_has_at_most_the_rate(rate: int, waiting: int, steps: list[float]) -> None:
    window = SlidingWindow(rate=rate, waiting=waiting)
    slots: list[float] = []
    for now in times(steps):
        expected = window.next_slot(now)
        assert window.take(now) == expected
        if expected is not None:
            assert expected >= now
            slots.append(expected)
        assert sum(slot > now for slot in slots) <= waiting
        check_rate(slots, rate)
    assert slots == sorted(slots)


@given(RATES, WAITING, STEPS, st.lists(st.booleans(), min_size=60, max_size=60))
def test_a_message_that_may_not_wait_has_a_slot_of_the_same_rate(
    rate: int, waiting: int, steps: list[float], waits: list[bool]
) -> None:
    window = SlidingWindow(rate=rate, waiting=waiting)
    slots: list[float] = []
    for now, may_wait in zip(times(steps), waits, strict=False):
        if may_wait:
            slot = window.take(now)
            if slot is not None:
                slots.append(slot)
        else:
            seconds = window.take_now(now)
            earliest = now if len(slots) < rate else max(now, sorted(slots)[-rate] + WINDOW)
            assert seconds == earliest - now
            if not seconds:
                slots.append(now)
        check_rate(sorted(slots), rate)


@given(RATES, WAITING, STEPS)
def test_a_slot_is_not_later_than_the_rate_requires(
    rate: int, waiting: int, steps: list[float]
) -> None:
    window = SlidingWindow(rate=rate, waiting=waiting)
    slots: list[float] = []
    for now in times(steps):
        earliest = now if len(slots) < rate else max(now, slots[-rate] + WINDOW)
        slot = window.take(now)
        if slot is None:
            assert earliest > now
            assert sum(slot > now for slot in slots) == waiting
        else:
            assert slot == earliest
            slots.append(slot)


@given(RATES, WAITING, STEPS)
def test_retry_after_is_the_shortest_wait(rate: int, waiting: int, steps: list[float]) -> None:
    window = SlidingWindow(rate=rate, waiting=waiting)
    for now in times(steps):
        wait = window.retry_after(now)
        assert (wait == 0.0) is (window.next_slot(now) is not None)
        if wait:
            early = SlidingWindow(rate=rate, waiting=waiting)
            early._groups.extend(window._groups)
            early._used = window._used
            assert early.next_slot(now + wait - 1 / 128) is None
            assert early.next_slot(now + wait) is not None
        window.take(now)


@given(
    st.integers(GROUPS + 1, 3000),
    st.integers(0, 50),
    st.lists(
        st.tuples(st.integers(0, 400), st.integers(0, 64 * 20).map(lambda ticks: ticks / 256)),
        max_size=60,
    ),
)
def test_a_high_rate_is_limited_with_a_bounded_number_of_groups(
    rate: int, waiting: int, bursts: list[tuple[int, float]]
) -> None:
    window = SlidingWindow(rate=rate, waiting=waiting)
    now, slots = 0.0, []
    for count, step in bursts:
        now += step
        for _ in range(count):
            slot = window.take(now)
            if slot is None:
                wait = window.retry_after(now)
                assert 0 < wait <= WINDOW
                break
            assert slot >= now
            slots.append(slot)
        assert len(window._groups) <= GROUPS + 2 + waiting
    assert slots == sorted(slots)
    check_rate(slots, rate)


@pytest.mark.parametrize("rate", [60, GROUPS, GROUPS + 1, 600, 1200, 60_000])
def test_a_steady_rate_below_the_limit_is_never_refused(rate: int) -> None:
    # Two percent below the limit, for five windows.
    window = SlidingWindow(rate=rate, waiting=0)
    step = WINDOW / rate / 0.98
    refused = [n for n in range(5 * rate) if window.take(n * step) is None]
    assert refused == []
    assert len(window._groups) <= GROUPS + 2


@pytest.mark.parametrize("rate", [GROUPS, GROUPS + 1, 600, 6000])
def test_a_steady_rate_above_the_limit_gets_the_limit(rate: int) -> None:
    window = SlidingWindow(rate=rate, waiting=0)
    step = WINDOW / rate / 1.7
    slots = [n * step for n in range(5 * rate) if window.take(n * step) is not None]
    check_rate(slots, rate)
    assert len(slots) >= 2 * rate


def test_groups_delay_a_slot_by_at_most_two_groups() -> None:
    window = SlidingWindow(rate=6000, waiting=6000)
    step = WINDOW / 6000
    late = max((window.take(n * step) or 0.0) - n * step for n in range(18_000))
    assert late <= 2 * GROUP_SECONDS


def test_a_million_messages_a_minute_use_bounded_memory() -> None:
    window = SlidingWindow(rate=1_000_000, waiting=20)
    for n in range(200_000):
        assert window.take(n / 2000) == n / 2000
    assert len(window._groups) <= GROUPS + 2


def test_the_rate_limit_and_one_message_more() -> None:
    window = SlidingWindow(rate=60, waiting=20)
    assert [window.take(0.0) for _ in range(60)] == [0.0] * 60
    assert [window.take(1.0) for _ in range(20)] == [60.0] * 20
    assert window.take(1.0) is None
    assert window.retry_after(1.0) == 59.0
    assert window.take(59.5) is None
    assert window.take(60.0) == 60.0


def test_without_waiting_the_next_slot_is_when_one_expires() -> None:
    window = SlidingWindow(rate=2, waiting=0)
    assert [window.take(0.0), window.take(5.0), window.take(6.0)] == [0.0, 5.0, None]
    assert window.retry_after(6.0) == 54.0
    assert window.take(60.0) == 60.0
    assert window.take(60.0) is None
    assert window.retry_after(60.0) == 5.0


def test_a_window_is_idle_when_all_slots_have_expired() -> None:
    window = SlidingWindow(rate=1, waiting=1)
    assert window.is_idle(0.0)
    window.take(0.0)
    window.take(0.0)
    assert not window.is_idle(60.0)
    assert not window.is_idle(119.5)
    assert window.is_idle(120.0)


def test_more_slots_than_in_use_cannot_expire() -> None:
    with pytest.raises(AssertionError, match="fewer slots"):
        SlidingWindow(rate=1, waiting=1)._time_when_free(1)


def test_a_bucket_starts_full_and_refills() -> None:
    bucket = TokenBucket(rate=4, burst=2, now=10.0)
    assert [bucket.take(10.0), bucket.take(10.0)] == [0.0, 0.0]
    assert bucket.take(10.0) == 0.25
    assert bucket.take(10.125) == 0.125
    assert bucket.take(10.25) == 0.0
    assert bucket.take(10.25) == 0.25
    assert [bucket.take(1000.0) for _ in range(3)] == [0.0, 0.0, 0.25]


@given(st.integers(1, 8), STEPS)
@example(1, [0.0, 0.0, 0.5, 0.5])
def test_a_bucket_gives_at_most_burst_and_rate(burst: int, steps: list[float]) -> None:
    rate = 2
    bucket = TokenBucket(rate=rate, burst=burst, now=0.0)
    given_at: list[float] = []
    for now in times(steps):
        wait = bucket.take(now)
        if not wait:
            given_at.append(now)
        else:
            again = TokenBucket(rate=rate, burst=burst, now=now)
            again._tokens = bucket._tokens
            assert again.take(now + wait / 2) > 0
            assert again.take(now + wait) == 0
        for start, at in enumerate(given_at):
            assert len(given_at) - start <= burst + (given_at[-1] - at) * rate
    assert all(earlier <= later for earlier, later in pairwise(given_at))
