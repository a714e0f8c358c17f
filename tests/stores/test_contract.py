"""The contract of `Store`, tested through its methods only, for every implementation.

A store joins by adding its factory to `stores.implementations.STORES`. The tests wait for writes
that a store may delay.
"""

import pytest
import trio
from stores.samples import (
    ALICE,
    BOB,
    MAIN,
    NOW,
    OTHER,
    again,
    duplicate_of,
    end_of,
    new,
    of_agent,
    of_user,
    page_of,
    record,
    wait_for_history,
    wait_until,
)

from netra_trio.errors import KeyConflict
from netra_trio.ids import (
    ThreadId,
    UserId,
    new_usage_id,
)
from netra_trio.protocol.messages import (
    RunStatus,
)
from netra_trio.protocol.usage import AMOUNT_MAX, NOTHING, Amounts, UsageKey, day_of
from netra_trio.stores.base import Duplicate, NewMessage, RunEnd, Store, User
from netra_trio.stores.bounds import HISTORY_TEXT_BYTES
from netra_trio.stores.usage import Usage

ENDS = [status for status in RunStatus if status not in {RunStatus.QUEUED, RunStatus.RUNNING}]
TEXTS = [
    "héllo wörld",
    "日本語 😀 👩‍👩‍👧 🇪🇺",
    "e\u0301 is not \xe9",
    "\u202eright to left\u202c, \u200bzero width, \ufeffmark",
    "' OR 1=1; -- % _ \\ \" {} $1 :name ?",
    " blanks stay \r\n\t ",
    "a zero\x00within",
    "\U0010ffff",
]


async def test_an_open_store_answers(store: Store) -> None:
    for _ in range(2):
        await store.check()


# Users


async def test_an_unknown_user_is_none(store: Store) -> None:
    assert await store.get_user(UserId("carol")) is None
    assert await store.set_user_enabled(UserId("carol"), enabled=True) is False
    assert await store.get_user(UserId("carol")) is None


async def test_a_created_user_is_enabled(store: Store) -> None:
    carol = UserId("carol")
    assert await store.create_user(carol) == User(carol, enabled=True)
    assert await store.get_user(carol) == User(carol, enabled=True)


async def test_creating_a_user_again_returns_the_existing_one(store: Store) -> None:
    await store.set_user_enabled(ALICE, enabled=False)
    assert await store.create_user(ALICE) == User(ALICE, enabled=False)
    assert await store.get_user(ALICE) == User(ALICE, enabled=False)


async def test_a_user_is_disabled_and_enabled(store: Store) -> None:
    for enabled in (False, False, True, True):
        assert await store.set_user_enabled(ALICE, enabled=enabled) is True
        assert await store.get_user(ALICE) == User(ALICE, enabled)
        assert await store.get_user(BOB) == User(BOB, enabled=True)


async def test_concurrent_calls_create_a_user_once(store: Store) -> None:
    created: list[User] = []

    async def create() -> None:
        created.append(await store.create_user(UserId("carol")))

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(create)
    assert created == [User(UserId("carol"))] * 10


@pytest.mark.parametrize("name", ["Alice", "alice ", "älice", "a\u0308lice", "用户😀", "a" * 255])
async def test_user_ids_are_compared_exactly(store: Store, name: str) -> None:
    assert await store.get_user(UserId(name)) is None
    assert await store.create_user(UserId(name)) == User(UserId(name))
    await store.set_user_enabled(UserId(name), enabled=False)
    assert await store.get_user(ALICE) == User(ALICE, enabled=True)


# Recording


async def test_a_recorded_message_is_in_history_with_its_run(store: Store) -> None:
    message = new()
    assert await store.history(ALICE, MAIN, limit=10) is None
    await record(store, message)
    assert await page_of(store) == ([of_user(message)], False)


async def test_a_message_without_a_key_keeps_its_correlation_id(store: Store) -> None:
    message = new(keyed=False)
    await record(store, message)
    await wait_for_history(store, [of_user(message)])


async def test_a_correlation_id_that_was_no_key_is_free_as_a_key(store: Store) -> None:
    first = new(key="c-1", keyed=False)
    second = new(key="c-1", keyed=False, fingerprint=b"other")
    third = new(key="c-1", fingerprint=b"third")
    await record(store, first, second, third)
    await wait_for_history(store, [of_user(first), of_user(second), of_user(third)])


