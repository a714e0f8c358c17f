"""A connection that delivers nothing, and the statistics of one that does."""

import pytest
import trio
from support.scripted import ScriptedNetwork, opened, wall_clock
from trio.testing import MockClock

from netra_trio.client import Client, Status


@pytest.fixture
def network() -> ScriptedNetwork:
    return ScriptedNetwork()


def status_of(client: Client) -> Status:
    return client.status  # a call, because a type checker narrows an attribute


async def test_heartbeats(autojump_clock: MockClock, network: ScriptedNetwork) -> None:
    async with opened(network) as (_, peer):
        for _ in range(5):
            await trio.sleep(30)
            peer.control("heartbeat", {"server_time": wall_clock()})
            await peer.expect("pong")
        peer.deaf = True
        second = (
            await network.accept()
        )  # a half-open connection: nothing is received, and it is not closed
        assert trio.current_time() == 150 + 36 + 5
        assert peer.gone.is_set()
        second.hello("exact")


async def test_a_connection_is_dead_if_nothing_comes_after_a_message(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, peer), trio.open_nursery() as nursery:
        peer.deaf = True
        nursery.start_soon(client.send, "hello")
        await peer.expect("user_message")
        second = await network.accept()
        assert trio.current_time() == 3 + 5
        assert status_of(client) is Status.RECONNECTING
        second.hello("exact")
        second.confirm(await second.expect("user_message"))


async def test_a_probe_that_is_answered_is_no_event(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, peer), trio.open_nursery() as nursery:
        nursery.start_soon(client.send, "hello")
        message = await peer.expect("user_message")
        await trio.sleep(300)
        assert len(network.times) == 1
        peer.confirm(message)
        peer.delta("x")
        kinds = []
        async for event in client.events():
            kinds.append(event.type)
            if event.type == "partial_result":
                break
        assert kinds == ["connected", "message_confirmed", "partial_result"]
        stats = client.stats
        assert (stats.messages_sent, stats.messages_received) == (1, 1)


async def test_a_large_message_on_a_slow_connection_is_no_silence(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, peer), trio.open_nursery() as nursery:
        client.session.set_limits({"max_message_size": 2_000_000})
        peer.deaf = True
        nursery.start_soon(client.send, "x" * 1_000_000)
        message = await peer.expect("user_message")
        await trio.sleep(60)  # at 16 KiB a second
        assert len(network.times) == 1
        peer.confirm(message)


async def test_statistics_count_messages_once(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, peer), trio.open_nursery() as nursery:
        nursery.start_soon(client.send, "hello")
        await peer.expect("user_message")
        peer.close(1006)
        second = await network.accept()
        await trio.sleep(2)
        second.hello("exact")
        second.confirm(await second.expect("user_message"))
        second.control("heartbeat", {"server_time": wall_clock()})
        await second.expect("pong")
        second.delta("a")
        second.complete()
        await trio.sleep(2)  # and an acknowledgement
        stats = client.stats
        assert (stats.messages_sent, stats.messages_received) == (1, 2)
        assert (stats.reconnections, stats.average_reconnection_ms) == (1, 2000.0)
        assert stats.last_activity == wall_clock() - 1


async def test_a_stall_of_the_client_is_not_the_silence_of_the_server(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, peer):
        for seconds in (36, 37.5, 1000):  # just in time, late, and very late
            autojump_clock.jump(seconds)
            peer.control("heartbeat", {"server_time": wall_clock()})  # it has arrived, unread
            await peer.expect("pong")
        started = trio.current_time()
        autojump_clock.jump(1000)  # with nothing to read: the server has its whole time again
        peer.deaf = True
        await trio.sleep(40)
        assert status_of(client) is Status.CONNECTED
        assert not peer.gone.is_set()
        second = await network.accept()
        assert trio.current_time() == started + 1000 + 36 + 5
        second.hello("exact")
