"""The bounds of the store in memory: each at the limit and one beyond, and all against a model."""

import itertools
from collections.abc import Awaitable
from typing import TypeVar

import pytest
from attrs import define, field
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from netra_trio.errors import KeyConflict, MessageNotFound, StoreUnavailable
from netra_trio.ids import CorrelationId, MessageId, RunId, ThreadId, UserId
from netra_trio.protocol.messages import HistoryMessage, RunStatus
from netra_trio.stores.base import (
    HISTORY_LISTED_BYTES,
    HISTORY_PAGE_BYTES,
    Duplicate,
    NewMessage,
    RunEnd,
    Store,
    User,
)
from netra_trio.stores.memory import KEY_HOURS, MemoryStore

T = TypeVar("T")

NOW = 1_640_995_200.0  # Unix seconds
ALICE, BOB = UserId("alice"), UserId("bob")
COMPLETED = b"{}"

_count = itertools.count()


def result(call: Awaitable[T]) -> T:
    """Run a call to its end without a loop: it may not wait for anything."""
    try:
        call.__await__().send(None)
    except StopIteration as done:
        value: T = done.value
        return value
    pytest.fail("a call waited")


def new(
    content: str = "x",
    *,
    user: UserId = ALICE,
    thread: str = "main",
    key: str | None = None,
    fingerprint: bytes = b"same",
    at: float = NOW,
) -> NewMessage:
    n = next(_count)
    return NewMessage(
        user_id=user,
        thread_id=ThreadId(thread),
        message_id=MessageId(f"m{n}"),
        run_id=RunId(f"r{n}"),
        agent_name="echo",
        correlation_id=CorrelationId(key if key is not None else f"c{n}"),
        key=None if key is None else CorrelationId(key),
        fingerprint=fingerprint,
        content=content,
        created_at=at,
    )


def end_of(
    message: NewMessage, text: str = "", *, completed: bytes = COMPLETED, at: float = NOW
) -> RunEnd:
    return RunEnd(
        run_id=message.run_id,
        status=RunStatus.COMPLETED,
        message_id=MessageId(f"m{next(_count)}"),
        text=text,
        truncated=False,
        created_at=at,
        completed=completed,
    )


def record(store: MemoryStore, *messages: NewMessage) -> None:
    for message in messages:
        assert result(store.record(message)) is None


def settle(store: MemoryStore, *messages: NewMessage, text: str = "") -> None:
    """Record messages and end their runs."""
    for message in messages:
        record(store, message)
        result(store.end_run(end_of(message, text)))


def contents(store: MemoryStore, thread: str = "main", user: UserId = ALICE) -> list[str] | None:
    """Return the texts of a thread, None if there is none."""
    page = result(store.history(user, ThreadId(thread), limit=1000))
    return None if page is None else [message.content for message in page[0]]


def unavailable(store: MemoryStore, message: NewMessage) -> bool:
    """Whether the message is refused, and nothing else has changed."""
    before = store.statistics()
    try:
        result(store.record(message))
    except StoreUnavailable:
        assert store.statistics() == before
        return True
    return False


def test_it_is_a_store() -> None:
    store: Store = MemoryStore()
    assert isinstance(store, MemoryStore)


def test_it_counts_what_it_keeps() -> None:
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
        "keys": 1,
        "runs": 1,
        "users_dropped": 0,
        "messages_dropped": 0,
        "early_keys_dropped": 0,
    }


def test_the_first_end_stands() -> None:
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


def test_messages_at_the_bound_stay_and_one_more_drops_the_oldest() -> None:
    store = MemoryStore(messages=4)
    settle(store, new("1"), new("2"), text="a")
    assert contents(store) == ["1", "a", "2", "a"]
    settle(store, new("3"))
    assert contents(store) == ["a", "2", "a", "3"]
    settle(store, new("4"), text="b")
    assert contents(store) == ["a", "3", "4", "b"]
    assert store.statistics()["messages_dropped"] == 3


