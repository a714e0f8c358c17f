"""The event log and a simple model: numbers, bounds, merging, acknowledgements and resumes."""

from itertools import pairwise

import pytest
from attrs import evolve, frozen
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from netra_trio.ids import RunId
from netra_trio.protocol.messages import PartialResult
from netra_trio.sessions.event_log import (
    MERGED_BYTES,
    PLACES_PER_MESSAGE,
    RESERVED_PLACES,
    Entry,
    EventLog,
)

LARGE = MERGED_BYTES // 2  # two of them are one merged delta, three are not
SIZES = st.integers(0, 12)


@frozen
class ModelEntry:
    """An entry in the model; only a delta has a `run`."""

    first: int
    seq: int
    size: int
    reserved: bool = False
    run: str | None = None
    text: str = ""


def model_of(entry: Entry) -> ModelEntry:
    """Return the model of an entry."""
    if isinstance(entry.event, PartialResult):
        run, text = str(entry.event.run_id), entry.event.content
    else:
        run, text = None, entry.event
    if entry.seq_from is not None:
        assert entry.seq_from < entry.seq
    assert entry.timestamp == entry.seq / 4
    return ModelEntry(entry.first, entry.seq, entry.size, entry.reserved, run, text)


def merge_model(entries: list[ModelEntry]) -> list[ModelEntry]:
    """Merge adjacent deltas of one run, up to the maximum size."""
    folded: list[ModelEntry] = []
    for entry in entries:
        last = folded[-1] if folded else None
        if (
            last is not None
            and entry.run is not None
            and last.run == entry.run
            and last.size + entry.size <= MERGED_BYTES
        ):
            size, text = last.size + entry.size, last.text + entry.text
            folded[-1] = evolve(last, seq=entry.seq, size=size, text=text)
        else:
            folded.append(entry)
    return folded


