"""The contract of `Store` for messages that replace others, for steps, and for feedback."""

import pytest
import trio
from stores.implementations import THREAD_STORES
from stores.samples import (
    ALICE,
    BOB,
    MAIN,
    OTHER,
    again,
    answer_to,
    asked_by,
    duplicate_of,
    end_of,
    new,
    of_agent,
    of_user,
    page_of,
    record,
)

from netra_trio.errors import KeyConflict, MessageNotFound
from netra_trio.ids import MessageId, ThreadId, UserId, new_message_id
from netra_trio.protocol.messages import HistoryFeedback, HistoryMessage, RunStatus
from netra_trio.protocol.threads import Rating
from netra_trio.stores.base import NewMessage, RunEnd, Store
from netra_trio.stores.bounds import HISTORY_PAGE_BYTES

pytestmark = pytest.mark.parametrize(
    "store", THREAD_STORES, indirect=True, ids=lambda factory: factory.__name__
)

STEPS = [
    {"type": "thought", "at": 0, "thought": "é 日本 \x00 {}"},
    {"type": "tool", "at": 6, "tool_call_id": "call_1", "tool_name": "x", "arguments": {"a": [1]}},
]

Pair = tuple[NewMessage, RunEnd]


@pytest.fixture
async def pairs(store: Store) -> list[Pair]:
    """Record three messages with answers in Alice's thread."""
    return [await answered(store, f"{number}") for number in range(3)]


async def answered(store: Store, content: str, *, replaces: MessageId | None = None) -> Pair:
    """Record a message and its answer."""
    message = new(content, replaces=replaces)
    end = end_of(message, f"answer to {content}")
    await record(store, message)
    await store.end_run(end)
    return message, end


def listed(*pairs: Pair) -> list[HistoryMessage]:
    """Return messages with their answers as history lists them."""
    return [
        item
        for message, end in pairs
        for item in (of_user(message, RunStatus.COMPLETED), of_agent(end, message))
    ]


# Messages that replace others


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("is_answer", [False, True])
async def test_a_branch_is_replaced_from_its_question_on(
    store: Store, pairs: list[Pair], place: int, is_answer: bool
) -> None:
    message, end = pairs[place]
    replaced = end.message_id if is_answer else message.message_id
    edited = await answered(store, "edited", replaces=replaced)
    assert await page_of(store) == (listed(*pairs[:place], edited), False)
    thread = await store.get_thread(ALICE, MAIN)
    assert thread is not None
    assert (thread.title, thread.unread) == ("0", place + 1)


async def test_a_branch_is_replaced_again_and_again(store: Store, pairs: list[Pair]) -> None:
    current = pairs[1]
    for number in range(4):
        replaced = current[number % 2].message_id
        current = await answered(store, f"again {number}", replaces=replaced)
        assert await page_of(store) == (listed(pairs[0], current), False)
    # Also from a message that was replaced before.
    last = await answered(store, "last", replaces=pairs[2][0].message_id)
    assert await page_of(store) == (listed(pairs[0], last), False)


async def test_answers_that_are_stored_later_are_left_out_too(
    store: Store, pairs: list[Pair]
) -> None:
    running, waiting = new("running"), new("waiting", keyed=False)
    await record(store, running, waiting)
    store.start_run(running.run_id)
    edited = new("edited", replaces=running.message_id)
    await record(store, edited)
    await store.end_run(end_of(running, "late", status=RunStatus.CANCELLED))
    await store.end_run(end_of(waiting, "late too", steps=STEPS))
    end = end_of(edited)
    await store.end_run(end)
    assert await page_of(store) == (listed(*pairs, (edited, end)), False)
    assert await store.unfinished_runs() == []


