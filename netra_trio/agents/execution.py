"""The execution of runs: attempts, the deadline, retries, and exactly one ending for each.

await execute_runs(source)      # one task executes the runs that the source gives it, in turn
"""

import random
import traceback
from collections.abc import Callable
from contextvars import Context
from math import inf
from typing import Any, Protocol

import structlog
import trio
from attrs import evolve

from netra_trio.agents.context import run_in_context
from netra_trio.agents.run import Outlet, Output, Run, RunNursery, RunSpec
from netra_trio.errors import RetryableAgentError
from netra_trio.ids import new_error_id
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.messages import AgentStarted, JsonObject, RunStatus
from netra_trio.protocol.problem import problem
from netra_trio.protocol.text import EVENT_BYTES, cut_json
from netra_trio.stores.base import Store
from netra_trio.telemetry.events import TelemetryEvent
from netra_trio.values import frozen

ATTEMPTS = 3  # the contract's bound, api.md
BACK_OFF = 1.0  # seconds before the second attempt, at most; doubles with each

_log = structlog.get_logger(__name__)


@frozen
class Ending:
    """How a run ended, before it is told.

    Attributes:
        result: What the agent returned, or what it emitted, as JSON.
        error: The error's body, of a run that failed or timed out.
        duration: Seconds from the first `agent_started`.
        abandoned: Whether a task of it goes on.
    """

    status: RunStatus
    result: bytes | None = None
    truncated: bool = False
    error: JsonObject | None = None
    duration: float = 0.0
    abandoned: bool = False


class RunSource(Protocol):
    """Gives a task the runs to execute, and takes their endings: a session."""

    async def next(self) -> "Execution | None":
        """Wait for the next run; None if there are no more for this task."""
        ...

    def suspended(self) -> None:
        """Note that the run waits for something: other runs may be started beside it."""
        ...

    async def finish(self, execution: "Execution", ending: Ending) -> None:
        """Write the end of a run, all of whose tasks have ended."""
        ...


