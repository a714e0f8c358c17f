"""The rate of openings: at its bound and one beyond, per user and per address."""

from collections.abc import Callable

import pytest

from netra_trio.config.settings import OPENING_BURST_SECONDS
from netra_trio.endpoints.opening_rate import OpeningRate
from netra_trio.ids import UserId
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.problem import Problem, Refused

RATE = 10
BURST = RATE * OPENING_BURST_SECONDS
ALICE, BOB = UserId("alice"), UserId("bob")
PUBLIC = ["8.8.8.8", "2606:4700::1111"]
NOT_PUBLIC = ["127.0.0.1", "10.0.0.1", "192.168.1.1", "172.16.0.1", "::1", "fd00::1", "", "unix"]


def refused(call: Callable[..., None], *args: object) -> Problem:
    with pytest.raises(Refused) as caught:
        call(*args)
    assert caught.value.problem.code is ErrorCode.RATE_LIMIT_EXCEEDED
    assert caught.value.problem.status == 429
    return caught.value.problem


def test_a_user_at_the_burst_and_one_beyond() -> None:
    rate = OpeningRate(RATE, BURST)
    for _ in range(BURST):
        rate.take(ALICE, 0.0)
    assert refused(rate.take, ALICE, 0.0).retry_after_ms == 100
    rate.take(BOB, 0.0)
    assert refused(rate.take, ALICE, 0.05).retry_after_ms == 50
    rate.take(ALICE, 0.1)
    assert refused(rate.take, ALICE, 0.1).retry_after_ms == 100


def test_a_user_at_the_rate_and_beyond_it() -> None:
    rate = OpeningRate(RATE, BURST)
    for n in range(10 * BURST):
        rate.take(ALICE, n / RATE)
    beyond, taken = OpeningRate(RATE, BURST), 0
    for n in range(10 * BURST):
        try:
            beyond.take(ALICE, n / (RATE * 2))
        except Refused:
            continue
        taken += 1
    seconds = 10 * BURST / (RATE * 2)
    assert taken == pytest.approx(BURST + RATE * seconds, abs=2)


def test_memory_is_bounded_by_the_users_of_the_last_burst() -> None:
    rate = OpeningRate(RATE, BURST)
    for n in range(1000):
        rate.take(UserId(f"user-{n}"), float(n))
        assert len(rate._users) <= OPENING_BURST_SECONDS


@pytest.mark.parametrize("address", PUBLIC)
def test_an_address_at_the_burst_of_rejections_and_one_beyond(address: str) -> None:
    rate = OpeningRate(RATE, BURST)
    for _ in range(BURST):
        rate.note_rejected(address, 0.0)
        rate.check_address(address, 0.0)
    rate.note_rejected(address, 0.0)
    assert refused(rate.check_address, address, 0.0).retry_after_ms == 100
    rate.check_address("9.9.9.9", 0.0)
    rate.check_address(address, 0.1)
    rate.note_rejected(address, 0.2)
    assert len(rate._blocked) <= 1


def test_the_addresses_of_one_ipv6_network_count_together() -> None:
    rate = OpeningRate(RATE, BURST)
    for n in range(BURST + 1):
        rate.note_rejected(f"2606:4700::{n:x}", 0.0)
    refused(rate.check_address, "2606:4700::ffff:1", 0.0)
    rate.check_address("2606:4700:0:1::1", 0.0)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_the_addresses_of_proxies_are_not_limited(address: str) -> None:
    rate = OpeningRate(RATE, BURST)
    for _ in range(2 * BURST):
        rate.note_rejected(address, 0.0)
    rate.check_address(address, 0.0)
