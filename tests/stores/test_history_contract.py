"""The contract of `Store` for pages of history, tested for every implementation."""

from collections.abc import Sequence

import pytest
from stores.samples import (
    ALICE,
    BOB,
    MAIN,
    OTHER,
    end_of,
    new,
    of_agent,
    of_user,
    page_of,
    record,
)

from netra_trio.errors import MessageNotFound
from netra_trio.ids import (
    MessageId,
    RunId,
    UserId,
    new_message_id,
)
from netra_trio.protocol.messages import (
    HistoryMessage,
    RunStatus,
)
from netra_trio.stores.base import Store
from netra_trio.stores.bounds import HISTORY_PAGE_BYTES, HISTORY_TEXT_BYTES


@pytest.fixture
async def listed(store: Store) -> list[HistoryMessage]:
    """Record five messages with answers in Alice's thread, and return the expected history."""
    expected: list[HistoryMessage] = []
    for n in range(5):
        message = new(f"question {n}")
        end = end_of(message, f"answer {n}")
        await record(store, message)
        await store.end_run(end)
        expected += [of_user(message, RunStatus.COMPLETED), of_agent(end, message)]
    return expected


async def test_a_page_has_the_newest_messages(store: Store, listed: list[HistoryMessage]) -> None:
    for limit in (1, 2, 9, 10, 11, 100, 101):
        assert await page_of(store, limit=limit) == (listed[-limit:], limit < len(listed))


@pytest.mark.parametrize("limit", [1, 4, 5, 100])
async def test_a_page_is_strictly_before_the_cursor(
    store: Store, listed: list[HistoryMessage], limit: int
) -> None:
    for place, message in enumerate(listed):
        page = await page_of(store, limit=limit, before=message.message_id)
        start = max(0, place - limit)
        assert page == (listed[start:place], start > 0)


async def test_all_pages_together_are_the_thread(
    store: Store, listed: list[HistoryMessage]
) -> None:
    for limit in (1, 2, 3, 7):
        seen: list[HistoryMessage] = []
        before, has_more = None, True
        while has_more:
            page, has_more = await page_of(store, limit=limit, before=before)
            assert 0 < len(page) <= limit
            before = page[0].message_id
            seen = page + seen
        assert seen == listed


async def test_pages_stay_the_same_while_the_thread_grows(
    store: Store, listed: list[HistoryMessage]
) -> None:
    await record(store, new())
    page = await page_of(store, limit=4, before=listed[6].message_id)
    assert page == (listed[2:6], True)


async def test_the_cursor_has_to_be_a_message_of_the_thread(store: Store) -> None:
    here, there, theirs = new(), new(thread=OTHER), new(user=BOB)
    await record(store, here, there, theirs)
    strangers = [
        there.message_id,
        theirs.message_id,
        new_message_id(),
        MessageId(there.run_id),
        MessageId(""),
    ]
    for stranger in strangers:
        with pytest.raises(MessageNotFound):
            await store.history(ALICE, MAIN, limit=10, before=stranger)


async def test_an_unknown_thread_is_reported_before_an_unknown_cursor(store: Store) -> None:
    message = new()
    await record(store, message)
    assert await store.history(ALICE, OTHER, limit=10, before=message.message_id) is None
    assert await store.history(BOB, MAIN, limit=10, before=message.message_id) is None
    assert await store.history(UserId("carol"), MAIN, limit=10) is None


async def test_two_users_may_have_threads_of_the_same_name(store: Store) -> None:
    mine, theirs = new("mine"), new("theirs", user=BOB)
    await record(store, mine)
    assert await store.history(BOB, MAIN, limit=10) is None
    await record(store, theirs)
    await store.end_run(end_of(theirs, ""))
    assert await page_of(store) == ([of_user(mine)], False)
    expected = [of_user(theirs, RunStatus.COMPLETED)]
    assert await page_of(store, user=BOB) == (expected, False)


def size(page: Sequence[HistoryMessage]) -> int:
    """Return the bytes of a page's texts."""
    return sum(len(message.content.encode()) for message in page)


@pytest.mark.parametrize("letter", ["x", "é", "😀"])
async def test_a_page_has_at_most_256_kib(store: Store, letter: str) -> None:
    text = letter * (HISTORY_TEXT_BYTES // len(letter.encode()))
    messages = [new(text) for _ in range(6)]
    await record(store, *messages)
    page, has_more = await page_of(store)
    # Four texts have the size of a page: with their ids there is room for three.
    assert page == [of_user(message) for message in messages[3:]]
    assert has_more
    assert size(page) <= HISTORY_PAGE_BYTES
    page, has_more = await page_of(store, before=page[0].message_id)
    assert page == [of_user(message) for message in messages[:3]]
    assert not has_more


async def test_a_hundred_short_messages_fit_in_a_page(store: Store) -> None:
    messages = [new(f"{n}" + "x" * 1000) for n in range(100)]
    await record(store, *messages)
    assert await page_of(store) == ([of_user(message) for message in messages], False)


@pytest.mark.parametrize("length", [HISTORY_PAGE_BYTES, HISTORY_PAGE_BYTES + 1])
async def test_a_page_has_at_least_one_message_of_any_size(store: Store, length: int) -> None:
    short, long = new("short"), new("x" * length)
    await record(store, short, long)
    assert await page_of(store) == ([of_user(long)], True)
    assert await page_of(store, before=long.message_id) == ([of_user(short)], False)


async def test_the_end_of_an_unknown_run_changes_nothing(store: Store) -> None:
    message = new()
    await record(store, message)
    store.start_run(RunId("run_unknown"))
    await store.end_run(end_of(new()))
    assert await page_of(store) == ([of_user(message)], False)