class Execution:
    """A run from its first event until its ending is known; the source writes the end.

    Args:
        spec: What to do.
        outlet: Takes the events.
        store: Notes the start, and has the history.
        wall_clock: Returns Unix seconds.
        context: The context variables that the agent sees; not used by another run.
        note: Receives the telemetry events of its tools.

    Attributes:
        output: The way of its events.
        attempts: How many attempts have begun.
        stopped: The status that a stop gave it.
        has_ended: Whether its end was written.
    """

    def __init__(
        self,
        spec: RunSpec,
        outlet: Outlet,
        store: Store,
        wall_clock: Callable[[], float],
        *,
        context: Context,
        note: Callable[[TelemetryEvent], None] = lambda _: None,
    ) -> None:
        self.spec = spec
        self.context = context
        self.output = Output(outlet, spec.message.correlation_id)
        self.attempts = 0
        self.stopped: RunStatus | None = None
        self.has_ended = False
        self._note = note
        self._store = store
        self._wall_clock = wall_clock
        self._scope: trio.CancelScope | None = None  # of what it does right now
        self._result: Any = None  # of the newest attempt, as the next two are
        self._error: BaseException | None = None
        self._nursery: RunNursery | None = None
        self._started = inf
        self._deadline = inf
        self._stopped_at = inf

    @property
    def cut_off_at(self) -> float:
        """When it was stopped or its deadline passed, on Trio's clock; `inf` if neither."""
        return min(self._stopped_at, self._deadline) if self._is_cut_off else inf

    def abandoned(self) -> Ending:
        """Return the ending of a run whose tasks do not end."""
        return evolve(self._cut_off(), abandoned=True)

    def stop(self, status: RunStatus) -> None:
        """Cancel the run, to end with `status`; the first stop decides the status."""
        if not self._is_cut_off:
            self.stopped = status
            self._stopped_at = trio.current_time()
        if self._scope is not None:
            self._scope.cancel()

    @property
    def _is_cut_off(self) -> bool:
        """Whether the run was stopped, or its deadline has passed."""
        return self.stopped is not None or trio.current_time() >= self._deadline

    async def attempt(self, nursery: trio.Nursery, suspended: Callable[[], None]) -> bool:
        """Call the agent once, and keep its result or its exception.

        The nursery's scope is what a stop and the deadline cancel. This is the one place that
        catches what an agent raises. An exception beside a cancellation is logged, and the
        cancellation goes on alone.

        Returns:
            Whether the nursery is as it was: no task is in it, nothing has cancelled it, and the
            agent has no reference to it.
        """
        self._result = self._error = None
        self._scope = scope = nursery.cancel_scope
        try:
            self._result = await run_in_context(self._call(nursery), self.context, suspended)
        except (trio.Cancelled, GeneratorExit):
            raise
        except BaseException as raised:
            # Before Trio sees it: an exception that cannot be printed breaks even a nursery.
            self._error = self._own(raised)
            scope.cancel()
            return False
        used = self._nursery is None or self._nursery.is_used
        if used or scope.cancel_called or nursery.child_tasks:
            return False
        scope.deadline = inf
        self._scope = None
        return True

    def conclude(self, beside: BaseExceptionGroup[BaseException] | None = None) -> Ending | None:
        """Return the ending of the run, now that all its tasks have ended.

        Args:
            beside: What the tasks raised that the agent started.

        Returns:
            None if the run is to be tried again, after `back_off`.
        """
        self._scope = None
        error = self._error
        if beside is not None:
            own = self._own(beside)
            if error is not None:
                self._log_cleanup(own)
            error = error or own
        ending = self._ending(error)
        # An exception keeps its traceback, whose frames keep this run and the agent's values.
        self._result = self._error = self._nursery = None
        if ending is not None:
            self.output.close()
        return ending

    async def back_off(self) -> None:
        """Pause before the next attempt; a stop or the deadline ends the pause."""
        seconds = BACK_OFF * 2 ** (self.attempts - 1) * random.uniform(0.5, 1)  # noqa: S311 - jitter, no secret
        with trio.CancelScope(deadline=self._deadline) as self._scope:
            if self._is_cut_off:
                self._scope.cancel()
            await trio.sleep(seconds)

    def _ending(self, error: BaseException | None) -> Ending | None:
        # An agent that catches its cancellation and returns was cut off all the same.
        if self._is_cut_off:
            if error is not None:
                self._log_cleanup(error)
            return self._cut_off()
        if error is None:
            return self._completed(self._result)
        retryable = _is_only(error, RetryableAgentError) and not self.output.has_text
        if not retryable or self.attempts == ATTEMPTS:
            return self._failed(error)
        run_id, shown = self.spec.message.run_id, _printable(error)
        _log.warning("run_retried", run_id=run_id, attempt=self.attempts, exc_info=shown)
        return None

    async def _call(self, nursery: trio.Nursery) -> Any:
        """Append `agent_started`, and call the agent; the first attempt begins the run's time."""
        spec, message, scope = self.spec, self.spec.message, nursery.cancel_scope
        self.attempts += 1
        if self._is_cut_off:
            scope.cancel()
        if self.attempts > 1:
            scope.deadline = self._deadline
        started = AgentStarted(message.run_id, message.agent_name, message.thread_id, self.attempts)
        await self.output.put(started, 0)
        if self.attempts == 1:
            self._started = trio.current_time()
            scope.deadline = self._deadline = self._started + spec.timeout
            self._store.start_run(message.run_id)
        self._nursery = RunNursery(nursery)
        run = Run(
            spec,
            attempt=self.attempts,
            deadline=self._deadline,
            nursery=self._nursery,
            output=self.output,
            store=self._store,
            note=self._note,
        )
        return await spec.agent(run)

    def _own(self, raised: BaseException) -> BaseException:
        """Return what the agent raised; a cancellation in it goes on, and the rest is logged."""
        if not isinstance(raised, BaseExceptionGroup):
            return raised
        through, own = _split(raised)
        if through is not None:
            if own is not None:
                self._log_cleanup(own)
            raise through from None
        return own or raised

    def _log_cleanup(self, error: BaseException) -> None:
        run_id = self.spec.message.run_id
        _log.error("run_failed_in_cleanup", run_id=run_id, exc_info=_printable(error))

    def _completed(self, result: Any) -> Ending:
        if result is None:
            result = self.output.text
        try:
            shown, truncated = cut_json(result, EVENT_BYTES)
        except (TypeError, ValueError) as error:
            return self._failed(error)
        return Ending(RunStatus.COMPLETED, shown, truncated, duration=self._duration())

    def _failed(self, error: BaseException) -> Ending:
        error_id = new_error_id()
        run_id, shown = self.spec.message.run_id, _printable(error)
        _log.error("run_failed", run_id=run_id, error_id=error_id, exc_info=shown)
        fault = problem(ErrorCode.AGENT_ERROR, "The agent failed.", error_id=error_id)
        body = fault.body(self._wall_clock())
        return Ending(RunStatus.FAILED, error=body, duration=self._duration())

    def _cut_off(self) -> Ending:
        if self.stopped is not None:
            return Ending(self.stopped, duration=self._duration())
        text = f"The agent did not finish within {self.spec.timeout:g} s."
        body = problem(ErrorCode.AGENT_TIMEOUT, text).body(self._wall_clock())
        return Ending(RunStatus.TIMED_OUT, error=body, duration=self._duration())

    def _duration(self) -> float:
        return max(0.0, trio.current_time() - self._started)


