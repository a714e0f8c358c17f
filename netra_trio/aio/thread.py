"""The asyncio thread: one for each Trio run, started on demand and ended with the application.

    async with open_thread() as thread:     # holds the thread, for the life of an application
        async with thread.entered(resources, "my agent"):
            ...
    thread = current_thread()               # starts it if nothing holds it

Tasks carry the run that started them in a context variable, which asyncio passes to each task that
a task starts. The task factory reports each one to its `TaskOwner`.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import Context, ContextVar
from functools import partial
from types import FrameType
from typing import Any, Protocol

import structlog
import trio

from netra_trio.aio.executor import DaemonExecutor
from netra_trio.aio.handover import try_call
from netra_trio.telemetry.watchdog import take_sample

WATCH_SECONDS = 1.0  # between two checks that the loop responds
SLOW_SECONDS = 10.0  # for resources to open, after which a wait for them is reported
BLOCKED_SECONDS = 1.0  # without a response, after which a block is reported
CLOSE_SECONDS = 2.0  # for the tasks that are left when the thread ends, and for resources to close

_log = structlog.get_logger(__name__)


class TaskOwner(Protocol):
    """Receives each asyncio task that was started within a run."""

    def adopt(self, task: "asyncio.Task[Any]") -> None:
        """Take a task that was just made; called in the asyncio thread."""
        ...


OWNER: ContextVar[TaskOwner | None] = ContextVar("OWNER", default=None)
"""The run of the current asyncio task."""


def _make_task(
    loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **options: Any
) -> "asyncio.Task[Any]":
    """Make a task, and report it to the run in whose context it will run."""
    context = options.get("context")
    owner = OWNER.get() if context is None else context.get(OWNER)
    task = asyncio.Task(coro, loop=loop, **options)
    if owner is not None:
        owner.adopt(task)
    return task


class AsyncioThread:
    """A thread with an asyncio loop; made in a Trio task, and started at once.

    Attributes:
        loop: Its loop.
        token: The Trio run that it belongs to.
        holders: How many applications hold it.
    """

    def __init__(self) -> None:
        self.token = trio.lowlevel.current_trio_token()
        self.holders = 0
        self.loop = asyncio.new_event_loop()
        self.loop.set_task_factory(_make_task)  # type: ignore[arg-type]  # its options differ by version
        self.loop.set_default_executor(DaemonExecutor())
        self._is_closing = False
        # A daemon: code that blocks it must not keep a stopped server alive.
        self._thread = threading.Thread(target=self._run, daemon=True, name="asyncio agents")
        self._thread.start()
        self._watching = trio.CancelScope()
        trio.lowlevel.spawn_system_task(self._watch)

    def call(self, function: Callable[..., object], *args: Any) -> None:
        """Call a function in the thread; no effect once it has ended."""
        try_call(self.loop, function, *args)

    def call_trio(self, function: Callable[..., object], *args: Any) -> None:
        """Call a function in the Trio run; no effect once that has ended."""
        try:
            self.token.run_sync_soon(function, *args)
        except trio.RunFinishedError:
            return

    @asynccontextmanager
    async def entered(
        self, resources: Callable[[], AbstractAsyncContextManager[object]], name: str
    ) -> AsyncIterator[None]:
        """Enter an asyncio context manager in the thread, and exit it at the end of the block.

        It is entered and exited in one asyncio task. An exception of its exit is logged, and so is
        a wait for its entry of more than `SLOW_SECONDS`, which goes on.

        Args:
            resources: Returns the context manager.
            name: The name of its agent, for the log.

        Raises:
            BaseException: What it raised when it was entered.
        """
        holder = _Holder(self, resources)
        self.call(holder.start)
        try:
            with trio.move_on_after(SLOW_SECONDS):
                await holder.changed.wait()
            if not holder.changed.is_set():
                _log.warning("asyncio_resources_slow", agent=name)
                await holder.changed.wait()
        except trio.Cancelled:
            await holder.end()
            raise
        if holder.error is not None:
            raise holder.error
        try:
            yield
        finally:
            await holder.end()

    async def close(self) -> None:
        """Cancel what is left in the thread and end it; bounded, and not cancelled.

        If its tasks do not end, or code blocks it, the thread is left to the end of the process.
        """
        self._watching.cancel()
        self.call(self._close_soon)
        with trio.CancelScope(shield=True):
            join = partial(self._thread.join, 2 * CLOSE_SECONDS)
            await trio.to_thread.run_sync(join, limiter=trio.CapacityLimiter(1))
        if self._thread.is_alive():
            _log.warning("asyncio_thread_left")

    async def _watch(self) -> None:
        """Report code that blocks the thread, once for each block."""
        with self._watching:
            while True:
                await trio.sleep(WATCH_SECONDS)
                responded = trio.Event()
                self.call(self.call_trio, responded.set)
                with trio.move_on_after(BLOCKED_SECONDS):
                    await responded.wait()
                    continue
                sample = take_sample(self._thread.ident or 0, None, _context_of)
                ids = {name: sample.ids.get(name) for name in ("run_id", "agent")}
                _log.warning(
                    "asyncio_blocked", where=sample.where, run_id=ids["run_id"], agent=ids["agent"]
                )
                await responded.wait()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        while not self._is_closing:
            try:
                self.loop.run_forever()
            except (KeyboardInterrupt, SystemExit) as error:
                # asyncio lets them through, besides giving them to the task that raised them.
                _log.warning("asyncio_exit_ignored", exception=type(error).__name__)
        self.loop.run_until_complete(self._close())
        self.loop.close()

    def _close_soon(self) -> None:
        self._is_closing = True
        self.loop.stop()

    async def _close(self) -> None:
        left = asyncio.all_tasks(self.loop) - {asyncio.current_task()}
        for task in left:
            task.cancel()
        if left:
            _, left = await asyncio.wait(left, timeout=CLOSE_SECONDS)
        if left:
            names = sorted(task.get_name() for task in left)
            _log.warning("asyncio_tasks_left", run_id=None, tasks=names)
        await self.loop.shutdown_asyncgens()


def _context_of(frame: FrameType) -> Context | None:
    """Return the context of a frame of the loop that runs a callback; None for any other frame."""
    if frame.f_code is not asyncio.Handle._run.__code__:  # noqa: SLF001
        return None
    context: Context = frame.f_locals["self"]._context  # noqa: SLF001
    return context


class _Holder:
    """Holds a context manager open in an asyncio task.

    Attributes:
        changed: Set when it was entered, or failed to be.
        error: What it raised when it was entered.
    """

    def __init__(
        self,
        thread: AsyncioThread,
        resources: Callable[[], AbstractAsyncContextManager[object]],
    ) -> None:
        self.changed = trio.Event()
        self.error: BaseException | None = None
        self._thread = thread
        self._resources = resources
        self._has_entered = False
        self._leave = asyncio.Event()
        self._ended = trio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the task; called in the asyncio thread."""
        self._task = self._thread.loop.create_task(self._hold())

    async def end(self) -> None:
        """Exit the context manager and wait for it, for at most `CLOSE_SECONDS`; not cancelled."""
        self._thread.call(self._end)
        with trio.CancelScope(shield=True), trio.move_on_after(CLOSE_SECONDS):
            await self._ended.wait()

    def _end(self) -> None:
        self._leave.set()
        if self._task is not None and not self._has_entered:
            self._task.cancel()

    async def _hold(self) -> None:
        try:
            async with self._resources():
                self._has_entered = True
                self._thread.call_trio(self.changed.set)
                await self._leave.wait()
        except BaseException as error:
            if self._has_entered:
                _log.exception("asyncio_resources_failed")
            self.error = error
        finally:
            self._thread.call_trio(self.changed.set)
            self._thread.call_trio(self._ended.set)


_THREAD: trio.lowlevel.RunVar[AsyncioThread | None] = trio.lowlevel.RunVar("_THREAD", default=None)


@asynccontextmanager
async def open_thread() -> AsyncIterator[AsyncioThread]:
    """Hold the asyncio thread; it ends when the last block has ended."""
    thread = _started()
    thread.holders += 1
    try:
        yield thread
    finally:
        await _release(thread)


def current_thread() -> AsyncioThread:
    """Return the asyncio thread; if nothing holds it, it lives until the end of the Trio run."""
    thread = _THREAD.get()
    if thread is None:
        thread = _started()
        thread.holders += 1
        trio.lowlevel.spawn_system_task(_release_at_end, thread)
    return thread


def _started() -> AsyncioThread:
    thread = _THREAD.get()
    if thread is None:
        thread = AsyncioThread()
        _THREAD.set(thread)
    return thread


async def _release(thread: AsyncioThread) -> None:
    thread.holders -= 1
    if not thread.holders:
        _THREAD.set(None)
        await thread.close()


async def _release_at_end(thread: AsyncioThread) -> None:
    try:
        await trio.sleep_forever()
    finally:
        await _release(thread)
