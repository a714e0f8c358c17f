"""The bridge of one run: an asyncio agent on one side, the run in its Trio task on the other.

    result = await Bridge(run, thread).execute(function)

The function is called in the asyncio thread with an `AsyncioRun`. Its output and its calls are
handed over to the Trio task, which performs them on the `Run`. The run ends when the function has
returned and all asyncio tasks that it started have ended.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import copy_context
from itertools import chain, repeat
from typing import Any

import structlog
import trio

from netra_trio.agents.run import Run
from netra_trio.aio.handover import Handover, HandoverClosed
from netra_trio.aio.thread import OWNER, AsyncioThread
from netra_trio.errors import ToolError

CANCEL_PAUSES = (0.5, 0.25, 0.25)  # seconds after each cancellation, before the next one
END_SECONDS = 5.0  # after the first cancellation: then the bridge stops waiting for the tasks

_log = structlog.get_logger(__name__)


class BlockFailed(Exception):
    """The block of a tool failed; its own exception stays in the asyncio thread."""


class Call:
    """A call of a method of the `Run`, or of another function, from the asyncio thread.

    Args:
        method: The name of the method, or the function.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        future: Receives its result; None if nothing waits for it.
    """

    __slots__ = ("args", "future", "kwargs", "method", "scope")

    def __init__(
        self,
        method: str | Callable[..., Awaitable[Any]],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        future: "asyncio.Future[Any] | None",
    ) -> None:
        self.method = method
        self.args = args
        self.kwargs = kwargs
        self.future = future
        self.scope: trio.CancelScope | None = None  # once it is performed

    async def perform(self, bridge: "Bridge") -> None:
        """Call the method, in a Trio task of its own, and reply."""
        assert self.scope is not None  # noqa: S101 - for mypy: set before
        with self.scope:
            try:
                method = self.method
                function = getattr(bridge.run, method) if isinstance(method, str) else method
                result = await function(*self.args, **self.kwargs)
            except Exception as error:
                bridge.reply(self, None, error)
            else:
                bridge.reply(self, result)


class ToolBlock(Call):
    """A `run.tool` block: its Trio task is in the block while the asyncio block is open."""

    __slots__ = ("error", "left", "result")

    def __init__(
        self, name: str, arguments: dict[str, Any], future: "asyncio.Future[Any] | None"
    ) -> None:
        super().__init__("tool", (name,), arguments, future)
        self.result: Any = None
        self.error: Exception | None = None
        self.left = trio.Event()

    async def perform(self, bridge: "Bridge") -> None:
        """Keep the tool block open until the asyncio block ends."""
        assert self.scope is not None  # noqa: S101 - for mypy: set before
        with self.scope:
            try:
                async with bridge.run.tool(*self.args, **self.kwargs) as tool:
                    bridge.reply(self)
                    await self.left.wait()
                    self._raise()
                    tool.result = self.result
            except Exception as error:
                has_failed = self.error is not None  # the asyncio block raises its own exception
                bridge.reply(self, None, None if has_failed else error)
            else:
                bridge.reply(self)

    def _raise(self) -> None:
        """Raise an exception with which `run.tool` sends the failure of the asyncio block."""
        if isinstance(self.error, ToolError):
            raise ToolError(str(self.error))
        if self.error is not None:
            raise BlockFailed


class Leave:
    """Ends a `ToolBlock`, after the output of its block.

    Args:
        block: The block.
    """

    __slots__ = ("block",)

    def __init__(self, block: ToolBlock) -> None:
        self.block = block


class _End:
    """The last item: no task of the run is left, or its function has failed."""


class Bridge:
    """The bridge of one run.

    Args:
        run: The run.
        thread: The asyncio thread.
    """

    def __init__(self, run: Run, thread: AsyncioThread) -> None:
        self.run = run
        self.thread = thread
        # The loop's clock at second 0 of Trio's clock.
        self.clock_offset = thread.loop.time() - trio.current_time()
        self._handover = Handover(thread.loop, thread.token)
        self._is_cut_off = False
        self._ended = trio.Event()
        # Used in the asyncio thread only:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._futures: set[asyncio.Future[Any]] = set()
        self._has_ended = False
        # Written in the asyncio thread, and read after its end:
        self._result: Any = None
        self._error: BaseException | None = None

    # In the Trio task.

    async def execute(self, function: Callable[["Bridge"], Awaitable[Any]]) -> Any:
        """Call a function in the asyncio thread, and return its result.

        If it is cancelled, all tasks of the run are cancelled, repeatedly until they end, the run
        has ended without them, or `END_SECONDS` have passed. The same happens if the function
        raises.

        Args:
            function: Called with this bridge, in the asyncio thread.

        Raises:
            BaseException: What the function raised.
        """
        context = copy_context()
        context.run(OWNER.set, self)
        self.thread.call(self._start, function, context)
        try:
            async with trio.open_nursery() as nursery:
                try:
                    await self._perform_all(nursery)
                except BaseException:
                    self._is_cut_off = True
                    raise
                finally:
                    # Before the nursery waits for its calls, which may be shielded.
                    self._handover.close()
                    if not self._has_ended:
                        self.thread.call(self._cancel)
                    nursery.cancel_scope.cancel()  # calls that nothing waits for any more
        except BaseException:
            self._is_cut_off = True
            await self._end_tasks()
            if isinstance(self._error, Exception):  # of its cleanup
                self._raise()
            raise
        if not self._has_ended:  # the function has failed
            await self._end_tasks()
        self._raise()
        return self._result

    def _raise(self) -> None:
        """Raise the exception of the function, if it has raised one."""
        error, self._error = self._error, None
        try:
            if isinstance(error, asyncio.CancelledError):
                text = "the agent's task was cancelled, but not its run"
                raise RuntimeError(text) from error  # noqa: TRY004 - not a type error
            if error is not None:
                raise error
        finally:
            del error  # its traceback has this frame

    async def _perform_all(self, nursery: trio.Nursery) -> None:
        run = self.run
        while True:
            for item in await self._handover.take():
                if type(item) is str:
                    await run.emit(item)
                elif item is _End:
                    return
                elif type(item) is Leave:
                    item.block.left.set()
                elif item.future is None:
                    await getattr(run, item.method)(*item.args, **item.kwargs)
                else:
                    item.scope = trio.CancelScope()
                    if item.future.cancelled():  # checked after the scope is set: see `wait_for`
                        item.scope.cancel()
                    nursery.start_soon(item.perform, self)

    def reply(self, call: Call, result: Any = None, error: Exception | None = None) -> None:
        """Complete the future of a call."""
        self.thread.call(_complete, call.future, result, error)

    async def _end_tasks(self) -> None:
        """Wait for the tasks, which were cancelled once, and cancel them again after each pause.

        Gives up when the run has ended without them, or after `END_SECONDS`.
        """
        with trio.CancelScope(shield=True):
            gives_up = trio.current_time() + END_SECONDS
            for pause in chain(CANCEL_PAUSES, repeat(CANCEL_PAUSES[-1])):
                with trio.move_on_after(pause):
                    await self._ended.wait()
                    return
                if self.run.has_ended or trio.current_time() >= gives_up:
                    break
                self.thread.call(self._cancel)
        _log.warning("asyncio_tasks_left", run_id=self.run.id, tasks=sorted(self._names()))

    # In the asyncio thread.

    async def put(self, item: Any, size: int = 0) -> None:
        """Hand over a text or a call; waits while the Trio task does not keep up.

        Raises:
            asyncio.CancelledError: If the run was cancelled.
            trio.ClosedResourceError: If the run has ended.
        """
        try:
            await self._handover.put(item, size)
        except HandoverClosed:
            await asyncio.sleep(0)  # a loop that ignores the exception must not block the thread
            if self._is_cut_off:
                raise asyncio.CancelledError from None
            raise trio.ClosedResourceError("the run has ended") from None

    async def call(
        self, method: str | Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any
    ) -> Any:
        """Call an async method of the `Run`, and return its result; cancelling is safe.

        Args:
            method: The name of the method; or another async function, which is called in Trio.
            args: Its positional arguments.
            kwargs: Its keyword arguments.

        Raises:
            Exception: What the method raised.
            asyncio.CancelledError: If the run was cancelled.
            trio.ClosedResourceError: If the run has ended.
        """
        return await self.wait_for(Call(method, args, kwargs, self.new_future()))

    def new_future(self) -> "asyncio.Future[Any]":
        """Return a future for a reply; it is cancelled if the run ends without one."""
        future = self.thread.loop.create_future()
        self._futures.add(future)
        future.add_done_callback(self._futures.discard)
        return future

    async def wait_for(self, call: Call) -> Any:
        """Hand over a call and wait for its reply."""
        assert call.future is not None  # noqa: S101 - for mypy: made by the callers
        try:
            await self.put(call)
            return await call.future
        except BaseException:
            call.future.cancel()
            if call.scope is not None:  # read after the cancellation: see `_perform_all`
                self.thread.call_trio(call.scope.cancel)
            raise

    def adopt(self, task: "asyncio.Task[Any]") -> None:
        """Add a task that was started within the run; the end of the run waits for it."""
        if self._has_ended:
            task.cancel()
        self._tasks.add(task)
        task.add_done_callback(self._remove)

    def _start(self, function: Callable[["Bridge"], Awaitable[Any]], context: Any) -> None:
        if self._is_cut_off:
            self._end()
            return
        self.thread.loop.create_task(self._call(function), context=context)

    async def _call(self, function: Callable[["Bridge"], Awaitable[Any]]) -> None:
        try:
            self._result = await function(self)
        except BaseException as error:
            if self._is_cut_off and isinstance(error, asyncio.CancelledError):
                return  # expected; storing it would make a reference cycle
            self._error = error
            if len(self._tasks) > 1:  # other tasks have to be cancelled
                with suppress(HandoverClosed):
                    self._handover.put_nowait(_End, beyond=True)

    def _remove(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not self._tasks and not self._has_ended:
            self._end()

    def _end(self) -> None:
        self._has_ended = True
        for future in list(self._futures):
            future.cancel()
        with suppress(HandoverClosed):
            self._handover.put_nowait(_End, beyond=True)
        self.thread.call_trio(self._ended.set)

    def _cancel(self) -> None:
        for task in list(self._tasks):
            task.cancel()

    def _names(self) -> list[str]:
        with suppress(RuntimeError):  # changed meanwhile, by a task that ends now
            return [task.get_name() for task in self._tasks]
        return []


def _complete(future: "asyncio.Future[Any] | None", result: Any, error: Exception | None) -> None:
    """Complete a future, unless it was cancelled or completed before."""
    if future is None or future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
