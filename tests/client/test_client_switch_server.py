"""The same with the real server: connections are replaced in the middle of conversations."""

import signal
from pathlib import Path

import pytest
import trio
from support.announcing import Announcing, refusing
from support.clients import Plain
from support.ports import kept_port
from support.server import PATIENCE, serving, sign, write_agents
from support.talk import EVENTS, WHOLE, talk, talker
from trio.testing import MockClock

from netra_trio.agents.run import Run
from netra_trio.client import Client, Network, Status, connect
from netra_trio.protocol.codes import EndReason
from netra_trio.testing import (
    After,
    Delay,
    Drop,
    Every,
    HalfOpen,
    MemoryNetwork,
    Step,
    assert_nothing_lost,
    open_network,
)

KINDS = pytest.mark.parametrize("is_plain", [False, True], ids=["acknowledging", "plain"])
PLACES = range(1, EVENTS - 3)  # the last events are too late for another connection
INTERVALS = (1, 2, 3, 4, 5, 7, 10, 15, 20, 25, 30, 34)


async def converse(
    network: MemoryNetwork, announcing: Announcing, *, is_plain: bool = False
) -> Client:
    """Check that a conversation is complete."""
    dialer = Plain(announcing) if is_plain else announcing
    async with network.connect(dialer=dialer, random=lambda: 0.0) as client:
        assert await talk(client) == WHOLE
    assert_nothing_lost(network.trace)
    assert network.trace.announced == []
    return client


def told(network: MemoryNetwork) -> list[str]:
    """Return the types of the client's own events."""
    (events,) = network.trace.delivered.values()
    return [event.type for event in events if event.type in {"connected", "disconnected"}]


@KINDS
@pytest.mark.parametrize("seconds", [0.0, 0.004], ids=["at once", "slow upgrade"])
@pytest.mark.parametrize("n", INTERVALS)
async def test_replaced_after_every_nth_frame(
    autojump_clock: MockClock, n: int, seconds: float, is_plain: bool
) -> None:
    async with open_network({"talker": talker}) as network:
        network.inject(Delay(seconds))
        announcing = Announcing(network, lambda events: events % n == 0)
        client = await converse(network, announcing, is_plain=is_plain)
    assert client.stats.errors_encountered == 0
    assert told(network) == ["connected"] * (client.stats.reconnections + 1)
    # The client may be left while the last one is being opened.
    assert 1 <= announcing.opened - client.stats.reconnections <= 2
    assert client.stats.reconnections > 0
    assert announcing.most == 2


@pytest.mark.parametrize("fault", [Drop(), HalfOpen()], ids=["drop", "half-open"])
@pytest.mark.parametrize("cut", PLACES)
async def test_lost_after_one_frame_while_connections_are_replaced(
    autojump_clock: MockClock, cut: int, fault: Drop | HalfOpen
) -> None:
    script: list[Step] = [After(cut, fault)]
    async with open_network({"talker": talker}, script) as network:
        network.inject(Delay(0.004))
        await converse(network, Announcing(network, lambda events: events % 3 == 0))


@pytest.mark.parametrize("n", INTERVALS)
async def test_lost_after_every_nth_frame_while_connections_are_replaced(
    autojump_clock: MockClock, n: int
) -> None:
    async with open_network({"talker": talker}, [Every(n, Drop())]) as network:
        network.inject(Delay(0.002))
        await converse(network, Announcing(network, lambda events: events % 2 == 0))


@KINDS
@pytest.mark.parametrize("n", INTERVALS)
async def test_refused_after_every_nth_frame(
    autojump_clock: MockClock, n: int, is_plain: bool
) -> None:
    async with open_network({"talker": talker}) as network:
        network.inject(Delay(0.002))
        announcing = Announcing(network, lambda events: events % n == 0, refusing)
        client = await converse(network, announcing, is_plain=is_plain)
    assert client.stats.errors_encountered == 0
    assert announcing.requests > announcing.opened


