"""When a heartbeat is due, when a peer is lost, when a token ends: at each limit, any history."""

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


def test_the_bounds_are_those_of_the_protocol() -> None:
    assert (MISSED_INTERVALS, LEEWAY, EXPIRY_WARNING) == (2.5, 10.0, 60.0)


def test_a_silent_peer_is_lost_after_two_and_a_half_intervals() -> None:
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


def test_a_frame_just_before_the_limit_keeps_the_connection() -> None:
    life = Liveness(interval=30.0, now=0.0)
    life.poll(30.0)
    life.poll(60.0)
    life.note_frame(74.75)
    assert life.next_poll == 90.0
    life.poll(90.0)
    life.poll(120.0)
    assert life.next_poll == 149.75
    assert life.poll(149.5) is LivenessStatus.QUIET
    assert life.poll(149.75) is LivenessStatus.LOST
    assert life.poll(149.75) is LivenessStatus.LOST


def test_a_stall_of_the_process_does_not_count_as_silence() -> None:
    life = Liveness(interval=1.0, now=0.0)
    life.note_frame(0.9)
    # Polled at 5 instead of 1: there may be frames of the peer that were not read.
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


def test_one_heartbeat_is_due_after_a_stall() -> None:
    life = Liveness(interval=30.0, now=0.0)
    life.note_frame(1000.0)
    assert [life.poll(1000.0), life.poll(1000.0)] == [
        LivenessStatus.HEARTBEAT_DUE,
        LivenessStatus.QUIET,
    ]
    assert life.next_poll == 1030.0


@given(
    st.integers(1, 100).map(lambda n: n / 4),
    st.lists(st.tuples(st.booleans(), st.integers(0, 400).map(lambda n: n / 8)), max_size=60),
)
def test_polls_are_correct_for_any_history(
    interval: float, steps: list[tuple[bool, float]]
) -> None:
    life = Liveness(interval=interval, now=0.0)
    now = last_frame = last_heartbeat = 0.0
    for has_frame, step in steps:
        now += step
        if has_frame:
            last_frame = now
            life.note_frame(now)
        due = life.next_poll
        if now - due > STALL_SECONDS:  # this process was late, not the peer
            last_frame = now
        status = life.poll(now)
        assert (status is LivenessStatus.LOST) is (now - last_frame >= 2.5 * interval)
        assert (status is LivenessStatus.QUIET) is (now < due)
        if status is LivenessStatus.HEARTBEAT_DUE:
            assert now - last_heartbeat >= interval
            last_heartbeat = now
        if status is not LivenessStatus.LOST:
            assert now < life.next_poll <= now + interval


def test_a_warning_is_due_once_a_minute_before_the_token_ends() -> None:
    life = TokenLife(expires_at=1000.0, now=100.0)
    assert life.seconds_to_poll(100.0) == 840.0
    assert not life.warn(939.75)
    assert life.warn(940.0)
    assert not life.warn(940.0)
    assert life.seconds_to_poll(940.0) == 60.0
    assert not life.has_ended(999.75)
    assert life.has_ended(1000.0)
    assert life.seconds_to_poll(1001.0) == 0.0


def test_a_warning_is_due_at_once_if_the_token_ends_soon() -> None:
    life = TokenLife(expires_at=1000.0, now=990.0)
    assert life.seconds_to_poll(990.0) == 0.0
    assert life.warn(990.0)
    assert life.seconds_to_poll(990.0) == 10.0


@pytest.mark.parametrize(
    ("now", "ends_at"), [(999.0, 1000.0), (1000.0, 1010.0), (1009.0, 1010.0), (1011.0, 1010.0)]
)
def test_a_token_accepted_within_the_leeway_ends_with_the_leeway(
    now: float, ends_at: float
) -> None:
    life = TokenLife(expires_at=1000.0, now=now)
    assert life.ends_at == ends_at
    assert life.expires_at == 1000.0
    assert life.has_ended(now) is (now >= ends_at)


def test_a_connection_without_a_token_does_not_expire() -> None:
    life = TokenLife(expires_at=math.inf, now=0.0)
    assert life.seconds_to_poll(1e12) == math.inf
    assert not life.warn(1e12)
    assert not life.has_ended(1e12)
