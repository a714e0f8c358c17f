"""A join with a snapshot of the runs of a thread: no piece is missing, and none is doubled."""

from collections.abc import Sequence
from functools import partial
from random import Random
from typing import Any

import pytest
import trio
from attrs import define, field
from support.rooms import Member, RoomsNode, open_rooms, settled
from trio.testing import MockClock

from netra_trio.broker.base import HistoryLimits
from netra_trio.protocol.problem import Refused
from netra_trio.rooms.event import RoomEvent
from netra_trio.rooms.joining import CATCH_UP_SECONDS
from netra_trio.rooms.membership import HELD_EVENTS

ROOM = "shared:abc"


@define
class TextSnapshot:
    """A snapshot of one run, as its node would take it: the text up to an offset."""

    offset: int
    text: str
    applied: list[int] = field(factory=list)

    def apply(self, event: RoomEvent) -> None:
        self.applied.append(event.offset)
        if event.offset > self.offset:
            assert event.offset == self.offset + 1
            self.text += event.event["payload"]["content"]
            self.offset = event.offset

    def runs(self, without: Sequence[RoomEvent] = ()) -> tuple[dict[str, Any], ...]:
        later = "".join(each.event["payload"]["content"] for each in without)
        assert self.text.endswith(later)
        return ({"run_id": "r", "content": self.text[: len(self.text) - len(later)]},)


class Thread:
    """A run whose text grows."""

    def __init__(self, node: RoomsNode) -> None:
        self.node = node
        self.text = ""
        self.offset = 0
        self.snapshot: TextSnapshot | None = None

    async def emit(self, *pieces: str) -> None:
        for piece in pieces:
            (self.offset,) = await self.node.emit(ROOM, "r", piece)
            self.text += piece

    async def take(self, seconds: float = 0.0, before: float = 0.0) -> TextSnapshot:
        await trio.sleep(before)
        self.snapshot = TextSnapshot(self.offset, self.text)
        await trio.sleep(seconds)
        return self.snapshot


def seen(member: Member, joined: dict[str, Any]) -> str:
    """Return the text of the run, as the client has it."""
    text = "".join(run["content"] for run in joined["runs"])
    return text + "".join(member.contents(ROOM))


async def test_runs_are_as_of_the_offset_of_the_reply(autojump_clock: MockClock) -> None:
    async with open_rooms(nodes=2) as (one, two):
        thread = Thread(two)
        await thread.emit("a", "b")
        member = one.member()
        async with trio.open_nursery() as nursery:

            async def go_on() -> None:
                await trio.sleep(0.25)
                await thread.emit("c")  # before the snapshot is taken
                await trio.sleep(0.5)
                await thread.emit("d")  # before it arrives

            nursery.start_soon(go_on)
            take = partial(thread.take, seconds=0.5, before=0.5)
            joined = await member.join(ROOM, take_snapshot=take)
        assert (joined["verdict"], joined["offset"], joined["replayed"]) == ("new", 4, 0)
        assert joined["runs"] == [{"run_id": "r", "content": "abcd"}]
        await thread.emit("e")
        await settled()
        assert seen(member, joined) == "abcde"


async def test_a_returning_member_gets_runs_without_the_following_events(
    autojump_clock: MockClock,
) -> None:
    async with open_rooms() as (one,):
        thread = Thread(one)
        await thread.emit(*"abcdef")
        for after, verdict, offset in ((2, "exact", 2), (6, "exact", 6), (9, "gap", 0)):
            member = one.member()
            joined = await member.join(ROOM, after=after, take_snapshot=thread.take)
            assert (joined["verdict"], joined["offset"]) == (verdict, offset)
            assert joined["replayed"] == 6 - offset
            assert joined["runs"][0]["content"] == "abcdef"[:offset]
            assert seen(member, joined) == "abcdef"


async def test_events_that_left_the_history_are_in_the_runs(autojump_clock: MockClock) -> None:
    async with open_rooms(limits=HistoryLimits(events=2)) as (one,):
        thread = Thread(one)
        await thread.emit(*"abcdef")
        member = one.member()
        joined = await member.join(ROOM, after=1, take_snapshot=thread.take)
        assert (joined["verdict"], joined["offset"], joined["replayed"]) == ("gap", 4, 2)
        assert seen(member, joined) == "abcdef"


async def test_a_run_of_the_own_session_is_as_of_now(autojump_clock: MockClock) -> None:
    """Its events do not follow: the session has them."""
    async with open_rooms() as (one,):
        await one.emit(ROOM, "r", "a", "b", session="mine")
        member = one.member("alice", "mine")

        async def take() -> TextSnapshot:
            await trio.lowlevel.checkpoint()
            return TextSnapshot(2, "ab")

        joined = await member.join(ROOM, after=0, take_snapshot=take)
        assert (joined["verdict"], joined["offset"], joined["replayed"]) == ("exact", 0, 0)
        assert joined["runs"] == [{"run_id": "r", "content": "ab"}]
        assert member.contents(ROOM) == []