async def test_the_old_connection_is_taken_over(autojump_clock: MockClock) -> None:
    async with open_network({"talker": talker}) as network:
        announcing = Announcing(network, lambda events: events == 5)
        async with network.connect(dialer=announcing) as client:
            assert await talk(client) == WHOLE
            await trio.sleep(10)
            assert client.stats.reconnections == 1
            assert network.server.app is not None
            assert network.server.app.statistics()["connections"] == 1
            assert len(network.lines) == 1


# --- a server that drains, and is the only one


async def work(run: Run) -> str:
    """Work for so many seconds."""
    for number in range(int(run.content)):
        await run.emit(f"{number} ")
        await trio.sleep(1)
    return "done"


async def test_a_run_ends_while_the_only_server_drains(autojump_clock: MockClock) -> None:
    async with open_network({"work": work}, drain_timeout_ms=20_000) as network:
        announcing = Announcing(network, lambda _: False)
        async with network.connect(dialer=announcing, max_attempts=3) as client:
            run = await client.send("10")
            assert network.server.app is not None
            async with trio.open_nursery() as nursery:
                nursery.start_soon(network.server.app.drain)
                await trio.sleep(5)
                assert client.status is Status.CONNECTED
                assert await run.text() == "".join(f"{number} " for number in range(10))
                assert await run.result() == "done"
            # 1 s, then 1 s and a half of 1, 2 and 4 s: 1, 2.5, 4.5, 7.5
            assert announcing.requests == 1 + 4
            assert client.stats.errors_encountered <= 1  # the close
            network.inject(Drop())
            network.server.crash(0)
            assert await (await client.send("1")).result() == "done"
    assert [event.payload["reason"] for event in network.trace.announced] == ["unknown"]


async def test_an_idle_client_of_one_server_of_several(autojump_clock: MockClock) -> None:
    async with open_network({"work": work}) as network, network.connect() as client:
        assert network.server.app is not None
        await trio.sleep(1)
        begun = trio.current_time()
        await network.server.app.node.drain(has_peers=True, random=lambda: 0.5)
        assert trio.current_time() - begun == 4  # no other server accepts this client
        await trio.sleep(0.1)
        assert client.status is Status.RECONNECTING


# --- over TCP

WORK = """
import trio


async def work(run):
    for number in range(int(run.content)):
        await run.emit(f"{number} ")
        await trio.sleep(0.1)
    return "done"
"""
SAID = "".join(f"{number} " for number in range(9))


async def follow(client: Client, told: list[str]) -> None:
    async for event in client.events():
        told.extend([] if event.seq else [event.type])


async def test_replaced_over_tcp(tmp_path: Path) -> None:
    write_agents(tmp_path, WORK)
    with serving(tmp_path, "--agent=outside_agents:work") as server, trio.fail_after(PATIENCE):
        announcing = Announcing(Network(), lambda events: events % 4 == 0)
        async with connect(server.url, token=sign(), dialer=announcing) as client:
            run = await client.send("9")
            assert await run.text() == SAID
            assert await run.result() == "done"
            assert client.stats.errors_encountered == 0
            assert client.stats.reconnections == announcing.opened - 1
            assert client.stats.reconnections >= 1
            assert announcing.most == 2
        ended = server.process.wait_log("connection_ended", announcing.opened - 1)
        assert {line["reason"] for line in ended} >= {EndReason.TAKEN_OVER.label}


async def test_the_only_server_is_restarted(tmp_path: Path) -> None:
    write_agents(tmp_path, WORK)
    kinds: list[str] = []
    with kept_port() as kept, trio.fail_after(PATIENCE):
        port = str(kept)
        with serving(tmp_path, "--agent=outside_agents:work", port=port) as first:
            async with (
                connect(first.url, token=sign(), random=lambda: 0.2) as client,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(follow, client, kinds)
                run = await client.send("9")
                first.process.send_signal(signal.SIGTERM)
                assert await run.text() == SAID
                assert await run.result() == "done"
                await trio.to_thread.run_sync(first.process.wait)
                with serving(tmp_path, "--agent=outside_agents:work", port=port):
                    assert await (await client.send("1")).result() == "done"
                nursery.cancel_scope.cancel()
    assert kinds[:3] == ["connected", "server_draining", "disconnected"]
    assert kinds[-2:] == ["connected", "reset"]