async def test_history_is_in_the_order_of_recording_with_and_without_keys(store: Store) -> None:
    messages = [new(f"{n}", keyed=n % 2 == 0, at=NOW - n) for n in range(10)]
    await record(store, *messages)
    await wait_for_history(store, [of_user(message) for message in messages])


async def test_threads_are_separate(store: Store) -> None:
    here, there = new(), new(thread=OTHER)
    await record(store, here, there)
    assert await page_of(store) == ([of_user(here)], False)
    assert await page_of(store, thread=OTHER) == ([of_user(there)], False)


@pytest.mark.parametrize("name", ["t", "Main", "MAIN", "main_", "-", "_" * 64, "z" * 64])
async def test_thread_ids_are_compared_exactly(store: Store, name: str) -> None:
    await record(store, new())
    assert await store.history(ALICE, ThreadId(name), limit=10) is None
    message = new(thread=ThreadId(name))
    await record(store, message)
    assert await page_of(store, thread=ThreadId(name)) == ([of_user(message)], False)


@pytest.mark.parametrize("text", TEXTS)
async def test_texts_are_read_as_they_were_written(store: Store, text: str) -> None:
    message = new(text, agent="agënt")
    end = end_of(message, text)
    await record(store, message)
    await store.end_run(end)
    expected = [of_user(message, RunStatus.COMPLETED), of_agent(end, message)]
    assert await page_of(store) == (expected, False)


async def test_a_disabled_user_keeps_messages(store: Store) -> None:
    message = new()
    await record(store, message)
    await store.set_user_enabled(ALICE, enabled=False)
    assert await page_of(store) == ([of_user(message)], False)
    assert await store.record(again(message)) == duplicate_of(message)


# Keys


async def test_the_same_key_and_fingerprint_is_a_duplicate(store: Store) -> None:
    message = new()
    await record(store, message)
    for _ in range(2):
        assert await store.record(again(message)) == duplicate_of(message)
    assert await page_of(store) == ([of_user(message)], False)


async def test_a_duplicate_names_the_thread_of_the_first_message(store: Store) -> None:
    message = new(thread=OTHER)
    await record(store, message)
    assert await store.record(again(message)) == duplicate_of(message)
    assert await store.history(ALICE, MAIN, limit=10) is None  # the thread of the second one


@pytest.mark.parametrize("status", ENDS)
async def test_a_duplicate_has_the_end(store: Store, status: RunStatus) -> None:
    message = new()
    end = end_of(message, status=status)
    await record(store, message)
    await store.end_run(end)
    expected = duplicate_of(message, status, end.completed)
    assert await store.record(again(message)) == expected


async def test_a_duplicate_has_the_exact_bytes_of_a_large_end(store: Store) -> None:
    message = new()
    end = end_of(message)
    completed = b'{"result":"' + 'é\\u0000"'.encode() * 32_000 + b'"}'
    await record(store, message)
    await store.end_run(
        RunEnd(end.run_id, end.status, end.message_id, "", False, end.created_at, completed)
    )
    expected = duplicate_of(message, RunStatus.COMPLETED, completed)
    assert await store.record(again(message)) == expected


async def test_a_duplicate_of_an_unfinished_run_has_its_status(store: Store) -> None:
    message = new()
    await record(store, message)
    store.start_run(message.run_id)

    async def is_running() -> bool:
        known = await store.record(again(message))
        assert known in (duplicate_of(message), duplicate_of(message, RunStatus.RUNNING))
        return known.status is RunStatus.RUNNING

    await wait_until(is_running)


async def test_the_same_key_with_another_fingerprint_conflicts(store: Store) -> None:
    message = new()
    await record(store, message)
    with pytest.raises(KeyConflict):
        await store.record(again(message, fingerprint=b"other"))
    await store.end_run(end_of(message, ""))
    with pytest.raises(KeyConflict):
        await store.record(again(message, fingerprint=b"other"))
    expected = [of_user(message, RunStatus.COMPLETED)]
    assert await page_of(store) == (expected, False)


@pytest.mark.parametrize("fingerprint", [b"", b"\0", b"sam", b"same\0", b"\xff\xfe" * 8])
async def test_fingerprints_are_compared_byte_by_byte(store: Store, fingerprint: bytes) -> None:
    await record(store, new(key="first"), new(key="second", fingerprint=fingerprint))
    with pytest.raises(KeyConflict):
        await store.record(new(key="first", fingerprint=fingerprint))
    assert await store.record(new(key="second", fingerprint=fingerprint)) is not None


