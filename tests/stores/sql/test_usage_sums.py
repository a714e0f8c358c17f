"""Reports of usage in a database: stored once, summed by day, user, agent and model."""

from collections.abc import AsyncIterator

import pytest
import trio
from stores.samples import ALICE, BOB

from netra_trio.ids import RunId, UserId, new_usage_id
from netra_trio.stores.sql import retention, upkeep
from netra_trio.stores.sql.database import Database
from netra_trio.stores.sql.questions import UsageSum
from netra_trio.stores.sql.retention import DAY, USAGE_DAYS
from netra_trio.stores.sql.store import SqlStore
from netra_trio.stores.usage import Usage

MIDNIGHT = 1_798_675_200.0  # 2026-12-31 00:00 UTC
PAST = 19_675 * 86_400.0  # another midnight, before now on the clock of the database
LARGE = 2**53 - 1


@pytest.fixture(params=["sqlite_database", "postgres_database"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[SqlStore]:
    """Open an empty store."""
    database: Database = request.getfixturevalue(request.param)
    opened = SqlStore(database)
    async with opened.open():
        yield opened


def report(
    user: UserId = ALICE,
    *,
    run: str = "run_1",
    agent: str = "shop",
    model: str = "qwen3",
    tokens: tuple[int, int] = (10, 2),
    cost: float | None = None,
    at: float = MIDNIGHT,
) -> Usage:
    return Usage(new_usage_id(), RunId(run), user, agent, model, *tokens, cost, at)


async def record(store: SqlStore, *reports: Usage) -> None:
    for each in reports:
        await store.record_usage(each)
    await store.history(ALICE, "any", limit=1)  # type: ignore[arg-type]  # waits for earlier writes


async def test_without_reports_there_is_no_sum(store: SqlStore) -> None:
    assert await store.sum_usage(["user"]) == []


async def test_usage_is_summed_by_each_column(store: SqlStore) -> None:
    await record(
        store,
        report(cost=0.25),
        report(run="run_1", tokens=(1, 1), cost=0.5),
        report(BOB, run="run_2", model="llama", at=MIDNIGHT - 0.001),
        report(BOB, run="run_3", agent="other", tokens=(LARGE, 0)),
    )
    assert await store.sum_usage(["user"]) == [
        UsageSum({"user": "alice"}, 1, 11, 3, 0.75),
        UsageSum({"user": "bob"}, 2, LARGE + 10, 2, None),
    ]
    assert [each.by for each in await store.sum_usage(["day"])] == [
        {"day": "2026-12-30"},
        {"day": "2026-12-31"},
    ]
    assert [(each.by, each.runs) for each in await store.sum_usage(["agent", "model"])] == [
        ({"agent": "other", "model": "qwen3"}, 1),
        ({"agent": "shop", "model": "llama"}, 1),
        ({"agent": "shop", "model": "qwen3"}, 1),
    ]


async def test_the_first_day_counts(store: SqlStore) -> None:
    await record(store, report(at=MIDNIGHT - 1), report(run="run_2"), report(BOB, run="run_3"))
    for since, runs in {"2026-12-30": 3, "2026-12-31": 2, "2027-01-01": 0}.items():
        sums = await store.sum_usage(["user"], since)
        assert sum(each.runs for each in sums) == runs


async def test_a_report_that_comes_twice_counts_once(store: SqlStore) -> None:
    once = report()
    await record(store, once, once)
    await record(store, once)
    assert await store.sum_usage(["user"]) == [UsageSum({"user": "alice"}, 1, 10, 2, None)]


@pytest.mark.parametrize("days", [7, USAGE_DAYS + 1])
@pytest.mark.parametrize("name", ["sqlite_database", "postgres_database"])
async def test_old_reports_are_deleted_with_old_messages(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, name: str, days: int
) -> None:
    monkeypatch.setattr(upkeep, "CHUNK", 2)
    monkeypatch.setattr(retention, "CHUNK", 2)
    oldest = PAST - max(days, USAGE_DAYS) * DAY
    store = SqlStore(request.getfixturevalue(name), retention_days=days, wall_clock=lambda: PAST)
    store._upkeep.delete_old = trio.lowlevel.checkpoint  # type: ignore[method-assign]
    async with store.open():
        old = [report(run=f"old_{number}", at=oldest - 1) for number in range(5)]
        await record(store, *old, report(run="kept", at=oldest))
        await upkeep.Upkeep.delete_old(store._upkeep)
        (left,) = await store.sum_usage(["user"])
        assert left.runs == 1
