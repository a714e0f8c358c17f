"""The room of the live page: when each node publishes to it, also about other nodes."""

from typing import Any

import pytest
import trio
from support.live import ADMIN, LivePage
from support.memory import EPOCH, Client, Server, open_server
from support.room_clients import join, leave
from support.shared_nodes import open_nodes
from trio.testing import MockClock

from netra_trio.broker.base import LEASE_SECONDS
from netra_trio.errors import BrokerUnavailable, StoreUnavailable
from netra_trio.node import live_view
from netra_trio.node.admin import RESTART_SECONDS
from netra_trio.node.live_view import INTEREST_SECONDS, SHORTEST_SECONDS
from netra_trio.protocol.admin import ADMIN_ROOM, SAMPLE_SECONDS, SAMPLES
from netra_trio.stores.memory import MemoryStore

QUIET: dict[str, Any] = {"heartbeat_interval_ms": 300_000}


async def offset(server: Server) -> int:
    """Return the number of events that the room has had."""
    history = await server.node.services.broker.history(ADMIN_ROOM, epoch="", after=0)
    return history.offset


async def read_for(page: LivePage, seconds: float) -> None:
    with trio.move_on_after(seconds):
        while True:
            await page.read()


async def rejoin(client: Client) -> None:
    await client.send("leave_room", {"room": ADMIN_ROOM})
    await client.until("room_left")
    await client.send("join_room", {"room": ADMIN_ROOM})
    await client.until("room_joined")


# When.


async def test_nothing_is_published_without_a_member(autojump_clock: MockClock) -> None:
    async with open_server(**QUIET) as server, server.connect(permissions=ADMIN) as client:
        await trio.sleep(60)
        await join(client, "user:" + client.hello["payload"]["user_room"].removeprefix("user:"))
        await trio.sleep(60)
        await leave(client, client.hello["payload"]["user_room"])
        assert await offset(server) == 0
        page = await LivePage.join(client)
        await page.until(lambda: len(page.received) > 3)
        await client.send("leave_room", {"room": ADMIN_ROOM})
        await client.until("room_left")
        before = await offset(server)
        await trio.sleep(60)
        assert await offset(server) == before


async def test_a_node_publishes_while_another_one_has_a_member(autojump_clock: MockClock) -> None:
    async with open_nodes(2, **QUIET) as (one, two), two.connect(permissions=ADMIN) as client:
        page = await LivePage.join(client)
        await read_for(page, 4 * INTEREST_SECONDS)
        last = {content["node"]: at for at, content in page.received}
        assert last.keys() == {one.id, two.id}
        assert min(last.values()) > trio.current_time() - 1.5  # the interest was announced again
        await client.send("leave_room", {"room": ADMIN_ROOM})
        await client.until("room_left")
        await trio.sleep(INTEREST_SECONDS + 1)
        before = await offset(one)
        await trio.sleep(60)
        assert await offset(one) == before


async def test_a_member_without_an_end_is_forgotten(autojump_clock: MockClock) -> None:
    async with open_nodes(2, **QUIET) as (one, two), two.connect(permissions=ADMIN) as client:
        await LivePage.join(client)
        await two.kill()
        await trio.sleep(INTEREST_SECONDS + 1)
        before = await offset(one)
        await trio.sleep(60)
        assert await offset(one) == before


async def test_a_page_that_has_joined_has_all_nodes_and_the_last_hour_at_once(
    autojump_clock: MockClock,
) -> None:
    async with open_nodes(2, **QUIET) as nodes, nodes[0].connect(permissions=ADMIN) as first:
        ids = {node.id for node in nodes}
        await trio.sleep(601)
        page = await LivePage.join(first)
        await page.until(lambda: page.samples.keys() == ids == page.parts.keys(), 1.5)
        async with nodes[1].connect("bob", permissions=ADMIN) as second:
            await trio.sleep(0.5)  # in the middle of a second
            late = await LivePage.join(second)
            await late.until(lambda: late.samples.keys() == ids == late.parts.keys(), 1.5)
        for samples in late.samples.values():
            times = [each["at"] - EPOCH for each in samples]
            assert times == pytest.approx([*range(10, 610, 10)], abs=0.2)


async def test_the_last_hour_is_kept_and_no_more(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_view, "SAMPLES_BYTES", 20_000)  # so that it takes several events
    async with open_server(**QUIET) as server:
        await trio.sleep((SAMPLES + 5) * SAMPLE_SECONDS + 1)
        async with server.connect(permissions=ADMIN) as client:
            page = await LivePage.join(client)
            samples = await page.until(lambda: page.samples.get(server.node.services.store.owner))
            await read_for(page, 0.2)
        times = [each["at"] - EPOCH for each in samples]
        assert times == pytest.approx(
            [number * SAMPLE_SECONDS for number in range(6, SAMPLES + 6)], abs=0.2
        )
        parts = [content for _, content in page.received if content["kind"] == "history"]
        assert len(parts) > 5
        assert all(each["interval"] == SAMPLE_SECONDS for each in parts)


async def test_a_node_publishes_each_second_and_never_more_often_than_allowed(
    autojump_clock: MockClock,
) -> None:
    async with open_server(**QUIET) as server, server.connect(permissions=ADMIN) as client:
        page = await LivePage.join(client)
        await page.until(lambda: len(page.received) == 20, 30)
        times = [at for at, content in page.received if content["kind"] == "node"]
        assert times[-1] - times[0] == pytest.approx(len(times) - 1, abs=0.1)
        before, started = await offset(server), trio.current_time()
        for _ in range(20):
            await rejoin(client)
            await trio.sleep(0.05)
        seconds = trio.current_time() - started
        both = 2  # the part and the history
        assert await offset(server) - before <= both * (seconds / SHORTEST_SECONDS + 2)


