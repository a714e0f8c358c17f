"""Rooms of several nodes: each loss is reported, and no event is repeated."""

from collections.abc import Awaitable, Callable
from functools import partial
from random import Random
from typing import Any

import pytest
import trio
from attrs import define, field
from support.rooms import Member, RoomsNode, open_rooms, settled
from trio.testing import MockClock

from netra_trio.broker.base import HistoryLimits
from netra_trio.ids import UserId
from netra_trio.protocol.problem import Refused
from netra_trio.rooms.event import pack, pack_missing
from netra_trio.rooms.feed import FEED_BYTES, FEED_EVENTS
from netra_trio.rooms.room import REPAIR_SECONDS, REPAIRS

EVENTS = 24


@pytest.mark.parametrize("kept", [1000, 3, 1])
@pytest.mark.parametrize("every", range(1, 9))
async def test_a_room_under_cuts_of_every_member(
    every: int, kept: int, autojump_clock: MockClock
) -> None:
    """Each member is cut after every n-th event, and joins again at the other node."""
    async with open_rooms(nodes=2, limits=HistoryLimits(events=kept)) as nodes:
        members = [nodes[number % 2].member(f"user-{number}") for number in range(6)]
        for member in members:
            await member.join()
        for number in range(EVENTS):
            await nodes[number % 2].say("news", number)
            if number % 3:  # otherwise the next one follows at once
                await settled()
            for place, member in enumerate(members):
                if (number + place) % every == 0:
                    if place % 2:
                        member.read()
                    member.cut()
                    member.connect(nodes[(number + place) % 2])
                    await member.rejoin()
        await settled()
        for member in members:
            contents, offsets = member.contents(), member.offsets()
            assert offsets == sorted(set(offsets))
            assert contents == [f"{offset - 1}" for offset in offsets]
            known = set(offsets) | member.missing() | _skipped(member)
            assert known == set(range(1, EVENTS + 1))
            if kept == 1000:
                assert offsets == list(range(1, EVENTS + 1))
        for member in members:
            member.cut()
        await settled()
        assert [node.rooms.statistics() for node in nodes] == [{"rooms": 0, "members": 0}] * 2


def _skipped(member: Member) -> set[int]:
    """Return the missing offsets of a reply with the verdict `gap`."""
    missing: set[int] = set()
    known = 0
    for frame in member.frames:
        payload = frame["payload"]
        if frame["type"] == "room_joined":
            if payload["verdict"] == "gap":
                missing |= set(range(known + 1, payload["offset"] + 1))
            else:
                assert payload["offset"] == known
            known = payload["offset"]
        else:
            known = payload.get("offset", payload.get("to"))
    return missing


async def test_two_publishers_at_two_nodes_have_one_order(autojump_clock: MockClock) -> None:
    async with open_rooms(nodes=2) as nodes:
        members = [node.member(user) for node in nodes for user in ("alice", "bob")]
        for member in members:
            await member.join()

        async def publish(node: RoomsNode, name: str) -> None:
            random = Random(name)  # noqa: S311 - repeatable
            for number in range(100):
                await node.say("news", f"{name}-{number}")
                await trio.sleep(random.random() / 100)

        async with trio.open_nursery() as nursery:
            for number, node in enumerate(nodes):
                nursery.start_soon(publish, node, f"node-{number}")
        await settled()
        first = members[0].contents()
        assert len(first) == 200
        for member in members:
            assert member.offsets() == list(range(1, 201))
            assert member.contents() == first
            for name in ("node-0", "node-1"):
                mine = [each for each in first if each.startswith(name)]
                assert mine == [f"{name}-{number}" for number in range(100)]


async def test_lost_deliveries_are_read_from_the_history(autojump_clock: MockClock) -> None:
    async with open_rooms(nodes=2) as (one, two):
        members = [one.member("alice"), one.member("bob"), two.member("carol")]
        for member in members:
            await member.join()
        await one.say("news", "a")
        await settled()
        one.broker.lost = 3
        await two.say("news", "b", "c", "d", "e", "f")
        await settled()
        for member in members:
            assert member.contents() == list("abcdef")
            assert member.gaps() == []
        assert one.broker.histories == 1


