"""Budgets of one process: warnings, refused messages and stopped runs, at each limit and beyond."""

from decimal import Decimal
from typing import Any

import pytest
import trio
import trio.lowlevel
from support.memory import EPOCH, Client, Frame, kinds, open_server
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio.agents.run import Run
from netra_trio.errors import StoreUnavailable
from netra_trio.ids import RunId, UserId, new_usage_id
from netra_trio.node.budgets import DayBudgets
from netra_trio.protocol.usage import Amounts, UsageKey, day_of
from netra_trio.stores.memory import MemoryStore
from netra_trio.stores.usage import Usage

LEFT_MS = 57_600_000  # from the epoch of these tests, at 08:00 UTC, to midnight
TO_MIDNIGHT = 5.0  # in tests with `late_evening`; seconds
QUIET: dict[str, Any] = {"heartbeat_interval_ms": 3_600_000}


async def spend(run: Run) -> str:
    """Use so many tokens as the message says, half of them written; `+` waits for a stop then."""
    tokens, _, more = run.content.partition(" ")
    half = int(tokens) // 2
    await run.usage(model="m", input_tokens=int(tokens) - half, output_tokens=half)
    if more:
        await trio.sleep_forever()
    return "done"


async def pay(run: Run) -> str:
    """Report so high a cost as the message says."""
    await run.usage(model="m", input_tokens=1, output_tokens=1, cost=float(run.content))
    return "done"


async def wait(run: Run) -> None:
    await trio.sleep_forever()


AGENTS = {"spend": spend, "pay": pay, "wait": wait}


