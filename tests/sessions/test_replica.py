"""The replica: what is copied, what is held, and when it is let go."""

from sys import maxsize

import pytest
from attrs import define, field

from netra_trio.broker.base import Appended, SessionRecord
from netra_trio.ids import NodeId, RunId, SessionId, ThreadId, UserId
from netra_trio.protocol.messages import PartialResult
from netra_trio.sessions import replica as module
from netra_trio.sessions.event_log import Entry
from netra_trio.sessions.log_copy import Base, decode
from netra_trio.sessions.replica import Collected, Replica

STORED, FENCED, STALE = Appended.STORED, Appended.FENCED, Appended.STALE


@define(eq=False)
class Log:
    """The events of a session, and what its replica has called."""

    kept: list[Entry] = field(factory=list)
    changes: list[bool] = field(factory=list)
    flushes: int = 0
    releases: int = 0
    fences: int = 0

    def entries(self) -> list[Entry]:
        return self.kept

    def base(self) -> Base:
        return Base(self.kept[-1].seq if self.kept else 0, ())

    def on_released(self) -> None:
        self.releases += 1

    def changed(self, _replica: Replica, is_held: bool) -> None:
        self.changes.append(is_held)

    def fenced(self) -> None:
        self.fences += 1

    async def flush(self, _replica: Replica) -> None:
        self.flushes += 1

    def replica(self) -> Replica:
        node = NodeId("node")
        record = SessionRecord(
            SessionId("s"), UserId("u"), node, 1, True, False, ThreadId("t"), node
        )
        return Replica(
            record,
            self,
            seconds=lambda: 60.0,
            changed=self.changed,
            fenced=self.fenced,
            flush=self.flush,
        )

    def add(self, replica: Replica, *, reserved: bool = False, size: int = 1) -> None:
        seq = self.base().last + 1
        entry = Entry(seq, PartialResult(RunId("r"), "x"), size, reserved, 1.0, "key")
        self.kept.append(entry)
        replica.add(entry)


def is_complete(replica: Replica) -> bool:
    return replica.is_complete


def collect(replica: Replica) -> Collected:
    part = replica.collect()
    assert part is not None
    return part


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def copied(log: Log) -> Replica:
    """Return a replica whose base is stored."""
    replica = log.replica()
    replica.settle(collect(replica), STORED)
    log.changes.clear()
    return replica


def test_the_first_batch_replaces_everything(log: Log) -> None:
    replica = log.replica()
    log.add(replica)
    assert not is_complete(replica)
    part = collect(replica)
    assert (part.batch.previous, part.batch.last, part.batch.seconds) == (None, 1, 60.0)
    assert [entry.seq for entry in decode([part.batch.data]).entries] == [1]
    assert not is_complete(replica)
    replica.settle(part, STORED)
    assert is_complete(replica)
    assert replica.collect() is None


def test_later_batches_have_what_is_new(log: Log, copied: Replica) -> None:
    log.add(copied)
    log.add(copied)
    first = collect(copied)
    log.add(copied)
    second = collect(copied)
    places = [(each.batch.previous, each.batch.last) for each in (first, second)]
    assert places == [(0, 2), (2, 3)]
    copied.settle(first, STORED)
    assert not copied.is_complete
    copied.settle(second, STORED)
    assert copied.is_complete


def test_answers_are_handled_in_any_order(log: Log, copied: Replica) -> None:
    parts = []
    for _ in range(2):
        log.add(copied)
        parts.append(collect(copied))
    for part in reversed(parts):
        copied.settle(part, STORED)
    assert copied.is_complete


def test_a_held_event_and_what_follows_wait_for_the_copy(log: Log, copied: Replica) -> None:
    log.add(copied)
    assert (copied.held_from, copied.is_holding) == (maxsize, False)
    log.add(copied, reserved=True)
    part = collect(copied)
    log.add(copied, reserved=True)
    assert log.changes == [False, True, True]
    assert copied.held_from == 2
    copied.settle(part, STORED)
    assert copied.held_from == 3
    copied.settle(collect(copied), STORED)
    assert copied.held_from == maxsize
    assert log.releases == 2


def test_an_answer_that_did_not_come_copies_all_again(log: Log, copied: Replica) -> None:
    log.add(copied, reserved=True)
    lost = collect(copied)
    copied.settle(lost, None)
    assert log.changes[-1] is False
    assert copied.held_from == 1  # until it is given up
    again = collect(copied)
    assert again.batch.previous is None
    copied.settle(lost, STORED)  # a late answer to an earlier generation
    assert not is_complete(copied)
    copied.settle(again, STORED)
    assert is_complete(copied)
    assert copied.held_from == maxsize


def test_a_stale_batch_copies_all_again(log: Log, copied: Replica) -> None:
    log.add(copied)
    copied.settle(collect(copied), STALE)
    assert collect(copied).batch.previous is None


def test_giving_up_holds_nothing_until_all_is_copied(log: Log, copied: Replica) -> None:
    log.add(copied, reserved=True)
    copied.give_up()
    assert [copied.is_unreplicated] == [True]
    assert copied.held_from == maxsize
    log.add(copied, reserved=True)
    assert copied.held_from == maxsize
    copied.settle(collect(copied), STORED)
    assert [copied.is_unreplicated] == [False]
    log.add(copied, reserved=True)
    assert copied.held_from == 3


def test_a_fenced_replica_holds_everything(log: Log, copied: Replica) -> None:
    log.add(copied, reserved=True)
    part = collect(copied)
    log.add(copied)
    copied.settle(part, FENCED)
    assert (copied.is_fenced, copied.held_from, log.fences) == (True, 0, 1)
    copied.settle(part, STORED)
    copied.fence()
    copied.give_up()
    log.add(copied, reserved=True)
    assert (copied.held_from, log.fences, copied.collect()) == (0, 1, None)
    assert not copied.is_unreplicated
    assert log.releases == 0


@pytest.mark.parametrize("beyond", [0, 1])
def test_a_base_follows_the_bound_of_bytes(
    log: Log, copied: Replica, beyond: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REBASE_BYTES", 100)
    log.add(copied, size=100 + beyond)
    log.add(copied, size=0)
    assert (collect(copied).batch.previous is None) == bool(beyond)


@pytest.mark.parametrize("beyond", [0, 1])
def test_a_base_follows_the_bound_of_batches(
    log: Log, copied: Replica, beyond: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REBASE_BATCHES", 3)
    for _ in range(3 + beyond):
        log.add(copied)
        copied.settle(collect(copied), STORED)
    log.add(copied)
    assert (collect(copied).batch.previous is None) == bool(beyond)


async def test_a_flush_waits_only_where_that_is_of_use(log: Log, copied: Replica) -> None:
    await copied.flush()
    assert log.flushes == 0
    log.add(copied)
    await copied.flush()
    assert log.flushes == 1
    log.add(copied, reserved=True)
    copied.give_up()
    await copied.flush()
    copied.retire()
    await copied.flush()
    assert log.flushes == 1