async def test_the_key_of_a_replaced_message_is_known(store: Store, pairs: list[Pair]) -> None:
    message, end = pairs[2]
    edited = await answered(store, "edited", replaces=message.message_id)
    expected = duplicate_of(message, RunStatus.COMPLETED, end.completed)
    assert await store.find(again(message)) == expected
    assert await store.record(again(message)) == expected
    assert await page_of(store) == (listed(*pairs[:2], edited), False)


async def test_a_duplicate_replaces_nothing_again(store: Store, pairs: list[Pair]) -> None:
    edited = await answered(store, "edited", replaces=pairs[1][0].message_id)
    after = await answered(store, "after")
    resent = new("edited", key=edited[0].key, replaces=pairs[1][0].message_id)
    expected = duplicate_of(edited[0], RunStatus.COMPLETED, edited[1].completed)
    assert await store.record(resent) == expected
    other = new("x", key=edited[0].key, replaces=pairs[0][0].message_id, fingerprint=b"other")
    with pytest.raises(KeyConflict):
        await store.record(other)
    assert await page_of(store) == (listed(pairs[0], edited, after), False)


@pytest.mark.parametrize("keyed", [True, False])
async def test_only_a_message_of_the_thread_can_be_replaced(
    store: Store, pairs: list[Pair], keyed: bool
) -> None:
    elsewhere = new(thread=OTHER)
    await record(store, elsewhere, new(user=BOB))
    for replaced in (elsewhere.message_id, new_message_id()):
        message = new("edited", keyed=keyed, replaces=replaced)
        with pytest.raises(MessageNotFound):
            await store.record(message)
        store.start_run(message.run_id)
        await store.end_run(end_of(message))
        assert await store.find(again(message)) is None  # its key is free
    with pytest.raises(MessageNotFound):
        await store.record(new(user=BOB, keyed=keyed, replaces=pairs[0][0].message_id))
    for thread in (ThreadId("none"), OTHER):
        with pytest.raises(MessageNotFound):
            await store.record(new(thread=thread, replaces=pairs[0][0].message_id))
    assert await store.get_thread(ALICE, ThreadId("none")) is None
    assert await page_of(store) == (listed(*pairs), False)
    await record(store, again(message) if keyed else new(thread=OTHER))


async def test_messages_recorded_together_replace_each_other_in_order(store: Store) -> None:
    first = new("first", keyed=False)
    second = new("second", replaces=first.message_id)
    third = new("third", replaces=second.message_id)
    unknown = new("unknown", replaces=new_message_id())
    lost: list[str] = []

    async def store_one(message: NewMessage) -> None:
        try:
            assert await store.record(message) is None
        except MessageNotFound:
            lost.append(message.content)

    await record(store, first)
    async with trio.open_nursery() as nursery:
        for message in (second, unknown, third, new(thread=OTHER)):
            nursery.start_soon(store_one, message)
            await trio.testing.wait_all_tasks_blocked()
    assert lost == ["unknown"]
    assert await page_of(store) == ([of_user(third)], False)


@pytest.mark.parametrize("limit", [1, 2, 3, 4])
async def test_pages_leave_replaced_messages_out(
    store: Store, pairs: list[Pair], limit: int
) -> None:
    edited = await answered(store, "edited", replaces=pairs[1][1].message_id)
    expected = listed(pairs[0], edited)
    found: list[HistoryMessage] = []
    has_more = True
    while has_more:
        before = found[0].message_id if found else None
        page, has_more = await page_of(store, limit=limit, before=before)
        assert 0 < len(page) <= limit
        found = page + found
    assert found == expected


async def test_a_replaced_message_is_still_a_cursor(store: Store, pairs: list[Pair]) -> None:
    """A client may have listed it before another device of the user replaced it."""
    edited = await answered(store, "edited", replaces=pairs[1][0].message_id)
    for message, end in pairs[1:]:
        for before in (message.message_id, end.message_id):
            assert await page_of(store, before=before) == (listed(pairs[0]), False)
    expected = listed(pairs[0])
    assert await page_of(store, before=edited[0].message_id) == (expected, False)


