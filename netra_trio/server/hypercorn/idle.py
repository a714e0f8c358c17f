"""The time that a connection may be idle: between requests, and while a head is incomplete."""

from collections.abc import Awaitable, Callable

import trio

from netra_trio.server.hypercorn.limits import HEAD_SECONDS


class IdleTimer:
    """Ends a connection that is idle for too long, or when the server stops.

    Args:
        nursery: Holds the timer's task.
        terminated: Returns when the server begins to stop.
        hang_up: Called at the end of the time.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        terminated: Callable[[], Awaitable[None]],
        hang_up: Callable[[], None],
    ) -> None:
        self._nursery = nursery
        self._terminated = terminated
        self._hang_up = hang_up
        self._scope: trio.CancelScope | None = None
        self._head_started = False
        self.head_bytes = 0

    @property
    def is_running(self) -> bool:
        """Whether the connection is idle."""
        return self._scope is not None

    def start(self, seconds: float, *, head_started: bool = False) -> None:
        """Begin to wait for a request; `head_started` if the time counts for its whole head."""
        self.stop()
        self.head_bytes = 0
        self._head_started = head_started
        self._scope = trio.CancelScope(deadline=trio.current_time() + seconds)
        self._nursery.start_soon(self._watch, self._scope)

    def stop(self) -> None:
        """Stop the timer, because a request is at work."""
        if self._scope is not None:
            self._scope.cancel()
            self._scope = None

    def count_head(self, count: int) -> None:
        """Count bytes of a head; its time begins with the first one, and is not renewed."""
        if self._scope is None:
            return
        self.head_bytes += count
        if not self._head_started:
            self._head_started = True
            self._scope.deadline = trio.current_time() + HEAD_SECONDS

    async def _watch(self, scope: trio.CancelScope) -> None:
        with scope:
            await self._terminated()
        if self._scope is scope:
            self._hang_up()
