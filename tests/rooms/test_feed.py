"""The feed of a connection's rooms: its bounds, merging, gaps, and the order of its frames."""

from typing import Any

import orjson
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio.broker.base import Delivery
from netra_trio.ids import SessionId, UserId
from netra_trio.protocol.codec import encode
from netra_trio.protocol.problem import Refused
from netra_trio.protocol.rooms import PresenceChange, PresenceChanged, RoomLeft
from netra_trio.rooms.event import RoomEvent, pack
from netra_trio.rooms.feed import (
    COMPACTED_EVENTS,
    FEED_BYTES,
    FEED_EVENTS,
    MERGED_BYTES,
    ROOMS,
    Change,
    MemberState,
    RoomFeed,
)
from netra_trio.telemetry.metrics import Metrics

ALL = 1 << 30
ALICE = UserId("alice")


class Feed(RoomFeed):
    """A feed that notes when its writer is woken."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.wakes = 0
        super().__init__(
            ALICE,
            SessionId("s"),
            wake=self._note_wake,
            wall_clock=lambda: 7.0,
            metrics=self.metrics,
        )

    def _note_wake(self) -> None:
        self.wakes += 1

    def read(self, *, max_bytes: int = ALL, lags: bool = False) -> list[Any]:
        """Take frames; return a short form of each."""
        return [short(frame) for frame in self.take(max_bytes=max_bytes, lags=lags)]

    def read_all(self) -> list[Any]:
        frames = []
        while self.has_pending:
            frames += self.read()
        return frames


def short(data: bytes) -> Any:
    frame: dict[str, Any] = orjson.loads(bytes(data))
    payload = frame["payload"]
    kind = frame["type"]
    if kind == "room_event":
        content = payload["event"]["payload"]["content"]
        return (payload.get("offset_from", payload["offset"]), payload["offset"], content)
    if kind == "room_gap":
        return ("gap", payload["from"], payload["to"])
    if kind == "presence_changed":
        return (payload["change"], payload["user_id"])
    return kind


def message(offset: int, content: str = "x", *, epoch: str = "e") -> RoomEvent:
    data = pack("room_message", {"content": content}, timestamp=1.0)
    return RoomEvent.unpack(Delivery("news", epoch, offset, data))


def delta(offset: int, text: str, run: str = "r", *, epoch: str = "e") -> RoomEvent:
    data = pack("partial_result", {"run_id": run, "content": text}, timestamp=1.0)
    return RoomEvent.unpack(Delivery("news", epoch, offset, data))


def change(user_id: UserId, kind: PresenceChange) -> Change:
    return Change(user_id, kind, encode(PresenceChanged("news", user_id, kind), 7.0))


def of_size(offset: int, size: int) -> RoomEvent:
    """Return an event with so many bytes of data."""
    empty = len(message(offset, "").data)
    event = message(offset, "x" * (size - empty))
    assert len(event.data) == size
    return event


def test_as_many_events_fit_as_the_bound_allows_and_not_one_more() -> None:
    feed, state = Feed(), MemberState("news")
    for offset in range(1, FEED_EVENTS + 1):
        feed.add_event(state, message(offset))
    assert feed.statistics()["events"] == FEED_EVENTS
    assert not feed._gaps
    feed.add_event(state, message(FEED_EVENTS + 1))
    assert state.gap == (FEED_EVENTS + 1, FEED_EVENTS + 1)
    feed.add_event(state, message(FEED_EVENTS + 2))
    assert len(feed.read()) == FEED_EVENTS
    assert feed.read() == [("gap", FEED_EVENTS + 1, FEED_EVENTS + 2)]
    assert not feed.has_pending
    assert feed.metrics.room_events["dropped"] == 2
    assert feed.metrics.room_events["delivered"] == FEED_EVENTS


def test_as_many_bytes_fit_as_the_bound_allows_and_not_one_more() -> None:
    feed, state = Feed(), MemberState("news")
    size = FEED_BYTES // 8
    for offset in range(1, 8):
        feed.add_event(state, of_size(offset, size))
    feed.add_event(state, of_size(8, size + 1))
    assert state.gap == (8, 8)
    feed.add_event(state, of_size(9, size))
    assert feed.statistics()["bytes"] == FEED_BYTES
    feed.add_event(state, of_size(10, 60))
    assert [each[:2] for each in feed.read_all() if each[0] != "gap"] == [
        (offset, offset) for offset in (*range(1, 8), 9)
    ]


def test_a_gap_precedes_the_next_event_that_fits() -> None:
    feed, one, two = Feed(), MemberState("news"), MemberState("other")
    for offset in range(1, FEED_EVENTS + 3):
        feed.add_event(one, message(offset))
    assert feed.read(max_bytes=1) == [(1, 1, "x")]
    feed.add_event(two, message(1, "of another room"))
    assert feed.read(max_bytes=1) == [(2, 2, "x")]
    feed.add_event(one, message(FEED_EVENTS + 3, "again"))
    assert feed.read_all()[-3:] == [
        (1, 1, "of another room"),
        ("gap", FEED_EVENTS + 1, FEED_EVENTS + 2),
        (FEED_EVENTS + 3, FEED_EVENTS + 3, "again"),
    ]


def test_a_gap_without_a_later_event_is_sent_when_the_queue_is_empty() -> None:
    feed, state = Feed(), MemberState("news")
    feed.note_gap(state, 3, 4)
    assert feed.wakes == 1
    assert feed.read() == [("gap", 3, 4)]
    feed.add_event(state, message(5))
    feed.note_gap(state, 6, 6)
    feed.note_gap(state, 7, 9)
    assert feed.read() == [(5, 5, "x")]
    assert feed.has_pending
    assert feed.read() == [("gap", 6, 9)]
    assert feed.wakes == 3


def test_a_restart_replaces_the_gap_of_the_numbers_before() -> None:
    feed, state = Feed(), MemberState("news")
    feed.add_event(state, message(5))
    feed.note_gap(state, 6, 9)
    feed.note_restart(state, 0)
    feed.add_event(state, message(1, epoch="f"))
    assert feed.read() == [(5, 5, "x"), ("gap", 1, 0), (1, 1, "x")]


def test_deltas_are_merged_before_an_event_is_dropped() -> None:
    feed, state, other = Feed(), MemberState("news"), MemberState("other")
    for offset in range(1, FEED_EVENTS):
        feed.add_event(state, delta(offset, "a", "r" if offset <= 500 else "s"))
    feed.add_event(other, message(1))
    assert feed.statistics()["events"] == FEED_EVENTS
    feed.add_event(state, delta(FEED_EVENTS, "b", "s"))  # into the newest one of its room
    assert feed.statistics()["events"] == FEED_EVENTS
    feed.add_event(other, message(2))  # all others
    assert feed.statistics()["events"] == 4
    assert feed.read_all() == [
        (1, 500, "a" * 500),
        (501, FEED_EVENTS, "a" * 499 + "b"),
        (1, 1, "x"),
        (2, 2, "x"),
    ]
    assert feed.metrics.room_events["dropped"] == 0
    assert feed.metrics.room_events["merged"] == FEED_EVENTS - 2


def test_a_merged_delta_is_bounded() -> None:
    feed, state = Feed(), MemberState("news")
    text = "a" * 1000
    count = 3 * FEED_BYTES // 1000
    for offset in range(1, count + 1):
        feed.add_event(state, delta(offset, text))
        assert feed.statistics()["bytes"] <= FEED_BYTES
    frames = feed.read_all()
    gaps = [each for each in frames if each[0] == "gap"]
    events = [each for each in frames if each[0] != "gap"]
    assert gaps
    assert all(len(content) <= MERGED_BYTES for _, _, content in events)
    assert all(content == text * (last - first + 1) for first, last, content in events)
    covered = [*(each[:2] for each in events), *(each[1:] for each in gaps)]
    offsets = sorted(offset for first, last in covered for offset in range(first, last + 1))
    assert offsets == list(range(1, count + 1))


def test_different_deltas_are_not_merged() -> None:
    feed, state, other = Feed(), MemberState("news"), MemberState("other")
    filler = FEED_EVENTS - 10
    for offset in range(1, filler + 1):
        feed.add_event(other, message(offset))
    feed.add_event(state, delta(1, "a", "r"))
    feed.add_event(state, delta(2, "b", "s"))  # of another run
    feed.add_event(state, message(3))  # no delta
    feed.add_event(state, delta(4, "c", "s"))
    feed.note_gap(state, 5, 5)
    feed.add_event(state, delta(6, "d", "s"))  # after a gap
    feed.note_restart(state, 0)
    feed.add_event(state, delta(1, "e", "s", epoch="f"))  # of another epoch
    feed.add_reply(state, feed.encode(RoomLeft("news")))
    feed.add_event(state, delta(2, "f", "s", epoch="f"))  # after a reply
    feed.add_presence(state, change(ALICE, PresenceChange.JOINED))
    feed.add_event(state, delta(3, "g", "s", epoch="f"))
    feed.add_event(state, message(4, epoch="f"))  # beyond the bound
    assert feed.read_all()[filler:] == [
        (1, 1, "a"),
        (2, 2, "b"),
        (3, 3, "x"),
        (4, 4, "c"),
        ("gap", 5, 5),
        (6, 6, "d"),
        ("gap", 1, 0),
        (1, 1, "e"),
        "room_left",
        (2, 2, "f"),
        ("joined", "alice"),
        (3, 3, "g"),
        ("gap", 4, 4),
    ]


def test_a_delta_is_not_merged_across_a_pending_gap() -> None:
    feed, state = Feed(), MemberState("news")
    for offset in range(1, FEED_EVENTS):
        feed.add_event(state, message(offset))
    feed.add_event(state, delta(FEED_EVENTS, "a"))
    feed.add_event(state, message(FEED_EVENTS + 1))
    feed.add_event(state, delta(FEED_EVENTS + 2, "b"))
    assert feed.read_all()[-2:] == [
        (FEED_EVENTS, FEED_EVENTS, "a"),
        ("gap", FEED_EVENTS + 1, FEED_EVENTS + 2),
    ]


def test_the_queue_is_not_searched_for_each_event() -> None:
    feed, state, other = Feed(), MemberState("news"), MemberState("other")
    for offset in range(1, FEED_EVENTS + 1):
        feed.add_event(state, message(offset))
    feed.add_event(state, message(FEED_EVENTS + 1))  # searches in vain
    assert feed.read(max_bytes=1) == [(1, 1, "x")]
    for offset in range(COMPACTED_EVENTS - 1):
        feed.add_event(other, delta(2 * offset + 1, "a"))
        assert len(feed.read(max_bytes=1)) == 1
        assert feed.statistics()["events"] == FEED_EVENTS - 1
    feed.add_event(other, delta(1000, "a"))
    assert feed.statistics()["events"] == FEED_EVENTS
    feed.add_event(state, message(FEED_EVENTS + 2))  # now there are enough new ones
    assert feed.statistics()["events"] < FEED_EVENTS


def test_deltas_are_merged_when_the_transport_lags() -> None:
    feed, state, other = Feed(), MemberState("news"), MemberState("other")
    for offset, text in enumerate("abc", 1):
        feed.add_event(state, delta(offset, text))
    feed.add_event(other, delta(1, "x"))
    feed.add_event(state, delta(4, "d"))
    assert feed.read(lags=True) == [(1, 3, "abc"), (1, 1, "x"), (4, 4, "d")]
    for offset, text in enumerate("efg", 5):
        feed.add_event(state, delta(offset, text))
    assert feed.read() == [(5, 5, "e"), (6, 6, "f"), (7, 7, "g")]
    assert feed.metrics.room_events["merged"] == 2


def test_a_merged_frame_has_its_first_offset() -> None:
    feed, state = Feed(), MemberState("news")
    feed.add_event(state, delta(3, "ä"))
    feed.add_event(state, delta(5, "b"))  # 4 is of a run of the own session
    (data,) = feed.take(max_bytes=ALL, lags=True)
    assert orjson.loads(bytes(data))["payload"] == {
        "room": "news",
        "offset": 5,
        "offset_from": 3,
        "epoch": "e",
        "event": {"type": "partial_result", "payload": {"run_id": "r", "content": "äb"}},
        "timestamp": 1.0,
    }


def test_one_write_takes_no_more_than_it_may() -> None:
    feed, state = Feed(), MemberState("news")
    for offset in range(1, 5):
        feed.add_event(state, of_size(offset, 1000))
    frame = len(of_size(1, 1000).frame)
    assert len(feed.take(max_bytes=2 * frame + 999, lags=False)) == 2
    assert len(feed.take(max_bytes=2 * frame + 1000, lags=False)) == 2
    assert not feed.has_pending


def test_the_writer_is_woken_once_for_several_frames() -> None:
    feed, state = Feed(), MemberState("news")
    feed.add_event(state, message(1))
    feed.add_event(state, message(2))
    assert feed.wakes == 1
    feed.read()
    feed.add_event(state, message(3))
    assert feed.wakes == 2


def test_changes_of_presence_replace_each_other_while_the_queue_is_full() -> None:
    feed, state, bob, carol = Feed(), MemberState("news"), UserId("bob"), UserId("carol")
    for offset in range(1, FEED_EVENTS):
        feed.add_event(state, message(offset))
    feed.add_presence(state, change(ALICE, PresenceChange.JOINED))
    assert feed.statistics()["events"] == FEED_EVENTS
    feed.add_presence(state, change(bob, PresenceChange.LEFT))
    feed.add_presence(state, change(carol, PresenceChange.JOINED))
    feed.add_presence(state, change(carol, PresenceChange.LEFT))
    feed.add_presence(state, change(ALICE, PresenceChange.LEFT))
    assert feed.read(max_bytes=1) == [(1, 1, "x")]
    feed.add_presence(state, change(bob, PresenceChange.JOINED))
    assert feed.read_all()[-4:] == [
        ("joined", "alice"),
        ("left", "bob"),
        ("left", "alice"),
        ("joined", "bob"),
    ]
    feed.add_presence(state, change(carol, PresenceChange.JOINED))
    assert feed.read_all() == [("joined", "carol")]


async def test_a_reply_waits_for_room_and_an_event_does_not(autojump_clock: MockClock) -> None:
    feed, state = Feed(), MemberState("news")
    for offset in range(1, FEED_EVENTS + 1):
        feed.add_event(state, message(offset))
    async with trio.open_nursery() as nursery:

        async def reply() -> None:
            await feed.wait_for_space(10)
            feed.add_reply(state, feed.encode(RoomLeft("news")))

        nursery.start_soon(reply)
        with trio.move_on_after(1):
            await feed.wait_for_space(10)  # cancelled: nothing has changed
        assert feed.statistics()["events"] == FEED_EVENTS
        feed.read(max_bytes=1)
        await wait_all_tasks_blocked()
        assert feed.statistics()["events"] == FEED_EVENTS
    assert feed.read_all()[-1] == "room_left"


async def test_waiting_calls_return_when_the_connection_ends(autojump_clock: MockClock) -> None:
    feed, state = Feed(), MemberState("news")
    for offset in range(1, FEED_EVENTS + 1):
        feed.add_event(state, message(offset))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(feed.wait_for_space, 10)
        await wait_all_tasks_blocked()
        feed.close()
    feed.add_reply(state, b"{}")
    feed.add_notice(state, b"{}")
    feed.add_event(state, message(1))
    feed.add_presence(state, change(ALICE, PresenceChange.JOINED))
    assert not feed.has_pending
    assert feed.statistics()["events"] == 0


def test_the_state_of_a_left_room_is_removed() -> None:
    feed, state = Feed(), MemberState("news")
    for offset in range(1, FEED_EVENTS + 2):
        feed.add_event(state, message(offset))
    feed.add_presence(state, change(ALICE, PresenceChange.LEFT))
    feed.add_notice(state, feed.encode(RoomLeft("news")))
    feed.forget(state)
    assert feed.read_all()[-3:] == [
        (FEED_EVENTS, FEED_EVENTS, "x"),
        ("gap", FEED_EVENTS + 1, FEED_EVENTS + 1),
        "room_left",
    ]


def test_a_connection_has_so_many_rooms_and_not_one_more() -> None:
    feed = Feed()
    for number in range(ROOMS):
        feed.hold(f"room:{number}")
    with pytest.raises(Refused, match="100 rooms"):
        feed.hold("one more")
    with feed.reserve("room:0"):  # again
        assert feed.statistics()["rooms"] == ROOMS
    feed.release("room:0")
    feed.hold("one more")
    with pytest.raises(Refused):
        feed.hold("room:0")