@pytest.mark.parametrize(
    "key", ["K", "k ", "\xe9", "e\u0301", "钥😀", "k\x00", "\x00", "k" * 128, "😀" * 128]
)
async def test_keys_are_compared_exactly(store: Store, key: str) -> None:
    plain, message = new(key="k"), new(key=key)
    await record(store, plain, message)
    assert await store.record(again(plain)) == duplicate_of(plain)
    assert await store.record(again(message)) == duplicate_of(message)
    assert await page_of(store) == ([of_user(plain), of_user(message)], False)


async def test_keys_are_per_user(store: Store) -> None:
    mine = new(key="c-1")
    theirs = new(key="c-1", user=BOB, fingerprint=b"other")
    await record(store, mine, theirs)
    assert await store.record(again(mine)) == duplicate_of(mine)
    assert await store.record(again(theirs, fingerprint=b"other")) == duplicate_of(theirs)


async def test_concurrent_messages_of_one_key_are_recorded_once(store: Store) -> None:
    messages = [new(f"{n}", key="c-1", thread=ThreadId(f"t{n}")) for n in range(20)]
    recorded: list[NewMessage] = []
    known: list[Duplicate] = []

    async def send(message: NewMessage) -> None:
        duplicate = await store.record(message)
        if duplicate is None:
            recorded.append(message)
        else:
            known.append(duplicate)

    async with trio.open_nursery() as nursery:
        for message in messages:
            nursery.start_soon(send, message)
    (first,) = recorded
    assert known == [duplicate_of(first)] * 19
    for message in messages:
        page = await store.history(ALICE, message.thread_id, limit=10)
        assert (page is not None) == (message is first)
    assert await page_of(store, thread=first.thread_id) == ([of_user(first)], False)


async def test_concurrent_messages_of_one_key_with_other_content_conflict(store: Store) -> None:
    outcomes: list[str] = []

    async def send(n: int) -> None:
        try:
            known = await store.record(new(key="c-1", fingerprint=b"%d" % n))
        except KeyConflict:
            outcomes.append("conflict")
        else:
            assert known is None
            outcomes.append("recorded")

    async with trio.open_nursery() as nursery:
        for n in range(20):
            nursery.start_soon(send, n)
    assert sorted(outcomes) == ["conflict"] * 19 + ["recorded"]


async def test_concurrent_messages_of_different_keys_are_all_recorded(store: Store) -> None:
    messages = [new(f"{n}", user=user, key=f"{n}") for n in range(10) for user in (ALICE, BOB)]
    async with trio.open_nursery() as nursery:
        for message in messages:
            nursery.start_soon(record, store, message)
    for user in (ALICE, BOB):
        page, has_more = await page_of(store, user=user)
        assert not has_more
        assert {m.message_id: m for m in page} == {
            m.message_id: of_user(m) for m in messages if m.user_id == user
        }


async def test_a_cancelled_record_is_stored_completely_or_not_at_all(store: Store) -> None:
    message = new()
    with trio.CancelScope() as scope:
        scope.cancel()
        await store.record(message)
    retried = again(message)
    known = await store.record(retried)
    assert known in (None, duplicate_of(message))
    expected = message if known is not None else retried
    assert await page_of(store, thread=expected.thread_id) == ([of_user(expected)], False)


# Runs


async def test_a_started_run_is_running(store: Store) -> None:
    message, waiting = new(), new()
    await record(store, message, waiting)
    store.start_run(message.run_id)
    expected = [of_user(message, RunStatus.RUNNING), of_user(waiting)]
    await wait_for_history(store, expected)


@pytest.mark.parametrize("status", ENDS)
@pytest.mark.parametrize("started", [True, False])
async def test_an_ended_run_has_its_status_and_text(
    store: Store, status: RunStatus, started: bool
) -> None:
    message = new()
    end = end_of(message, status=status)
    await record(store, message)
    if started:
        store.start_run(message.run_id)
    await store.end_run(end)
    assert await page_of(store) == ([of_user(message, status), of_agent(end, message)], False)


@pytest.mark.parametrize("status", ENDS)
async def test_an_empty_text_makes_no_message(store: Store, status: RunStatus) -> None:
    message = new()
    await record(store, message)
    await store.end_run(end_of(message, "", status=status))
    assert await page_of(store) == ([of_user(message, status)], False)