def test_the_thread_written_to_longest_ago_loses_first() -> None:
    store = MemoryStore(messages=5)
    settle(store, new("a1", thread="a"), new("a2", thread="a"), new("b1", thread="b"))
    settle(store, new("c1", thread="c"), new("a3", thread="a"))
    settle(store, new("d1", thread="d"))
    assert contents(store, "b") is None
    settle(store, new("d2", thread="d"))
    assert contents(store, "c") is None
    settle(store, new("d3", thread="d"))
    assert contents(store, "a") == ["a2", "a3"]


def test_an_end_is_a_write() -> None:
    store = MemoryStore(messages=2)
    first, second = new("a", thread="a"), new("b", thread="b")
    record(store, first, second)
    result(store.end_run(end_of(second)))
    result(store.end_run(end_of(first)))
    settle(store, new("c", thread="c"))
    assert (contents(store, "a"), contents(store, "b")) == (["a"], None)


def test_an_end_is_a_write_to_a_thread_that_had_messages_before() -> None:
    store = MemoryStore(messages=3)
    settle(store, new("a1", thread="a"))
    last = new("a2", thread="a")
    record(store, last)
    settle(store, new("b", thread="b"))
    result(store.end_run(end_of(last)))
    settle(store, new("c", thread="c"))
    assert (contents(store, "a"), contents(store, "b")) == (["a1", "a2"], None)


def test_the_thread_being_written_to_loses_last() -> None:
    store = MemoryStore(messages=2)
    settle(store, new("a1", thread="a"), new("b1", thread="b"))
    record(store, new("a2", thread="a"))
    assert (contents(store, "a"), contents(store, "b")) == (["a1", "a2"], None)
    record(store, new("a3", thread="a"))
    assert contents(store, "a") == ["a2", "a3"]


def test_a_thread_may_lose_everything_to_its_own_next_message() -> None:
    store = MemoryStore(messages=1)
    settle(store, new("1"))
    record(store, new("2"))
    assert contents(store) == ["2"]
    assert store.statistics()["threads"] == 1


def test_a_run_going_on_is_never_dropped() -> None:
    store = MemoryStore(messages=3)
    running = new("running", key="k")
    record(store, running)
    store.start_run(running.run_id)
    settle(store, *(new(f"{n}", thread="main" if n % 2 else "other") for n in range(10)))
    assert contents(store) == ["running", "9"]
    assert contents(store, "other") == ["8"]
    result(store.end_run(end_of(running, "late")))
    assert contents(store) == ["running", "9", "late"]


def test_only_runs_going_on_make_it_unavailable() -> None:
    store = MemoryStore(messages=2)
    first, second, third = new("1", key="k1"), new("2", thread="other"), new("3", key="k3")
    record(store, first, second)
    assert unavailable(store, third)
    result(store.check())
    known = result(store.record(first))  # what is known is still told
    assert known == Duplicate(
        first.message_id, first.run_id, first.thread_id, RunStatus.QUEUED, None
    )
    result(store.end_run(end_of(first)))
    record(store, third)  # under the key that the refusal left free
    assert contents(store) == ["3"]
    assert contents(store, "other") == ["2"]


def test_an_end_drops_what_its_answer_has_no_room_for() -> None:
    store = MemoryStore(messages=2)
    first, second = new("1", thread="a"), new("2", thread="b")
    record(store, first, second)
    result(store.end_run(end_of(second, "answer")))
    assert contents(store, "a") == ["1"]
    assert contents(store, "b") == ["answer"]


# Bytes


def test_bytes_at_the_bound_stay_and_one_more_drops_the_oldest() -> None:
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


def test_an_end_that_is_too_large_takes_itself_along() -> None:
    store = MemoryStore(text_bytes=10)
    message = new("x", key="k")
    record(store, message)
    result(store.end_run(end_of(message, "y" * 11)))
    assert contents(store) is None
    assert store.statistics()["text_bytes"] == 0
    record(store, message)  # its key went with it


# Threads


def test_threads_at_the_bound_stay_and_one_more_drops_the_one_idle_longest() -> None:
    store = MemoryStore(threads=2)
    settle(store, new("1", thread="a"), new("2", thread="a"), new("3", thread="b"), text="a")
    assert contents(store, "a") == ["1", "a", "2", "a"]
    settle(store, new("4", thread="c"))
    assert contents(store, "a") is None
    assert (contents(store, "b"), contents(store, "c")) == (["3", "a"], ["4"])
    assert store.statistics()["threads"] == 2
    assert store.statistics()["messages_dropped"] == 4