async def test_events_missing_in_the_history_are_a_gap_for_each_member(
    autojump_clock: MockClock,
) -> None:
    async with open_rooms(limits=HistoryLimits(events=2)) as (one,):
        members = [one.member("alice"), one.member("bob")]
        for member in members:
            await member.join()
        await one.say("news", "a")
        await settled()
        one.broker.lost = 4
        await one.say("news", "b", "c", "d", "e", "f")
        await settled()
        for member in members:
            assert member.contents() == ["a", "e", "f"]
            assert member.gaps() == [(2, 4)]


async def test_events_that_expire_before_the_repair_are_a_gap(autojump_clock: MockClock) -> None:
    async with open_rooms(limits=HistoryLimits(seconds=10)) as (one,):
        member = one.member()
        await member.join()
        one.broker.lost = 2
        await one.say("news", "a", "b")
        await trio.sleep(11)
        one.broker.before_answer = partial(trio.sleep, 11)
        await one.say("news", "c")
        await trio.sleep(30)
        assert member.contents() == ["c"]
        assert member.gaps() == [(1, 2)]


async def test_later_events_wait_for_the_repair(autojump_clock: MockClock) -> None:
    async with open_rooms() as (one,):
        member = one.member()
        await member.join()
        one.broker.lost = 1
        one.broker.before_answer = partial(trio.sleep, 1)
        await one.say("news", "a", "b")
        await trio.sleep(0.5)
        await one.say("news", "c")
        await settled()
        assert member.contents() == []
        await trio.sleep(1)
        assert member.contents() == ["a", "b", "c"]


@pytest.mark.parametrize("failures", [1, REPAIRS - 1, REPAIRS])
async def test_a_repair_is_tried_again_and_then_given_up(
    failures: int, autojump_clock: MockClock
) -> None:
    async with open_rooms(nodes=2) as (one, two):
        member = one.member()
        await member.join()
        one.broker.lost = 2
        one.broker.is_up = False
        await two.say("news", "a", "b", "c", "d")
        await trio.sleep((failures - 0.5) * REPAIR_SECONDS)
        one.broker.is_up = True
        assert one.broker.histories == failures
        await trio.sleep(10)
        if failures == REPAIRS:
            assert member.contents() == ["c", "d"]
            assert member.gaps() == [(1, 2)]
        else:
            assert member.contents() == ["a", "b", "c", "d"]
            assert member.gaps() == []
        await two.say("news", "e")
        await settled()
        assert member.contents()[-1] == "e"


async def test_a_broker_that_restarts_empty_begins_a_new_epoch(autojump_clock: MockClock) -> None:
    async with open_rooms(nodes=2, limits=HistoryLimits(events=2)) as (one, two):
        members = [one.member("alice"), two.member("bob")]
        for member in members:
            await member.join()
        await one.say("news", "a", "b")
        await settled()
        one.server.clear()
        await two.say("news", "c")
        await settled()
        for member in members:
            assert member.contents() == ["a", "b", "c"]
            assert member.gaps() == [(1, 0)]
            epochs = [each["epoch"] for each in member.events()]
            assert epochs[0] == epochs[1] != epochs[2]
        one.server.clear()
        one.broker.lost = two.broker.lost = 2
        await two.say("news", "d", "e", "f")  # only e and f are kept
        await settled()
        for member in members:
            assert member.contents() == ["a", "b", "c", "e", "f"]
            assert member.gaps() == [(1, 0), (1, 1)]
            assert member.offsets()[-2:] == [2, 3]