class LogMachine(RuleBasedStateMachine):
    """Calls the log as a session, its runs and its writers do; the model is two lists."""

    @initialize(
        acknowledging=st.booleans(),
        keeps_ring=st.booleans(),
        max_events=st.integers(1, 6),
        max_bytes=st.one_of(st.integers(1, 40), st.just(4 * LARGE)),
    )
    def start(self, acknowledging: bool, keeps_ring: bool, max_events: int, max_bytes: int) -> None:
        self.log = EventLog(
            max_events=max_events,
            max_bytes=max_bytes,
            acknowledging=acknowledging,
            keeps_ring=keeps_ring,
        )
        self.acknowledging = acknowledging
        self.keeps = acknowledging or keeps_ring
        self.max_events, self.max_bytes = max_events, max_bytes
        self.pending: list[ModelEntry] = []
        self.kept: list[ModelEntry] = []
        self.unused_places = 0  # reserved by messages and not used by events
        self.written = self.count = 0
        self.replays_until = 0

    @property
    def held(self) -> list[ModelEntry]:
        """The entries that must not be removed."""
        return self.kept + self.pending if self.acknowledging else self.pending

    @property
    def size(self) -> int:
        return sum(entry.size for entry in self.held)

    @property
    def used_places(self) -> int:
        return self.unused_places + sum(entry.reserved for entry in self.held)

    def append(self, size: int, *, reserved: bool = False, run: str | None = None) -> None:
        self.count += 1
        text = f"<{self.count}>"
        event = text if run is None else PartialResult(RunId(run), text)
        seq = self.log.append(event, size, reserved, self.count / 4, "c").seq
        assert seq == self.count
        self.pending.append(ModelEntry(seq, seq, size, reserved, run, text))
        assert [model_of(entry) for entry in self.log.trim()] == self.trim_model()

    @rule(
        size=st.one_of(SIZES, st.just(LARGE)), run=st.sampled_from([None, "r1", "r1", "r1", "r2"])
    )
    def emit(self, size: int, run: str | None) -> None:
        ordinary = sum(not entry.reserved for entry in self.held)
        fits = self.size == 0 or self.size + size <= self.max_bytes
        room = ordinary < self.max_events and fits
        assert self.log.has_room(size) is room
        if room:
            self.append(size, run=run)

    @rule()
    def merge(self) -> None:
        self.log.merge()
        old = [entry for entry in self.pending if entry.seq <= self.written]
        self.pending = old + merge_model(self.pending[len(old) :])

    @rule(messages=st.sampled_from([1, 1, 1, 60]))
    def admit(self, messages: int) -> None:
        for _ in range(messages):
            free = self.used_places + PLACES_PER_MESSAGE <= RESERVED_PLACES
            assert self.log.reserve() is free
            self.unused_places += PLACES_PER_MESSAGE * free

    @precondition(lambda self: self.unused_places >= 1)
    @rule(size=SIZES)
    def confirm_or_end(self, size: int) -> None:
        self.unused_places -= 1
        self.append(size, reserved=True)

    @precondition(lambda self: self.unused_places >= 2)
    @rule()
    def release_places(self) -> None:
        self.log.release()
        self.unused_places -= 2

    @precondition(lambda self: self.unused_places >= 1)
    @rule()
    def release_one_place(self) -> None:
        self.log.release(1)
        self.unused_places -= 1

    @rule(max_bytes=st.one_of(st.integers(0, 60), st.just(2 * LARGE)), lags=st.booleans())
    def write(self, max_bytes: int, lags: bool) -> None:
        expected: list[ModelEntry] = []
        while self.pending:
            more = sum(entry.size for entry in expected) + self.pending[0].size
            if expected and more > max_bytes:
                break
            expected.append(self.pending.pop(0))
        if expected:
            self.written = max(self.written, expected[-1].seq)
        if self.keeps:
            self.kept += expected
        replayed = [entry for entry in expected if entry.seq <= self.replays_until]
        merged = (
            merge_model(expected) if lags else merge_model(replayed) + expected[len(replayed) :]
        )
        taken = self.log.take(max_bytes=max_bytes, merge=lags)
        assert [model_of(entry) for entry in taken] == merged
        assert [model_of(entry) for entry in self.log.trim()] == self.trim_model()

    def trim_model(self) -> list[ModelEntry]:
        """Remove the entries of the ring that exceed the bounds, and return them."""
        dropped: list[ModelEntry] = []
        while not self.acknowledging and self.kept:
            both = self.kept + self.pending
            size = sum(entry.size for entry in both)
            if len(both) <= self.max_events and size <= self.max_bytes:
                break
            dropped.append(self.kept.pop(0))
        return dropped

    def drop_up_to(self, seq: int) -> list[ModelEntry]:
        dropped = [entry for entry in self.kept if entry.seq <= seq]
        del self.kept[: len(dropped)]
        return dropped

    @rule(offset=st.integers(-8, 3))
    def acknowledge(self, offset: int) -> None:
        seq = self.written + offset
        if offset > 0:
            with pytest.raises(ValueError, match=str(seq)):
                self.log.acknowledge(seq)
            return
        assert [model_of(entry) for entry in self.log.acknowledge(seq)] == self.drop_up_to(seq)

    @rule(offset=st.integers(-8, 2))
    def rewind(self, offset: int) -> None:
        seq = max(0, self.written + offset)
        if seq > self.written:
            with pytest.raises(ValueError, match=str(seq)):
                self.log.rewind(seq)
            return
        dropped = self.drop_up_to(seq)
        if not self.acknowledging:
            self.kept = [evolve(entry, reserved=False) for entry in self.kept]
        self.pending = self.kept + self.pending
        self.kept = []
        self.replays_until = self.count
        start = self.pending[0].first - 1 if self.pending else self.count
        rewound = self.log.rewind(seq)
        assert [model_of(entry) for entry in rewound.removed] == dropped
        assert (rewound.last_seq, rewound.is_exact) == (start, start == seq)

    @invariant()
    def agrees(self) -> None:
        assert self.log.last == self.count
        assert self.log.written == self.written
        assert self.log.has_pending() is bool(self.pending)
        assert self.log.is_over_bytes is (self.size >= self.max_bytes)
        assert self.log.depth == len(self.kept) + len(self.pending)
        deltas = [entry for entry in self.kept + self.pending if entry.run is not None]
        assert [
            model_of(entry) for entry in self.log.entries() if type(entry.event) is PartialResult
        ] == deltas

    @invariant()
    def numbers_have_no_gap(self) -> None:
        entries = self.kept + self.pending
        assert all(later.first == earlier.seq + 1 for earlier, later in pairwise(entries))
        assert not entries or entries[-1].seq == self.count

    @invariant()
    def bounds_hold(self) -> None:
        ordinary = [entry.size for entry in self.held if not entry.reserved]
        assert len(ordinary) <= self.max_events
        # An event that is larger than the bound was appended to an empty log.
        assert sum(ordinary) <= max(self.max_bytes, *ordinary, 0)
        assert self.used_places <= RESERVED_PLACES


TestLog = LogMachine.TestCase


def numbers(entries: list[Entry]) -> list[tuple[int, int]]:
    return [(entry.first, entry.seq) for entry in entries]


def delta(log: EventLog, text: str, run: str = "r", size: int = 1) -> int:
    return log.append(PartialResult(RunId(run), text), size).seq


def test_the_bounds_are_those_of_the_protocol() -> None:
    assert (RESERVED_PLACES, PLACES_PER_MESSAGE, MERGED_BYTES) == (256, 2, 65_536)


def test_the_last_reserved_places_and_one_message_more() -> None:
    log = EventLog(max_events=1, max_bytes=1, acknowledging=True)
    assert all(log.reserve() for _ in range(128))
    assert not log.reserve()
    log.append("confirmed", 0, reserved=True)
    log.append("ended", 10_000, reserved=True)
    log.take(max_bytes=1)
    assert not log.reserve()  # written, but not acknowledged
    log.take(max_bytes=1)
    assert numbers(log.acknowledge(1)) == [(1, 1)]
    assert not log.reserve()
    assert numbers(log.acknowledge(2)) == [(2, 2)]
    assert log.reserve()


