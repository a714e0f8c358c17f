"""The access to rooms: own rooms, the application's function, and asking it again."""

from collections.abc import Callable

import pytest
import trio
from support.rooms import Member, open_rooms, settled
from trio.testing import MockClock

from netra_trio.errors import StoreUnavailable
from netra_trio.ids import ThreadId, UserId
from netra_trio.protocol.admin import ADMIN_ROOM, ADMINISTRATOR
from netra_trio.protocol.problem import Refused
from netra_trio.protocol.rooms import thread_room, user_room
from netra_trio.rooms.access import PERMISSION_SECONDS, Access
from netra_trio.rooms.permission import Action
from netra_trio.rooms.rechecks import AT_ONCE, RECHECK_SECONDS, SPREAD_SECONDS

ALICE, BOB = UserId("alice"), UserId("bob")
THREAD = thread_room(ALICE, ThreadId("t"))
ALLOWED, ASKED_AGAIN, FORBIDDEN = True, False, "FORBIDDEN"


async def find_room(room: str) -> tuple[UserId, ThreadId] | None:
    return (ALICE, ThreadId("t")) if room == THREAD else None


async def only_alice(user: str, _room: str, action: str) -> bool:
    return user == "alice" and action != "publish"


@pytest.mark.parametrize(
    ("user", "room", "action", "expected"),
    [
        (ALICE, user_room(ALICE), Action.JOIN, ALLOWED),
        (ALICE, user_room(ALICE), Action.PUBLISH, ALLOWED),
        (ALICE, user_room(ALICE), Action.SEE, ALLOWED),
        (BOB, user_room(ALICE), Action.JOIN, FORBIDDEN),
        (ALICE, "user:x", Action.JOIN, FORBIDDEN),
        (ALICE, THREAD, Action.JOIN, ALLOWED),
        (ALICE, THREAD, Action.SEE, ALLOWED),
        (ALICE, THREAD, Action.PUBLISH, FORBIDDEN),
        (BOB, THREAD, Action.JOIN, FORBIDDEN),
        (BOB, THREAD, Action.PUBLISH, FORBIDDEN),
        (ALICE, "thread:x", Action.JOIN, FORBIDDEN),
        (ALICE, "news", Action.JOIN, ASKED_AGAIN),
        (ALICE, "news", Action.PUBLISH, FORBIDDEN),
        (BOB, "news", Action.JOIN, FORBIDDEN),
        (ALICE, ADMIN_ROOM, Action.JOIN, FORBIDDEN),
        (ALICE, f"{ADMIN_ROOM}:x", Action.JOIN, ASKED_AGAIN),
    ],
)
async def test_the_rules_of_rooms(
    user: UserId, room: str, action: Action, expected: bool | str
) -> None:
    access = Access(only_alice, find_room)
    if expected is not FORBIDDEN:
        assert await access.check(user, room, action) is expected
        return
    with pytest.raises(Refused) as caught:
        await access.check(user, room, action)
    assert caught.value.problem.code == "FORBIDDEN"
    assert await access.is_still_permitted(user, room, action) is False


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (Action.JOIN, ASKED_AGAIN),
        (Action.SEE, FORBIDDEN),
        (Action.PUBLISH, FORBIDDEN),
        (Action.ANSWER, FORBIDDEN),
    ],
)
async def test_an_administrator_may_only_join_the_room_of_the_live_page(
    action: Action, expected: bool | str
) -> None:
    access = Access(None, find_room)
    permissions = {ADMINISTRATOR}
    still = await access.is_still_permitted(ALICE, ADMIN_ROOM, action, permissions)
    assert still is (expected is not FORBIDDEN)
    if expected is FORBIDDEN:
        with pytest.raises(Refused):
            await access.check(ALICE, ADMIN_ROOM, action, permissions)
    else:
        assert await access.check(ALICE, ADMIN_ROOM, action, permissions) is expected


async def test_a_thread_of_another_user_is_the_applications_decision() -> None:
    async def all_may(user: str, room: str, action: str) -> bool:
        asked.append((user, room, action))
        return True

    asked: list[tuple[str, str, str]] = []
    access = Access(all_may, find_room)
    assert await access.check(BOB, THREAD, Action.JOIN) is ASKED_AGAIN
    assert await access.check(BOB, THREAD, Action.SEE) is ASKED_AGAIN
    assert asked == [("bob", THREAD, "join"), ("bob", THREAD, "see")]
    with pytest.raises(Refused):
        await access.check(BOB, THREAD, Action.PUBLISH)
    with pytest.raises(Refused):
        await access.check(BOB, "thread:x", Action.JOIN)
    assert len(asked) == 2
    with pytest.raises(Refused):
        await Access(None, find_room).check(BOB, THREAD, Action.JOIN)