async def test_a_member_that_was_away_during_a_restart_gets_a_gap(
    autojump_clock: MockClock,
) -> None:
    async with open_rooms(nodes=2) as (one, two):
        member, other = one.member("alice"), two.member("bob")
        await member.join()
        await other.join()
        await one.say("news", "a", "b")
        await settled()
        member.read()
        member.cut()
        one.server.clear()
        await two.say("news", "c")
        member.connect(two)
        joined = await member.rejoin()
        assert (joined["verdict"], joined["offset"], joined["replayed"]) == ("gap", 0, 1)
        await two.say("news", "d")
        await settled()
        assert member.contents() == ["a", "b", "c", "d"]
        assert member.gaps() == []
        assert other.contents() == ["a", "b", "c", "d"]
        assert other.gaps() == [(1, 0)]


async def test_a_restart_that_only_a_join_detects(autojump_clock: MockClock) -> None:
    """The members of the node get the events of the new epoch, which were not delivered."""
    async with open_rooms() as (one,):
        member, late = one.member("alice"), one.member("bob")
        await member.join()
        await one.say("news", "a")
        await settled()
        one.server.clear()
        one.broker.lost = 1
        await one.say("news", "b")
        await settled()
        joined = await late.join(after=1)
        assert (joined["verdict"], joined["offset"], joined["replayed"]) == ("exact", 1, 0)
        assert joined["epoch"] != member.events()[0]["epoch"]
        await one.say("news", "c")
        await settled()
        assert member.contents() == ["a", "b", "c"]
        assert member.gaps() == [(1, 0)]
        assert late.contents() == ["c"]


async def test_a_restart_that_two_tasks_detect(autojump_clock: MockClock) -> None:
    async with open_rooms() as (one,):
        member = one.member()
        await member.join()
        await one.say("news", "a")
        await settled()
        one.server.clear()
        one.broker.lost = 1
        await one.say("news", "b")
        await settled()
        one.broker.before_answer = partial(trio.sleep, 1)
        room = one.rooms._rooms["news"]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(room.catch_up)
            await trio.sleep(1.2)
            one.broker.lost = 1
            await one.say("news", "c")  # after the second answer, before the third
            await trio.sleep(0.3)
            nursery.start_soon(room.catch_up)
        assert member.contents() == ["a", "b", "c"]
        assert member.gaps() == [(1, 0)]


async def test_an_empty_restart_that_only_a_join_detects(autojump_clock: MockClock) -> None:
    async with open_rooms() as (one,):
        member, late = one.member("alice"), one.member("bob")
        await member.join()
        await one.say("news", "a")
        await settled()
        one.server.clear()
        joined = await late.join(after=0)
        assert (joined["verdict"], joined["offset"], joined["replayed"]) == ("exact", 0, 0)
        assert member.gaps() == [(1, 0)]
        await one.say("news", "b")
        await settled()
        assert member.contents() == ["a", "b"]
        assert late.contents() == ["b"]


async def test_an_event_that_its_publisher_lost_is_a_gap(autojump_clock: MockClock) -> None:
    async with open_rooms() as (one,):
        member = one.member()
        await member.join()
        await one.say("news", "a")
        await one.broker.publish("news", pack_missing(timestamp=0.0), limits=HistoryLimits())
        await one.say("news", "b")
        await settled()
        assert member.contents() == ["a", "b"]
        assert member.gaps() == [(2, 2)]
        other = one.member("bob")
        joined = await other.join(after=0)
        assert (joined["verdict"], joined["replayed"]) == ("exact", 2)
        assert other.gaps() == [(2, 2)]


async def test_a_session_gets_no_copies_of_its_own_runs(autojump_clock: MockClock) -> None:
    async with open_rooms() as (one,):
        mine, other = one.member("alice", "mine"), one.member("alice", "other")
        await mine.join()
        await other.join()
        await one.emit("news", "r1", "a", "b", session="mine")
        await one.emit("news", "r2", "c", session="other")
        await one.emit("news", "r3", "d")
        await settled()
        assert mine.offsets() == [3, 4]
        assert other.offsets() == [1, 2, 4]
        assert mine.gaps() == other.gaps() == []
        again = one.member("alice", "mine")
        joined = await again.join(after=0)
        assert (joined["verdict"], joined["offset"], joined["replayed"]) == ("exact", 0, 2)
        assert again.offsets() == [3, 4]
        assert again.gaps() == []


