"""The network in memory with its whole server, and the effect of each fault."""

from typing import Any

import pytest
import trio
from support.clients import Plain
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio.agents.run import Run as AgentRun
from netra_trio.client import (
    Client,
    ConnectionClosed,
    ConnectionRefused,
    GaveUp,
    MessageRefused,
    OpeningRefused,
    Run,
    Status,
    connect,
)
from netra_trio.stores.memory import MemoryStore
from netra_trio.testing import (
    After,
    At,
    Crash,
    Delay,
    Drop,
    DuplicateConnect,
    Every,
    HalfOpen,
    Throttle,
    assert_nothing_lost,
    open_network,
    wall_clock,
)


async def count(run: AgentRun) -> str:
    """Emit as many numbers as the message says, one per second."""
    for number in range(int(run.content)):
        await run.emit(f"{number} ")
        await trio.sleep(1)
    return "done"


AGENTS = {"count": count}
FIVE = "0 1 2 3 4 "


async def ended(run: Run) -> tuple[str, str]:
    text = await run.text()
    assert run.end is not None
    return text, run.end.payload["status"]


async def test_client_and_server_are_the_real_ones(autojump_clock: MockClock) -> None:
    async with open_network(AGENTS, max_message_size=500) as network:
        async with network.connect("alice") as client:
            limits = client.config["websocket_config"]["connection_limits"]
            assert limits["max_message_size"] == 500
            assert client.config["websocket_config"]["server_time"] == wall_clock()
            assert await ended(await client.send("5", thread_id="t")) == (FIVE, "completed")
            page = await client.history("t")
            assert [each["content"] for each in page["messages"]] == ["5", FIVE]
            with pytest.raises(MessageRefused, match="AGENT_NOT_FOUND"):
                await client.send("5", agent="nobody")
            assert len(network.lines) == 1
        assert network.lines == []
        async with network.connect("bob") as client:
            with pytest.raises(MessageRefused, match="THREAD_NOT_FOUND"):
                await client.history("t")
    assert_nothing_lost(network.trace)
    assert [network.events, len(network.trace.delivered)] == [1 + 1 + 5 + 1, 2]


async def test_upgrades_pass_the_real_checks(autojump_clock: MockClock) -> None:
    policy: dict[str, Any] = {
        "max_connections_per_user": 1,
        "connection_limit_policy": "reject",
    }
    async with open_network(AGENTS, **policy) as network:
        with pytest.raises(ConnectionRefused) as caught:
            async with network.connect(token="wrong"):
                pass
        assert (caught.value.status, caught.value.code) == (401, "INVALID_TOKEN")
        expired = network.token("alice", expires_at=wall_clock() - 60)
        with pytest.raises(ConnectionRefused, match="expired"):
            async with network.connect(token=expired):
                pass
        async with network.connect():
            with pytest.raises(GaveUp, match="at once"):
                async with network.connect(max_attempts=1):
                    pass
            with pytest.raises(OpeningRefused) as refused:
                async with network.open(
                    network.url,
                    headers={"Authorization": f"Bearer {network.token('alice')}"},
                    subprotocols=("netra.v1",),
                ):
                    pass
            assert (refused.value.status, refused.value.retry_after) == (429, 5.0)
        with pytest.raises(OpeningRefused) as nothing:
            await network.discover("http://server.test/ws/nowhere")
        assert nothing.value.status == 404


async def test_an_exception_of_the_block_is_raised_as_it_is(autojump_clock: MockClock) -> None:
    with pytest.raises(ZeroDivisionError):
        async with open_network(AGENTS) as network, network.connect():
            raise ZeroDivisionError
    with pytest.raises(ExceptionGroup) as caught:
        async with open_network(AGENTS), trio.open_nursery() as nursery:
            nursery.start_soon(network.discover, "http://x/ws/config")
    assert len(caught.value.exceptions) == 1


