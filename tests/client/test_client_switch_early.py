"""A message that a draining server does not accept starts the first attempt at once; scripted."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from support.announcing import Announcing
from support.scripted import Peer, ScriptedNetwork, opened
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio.agents.run import Run
from netra_trio.client import Client, Status
from netra_trio.testing import Drop, open_network

REFUSAL = {"code": "SERVER_DRAINING", "error": "It is about to restart.", "help": "Wait."}
TOLD = 4.0  # seconds


@pytest.fixture
def network() -> ScriptedNetwork:
    return ScriptedNetwork()


def drain(peer: Peer, seconds: float = TOLD) -> None:
    payload = {"reason": "restart", "reconnect_after_ms": round(seconds * 1000)}
    peer.control("server_draining", payload)


@asynccontextmanager
async def sending(client: Client, *contents: str) -> AsyncIterator[None]:
    """Send messages in their order; give up those that are not confirmed at the end."""
    async with trio.open_nursery() as nursery:
        for content in contents:
            nursery.start_soon(client.send, content)
            await wait_all_tasks_blocked()
        yield
        nursery.cancel_scope.cancel()


async def contents(peer: Peer, count: int) -> list[str]:
    """Confirm so many messages, and return their contents."""
    found = []
    for number in range(count):
        message = await peer.expect("user_message")
        found.append(message["payload"]["content"])
        peer.confirm(message, f"run_{number}")
    return found


async def test_an_idle_client_keeps_to_the_told_time(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (_, old):
        drain(old)
        await trio.sleep(TOLD - 0.01)
        assert network.times == [0.0]
        await network.accept()
        assert network.times == [0.0, TOLD]


async def test_a_message_in_the_wait_starts_the_attempt(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, old):
        drain(old)
        await trio.sleep(1)
        async with sending(client, "one", "two"):
            new = await network.accept()
            assert network.times == [0.0, 1.0]
            new.hello("exact")
            assert await contents(new, 2) == ["one", "two"]
        assert not old.received
        assert client.status is Status.CONNECTED
        await trio.sleep(60)
        assert network.times == [0.0, 1.0]


async def test_a_message_that_waits_when_the_frame_comes(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, old), sending(client, "one", "two"):
        await trio.sleep(1)
        drain(old)
        new = await network.accept()
        assert network.times == [0.0, 1.0]
        new.hello("exact")
        assert await contents(new, 2) == ["one", "two"]
        assert [frame["payload"]["content"] for frame in old.received] == ["one"]


@pytest.mark.parametrize("is_confirmed", [True, False], ids=["confirmed", "refused"])
async def test_a_message_whose_answer_is_on_its_way(
    autojump_clock: MockClock, network: ScriptedNetwork, is_confirmed: bool
) -> None:
    async with opened(network) as (client, old), sending(client, "one"):
        drain(old)
        await trio.sleep(1)
        assert network.times == [0.0]
        message = await old.expect("user_message")
        if is_confirmed:
            old.confirm(message)
        else:
            old.error("SERVER_DRAINING", message["correlation_id"], retry_after_ms=1000)
        new = await network.accept()
        assert network.times == [0.0, TOLD if is_confirmed else 1.0]
        new.hello("exact", last_seq=int(is_confirmed))
        await wait_all_tasks_blocked()
        assert len(new.received) == (not is_confirmed)


async def test_a_request_is_answered_by_the_draining_server(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, old), trio.open_nursery() as nursery:
        drain(old)
        nursery.start_soon(client.history, "main")
        asked = await old.expect("get_thread_history")
        await trio.sleep(1)
        page = {"thread_id": "main", "messages": [], "has_more": False}
        old.control("thread_history", page, asked["correlation_id"])
        await network.accept()
        assert network.times == [0.0, TOLD]


async def test_a_message_that_was_given_up_is_no_reason(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, old):
        async with sending(client, "one", "two"):
            await old.expect("user_message")
        drain(old)  # "one" may have been received; "two" was not written
        await network.accept()
        assert network.times == [0.0, TOLD]


@pytest.mark.parametrize("is_answered", [True, False], ids=["503", "no answer"])
async def test_one_early_attempt_and_then_the_pauses(
    autojump_clock: MockClock, network: ScriptedNetwork, is_answered: bool
) -> None:
    async with opened(network, random=lambda: 1.0) as (client, old):
        drain(old)
        await trio.sleep(1)
        async with sending(client, "one"):
            for count in range(1, 4):
                new = await network.accept()
                if is_answered:
                    new.refuse(503, retry_after=1.0, body=REFUSAL)
                else:
                    new.ignore()
                await trio.sleep(0.1)
                drain(old, 0)  # again, which is not another drain
                async with sending(client, f"more {count}"):
                    await trio.sleep(0.1)
            new = await network.accept()
            assert client.status is Status.CONNECTED
            new.hello("exact")
            assert await contents(new, 1) == ["one"]
        # Until the told time and 1 s, then 2 and 4 s, and what the server asks for.
        assert network.times == pytest.approx([0, 1, 5, 8, 13] if is_answered else [0, 1, 5, 7, 11])


async def test_servers_that_all_drain_drive_no_loop(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network, random=lambda: 1.0) as (client, line):
        drain(line)
        async with sending(client, "one"):
            for _ in range(4):
                peer = await network.accept()
                peer.hello("exact")
                drain(peer)
            await network.accept()
            pauses = [b - a for a, b in zip(network.times, network.times[1:], strict=False)]
            assert pauses == [0, TOLD + 1, TOLD + 2, TOLD + 4, TOLD + 8]


async def test_the_old_connection_is_closed_and_the_early_attempt_fails(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, old):
        drain(old)
        async with sending(client, "one"):
            new = await network.accept()
            old.close(1012)
            await wait_all_tasks_blocked()
            new.ignore()
            third = await network.accept()
            assert network.times == [0.0, 0.0, TOLD]
            third.hello("exact")
            assert await contents(third, 1) == ["one"]


async def test_the_connection_is_closed_in_the_wait(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, old):
        drain(old)
        await trio.sleep(1)
        old.close(1012)
        await wait_all_tasks_blocked()
        async with sending(client, "one"):
            new = await network.accept()
            assert network.times == [0.0, TOLD]
            new.hello("exact")
            assert await contents(new, 1) == ["one"]


async def test_leaving_in_the_wait(autojump_clock: MockClock, network: ScriptedNetwork) -> None:
    async with opened(network) as (_, old):
        drain(old)
        await trio.sleep(1)
    assert old.client_closed == 1000
    assert network.times == [0.0]


# --- with the real server, which is the only one


async def work(run: Run) -> str:
    """Work for so many seconds."""
    await trio.sleep(int(run.content))
    return "done"


async def test_the_only_server_drains(autojump_clock: MockClock) -> None:
    async with open_network({"work": work}, drain_timeout_ms=20_000) as network:
        announcing = Announcing(network, lambda _: False)
        async with network.connect(dialer=announcing) as client:
            first = await client.send("10")
            results: list[str] = []

            async def send_more() -> None:
                results.append(await (await client.send("1")).result())

            assert network.server.app is not None
            async with trio.open_nursery() as nursery:
                async with trio.open_nursery() as draining:
                    draining.start_soon(network.server.app.drain)
                    await trio.sleep(0.5)
                    nursery.start_soon(send_more)
                    await wait_all_tasks_blocked()
                    assert announcing.requests == 1 + 1
                    assert await first.result() == "done"
                # 0.5 s, then 1 s and a half of 1, 2 and 4 s: 2, 4, 7
                assert announcing.requests == 1 + 4
                network.inject(Drop())
                network.server.crash(0)
            assert results == ["done"]