async def test_a_member_that_does_not_read_slows_no_other(autojump_clock: MockClock) -> None:
    async with open_rooms() as (one,):
        members = [one.member(f"user-{number}") for number in range(20)]
        stalled = one.member("stalled")
        for member in (*members, stalled):
            await member.join()
        started = trio.current_time()
        for number in range(2 * FEED_EVENTS):
            await one.say("news", f"{number}")
            if number % 100 == 0:
                await settled()
                for member in members:
                    member.read()
            statistics = stalled.feed.statistics()
            assert statistics["events"] <= FEED_EVENTS
            assert statistics["bytes"] <= FEED_BYTES
        await settled()
        assert trio.current_time() == started
        for member in members:
            assert member.offsets() == list(range(1, 2 * FEED_EVENTS + 1))
        assert stalled.offsets() == list(range(1, FEED_EVENTS + 1))
        assert stalled.gaps() == [(FEED_EVENTS + 1, 2 * FEED_EVENTS)]


async def test_a_slow_member_of_a_thread_gets_merged_deltas(autojump_clock: MockClock) -> None:
    """At 1 KiB/s it cannot read each delta of a fast run in a frame of its own."""
    async with open_rooms() as (one,):
        fast, slow = one.member("fast"), one.member("slow")
        await fast.join()
        await slow.join()

        async def read_slowly() -> None:
            while True:
                size = sum(len(frame) for frame in slow_frames())
                await trio.sleep(max(size, 100) / 1024)

        def slow_frames() -> list[bytes]:
            before = len(slow.frames)
            slow.read(max_bytes=1024, lags=True)
            return [repr(frame).encode() for frame in slow.frames[before:]]

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_slowly)
            for number in range(1500):
                await one.emit("news", "r", f"{number:04} ")
                await trio.sleep(0.01)
                fast.read()
                assert slow.feed.statistics()["events"] <= FEED_EVENTS
            await trio.sleep(60)
            nursery.cancel_scope.cancel()
        assert fast.offsets() == list(range(1, 1501))
        assert "".join(slow.contents()) == "".join(fast.contents())
        assert slow.gaps() == []
        assert len(slow.events()) < 500


async def test_a_replay_longer_than_the_queue_waits_for_the_reader(
    autojump_clock: MockClock,
) -> None:
    count = 2 * FEED_EVENTS
    async with open_rooms(limits=HistoryLimits(events=count)) as (one,):
        await one.say("news", *range(1, count + 1))
        member = one.member()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: one.rooms.join(member.feed, "news", after=0))
            await settled()
            assert member.feed.statistics()["events"] == FEED_EVENTS
            await one.say("news", *range(count + 1, count + 11))  # held
            await settled()
            while member.feed.has_pending:
                member.read(max_bytes=4096)
                await settled()
        assert member.frames[0]["payload"]["replayed"] == count
        assert member.contents() == [f"{number}" for number in range(1, count + 11)]
        assert member.gaps() == []


async def test_held_events_of_a_slow_reader_are_bounded(
    autojump_clock: MockClock,
) -> None:
    async with open_rooms(limits=HistoryLimits(events=5000)) as (one,):
        await one.say("news", *range(1, FEED_EVENTS + 11))
        member = one.member()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: one.rooms.join(member.feed, "news", after=0))
            await settled()
            later = FEED_EVENTS + 10
            await one.say("news", *range(later + 1, later + FEED_EVENTS + 2))  # one too many
            await settled()
            while member.feed.has_pending:
                member.read(max_bytes=4096)
                await settled()
        assert member.gaps() == [(later + 1, later + 1)]
        assert member.offsets() == [
            *range(1, later + 1),
            *range(later + 2, later + FEED_EVENTS + 2),
        ]