async def test_a_client_that_the_test_opens(autojump_clock: MockClock) -> None:
    async with (
        open_network(AGENTS) as network,
        connect(network.url, token=network.token("alice"), dialer=network) as client,
    ):
        run = await client.send("1")
        async for event in client.events():
            network.trace.deliver(event)
            if event.type == "agent_completed":
                break
        assert await run.text() == "0 "
    assert list(network.trace.delivered) == ["client"]
    assert_nothing_lost(network.trace)


async def test_a_token_from_a_function(autojump_clock: MockClock) -> None:
    async with open_network(AGENTS) as network:

        async def get_token() -> str:
            return network.token("alice")

        async with network.connect(token=None, get_token=get_token) as client:
            assert await ended(await client.send("1")) == ("0 ", "completed")


# Faults.


async def test_dropped(autojump_clock: MockClock) -> None:
    async with open_network(AGENTS, [Every(2, Drop())]) as network, network.connect() as client:
        assert await ended(await client.send("5")) == (FIVE, "completed")
        await trio.sleep(5)
        assert client.stats.reconnections == network.events // 2
        line = network.lines[0]
        network.inject(Drop())
        await wait_all_tasks_blocked()
        assert line.ended.is_set()
        assert network.lines == []
    assert_nothing_lost(network.trace)
    assert network.trace.announced == []


async def test_half_open(autojump_clock: MockClock) -> None:
    async with open_network(AGENTS) as network, network.connect() as client:
        run = await client.send("5")
        line = network.lines[0]
        network.inject(HalfOpen())
        # A heartbeat is late by a fifth of its interval, and a ping has no answer for 5 s.
        await trio.sleep(40.999)
        assert (network.lines, client.status) == ([line], Status.CONNECTED)  # neither end is told
        assert await ended(run) == (FIVE, "completed")
        assert trio.current_time() == 36 + 5 + 0.5  # half a second before the next attempt
        assert client.stats.last_resume_verdict == "exact"
    assert_nothing_lost(network.trace)


async def test_half_open_for_the_server(autojump_clock: MockClock) -> None:
    settings: dict[str, Any] = {"heartbeat_interval_ms": 10_000}
    async with open_network(AGENTS, **settings) as network, network.connect():
        line = network.lines[0]
        await trio.sleep(1)
        network.inject(HalfOpen())
        await trio.sleep(100)
        assert line.ended.is_set()  # the server ended it
        assert line.client is not network.lines[0].client


async def test_delayed(autojump_clock: MockClock) -> None:
    async with open_network(AGENTS, [After(0, Delay(2))]) as network, network.connect() as client:
        run = await client.send("1")
        assert trio.current_time() == pytest.approx(4)  # there and back
        assert await ended(run) == ("0 ", "completed")
        assert trio.current_time() == pytest.approx(5)  # the delays of frames overlap
        network.inject(Delay(0))
        await trio.sleep(5)  # for the frames in transit
        await client.send("0")
        assert trio.current_time() == pytest.approx(10)


async def test_throttled(autojump_clock: MockClock) -> None:
    async def flood(run: AgentRun) -> None:
        for _ in range(10):
            await run.emit("x" * 1000)

    async with (
        open_network({"flood": flood}, [After(1, Throttle(1000))]) as network,
        network.connect() as client,
    ):
        text, _ = await ended(await client.send("go"))
        assert len(text) == 10_000
        assert 10 <= trio.current_time() <= 25
    assert_nothing_lost(network.trace)


async def test_faults_at_a_time(autojump_clock: MockClock) -> None:
    script = [At(3, Drop()), At(2, Delay(0.1))]
    async with open_network(AGENTS, script) as network, network.connect() as client:
        await trio.sleep(2.9)
        assert client.stats.reconnections == 0
        assert await ended(await client.send("5")) == (FIVE, "completed")
        assert client.stats.reconnections == 1
    assert_nothing_lost(network.trace)


