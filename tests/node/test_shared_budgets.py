"""Budgets over several nodes: with the broker, without it, and after it has lost everything."""

from typing import Any

import pytest
import trio
from attrs import evolve
from structlog.testing import capture_logs
from support.memory import EPOCH, Client, Frame, kinds
from support.shared_nodes import LinkedNode, open_nodes
from trio.testing import MockClock

from netra_trio.agents.run import Run
from netra_trio.broker.base import RENEW_SECONDS
from netra_trio.broker.memory import MemoryServer
from netra_trio.errors import StoreUnavailable
from netra_trio.ids import NodeId, UserId
from netra_trio.node.budgets import RETRY_SECONDS, STORED_SECONDS, DayBudgets
from netra_trio.protocol.usage import Amounts, UsageKey, day_of

KEY = UsageKey(UserId("alice"), "spend", day_of(EPOCH))
LIMIT: dict[str, Any] = {"usage_limit_tokens": 1000, "heartbeat_interval_ms": 3_600_000}


async def spend(run: Run) -> str:
    """Use so many tokens as the message says; `+` waits for a stop then."""
    tokens, _, more = run.content.partition(" ")
    await run.usage(model="m", input_tokens=int(tokens), output_tokens=0)
    if more:
        await trio.sleep_forever()
    return "done"


AGENTS = {"spend": spend}


async def open_at(node: LinkedNode) -> Client:
    client = node.start()
    client.hello = await client.expect("connection_established")
    return client


async def told(client: Client, content: str) -> list[Frame]:
    """Send a message in a new thread; return its frames, up to the end of its run or its error."""
    await client.say(content, thread_id=f"t{trio.current_time()}".replace(".", "-"))
    return await rest(client)


async def rest(client: Client) -> list[Frame]:
    frames = [await client.next()]
    while frames[-1]["type"] not in {"agent_completed", "error"}:
        frames.append(await client.next())
    await trio.sleep(0.01)  # another message names another thread
    return frames


def end_of(frames: list[Frame]) -> tuple[str, str | None]:
    payload = frames[-1]["payload"]
    return payload.get("status", "refused"), payload.get("error", {}).get("code")


def code_of(frames: list[Frame]) -> str:
    return str(frames[-1]["payload"]["code"])


def warnings(frames: list[Frame]) -> list[int]:
    return [frame["payload"]["used"] for frame in frames if frame["type"] == "usage_warning"]


def total(server: MemoryServer) -> int:
    counter = server.usage.find(KEY)
    return -1 if counter is None else counter.total.tokens


COMPLETED, CANCELLED = ("completed", None), ("cancelled", "BUDGET_EXCEEDED")


async def test_the_sum_of_all_nodes_counts(autojump_clock: MockClock) -> None:
    server = MemoryServer()
    async with open_nodes(2, server=server, agents=AGENTS, **LIMIT) as (one, two):
        first, second = await open_at(one), await open_at(two)
        assert end_of(await told(first, "600")) == COMPLETED
        frames = await told(second, "400")
        assert end_of(frames) == COMPLETED
        assert warnings(frames) == [1000]
        assert warnings(await first.sync()) == [1000]  # once, to the sessions of all nodes
        assert end_of(await told(first, "0")) == COMPLETED
        frames = await told(first, "1")
        assert (end_of(frames), warnings(frames)) == (CANCELLED, [])
        assert code_of(await told(second, "0")) == "BUDGET_EXCEEDED"
        assert code_of(await told(first, "0")) == "BUDGET_EXCEEDED"
        assert total(server) == 1001
        assert one.node.services.instruments.metrics.broker_fallbacks["usage"] == 0


async def test_the_runs_of_all_nodes_end_at_once(autojump_clock: MockClock) -> None:
    async with open_nodes(2, agents=AGENTS, **LIMIT) as (one, two):
        first, second = await open_at(one), await open_at(two)
        await first.say("1 +")
        await first.until("agent_usage")
        await trio.sleep(5)
        since = trio.current_time()
        assert end_of(await told(second, "1000")) == CANCELLED
        assert end_of(await rest(first)) == CANCELLED
        assert trio.current_time() - since < 0.1


@pytest.mark.parametrize("is_cut", [False, True])
async def test_a_node_that_has_just_started_is_told(
    autojump_clock: MockClock, is_cut: bool
) -> None:
    """The node of the run has not seen it yet; without the broker the run goes on all the same."""
    async with open_nodes(2, agents=AGENTS, **LIMIT) as (one, two):
        first, second = await open_at(one), await open_at(two)
        assert one.node.cluster is not None
        one.node.cluster.membership.peers = {}
        one.link.is_cut = is_cut
        assert end_of(await told(first, "800")) == COMPLETED
        assert trio.current_time() < RENEW_SECONDS
        assert warnings(await second.sync()) == ([] if is_cut else [800])


