"""Several servers on one database."""

from typing import Any

import pytest
from sqlalchemy import Connection, delete
from stores.samples import (
    ALICE,
    MAIN,
    OTHER,
    again,
    change,
    duplicate_of,
    end_of,
    new,
    of_user,
    page_of,
    record,
)
from stores.sql_samples import (
    concurrently,
    outcome,
    two_stores,
)

from netra_trio.protocol.messages import RunStatus
from netra_trio.stores.base import Duplicate, User
from netra_trio.stores.sql.batch import Batch
from netra_trio.stores.sql.entries import RecordMessage
from netra_trio.stores.sql.schema import threads

pytestmark = pytest.mark.usefixtures("short_retry")


async def test_two_servers_record_a_key_once(url: str) -> None:
    async with two_stores(url) as (one, other):
        for round_ in range(10):
            mine, theirs = new(key=f"{round_}"), new(key=f"{round_}")
            answers = await concurrently((one, mine), (other, theirs))
            first, second = (mine, theirs) if answers[0] == "recorded" else (theirs, mine)
            expected: list[Duplicate | str] = ["recorded", duplicate_of(first)]
            assert sorted(answers, key=str) == sorted(expected, key=str)
            assert await outcome(one, second) == duplicate_of(first)
        page, _ = await page_of(one)
        assert len(page) == 10


async def test_a_key_of_two_servers_with_other_content_conflicts(url: str) -> None:
    async with two_stores(url) as (one, other):
        for round_ in range(10):
            mine, theirs = new(key=f"{round_}"), new(key=f"{round_}", fingerprint=b"other")
            answers = await concurrently((one, mine), (other, theirs))
            assert sorted(map(str, answers)) == ["conflict", "recorded"]


async def test_many_messages_of_two_servers_are_all_stored(url: str) -> None:
    async with two_stores(url) as (one, other):
        calls = [
            (store, new(f"{n}", keyed=n % 3 == 0)) for n in range(60) for store in (one, other)
        ]
        assert await concurrently(*calls) == ["recorded"] * 120
        await one.history(ALICE, MAIN, limit=1)
        await other.history(ALICE, MAIN, limit=1)
        page, _ = await page_of(one, limit=200)
    assert {m.message_id for m in page} == {message.message_id for _, message in calls}


async def test_a_key_that_another_server_recorded_in_between_is_found(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other message is committed after the select of its key, and before our insert."""
    async with two_stores(url) as (one, other):
        message, theirs = new(key="c-1"), new(key="c-1")
        find_duplicates = Batch._find_duplicates
        tries = 0

        def late(batch: Any, connection: Connection) -> Any:
            nonlocal tries
            found = find_duplicates(batch, connection)
            if batch._of(RecordMessage):
                tries += 1
                if tries == 1:
                    # As if the key had been selected just before the other commit.
                    return {}
            return found

        await record(other, theirs)
        monkeypatch.setattr(Batch, "_find_duplicates", late)
        assert await outcome(one, message) == duplicate_of(theirs)
        assert tries == 2
        assert await page_of(one) == ([of_user(theirs)], False)


async def test_a_thread_that_another_server_deleted_is_created_again(url: str) -> None:
    async with two_stores(url) as (one, other):
        await record(one, new("old"))
        change(url, lambda connection: connection.execute(delete(threads)))
        assert await one.history(ALICE, MAIN, limit=10) is None
        keyed, keyless = new("keyed"), new("keyless", keyed=False, thread=OTHER)
        await record(one, keyed)
        assert await page_of(other) == ([of_user(keyed)], False)
        change(url, lambda connection: connection.execute(delete(threads)))
        await record(one, keyless)
        assert await page_of(one, thread=OTHER) == ([of_user(keyless)], False)


async def test_users_are_shared_by_all_servers(url: str) -> None:
    async with two_stores(url) as (one, other):
        await one.create_user(ALICE)
        assert await other.get_user(ALICE) == User(ALICE)
        await other.set_user_enabled(ALICE, enabled=False)
        assert await one.get_user(ALICE) == User(ALICE, enabled=False)


async def test_another_server_finds_an_end(url: str) -> None:
    async with two_stores(url) as (one, other):
        message = new()
        await record(one, message)
        end = end_of(message)
        await one.end_run(end)
        expected = duplicate_of(message, RunStatus.COMPLETED, end.completed)
        assert await outcome(other, again(message)) == expected
        assert await other.find(again(message)) == expected
