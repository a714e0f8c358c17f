"""When keys are fetched, and how tokens wait for them; in virtual time."""

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from attrs import define, field
from structlog.testing import capture_logs
from support.keyserver import key_set
from support.keysets import MARK, NEW, RSA, named, unavailable

from netra_trio.auth.jwk import Key, KeysUnavailable
from netra_trio.auth.key_set import BACK_OFF_SECONDS, GAP_SECONDS, REFRESH_SECONDS, WAITING, KeySet
from netra_trio.protocol.problem import Refused

GOOD = key_set(RSA)


@define
class Source:
    """Replaces a key server; it answers with its `answer` at the start of the fetch."""

    answer: bytes | Exception = GOOD
    seconds: float = 0.5
    starts: list[float] = field(factory=list)
    most_at_once: int = 0
    _at_once: int = 0

    async def fetch(self) -> bytes:
        self.starts.append(trio.current_time())
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        answer = self.answer
        try:
            await trio.sleep(self.seconds)
        finally:
            self._at_once -= 1
        if isinstance(answer, Exception):
            raise answer
        return answer


DOWN = KeysUnavailable("it is down")


@asynccontextmanager
async def opened(source: Source, *, jitter: float = 0.0) -> AsyncIterator[KeySet]:
    keys = KeySet(source.fetch, jitter=lambda: jitter)
    async with keys.open():
        yield keys


async def test_the_start_does_not_wait_for_the_first_fetch(
    autojump_clock: trio.testing.MockClock,
) -> None:
    source = Source(seconds=2.5)
    async with opened(source) as keys:
        assert trio.current_time() == 0
        assert not keys.is_available
        # An early call waits for the fetch in progress, not for another one.
        assert await keys.find(named("RS256-1")) is not None
        assert trio.current_time() == 2.5
        assert keys.is_available


async def test_keys_are_refreshed_every_five_minutes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    source = Source()
    async with opened(source) as keys:
        await trio.sleep(3 * REFRESH_SECONDS)
        source.answer = key_set(NEW)
        await trio.sleep(REFRESH_SECONDS)
        assert source.starts == [0, 300.5, 601, 901.5]
        assert keys.is_available
        # Keys that are no longer published are dropped.
        assert await keys.find(named("new")) is not None
        assert await keys.find(named("RS256-1")) is None


@pytest.mark.parametrize(
    ("jitter", "pauses"), [(0.0, [2] * 8), (1.0, [2.5, 4.5, 8.5, 16.5, 30.5, 30.5, 30.5, 30.5])]
)
async def test_the_back_off(
    jitter: float, pauses: list[float], autojump_clock: trio.testing.MockClock
) -> None:
    source = Source(DOWN)
    async with opened(source, jitter=jitter):
        await trio.sleep(sum(pauses) + 0.1)
        gaps = [b - a for a, b in zip(source.starts, source.starts[1:], strict=False)]
        assert gaps == pauses
        assert BACK_OFF_SECONDS == (1.0, 30.0)
        # A success resets the back-off.
        source.answer = GOOD
        await trio.sleep(31)
        source.answer, source.starts[:] = DOWN, []
        await trio.sleep(REFRESH_SECONDS + 10)
        first, second = source.starts[:2]
        assert second - first == pauses[0]


async def test_the_back_off_after_days_of_failures(autojump_clock: trio.testing.MockClock) -> None:
    source = Source(DOWN, seconds=0)
    async with opened(source, jitter=1.0):
        await trio.sleep(5 * 24 * 3600)
        assert source.starts[-1] - source.starts[-2] == 30


async def test_an_outage_keeps_the_keys(autojump_clock: trio.testing.MockClock) -> None:
    source = Source()
    async with opened(source) as keys:
        await trio.sleep(1)
        source.answer = DOWN
        await trio.sleep(3600)
        assert not keys.is_available
        assert await keys.find(named("RS256-1")) is not None
        await unavailable(keys)
        source.answer = key_set(NEW)
        assert await keys.find(named("new")) is not None
        assert keys.is_available


