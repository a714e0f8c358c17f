"""The thread directory in memory: for several nodes in one process.

Nothing waits. Times are seconds of Trio's clock.
"""

import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import trio
from attrs import define, field

from netra_trio.broker.threads import (
    ORDER_STEP,
    Admitted,
    Entry,
    First,
    Held,
    Outcome,
    Wish,
)
from netra_trio.ids import NodeId, RunId, ThreadId, UserId
from netra_trio.protocol.messages import OnBusy
from netra_trio.protocol.ratelimit import SlidingWindow

_T = TypeVar("_T")


@define(eq=False)
class _Run:
    run_id: RunId
    node: NodeId
    order: float
    slot: float = 0.0
    is_first: bool = False

    def as_first(self) -> First:
        return First(self.run_id, self.node, self.order)


def _new_epoch() -> str:
    return secrets.token_urlsafe(9)


@define(eq=False)
class ThreadsState:
    """The state that the nodes share.

    Attributes:
        is_live: Whether a node holds its lease.
    """

    is_live: Callable[[NodeId], bool]
    epoch: str = field(factory=_new_epoch)
    windows: dict[UserId, SlidingWindow] = field(factory=dict)
    lines: dict[tuple[UserId, ThreadId], list[_Run]] = field(factory=dict)

    def clear(self) -> None:
        """Lose everything, as a server that restarts empty."""
        self.epoch = _new_epoch()
        self.windows.clear()
        self.lines.clear()


@define(eq=False)
class MemoryThreads:
    """The `ThreadDirectory` of one node."""

    node: NodeId
    _state: ThreadsState

    async def admit(self, wish: Wish) -> Admitted:
        """Take a rate slot and a place in the thread, both or none."""
        return await _answer(self._admit(wish))

    def _admit(self, wish: Wish) -> Admitted:
        now, state = trio.current_time(), self._state
        window = self._window(wish.user_id, wish.rate, wish.burst, now)
        slot = window.next_slot(now)
        if slot is None:
            retry = window.retry_after(now)
            return Admitted(Outcome.TOO_FAST, state.epoch, seconds=retry)
        line = self._line(wish.user_id, wish.thread_id)
        if line and wish.on_busy is OnBusy.REJECT:
            return Admitted(Outcome.BUSY, state.epoch)
        window.use(slot)
        orders = [each.order for each in line]
        if wish.on_busy is OnBusy.INTERRUPT:
            order = min(-now, min(orders, default=0.0) - ORDER_STEP)
        else:
            order = max(now, max(orders, default=0.0) + ORDER_STEP)
        run = _Run(wish.run_id, self.node, order, slot)
        line.append(run)
        self._settle(wish.user_id, wish.thread_id, line)
        ahead = line.index(run)
        return Admitted(
            Outcome.FIRST if run.is_first else Outcome.BEHIND,
            state.epoch,
            seconds=slot - now,
            slot=slot,
            order=order,
            position=max(ahead, 1) if line[0].slot <= now else ahead + 1,
        )

    async def take_slot(self, user_id: UserId, *, rate: int, burst: int) -> float:
        """Take a rate slot for a message that may not wait."""
        now = trio.current_time()
        return await _answer(self._window(user_id, rate, burst, now).take_now(now))

    def leave(
        self, user_id: UserId, thread_id: ThreadId, run_id: RunId, *, slot: float | None = None
    ) -> Awaitable[First | None]:
        """Remove a run of this node from its line."""
        window = self._state.windows.get(user_id)
        if slot is not None and window is not None:
            window.give_back(slot)
        line = self._line(user_id, thread_id)
        line[:] = [each for each in line if (each.run_id, each.node) != (run_id, self.node)]
        return _answer(self._settle(user_id, thread_id, line))

    async def hold(self, entries: Sequence[Entry]) -> Held:
        """Keep runs of this node in their lines."""
        firsts = [self._hold(entry) for entry in entries]
        return await _answer(Held(self._state.epoch, trio.current_time(), firsts))

    def _hold(self, entry: Entry) -> First:
        line = self._line(entry.user_id, entry.thread_id)
        run = _find(line, entry.run_id)
        if run is None:
            run = _Run(entry.run_id, self.node, entry.order)
            line.append(run)
        run.node = self.node
        run.is_first |= entry.is_active
        self._settle(entry.user_id, entry.thread_id, line)
        return (run if run.is_first else line[0]).as_first()

    async def step_back(self, entry: Entry) -> First:
        """Let the runs that interrupt go first."""
        line = self._line(entry.user_id, entry.thread_id)
        run = _find(line, entry.run_id)
        if run is None:
            line.append(_Run(entry.run_id, self.node, entry.order))
        elif run.node == self.node:
            run.is_first = False
        self._settle(entry.user_id, entry.thread_id, line)
        return await _answer(line[0].as_first())

    def _window(self, user_id: UserId, rate: int, burst: int, now: float) -> SlidingWindow:
        windows = self._state.windows
        for idle in [user_id for user_id, each in windows.items() if each.is_idle(now)]:
            del windows[idle]
        return windows.setdefault(user_id, SlidingWindow(rate=rate, waiting=burst))

    def _line(self, user_id: UserId, thread_id: ThreadId) -> list[_Run]:
        """Return the line of a thread, without the runs of nodes that are gone."""
        line = self._state.lines.get((user_id, thread_id), [])
        is_live = self._state.is_live
        if is_live(self.node):
            line[:] = [each for each in line if each.node == self.node or is_live(each.node)]
        return line

    def _settle(self, user_id: UserId, thread_id: ThreadId, line: list[_Run]) -> First | None:
        """Order a line, and return its first run if that is a new one."""
        line.sort(key=lambda each: (not each.is_first, each.order))
        if not line:
            self._state.lines.pop((user_id, thread_id), None)
            return None
        self._state.lines[user_id, thread_id] = line
        if line[0].is_first:
            return None
        line[0].is_first = True
        return line[0].as_first()


def _find(line: Sequence[_Run], run_id: RunId) -> _Run | None:
    return next((each for each in line if each.run_id == run_id), None)


async def _answer(value: _T) -> _T:
    """Return the answer to a call that was executed before the first checkpoint."""
    await trio.lowlevel.checkpoint()
    return value
