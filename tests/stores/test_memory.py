"""The store in memory: each bound at the limit and one beyond, and all against a model."""

import pytest
from stores.memory_samples import (
    ALICE,
    BOB,
    COMPLETED,
    NOW,
    contents,
    end_of,
    new,
    record,
    result,
    settle,
    unavailable,
)

from netra_trio.errors import KeyConflict, MessageNotFound, StoreUnavailable
from netra_trio.ids import ThreadId, UserId
from netra_trio.protocol.messages import RunStatus
from netra_trio.stores.base import Duplicate, Store, User
from netra_trio.stores.bounds import HISTORY_LISTED_BYTES, HISTORY_PAGE_BYTES
from netra_trio.stores.memory import MemoryStore
from netra_trio.stores.memory_data import KEY_HOURS


def test_it_implements_the_interface() -> None:
    store: Store = MemoryStore()
    assert isinstance(store, MemoryStore)


def test_statistics_count_what_is_kept() -> None:
    store = MemoryStore()
    result(store.create_user(ALICE))
    first, second = new("é", key="c-1"), new("22", thread="other")
    record(store, first, second)
    result(store.end_run(end_of(first, "answer", completed=b'{"a":1}')))
    assert store.statistics() == {
        "users": 1,
        "threads": 2,
        "messages": 3,
        "text_bytes": 2 + 2 + 6 + 7,
        "files": 0,
        "keys": 1,
        "runs": 1,
        "users_dropped": 0,
        "messages_dropped": 0,
        "early_keys_dropped": 0,
    }


def test_only_the_first_end_of_a_run_counts() -> None:
    store = MemoryStore()
    message = new(key="k")
    settle(store, message, text="first")
    result(store.end_run(end_of(message, "second", completed=b"second")))
    store.start_run(message.run_id)
    assert contents(store) == ["x", "first"]
    known = result(store.record(message))
    assert known is not None
    assert (known.status, known.completed) == (RunStatus.COMPLETED, COMPLETED)


# Messages


def test_messages_at_the_bound_are_kept_and_one_more_drops_the_oldest() -> None:
    store = MemoryStore(messages=4)
    settle(store, new("1"), new("2"), text="a")
    assert contents(store) == ["1", "a", "2", "a"]
    settle(store, new("3"))
    assert contents(store) == ["2", "a", "3"]  # an answer goes with its question
    settle(store, new("4"), text="b")
    assert contents(store) == ["3", "4", "b"]
    assert store.statistics()["messages_dropped"] == 4


def test_the_least_recently_written_thread_loses_messages_first() -> None:
    store = MemoryStore(messages=5)
    settle(store, new("a1", thread="a"), new("a2", thread="a"), new("b1", thread="b"))
    settle(store, new("c1", thread="c"), new("a3", thread="a"))
    settle(store, new("d1", thread="d"))
    assert contents(store, "b") is None
    settle(store, new("d2", thread="d"))
    assert contents(store, "c") is None
    settle(store, new("d3", thread="d"))
    assert contents(store, "a") == ["a2", "a3"]


def test_an_end_counts_as_a_write() -> None:
    store = MemoryStore(messages=2)
    first, second = new("a", thread="a"), new("b", thread="b")
    record(store, first, second)
    result(store.end_run(end_of(second)))
    result(store.end_run(end_of(first)))
    settle(store, new("c", thread="c"))
    assert (contents(store, "a"), contents(store, "b")) == (["a"], None)


def test_an_end_counts_as_a_write_to_a_thread_with_earlier_messages() -> None:
    store = MemoryStore(messages=3)
    settle(store, new("a1", thread="a"))
    last = new("a2", thread="a")
    record(store, last)
    settle(store, new("b", thread="b"))
    result(store.end_run(end_of(last)))
    settle(store, new("c", thread="c"))
    assert (contents(store, "a"), contents(store, "b")) == (["a1", "a2"], None)


def test_the_thread_being_written_to_loses_messages_last() -> None:
    store = MemoryStore(messages=2)
    settle(store, new("a1", thread="a"), new("b1", thread="b"))
    record(store, new("a2", thread="a"))
    assert (contents(store, "a"), contents(store, "b")) == (["a1", "a2"], None)
    record(store, new("a3", thread="a"))
    assert contents(store, "a") == ["a2", "a3"]