async def test_a_question_of_a_replaced_run_can_be_answered(store: Store) -> None:
    message = new()
    await record(store, message)
    question = asked_by(message)
    await store.record_question(question)
    await record(store, new(replaces=message.message_id))
    thread = await store.get_thread(ALICE, MAIN)
    assert thread is not None
    assert (thread.asks, thread.runs_active) == (True, 2)
    await store.end_question(answer_to(question))
    found = await store.find_question(ALICE, question.question_id)
    assert found is not None
    assert found.outcome is not None


# Steps


async def test_an_answer_has_its_steps(store: Store) -> None:
    message = new()
    end = end_of(message, steps=STEPS, truncated=True)
    await record(store, message)
    await store.end_run(end)
    page, _ = await page_of(store)
    assert page == [of_user(message, RunStatus.COMPLETED), of_agent(end, message)]
    assert page[1].steps == STEPS


@pytest.mark.parametrize("keyed", [True, False])
async def test_an_answer_with_steps_needs_no_text(store: Store, keyed: bool) -> None:
    message = new(keyed=keyed)
    end = end_of(message, "", steps=STEPS, status=RunStatus.FAILED)
    await record(store, message)
    await store.end_run(end)
    expected = [of_user(message, RunStatus.FAILED), of_agent(end, message)]
    assert await page_of(store) == (expected, False)
    thread = await store.get_thread(ALICE, MAIN)
    assert thread is not None
    assert (thread.unread, thread.updated_at) == (1, end.created_at)


async def test_a_page_counts_steps(store: Store) -> None:
    half = "x" * (HISTORY_PAGE_BYTES // 2)
    for _ in range(3):
        message = new()
        await record(store, message)
        await store.end_run(end_of(message, "", steps=[{"type": "thought", "thought": half}]))
    page, has_more = await page_of(store)
    assert ([item.role for item in page], has_more) == (["user", "agent"], True)


# Feedback


async def feedback_of(store: Store, message_id: MessageId) -> HistoryFeedback | None:
    page, _ = await page_of(store)
    return next(item.feedback for item in page if item.message_id == message_id)


async def test_feedback_is_listed_replaced_and_removed(store: Store, pairs: list[Pair]) -> None:
    message_id = pairs[1][1].message_id
    assert await feedback_of(store, message_id) is None
    for rating, comment, expected in [
        (Rating.UP, None, HistoryFeedback("up")),
        (Rating.DOWN, "not é\x00 good", HistoryFeedback("down", "not é\x00 good")),
        (Rating.DOWN, None, HistoryFeedback("down")),
        (None, "ignored", None),
        (None, None, None),
        (Rating.UP, "x" * 2000, HistoryFeedback("up", "x" * 2000)),
    ]:
        assert await store.set_feedback(ALICE, message_id, rating, comment) == MAIN
        assert await feedback_of(store, message_id) == expected
        assert await feedback_of(store, pairs[0][1].message_id) is None


@pytest.mark.parametrize("user", [ALICE, BOB])
async def test_feedback_is_for_answers_of_the_user(
    store: Store, pairs: list[Pair], user: UserId
) -> None:
    message, end = pairs[0]
    unknown = end.message_id if user == BOB else message.message_id
    for message_id in (unknown, new_message_id()):
        assert await store.set_feedback(user, message_id, Rating.UP, None) is None
    assert await page_of(store) == (listed(*pairs), False)


async def test_a_page_counts_comments(store: Store) -> None:
    room = HISTORY_PAGE_BYTES - 3 * 1024
    first, second = await answered(store, "x"), await answered(store, "y" * (room // 2))
    assert len((await page_of(store))[0]) == 4
    await store.set_feedback(ALICE, first[1].message_id, Rating.UP, "z" * 2000)
    page, has_more = await page_of(store)
    assert (page, has_more) == (listed(second), True)