async def test_a_crash_ends_runs_and_keeps_the_store(autojump_clock: MockClock) -> None:
    store = MemoryStore()
    async with open_network(AGENTS, store=store) as network, network.connect() as client:
        first = await client.send("1", thread_id="t")
        await first.text()
        run = await client.send("5", correlation_id="k", thread_id="t")
        await trio.sleep(2.5)
        network.inject(Crash(seconds=10))
        network.inject(Crash(seconds=20))  # a server that is down is back later
        crashed = trio.current_time()
        await wait_all_tasks_blocked()
        assert store.statistics()["runs"] == 1
        assert await ended(run) == ("0 1 2 ", "interrupted")
        assert trio.current_time() - crashed >= 20
        again = await client.send("5", correlation_id="k", thread_id="t")
        assert (again.status, await ended(again)) == ("duplicate", ("", "interrupted"))
        page = await client.history("t")
        statuses = [each["run"]["status"] for each in page["messages"] if each["role"] == "user"]
        assert statuses == ["completed", "interrupted"]
    assert_nothing_lost(network.trace)
    assert [event.type for event in network.trace.announced] == ["reset"]


async def test_a_crash_during_an_upgrade(autojump_clock: MockClock) -> None:
    class SlowStore(MemoryStore):
        async def get_user(self, user_id: Any) -> Any:
            await trio.sleep(2)
            return await super().get_user(user_id)

    async with (
        open_network(AGENTS, [At(1, Crash())], store=SlowStore()) as network,
        network.connect(),
    ):
        pass
    (events,) = network.trace.delivered.values()
    reasons = [each.payload["reason"] for each in events if each.type == "disconnected"]
    assert reasons[:2] == ["the server went away", "connection refused: there is no server"]


async def test_a_cancelled_upgrade_leaves_no_connection(autojump_clock: MockClock) -> None:
    class SlowStore(MemoryStore):
        async def get_user(self, user_id: Any) -> Any:
            await trio.sleep(2)
            return await super().get_user(user_id)

    async with open_network(AGENTS, store=SlowStore()) as network:
        with trio.move_on_after(1) as scope:
            async with network.connect():
                pass
        assert scope.cancelled_caught
        await trio.sleep(5)
        assert network.lines == []
        async with network.connect() as client:
            assert client.status is Status.CONNECTED


async def test_a_duplicate_takes_the_session_over(autojump_clock: MockClock) -> None:
    async with open_network(AGENTS) as network, network.connect() as client:
        run = await client.send("5")
        await trio.sleep(1.5)
        network.inject(DuplicateConnect())
        with pytest.raises(ConnectionClosed) as caught:
            await run.text()
        assert caught.value.code == 4409
        await trio.sleep(10)
        assert client.status is Status.ERROR
        await client.reconnect()
        assert client.stats.last_resume_verdict == "exact"
        assert run.end is None
        assert await ended(run) == ("2 3 4 ", "completed")  # the text before that was read
    assert_nothing_lost(network.trace)


async def test_a_duplicate_without_a_server(autojump_clock: MockClock) -> None:
    async with open_network(AGENTS) as network, network.connect() as client:
        network.inject(DuplicateConnect())
        network.inject(Crash(0))  # the duplicate gets no answer
        await client.send("0")
        assert client.stats.reconnections == 1


@pytest.mark.parametrize("is_plain", [False, True])
async def test_two_clients(autojump_clock: MockClock, is_plain: bool) -> None:
    async with open_network(AGENTS, [Every(3, Drop())]) as network:

        async def talk(client: Client, texts: list[str]) -> None:
            texts.append(await (await client.send("5")).text())

        texts: list[str] = []
        options: dict[str, Any] = {"dialer": Plain(network)} if is_plain else {}
        async with (
            network.connect("a", **options) as one,
            network.connect("b", **options) as two,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(talk, one, texts)
            nursery.start_soon(talk, two, texts)
    assert texts == [FIVE, FIVE]
    assert_nothing_lost(network.trace)


async def test_a_test_that_never_ends_fails(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A virtual day of a server that polls its loop twice a second takes ten real seconds.
    monkeypatch.setattr("netra_trio.testing.network.MAX_SECONDS", 1000.0)
    with pytest.raises(trio.TooSlowError):
        async with open_network(AGENTS):
            await trio.sleep_forever()
