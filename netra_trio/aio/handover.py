"""The handover of output from an asyncio task to a Trio task: bounded, with few wake-ups.

    await handover.put("a delta", 7)            # in the asyncio thread; waits while it is full
    for item in await handover.take(): ...      # in the Trio task

The Trio task is woken once, and takes everything that was put since. While it handles one batch,
another one can be put: the two are all that a run can have on its way.
"""

import asyncio
import threading
from typing import Any

import trio

HANDOVER_ITEMS = 128  # in a batch
HANDOVER_CHARACTERS = 64 * 1024  # in a batch: an item is accepted while there are fewer
ITEMS_IN_A_ROW = 32  # puts without giving way to other tasks of the loop


class HandoverClosed(Exception):
    """The run was cancelled or has ended, and its output is refused."""


class Handover:
    """A bounded queue from the asyncio thread to one Trio task.

    Args:
        loop: The loop of the asyncio thread.
        token: The Trio run.
    """

    __slots__ = (
        "_in_a_row",
        "_is_closed",
        "_is_idle",
        "_items",
        "_lock",
        "_loop",
        "_put",
        "_size",
        "_token",
        "_waiting",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, token: trio.lowlevel.TrioToken) -> None:
        self._loop = loop
        self._token = token
        self._lock = threading.Lock()
        self._items: list[Any] = []
        self._size = 0
        self._is_idle = False  # whether the Trio task waits, and must be woken
        self._is_closed = False
        self._put = trio.Event()
        self._waiting: list[asyncio.Future[None]] = []  # used in the asyncio thread only
        self._in_a_row = 0

    async def put(self, item: Any, size: int = 0) -> None:
        """Add an item; waits while the batch is full. Called in the asyncio thread.

        Cancelling is safe: an item was added if this returns.

        Args:
            item: The item.
            size: Its number of characters.

        Raises:
            HandoverClosed: If it is closed.
        """
        while not self.put_nowait(item, size):
            future = self._loop.create_future()
            self._waiting.append(future)
            with self._lock:
                is_free = self._is_closed or not self._items
            if is_free:  # taken or closed since: nothing else completes the future
                self._release()
            await future
        # A framework that does not wait for its model must not keep the loop from other runs.
        self._in_a_row += 1
        if self._in_a_row >= ITEMS_IN_A_ROW:
            self._in_a_row = 0
            await asyncio.sleep(0)

    def put_nowait(self, item: Any, size: int = 0, *, beyond: bool = False) -> bool:
        """Add an item, if there is room; return whether it was added.

        Args:
            item: The item.
            size: Its number of characters.
            beyond: Whether to add it even if there is no room.

        Raises:
            HandoverClosed: If it is closed.
        """
        with self._lock:
            if self._is_closed:
                raise HandoverClosed
            is_full = len(self._items) >= HANDOVER_ITEMS or self._size >= HANDOVER_CHARACTERS
            if is_full and not beyond:
                return False
            self._items.append(item)
            self._size += size
            must_wake, self._is_idle = self._is_idle, False
        if must_wake:
            self._token.run_sync_soon(self._put.set)
        return True

    async def take(self) -> list[Any]:
        """Wait for items and return all of them. Called in the Trio task; cancelling is safe."""
        await trio.lowlevel.checkpoint()  # also if there are items at each call
        while True:
            with self._lock:
                if self._items:
                    items, self._items, self._size = self._items, [], 0
                    break
                self._put = trio.Event()
                self._is_idle = True
            await self._put.wait()
        self._call(self._release)
        return items

    def close(self) -> None:
        """Refuse more items, and drop those that were not taken. Called in the Trio task."""
        with self._lock:
            self._is_closed = True
            self._items = []
        self._call(self._release)

    def _call(self, function: Any) -> None:
        """Call a function in the asyncio thread, if a task there waits for room."""
        if self._waiting:
            try_call(self._loop, function)

    def _release(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)


def try_call(loop: asyncio.AbstractEventLoop, function: Any, *args: Any) -> None:
    """Call a function in the thread of a loop; no effect if the loop is closed."""
    try:
        loop.call_soon_threadsafe(function, *args)
    except RuntimeError:  # its thread has ended
        return