@pytest.mark.parametrize("answer", [b"<html>", key_set(), b"[]", RuntimeError(MARK), OSError(MARK)])
async def test_an_invalid_answer_is_an_outage(
    answer: bytes | Exception, autojump_clock: trio.testing.MockClock
) -> None:
    source = Source()
    async with opened(source) as keys:
        await trio.sleep(1)
        source.answer = answer
        await unavailable(keys)
        assert await keys.find(named("RS256-1")) is not None
        source.answer = key_set(NEW)
        assert await keys.find(named("new")) is not None


async def test_a_start_without_the_key_server(autojump_clock: trio.testing.MockClock) -> None:
    source = Source(DOWN)
    async with opened(source) as keys:
        await unavailable(keys, "RS256-1")
        source.answer = GOOD
        assert await keys.find(named("RS256-1")) is not None
        assert trio.current_time() < 10


async def test_changes_are_logged_and_attempts_are_not(
    autojump_clock: trio.testing.MockClock,
) -> None:
    source = Source(DOWN)
    with capture_logs() as logs:
        async with opened(source):
            await trio.sleep(1000)
            source.answer = GOOD
            await trio.sleep(1000)
            source.answer = RuntimeError(MARK)
            await trio.sleep(1000)
            source.answer = b"[]"
            await trio.sleep(1000)
    assert [(line["event"], line.get("reason"), line.get("keys")) for line in logs] == [
        ("keys_unavailable", "it is down", None),
        ("keys_available", None, 1),
        ("keys_unavailable", "asking it failed (RuntimeError)", None),
    ]
    assert logs[0]["exc_info"] is None
    assert isinstance(logs[2]["exc_info"], RuntimeError), "an unexpected error has its traceback"


# Waiting calls.


async def test_a_new_key_is_fetched_at_once(autojump_clock: trio.testing.MockClock) -> None:
    source = Source()
    async with opened(source) as keys:
        await trio.sleep(100)
        source.answer = key_set(NEW)
        assert await keys.find(named("new")) is not None
        assert trio.current_time() == 100.5
        # The next fetch starts two seconds after the start of the last one, not earlier.
        assert await keys.find(named("unknown")) is None
        assert trio.current_time() == 102.5
        assert source.starts == [0, 100, 102]


async def test_a_fetch_that_started_earlier_is_not_sufficient(
    autojump_clock: trio.testing.MockClock,
) -> None:
    source = Source(seconds=2.9)
    async with opened(source) as keys:
        await trio.sleep(0.1)
        source.answer = key_set(NEW)  # too late for the fetch in progress
        assert await keys.find(named("new")) is not None
        assert source.starts == [0, 2.9]
        assert trio.current_time() == pytest.approx(5.8)


async def test_an_earlier_failure_does_not_refuse_a_token(
    autojump_clock: trio.testing.MockClock,
) -> None:
    source = Source(DOWN)
    async with opened(source) as keys:
        await trio.sleep(0.1)
        source.answer = GOOD
        assert await keys.find(named("RS256-1")) is not None
        assert source.starts == [0, 2]


async def test_a_waiting_token_ends_a_back_off(autojump_clock: trio.testing.MockClock) -> None:
    source = Source(DOWN)
    async with opened(source, jitter=1.0) as keys:
        await trio.sleep(65)
        assert source.starts[-1] == 62.5
        source.answer = GOOD
        assert await keys.find(named("RS256-1")) is not None
        assert trio.current_time() == 65.5


