"""The rules of the client without I/O: feeds, numbers, acknowledgements, pauses, outbox."""

import math
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netra_trio.client.backlog import BYTES, EVENTS, TEXT_BYTES
from netra_trio.client.event import Event, InvalidEvent
from netra_trio.client.feed import READ_EVENTS, Feed
from netra_trio.client.outbox import Outbox, OutboxMessage
from netra_trio.client.retry import BackOff, Next, after_close, after_refusal
from netra_trio.client.sequence import ACK_NUMBERS, ACK_SECONDS, Receipt, SequenceTracker
from netra_trio.protocol.codes import CloseCode, ErrorCode


def delta(seq: int, content: str, run_id: str = "run_1", first: int | None = None) -> Event:
    return Event("partial_result", {"run_id": run_id, "content": content}, seq, first)


def thought(seq: int, run_id: str = "run_1") -> Event:
    return Event("agent_thinking", {"run_id": run_id, "thought": f"{seq}"}, seq)


def new_feed() -> Feed:
    return Feed(set(), lambda: 5.0, lambda: None)


def drain(feed: Feed) -> list[Event]:
    events = []
    while (event := feed.pop()) is not None:
        events.append(event)
    return events


def text_of(events: list[Event], run_id: str = "run_1") -> str:
    return "".join(
        event.payload["content"]
        for event in events
        if event.type == "partial_result" and event.run_id == run_id
    )


# --- feeds

LETTERS = st.sampled_from(["a", "é", "€", "😀", ""])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("delta"), LETTERS, st.sampled_from(["run_1", "run_2"])),
        st.tuples(st.just("thought")),
        st.tuples(st.just("pop")),
        st.tuples(st.just("begin")),
        st.tuples(st.just("end")),
    )
)


@given(STEPS)
def test_a_feed_loses_nothing_and_keeps_the_order(steps: list[Any]) -> None:
    feed, seq, popped = new_feed(), 0, []
    expected = {"run_1": "", "run_2": ""}
    reading = False
    for step in steps:
        match step:
            case ("delta", content, run_id):
                seq += 1
                expected[run_id] += content
                feed.push(delta(seq, content, run_id), 10)
            case ("thought",):
                seq += 1
                feed.push(thought(seq), 10)
            case ("pop",):
                event = feed.pop()
                popped += [] if event is None else [event]
            case ("begin",) if not reading:
                feed.enter()
                reading = True
            case ("end",) if reading:
                feed.leave()
                reading = False
        held = feed.held_from
        assert held is None or reading
    popped += drain(feed)
    for run_id, text in expected.items():
        assert text_of(popped, run_id) == text
    numbers = [n for event in popped for n in range(event.first or 0, (event.seq or 0) + 1)]
    assert numbers == list(range(1, seq + 1))
    assert feed.pop() is None
    assert len(feed) == 0


@given(st.lists(st.integers(0, 40_000)), st.booleans())
def test_text_is_cut_at_its_front(sizes: list[int], is_wide: bool) -> None:
    feed, text = new_feed(), ""
    for seq, size in enumerate(sizes, start=1):
        piece = ("é" if is_wide else "a") * size
        text += piece
        feed.push(delta(seq, piece), 10)
        if seq % 3 == 0:
            feed.push(thought(0), 10)
    lagged = [event.payload["cut_bytes"] for event in drain_lagged(feed)]
    events = drain(feed)
    kept = text_of(events)
    assert text.endswith(kept)
    assert len(kept.encode()) <= TEXT_BYTES
    assert sum(lagged) == len(text.encode()) - len(kept.encode())
    if sum(lagged):
        assert len(kept.encode()) > TEXT_BYTES - 4


def drain_lagged(feed: Feed) -> list[Event]:
    event = feed.pop() if feed.cut or feed.dropped else None
    return [] if event is None else [event]


