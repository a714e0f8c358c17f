"""Look-ups that share queries, also when one of them is cancelled or fails."""

from collections.abc import Collection, Mapping

import pytest
import trio

from netra_trio.errors import StoreUnavailable
from netra_trio.stores.sql.lookups import KEYS, Lookups


class ScriptedQuery:
    """A query that takes a second, and records its keys."""

    def __init__(self) -> None:
        self.queries: list[set[str]] = []
        self.error: str | None = None

    async def query(self, keys: Collection[str]) -> Mapping[str, str]:
        self.queries.append(set(keys))
        await trio.sleep(1.0)
        if self.error is not None:
            raise StoreUnavailable(self.error)
        return {key: key.upper() for key in keys if key != "nobody"}


async def test_a_single_look_up_runs_its_query_at_once(autojump_clock: trio.abc.Clock) -> None:
    scripted = ScriptedQuery()
    lookups = Lookups(scripted.query)
    assert await lookups.get("alice") == "ALICE"
    assert await lookups.get("nobody") is None
    assert scripted.queries == [{"alice"}, {"nobody"}]


async def test_look_ups_during_a_query_share_the_next_one(autojump_clock: trio.abc.Clock) -> None:
    scripted, found = ScriptedQuery(), dict[str, str | None]()
    lookups = Lookups(scripted.query)

    async def get(key: str) -> None:
        found[key] = await lookups.get(key)

    started = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(get, "alice")
        await trio.sleep(0.1)
        for key in ("bob", "carol", "nobody"):
            nursery.start_soon(get, key)
    assert scripted.queries == [{"alice"}, {"bob", "carol", "nobody"}]
    assert found == {"alice": "ALICE", "bob": "BOB", "carol": "CAROL", "nobody": None}
    assert trio.current_time() - started == pytest.approx(2.0)


@pytest.mark.parametrize(("count", "queries"), [(KEYS, 1), (KEYS + 1, 2)])
async def test_a_query_has_a_bounded_number_of_keys(
    autojump_clock: trio.abc.Clock, count: int, queries: int
) -> None:
    scripted = ScriptedQuery()
    lookups = Lookups(scripted.query)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lookups.get, "first")
        await trio.sleep(0.1)
        for number in range(count):
            nursery.start_soon(lookups.get, str(number))
    assert len(scripted.queries) == 1 + queries
    assert sum(map(len, scripted.queries)) == 1 + count
    assert max(map(len, scripted.queries)) <= KEYS


async def test_an_error_is_raised_by_all_look_ups_of_the_query_and_by_no_other(
    autojump_clock: trio.abc.Clock,
) -> None:
    scripted, raised = ScriptedQuery(), list[str]()
    lookups = Lookups(scripted.query)
    scripted.error = "the database is down"

    async def get(key: str) -> None:
        with pytest.raises(StoreUnavailable, match="the database is down"):
            await lookups.get(key)
        raised.append(key)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(get, "alice")
        await trio.sleep(0.1)
        nursery.start_soon(get, "bob")
        nursery.start_soon(get, "carol")
    assert raised[0] == "alice"
    assert sorted(raised) == ["alice", "bob", "carol"]
    scripted.error = None
    assert await lookups.get("bob") == "BOB"


@pytest.mark.parametrize("after", [0.5, 1.5])  # while another query runs, and while its own does
async def test_the_task_that_runs_a_shared_query_may_be_cancelled(
    autojump_clock: trio.abc.Clock, after: float
) -> None:
    scripted, found = ScriptedQuery(), list[str | None]()
    lookups = Lookups(scripted.query)

    async def get(key: str) -> None:
        found.append(await lookups.get(key))

    async def give_up() -> None:
        with trio.move_on_after(after):
            await lookups.get("bob")
            raise AssertionError("it was not cancelled")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(get, "alice")
        await trio.sleep(0.1)
        nursery.start_soon(give_up)
        await trio.sleep(0.1)
        nursery.start_soon(get, "carol")
    assert found == ["ALICE", "CAROL"]
    assert scripted.queries[-1] == {"carol"}


async def test_a_task_that_joined_a_query_may_be_cancelled(autojump_clock: trio.abc.Clock) -> None:
    scripted, found = ScriptedQuery(), list[str | None]()
    lookups = Lookups(scripted.query)

    async def get(key: str) -> None:
        found.append(await lookups.get(key))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(get, "alice")
        await trio.sleep(0.1)
        nursery.start_soon(get, "bob")
        await trio.sleep(0.1)
        with trio.move_on_after(0.1):
            await lookups.get("carol")
            raise AssertionError("it was not cancelled")
    assert found == ["ALICE", "BOB"]