async def test_a_flood_causes_one_fetch_in_two_seconds(
    autojump_clock: trio.testing.MockClock,
) -> None:
    source = Source()
    outcomes = {"unknown": 0, "unavailable": 0}

    async def ask(keys: KeySet, number: int) -> None:
        try:
            assert await keys.find(named(f"flood-{number}")) is None
            outcomes["unknown"] += 1
        except Refused:
            outcomes["unavailable"] += 1

    async def flood(keys: KeySet, nursery: trio.Nursery) -> None:
        for number in range(20_000):
            nursery.start_soon(ask, keys, number)
            await trio.sleep(0.001)

    async with opened(source) as keys, trio.open_nursery() as nursery:
        await trio.sleep(10.0005)  # not at the exact end of a fetch
        nursery.start_soon(flood, keys, nursery)
        await trio.sleep(10)
        # A rotation during the flood: refused with 503 for two seconds at most, then known.
        source.answer = key_set(RSA, NEW)
        began = trio.current_time()
        while True:
            try:
                assert await keys.find(named("new")) is not None
                break
            except Refused:
                await trio.sleep(0.1)
        assert trio.current_time() - began <= GAP_SECONDS + source.seconds + 0.1
        await trio.sleep(1)
        # A token with a known key does not wait.
        assert keys._waiting == WAITING
        began = trio.current_time()
        assert await keys.find(named("RS256-1")) is not None
        assert trio.current_time() == began
    assert source.most_at_once == 1
    gaps = [b - a for a, b in zip(source.starts, source.starts[1:], strict=False)]
    assert min(gaps) >= GAP_SECONDS
    assert len(source.starts) <= 2 + 22 / GAP_SECONDS
    assert outcomes["unknown"] + outcomes["unavailable"] == 20_000
    assert outcomes["unknown"] >= WAITING * 9
    assert keys._waiting == 0


async def test_sixty_four_tokens_wait_and_another_is_refused(
    autojump_clock: trio.testing.MockClock,
) -> None:
    source = Source()
    async with opened(source) as keys:
        await trio.sleep(10)
        async with trio.open_nursery() as nursery:
            for number in range(WAITING):
                nursery.start_soon(keys.find, named(f"flood-{number}"))
            await trio.testing.wait_all_tasks_blocked()
            await unavailable(keys)
            assert trio.current_time() == 10
        assert await keys.find(named("unknown")) is None
        assert keys._waiting == 0


async def test_cancelling_a_waiting_call_does_not_cancel_the_fetch(
    autojump_clock: trio.testing.MockClock,
) -> None:
    source = Source(seconds=1)
    found: list[Key | None] = []

    async def ask(keys: KeySet) -> None:
        found.append(await keys.find(named("new")))

    async with opened(source) as keys:
        await trio.sleep(10)
        source.answer = key_set(NEW)
        async with trio.open_nursery() as nursery:
            with trio.move_on_after(0.5) as scope:
                nursery.start_soon(ask, keys)
                await keys.find(named("new"))
            assert scope.cancelled_caught
            assert keys._waiting == 1
        assert [key.kid for key in found if key] == ["new"]
        assert trio.current_time() == 11
        assert source.starts == [0, 10]
        # A call that is cancelled alone has started a fetch, without further effects.
        with trio.move_on_after(0.5):
            await keys.find(named("unknown"))
        assert keys._waiting == 0
        await trio.sleep(10)
        assert source.starts == [0, 10, 12]


async def test_an_exception_of_look_is_propagated(autojump_clock: trio.testing.MockClock) -> None:
    def look(keys: tuple[Key, ...]) -> Key | None:
        if keys:
            raise LookupError(MARK)
        return None

    async with opened(Source()) as keys:
        with pytest.raises(LookupError):
            await keys.find(look)
        assert keys._waiting == 0


async def test_closing_refuses_waiting_calls(autojump_clock: trio.testing.MockClock) -> None:
    source = Source(seconds=math.inf)
    keys = KeySet(source.fetch)
    await unavailable(keys)
    async with trio.open_nursery() as nursery:
        async with keys.open():
            nursery.start_soon(unavailable, keys)
            await trio.testing.wait_all_tasks_blocked()
        await unavailable(keys)
    assert trio.current_time() == 0