async def test_a_node_that_was_not_told_learns_of_it_at_its_next_report(
    autojump_clock: MockClock,
) -> None:
    async def twice(run: Run) -> None:
        await run.usage(model="m", input_tokens=1, output_tokens=0)
        await trio.sleep(60)
        await run.usage(model="m", input_tokens=0, output_tokens=0)
        await trio.sleep_forever()

    server = MemoryServer()
    async with open_nodes(2, server=server, agents={"spend": twice}, **LIMIT) as (one, two):
        first, second = await open_at(one), await open_at(two)
        for client in (first, second):
            await client.say("x")
            await client.until("agent_usage")
        counter = server.usage.find(KEY)
        assert counter is not None
        counter.total = Amounts(1001, 0)
        assert end_of(await rest(first)) == CANCELLED
        assert end_of(await rest(second)) == CANCELLED


async def test_without_the_broker_a_node_counts_on_top_of_the_store(
    autojump_clock: MockClock,
) -> None:
    server = MemoryServer()
    async with open_nodes(2, server=server, agents=AGENTS, **LIMIT) as (one, two):
        first, second = await open_at(one), await open_at(two)
        assert end_of(await told(first, "500")) == COMPLETED
        assert end_of(await told(second, "1")) == COMPLETED
        with capture_logs() as logs:
            one.link.is_cut = True
            frames = await told(first, "300")
            assert (end_of(frames), warnings(frames)) == (COMPLETED, [801])
            assert end_of(await told(second, "100")) == COMPLETED  # the other one is not cut off
            # The reports of other nodes are read from the store, some seconds later.
            await trio.sleep(STORED_SECONDS)
            assert end_of(await told(first, "99")) == COMPLETED
            assert end_of(await told(first, "1")) == CANCELLED
            assert code_of(await told(first, "0")) == "BUDGET_EXCEEDED"
            assert total(server) == 601
            one.link.is_cut = False
            await trio.sleep(2 * RETRY_SECONDS)
        assert total(server) == 1001
        assert code_of(await told(second, "0")) == "BUDGET_EXCEEDED"
        events = [entry["event"] for entry in logs if entry["event"].startswith("budgets")]
        assert events == ["budgets_local", "budgets_shared"]
        assert one.node.services.instruments.metrics.broker_fallbacks["usage"] > 0
        assert two.node.services.instruments.metrics.broker_fallbacks["usage"] == 0


async def test_a_warning_of_the_time_alone_is_not_sent_again(autojump_clock: MockClock) -> None:
    async with open_nodes(2, agents=AGENTS, **LIMIT) as (one, _):
        client = await open_at(one)
        await told(client, "1")
        one.link.is_cut = True
        assert warnings(await told(client, "800")) == [801]
        one.link.is_cut = False
        await trio.sleep(2 * RETRY_SECONDS)
        assert warnings(await told(client, "1")) == []


async def test_the_usage_of_all_nodes_is_beyond_the_limit(autojump_clock: MockClock) -> None:
    """The runs end when the broker answers again, and the warning comes then."""
    async with open_nodes(2, agents=AGENTS, **LIMIT) as (one, two):
        first, second = await open_at(one), await open_at(two)
        await told(first, "1")
        one.link.is_cut = True
        await first.say("700 +")
        frames = await first.until("agent_usage")
        assert end_of(await told(second, "700")) == COMPLETED
        one.link.is_cut = False
        frames = await rest(first)
        assert (end_of(frames), warnings(frames)) == (CANCELLED, [1401])
        assert code_of(await told(second, "1")) == "BUDGET_EXCEEDED"


@pytest.mark.parametrize("has_local", [False, True])
async def test_a_broker_that_has_lost_everything_gets_the_sum_of_the_store(
    autojump_clock: MockClock, has_local: bool
) -> None:
    """Reports of the time without it count once."""
    server = MemoryServer()
    async with open_nodes(2, server=server, agents=AGENTS, **LIMIT) as (one, two):
        first, second = await open_at(one), await open_at(two)
        assert end_of(await told(first, "300")) == COMPLETED
        assert end_of(await told(second, "300")) == COMPLETED
        for node in (one, two):
            node.link.is_cut = has_local
        assert end_of(await told(first, "100")) == COMPLETED
        assert end_of(await told(second, "99")) == COMPLETED
        server.clear()
        for node in (one, two):
            node.link.is_cut = False
        await trio.sleep(2 * RETRY_SECONDS)
        assert warnings(await told(first, "1")) == [800]
        assert total(server) == 800
        assert end_of(await told(second, "200")) == COMPLETED
        assert end_of(await told(first, "1")) == CANCELLED
        assert total(server) == 1001


