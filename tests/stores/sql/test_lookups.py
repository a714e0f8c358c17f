"""Look-ups that join each other: who asks for whom, and what a cancelled or failed one leaves."""

from collections.abc import Collection, Mapping

import pytest
import trio

from netra_trio.errors import StoreUnavailable
from netra_trio.stores.sql.lookups import TOGETHER, Lookups


class Asked:
    """A store that answers after a second, and remembers what it was asked."""

    def __init__(self) -> None:
        self.questions: list[set[str]] = []
        self.fault: str | None = None

    async def ask(self, keys: Collection[str]) -> Mapping[str, str]:
        self.questions.append(set(keys))
        await trio.sleep(1.0)
        if self.fault is not None:
            raise StoreUnavailable(self.fault)
        return {key: key.upper() for key in keys if key != "nobody"}


async def test_who_comes_alone_asks_at_once(autojump_clock: trio.abc.Clock) -> None:
    asked = Asked()
    lookups = Lookups(asked.ask)
    assert await lookups.get("alice") == "ALICE"
    assert await lookups.get("nobody") is None
    assert asked.questions == [{"alice"}, {"nobody"}]


async def test_who_comes_meanwhile_is_asked_for_together(autojump_clock: trio.abc.Clock) -> None:
    asked, found = Asked(), dict[str, str | None]()
    lookups = Lookups(asked.ask)

    async def get(key: str) -> None:
        found[key] = await lookups.get(key)

    started = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(get, "alice")
        await trio.sleep(0.1)
        for key in ("bob", "carol", "nobody"):
            nursery.start_soon(get, key)
    assert asked.questions == [{"alice"}, {"bob", "carol", "nobody"}]
    assert found == {"alice": "ALICE", "bob": "BOB", "carol": "CAROL", "nobody": None}
    assert trio.current_time() - started == pytest.approx(2.0)


@pytest.mark.parametrize(("count", "questions"), [(TOGETHER, 1), (TOGETHER + 1, 2)])
async def test_a_question_has_so_many_keys(
    autojump_clock: trio.abc.Clock, count: int, questions: int
) -> None:
    asked = Asked()
    lookups = Lookups(asked.ask)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lookups.get, "first")
        await trio.sleep(0.1)
        for number in range(count):
            nursery.start_soon(lookups.get, str(number))
    assert len(asked.questions) == 1 + questions
    assert sum(map(len, asked.questions)) == 1 + count
    assert max(map(len, asked.questions)) <= TOGETHER


async def test_a_fault_is_told_to_all_who_joined_and_to_nobody_else(
    autojump_clock: trio.abc.Clock,
) -> None:
    asked, told = Asked(), list[str]()
    lookups = Lookups(asked.ask)
    asked.fault = "the database is down"

    async def get(key: str) -> None:
        with pytest.raises(StoreUnavailable, match="the database is down"):
            await lookups.get(key)
        told.append(key)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(get, "alice")
        await trio.sleep(0.1)
        nursery.start_soon(get, "bob")
        nursery.start_soon(get, "carol")
    assert told[0] == "alice"
    assert sorted(told) == ["alice", "bob", "carol"]
    asked.fault = None
    assert await lookups.get("bob") == "BOB"


@pytest.mark.parametrize("after", [0.5, 1.5])  # while it waits for its turn, and while it asks
async def test_who_asks_for_others_may_be_cancelled(
    autojump_clock: trio.abc.Clock, after: float
) -> None:
    asked, found = Asked(), list[str | None]()
    lookups = Lookups(asked.ask)

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
    assert asked.questions[-1] == {"carol"}


async def test_who_joined_may_be_cancelled(autojump_clock: trio.abc.Clock) -> None:
    asked, found = Asked(), list[str | None]()
    lookups = Lookups(asked.ask)

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
