"""The store in memory, compared with a simple model over random calls."""

import itertools
from unittest import mock

import pytest
import trio
from attrs import evolve
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from stores.memory_model import MAX_BYTES, MAX_MESSAGES, MAX_THREADS, MAX_USERS, Kept, Model
from stores.memory_samples import (
    COMPLETED,
    NOW,
    end_of,
    new,
    result,
)

from netra_trio.errors import (
    KeyConflict,
    MessageNotFound,
    StoreUnavailable,
    ThreadDeleted,
    ThreadNotFound,
)
from netra_trio.ids import ThreadId, UserId
from netra_trio.protocol.messages import HistoryMessage, RunStatus
from netra_trio.protocol.rooms import thread_room
from netra_trio.protocol.threads import Rating
from netra_trio.stores.base import Duplicate, NewMessage, User
from netra_trio.stores.memory import MemoryStore

pytestmark = pytest.mark.unmeasured

users = st.sampled_from([UserId(name) for name in "abcde"])
threads = st.sampled_from([ThreadId("main"), ThreadId("other")])
texts = st.sampled_from(["", "x", "é", "twelve bytes"])
times = st.sampled_from([NOW, NOW + 1, NOW + 2])
THREADS = [
    (UserId(user), ThreadId(thread))
    for user, thread in itertools.product("abcde", ["main", "other"])
]