async def test_an_end_without_a_key_is_stored_soon(store: Store) -> None:
    message = new(keyed=False)
    end = end_of(message)
    await record(store, message)
    store.start_run(message.run_id)
    await store.end_run(end)
    await wait_for_history(store, [of_user(message, RunStatus.COMPLETED), of_agent(end, message)])


async def test_the_longest_text_of_an_agent_is_kept_whole(store: Store) -> None:
    message = new()
    end = end_of(message, "é" * (HISTORY_TEXT_BYTES // 2), truncated=True)
    await record(store, message)
    await store.end_run(end)
    page, _ = await page_of(store)
    assert page == [of_user(message, RunStatus.COMPLETED), of_agent(end, message)]
    assert page[1].truncated is True


async def test_each_answer_is_listed_behind_its_question(store: Store) -> None:
    first, second = new("1"), new("2", at=NOW + 100)
    second_end, first_end = end_of(second), end_of(first, status=RunStatus.CANCELLED)
    await record(store, first, second)
    await store.end_run(second_end)
    third = new("3")
    await record(store, third)
    await store.end_run(first_end)
    expected = [
        of_user(first, RunStatus.CANCELLED),
        of_agent(first_end, first),
        of_user(second, RunStatus.COMPLETED),
        of_agent(second_end, second),
        of_user(third),
    ]
    assert await page_of(store) == (expected, False)


async def test_an_end_changes_no_other_run(store: Store) -> None:
    mine, there, theirs = new(), new(thread=OTHER), new(user=BOB)
    await record(store, mine, there, theirs)
    end = end_of(there)
    await store.end_run(end)
    assert await page_of(store) == ([of_user(mine)], False)
    assert await page_of(store, user=BOB) == ([of_user(theirs)], False)
    expected = [of_user(there, RunStatus.COMPLETED), of_agent(end, there)]
    assert await page_of(store, thread=OTHER) == (expected, False)


async def test_an_unknown_run_is_ignored(store: Store) -> None:
    message = new()
    store.start_run(message.run_id)
    await store.end_run(end_of(message))
    assert await store.history(ALICE, MAIN, limit=10) is None


async def test_cancelling_does_not_undo_an_end(store: Store) -> None:
    message = new()
    end = end_of(message)
    await record(store, message)
    with trio.CancelScope() as scope:
        scope.cancel()
        await store.end_run(end)
    await wait_for_history(store, [of_user(message, RunStatus.COMPLETED), of_agent(end, message)])


async def test_concurrent_runs_all_end(store: Store) -> None:
    messages = [new(f"{n}") for n in range(20)]
    ends = [end_of(message, message.content) for message in messages]

    async def live(message: NewMessage, end: RunEnd) -> None:
        await record(store, message)
        store.start_run(message.run_id)
        await store.end_run(end)

    async with trio.open_nursery() as nursery:
        for message, end in zip(messages, ends, strict=True):
            nursery.start_soon(live, message, end)
    page, _ = await page_of(store)
    places = {message.message_id: place for place, message in enumerate(page)}
    assert len(page) == 40
    for message, end in zip(messages, ends, strict=True):
        question, answer = places[message.message_id], places[end.message_id]
        assert question < answer
        assert page[question] == of_user(message, RunStatus.COMPLETED)
        assert page[answer] == of_agent(end, message)


# Usage


async def test_the_usage_of_a_day_is_summed(store: Store) -> None:
    message, today = new(), UsageKey(ALICE, "echo", day_of(NOW))
    await record(store, message)
    assert await store.used_in_day(today) == NOTHING

    async def use(
        tokens: int, cost: float | None, *, user: UserId = ALICE, agent: str = "echo"
    ) -> None:
        usage = Usage(new_usage_id(), message.run_id, user, agent, "m", tokens, 1, cost, NOW)
        for _ in range(2):  # a report that comes twice counts once
            await store.record_usage(usage)

    await use(10, None)
    assert await store.used_in_day(today) == Amounts(11, 0)
    await use(20, 0.1)
    await use(30, 0.2)
    await use(1000, 1.0, user=BOB)
    await use(1000, 1.0, agent="other")
    assert await store.used_in_day(today) == Amounts(63, 300_000_000)
    assert await store.used_in_day(UsageKey(ALICE, "echo", day_of(NOW + 86_400))) == NOTHING
    await use(AMOUNT_MAX, 1e300)
    await use(AMOUNT_MAX, 1e300)
    assert await store.used_in_day(today) == Amounts(AMOUNT_MAX, AMOUNT_MAX)