async def test_a_report_is_counted_that_finds_its_counter_lost(autojump_clock: MockClock) -> None:
    server = MemoryServer()
    async with open_nodes(2, server=server, agents=AGENTS, **LIMIT) as (one, two):
        first, second = await open_at(one), await open_at(two)
        await first.say("700 +")
        await first.until("agent_usage")
        server.usage.clear()
        frames = await told(second, "100")
        assert (end_of(frames), warnings(frames)) == (COMPLETED, [800])
        assert total(server) == 800


async def test_a_crash_of_a_node_resets_nothing(autojump_clock: MockClock) -> None:
    server = MemoryServer()
    async with open_nodes(2, server=server, agents=AGENTS, **LIMIT) as (one, two):
        first, second = await open_at(one), await open_at(two)
        assert end_of(await told(first, "1000")) == COMPLETED
        await one.kill()
        assert end_of(await told(second, "1")) == CANCELLED


async def test_broker_and_store_are_away(autojump_clock: MockClock) -> None:
    """A sum that is not known refuses messages for now; reports are counted all the same."""
    server = MemoryServer()
    async with open_nodes(2, server=server, agents=AGENTS, **LIMIT) as (one, two):
        first, second = await open_at(one), await open_at(two)
        budgets = one.node.services.budgets
        assert isinstance(budgets, DayBudgets)
        broken = Unavailable()
        real, budgets._store = budgets._store, broken
        one.link.is_cut = True
        assert code_of(await told(first, "1")) == "SERVICE_UNAVAILABLE"
        one.link.is_cut = False
        await trio.sleep(2 * RETRY_SECONDS)
        assert code_of(await told(first, "1")) == "SERVICE_UNAVAILABLE"  # no counter, no sum
        assert end_of(await told(second, "1")) == COMPLETED  # makes the counter
        assert end_of(await told(first, "1")) == COMPLETED
        server.usage.clear()
        assert end_of(await told(first, "1")) == COMPLETED  # the sum was known
        budgets._store = real
        assert end_of(await told(first, "1")) == COMPLETED
        assert total(server) == 2  # two reports were never stored
        assert broken.recorded == 2


class Unavailable:
    """A store that records nothing and has no sums."""

    def __init__(self) -> None:
        self.recorded = 0

    async def record_usage(self, _usage: object) -> None:
        self.recorded += 1

    async def used_in_day(self, _key: UsageKey) -> Amounts:
        raise StoreUnavailable("it is down")


async def test_messages_of_other_nodes_for_users_and_days_that_are_gone(
    autojump_clock: MockClock,
) -> None:
    async with open_nodes(2, agents=AGENTS, **LIMIT) as (one, _):
        client = await open_at(one)
        budgets = one.node.services.budgets
        assert isinstance(budgets, DayBudgets)
        header = {"user": "alice", "agent": "spend", "day": KEY.day, "tokens": 1001, "cost": 0}
        node = NodeId("own_other")
        budgets.on_exceeded(node, {**header, "user": "nobody"}, b"")
        budgets.on_exceeded(node, {**header, "day": "2027-01-14"}, b"")  # it came late
        warning = {"agent_name": "spend", "unit": "tokens", "limit": 1000, "used": 900}
        budgets.on_warning(node, {"user": "nobody", "warning": warning}, b"")
        assert await client.sync() == []
        assert budgets.kept == 0
        budgets.on_exceeded(node, header, b"")
        assert code_of(await told(client, "1")) == "BUDGET_EXCEEDED"


async def test_a_call_to_the_broker_may_be_cancelled_anywhere(autojump_clock: MockClock) -> None:
    """A check that is cancelled leaves nothing behind; a report counts all the same."""
    server = MemoryServer()
    async with open_nodes(2, server=server, agents=AGENTS, **LIMIT) as (one, _):
        budgets = one.node.services.budgets
        assert budgets is not None
        client = await open_at(one)
        for wakeups in range(6):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(budgets.check, KEY.user_id, KEY.agent_name)
                    for _ in range(wakeups):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()
        assert end_of(await told(client, "10")) == COMPLETED
        for wakeups in range(6):
            await client.say("1 +", thread_id=f"w{wakeups}")
            frames = await client.until("agent_usage")
            for _ in range(wakeups):
                await trio.lowlevel.checkpoint()
            await client.send("stop_agent", {"run_id": frames[0]["payload"]["run_id"]})
            assert end_of(await rest(client)) == ("cancelled", None)
        await trio.sleep(0.1)
        assert total(server) == 16
        key = evolve(KEY)
        assert await one.store.used_in_day(key) == Amounts(16, 0)
        assert kinds(await client.sync()) == []
