"""The connection is lost after each frame: the client delivers the same events."""

from typing import Any

import pytest
import trio
from support.clients import InTurn, Plain
from support.talk import EVENTS, WHOLE, WORDS, talk, talker
from trio.testing import MockClock

from netra_trio.client import ConnectionClosed, Stats, Status
from netra_trio.client.line import SUBPROTOCOLS
from netra_trio.protocol.codes import CloseCode
from netra_trio.testing import (
    After,
    Crash,
    Drop,
    DuplicateConnect,
    Every,
    HalfOpen,
    MemoryNetwork,
    Step,
    assert_nothing_lost,
    open_network,
)

pytestmark = pytest.mark.unmeasured

KINDS = pytest.mark.parametrize("is_plain", [False, True], ids=["acknowledging", "plain"])
IN_TURN = pytest.mark.parametrize(
    "offers", [SUBPROTOCOLS, SUBPROTOCOLS[::-1]], ids=["v2 first", "v1 first"]
)
INTERRUPTED = ("agent_completed", {"status": "interrupted"})


async def conversation(*script: Step, is_plain: bool, **settings: Any) -> tuple[Stats, int]:
    """Check that a conversation is complete in spite of the faults."""
    async with (
        open_network({"talker": talker}, script, **settings) as network,
        network.connect(**dialer(network, is_plain)) as client,
    ):
        assert await talk(client) == WHOLE
    assert_nothing_lost(network.trace)
    assert network.trace.announced == []
    return client.stats, network.events


def dialer(network: MemoryNetwork, is_plain: bool) -> dict[str, Any]:
    return {"dialer": Plain(network)} if is_plain else {}


@KINDS
async def test_an_uninterrupted_one(autojump_clock: MockClock, is_plain: bool) -> None:
    stats, events = await conversation(is_plain=is_plain)
    assert (stats.reconnections, events) == (0, EVENTS)


@KINDS
@pytest.mark.parametrize("fault", [Drop(), HalfOpen()], ids=["drop", "half-open"])
@pytest.mark.parametrize("cut", range(EVENTS))
async def test_lost_after_one_frame(
    autojump_clock: MockClock, is_plain: bool, fault: Drop | HalfOpen, cut: int
) -> None:
    stats, _ = await conversation(After(cut, fault), is_plain=is_plain)
    assert (stats.reconnections, stats.last_resume_verdict) == (1, "exact")


@KINDS
@pytest.mark.parametrize("fault", [Drop(), HalfOpen()], ids=["drop", "half-open"])
@pytest.mark.parametrize("n", range(1, EVENTS))
async def test_lost_after_every_nth_frame(
    autojump_clock: MockClock, is_plain: bool, fault: Drop | HalfOpen, n: int
) -> None:
    stats, events = await conversation(Every(n, fault), is_plain=is_plain)
    assert stats.reconnections >= (events - 1) // n
    assert stats.last_resume_verdict == "exact"


async def converse_in_turn(offers: tuple[str, ...], *script: Step) -> Stats:
    """Check that a conversation over sockets of both subprotocols is complete."""
    async with open_network({"talker": talker}, script) as network:
        dialer = InTurn(network, offers)
        async with network.connect(dialer=dialer) as client:
            assert await talk(client) == WHOLE
        assert dialer.opened == 1 + client.stats.reconnections
    assert_nothing_lost(network.trace)
    assert network.trace.announced == []
    return client.stats


@IN_TURN
@pytest.mark.parametrize("cut", range(EVENTS))
async def test_lost_after_one_frame_and_resumed_with_the_other_subprotocol(
    autojump_clock: MockClock, offers: tuple[str, ...], cut: int
) -> None:
    stats = await converse_in_turn(offers, After(cut, Drop()))
    assert (stats.reconnections, stats.last_resume_verdict) == (1, "exact")


@IN_TURN
@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 13])
async def test_lost_after_every_nth_frame_with_the_subprotocols_in_turn(
    autojump_clock: MockClock, offers: tuple[str, ...], n: int
) -> None:
    stats = await converse_in_turn(offers, Every(n, Drop()))
    assert stats.reconnections > 1
    assert stats.last_resume_verdict == "exact"


async def test_a_server_of_the_first_version(autojump_clock: MockClock) -> None:
    stats = await converse_in_turn(SUBPROTOCOLS[1:], Every(3, Drop()))
    assert stats.last_resume_verdict == "exact"


@KINDS
@pytest.mark.parametrize("cut", range(EVENTS))
async def test_taken_over_after_one_frame(
    autojump_clock: MockClock, is_plain: bool, cut: int
) -> None:
    async with (
        open_network({"talker": talker}, [After(cut, DuplicateConnect())]) as network,
        network.connect(**dialer(network, is_plain)) as client,
    ):
        try:
            await talk(client)
        except* ConnectionClosed:
            assert client.status is Status.ERROR
        await trio.sleep(1)
        await client.reconnect()
        for name in ("one", "two"):
            run = await client.send(name, thread_id=name, correlation_id=name)
            assert await run.result() == f"answer to {name}"
        assert client.stats.last_resume_verdict == "exact"
    assert_nothing_lost(network.trace)
    assert network.trace.announced == []
    assert list(network.trace.emitted.values()) == ["".join(WORDS)] * 2
    (events,) = network.trace.delivered.values()
    lost = [event.payload["code"] for event in events if event.type == "disconnected"]
    assert lost[0] == CloseCode.TAKEN_OVER


@KINDS
@pytest.mark.parametrize("cut", range(EVENTS))
async def test_the_server_is_killed_after_one_frame(
    autojump_clock: MockClock, is_plain: bool, cut: int
) -> None:
    async with (
        open_network({"talker": talker}, [After(cut, Crash())]) as network,
        network.connect(**dialer(network, is_plain)) as client,
    ):
        for said, whole in zip(await talk(client), WHOLE, strict=True):
            # A run that had ended before keeps its end; one in progress is interrupted.
            assert said[-1] in (whole[-1], INTERRUPTED)
            assert is_beginning([each for each in said[:-1] if each[0] != "reset"], whole)
    assert_nothing_lost(network.trace)
    assert [event.payload["reason"] for event in network.trace.announced] == ["unknown"]


def is_beginning(said: list[Any], whole: list[Any]) -> bool:
    if said and said[-1][0] == "text":
        what, text = whole[len(said) - 1]
        return is_beginning(said[:-1], whole) and what == "text" and text.startswith(said[-1][1])
    return said == whole[: len(said)]
