"""The contract of `Store` for threads, tested for every implementation."""

import pytest
from stores.implementations import THREAD_STORES
from stores.samples import (
    ALICE,
    BOB,
    MAIN,
    NOW,
    OTHER,
    again,
    answer_to,
    asked_by,
    end_of,
    new,
    page_of,
    record,
)

from netra_trio.errors import KeyConflict, MessageNotFound, ThreadDeleted, ThreadNotFound
from netra_trio.ids import ThreadId, UserId, new_message_id, unlisted_thread_id
from netra_trio.protocol.messages import RunStatus
from netra_trio.protocol.rooms import thread_room
from netra_trio.protocol.threads import Rating
from netra_trio.stores.base import NewMessage, RunEnd, Store
from netra_trio.stores.threads import StoredThread, UnfinishedRun

pytestmark = pytest.mark.parametrize(
    "store", THREAD_STORES, indirect=True, ids=lambda factory: factory.__name__
)


async def names(
    store: Store,
    *,
    user: UserId = ALICE,
    limit: int = 100,
    before: str | None = None,
    query: str | None = None,
) -> tuple[list[str], bool]:
    """Return the ids of a page of threads, and whether there are more."""
    cursor = None if before is None else ThreadId(before)
    page, has_more = await store.list_threads(user, limit=limit, before=cursor, query=query)
    return [thread.thread_id for thread in page], has_more


async def thread_of(store: Store, thread: ThreadId = MAIN) -> StoredThread:
    """Return Alice's thread."""
    found = await store.get_thread(ALICE, thread)
    assert found is not None
    return found


async def say(store: Store, thread: str, content: str = "hello", *, at: float = NOW) -> NewMessage:
    """Record a message whose run has not ended."""
    message = new(content, thread=ThreadId(thread), at=at)
    await record(store, message)
    return message


async def answered(
    store: Store, content: str = "hello", text: str = "answer", *, thread: ThreadId = MAIN
) -> tuple[NewMessage, RunEnd]:
    """Record a message and its answer."""
    message = new(content, thread=thread)
    end = end_of(message, text)
    await record(store, message)
    await store.end_run(end)
    return message, end


# The list


async def test_a_user_without_threads_has_an_empty_list(store: Store) -> None:
    await say(store, "main")
    assert await names(store, user=BOB) == ([], False)
    assert await store.get_thread(BOB, MAIN) is None


async def test_a_thread_is_listed_with_its_fields(store: Store) -> None:
    message = new("What is\nthe  time?", at=NOW)
    await record(store, message)
    expected = StoredThread(MAIN, "What is the time?", NOW, NOW, 1, asks=False, unread=0)
    assert await store.get_thread(ALICE, MAIN) == expected
    assert await store.list_threads(ALICE, limit=1) == ([expected], False)
    store.start_run(message.run_id)
    await store.end_run(end_of(message, at=NOW + 9))
    expected = StoredThread(MAIN, "What is the time?", NOW, NOW + 9, 0, asks=False, unread=1)
    assert await store.get_thread(ALICE, MAIN) == expected


async def test_a_message_without_a_key_is_listed_at_once(store: Store) -> None:
    message = new(keyed=False)
    assert await store.record(message) is None
    assert (await thread_of(store)).runs_active == 1
    await store.end_run(end_of(message))
    assert (await thread_of(store)).unread == 1


async def test_the_newest_update_is_listed_first(store: Store) -> None:
    for number, thread in enumerate("abcd"):
        await say(store, thread, at=NOW + number)
    assert await names(store) == (["d", "c", "b", "a"], False)
    await say(store, "b", at=NOW + 10)
    assert await names(store) == (["b", "d", "c", "a"], False)
    await say(store, "a", at=NOW - 10)  # of a slow clock
    assert await names(store) == (["b", "d", "c", "a"], False)
    assert (await thread_of(store, ThreadId("a"))).updated_at == NOW
    await store.end_run(end_of(await say(store, "c"), at=NOW + 20))
    assert await names(store) == (["c", "b", "d", "a"], False)