@pytest.fixture
def late_evening(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the virtual clock start shortly before midnight in UTC."""
    monkeypatch.setattr("support.memory.EPOCH", EPOCH + LEFT_MS / 1000 - TO_MIDNIGHT)


async def told(client: Client, content: str, key: str | None = None, **payload: Any) -> list[Frame]:
    """Send a message; return its frames, up to the end of its run or its error."""
    await client.say(content, key, **payload)
    frames = [await client.next()]
    while frames[-1]["type"] not in {"agent_completed", "error"}:
        frames.append(await client.next())
    return frames


def warnings(frames: list[Frame]) -> list[Frame]:
    return [frame["payload"] for frame in frames if frame["type"] == "usage_warning"]


def end_of(frames: list[Frame]) -> tuple[str, str | None]:
    payload = frames[-1]["payload"]
    return payload["status"], payload.get("error", {}).get("code")


def recorded(*tokens: int, cost: float | None = None, at: float = EPOCH) -> list[Usage]:
    """Return reports of alice and the agent `spend`."""
    return [
        Usage(new_usage_id(), RunId("run_0"), UserId("alice"), "spend", "m", each, 0, cost, at)
        for each in tokens
    ]


async def test_at_the_limit_is_allowed_and_one_beyond_is_not(autojump_clock: MockClock) -> None:
    async with (
        open_server(agents=AGENTS, usage_limit_tokens=1000, **QUIET) as server,
        server.connect() as client,
    ):
        assert end_of(await told(client, "999")) == ("completed", None)
        assert end_of(await told(client, "1")) == ("completed", None)
        assert end_of(await told(client, "0")) == ("completed", None)  # the day is at its limit
        frames = await told(client, "1")
        assert end_of(frames) == ("cancelled", "BUDGET_EXCEEDED")
        assert kinds(frames)[-2:] == ["agent_usage", "agent_completed"]
        assert frames[-1]["payload"]["error"] == {
            "code": "BUDGET_EXCEEDED",
            "error": "Today's budget of the agent spend is used up: 1001 of 1000 tokens.",
            "timestamp": EPOCH,
            "recoverable": True,
            "help": "Send again after 2027-01-16 00:00 UTC, or ask an administrator.",
            "retry_after_ms": LEFT_MS,
        }
        for kind, payload in (
            ("user_message", {"content": "1"}),
            ("agent_request", {"agent": "spend", "input": "1"}),
        ):
            await client.send(kind, payload, "k-9")
            error = await client.expect("error")
            assert error["correlation_id"] == "k-9"
            assert error["payload"] == frames[-1]["payload"]["error"]
        # Another agent and another user have budgets of their own.
        assert end_of(await told(client, "0", agent="pay")) == ("completed", None)
        async with server.connect("bob") as bob:
            assert end_of(await told(bob, "1")) == ("completed", None)
        metrics = server.node.services.instruments.metrics
        assert metrics.errors["BUDGET_EXCEEDED"] == 3


async def test_cost_counts_in_billionths_so_that_sums_are_exact(autojump_clock: MockClock) -> None:
    limits = {"usage_limit_cost": Decimal("0.3"), **QUIET}
    async with (
        open_server(agents=AGENTS, **limits) as server,
        server.connect() as client,
    ):
        frames = []
        for _ in range(3):  # 0.1 + 0.1 + 0.1 is more than 0.3 as a sum of doubles
            frames += await told(client, "0.1", agent="pay")
            assert end_of(frames) == ("completed", None)
        expected = {"agent_name": "pay", "unit": "cost", "limit": 0.3, "used": 0.3}
        assert warnings(frames) == [expected]
        frames = await told(client, "0.000000001", agent="pay")
        assert end_of(frames) == ("cancelled", "BUDGET_EXCEEDED")
        assert "a cost of 0.300000001 of 0.3." in frames[-1]["payload"]["error"]["error"]


async def test_a_warning_is_sent_once_at_80_percent_to_all_sessions(
    autojump_clock: MockClock,
) -> None:
    async with (
        open_server(agents=AGENTS, usage_limit_tokens=1001, **QUIET) as server,
        server.connect() as client,
        server.connect() as other,
        server.connect("bob") as bob,
    ):
        assert warnings(await told(client, "800")) == []  # 80 % are 800.8
        frames = await told(client, "1")
        expected = {"agent_name": "spend", "unit": "tokens", "limit": 1001, "used": 801}
        assert warnings(frames) == [expected]
        assert "seq" not in next(frame for frame in frames if frame["type"] == "usage_warning")
        assert warnings(await told(client, "100")) == []
        assert warnings(await other.sync()) == [expected]
        assert warnings(await bob.sync()) == []


async def test_a_report_that_exceeds_both_limits_warns_of_both(autojump_clock: MockClock) -> None:
    limits = {"usage_limit_cost": Decimal(2), "usage_limit_tokens": 1, **QUIET}
    async with (
        open_server(agents=AGENTS, **limits) as server,
        server.connect() as client,
    ):
        frames = await told(client, "2.5", agent="pay")
        assert {each["unit"] for each in warnings(frames)} == {"tokens", "cost"}
        assert end_of(frames) == ("cancelled", "BUDGET_EXCEEDED")


async def test_all_runs_of_the_agent_end_at_once(autojump_clock: MockClock) -> None:
    """Also those of other sessions and threads, and those that wait."""
    async with (
        open_server(agents=AGENTS, usage_limit_tokens=10, **QUIET) as server,
        server.connect() as client,
        server.connect() as other,
    ):
        await client.say("1 +", thread_id="a")
        await client.say("1 +", thread_id="a")  # waits for the first one
        await client.until("agent_usage")
        await other.say("1 +", thread_id="b")
        await other.until("agent_usage")
        await other.say("x", agent="wait", thread_id="c")
        await other.until("agent_started")
        assert [kind for kind in kinds(await client.sync()) if kind == "agent_completed"] == []
        frames = await told(other, "9", thread_id="d")
        ends = [frame for frame in frames if frame["type"] == "agent_completed"]
        ends += [frame for frame in await other.sync() if frame["type"] == "agent_completed"]
        assert len(ends) == 2
        ends += [frame for frame in await client.sync() if frame["type"] == "agent_completed"]
        assert [end_of([end]) for end in ends] == [("cancelled", "BUDGET_EXCEEDED")] * 4
        waiting = ends[-2:]
        assert 0 in {end["payload"]["duration_ms"] for end in waiting}
        assert server.node.statistics()["users"] == 1
        [left] = server.node.services.budgets._users.find(UserId("alice")).runs.values()  # type: ignore[union-attr]
        assert left.message.agent_name == "wait"


async def test_all_tasks_of_a_run_have_ended_before_its_end_is_written(
    autojump_clock: MockClock,
) -> None:
    ended: list[str] = []

    async def agent(run: Run) -> None:
        async def background() -> None:
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(1)
                ended.append("background")

        run.nursery.start_soon(background)
        await trio.lowlevel.checkpoint()
        try:
            await run.usage(model="m", input_tokens=11, output_tokens=0)
            await run.emit("never")
        finally:
            ended.append("agent")

    async with (
        open_server(agents={"spend": agent}, usage_limit_tokens=10, **QUIET) as server,
        server.connect() as client,
    ):
        frames = await told(client, "x")
        assert ended == ["agent", "background"]
        assert end_of(frames) == ("cancelled", "BUDGET_EXCEEDED")
        assert "partial_result" not in kinds(frames)


async def test_a_duplicate_is_looked_up_first_and_the_key_of_a_refused_message_stays_free(
    autojump_clock: MockClock,
    late_evening: None,
) -> None:
    async with (
        open_server(agents=AGENTS, usage_limit_tokens=10, **QUIET) as server,
        server.connect() as client,
    ):
        await told(client, "11", "k-1")
        frames = await told(client, "11", "k-1")
        assert frames[0]["payload"]["status"] == "duplicate"
        assert end_of(frames) == ("cancelled", "BUDGET_EXCEEDED")
        [refused] = await told(client, "5", "k-2")
        assert refused["payload"]["code"] == "BUDGET_EXCEEDED"
        await trio.sleep(TO_MIDNIGHT)
        frames = await told(client, "6", "k-2")
        assert frames[0]["payload"]["status"] == "accepted"
        assert end_of(frames) == ("completed", None)


async def test_the_day_ends_at_midnight_in_utc(
    autojump_clock: MockClock, late_evening: None
) -> None:
    async with (
        open_server(agents=AGENTS, usage_limit_tokens=10, **QUIET) as server,
        server.connect() as client,
    ):
        await told(client, "11")
        await trio.sleep(TO_MIDNIGHT - 0.5)
        [refused] = await told(client, "1")
        assert refused["payload"]["retry_after_ms"] == 500
        await trio.sleep(0.5)
        frames = await told(client, "8")
        assert end_of(frames) == ("completed", None)
        assert len(warnings(frames)) == 1  # of the new day
        frames = await told(client, "3")
        assert end_of(frames) == ("cancelled", "BUDGET_EXCEEDED")
        assert frames[-1]["payload"]["error"]["retry_after_ms"] == 86_400_000


async def test_a_run_over_midnight_counts_for_the_day_of_each_report(
    autojump_clock: MockClock,
    late_evening: None,
) -> None:
    async def agent(run: Run) -> None:
        await run.usage(model="m", input_tokens=10, output_tokens=0)
        await trio.sleep(TO_MIDNIGHT)
        await run.usage(model="m", input_tokens=10, output_tokens=0)

    settings = {"agent_timeout_ms": 86_400_000, **QUIET}
    async with (
        open_server(agents={"a": agent}, usage_limit_tokens=10, **settings) as server,
        server.connect() as client,
    ):
        assert end_of(await told(client, "x")) == ("completed", None)


async def test_the_sum_begins_with_the_store(autojump_clock: MockClock) -> None:
    store = MemoryStore()
    for usage in recorded(500, 300, at=EPOCH):
        await store.record_usage(usage)
    async with (
        open_server(agents=AGENTS, store=store, usage_limit_tokens=1000, **QUIET) as server,
        server.connect() as client,
    ):
        frames = await told(client, "200")
        assert end_of(frames) == ("completed", None)
        assert warnings(frames) == []  # the day was beyond 80 % before this server started
        assert end_of(await told(client, "1")) == ("cancelled", "BUDGET_EXCEEDED")


class FaultyStore(MemoryStore):
    """A store whose sums are not available, as often as a test says."""

    def __init__(self) -> None:
        super().__init__()
        self.sums = 0
        self.failures = 0
        self.records = trio.Event()
        self.records.set()

    async def used_in_day(self, key: UsageKey) -> Amounts:
        self.sums += 1
        if self.failures:
            self.failures -= 1
            raise StoreUnavailable("it is down")
        return await super().used_in_day(key)

    async def record_usage(self, usage: Usage) -> None:
        await self.records.wait()
        await super().record_usage(usage)


async def test_the_store_is_asked_once_a_day(autojump_clock: MockClock, late_evening: None) -> None:
    store = FaultyStore()
    async with (
        open_server(agents=AGENTS, store=store, usage_limit_tokens=10, **QUIET) as server,
        server.connect() as client,
    ):
        for _ in range(5):
            await told(client, "1")
        assert store.sums == 1
        await trio.sleep(TO_MIDNIGHT)
        await told(client, "1")
        assert store.sums == 2


async def test_without_limits_nothing_is_counted(autojump_clock: MockClock) -> None:
    store = FaultyStore()
    async with (
        open_server(agents=AGENTS, store=store, **QUIET) as server,
        server.connect() as client,
    ):
        assert end_of(await told(client, str(10**15))) == ("completed", None)
        assert server.node.services.budgets is None
        assert store.sums == 0


async def test_a_message_is_refused_for_now_while_its_sum_is_unknown(
    autojump_clock: MockClock,
) -> None:
    store = FaultyStore()
    store.failures = 1
    async with (
        open_server(agents=AGENTS, store=store, usage_limit_tokens=10, **QUIET) as server,
        server.connect() as client,
    ):
        [refused] = await told(client, "1")
        assert refused["payload"]["code"] == "SERVICE_UNAVAILABLE"
        assert end_of(await told(client, "11")) == ("cancelled", "BUDGET_EXCEEDED")


async def test_a_report_counts_while_the_store_has_no_sum(
    autojump_clock: MockClock, late_evening: None
) -> None:
    async def late(run: Run) -> None:
        await trio.sleep(TO_MIDNIGHT)
        await run.usage(model="m", input_tokens=11, output_tokens=0)

    store = FaultyStore()
    async with (
        open_server(agents={"late": late}, store=store, usage_limit_tokens=10, **QUIET) as server,
        server.connect() as client,
    ):
        await client.say("x")
        await client.until("agent_started")
        store.failures = 1  # the sum of the new day
        assert end_of(await client.until("agent_completed")) == ("cancelled", "BUDGET_EXCEEDED")
        assert store.sums == 2


async def test_a_report_counts_when_its_run_is_cancelled_meanwhile(
    autojump_clock: MockClock,
) -> None:
    store = FaultyStore()
    async with (
        open_server(agents=AGENTS, store=store, usage_limit_tokens=10, **QUIET) as server,
        server.connect() as client,
    ):
        store.records = trio.Event()
        await client.say("11 +")
        frames = await client.until("agent_usage")
        await wait_all_tasks_blocked()
        await client.send("stop_agent", {"run_id": frames[0]["payload"]["run_id"]})
        assert end_of(await client.until("agent_completed")) == ("cancelled", None)
        store.records.set()
        await client.expect("usage_warning")
        [refused] = await told(client, "1")
        assert refused["payload"]["code"] == "BUDGET_EXCEEDED"
        key = UsageKey(UserId("alice"), "spend", day_of(EPOCH))
        assert await store.used_in_day(key) == Amounts(11, 0)


async def test_a_message_is_not_lost_when_it_is_cancelled_while_the_sum_is_read(
    autojump_clock: MockClock,
) -> None:
    class SlowStore(MemoryStore):
        async def used_in_day(self, key: UsageKey) -> Amounts:
            await trio.sleep(1)
            return await super().used_in_day(key)

    async with (
        open_server(agents=AGENTS, store=SlowStore(), usage_limit_tokens=10, **QUIET) as server,
        server.connect() as client,
    ):
        budgets = server.node.services.budgets
        assert budgets is not None
        with trio.move_on_after(0.5):
            await budgets.check(UserId("alice"), "spend")
        assert end_of(await told(client, "10")) == ("completed", None)


async def test_a_failure_of_a_custom_store_is_raised_to_the_agent(
    autojump_clock: MockClock,
) -> None:
    class BrokenStore(MemoryStore):
        async def record_usage(self, _usage: Usage) -> None:
            raise OSError("broken")

    async with (
        open_server(agents=AGENTS, store=BrokenStore(), usage_limit_tokens=10, **QUIET) as server,
        server.connect() as client,
    ):
        assert end_of(await told(client, "11")) == ("failed", "AGENT_ERROR")
        [refused] = await told(client, "1")  # it counts all the same
        assert refused["payload"]["code"] == "BUDGET_EXCEEDED"


async def test_only_active_users_are_kept(autojump_clock: MockClock) -> None:
    users = tuple(f"user_{number}" for number in range(8))
    async with open_server(agents=AGENTS, users=users, usage_limit_tokens=10, **QUIET) as server:
        budgets = server.node.services.budgets
        assert isinstance(budgets, DayBudgets)
        for user in users:
            async with server.connect(user, acknowledging=False) as client:
                await told(client, "1")
            await trio.sleep(300)  # its session has ended
        assert budgets.kept <= 3


@pytest.mark.parametrize("content", ["1", "11"])
async def test_a_message_while_the_server_drains_is_sent_again(
    autojump_clock: MockClock, content: str
) -> None:
    """A refusal for the budget would settle it."""
    async with (
        open_server(agents=AGENTS, usage_limit_tokens=10, **QUIET) as server,
        server.connect() as client,
    ):
        await told(client, content)
        await client.say("x", agent="wait", thread_id="w")
        await client.until("agent_started")
        server.nursery.start_soon(server.node.drain)
        await client.until("server_draining")
        [refused] = await told(client, "1", "k-1")
        assert refused["payload"]["code"] == "SERVER_DRAINING"
