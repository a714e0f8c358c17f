"""The store in memory, compared with a simple model over random calls."""

import itertools

from attrs import define, field
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from stores.memory_samples import (
    COMPLETED,
    end_of,
    new,
    result,
)

from netra_trio.errors import KeyConflict, MessageNotFound, StoreUnavailable
from netra_trio.ids import MessageId, ThreadId, UserId
from netra_trio.protocol.messages import HistoryMessage, RunStatus
from netra_trio.stores.base import (
    Duplicate,
    NewMessage,
    RunEnd,
    User,
)
from netra_trio.stores.memory import MemoryStore

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
    """The behaviour of the store in its simplest form."""

    users: dict[UserId, bool] = field(factory=dict)
    kept: list[Kept] = field(factory=list)
    written: list[tuple[UserId, ThreadId]] = field(factory=list)

    def threads(self) -> list[tuple[UserId, ThreadId]]:
        """Return the threads with a message, the least recently written one first."""
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
    """A store with small bounds, compared with the model."""

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
