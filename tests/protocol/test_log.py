"""The log against a simple model: numbers, bounds, reserved places and acknowledgement."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from netra_trio.protocol.log import PLACES_PER_MESSAGE, RESERVED_PLACES, EventLog

SIZES = st.integers(0, 12)


class LogMachine(RuleBasedStateMachine):
    """Plays a session with its runs, its writer and its client; the model is three lists."""

    @initialize(
        acknowledging=st.booleans(), max_events=st.integers(1, 6), max_bytes=st.integers(1, 40)
    )
    def start(self, acknowledging: bool, max_events: int, max_bytes: int) -> None:
        self.log = EventLog(max_events=max_events, max_bytes=max_bytes, acknowledging=acknowledging)
        self.acknowledging = acknowledging
        self.max_events, self.max_bytes = max_events, max_bytes
        self.pending: list[tuple[int, int, bool]] = []  # number, size, in a reserved place
        self.kept: list[tuple[int, int, bool]] = []
        self.open_places = 0  # taken by messages, not yet by events
        self.written = self.count = 0

    @property
    def held(self) -> list[tuple[int, int, bool]]:
        return self.kept + self.pending

    @property
    def size(self) -> int:
        return sum(size for _, size, _ in self.held)

    @property
    def used_places(self) -> int:
        return self.open_places + sum(reserved for *_, reserved in self.held)

    def append(self, size: int, *, reserved: bool) -> None:
        self.count += 1
        event = f"event {self.count}"
        number = self.log.append(
            event, size, reserved=reserved, timestamp=self.count / 4, correlation_id=f"c{size}"
        )
        assert number == self.count
        self.pending.append((number, size, reserved))

    @rule(size=SIZES)
    def emit(self, size: int) -> None:
        ordinary = sum(not reserved for *_, reserved in self.held)
        fits = self.size == 0 or self.size + size <= self.max_bytes
        room = ordinary < self.max_events and fits
        assert self.log.has_room(size) is room
        if room:
            self.append(size, reserved=False)

    @rule(messages=st.sampled_from([1, 1, 1, 60]))
    def admit(self, messages: int) -> None:
        for _ in range(messages):
            free = self.used_places + PLACES_PER_MESSAGE <= RESERVED_PLACES
            assert self.log.reserve() is free
            self.open_places += PLACES_PER_MESSAGE * free

    @precondition(lambda self: self.open_places >= 1)
    @rule(size=SIZES)
    def confirm_or_end(self, size: int) -> None:
        self.open_places -= 1
        self.append(size, reserved=True)

    @precondition(lambda self: self.open_places >= 2)
    @rule()
    def refuse(self) -> None:
        self.log.release()
        self.open_places -= 2

    @precondition(lambda self: self.open_places >= 1)
    @rule()
    def do_without_an_end(self) -> None:
        self.log.release(1)
        self.open_places -= 1

    @rule(max_bytes=st.integers(0, 60))
    def write(self, max_bytes: int) -> None:
        expected: list[tuple[int, int, bool]] = []
        while self.pending:
            more = sum(size for _, size, _ in expected) + self.pending[0][1]
            if expected and more > max_bytes:
                break
            expected.append(self.pending.pop(0))
        taken = self.log.take(max_bytes=max_bytes)
        assert [(entry.seq, entry.size, entry.reserved) for entry in taken] == expected
        for entry in taken:
            assert entry.event == f"event {entry.seq}"
            assert entry.timestamp == entry.seq / 4
            assert entry.correlation_id == f"c{entry.size}"
        if expected:
            self.written = expected[-1][0]
        if self.acknowledging:
            self.kept += expected

    @rule(offset=st.integers(-8, 3))
    def acknowledge(self, offset: int) -> None:
        seq = self.written + offset
        if offset > 0:
            with pytest.raises(ValueError, match=str(seq)):
                self.log.acknowledge(seq)
            return
        kept = [entry for entry in self.kept if entry[0] > seq]
        assert self.log.acknowledge(seq) is (len(kept) < len(self.kept))
        self.kept = kept

    @invariant()
    def agrees(self) -> None:
        assert self.log.last == self.count
        assert self.log.written == self.written
        assert self.log.has_pending is bool(self.pending)
        assert self.log.is_over_bytes is (self.size >= self.max_bytes)

    @invariant()
    def numbers_have_no_gap(self) -> None:
        numbers = [seq for seq, *_ in self.held]
        assert numbers == list(range(self.count - len(numbers) + 1, self.count + 1))

    @invariant()
    def bounds_hold(self) -> None:
        ordinary = [size for _, size, reserved in self.held if not reserved]
        assert len(ordinary) <= self.max_events
        # One event may be larger than the bound, but then it came alone.
        assert sum(ordinary) <= max(self.max_bytes, *ordinary, 0)
        assert self.used_places <= RESERVED_PLACES
        assert len(self.log._pending) + len(self.log._kept) == len(self.held)


TestLog = LogMachine.TestCase


def test_the_bounds_are_the_contracts() -> None:
    assert (RESERVED_PLACES, PLACES_PER_MESSAGE) == (256, 2)


def test_the_last_place_and_one_message_beyond() -> None:
    log = EventLog(max_events=1, max_bytes=1, acknowledging=True)
    assert all(log.reserve() for _ in range(128))
    assert not log.reserve()
    log.append("confirmed", 0, reserved=True)
    log.append("ended", 10_000, reserved=True)
    log.take(max_bytes=1)
    assert not log.reserve()  # written is not acknowledged
    log.take(max_bytes=1)
    assert log.acknowledge(1)
    assert not log.reserve()
    assert log.acknowledge(2)
    assert log.reserve()


def test_confirmations_and_ends_never_wait() -> None:
    log = EventLog(max_events=1, max_bytes=10, acknowledging=True)
    assert log.reserve()
    log.append("delta", 10)
    assert not log.has_room(0)
    assert [log.append("confirmed", 5, reserved=True), log.append("ended", 5, reserved=True)] == [
        2,
        3,
    ]
    assert log.is_over_bytes


def test_an_event_larger_than_the_log_goes_in_alone() -> None:
    log = EventLog(max_events=10, max_bytes=10, acknowledging=True)
    assert log.has_room(1000)
    log.append("large", 1000)
    assert not log.has_room(1)
    assert [entry.seq for entry in log.take(max_bytes=1)] == [1]
    assert not log.has_room(1)
    assert log.acknowledge(1)
    assert log.has_room(1000)


def test_what_a_plain_client_was_given_is_done_with() -> None:
    log = EventLog(max_events=1, max_bytes=10, acknowledging=False)
    log.append("delta", 10)
    assert not log.has_room(1)
    log.take(max_bytes=100)
    assert log.has_room(10)
    assert not log.acknowledge(1)
