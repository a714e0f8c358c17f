"""The rules of rooms against a model of a server: no event is repeated, or lost without a gap."""

from collections.abc import Callable, Mapping
from typing import Any

import orjson
from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st

from netra_trio.client.event import Event
from netra_trio.client.feed import Feed
from netra_trio.client.membership import Member, Place
from netra_trio.client.memberships import Memberships
from netra_trio.client.rooms import RoomMembership

ROOM = "news"


@define(eq=False)
class Server:
    """A room, one connection to it, and what is on its way to the client.

    Attributes:
        epoch: The number of its epoch.
        newest: The newest offset.
        oldest: The oldest offset that is kept.
        position: What the member was given; None if the connection is not in the room.
        sent: Frames that the client has not received.
        unanswered: Frames that the server has not handled.
    """

    epoch: int = 1
    newest: int = 0
    oldest: int = 1
    position: int | None = None
    sent: list[Event] = field(factory=list)
    unanswered: list[dict[str, Any]] = field(factory=list)

    def frame(self, kind: str, payload: Mapping[str, Any], key: str | None = None) -> None:
        self.sent.append(Event(kind, {"room": ROOM, **payload}, correlation_id=key))

    def gap(self, first: int, last: int) -> None:
        self.frame("room_gap", {"from": first, "to": last})

    def publish(self) -> None:
        self.newest += 1
        self.give(self.newest)

    def drop(self) -> None:
        """Publish an event that this member does not get, because it lags."""
        self.newest += 1
        if self.position is not None:
            self.gap(self.newest, self.newest)
            self.position = self.newest

    def merge(self) -> None:
        """Publish two deltas that are one frame."""
        self.newest += 2
        self.give(self.newest, first=self.newest - 1)

    def restart(self) -> None:
        """Lose the room, and publish an event in the next epoch."""
        self.epoch += 1
        self.newest, self.oldest = 0, 1
        if self.position is not None:
            self.gap(1, 0)
            self.position = 0
        self.publish()

    def trim(self) -> None:
        self.oldest = self.newest + 1

    def give(self, offset: int, first: int | None = None) -> None:
        if self.position is None:
            return
        event = {"type": "partial_result", "payload": {"run_id": "r", "content": "x"}}
        place = {"offset": offset} if first is None else {"offset": offset, "offset_from": first}
        payload = {**place, "epoch": str(self.epoch), "event": event, "timestamp": 1.0}
        self.frame("room_event", payload)
        self.position = offset

    def answer(self) -> None:
        """Handle the oldest frame of the client."""
        if not self.unanswered:
            return
        frame = self.unanswered.pop(0)
        payload, key = frame["payload"], frame["correlation_id"]
        if frame["type"] == "leave_room":
            self.position = None
            self.frame("room_left", {}, key)
            return
        after, epoch = payload.get("after"), payload.get("epoch", str(self.epoch))
        verdict, offset = "new", self.newest
        if after is not None:
            is_exact = epoch == str(self.epoch) and self.oldest - 1 <= after <= self.newest
            verdict = "exact" if is_exact else "gap"
            offset = after if is_exact else max(self.oldest - 1, 0)
        joined = {"epoch": str(self.epoch), "offset": offset, "verdict": verdict, "replayed": 0}
        self.frame("room_joined", joined, key)
        self.position = offset
        for missed in range(offset + 1, self.newest + 1):
            self.give(missed)

    def cut(self) -> None:
        self.position = None
        self.sent.clear()
        self.unanswered.clear()


@define(eq=False)
class World:
    """The client, the server, and the members that have entered so far."""

    server: Server = field(factory=Server)
    rooms: Memberships = field(factory=lambda: Memberships(lambda: None))
    members: dict[Member, RoomMembership] = field(factory=dict)
    began: dict[Member, Place] = field(factory=dict)

    def enter(self, after: Place | None = None) -> None:
        membership = self.rooms.get(("room", ROOM), lambda: RoomMembership(ROOM, lambda: 1.0))
        member = Member(Feed(set(), lambda: 1.0, lambda: None), after)
        self.rooms.enter(membership, member)
        self.members[member] = membership

    def enter_earlier(self) -> None:
        self.enter(Place(max(0, self.server.newest - 3), str(self.server.epoch)))

    def leave(self) -> None:
        open_members = [each for each in self.members if not each.feed.is_finished]
        if open_members:
            member = open_members[0]
            member.feed.finish()
            self.rooms.remove(self.members[member], member)

    def write(self) -> None:
        text = self.rooms.next_frame(0.0)
        if text is not None:
            self.server.unanswered.append(orjson.loads(text))

    def read(self) -> None:
        if self.server.sent:
            self.rooms.receive(self.server.sent.pop(0), 10)
        for member in self.members:
            if member.place is not None and member not in self.began:
                joined = member.started._answer
                assert joined is not None
                self.began[member] = joined.place

    def cut(self) -> None:
        self.server.cut()
        self.rooms.end_connection()

    def settle(self) -> None:
        """Let everything arrive."""
        for _ in range(1000):
            self.write()
            self.server.answer()
            self.read()
            if not (self.server.sent or self.server.unanswered or self.rooms.next_at() < 1):
                return
        raise AssertionError("it never comes to rest")


def check(member: Member, began: Place, server: Server) -> None:
    """Check what a member was given: each offset once, in order, or as a gap."""
    epoch, offset = began.epoch, began.offset
    is_restarted = False
    while (event := member.feed.pop()) is not None:
        first = event.payload["from"] if event.type == "room_gap" else event.first_offset
        assert first is not None
        if event.offset is None:  # a new epoch has begun
            assert first == 1
            is_restarted, offset = True, event.payload["to"]
            continue
        if event.epoch != epoch and event.type == "room_gap":
            assert first == 1, "the gap of a new epoch begins with it"
        else:
            assert event.epoch == epoch or is_restarted, "a new epoch without a gap"
            assert first <= offset + 1, "events are lost without a gap"
            assert event.type == "room_gap" or first == offset + 1, "an event comes twice"
            assert event.epoch != epoch or event.offset >= offset
        is_restarted = False
        epoch, offset = event.epoch, event.offset
    if not member.feed.is_finished:
        assert (epoch, offset) == (str(server.epoch), server.newest)


Step = Callable[[World], None]
STEPS: dict[str, Step] = {
    "publish": lambda world: world.server.publish(),
    "drop": lambda world: world.server.drop(),
    "merge": lambda world: world.server.merge(),
    "restart": lambda world: world.server.restart(),
    "trim": lambda world: world.server.trim(),
    "write": World.write,
    "answer": lambda world: world.server.answer(),
    "read": World.read,
    "cut": World.cut,
    "enter": World.enter,
    "enter earlier": World.enter_earlier,
    "leave": World.leave,
    "settle": World.settle,
}


@given(st.lists(st.sampled_from(sorted(STEPS)), max_size=60))
def test_nothing_is_lost_without_a_gap(steps: list[str]) -> None:
    world = World()
    world.enter()
    for step in steps:
        STEPS[step](world)
    world.settle()
    for member, began in world.began.items():
        check(member, began, world.server)
    for member in world.members:
        assert member in world.began or member.feed.is_finished
