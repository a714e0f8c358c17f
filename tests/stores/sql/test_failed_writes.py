"""Writes that fail: lost answers, cancelled calls, and writes that the database rejects."""

from collections.abc import Callable
from typing import Any, TypeVar

import pytest
import trio
import trio.testing
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError, OperationalError
from stores.samples import (
    ALICE,
    MAIN,
    PATIENCE,
    again,
    change,
    duplicate_of,
    end_of,
    new,
    of_agent,
    of_user,
    page_of,
    record,
    wait_for_history,
)
from stores.sql_samples import (
    LostAnswers,
    concurrently,
    contents,
    events,
    is_ready,
    outcome,
    wait_for_event,
    wait_until_ready,
)
from structlog.testing import capture_logs

from netra_trio.errors import NotStorable, StoreUnavailable
from netra_trio.protocol.messages import RunStatus
from netra_trio.stores.base import Duplicate
from netra_trio.stores.sql import upkeep, write_behind
from netra_trio.stores.sql.entries import StartRun
from netra_trio.stores.sql.store import SqlStore

T = TypeVar("T")

pytestmark = pytest.mark.usefixtures("short_retry")

REFUSED = "what the database refuses"
TRIGGERS = {
    "sqlite": (
        (
            f"CREATE TRIGGER refuses BEFORE INSERT ON messages WHEN NEW.content = '{REFUSED}' "
            "BEGIN SELECT RAISE(ABORT, 'not this one'); END"
        ),
    ),
    "postgresql": (
        (
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE 'not this one' USING ERRCODE = 'check_violation'; END $$"
        ),
        (
            f"CREATE TRIGGER refuses BEFORE INSERT ON messages FOR EACH ROW "
            f"WHEN (NEW.content = '{REFUSED}') EXECUTE FUNCTION refuse()"
        ),
    ),
}


# Lost answers


async def test_a_message_with_a_key_is_deleted_after_a_lost_answer(
    store: SqlStore, url: str
) -> None:
    lost = LostAnswers(store.database)
    message, resent = new("lost", key="k"), new("resent", key="k", fingerprint=b"other")
    lost.times = 1
    assert await outcome(store, message) == "unavailable"
    assert contents(url) == ["lost"]
    assert await outcome(store, new("meanwhile")) == "unavailable"
    assert not await is_ready(store)
    await wait_until_ready(store)
    assert await store.find(again(message)) is None
    assert contents(url) == []
    assert await outcome(store, resent) == "recorded"
    assert await page_of(store) == ([of_user(resent)], False)


async def test_messages_without_a_key_are_stored_once_after_a_lost_answer(
    store: SqlStore,
) -> None:
    lost = LostAnswers(store.database)
    first, second, third = (new(f"{n}", keyed=False) for n in range(3))
    keyed = new("keyed")
    lost.times = 3
    await record(store, first, second)
    assert await outcome(store, keyed) == "unavailable"
    store.start_run(second.run_id)
    end = end_of(first)
    await store.end_run(end)
    await wait_until_ready(store)
    await record(store, third)
    expected = [
        of_user(first, RunStatus.COMPLETED),
        of_agent(end, first),
        of_user(second, RunStatus.RUNNING),
        of_user(third),
    ]
    await wait_for_history(store, expected)


async def test_an_end_is_stored_once_after_a_lost_answer(store: SqlStore) -> None:
    lost = LostAnswers(store.database)
    message = new()
    end, late = end_of(message), end_of(message, "late", status=RunStatus.FAILED)
    await record(store, message)
    lost.times = 2
    with trio.fail_after(PATIENCE):
        await store.end_run(end)  # returns once it is stored
    assert await outcome(store, again(message)) == duplicate_of(
        message, RunStatus.COMPLETED, end.completed
    )
    await store.end_run(late)  # only the first end counts
    assert await page_of(store) == (
        [of_user(message, RunStatus.COMPLETED), of_agent(end, message)],
        False,
    )


async def test_a_message_and_its_end_are_stored_once_after_a_lost_answer(
    store: SqlStore, logs: list[Any]
) -> None:
    lost = LostAnswers(store.database)
    message = new(keyed=False)
    end = end_of(message)
    lost.times = 1
    await record(store, message)
    store.start_run(message.run_id)
    await store.end_run(end)
    await wait_for_event(logs, "store_available")
    assert await page_of(store) == (
        [of_user(message, RunStatus.COMPLETED), of_agent(end, message)],
        False,
    )


# Cancellation


async def test_cancelling_during_the_write_frees_the_key(store: SqlStore, url: str) -> None:
    message = new(key="k")
    scope = trio.CancelScope()
    write = store.database.write

    async def cancels(work: Callable[[Connection], T]) -> T:
        scope.cancel()
        return await write(work)

    store.database.write = cancels  # type: ignore[method-assign]
    with scope:
        await store.record(message)
    assert scope.cancelled_caught
    assert await outcome(store, new("resent", key="k", fingerprint=b"other")) == "recorded"
    assert contents(url) == ["resent"]