def test_the_bound_in_events_and_one_more() -> None:
    feed = new_feed()
    feed.push(delta(1, "a"), 10)
    for seq in range(2, EVENTS + 2):
        feed.push(thought(seq), 10)
    feed.push(delta(EVENTS + 2, "b"), 10)
    assert feed.dropped == 0
    feed.push(thought(EVENTS + 3), 10)
    assert feed.dropped == 1
    lagged, first, second, *_ = drain(feed)
    assert (lagged.type, lagged.payload) == ("lagged", {"dropped": 1, "cut_bytes": 0})
    assert (lagged.seq, lagged.timestamp) == (None, 5.0)
    assert (first.payload["content"], second.seq) == ("a", 3)


def test_text_on_both_sides_of_a_dropped_event_is_merged() -> None:
    feed = new_feed()
    for seq in range(1, 2 * EVENTS + 4, 2):
        feed.push(delta(seq, "x"), 10)
        feed.push(thought(seq + 1), 10)
    lagged, first, *rest = drain(feed)
    assert lagged.payload["dropped"] == 2
    assert (first.payload["content"], first.first, first.seq) == ("xxx", 1, 5)
    assert text_of([first, *rest]) == "x" * (EVENTS + 2)


def test_large_events_are_bounded_in_bytes() -> None:
    feed = new_feed()
    for seq in range(1, 100):
        feed.push(thought(seq), BYTES // 4)
    assert len(feed) == 4
    feed.push(thought(100), 2 * BYTES)  # the newest is kept in any case
    assert len(feed) == 1


def test_deltas_of_concurrent_runs_are_bounded_in_pieces() -> None:
    feed = new_feed()
    for seq in range(1, 5 * EVENTS):
        feed.push(delta(seq, "x", f"run_{seq % 2}"), 10)
    assert len(feed) <= EVENTS + 1
    assert feed.cut == 5 * EVENTS - 1 - len(feed)


def test_a_reader_that_takes_nothing_is_bounded() -> None:
    feed = new_feed()
    feed.push(thought(1), 10)
    feed.enter()
    for seq in range(2, READ_EVENTS + 1):
        feed.push(delta(seq, "x"), 10)
    assert (feed.held_from, feed.dropped) == (2, 0)
    feed.push(delta(READ_EVENTS + 1, "x"), 10)
    assert (feed.held_from, feed.dropped) == (2, 1)
    feed.push(delta(READ_EVENTS + 2, "x"), 10)
    assert (feed.held_from, feed.dropped) == (3, 2)


# --- numbers


@given(st.lists(st.tuples(st.integers(1, 5), st.booleans())), st.integers(0, 50))
def test_each_number_is_new_once(pieces: list[tuple[int, bool]], start: int) -> None:
    sequence = SequenceTracker()
    sequence.begin("sess_1", last_seq=start, replayed=0)
    seq = start
    for size, again in pieces:
        first, seq = seq + 1, seq + size
        receipt = sequence.receive(first, seq)
        assert receipt.is_new
        assert receipt.missing is None
        if again:
            assert sequence.receive(first, seq) == Receipt(is_new=False)
    assert sequence.last_seq == seq
    assert sequence.query() == {"session_id": "sess_1", "last_seq": f"{seq}"}


def test_the_end_of_a_replay_is_reported_once() -> None:
    sequence = SequenceTracker()
    assert sequence.query() == {}
    sequence.begin("sess_1", last_seq=5, replayed=2)
    sequence.receive(6, 6)
    assert not sequence.caught_up()
    sequence.receive(7, 9)
    assert sequence.caught_up()
    assert not sequence.caught_up()


@given(
    st.lists(
        st.tuples(st.integers(0, 40), st.floats(0, 3), st.one_of(st.none(), st.integers(1, 60)))
    )
)
def test_acknowledgements_are_in_time_and_not_too_high(steps: list[Any]) -> None:
    sequence, now, sent = SequenceTracker(), 0.0, 0
    sequence.begin("sess_1", last_seq=0, replayed=0)
    held: int | None = None
    for count, wait, wish in steps:
        if count:
            sequence.receive(sequence.last_seq + 1, sequence.last_seq + count)
        held = None if wish is None else max(sent + 1, min(wish, sequence.last_seq + 1))
        highest = sequence.last_seq if held is None else held - 1
        due = sequence.ack_at(held)
        assert (due == inf) == (highest <= sent)
        if highest - sent >= ACK_NUMBERS:
            assert due == -inf
        assert due <= now + ACK_SECONDS or due == inf
        seq = sequence.ack(now, held)
        assert (seq is not None) == (due <= now)
        if seq is not None:
            assert sent < seq == highest
            sent = seq
        now += wait


# --- pauses


def test_the_step_after_each_code() -> None:
    again = {1001, 1006, 1011, 1012, 4408}
    for code in (*CloseCode, 1005, 1006, 4999):
        expected = Next.RETRY if code in again else Next.RENEW if code == 4401 else Next.STOP
        assert after_close(int(code)) is expected
    for status in (301, 400, 403, 404, 409, 426):
        assert after_refusal(status) is Next.STOP
    for status in (408, 425, 429, 500, 502, 503, 504):
        assert after_refusal(status) is Next.RETRY
    assert after_refusal(401) is Next.RENEW
    for status in (200, 301, 404):
        assert after_refusal(status, is_final=False) is Next.RETRY


@given(st.integers(0, 2000), st.floats(0, 1), st.floats(0, 1e5))
def test_a_pause_is_within_its_ceiling(failures: int, chance: float, at_least: float) -> None:
    back_off = BackOff()
    for _ in range(failures):
        back_off.failed()
    pause = back_off.pause(chance=chance, at_least=at_least)
    assert at_least <= pause <= at_least + min(30.0, 2.0 ** max(0, min(failures, 10) - 1)) + 1e-6
    back_off.progressed()
    assert back_off.pause(chance=1.0) == 1.0
    assert not back_off.is_exhausted


# --- the outbox


def messages(count: int) -> list[OutboxMessage]:
    return [OutboxMessage(f"c-{number}", "x" * number) for number in range(count)]


@given(st.lists(st.sampled_from(["again", "new connection", "refuse", "confirm"])))
def test_messages_are_settled_in_order(answers: list[str]) -> None:
    outbox, waiting, now = Outbox(), messages(5), 0.0
    for message in waiting:
        outbox.add(message)
    for answer in answers:
        if not waiting:
            break
        now = max(now, outbox.next_at())
        assert outbox.next(now) is waiting[0]
        assert outbox.next(now) is None
        key = waiting[0].key
        if answer == "again":
            assert outbox.refuse(key, ErrorCode.QUEUE_FULL, 2500, now) is None
            assert outbox.next_at() == now + 2.5
        elif answer == "new connection":
            outbox.begin_connection()
        elif answer == "refuse":
            assert outbox.refuse(key, ErrorCode.AGENT_BUSY, 2500, now) is waiting.pop(0)
        else:
            assert outbox.confirm(key) is waiting.pop(0)
        assert list(outbox) == waiting
        assert outbox.size == sum(message.size for message in waiting)


def test_repeated_messages_are_sent_first() -> None:
    outbox = Outbox()
    for message in messages(2):
        outbox.add(message)
    for key in ("a", "b"):
        outbox.add_repeat(OutboxMessage(key, "", is_repeat=True))
    assert [message.key for message in outbox] == ["a", "b", "c-0", "c-1"]


def test_nothing_is_sent_to_a_draining_server() -> None:
    outbox = Outbox()
    outbox.add(OutboxMessage("c-1", ""))
    outbox.next(0.0)
    outbox.refuse("c-1", ErrorCode.SERVER_DRAINING, 100, 0.0)
    assert outbox.next_at() == inf
    outbox.begin_connection()
    assert outbox.next_at() == -inf
    assert outbox.confirm("unknown") is None
    assert outbox.refuse(None, ErrorCode.QUEUE_FULL, None, 0.0) is None


# --- events


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"type": 5}',
        '{"type": "x", "seq": "5"}',
        '{"type": "x", "seq": true}',
        '{"type": "x", "payload": []}',
        '{"type": "x", "correlation_id": null}',
    ],
)
def test_invalid_events(text: str) -> None:
    with pytest.raises(InvalidEvent):
        Event.parse(text)


@given(st.text())
def test_any_text_is_an_event_or_invalid(text: str) -> None:
    try:
        event = Event.parse(text)
    except InvalidEvent:
        return
    assert math.isfinite(event.timestamp)
