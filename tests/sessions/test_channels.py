"""The channels between the tasks: each is a memory channel with its documented bound.

Every channel in the table "Tasks and channels" of docs/architecture.md is filled to its bound here,
and gets one item more; the room feed in tests/rooms/test_feed.py.
"""

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing
from attrs import define
from support.markdown import DOCS, table_of
from trio.testing import MockClock

from netra_trio.connections.outgoing import (
    CONTROL_BYTES,
    CONTROL_FRAMES,
    LARGE_REPLIES,
    Outgoing,
)
from netra_trio.protocol.messages import UserMessage
from netra_trio.rooms.feed import FEED_BYTES as ROOM_BYTES
from netra_trio.rooms.feed import FEED_EVENTS as ROOM_EVENTS
from netra_trio.sessions.event_feed import FEED_EVENTS, EventFeed
from netra_trio.sessions.event_log import Entry, EventLog
from netra_trio.sessions.inbox import INBOX_MESSAGES, Adopted, Inbox, Work

BOUNDS = {
    "inbox": f"{INBOX_MESSAGES} messages",
    "feed": f"{FEED_EVENTS} events",
    "control": f"{CONTROL_FRAMES} frames",
    "large replies": f"{LARGE_REPLIES} replies",
    "room feed": f"{ROOM_EVENTS:_} frames, or {ROOM_BYTES // 1024**2} MiB".replace("_", " "),
}
"""The names of the channels in the table, and their bounds."""


@define
class Source:
    """The source of a feed: a log, and whether the feed is attached."""

    log: EventLog
    is_attached: bool = True

    @property
    def has_pending(self) -> bool:
        return self.log.has_pending()

    def is_read_by(self, feed: EventFeed) -> bool:
        assert isinstance(feed, EventFeed)
        return self.is_attached

    def take(self, *, max_bytes: int, merge: bool) -> list[Entry]:
        return self.log.take(max_bytes=max_bytes, merge=merge)


@pytest.fixture
def source() -> Source:
    return Source(EventLog(max_events=10_000, max_bytes=10_000_000, acknowledging=True))


def work(number: int) -> Work:
    return Work(UserMessage(content=str(number)), None, float(number))


def frame(number: int) -> bytes:
    return b"frame %d" % number


async def must_wait(function: Callable[[], Awaitable[object]]) -> bool:
    """Return whether the awaitable of a function has to wait."""
    with trio.move_on_after(1) as scope:
        await function()
    return scope.cancelled_caught


def test_the_documentation_states_each_channel_and_its_bound() -> None:
    table = table_of(DOCS / "architecture.md", "Channel")
    assert {row[0]: row[3] for row in table} == BOUNDS


def test_each_channel_is_a_memory_channel_with_its_bound(source: Source) -> None:
    inbox, feed = Inbox(), EventFeed(source)
    inbox.open()
    outgoing = Outgoing(feed)
    for channel, bound in (
        (inbox._in, INBOX_MESSAGES),
        (feed._in, FEED_EVENTS),
        (outgoing._control, CONTROL_FRAMES),
    ):
        assert isinstance(channel, trio.MemorySendChannel)
        assert channel.statistics().max_buffer_size == bound


# The inbox.


async def test_the_inbox_accepts_its_bound_and_refuses_one_message_more() -> None:
    inbox = Inbox()
    assert all(inbox.offer(work(number)) for number in range(INBOX_MESSAGES))
    assert not inbox.offer(work(-1))
    assert len(inbox) == INBOX_MESSAGES
    assert await inbox.receive() == work(0)
    assert inbox.offer(work(64))
    received = [await inbox.receive() for _ in range(INBOX_MESSAGES)]
    assert received == [work(number) for number in range(1, INBOX_MESSAGES + 1)]


async def test_the_messages_of_a_closed_inbox_are_received_before_its_end(
    autojump_clock: MockClock,
) -> None:
    inbox = Inbox()
    inbox.offer(work(0))
    inbox.close()
    assert not inbox.is_open
    assert await inbox.receive() == work(0)
    assert await inbox.receive() is None


async def test_closing_an_empty_inbox_ends_the_waiting_task(autojump_clock: MockClock) -> None:
    inbox = Inbox()
    inbox.open()
    ended: list[Work | Adopted | None] = []

    async def receive() -> None:
        ended.append(await inbox.receive())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        inbox.close()
        inbox.offer(work(1))  # opens it again, for another task
    assert ended == [None]
    assert await inbox.receive() == work(1)


async def test_cancelling_the_receiver_of_the_inbox_loses_no_message(
    autojump_clock: MockClock,
) -> None:
    inbox = Inbox()
    inbox.open()
    assert await must_wait(inbox.receive)
    inbox.offer(work(0))
    assert await inbox.receive() == work(0)


# The feed.


async def test_the_feed_accepts_its_bound_and_one_event_more_waits(
    source: Source, autojump_clock: MockClock
) -> None:
    feed = EventFeed(source)
    for number in range(FEED_EVENTS):
        assert feed.push(source.log.append(number, 1))
    extra = source.log.append("extra", 1)
    assert not feed.push(extra)
    assert await must_wait(lambda: feed.wait_to_push(extra))
    assert [e.event for e in feed.take(max_bytes=1)] == [0]
    await feed.wait_to_push(extra)  # there is room now


async def test_events_appended_while_the_feed_is_full_are_taken_in_order(
    source: Source, autojump_clock: MockClock
) -> None:
    feed = EventFeed(source)
    numbers = range(FEED_EVENTS + 10)
    for number in numbers:
        entry = source.log.append(number, 1)
        assert feed.push(entry) is (number < FEED_EVENTS)
    await feed.wait()
    assert [e.event for e in feed.take(max_bytes=10_000)] == list(numbers)
    assert not feed.has_pending
    assert all(feed.push(source.log.append("more", 1)) for _ in range(FEED_EVENTS))