async def test_a_concurrent_message_of_a_key_whose_first_is_cancelled(store: SqlStore) -> None:
    first, second = new("first", key="k"), new("second", key="k")
    scope, gate = trio.CancelScope(), trio.Event()
    write = store.database.write
    batches = 0

    async def late(work: Callable[[Connection], T]) -> T:
        nonlocal batches
        batches += 1
        if batches == 1:
            await gate.wait()  # both are in the next batch
        else:
            scope.cancel()
        return await write(work)

    async def record_first() -> None:
        with scope:
            await store.record(first)

    store.database.write = late  # type: ignore[method-assign]
    found: list[Duplicate | str] = []
    store._writes.put(StartRun(first.run_id), urgent=True)
    async with trio.open_nursery() as nursery:
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(record_first)
        await trio.testing.wait_all_tasks_blocked()

        @nursery.start_soon
        async def record_second() -> None:
            found.append(await outcome(store, second))

        await trio.testing.wait_all_tasks_blocked()
        gate.set()
    assert scope.cancelled_caught
    page, _ = await page_of(store)
    listed = [message.message_id for message in page]
    # A message that was reported as recorded is stored.
    if found == ["recorded"]:
        assert listed == [second.message_id]
    else:
        assert found == ["unavailable"] or listed == [first.message_id]


# Writes that the database rejects


async def test_a_rejected_write_does_not_delay_the_others(own_url: str, logs: list[Any]) -> None:
    _set_trigger(own_url)
    store = SqlStore(own_url)
    async with store.open():
        before, bad, after = (new(text_, keyed=False) for text_ in ("before", REFUSED, "after"))
        await record(store, before, bad, after)
        await store.end_run(end_of(bad))  # of a message that was not stored
        end = end_of(after)
        await store.end_run(end)
        expected = [of_user(before), of_user(after, RunStatus.COMPLETED), of_agent(end, after)]
        await wait_for_history(store, expected)
        await store.check()
    (refused,) = [log for log in logs if log["event"] == "write_refused"]
    assert refused["write"] == "RecordMessage"
    assert "not this one" in refused["reason"]


async def test_a_rejected_write_is_reported_to_its_caller(own_url: str, logs: list[Any]) -> None:
    _set_trigger(own_url)
    store = SqlStore(own_url)
    async with store.open():
        bad, good = new(REFUSED), new("good")
        assert await concurrently((store, bad), (store, good)) == ["never stored", "recorded"]
        await store.check()
        assert await page_of(store) == ([of_user(good)], False)
    assert events(logs).count("write_refused") == 1


def _set_trigger(url: str) -> None:
    def work(connection: Connection) -> None:
        for statement in TRIGGERS[connection.dialect.name]:
            connection.execute(text(statement))

    change(url, work)


async def test_a_text_that_cannot_be_encoded_does_not_delay_the_others(store: SqlStore) -> None:
    """The codec rejects a text that is not valid Unicode; the store rejects it, too."""
    with capture_logs() as logs:
        await store.record(new("\ud800", keyed=False))
        message = new("fine")
        await store.record(message)
    assert [line["event"] for line in logs] == ["write_refused"]
    with pytest.raises(NotStorable):
        await store.record(new("\ud800"))
    await store.create_user(ALICE)
    page = await store.history(ALICE, MAIN, limit=10)
    assert page is not None
    assert [listed.message_id for listed in page[0]] == [message.message_id]


# Upkeep


async def test_a_failed_deletion_is_not_repeated_at_once(
    url: str, monkeypatch: pytest.MonkeyPatch, logs: list[Any]
) -> None:
    monkeypatch.setattr(write_behind, "RETRY_SECONDS", 0.05)
    asked = 0

    def fails(connection: Connection, **_: object) -> None:
        nonlocal asked
        asked += 1
        raise OperationalError("DELETE", {}, Exception("no"))

    monkeypatch.setattr(upkeep, "delete_old", fails)
    store = SqlStore(url, retention_days=1)
    async with store.open():
        await wait_for_event(logs, "store_available")
        await trio.sleep(0.2)
    assert asked == 1
    assert events(logs) == ["store_unavailable", "store_available"]


async def test_a_lease_that_cannot_be_renewed_makes_the_store_unavailable(
    url: str, monkeypatch: pytest.MonkeyPatch, logs: list[Any]
) -> None:
    monkeypatch.setattr(upkeep, "RENEW_SECONDS", 0.05)
    store = SqlStore(url)
    async with store.open():
        lost = LostAnswers(store.database)
        lost.times = 1
        await wait_for_event(logs, "store_available")
    assert events(logs) == ["store_unavailable", "store_available"]


async def test_a_lease_renewal_that_loses_a_race_is_retried(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two renewals that find no row both insert it; the second one fails, and is retried."""

    def fails(connection: Connection) -> int:
        raise IntegrityError("", None, Exception("duplicate key"))

    with monkeypatch.context() as broken:
        broken.setattr(store._upkeep, "lease", FailingLease(fails, store._upkeep.lease))
        with pytest.raises(StoreUnavailable):
            await store._upkeep.renew()
        report = store._writes.mark_unavailable
        assert not await store._upkeep._try(store._upkeep.renew, report)
    await wait_until_ready(store)


class FailingLease:
    """A lease whose renewal fails; all other attributes are those of a real one."""

    def __init__(self, renew: Callable[[Connection], int], lease: Any) -> None:
        self.renew = renew
        self._lease = lease

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lease, name)
