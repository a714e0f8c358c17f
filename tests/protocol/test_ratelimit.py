"""How much may come in: never more than the rate, in order, and exact about when to come back."""

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from netra_trio.protocol.ratelimit import WINDOW, SlidingWindow, TokenBucket

SLOTS = 512
GRAIN = WINDOW / SLOTS

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


def check_rate(turns: list[float], rate: int) -> None:
    """Assert that no window of 60 s has more than `rate` turns."""
    for first, beyond in zip(turns, turns[rate:], strict=False):
        assert beyond - first >= WINDOW


@given(RATES, WAITING, STEPS)
def test_never_more_than_the_rate_in_a_window(rate: int, waiting: int, steps: list[float]) -> None:
    window = SlidingWindow(rate=rate, waiting=waiting)
    turns: list[float] = []
    for now in times(steps):
        expected = window.next_slot(now)
        assert window.take(now) == expected
        if expected is not None:
            assert expected >= now
            turns.append(expected)
        assert sum(turn > now for turn in turns) <= waiting
        check_rate(turns, rate)
    assert turns == sorted(turns)


@given(RATES, WAITING, STEPS)
def test_a_turn_is_never_later_than_the_rate_asks(
    rate: int, waiting: int, steps: list[float]
) -> None:
    window = SlidingWindow(rate=rate, waiting=waiting)
    turns: list[float] = []
    for now in times(steps):
        earliest = now if len(turns) < rate else max(now, turns[-rate] + WINDOW)
        turn = window.take(now)
        if turn is None:
            assert earliest > now
            assert sum(turn > now for turn in turns) == waiting
        else:
            assert turn == earliest
            turns.append(turn)


@given(RATES, WAITING, STEPS)
def test_retry_after_is_exact(rate: int, waiting: int, steps: list[float]) -> None:
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
    st.integers(SLOTS + 1, 3000),
    st.integers(0, 50),
    st.lists(
        st.tuples(st.integers(0, 400), st.integers(0, 64 * 20).map(lambda ticks: ticks / 256)),
        max_size=60,
    ),
)
def test_a_huge_rate_holds_too_in_bounded_slots(
    rate: int, waiting: int, bursts: list[tuple[int, float]]
) -> None:
    window = SlidingWindow(rate=rate, waiting=waiting)
    now, turns = 0.0, []
    for count, step in bursts:
        now += step
        for _ in range(count):
            turn = window.take(now)
            if turn is None:
                wait = window.retry_after(now)
                assert 0 < wait <= WINDOW
                break
            assert turn >= now
            turns.append(turn)
        assert len(window._groups) <= SLOTS + 2 + waiting
    assert turns == sorted(turns)
    check_rate(turns, rate)


@pytest.mark.parametrize("rate", [60, SLOTS, SLOTS + 1, 600, 1200, 60_000])
def test_a_steady_rate_goes_on_for_ever(rate: int) -> None:
    # Two messages a hundred more slowly than the limit, for five windows: none has to wait.
    window = SlidingWindow(rate=rate, waiting=0)
    step = WINDOW / rate / 0.98
    refused = [n for n in range(5 * rate) if window.take(n * step) is None]
    assert refused == []
    assert len(window._groups) <= SLOTS + 2


@pytest.mark.parametrize("rate", [SLOTS, SLOTS + 1, 600, 6000])
def test_who_always_asks_for_too_much_gets_the_rate_and_no_more(rate: int) -> None:
    window = SlidingWindow(rate=rate, waiting=0)
    step = WINDOW / rate / 1.7
    turns = [n * step for n in range(5 * rate) if window.take(n * step) is not None]
    check_rate(turns, rate)
    assert len(turns) >= 2 * rate


def test_the_price_of_slots_is_at_most_a_grain() -> None:
    window = SlidingWindow(rate=6000, waiting=6000)
    step = WINDOW / 6000
    late = max((window.take(n * step) or 0.0) - n * step for n in range(18_000))
    assert late <= 2 * GRAIN


def test_a_million_a_minute_take_bounded_memory() -> None:
    window = SlidingWindow(rate=1_000_000, waiting=20)
    for n in range(200_000):
        assert window.take(n / 2000) == n / 2000
    assert len(window._groups) <= SLOTS + 2


def test_exactly_the_rate_and_one_beyond() -> None:
    window = SlidingWindow(rate=60, waiting=20)
    assert [window.take(0.0) for _ in range(60)] == [0.0] * 60
    assert [window.take(1.0) for _ in range(20)] == [60.0] * 20
    assert window.take(1.0) is None
    assert window.retry_after(1.0) == 59.0
    assert window.take(59.5) is None
    assert window.take(60.0) == 60.0


def test_without_waiting_the_next_turn_is_when_one_leaves() -> None:
    window = SlidingWindow(rate=2, waiting=0)
    assert [window.take(0.0), window.take(5.0), window.take(6.0)] == [0.0, 5.0, None]
    assert window.retry_after(6.0) == 54.0
    assert window.take(60.0) == 60.0
    assert window.take(60.0) is None
    assert window.retry_after(60.0) == 5.0


def test_a_window_is_idle_when_it_would_say_what_a_new_one_says() -> None:
    window = SlidingWindow(rate=1, waiting=1)
    assert window.is_idle(0.0)
    window.take(0.0)
    window.take(0.0)
    assert not window.is_idle(60.0)
    assert not window.is_idle(119.5)
    assert window.is_idle(120.0)


def test_more_slots_than_there_are_never_leave() -> None:
    with pytest.raises(AssertionError, match="more slots"):
        SlidingWindow(rate=1, waiting=1)._frees(1)


def test_a_bucket_is_full_at_first_and_fills_up_again() -> None:
    bucket = TokenBucket(rate=4, burst=2, now=10.0)
    assert [bucket.take(10.0), bucket.take(10.0)] == [0.0, 0.0]
    assert bucket.take(10.0) == 0.25
    assert bucket.take(10.125) == 0.125
    assert bucket.take(10.25) == 0.0
    assert bucket.take(10.25) == 0.25
    assert [bucket.take(1000.0) for _ in range(3)] == [0.0, 0.0, 0.25]


@given(st.integers(1, 8), STEPS)
@example(1, [0.0, 0.0, 0.5, 0.5])
def test_a_bucket_gives_no_more_than_burst_and_rate(burst: int, steps: list[float]) -> None:
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