def test_confirmations_and_ends_never_wait() -> None:
    log = EventLog(max_events=1, max_bytes=10, acknowledging=True)
    assert log.reserve()
    log.append("delta", 10)
    assert not log.has_room(0)
    assert [log.append(event, 5, reserved=True).seq for event in ("confirmed", "ended")] == [2, 3]
    assert log.is_over_bytes


def test_an_event_larger_than_the_log_fits_into_an_empty_log() -> None:
    log = EventLog(max_events=10, max_bytes=10, acknowledging=True)
    assert log.has_room(1000)
    log.append("large", 1000)
    assert not log.has_room(1)
    assert [entry.seq for entry in log.take(max_bytes=1)] == [1]
    assert not log.has_room(1)
    assert log.acknowledge(1)
    assert log.has_room(1000)


def test_written_events_use_no_room_without_acknowledgements() -> None:
    log = EventLog(max_events=1, max_bytes=10, acknowledging=False)
    log.append("a", 10)
    assert not log.has_room(1)
    log.take(max_bytes=100)
    assert log.has_room(10)
    assert log.trim() == []  # there is room for all
    log.append("b", 10)
    log.take(max_bytes=100)
    assert numbers(log.trim()) == [(1, 1)]
    assert log.rewind(1).is_exact
    assert numbers(log.take(max_bytes=100)) == [(2, 2)]


def test_the_ring_and_the_pending_events_together_stay_within_the_bounds() -> None:
    log = EventLog(max_events=5, max_bytes=1000, acknowledging=False)
    for _ in range(5):
        log.append("given", 1)
    log.take(max_bytes=3)
    for _ in range(3):
        assert log.has_room(1)
        log.append("waits", 1)
        assert len(log.trim()) == 1
    assert not log.has_room(1)
    assert log.rewind(3).is_exact
    assert log.depth == 5
    assert numbers(log.take(max_bytes=1000)) == [(n, n) for n in range(4, 9)]


def test_a_replayed_event_uses_no_reserved_place() -> None:
    log = EventLog(max_events=1000, max_bytes=10**6, acknowledging=False)
    for _ in range(200):
        assert log.reserve()
        log.append("confirmed", 1, reserved=True)
        log.append("ended", 1, reserved=True)
        log.take(max_bytes=1000)
        assert log.trim() == []
    assert log.rewind(0).is_exact
    assert all(log.reserve() for _ in range(128))
    assert not log.reserve()
    log.take(max_bytes=1000)
    assert not log.reserve()


def test_written_events_are_removed_without_a_ring() -> None:
    log = EventLog(max_events=5, max_bytes=10, acknowledging=False, keeps_ring=False)
    log.append("a", 1)
    log.take(max_bytes=100)
    assert log.depth == 0


def test_merging_deltas_that_were_never_written_makes_room() -> None:
    log = EventLog(max_events=3, max_bytes=1000, acknowledging=True)
    delta(log, "a")
    log.take(max_bytes=1)
    delta(log, "b")
    delta(log, "c")
    assert not log.has_room(1)
    log.merge()
    assert log.has_room(1)
    delta(log, "d")
    log.merge()
    assert delta(log, "e", run="other") == 5
    log.merge()
    taken = log.take(max_bytes=1000)
    assert numbers(taken) == [
        (2, 4),
        (5, 5),
    ]  # not merged with a written event, which the client may have
    assert [entry.event.content for entry in taken] == ["bcd", "e"]


def test_a_lagging_client_gets_merged_deltas_and_can_resume_inside_them() -> None:
    log = EventLog(max_events=10, max_bytes=1000, acknowledging=True)
    for text in "abcd":
        delta(log, text)
    [merged] = log.take(max_bytes=1000, merge=True)
    assert (merged.seq_from, merged.seq, merged.event.content) == (1, 4, "abcd")
    rewound = log.rewind(2)
    assert [entry.event.content for entry in rewound.removed] == ["a", "b"]
    assert (rewound.last_seq, rewound.is_exact) == (2, True)
    delta(log, "e")
    delta(log, "f")
    taken = log.take(max_bytes=1000)
    # New events are not replayed, so they are not merged.
    assert [entry.event.content for entry in taken] == ["cd", "e", "f"]


@pytest.mark.parametrize(("beyond", "expected"), [(0, [(1, 2)]), (1, [(1, 1), (2, 2)])])
def test_a_merged_delta_has_at_most_64_kibibytes(
    beyond: int, expected: list[tuple[int, int]]
) -> None:
    log = EventLog(max_events=10, max_bytes=10**6, acknowledging=True)
    delta(log, "a", size=LARGE)
    delta(log, "b", size=LARGE + beyond)
    assert numbers(log.take(max_bytes=10**6, merge=True)) == expected


def test_deltas_with_another_event_between_are_not_merged() -> None:
    log = EventLog(max_events=10, max_bytes=1000, acknowledging=True)
    delta(log, "a")
    log.append("thought", 1)
    delta(log, "b")
    delta(log, "c", run="other")
    delta(log, "d")
    assert len(log.take(max_bytes=1000, merge=True)) == 5
