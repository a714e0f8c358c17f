"""Repeated checks of the permissions of members, spread over time.

rechecks = Rechecks(access, end=…)
rechecks.add(membership)
await rechecks.run()
"""

import random as random_module
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count

import trio
from attrs import define, field

from netra_trio.rooms.access import Access
from netra_trio.rooms.membership import Membership
from netra_trio.rooms.permission import Action

RECHECK_SECONDS = 60.0  # docs/protocol.md, Rooms
SPREAD_SECONDS = 10.0  # at most this much earlier: it spreads members that join together
AT_ONCE = 16  # concurrent calls of the application's function


@define(eq=False)
class Rechecks:
    """Checks repeatedly whether each member may be in its room.

    Args:
        access: Checks the permissions.
        end: Ends a membership.
        random: Returns a number from 0 to 1.
    """

    _access: Access
    _end: Callable[[Membership], None]
    _random: Callable[[], float] = random_module.random
    _due: list[tuple[float, int, Membership]] = field(factory=list)
    _numbers: "count[int]" = field(factory=count)
    _changed: trio.Event = field(factory=trio.Event)
    _limiter: trio.CapacityLimiter = field(factory=lambda: trio.CapacityLimiter(AT_ONCE))

    def add(self, membership: Membership) -> None:
        """Schedule the next check of a membership."""
        seconds = RECHECK_SECONDS - SPREAD_SECONDS * self._random()
        heappush(self._due, (trio.current_time() + seconds, next(self._numbers), membership))
        self._changed.set()

    async def run(self) -> None:
        """Check until it is cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                self._changed = trio.Event()
                now = trio.current_time()
                while self._due and self._due[0][0] <= now:
                    membership = heappop(self._due)[2]
                    if not membership.is_ended:
                        await self._limiter.acquire_on_behalf_of(membership)
                        nursery.start_soon(self._check, membership)
                with trio.move_on_at(self._due[0][0] if self._due else float("inf")):
                    await self._changed.wait()

    async def _check(self, membership: Membership) -> None:
        try:
            user_id, room = membership.user_id, membership.room
            permissions = membership.feed.permissions()
            if await self._access.is_still_permitted(user_id, room, Action.JOIN, permissions):
                self.add(membership)
            elif not membership.is_ended:
                self._end(membership)
        finally:
            self._limiter.release_on_behalf_of(membership)