@pytest.mark.parametrize("seconds", [PERMISSION_SECONDS - 0.1, PERMISSION_SECONDS + 0.1, None])
async def test_an_answer_that_does_not_come(
    seconds: float | None, autojump_clock: MockClock
) -> None:
    async def may(_user: str, _room: str, _action: str) -> bool:
        if seconds is None:
            raise ValueError("broken")
        await trio.sleep(seconds)
        return True

    access = Access(may, find_room)
    if seconds is not None and seconds < PERMISSION_SECONDS:
        assert await access.check(ALICE, "news", Action.JOIN) is ASKED_AGAIN
        return
    with pytest.raises(Refused) as caught:
        await access.check(ALICE, "news", Action.JOIN)
    assert caught.value.problem.code == "SERVICE_UNAVAILABLE"
    assert caught.value.problem.recoverable
    assert caught.value.problem.retry_after_ms == 1000
    assert await access.is_still_permitted(ALICE, "news", Action.JOIN)


async def test_a_store_that_cannot_answer_takes_no_permission_away() -> None:
    async def fail(_room: str) -> tuple[UserId, ThreadId] | None:
        raise StoreUnavailable("down")

    access = Access(None, fail)
    with pytest.raises(StoreUnavailable):
        await access.check(ALICE, THREAD, Action.JOIN)
    assert await access.is_still_permitted(ALICE, THREAD, Action.JOIN)


class Permissions:
    """An application whose answers change."""

    def __init__(self) -> None:
        self.asked: list[tuple[float, str]] = []
        self.allowed = True
        self.seconds = 0.0
        self.fails = False
        self.at_once = self.most_at_once = 0
        self.began, self.ended = trio.Event(), trio.Event()

    async def may(self, user: str, _room: str, _action: str) -> bool:
        self.asked.append((trio.current_time(), user))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.began.set()
        self.began = trio.Event()
        try:
            await trio.sleep(self.seconds)
        finally:
            self.at_once -= 1
            self.ended.set()
            self.ended = trio.Event()
        if self.fails:
            raise ValueError("broken")
        return self.allowed


async def asked_again(permissions: Permissions) -> None:
    """Wait until the permission was checked again."""
    last = permissions.asked[-1][0]
    await permissions.ended.wait()
    await settled()
    seconds = permissions.asked[-1][0] - last
    assert RECHECK_SECONDS - SPREAD_SECONDS <= seconds <= RECHECK_SECONDS + PERMISSION_SECONDS


async def test_each_membership_is_checked_again(autojump_clock: MockClock) -> None:
    permissions = Permissions()
    async with open_rooms(may=permissions.may) as (one,):
        member = one.member()
        await member.join()
        for _ in range(3):
            await asked_again(permissions)
        permissions.fails = True
        await asked_again(permissions)
        permissions.fails, permissions.seconds = False, PERMISSION_SECONDS + 1
        await asked_again(permissions)
        permissions.seconds = 0
        assert member.read() == []
        permissions.allowed = False
        await asked_again(permissions)
        (left,) = member.read()
        assert (left["type"], left["payload"]) == ("room_left", {"room": "news"})
        assert "correlation_id" not in left
        await one.say("news", "a")
        await trio.sleep(10 * RECHECK_SECONDS)
        assert len(permissions.asked) == 7  # the first one, and six times again
        assert member.contents() == []
        assert one.rooms.statistics() == {"rooms": 0, "members": 0}


@pytest.mark.parametrize(
    "end",
    [
        lambda member: member.cut(),
        lambda member: member.node.rooms._remove(member.node.rooms.members("news")[0]),
    ],
)
async def test_an_ended_membership_is_not_checked(
    end: Callable[[Member], None], autojump_clock: MockClock
) -> None:
    permissions = Permissions()
    async with open_rooms(may=permissions.may) as (one,):
        member, other = one.member("alice"), one.member("bob")
        await member.join()
        await trio.sleep(1)
        await other.join()
        end(member)
        await trio.sleep(RECHECK_SECONDS + 1)
        assert [user for _, user in permissions.asked] == ["alice", "bob", "bob"]


async def test_a_membership_that_ends_during_its_check(autojump_clock: MockClock) -> None:
    permissions = Permissions()
    async with open_rooms(may=permissions.may) as (one,):
        member = one.member()
        await member.join()
        permissions.seconds, permissions.allowed = 4.0, False
        await permissions.began.wait()
        member.cut()
        await trio.sleep(10)
        assert member.read() == []
        assert one.rooms.statistics() == {"rooms": 0, "members": 0}


async def test_own_rooms_are_not_checked_again(autojump_clock: MockClock) -> None:
    permissions = Permissions()
    async with open_rooms(may=permissions.may) as (one,):
        member = one.member()
        await member.join(user_room(ALICE))
        await one.rooms.join(member.feed, THREAD, is_own=True)
        await trio.sleep(3 * RECHECK_SECONDS)
        assert permissions.asked == []
        assert one.rooms.statistics() == {"rooms": 2, "members": 2}


async def test_not_all_members_are_checked_at_once(autojump_clock: MockClock) -> None:
    permissions = Permissions()
    async with open_rooms(may=permissions.may) as (one,):
        for number in range(5 * AT_ONCE):
            await one.member(f"user-{number}").join()
        permissions.seconds = 4.0
        await trio.sleep(RECHECK_SECONDS + SPREAD_SECONDS)
        await settled()
        assert permissions.most_at_once == AT_ONCE
        await trio.sleep(4 * SPREAD_SECONDS)
        assert len(permissions.asked) >= 10 * AT_ONCE