def test_a_thread_of_one_name_counts_for_each_user() -> None:
    store = MemoryStore(threads=1)
    settle(store, new("hers"))
    settle(store, new("his", user=BOB))
    assert contents(store) is None
    assert contents(store, user=BOB) == ["his"]


def test_a_thread_with_a_run_stays_whole() -> None:
    store = MemoryStore(threads=2)
    settle(store, new("1", thread="a"))
    record(store, new("2", thread="a"))
    settle(store, new("3", thread="b"), new("4", thread="c"))
    assert (contents(store, "a"), contents(store, "b")) == (["1", "2"], None)
    record(store, new("5", thread="c"))
    assert unavailable(store, new("6", thread="d"))
    record(store, new("7", thread="a"))  # no new thread, so nothing in its way


# Keys


def test_a_dropped_message_frees_its_key() -> None:
    store = MemoryStore(messages=1)
    settle(store, new(key="k"), new(key="other"))
    record(store, new(key="k", fingerprint=b"other"))
    with pytest.raises(KeyConflict):
        result(store.record(new(key="k")))


@pytest.mark.parametrize(("seconds", "early"), [(3600 * KEY_HOURS - 1, 1), (3600 * KEY_HOURS, 0)])
def test_keys_that_had_to_go_early_are_counted(seconds: float, early: int) -> None:
    store = MemoryStore(messages=1)
    settle(store, new(key="k"), new(at=NOW + seconds))
    settle(store, new(at=NOW + seconds))  # without a key, so none is lost
    assert store.statistics()["early_keys_dropped"] == early
    assert store.statistics()["keys"] == 0


# Users


def test_users_at_the_bound_stay_and_one_more_drops_the_oldest() -> None:
    store = MemoryStore(users=2)
    for name in ("a", "b", "a"):
        result(store.create_user(UserId(name)))
    assert store.statistics()["users"] == 2
    result(store.create_user(UserId("c")))
    assert result(store.get_user(UserId("a"))) is None
    assert result(store.get_user(UserId("b"))) == User(UserId("b"))
    assert store.statistics()["users_dropped"] == 1


def test_users_with_a_thread_and_disabled_ones_stay() -> None:
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
    settle(store, new(user=UserId("somebody")))  # takes the place of Alice's only message
    result(store.create_user(UserId("erin")))
    assert result(store.get_user(ALICE)) is None  # who was there before Bob
    assert result(store.get_user(BOB)) == User(BOB)


# History