async def test_a_broker_that_does_not_answer_refuses_a_join(autojump_clock: MockClock) -> None:
    async with open_rooms() as (one,):
        member = one.member()
        one.broker.is_up = False
        for options in ({}, {"after": 0}):
            with pytest.raises(Refused) as caught:
                await one.rooms.join(member.feed, "news", **options)  # type: ignore[arg-type]
            assert caught.value.problem.code == "SERVICE_UNAVAILABLE"
            assert caught.value.problem.retry_after_ms == 1000
        await settled()
        assert one.rooms.statistics() == {"rooms": 0, "members": 0}
        one.broker.is_up = True
        await member.join()
        await one.say("news", "a")
        await settled()
        assert member.contents() == ["a"]
        one.broker.is_up = False
        with pytest.raises(Refused):
            await one.rooms.join(member.feed, "news", after=0)
        await one.say("news", "b")  # the earlier membership stays
        await settled()
        assert member.contents() == ["a", "b"]
        await one.rooms.leave(member.feed, "news")
        await settled()
        assert one.rooms.statistics() == {"rooms": 0, "members": 0}


@define(eq=False)
class CancelledAt(trio.abc.Instrument):
    """Cancels a task at one of its steps.

    Attributes:
        step: The step, from 1.
        scope: Is cancelled then.
        task: The task.
        steps: How many steps it has had.
    """

    step: int
    scope: trio.CancelScope = field(factory=trio.CancelScope)
    task: trio.lowlevel.Task | None = None
    steps: int = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self.task:
            self.steps += 1
            if self.steps == self.step:
                self.scope.cancel()

    async def run(self, function: Callable[[], Awaitable[object]]) -> None:
        self.task = trio.lowlevel.current_task()
        with self.scope:
            await function()


@pytest.mark.parametrize("after", [None, 0])
async def test_a_join_cancelled_at_each_checkpoint(
    after: int | None, autojump_clock: MockClock
) -> None:
    """A connection that ends in a join leaves no state, and its room continues."""
    for step in range(1, 100):
        async with open_rooms() as (one,):
            await one.say("news", "a")
            other, member = one.member("bob"), one.member("alice")
            instrument = CancelledAt(step)
            trio.lowlevel.add_instrument(instrument)
            async with trio.open_nursery() as nursery:
                join = partial(one.rooms.join, member.feed, "news", after=after)
                nursery.start_soon(instrument.run, join)
            trio.lowlevel.remove_instrument(instrument)
            await settled()
            if instrument.scope.cancelled_caught:
                assert one.rooms.statistics() == {"rooms": 0, "members": 0}
                assert member.feed.statistics()["rooms"] == 0
            member.cut()
            await other.join(after=0)
            await one.say("news", "b")
            await settled()
            assert other.contents() == ["a", "b"]
            if not instrument.scope.cancelled_caught:
                assert step > 3
                return
    raise AssertionError("the join never ended")


@pytest.mark.parametrize("when", [0.5, 1.5, 2.5])
async def test_a_connection_that_ends_in_a_join(when: float, autojump_clock: MockClock) -> None:
    async def slow(_user: str, _room: str, _action: str) -> bool:
        await trio.sleep(1)
        return True

    async with open_rooms(may=slow) as (one,):
        await one.say("news", "a")
        one.broker.before_answer = partial(trio.sleep, 1)
        member = one.member()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: one.rooms.join(member.feed, "news", after=0))
            await trio.sleep(when)
            member.cut()
        await settled()
        assert one.rooms.statistics() == {"rooms": 0, "members": 0}
        assert not one.rooms._memberships
        assert member.feed.statistics() == {"events": 0, "bytes": 0, "rooms": 0}


async def test_joins_and_leaves_at_the_same_time(autojump_clock: MockClock) -> None:
    """A room is subscribed exactly while it has members, whatever the order of the answers."""
    async with open_rooms() as (one,):
        members = [one.member(f"user-{number}") for number in range(5)]
        random = Random(17)  # noqa: S311 - repeatable

        async def change(member: Member) -> None:
            for _ in range(50):
                await member.join(after=random.choice([None, 0]))
                await trio.sleep(random.random() / 100)
                await one.rooms.leave(member.feed, "news")
                member.read()
                member.positions.clear()
                await trio.sleep(random.random() / 100)

        async with trio.open_nursery() as nursery:
            for member in members:
                nursery.start_soon(change, member)
        await settled()
        assert one.rooms.statistics() == {"rooms": 0, "members": 0}
        assert "news" not in one.server.subscribers
        await members[0].join()
        await one.say("news", "a")
        await settled()
        assert members[0].contents() == ["a"]


