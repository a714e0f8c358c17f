"""When to beat, when to give up, and when a token ends: at each edge, and for any history."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netra_trio.protocol.keepalive import (
    EXPIRY_WARNING,
    LEEWAY,
    MISSED_INTERVALS,
    STALL_SECONDS,
    Liveness,
    LivenessStatus,
    TokenLife,
)


def test_the_bounds_are_the_contracts() -> None:
    assert (MISSED_INTERVALS, LEEWAY, EXPIRY_WARNING) == (2.5, 10.0, 60.0)


def test_a_silent_peer_is_lost_after_two_beats_and_a_half() -> None:
    life = Liveness(interval=30.0, now=100.0)
    seen = []
    for _ in range(3):
        now = life.next_poll
        assert life.poll(now - 0.25) is LivenessStatus.QUIET
        seen.append((now, life.poll(now)))
    assert seen == [
        (130.0, LivenessStatus.HEARTBEAT_DUE),
        (160.0, LivenessStatus.HEARTBEAT_DUE),
        (175.0, LivenessStatus.LOST),
    ]


def test_a_frame_just_before_the_end_keeps_the_line() -> None:
    life = Liveness(interval=30.0, now=0.0)
    life.poll(30.0)
    life.poll(60.0)
    life.heard(74.75)
    assert life.next_poll == 90.0
    life.poll(90.0)
    life.poll(120.0)
    assert life.next_poll == 149.75
    assert life.poll(149.5) is LivenessStatus.QUIET
    assert life.poll(149.75) is LivenessStatus.LOST
    assert life.poll(149.75) is LivenessStatus.LOST


def test_a_stall_of_the_process_is_not_the_silence_of_the_peer() -> None:
    life = Liveness(interval=1.0, now=0.0)
    life.heard(0.9)
    # Polled at 5 instead of 1: what the peer has sent meanwhile may lie unread.
    assert life.poll(5.0) is LivenessStatus.HEARTBEAT_DUE
    assert life.poll(6.0) is LivenessStatus.HEARTBEAT_DUE
    assert life.poll(7.0) is LivenessStatus.HEARTBEAT_DUE
    assert life.next_poll == 7.5
    assert life.poll(7.5) is LivenessStatus.LOST


@pytest.mark.parametrize(
    ("late", "status"),
    [(STALL_SECONDS, LivenessStatus.LOST), (STALL_SECONDS + 0.125, LivenessStatus.QUIET)],
)
def test_a_poll_may_be_late_by_half_a_second(late: float, status: LivenessStatus) -> None:
    life = Liveness(interval=10.0, now=0.0)
    life.poll(10.0)
    life.poll(20.0)
    assert life.next_poll == 25.0
    assert life.poll(25.0 + late) is status


def test_after_a_stall_one_beat_goes_out() -> None:
    life = Liveness(interval=30.0, now=0.0)
    life.heard(1000.0)
    assert [life.poll(1000.0), life.poll(1000.0)] == [
        LivenessStatus.HEARTBEAT_DUE,
        LivenessStatus.QUIET,
    ]
    assert life.next_poll == 1030.0


@given(
    st.integers(1, 100).map(lambda n: n / 4),
    st.lists(st.tuples(st.booleans(), st.integers(0, 400).map(lambda n: n / 8)), max_size=60),
)
def test_any_history(interval: float, steps: list[tuple[bool, float]]) -> None:
    life = Liveness(interval=interval, now=0.0)
    now = heard = last_beat = 0.0
    for hears, step in steps:
        now += step
        if hears:
            heard = now
            life.heard(now)
        due = life.next_poll
        if now - due > STALL_SECONDS:  # this process was late, not the peer
            heard = now
        sign = life.poll(now)
        assert (sign is LivenessStatus.LOST) is (now - heard >= 2.5 * interval)
        assert (sign is LivenessStatus.QUIET) is (now < due)
        if sign is LivenessStatus.HEARTBEAT_DUE:
            assert now - last_beat >= interval
            last_beat = now
        if sign is not LivenessStatus.LOST:
            assert now < life.next_poll <= now + interval


def test_a_token_warns_once_a_minute_before_it_ends() -> None:
    life = TokenLife(expires_at=1000.0, now=100.0)
    assert life.seconds_to_poll(100.0) == 840.0
    assert not life.warn(939.75)
    assert life.warn(940.0)
    assert not life.warn(940.0)
    assert life.seconds_to_poll(940.0) == 60.0
    assert not life.has_ended(999.75)
    assert life.has_ended(1000.0)
    assert life.seconds_to_poll(1001.0) == 0.0


def test_a_token_that_ends_soon_warns_at_once() -> None:
    life = TokenLife(expires_at=1000.0, now=990.0)
    assert life.seconds_to_poll(990.0) == 0.0
    assert life.warn(990.0)
    assert life.seconds_to_poll(990.0) == 10.0


@pytest.mark.parametrize(
    ("now", "ends_at"), [(999.0, 1000.0), (1000.0, 1010.0), (1009.0, 1010.0), (1011.0, 1010.0)]
)
def test_a_token_let_in_within_the_leeway_ends_with_it(now: float, ends_at: float) -> None:
    life = TokenLife(expires_at=1000.0, now=now)
    assert life.ends_at == ends_at
    assert life.expires_at == 1000.0
    assert life.has_ended(now) is (now >= ends_at)


def test_who_has_no_token_stays() -> None:
    life = TokenLife(expires_at=math.inf, now=0.0)
    assert life.seconds_to_poll(1e12) == math.inf
    assert not life.warn(1e12)
    assert not life.has_ended(1e12)