class AgainstTheModel(RuleBasedStateMachine):
    """A store with small bounds, compared with the model."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.store = MemoryStore(
            users=MAX_USERS, threads=MAX_THREADS, messages=MAX_MESSAGES, text_bytes=MAX_BYTES
        )
        self.clock = mock.patch.object(trio, "current_time", return_value=0.0)
        self.clock.start()

    def teardown(self) -> None:
        self.clock.stop()

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
        at=times,
        data=st.data(),
    )
    def record(
        self,
        *,
        user: UserId,
        thread: ThreadId,
        text: str,
        key: str | None,
        fingerprint: bytes,
        at: float,
        data: st.DataObject,
    ) -> None:
        message = new(text, user=user, thread=thread, key=key, fingerprint=fingerprint, at=at)
        # Mostly none, then one of any thread.
        ids = [None, None, *(kept.id for kept in self.model.kept)]
        self.compare_record(evolve(message, replaces=data.draw(st.sampled_from(ids))))

    def compare_record(self, message: NewMessage) -> None:
        known = self.model.known(message)
        deleted = None
        if message.key is not None and known is None:
            deleted = self.model.deleted.get((message.user_id, message.key))
        branch = self.model.find((message.user_id, message.thread_id), message.replaces)
        try:
            duplicate = result(self.store.record(message))
        except KeyConflict:
            earlier = known.run.fingerprint if known and known.run else deleted
            assert earlier not in {None, message.fingerprint}
        except ThreadDeleted:
            assert deleted == message.fingerprint
        except MessageNotFound:
            assert (known, deleted, branch) == (None, None, None)
            assert message.replaces is not None
        except StoreUnavailable:
            assert (known, deleted) == (None, None)
            assert not self.model.record(message)
        else:
            assert deleted is None
            if known is None:
                assert duplicate is None
                assert message.replaces is None or branch is not None
                assert self.model.record(message)
            else:
                assert known.run is not None
                assert known.status is not None
                assert known.run.fingerprint == message.fingerprint
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
    @rule(data=st.data(), text=texts, completed=st.sampled_from([b"", COMPLETED]), at=times)
    def end_run(self, data: st.DataObject, text: str, completed: bytes, at: float) -> None:
        kept = data.draw(st.sampled_from(self.held()))
        assert kept.run is not None
        end = end_of(kept.run, text, completed=completed, at=at)
        result(self.store.end_run(end))
        self.model.end(end)

    @rule(user=users, thread=threads, limit=st.integers(1, 4), data=st.data())
    def history(self, user: UserId, thread: ThreadId, limit: int, data: st.DataObject) -> None:
        key = (user, thread)
        expected = [k.id for k in self.model.listed(key)]
        before = data.draw(st.sampled_from([None, *(k.id for k in self.model.kept)]))
        cursor = self.model.find(key, before)
        if cursor is not None:
            end = place(cursor)
            expected = [k.id for k in self.model.listed(key) if place(k) < end]
        try:
            page = result(self.store.history(*key, limit=limit, before=before))
        except MessageNotFound:
            assert before is not None
            assert key in self.model.named
            assert cursor is None
        else:
            assert (page is None) == (key not in self.model.named)
            if page is not None:
                assert before is None or cursor is not None
                messages, has_more = page
                assert [message.message_id for message in messages] == expected[-limit:]
                assert has_more == (len(expected) > limit)

    # Threads

    @rule(
        user=users,
        limit=st.integers(1, 3),
        before=st.sampled_from([None, ThreadId("main"), ThreadId("other")]),
        query=st.sampled_from([None, "É", "X", "other"]),
    )
    def list_threads(
        self, user: UserId, limit: int, before: ThreadId | None, query: str | None
    ) -> None:
        expected = self.model.list_threads(user)
        if before is not None and (user, before) in expected:
            expected = expected[expected.index((user, before)) + 1 :]
        if query is not None:
            text = query.lower()
            expected = [
                thread
                for thread in expected
                if text in self.model.named[thread].title.lower()
                or any(text in kept.text.lower() for kept in self.model.listed(thread))
            ]
        try:
            page, has_more = result(
                self.store.list_threads(user, limit=limit, before=before, query=query)
            )
        except ThreadNotFound:
            assert before is not None
            assert (user, before) not in self.model.named
        else:
            assert [thread.thread_id for thread in page] == [key[1] for key in expected[:limit]]
            assert has_more == (len(expected) > limit)

    @rule(user=users, thread=threads, title=texts, by_user=st.booleans())
    def set_title(self, user: UserId, thread: ThreadId, title: str, by_user: bool) -> None:
        named = self.model.named.get((user, thread))
        expected = named is not None and (by_user or not named.is_titled_by_user)
        was_set = result(self.store.set_title(user, thread, title, by_user=by_user))
        assert was_set is expected
        if named is not None and was_set:
            named.title, named.is_titled_by_user = title, by_user

    @precondition(lambda self: self.model.kept)
    @rule(user=users, thread=threads, data=st.data())
    def mark_read(self, user: UserId, thread: ThreadId, data: st.DataObject) -> None:
        kept = data.draw(st.sampled_from(self.model.kept))
        key = data.draw(st.sampled_from([kept.thread, kept.thread, (user, thread)]))
        named = self.model.named.get(key)
        try:
            known = result(self.store.mark_read(*key, kept.id))
        except MessageNotFound:
            assert named is not None
            assert kept.thread != key
        else:
            assert known is (named is not None)
            if named is not None:
                assert kept.thread == key
                read = kept.question.number if kept.question else kept.number - 1
                named.read = max(named.read, read)

    @precondition(lambda self: self.model.kept)
    @rule(data=st.data(), user=users, rating=st.sampled_from([None, Rating.UP]), comment=texts)
    def set_feedback(
        self, data: st.DataObject, user: UserId, rating: Rating | None, comment: str
    ) -> None:
        kept = data.draw(st.sampled_from(self.model.kept))
        user = data.draw(st.sampled_from([user, kept.thread[0]]))
        found = result(self.store.set_feedback(user, kept.id, rating, comment))
        if user != kept.thread[0] or kept.question is None:
            assert found is None
        else:
            assert found == kept.thread[1]
            kept.rating, kept.comment = rating, comment if rating else ""
            self.model.make_room()

    @rule(user=users, thread=threads)
    def delete_thread(self, user: UserId, thread: ThreadId) -> None:
        known = result(self.store.delete_thread(user, thread))
        assert known is self.model.delete_thread((user, thread))

    # What holds after each call

    @invariant()
    def keeps_the_same_users(self) -> None:
        for user in "abcde":
            enabled = self.model.users.get(UserId(user))
            expected = None if enabled is None else User(UserId(user), enabled)
            assert result(self.store.get_user(UserId(user))) == expected

    @invariant()
    def keeps_the_same_messages(self) -> None:
        for thread in THREADS:
            expected = self.model.listed(thread)
            page = result(self.store.history(*thread, limit=100))
            found: list[HistoryMessage] = [] if page is None else list(page[0])
            assert (page is None) == (thread not in self.model.named)
            assert [as_listed(message) for message in found] == [as_kept(k) for k in expected]

    @invariant()
    def keeps_the_same_threads(self) -> None:
        for thread in THREADS:
            is_known = thread in self.model.named
            expected = self.model.stored(thread) if is_known else None
            assert result(self.store.get_thread(*thread)) == expected
            found = result(self.store.find_room(thread_room(*thread)))
            assert found == (thread if is_known else None)

    @invariant()
    def keeps_the_same_runs(self) -> None:
        found = [(run.run_id, run.status) for run in result(self.store.unfinished_runs())]
        assert found == [(k.run.run_id, k.status) for k in self.held() if k.run]

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


def place(kept: Kept) -> tuple[int, int]:
    """Return the place of a message in the history."""
    return (kept.question.number if kept.question else kept.number, kept.number)


def as_listed(message: HistoryMessage) -> tuple[object, ...]:
    """Return what is compared of a message in the history."""
    run, feedback = message.run, message.feedback
    status = None if run is None else run.status
    rating = None if feedback is None else feedback.rating
    return (message.message_id, message.content, status, message.reply_to, rating)


def as_kept(kept: Kept) -> tuple[object, ...]:
    """Return the same of a message of the model."""
    if kept.question is None:
        return (kept.id, kept.text, kept.status, None, None)
    return (kept.id, kept.text, kept.question.status, kept.question.id, kept.rating)


AgainstTheModel.TestCase.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None
)
TestAgainstTheModel = AgainstTheModel.TestCase