async def test_an_end_without_an_answer_is_no_update(store: Store) -> None:
    message = await say(store, "main")
    await store.end_run(end_of(message, "", at=NOW + 9))
    assert (await thread_of(store)).updated_at == NOW


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 100])
async def test_all_pages_together_are_the_list(store: Store, limit: int) -> None:
    for number, thread in enumerate("abcde"):  # two of the same time
        await say(store, thread, at=NOW + number // 2)
    found: list[str] = []
    has_more = True
    while has_more:
        page, has_more = await names(store, limit=limit, before=found[-1] if found else None)
        assert 0 < len(page) <= limit
        found += page
    assert found == ["e", "d", "c", "b", "a"]


async def test_the_list_after_the_last_thread_is_empty(store: Store) -> None:
    await say(store, "main")
    assert await names(store, before="main") == ([], False)


@pytest.mark.parametrize("user", [ALICE, BOB])
async def test_the_cursor_has_to_be_a_thread_of_the_user(store: Store, user: UserId) -> None:
    await say(store, "main" if user == BOB else "other")
    with pytest.raises(ThreadNotFound):
        await store.list_threads(user, limit=10, before=MAIN)


async def test_threads_with_open_questions_ask(store: Store) -> None:
    message, other = await say(store, "main"), await say(store, "other")
    first, second = asked_by(message), asked_by(message)
    await store.record_question(first)
    await store.record_question(second)
    assert [(await thread_of(store, each)).asks for each in (MAIN, OTHER)] == [True, False]
    await store.end_question(answer_to(first))
    assert (await thread_of(store)).asks is True
    await store.end_question(answer_to(second))
    assert (await thread_of(store)).asks is False
    await store.record_question(asked_by(other))
    assert (await thread_of(store, OTHER)).asks is True
    await store.end_run(end_of(other))  # which closes its questions
    assert (await thread_of(store, OTHER)).asks is False


async def test_active_runs_are_counted(store: Store) -> None:
    messages = [await say(store, "main") for _ in range(3)]
    await say(store, "other")
    for left in (3, 2, 1, 0):
        thread = await thread_of(store)
        assert thread.runs_active == left
        if left:
            await store.end_run(end_of(messages[left - 1]))


# Search


FOUND = [
    ("ärger", "Viel ÄRGER hier"),
    ("ÄRGER", "kein ärger"),
    ("ΣΊΓΜΑ", "μια σίγμα"),
    ("привет", "ПРИВЕТ, мир"),
    ("100%", "it is 100% sure"),
    ("a_b", "A_B"),
    ("日本", "在日本語"),
    ("😀", "smile 😀"),
    ("q\\d.[x]*", "Q\\D.[X]*"),
    ("^$|(?:)", "is ^$|(?:) it"),
    ("ij", "only IJ"),
    (" two ", "one two three"),
    ("zero\x00in", "a ZERO\x00IN"),
    ("\x1a", "a mark \x1a"),
    ("1", "a mark \x1a1"),
]
NOT_FOUND = [
    ("100%", "100 percent"),
    ("a_b", "axb"),
    ("%", "everything"),
    ("_", "everything"),
    (".", "everything"),
    ("\\w", "everything"),
    ("e\u0301", "\xe9"),
    ("ss", "ß"),
    ("1", "a mark \x1a"),
    ("0", "a\x00zero"),
    ("zero\x00in", "a zero\x00on"),
]


async def test_a_search_finds_a_text_in_any_case(store: Store) -> None:
    for number, (query, text) in enumerate(FOUND):
        user = UserId(f"user-{number}")
        for thread in ("untouched", "titled"):
            await record(store, new("?", user=user, thread=ThreadId(thread)))
        assert await store.set_title(user, ThreadId("titled"), text, by_user=True)
        await record(store, new(f"{'x' * 100} {text}", user=user, thread=ThreadId("asked")))
        message = new("?", user=user, thread=ThreadId("answered"))
        await record(store, message)
        await store.end_run(end_of(message, text))
        found, has_more = await names(store, user=user, query=query)
        assert (sorted(found), has_more) == (["answered", "asked", "titled"], False), query


async def test_a_search_takes_no_character_for_another(store: Store) -> None:
    for number, (query, text) in enumerate(NOT_FOUND):
        user = UserId(f"user-{number}")
        message = new(text, user=user)
        await record(store, message)
        await store.end_run(end_of(message, text))
        assert await names(store, user=user, query=query) == ([], False), query


async def test_a_search_has_pages(store: Store) -> None:
    for number in range(7):
        await say(store, f"t{number}", "even" if number % 2 == 0 else "odd", at=NOW + number)
    assert await names(store, query="EVEN", limit=2) == (["t6", "t4"], True)
    assert await names(store, query="EVEN", limit=2, before="t4") == (["t2", "t0"], False)
    assert await names(store, query="EVEN", limit=2, before="t5") == (["t4", "t2"], True)


async def test_a_search_finds_threads_of_the_user_only(store: Store) -> None:
    await say(store, "main", "secret")
    assert await names(store, user=BOB, query="secret") == ([], False)


async def test_a_search_leaves_out_replaced_messages(store: Store) -> None:
    message, _ = await answered(store, "the needle", "it is a needle")
    await store.set_title(ALICE, MAIN, "no title", by_user=True)
    assert await names(store, query="needle") == (["main"], False)
    await record(store, new("hay", replaces=message.message_id))
    assert await names(store, query="needle") == ([], False)


# Titles


@pytest.mark.parametrize(
    ("content", "title"),
    [
        ("x" * 80, "x" * 80),
        ("x" * 81, "x" * 80),
        (f"{'word ' * 20}", ("word " * 16).strip()),
        (f"{'a' * 79} b c", "a" * 79),
        (f"{'a' * 78} b c", f"{'a' * 78} b"),
        (" \n one\t two\n\n", "one two"),
        ("日本語" * 50, ("日本語" * 27)[:80]),
        ("a\x00b", "a\x00b"),
    ],
)
async def test_a_title_is_the_first_words_of_the_first_message(
    store: Store, content: str, title: str
) -> None:
    await say(store, "main", content)
    await say(store, "main", "another one")
    assert (await thread_of(store)).title == title


async def test_an_agent_does_not_replace_the_title_of_the_user(store: Store) -> None:
    await say(store, "main")
    for title, by_user, was_set in [
        ("of the agent", False, True),
        ("again\x00", False, True),
        ("of the user", True, True),
        ("of the agent", False, False),
        ("é" * 200, True, True),
    ]:
        before = await thread_of(store)
        assert await store.set_title(ALICE, MAIN, title, by_user=by_user) is was_set
        after = await thread_of(store)
        assert after.title == (title if was_set else before.title)
        assert after.updated_at == NOW


async def test_a_title_of_an_unknown_thread_is_not_set(store: Store) -> None:
    await say(store, "main", "hello")
    assert await store.set_title(ALICE, OTHER, "x", by_user=True) is False
    assert await store.set_title(BOB, MAIN, "x", by_user=True) is False
    assert (await thread_of(store)).title == "hello"


async def test_a_title_of_a_message_that_is_queued_is_set(store: Store) -> None:
    assert await store.record(new(keyed=False)) is None
    assert await store.set_title(ALICE, MAIN, "title", by_user=False) is True
    assert (await thread_of(store)).title == "title"


# Marks


async def test_answers_after_the_mark_are_unread(store: Store) -> None:
    pairs = [await answered(store, f"{number}") for number in range(3)]
    assert (await thread_of(store)).unread == 3
    for message, end, left in [(*pairs[0], 2), (*pairs[2], 0)]:
        assert await store.mark_read(ALICE, MAIN, message.message_id) is True
        assert (await thread_of(store)).unread == left + 1  # the answer is not read
        assert await store.mark_read(ALICE, MAIN, end.message_id) is True
        assert (await thread_of(store)).unread == left
    await answered(store)
    assert (await thread_of(store)).unread == 1


async def test_a_mark_never_goes_back(store: Store) -> None:
    pairs = [await answered(store, f"{number}") for number in range(3)]
    assert await store.mark_read(ALICE, MAIN, pairs[1][1].message_id) is True
    for message, end in pairs[:2]:
        for each in (end, message):
            assert await store.mark_read(ALICE, MAIN, each.message_id) is True
            assert (await thread_of(store)).unread == 1


async def test_a_late_answer_to_a_read_question_is_unread(store: Store) -> None:
    first, second = await say(store, "main"), await say(store, "main")
    assert await store.mark_read(ALICE, MAIN, first.message_id)
    await store.end_run(end_of(first))
    assert (await thread_of(store)).unread == 1
    end = end_of(second)
    await store.end_run(end)
    assert await store.mark_read(ALICE, MAIN, end.message_id)
    assert (await thread_of(store)).unread == 0


async def test_only_answers_are_unread(store: Store) -> None:
    await store.end_run(end_of(await say(store, "main"), ""))
    await say(store, "main")
    assert (await thread_of(store)).unread == 0


async def test_replaced_answers_are_not_unread(store: Store) -> None:
    message, _ = await answered(store)
    await answered(store)
    assert (await thread_of(store)).unread == 2
    new_one = new(replaces=message.message_id)
    await record(store, new_one)
    assert (await thread_of(store)).unread == 0
    await store.end_run(end_of(new_one))
    assert (await thread_of(store)).unread == 1


async def test_only_a_message_of_the_thread_is_marked(store: Store) -> None:
    message, _ = await answered(store)
    elsewhere, _ = await answered(store, thread=OTHER)
    for message_id in (elsewhere.message_id, new_message_id()):
        with pytest.raises(MessageNotFound):
            await store.mark_read(ALICE, MAIN, message_id)
    assert await store.mark_read(BOB, MAIN, message.message_id) is False
    assert await store.mark_read(ALICE, ThreadId("none"), message.message_id) is False
    assert (await thread_of(store)).unread == 1


# Rooms


async def test_a_thread_is_found_by_its_room(store: Store) -> None:
    room = thread_room(ALICE, MAIN)
    assert await store.find_room(room) is None
    await record(store, new(), new(user=BOB), new(thread=OTHER))
    for user, thread in [(ALICE, MAIN), (BOB, MAIN), (ALICE, OTHER)]:
        assert await store.find_room(thread_room(user, thread)) == (user, thread)
    assert await store.find_room("thread:none") is None
    assert await store.delete_thread(ALICE, MAIN)
    assert await store.find_room(room) is None


@pytest.mark.parametrize("user", ["alice\x00", "ålice", "用户😀", "a" * 255])
async def test_any_user_has_rooms(store: Store, user: str) -> None:
    message = new(user=UserId(user))
    await record(store, message)
    room = thread_room(UserId(user), MAIN)
    assert await store.find_room(room) == (user, MAIN)


# Runs


async def test_unfinished_runs_are_listed_oldest_first(store: Store) -> None:
    first = new("1", unattended=True, agent="agënt", at=NOW + 5)
    second, third = new("2", thread=OTHER, keyed=False), new("3", user=BOB)
    await record(store, first, second, third)
    store.start_run(first.run_id)
    expected = [
        UnfinishedRun(
            each.run_id,
            each.user_id,
            each.thread_id,
            each.agent_name,
            RunStatus.RUNNING if each is first else RunStatus.QUEUED,
            store.owner,
            each.unattended,
            each.created_at,
        )
        for each in (first, second, third)
    ]
    assert list(await store.unfinished_runs()) == expected
    assert list(await store.unfinished_runs(ALICE)) == expected[:2]
    assert list(await store.unfinished_runs(ALICE, OTHER)) == expected[1:2]
    assert list(await store.unfinished_runs(thread_id=MAIN)) == [expected[0], expected[2]]
    await store.end_run(end_of(first))
    assert list(await store.unfinished_runs()) == expected[1:]
    assert list(await store.unfinished_runs(BOB, OTHER)) == []


async def test_unattended_runs_of_a_user_are_counted(store: Store) -> None:
    messages = [new(unattended=True, keyed=number % 2 == 0) for number in range(3)]
    await record(store, *messages, new(), new(user=BOB, unattended=True))
    assert await store.count_unattended(ALICE) == 3
    assert await store.count_unattended(BOB) == 1
    store.start_run(messages[0].run_id)
    await store.end_run(end_of(messages[1]))
    assert await store.count_unattended(ALICE) == 2
    assert await store.count_unattended(UserId("carol")) == 0


# Deleting


async def test_a_thread_is_deleted_with_all_its_data(store: Store) -> None:
    message, end = await answered(store)
    running = await say(store, "main")
    question = asked_by(running)
    await store.record_question(question)
    kept, _ = await answered(store, thread=OTHER)
    assert await store.delete_thread(ALICE, MAIN) is True
    assert await store.history(ALICE, MAIN, limit=10) is None
    assert await store.get_thread(ALICE, MAIN) is None
    assert await names(store) == (["other"], False)
    assert await store.unfinished_runs() == []
    assert await store.find_question(ALICE, question.question_id) is None
    assert await store.set_feedback(ALICE, end.message_id, Rating.UP, None) is None
    assert await store.mark_read(ALICE, MAIN, message.message_id) is False
    assert await store.find(again(kept)) is not None
    assert await store.delete_thread(ALICE, MAIN) is False


async def test_only_the_users_own_thread_is_deleted(store: Store) -> None:
    hers, his = new(), new(user=BOB)
    await record(store, hers, his)
    assert await store.delete_thread(BOB, OTHER) is False
    assert await store.delete_thread(BOB, MAIN) is True
    assert await store.find(again(hers)) is not None
    assert await store.find_run(ALICE, hers.run_id) is not None
    assert await store.find_run(BOB, his.run_id) is None


async def test_late_writes_of_a_deleted_thread_are_dropped(store: Store) -> None:
    message, unkeyed, waiting = new(), new(keyed=False), new(keyed=False)
    await record(store, message, unkeyed, waiting)
    question = asked_by(message)
    await store.record_question(question)
    assert await store.delete_thread(ALICE, MAIN) is True
    store.start_run(waiting.run_id)
    await store.end_question(answer_to(question))
    await store.record_question(asked_by(unkeyed))
    assert await store.end_run(end_of(message)) is None
    assert await store.end_run(end_of(unkeyed)) is None
    assert await store.history(ALICE, MAIN, limit=10) is None
    assert await store.get_thread(ALICE, MAIN) is None


async def test_the_keys_of_a_deleted_thread_are_refused(store: Store) -> None:
    messages = [new(key="k\x00ey"), new(key="running"), new(key="c-9", keyed=False)]
    await record(store, *messages)
    await store.end_run(end_of(messages[0]))
    assert await store.delete_thread(ALICE, MAIN) is True
    for key in ("k\x00ey", "running"):
        for _ in range(2):
            with pytest.raises(ThreadDeleted):
                await store.find(new(key=key))
            with pytest.raises(ThreadDeleted):
                await store.record(new(key=key, thread=OTHER))
        with pytest.raises(KeyConflict):
            await store.record(new(key=key, fingerprint=b"other"))
        with pytest.raises(KeyConflict):
            await store.find(new(key=key, fingerprint=b"other"))
        assert await store.find(new(key=key, user=BOB)) is None
    assert await store.get_thread(ALICE, OTHER) is None
    await record(store, new(key="c-9"))  # it was no key


async def test_a_deleted_thread_may_begin_again(store: Store) -> None:
    await answered(store, "old")
    assert await store.set_title(ALICE, MAIN, "its title", by_user=True)
    assert await store.delete_thread(ALICE, MAIN) is True
    message = new("young", at=NOW + 9)
    await record(store, message)
    expected = StoredThread(MAIN, "young", NOW + 9, NOW + 9, 1, asks=False, unread=0)
    assert await store.get_thread(ALICE, MAIN) == expected
    assert len((await page_of(store))[0]) == 1
    assert await store.set_title(ALICE, MAIN, "of an agent", by_user=False) is True
    assert await store.delete_thread(ALICE, MAIN) is True  # and is deleted again
    with pytest.raises(ThreadDeleted):
        await store.record(again(message))


async def test_the_run_of_a_deleted_thread_is_unknown(store: Store) -> None:
    message = await say(store, "main")
    await store.delete_thread(ALICE, MAIN)
    assert await store.find_run(ALICE, message.run_id) is None
    assert await store.run_status(message.run_id) is None
    assert await store.interrupt_run(message.run_id, owner=store.owner) is None
    assert await store.request_stop(message.run_id) is False


async def test_a_thread_of_a_client_that_holds_the_conversation_is_not_listed(store: Store) -> None:
    unlisted = unlisted_thread_id(None)
    await say(store, MAIN, at=NOW)
    await say(store, unlisted, "find me", at=NOW + 1)
    await say(store, "unlistedX", at=NOW + 2)  # a wildcard of SQL must not match it
    assert await names(store) == (["unlistedX", MAIN], False)
    assert await names(store, limit=1) == (["unlistedX"], True)
    assert await names(store, query="find me") == ([], False)
    # Its user may still name it.
    assert (await thread_of(store, unlisted)).title == "find me"
    assert await store.delete_thread(ALICE, unlisted)
