"""The events of rooms that are sent past the queue: order, bound and what takes the queue."""

from attrs import define, field

from netra_trio.ids import SessionId, UserId
from netra_trio.rooms.event import RoomEvent
from netra_trio.rooms.feed import DIRECT_SENDS, DirectSends, MemberState, RoomFeed
from netra_trio.telemetry.metrics import Metrics
from netra_trio.transports.frames import SharedPayload


@define
class Line:
    """A connection that takes frames at once, as long as it is free."""

    is_free: bool = True
    sent: list[SharedPayload] = field(factory=list)

    def send_now(self, frame: SharedPayload) -> bool:
        if self.is_free:
            self.sent.append(frame)
        return self.is_free


def feed_of(line: Line, direct: DirectSends | None = None) -> RoomFeed:
    return RoomFeed(
        UserId("alice"),
        SessionId("s"),
        wake=lambda: None,
        wall_clock=lambda: 1.0,
        metrics=Metrics(("echo",)),
        send_now=line.send_now,
        direct=direct,
    )


def event(offset: int) -> RoomEvent:
    return RoomEvent("news", "e", offset, b'{"type":"room_message","payload":{}}', 1.0)


def test_an_event_is_sent_directly_if_nothing_waits() -> None:
    line = Line()
    feed, first = feed_of(line), event(1)
    feed.add_event(MemberState("news"), first)
    assert line.sent == [first.frame]
    assert first.frame.text_frame.endswith(first.frame)
    assert not feed.has_pending


def test_an_event_waits_behind_those_in_the_queue() -> None:
    line, state, events = Line(is_free=False), MemberState("news"), [event(n) for n in (1, 2)]
    feed = feed_of(line)
    feed.add_event(state, events[0])
    line.is_free = True
    feed.add_event(state, events[1])
    assert line.sent == []
    assert feed.take(max_bytes=65_536, lags=False) == [each.frame for each in events]
    third = event(3)
    feed.add_event(state, third)
    assert line.sent == [third.frame]


def test_an_event_waits_behind_a_gap() -> None:
    line, state = Line(), MemberState("news")
    feed, later = feed_of(line), event(3)
    feed.note_gap(state, 1, 2)
    feed.add_event(state, later)
    assert line.sent == []
    gap, last = feed.take(max_bytes=65_536, lags=False)
    assert b'"room_gap"' in gap
    assert last == later.frame


def test_beyond_the_bound_the_writers_send() -> None:
    lines, direct = [Line() for _ in range(DIRECT_SENDS + 1)], DirectSends()
    feeds = [feed_of(line, direct) for line in lines]
    first = event(1)
    for feed in feeds:
        feed.add_event(MemberState("news"), first)
    assert [len(line.sent) for line in lines] == [1] * DIRECT_SENDS + [0]
    assert feeds[-1].has_pending
    direct.renew()
    feeds[0].add_event(MemberState("news"), event(2))
    assert len(lines[0].sent) == 2