def test_a_thread_may_lose_all_messages_to_its_own_next_one() -> None:
    store = MemoryStore(messages=1)
    settle(store, new("1"))
    record(store, new("2"))
    assert contents(store) == ["2"]
    assert store.statistics()["threads"] == 1


def test_a_message_of_an_unfinished_run_is_never_dropped() -> None:
    store = MemoryStore(messages=3)
    running = new("running", key="k")
    record(store, running)
    store.start_run(running.run_id)
    settle(store, *(new(f"{n}", thread="main" if n % 2 else "other") for n in range(10)))
    assert contents(store) == ["running", "9"]
    assert contents(store, "other") == ["8"]
    result(store.end_run(end_of(running, "late")))
    assert contents(store) == ["running", "late", "9"]


def test_only_unfinished_runs_make_the_store_unavailable() -> None:
    store = MemoryStore(messages=2)
    first, second, third = new("1", key="k1"), new("2", thread="other"), new("3", key="k3")
    record(store, first, second)
    assert unavailable(store, third)
    result(store.check())
    known = result(store.record(first))  # a known key is still found
    assert known == Duplicate(
        first.message_id, first.run_id, first.thread_id, RunStatus.QUEUED, None
    )
    result(store.end_run(end_of(first)))
    record(store, third)  # with the key of the rejected message
    assert contents(store) == ["3"]
    assert contents(store, "other") == ["2"]


def test_an_end_drops_messages_to_make_room_for_its_text() -> None:
    store = MemoryStore(messages=2)
    first, second = new("1", thread="a"), new("2", thread="b")
    record(store, first, second)
    result(store.end_run(end_of(second, "answer")))
    assert contents(store, "a") == ["1"]
    assert contents(store, "b") is None


# Bytes


def test_bytes_at_the_bound_are_kept_and_one_more_drops_the_oldest() -> None:
    store = MemoryStore(text_bytes=20)
    settle(store, new("x" * 8), new("é" * 4))
    assert store.statistics()["text_bytes"] == 20
    settle(store, new(""))
    assert contents(store) == ["éééé", ""]


def test_a_text_at_the_bound_fits_and_one_byte_more_does_not() -> None:
    store = MemoryStore(text_bytes=10)
    settle(store, new("old"))
    assert unavailable(store, new("é" * 5 + "x"))
    assert contents(store) == ["old"]
    record(store, new("é" * 5))
    assert contents(store) == ["ééééé"]
    assert unavailable(store, new("x", thread="other"))
    record(store, new("", thread="other"))


def test_an_end_that_is_too_large_is_dropped_itself() -> None:
    store = MemoryStore(text_bytes=10)
    message = new("x", key="k")
    record(store, message)
    result(store.end_run(end_of(message, "y" * 11)))
    assert contents(store) is None
    assert store.statistics()["text_bytes"] == 0
    record(store, message)  # its key was dropped with it


# Threads


def test_threads_at_the_bound_are_kept_and_one_more_drops_the_least_recently_written() -> None:
    store = MemoryStore(threads=2)
    settle(store, new("1", thread="a"), new("2", thread="a"), new("3", thread="b"), text="a")
    assert contents(store, "a") == ["1", "a", "2", "a"]
    settle(store, new("4", thread="c"))
    assert contents(store, "a") is None
    assert (contents(store, "b"), contents(store, "c")) == (["3", "a"], ["4"])
    assert store.statistics()["threads"] == 2
    assert store.statistics()["messages_dropped"] == 4


def test_threads_of_the_same_name_count_for_each_user() -> None:
    store = MemoryStore(threads=1)
    settle(store, new("hers"))
    settle(store, new("his", user=BOB))
    assert contents(store) is None
    assert contents(store, user=BOB) == ["his"]