async def test_events_that_wait_for_the_feed_enter_it_in_order(
    source: Source, autojump_clock: MockClock
) -> None:
    feed = EventFeed(source)
    pushed: list[int] = []

    async def push(number: int) -> None:
        entry = source.log.append(number, 1)
        if not feed.push(entry):
            await feed.wait_to_push(entry)
        pushed.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(FEED_EVENTS + 3):
            nursery.start_soon(push, number)
            await trio.testing.wait_all_tasks_blocked()
        assert pushed == list(range(FEED_EVENTS))
        taken = feed.take(max_bytes=FEED_EVENTS)
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(pushed) == list(range(FEED_EVENTS + 3))
        taken += feed.take(max_bytes=10_000)
    assert [entry.event for entry in taken] == list(range(FEED_EVENTS + 3))


async def test_closing_the_feed_wakes_the_agents_and_ends_the_writer(
    source: Source, autojump_clock: MockClock
) -> None:
    feed = EventFeed(source)
    while feed.push(entry := source.log.append("x", 1)):
        pass
    async with trio.open_nursery() as nursery:
        nursery.start_soon(feed.wait_to_push, entry)
        await trio.testing.wait_all_tasks_blocked()
        feed.close()
    with pytest.raises(trio.EndOfChannel):
        await feed.wait()
    assert feed.push(source.log.append("late", 1))  # the log keeps it
    assert source.has_pending


async def test_a_replaced_connection_gets_no_event(source: Source) -> None:
    feed = EventFeed(source)
    feed.push(source.log.append("x", 1))
    source.is_attached = False
    assert not feed.has_pending
    assert feed.take(max_bytes=100) == []


async def test_cancelling_the_writer_loses_no_event(
    source: Source, autojump_clock: MockClock
) -> None:
    feed = EventFeed(source)
    assert await must_wait(feed.wait)
    feed.push(source.log.append("x", 1))
    await feed.wait()
    assert [entry.event for entry in feed.take(max_bytes=100)] == ["x"]


# Control frames and large replies.


async def test_the_control_channel_accepts_its_bound_and_one_frame_more_waits(
    source: Source, autojump_clock: MockClock
) -> None:
    outgoing = Outgoing(EventFeed(source))
    for number in range(CONTROL_FRAMES):
        assert outgoing.offer(frame(number))
    assert not outgoing.offer(frame(-1))
    assert await must_wait(lambda: outgoing.put(frame(-1)))
    assert outgoing.statistics() == {"control": CONTROL_FRAMES, "large": 0}
    await outgoing.wait()
    assert outgoing.take_control() == [frame(number) for number in range(CONTROL_FRAMES)]
    await outgoing.put(frame(64))
    assert outgoing.take_control() == [frame(64)]


async def test_a_full_feed_does_not_delay_control_frames(source: Source) -> None:
    feed = EventFeed(source)
    outgoing = Outgoing(feed)
    while feed.push(source.log.append("x", 1)):
        pass
    assert outgoing.offer(b"control")
    await outgoing.wait()
    assert outgoing.take_control() == [b"control"]


async def test_a_control_frame_wakes_the_writer(source: Source, autojump_clock: MockClock) -> None:
    outgoing = Outgoing(EventFeed(source))
    written: list[bytes] = []

    async def write() -> None:
        await outgoing.wait()
        written.extend(outgoing.take_control())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        await trio.testing.wait_all_tasks_blocked()
        outgoing.offer(b"control")
    assert written == [b"control"]


async def test_each_large_reply_waits_for_the_writer(
    source: Source, autojump_clock: MockClock
) -> None:
    outgoing = Outgoing(EventFeed(source))
    large = [bytes([number]) * (CONTROL_BYTES + 1) for number in range(3)]
    async with trio.open_nursery() as nursery:
        for reply in large:
            nursery.start_soon(outgoing.put, reply)
            await trio.testing.wait_all_tasks_blocked()
        assert outgoing.statistics() == {"control": 0, "large": 3}
        taken = []
        for _ in large:
            await outgoing.wait()
            taken.append(outgoing.take_control())
        assert taken == [[reply] for reply in large]
    assert outgoing.take_control() == []


@pytest.mark.parametrize("size", [CONTROL_BYTES, CONTROL_BYTES + 1])
async def test_a_reply_above_the_size_of_a_control_frame_is_large(
    source: Source, size: int, autojump_clock: MockClock
) -> None:
    outgoing = Outgoing(EventFeed(source))
    assert await must_wait(lambda: outgoing.put(b"x" * size)) is (size > CONTROL_BYTES)


async def test_closing_keeps_earlier_frames_and_drops_later_ones(
    source: Source, autojump_clock: MockClock
) -> None:
    outgoing = Outgoing(EventFeed(source))
    outgoing.offer(b"before")
    async with trio.open_nursery() as nursery:
        for _ in range(CONTROL_FRAMES):
            nursery.start_soon(outgoing.put, b"full")
        nursery.start_soon(outgoing.put, b"x" * (CONTROL_BYTES + 1))
        await trio.testing.wait_all_tasks_blocked()
        outgoing.close()  # wakes the waiting tasks
    with pytest.raises(trio.EndOfChannel):
        await outgoing.wait()
    left = outgoing.take_control()
    assert left[0] == b"before"
    assert len(left) == CONTROL_FRAMES
    assert outgoing.offer(b"late")
    await outgoing.put(b"late")
    await outgoing.put(b"y" * (CONTROL_BYTES + 1))
    assert outgoing.take_control() == []