@pytest.mark.parametrize("beyond", [0, 1])
def test_a_page_at_its_bytes_is_whole_and_one_more_is_not(beyond: int) -> None:
    store = MemoryStore()
    half = HISTORY_PAGE_BYTES // 2 - HISTORY_LISTED_BYTES
    settle(store, new("x" * half), new("é" * (half // 2) + "x" * beyond))
    page = result(store.history(ALICE, ThreadId("main"), limit=2))
    assert page is not None
    assert (len(page[0]), page[1]) == (2 - beyond, bool(beyond))


def test_before_a_dropped_message_is_not_found() -> None:
    store = MemoryStore(messages=2)
    first = new("1")
    settle(store, first, new("2"), new("3"))
    with pytest.raises(MessageNotFound):
        result(store.history(ALICE, ThreadId("main"), limit=2, before=first.message_id))


def test_history_closes_up_around_what_was_dropped() -> None:
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


# Everything against a model that looks at all it has for every answer.

MAX_USERS, MAX_THREADS, MAX_MESSAGES, MAX_BYTES = 3, 3, 6, 24

users = st.sampled_from([UserId(name) for name in "abcde"])
threads = st.sampled_from(["main", "other"])
texts = st.sampled_from(["", "x", "é", "twelve bytes"])


@define(eq=False)
class Kept:
    """A message of the model; `run` is the message that started it, None for an agent's."""

    id: MessageId
    thread: tuple[UserId, ThreadId]
    text: str
    run: NewMessage | None
    status: RunStatus | None = None
    completed: bytes | None = None

    @property
    def size(self) -> int:
        return len(self.text.encode()) + len(self.completed or b"")

    @property
    def is_held(self) -> bool:
        return self.status in {RunStatus.QUEUED, RunStatus.RUNNING}


@define
class Model:
    """What the store should do, said as plainly as possible."""

    users: dict[UserId, bool] = field(factory=dict)
    kept: list[Kept] = field(factory=list)
    written: list[tuple[UserId, ThreadId]] = field(factory=list)

    def threads(self) -> list[tuple[UserId, ThreadId]]:
        """Return the threads with a message, the one written to longest ago first."""
        return [thread for thread in self.written if any(k.thread == thread for k in self.kept)]

    def is_held(self, thread: tuple[UserId, ThreadId]) -> bool:
        return any(k.is_held for k in self.kept if k.thread == thread)

    def touch(self, thread: tuple[UserId, ThreadId]) -> None:
        if thread in self.written:
            self.written.remove(thread)
        self.written.append(thread)

    def create_user(self, user: UserId) -> bool:
        if user not in self.users and len(self.users) >= MAX_USERS:
            owners = {owner for owner, _ in self.threads()}
            free = [u for u, enabled in self.users.items() if enabled and u not in owners]
            if not free:
                return False
            del self.users[free[0]]
        self.users.setdefault(user, True)
        return True

    def known(self, message: NewMessage) -> Kept | None:
        for kept in self.kept:
            run = kept.run
            if run and message.key and (run.user_id, run.key) == (message.user_id, message.key):
                return kept
        return None

    def record(self, message: NewMessage) -> bool:
        thread = (message.user_id, message.thread_id)
        kept = Kept(message.message_id, thread, message.content, message, RunStatus.QUEUED)
        held = [k for k in self.kept if k.is_held]
        if len(held) >= MAX_MESSAGES or sum(k.size for k in held) + kept.size > MAX_BYTES:
            return False
        if thread not in self.threads():
            if len({k.thread for k in held}) >= MAX_THREADS:
                return False
            if len(self.threads()) >= MAX_THREADS:
                gone = next(t for t in self.threads() if not self.is_held(t))
                self.kept = [k for k in self.kept if k.thread != gone]
        self.touch(thread)
        self.kept.append(kept)
        self.make_room()
        return True

    def end(self, end: RunEnd) -> None:
        kept = next(k for k in self.kept if k.run and k.run.run_id == end.run_id)
        kept.status, kept.completed = end.status, end.completed
        if end.text:
            self.kept.append(Kept(end.message_id, kept.thread, end.text, None))
        self.touch(kept.thread)
        self.make_room()

    def make_room(self) -> None:
        while len(self.kept) > MAX_MESSAGES or sum(k.size for k in self.kept) > MAX_BYTES:
            loose = [k for k in self.kept if not k.is_held]
            order = [t for t in self.threads() if any(k.thread == t for k in loose)]
            self.kept.remove(next(k for k in loose if k.thread == order[0]))


class AgainstTheModel(RuleBasedStateMachine):
    """The store with small bounds, asked the same as the model."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.store = MemoryStore(
            users=MAX_USERS, threads=MAX_THREADS, messages=MAX_MESSAGES, text_bytes=MAX_BYTES
        )

    def held(self) -> list[Kept]:
        return [kept for kept in self.model.kept if kept.is_held]

    @rule(user=users)
    def create_user(self, user: UserId) -> None:
        try:
            created = result(self.store.create_user(user))
        except StoreUnavailable:
            assert not self.model.create_user(user)
        else:
            assert self.model.create_user(user)
            assert created == User(user, self.model.users[user])

    @rule(user=users, enabled=st.booleans())
    def set_user_enabled(self, user: UserId, enabled: bool) -> None:
        known = result(self.store.set_user_enabled(user, enabled=enabled))
        assert known == (user in self.model.users)
        if known:
            self.model.users[user] = enabled

    @rule(
        user=users,
        thread=threads,
        text=texts,
        key=st.sampled_from([None, "k1", "k2"]),
        fingerprint=st.sampled_from([b"1", b"1", b"2"]),
    )
    def record(
        self, user: UserId, thread: str, text: str, key: str | None, fingerprint: bytes
    ) -> None:
        message = new(text, user=user, thread=thread, key=key, fingerprint=fingerprint)
        known = self.model.known(message)
        try:
            duplicate = result(self.store.record(message))
        except KeyConflict:
            assert known is not None
            assert known.run is not None
            assert known.run.fingerprint != fingerprint
        except StoreUnavailable:
            assert known is None
            assert not self.model.record(message)
        else:
            if known is None:
                assert duplicate is None
                assert self.model.record(message)
            else:
                assert known.run is not None
                assert known.status is not None
                assert known.run.fingerprint == fingerprint
                assert duplicate == Duplicate(
                    known.id, known.run.run_id, known.thread[1], known.status, known.completed
                )

    @precondition(lambda self: self.held())
    @rule(data=st.data())
    def start_run(self, data: st.DataObject) -> None:
        kept = data.draw(st.sampled_from(self.held()))
        assert kept.run is not None
        self.store.start_run(kept.run.run_id)
        kept.status = RunStatus.RUNNING

    @precondition(lambda self: self.held())
    @rule(data=st.data(), text=texts, completed=st.sampled_from([b"", COMPLETED]))
    def end_run(self, data: st.DataObject, text: str, completed: bytes) -> None:
        kept = data.draw(st.sampled_from(self.held()))
        assert kept.run is not None
        end = end_of(kept.run, text, completed=completed)
        result(self.store.end_run(end))
        self.model.end(end)

    @rule(user=users, thread=threads, limit=st.integers(1, 4), data=st.data())
    def history(self, user: UserId, thread: str, limit: int, data: st.DataObject) -> None:
        key = (user, ThreadId(thread))
        everything = [k.id for k in self.model.kept if k.thread == key]
        anything = [None, *(k.id for k in self.model.kept)]
        before = data.draw(st.sampled_from(anything))
        expected = everything
        if before in everything:
            expected = everything[: everything.index(before)]
        try:
            page = result(self.store.history(*key, limit=limit, before=before))
        except MessageNotFound:
            assert before is not None
            assert everything
            assert before not in everything
        else:
            assert before is None or before in everything or not everything
            assert (page is None) == (not everything)
            if page is not None:
                messages, has_more = page
                assert [message.message_id for message in messages] == expected[-limit:]
                assert has_more == (len(expected) > limit)

    @invariant()
    def keeps_the_same_users(self) -> None:
        for user in "abcde":
            enabled = self.model.users.get(UserId(user))
            expected = None if enabled is None else User(UserId(user), enabled)
            assert result(self.store.get_user(UserId(user))) == expected

    @invariant()
    def keeps_the_same_messages(self) -> None:
        for key in itertools.product("abcde", ["main", "other"]):
            thread = (UserId(key[0]), ThreadId(key[1]))
            expected = [k for k in self.model.kept if k.thread == thread]
            page = result(self.store.history(*thread, limit=100))
            found: list[HistoryMessage] = [] if page is None else list(page[0])
            assert (page is None) == (not expected)
            assert [(m.message_id, m.content, m.run and m.run.status) for m in found] == [
                (k.id, k.text, k.status) for k in expected
            ]

    @invariant()
    def keeps_within_its_bounds(self) -> None:
        kept = self.model.kept
        statistics = self.store.statistics()
        assert statistics["users"] == len(self.model.users) <= MAX_USERS
        assert statistics["threads"] == len({k.thread for k in kept}) <= MAX_THREADS
        assert statistics["messages"] == len(kept) <= MAX_MESSAGES
        assert statistics["text_bytes"] == sum(k.size for k in kept) <= MAX_BYTES
        assert statistics["runs"] == len(self.held())
        assert statistics["keys"] == sum(1 for k in kept if k.run and k.run.key)


AgainstTheModel.TestCase.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None
)
TestAgainstTheModel = AgainstTheModel.TestCase