# Other nodes.


async def test_a_node_that_starts_appears_and_one_that_ends_disappears(
    autojump_clock: MockClock,
) -> None:
    async with open_nodes(1, **QUIET) as (one,), one.connect(permissions=ADMIN) as client:
        page = await LivePage.join(client)
        await page.until(lambda: len(page.parts) == 1)
        async with open_nodes(1, server=one.memory.server, **QUIET) as (two,):
            await page.until(lambda: page.parts.keys() == {one.id, two.id}, 3)
            await page.until(lambda: two.id in page.samples, 1)
        await page.until(lambda: page.gone == [two.id], 1)
        await read_for(page, 5)
        assert page.gone == [two.id]
        assert page.parts.keys() == {one.id}


async def test_a_killed_node_disappears_within_seconds_once_for_all_pages(
    autojump_clock: MockClock,
) -> None:
    async with (
        open_nodes(3, **QUIET) as (one, two, three),
        one.connect(permissions=ADMIN) as first,
        two.connect("bob", permissions=ADMIN) as second,
    ):
        page, other = await LivePage.join(first), await LivePage.join(second)
        await page.until(lambda: len(page.parts) == 3)
        await three.kill()
        killed = trio.current_time()
        await page.until(lambda: page.gone, LEASE_SECONDS + 1)
        await other.until(lambda: other.gone, 1)
        assert trio.current_time() - killed < LEASE_SECONDS + 1
        await read_for(page, 5)
        assert page.gone == other.gone == [three.id]
        assert page.parts.keys() == {one.id, two.id}


async def test_the_broker_may_fail_for_a_while(autojump_clock: MockClock) -> None:
    async with open_nodes(2, **QUIET) as (one, two), one.connect(permissions=ADMIN) as client:
        page = await LivePage.join(client)
        await page.until(lambda: len(page.parts) == 2)
        two.link.is_cut = True
        await read_for(page, 20)
        assert page.gone == [two.id]
        two.link.is_cut = False
        part = await page.until(lambda: page.parts.get(two.id), 10)
        assert part["broker"]["nodes"] == 2
        assert [each["broker"]["state"] for each in page.parts.values()] == ["ok", "ok"]


async def test_the_last_hour_comes_after_an_outage_of_the_broker(
    autojump_clock: MockClock,
) -> None:
    failed = 0

    async def fail(call: str) -> None:
        nonlocal failed
        await trio.lowlevel.checkpoint()
        if call == "publish":
            failed += 1
            raise BrokerUnavailable("down")

    async with open_nodes(2, **QUIET) as (one, two), one.connect(permissions=ADMIN) as client:
        await trio.sleep(SAMPLE_SECONDS + 1)
        two.link.on_call = fail
        page = await LivePage.join(client)
        await page.until(lambda: one.id in page.samples)
        await read_for(page, 3)
        assert failed > 2
        assert page.parts.keys() == {one.id}
        two.link.on_call = None
        await page.until(lambda: two.id in page.samples, 3)
        await read_for(page, 5)
        histories = [each["node"] for _, each in page.received if each["kind"] == "history"]
        assert sorted(histories) == sorted([one.id, two.id])


async def test_the_first_announcement_may_be_lost(autojump_clock: MockClock) -> None:
    async with open_nodes(2, **QUIET) as (one, two), one.connect(permissions=ADMIN) as client:
        one.link.lost.add(live_view.WATCHED)
        page = await LivePage.join(client)
        await read_for(page, 1.5)
        assert page.parts.keys() == {one.id}
        one.link.lost.clear()
        await page.until(lambda: two.id in page.parts, live_view.ANNOUNCE_SECONDS + 1)


# Dependencies.


class FailingStore(MemoryStore):
    """A store whose check fails, or does not end, on demand."""

    failure: str | None = None

    async def check(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.failure == "no answer":
            await trio.sleep_forever()
        if self.failure == "unavailable":
            raise StoreUnavailable("down")


@pytest.mark.parametrize("failure", ["no answer", "unavailable"])
async def test_the_state_of_the_store_and_the_broker_is_shown(
    failure: str, autojump_clock: MockClock
) -> None:
    store = FailingStore()
    async with open_server(store=store, **QUIET) as server:
        async with server.connect(permissions=ADMIN) as client:
            page = await LivePage.join(client)
            part = await page.until(lambda: page.parts.get(store.owner))
            assert part["store"] == {"state": "ok"}
            assert part["broker"] is None
            store.failure = failure
            await page.until(lambda: page.parts[store.owner]["store"] == {"state": failure}, 10)
        async with server.connect(permissions=ADMIN) as client:  # from the first part on
            page = await LivePage.join(client)
            part = await page.until(lambda: page.parts.get(store.owner), 1)
            assert part["store"] == {"state": failure}


async def test_a_fault_of_the_live_page_does_not_end_the_node(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> bytes:
        raise ValueError("a fault")

    async with open_server(**QUIET) as server, server.connect(permissions=ADMIN) as client:
        with monkeypatch.context() as patched:
            patched.setattr(live_view, "make_part", fail)
            page = await LivePage.join(client)
            await trio.sleep(5)
            assert await client.sync() == []
        await page.until(lambda: page.parts, RESTART_SECONDS)