@pytest.mark.parametrize("is_late", [False, True])
async def test_a_snapshot_ahead_of_the_deliveries(is_late: bool, autojump_clock: MockClock) -> None:
    """The events up to it are waited for, or read from the history."""
    async with open_rooms(nodes=2) as (one, two):
        thread = Thread(two)
        member = one.member()

        async def take() -> TextSnapshot:
            if is_late:
                one.broker.lost = 2
            await thread.emit("a", "b")
            return await thread.take()

        joined = await member.join(ROOM, take_snapshot=take)
        assert trio.current_time() >= (CATCH_UP_SECONDS if is_late else 0)
        assert (joined["offset"], joined["runs"][0]["content"]) == (2, "ab")
        await thread.emit("c")
        await settled()
        assert seen(member, joined) == "abc"
        assert member.gaps(ROOM) == []


async def test_each_further_watcher_has_a_snapshot(autojump_clock: MockClock) -> None:
    async with open_rooms(nodes=2) as nodes:
        thread = Thread(nodes[1])
        random = Random(3)  # noqa: S311 - repeatable
        watchers: list[tuple[Member, dict[str, Any]]] = []

        async def watch(number: int) -> None:
            await trio.sleep(random.random())
            member = nodes[number % 2].member(f"user-{number}")
            after = random.choice([None, 0, 5, 500])
            take = partial(thread.take, random.random() / 10, random.random() / 10)
            watchers.append((member, await member.join(ROOM, after=after, take_snapshot=take)))

        async def work() -> None:
            for number in range(200):
                await thread.emit(f"{number} ")
                await trio.sleep(random.random() / 100)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(work)
            for number in range(20):
                nursery.start_soon(watch, number)
        await settled()
        assert len(watchers) == 20
        for member, joined in watchers:
            assert seen(member, joined) == thread.text
            assert member.gaps(ROOM) == []


async def test_a_thread_that_changes_too_fast_is_tried_again(autojump_clock: MockClock) -> None:
    async with open_rooms() as (one,):
        thread = Thread(one)
        member = one.member()

        async def take() -> TextSnapshot:
            snapshot = await thread.take()
            for _ in range(HELD_EVENTS + 1):
                await thread.emit("x")
            await settled()
            return snapshot

        with pytest.raises(Refused) as caught:
            await one.rooms.join(member.feed, ROOM, take_snapshot=take, is_own=True)
        assert caught.value.problem.code == "SERVICE_UNAVAILABLE"
        assert caught.value.problem.retry_after_ms == 1000
        joined = await member.join(ROOM, take_snapshot=thread.take)
        assert seen(member, joined) == thread.text


async def test_a_restart_during_a_join_is_tried_again(autojump_clock: MockClock) -> None:
    async with open_rooms() as (one,):
        thread = Thread(one)
        await thread.emit("a")
        other, member = one.member("bob"), one.member("alice")
        await other.join(ROOM)

        async def take() -> TextSnapshot:
            snapshot = await thread.take()
            one.server.clear()
            await one.emit(ROOM, "r", "b")
            await settled()
            return snapshot

        with pytest.raises(Refused) as caught:
            await one.rooms.join(member.feed, ROOM, take_snapshot=take)
        assert caught.value.problem.code == "SERVICE_UNAVAILABLE"
        assert other.gaps(ROOM) == [(1, 0)]


async def test_a_snapshot_that_fails_leaves_nothing_behind(autojump_clock: MockClock) -> None:
    async with open_rooms() as (one,):
        member = one.member()

        async def take() -> TextSnapshot:
            await trio.lowlevel.checkpoint()
            raise ValueError("no snapshot")

        with pytest.raises(ValueError, match="no snapshot"):
            await one.rooms.join(member.feed, ROOM, take_snapshot=take)
        await settled()
        assert one.rooms.statistics() == {"rooms": 0, "members": 0}
        with trio.move_on_after(0.5):
            await one.rooms.join(member.feed, ROOM, take_snapshot=Thread(one).take)
        assert member.read()[0]["payload"]["runs"] == [{"run_id": "r", "content": ""}]
        with trio.move_on_after(0.5) as scope:
            take_slowly = partial(Thread(one).take, 1.0)
            await one.rooms.join(member.feed, ROOM, take_snapshot=take_slowly)
        assert scope.cancelled_caught
        assert one.rooms.statistics() == {"rooms": 1, "members": 1}  # the earlier one stays


async def test_a_large_reply_waits_until_it_fits(autojump_clock: MockClock) -> None:
    async with open_rooms() as (one,):
        member = one.member()
        await member.join()
        await one.say("news", *range(1000))
        await settled()
        async with trio.open_nursery() as nursery:

            async def take() -> TextSnapshot:
                await trio.lowlevel.checkpoint()
                return TextSnapshot(0, "x" * 192 * 1024)

            nursery.start_soon(lambda: one.rooms.join(member.feed, ROOM, take_snapshot=take))
            await settled()
            assert one.rooms.members(ROOM) == []
            await one.emit(ROOM, "r", "a")
            await settled()
            frames = []
            while member.feed.has_pending:
                frames += member.read(max_bytes=1)
                await settled()
        joined = frames[1000]["payload"]
        assert (frames[1000]["type"], joined["offset"]) == ("room_joined", 0)
        assert member.contents(ROOM) == ["a"]