def test_a_thread_with_an_unfinished_run_is_kept_whole() -> None:
    store = MemoryStore(threads=2)
    settle(store, new("1", thread="a"))
    record(store, new("2", thread="a"))
    settle(store, new("3", thread="b"), new("4", thread="c"))
    assert (contents(store, "a"), contents(store, "b")) == (["1", "2"], None)
    record(store, new("5", thread="c"))
    assert unavailable(store, new("6", thread="d"))
    record(store, new("7", thread="a"))  # not a new thread


# Keys


def test_a_dropped_message_frees_its_key() -> None:
    store = MemoryStore(messages=1)
    settle(store, new(key="k"), new(key="other"))
    record(store, new(key="k", fingerprint=b"other"))
    with pytest.raises(KeyConflict):
        result(store.record(new(key="k")))


@pytest.mark.parametrize(("seconds", "early"), [(3600 * KEY_HOURS - 1, 1), (3600 * KEY_HOURS, 0)])
def test_keys_that_are_dropped_early_are_counted(seconds: float, early: int) -> None:
    store = MemoryStore(messages=1)
    settle(store, new(key="k"), new(at=NOW + seconds))
    settle(store, new(at=NOW + seconds))  # without a key
    assert store.statistics()["early_keys_dropped"] == early
    assert store.statistics()["keys"] == 0


# Users


def test_users_at_the_bound_are_kept_and_one_more_drops_the_oldest() -> None:
    store = MemoryStore(users=2)
    for name in ("a", "b", "a"):
        result(store.create_user(UserId(name)))
    assert store.statistics()["users"] == 2
    result(store.create_user(UserId("c")))
    assert result(store.get_user(UserId("a"))) is None
    assert result(store.get_user(UserId("b"))) == User(UserId("b"))
    assert store.statistics()["users_dropped"] == 1


def test_users_with_a_thread_and_disabled_users_are_kept() -> None:
    store = MemoryStore(users=3, messages=1)
    for name in (ALICE, BOB, UserId("carol")):
        result(store.create_user(name))
    settle(store, new())
    result(store.set_user_enabled(BOB, enabled=False))
    result(store.create_user(UserId("dave")))
    assert result(store.get_user(UserId("carol"))) is None
    result(store.set_user_enabled(UserId("dave"), enabled=False))
    with pytest.raises(StoreUnavailable):
        result(store.create_user(UserId("erin")))
    assert result(store.get_user(UserId("erin"))) is None
    result(store.set_user_enabled(BOB, enabled=True))
    settle(store, new(user=UserId("somebody")))  # drops Alice's only message
    result(store.create_user(UserId("erin")))
    assert result(store.get_user(ALICE)) is None  # created before Bob
    assert result(store.get_user(BOB)) == User(BOB)


# History


@pytest.mark.parametrize("beyond", [0, 1])
def test_a_page_of_the_exact_bound_is_whole_and_one_byte_more_is_not(beyond: int) -> None:
    store = MemoryStore()
    half = HISTORY_PAGE_BYTES // 2 - HISTORY_LISTED_BYTES
    settle(store, new("x" * half), new("é" * (half // 2) + "x" * beyond))
    page = result(store.history(ALICE, ThreadId("main"), limit=2))
    assert page is not None
    assert (len(page[0]), page[1]) == (2 - beyond, bool(beyond))


def test_a_dropped_message_is_no_cursor() -> None:
    store = MemoryStore(messages=2)
    first = new("1")
    settle(store, first, new("2"), new("3"))
    with pytest.raises(MessageNotFound):
        result(store.history(ALICE, ThreadId("main"), limit=2, before=first.message_id))


def test_history_has_no_gap_after_a_dropped_message() -> None:
    store = MemoryStore(messages=4)
    first, last = new("first"), new("last")
    record(store, first)
    settle(store, new("2"), new("3"))
    record(store, last)
    settle(store, new("5", thread="other"), new("6", thread="other"))
    assert contents(store) == ["first", "last"]
    page = result(store.history(ALICE, ThreadId("main"), limit=2, before=last.message_id))
    assert page is not None
    assert ([message.content for message in page[0]], page[1]) == (["first"], False)
    result(store.end_run(end_of(first)))
    settle(store, new("7", thread="other"))
    assert contents(store) == ["last"]
