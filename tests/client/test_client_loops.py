"""A server that answers each frame in the worst way drives no loop.

The frames are counted in virtual time.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
import trio
from support.scripted import Frame, Peer, ScriptedNetwork, opened, wall_clock
from trio.testing import MockClock

from netra_trio.client import Client
from netra_trio.client.refusals import back_off_seconds, wait_seconds
from netra_trio.client.tokens import Renewals

MINUTE = 60.0
TEMPORARY = ["RATE_LIMIT_EXCEEDED", "SERVICE_UNAVAILABLE", "SERVER_DRAINING"]
DELAYS = [{}, {"retry_after_ms": 0}, {"retry_after_ms": -1000}]

Answer = Callable[[Peer, Frame], None]


@asynccontextmanager
async def answering(
    answer: Answer, **options: object
) -> AsyncIterator[tuple[Client, Counter[str], Peer]]:
    """Open a client whose frames are counted by type and given to `answer`, on each connection.

    The last value is the first connection.
    """
    network, count = ScriptedNetwork(), Counter[str]()

    async def serve(peer: Peer) -> None:
        while True:
            frame = await peer.next()
            count[frame["type"]] += 1
            answer(peer, frame)

    async def accept() -> None:
        while True:
            peer = await network.accept()
            count["connection"] += 1
            peer.hello("exact")
            nursery.start_soon(serve, peer)

    async with opened(network, **options) as (client, peer), trio.open_nursery() as nursery:
        nursery.start_soon(serve, peer)
        nursery.start_soon(accept)
        yield client, count, peer
        nursery.cancel_scope.cancel()


def refusing(code: str, more: dict[str, int]) -> Answer:
    return lambda peer, frame: peer.error(code, frame.get("correlation_id"), **more)


@pytest.mark.parametrize("more", DELAYS)
@pytest.mark.parametrize("code", [*TEMPORARY, "QUEUE_FULL"])
async def test_refusals_of_a_message(
    autojump_clock: MockClock, code: str, more: dict[str, int]
) -> None:
    async with answering(refusing(code, more)) as (client, count, _):
        with trio.move_on_after(MINUTE):
            await client.send("hello")
        assert 1 <= count["user_message"] <= 9


@pytest.mark.parametrize("more", DELAYS)
@pytest.mark.parametrize("code", TEMPORARY)
async def test_refusals_of_requests(
    autojump_clock: MockClock, code: str, more: dict[str, int]
) -> None:
    async with answering(refusing(code, more)) as (client, count, _):
        with trio.move_on_after(MINUTE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.threads().list)
                nursery.start_soon(client.room("news").__aenter__)
                nursery.start_soon(client.watch("main").__aenter__)
        for kind in ("list_threads", "join_room", "watch_thread"):
            assert 1 <= count[kind] <= 9


def losing() -> Answer:
    """Answer each join of a thread with another loss."""
    offset = 0

    def lose(peer: Peer, frame: Frame) -> None:
        nonlocal offset
        key = frame.get("correlation_id")
        if frame["type"] == "unwatch_thread":
            peer.control("room_left", {"room": "thread:x"}, key)
        if frame["type"] != "watch_thread":
            return
        joined = {"room": "thread:x", "epoch": "e", "offset": offset, "verdict": "gap"}
        peer.control("room_joined", {**joined, "replayed": 0, "runs": []}, key)
        peer.control("room_gap", {"room": "thread:x", "from": offset + 1, "to": offset + 5})
        offset += 5

    return lose


async def test_a_pause_before_another_join_does_not_delay_the_leave(
    autojump_clock: MockClock,
) -> None:
    async with answering(losing()) as (client, count, _):
        async with client.watch("main"):
            await trio.sleep(10.5)  # the next join is due at 15 s
        assert trio.current_time() == 10.5
        assert count["unwatch_thread"] == 1
        joins = count["watch_thread"]
        await trio.sleep(MINUTE)
        assert count["watch_thread"] == joins


async def test_a_loss_after_each_join_of_a_thread(autojump_clock: MockClock) -> None:
    async with answering(losing()) as (client, count, _):
        with trio.move_on_after(MINUTE):
            async with client.watch("main") as watch:
                async for _ in watch:
                    pass
        assert 3 <= count["watch_thread"] <= 9


async def test_warnings_after_each_token(autojump_clock: MockClock) -> None:
    async def get_token() -> str:
        return "always.the.same"

    def warn(peer: Peer, frame: Frame) -> None:
        if frame["type"] == "auth":
            ends_at = {"expires_at": wall_clock() + MINUTE}
            peer.control("auth_ok", ends_at, frame["correlation_id"])
            peer.control("auth_expiring", ends_at)

    async with answering(warn, token=None, get_token=get_token) as (_, count, peer):
        peer.control("auth_expiring", {"expires_at": wall_clock() + MINUTE})
        await trio.sleep(MINUTE)
        assert 3 <= count["auth"] <= 7


async def test_the_same_token_over_several_connections(autojump_clock: MockClock) -> None:
    network, times = ScriptedNetwork(), list[float]()

    async def get_token() -> str:
        return "always.the.same"

    async def serve(peer: Peer) -> None:
        peer.control("auth_expiring", {"expires_at": wall_clock() + MINUTE})
        with trio.move_on_after(6.0):
            frame = await peer.expect("auth")
            times.append(trio.current_time())
            peer.control("auth_ok", {"expires_at": wall_clock() + MINUTE}, frame["correlation_id"])
        peer.event("agent_thinking", {"run_id": "r", "thought": "x"})
        peer.close(1012)

    async with opened(network, token=None, get_token=get_token) as (_, first):
        with trio.move_on_after(MINUTE):
            await serve(first)
            while True:
                peer = await network.accept()
                peer.hello("exact")
                await serve(peer)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert len(times) >= 3
    assert min(gaps) >= 5.0


def test_renewals_are_spaced_whatever_is_answered() -> None:
    for chance in (0.0, 0.999):
        renewals, now, times = Renewals(), 0.0, list[float]()
        for _ in range(6):
            now += renewals.pause(now, left=MINUTE)
            times.append(now)
            renewals.started(now, chance)
        gaps = [later - earlier for earlier, later in pairwise(times)]
        spread = 1 + chance / 4
        assert gaps == pytest.approx([gap * spread for gap in (5, 10, 20, 30, 30)])
        assert renewals.pause(now, left=1.0) == pytest.approx(5 * spread)
        # A token that has lasted ends the back-off.
        now += 120
        assert renewals.pause(now, left=MINUTE) == 0.0
        renewals.started(now, chance)
        assert renewals.pause(now, left=MINUTE) == pytest.approx(5 * spread)


def test_waits_after_refusals() -> None:
    assert [wait_seconds(None, n) for n in range(4)] == [1.0, 1.0, 2.0, 4.0]
    assert [wait_seconds(0, n) for n in range(4)] == [0.25, 1.0, 2.0, 4.0]
    assert [wait_seconds(2500, n) for n in range(4)] == [2.5] * 4
    assert back_off_seconds(10_000) == 30.0


async def test_a_connection_that_is_closed_at_once(autojump_clock: MockClock) -> None:
    network = ScriptedNetwork()
    async with opened(network, random=lambda: 0.999) as (_, first):
        first.close(1011)
        with trio.move_on_after(MINUTE):
            while True:
                peer = await network.accept()
                peer.hello("exact")
                peer.close(1011)
        assert len(network.times) <= 8