async def test_an_event_that_cannot_be_read_is_a_gap(autojump_clock: MockClock) -> None:
    async with open_rooms() as (one,):
        member = one.member()
        await member.join()
        await one.say("news", "a")
        await one.broker.publish("news", b"of another version", limits=HistoryLimits())
        await one.say("news", "b")
        await settled()
        await one.say("news", "c")
        await settled()
        assert member.contents() == ["a", "b", "c"]
        assert member.gaps() == [(2, 2)]


async def test_a_listener_gets_the_events_of_a_room_of_the_nodes(
    autojump_clock: MockClock,
) -> None:
    async with open_rooms(nodes=2) as (one, two):
        heard: list[Any] = []
        await one.rooms.listen(":user:alice", heard.append)
        data = pack("x", {}, timestamp=0.0)
        await two.broker.publish(":user:alice", data, limits=HistoryLimits())
        await settled()
        assert [each.data for each in heard] == [data]
        await one.rooms.unlisten(":user:alice")
        await two.broker.publish(":user:alice", data, limits=HistoryLimits())
        await settled()
        assert len(heard) == 1
        one.broker.is_up = False
        with pytest.raises(Exception, match="down"):
            await one.rooms.listen(":user:alice", heard.append)
        one.broker.is_up = True
        await two.broker.publish(":user:alice", data, limits=HistoryLimits())
        await settled()
        assert len(heard) == 1


async def test_a_kick_reaches_all_nodes(autojump_clock: MockClock) -> None:
    async with open_rooms(nodes=2) as (one, two):
        alice, also_alice, bob = one.member("alice"), two.member("alice"), two.member("bob")
        for member in (alice, also_alice, bob):
            await member.join()
            await member.join("other")
        await one.rooms.kick("news", UserId("alice"))
        await settled()
        for member in (alice, also_alice):
            (left,) = member.read()
            assert left["type"] == "room_left"
            assert left["payload"] == {"room": "news"}
            assert "correlation_id" not in left
        await one.say("news", "a")
        await one.say("other", "b")
        await settled()
        assert bob.contents() == ["a"]
        assert alice.contents() == also_alice.contents() == []
        assert alice.contents("other") == ["b"]
        with pytest.raises(ValueError, match="room"):
            await one.rooms.kick("no room", UserId("alice"))


async def test_a_kick_during_a_join(autojump_clock: MockClock) -> None:
    async with open_rooms() as (one,):
        await one.say("news", "a")
        other, member = one.member("bob"), one.member("alice")
        await other.join()
        one.broker.before_answer = partial(trio.sleep, 1)
        async with trio.open_nursery() as nursery:

            async def join() -> None:
                with pytest.raises(Refused) as caught:
                    await one.rooms.join(member.feed, "news", after=0)
                assert caught.value.problem.code == "FORBIDDEN"

            nursery.start_soon(join)
            await trio.sleep(0.5)
            await one.rooms.kick("news", UserId("alice"))
        assert member.read() == []
        assert one.rooms.statistics() == {"rooms": 1, "members": 1}


async def test_a_kick_while_a_replay_waits(autojump_clock: MockClock) -> None:
    async with open_rooms(limits=HistoryLimits(events=5000)) as (one,):
        await one.say("news", *range(2 * FEED_EVENTS))
        member = one.member("alice")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: one.rooms.join(member.feed, "news", after=0))
            await settled()
            await one.rooms.kick("news", UserId("alice"))
            await settled()
            frames = member.read()
            await settled()
        frames += member.read()
        assert frames[-1]["type"] == "room_left"
        assert len(frames) == 1 + FEED_EVENTS - 1 + 1  # the reply, what fits, and the end