class _AgentTask:
    """One task that executes runs in turn, in one nursery as long as it stays empty.

    A nursery of its own for each run would cost a quarter of a short run. So a nursery is used
    again, unless the run had tasks in it, was cut off, or asked for it: then it is closed, which
    waits for all that is in it, and the next run gets a new one.
    """

    def __init__(self, source: RunSource) -> None:
        self._source = source
        self._execution: Execution | None = None

    async def run(self) -> None:
        try:
            while True:
                beside = None
                try:
                    async with trio.open_nursery() as nursery:
                        if not await self._run_in(nursery):
                            return
                except trio.Cancelled:
                    raise
                except BaseExceptionGroup as group:
                    if self._execution is None:  # it is a fault of the source
                        raise
                    beside = group
                await self._conclude(beside)
        finally:
            if self._execution is not None:
                await self._finish(Ending(RunStatus.INTERRUPTED))

    async def _run_in(self, nursery: trio.Nursery) -> bool:
        """Execute runs until one of them needs the nursery closed; return False if none is left."""
        while True:
            if self._execution is None:
                self._execution = await self._source.next()
                if self._execution is None:
                    return False
            if not await self._execution.attempt(nursery, self._source.suspended):
                self._source.suspended()  # closing the nursery waits
                return True
            await self._conclude(None)

    async def _conclude(self, beside: BaseExceptionGroup[BaseException] | None) -> None:
        """Finish the run whose attempt is over, or pause before the next attempt."""
        execution = self._execution
        assert execution is not None  # noqa: S101 - for mypy: an attempt has just ended
        ending = execution.conclude(beside)
        if ending is None:
            self._source.suspended()
            await execution.back_off()
        else:
            await self._finish(ending)

    async def _finish(self, ending: Ending) -> None:
        execution, self._execution = self._execution, None
        assert execution is not None  # noqa: S101 - for mypy: the callers have looked
        execution.output.close()
        await self._source.finish(execution, ending)


async def execute_runs(source: RunSource) -> None:
    """Execute the runs that a source gives, one after the other, until it gives no more.

    Cancelled, it ends the run at work as `interrupted`, when all its tasks have ended.
    """
    await _AgentTask(source).run()


def _printable(error: BaseException) -> BaseException:
    """Return the exception, or one in its place if it cannot so much as be printed."""
    try:
        traceback.format_exception(error)
    except Exception:
        return RuntimeError(f"{type(error).__name__}, which cannot be printed")
    return error


def _split(
    group: BaseExceptionGroup[BaseException],
) -> tuple[BaseExceptionGroup[trio.Cancelled] | None, BaseException | None]:
    """Split a group into the cancellation, which goes on, and what the agent raised."""
    try:
        return group.split(trio.Cancelled)
    except RecursionError:  # groups in groups without end: nothing of Trio's nests like that
        return None, RecursionError("exception groups nested too deep")


def _is_only(error: BaseException, kind: type[BaseException]) -> bool:
    """Whether the exception, or every leaf of the group, is of this kind."""
    left = [error]
    while left:  # no recursion: groups may nest deeper than the stack
        inner = left.pop()
        if isinstance(inner, BaseExceptionGroup):
            left += inner.exceptions
        elif not isinstance(inner, kind):
            return False
    return True
