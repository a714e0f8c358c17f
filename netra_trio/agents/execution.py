"""One run of an agent: its events, its tools, its deadline, and exactly one ending.

An agent is an async function of a `Run`:

    async def shout(run: Run) -> str:
        for word in run.content.upper().split():
            await run.emit(word + " ")
        return run.content.upper()
"""

import random
import traceback
from collections.abc import Callable
from math import inf
from typing import Any

import structlog
import trio
from attrs import evolve

from netra_trio.agents.run import Outlet, Output, Run, RunSpec
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


class Execution:
    """A run from its first event until its ending is known; the session writes the end itself."""

    def __init__(
        self,
        spec: RunSpec,
        outlet: Outlet,
        store: Store,
        wall_clock: Callable[[], float],
        *,
        note: Callable[[TelemetryEvent], None] = lambda _: None,
    ) -> None:
        self.spec = spec
        self.attempts = 0
        self._note = note
        self.output = Output(outlet, spec.correlation_id)
        self._outlet = outlet
        self._store = store
        self._wall_clock = wall_clock
        self._scope: trio.CancelScope | None = None  # of what it does right now
        self.stopped: RunStatus | None = None
        self.has_ended = False
        self._started = inf
        self._deadline = inf
        self._stopped_at = inf

    @property
    def cut_off_at(self) -> float:
        """When it was stopped or its time was over, on Trio's clock; `inf` for not yet."""
        return min(self._stopped_at, self._deadline) if self._is_cut_off else inf

    def abandoned(self) -> Ending:
        """Return how a run ends whose tasks do not."""
        return evolve(self._cut_off(), abandoned=True)

    def stop(self, status: RunStatus) -> None:
        """Cancel the run, to end with `status`; the first one that stops it names the end."""
        if not self._is_cut_off:
            self.stopped = status
            self._stopped_at = trio.current_time()
        if self._scope is not None:
            self._scope.cancel()

    async def execute(self) -> Ending:
        """Run the agent to its end, and say how it ended.

        Agent exceptions end here, in the log. Cancelled from outside, it lets the cancellation
        through; the run's tasks have all ended in every case.
        """
        try:
            attempt = 1
            while (ending := await self._attempt(attempt)) is None:
                await self._back_off(attempt)
                attempt += 1
        finally:
            self._scope = None
            self.output.close()
        return ending

    @property
    def _is_cut_off(self) -> bool:
        """Whether the run was stopped, or its time is over."""
        return self.stopped is not None or trio.current_time() >= self._deadline

    async def _attempt(self, attempt: int) -> Ending | None:
        """Call the agent once; return how the run ended, None where it is to be tried again."""
        self.attempts = attempt
        result, error = await self._call(attempt)
        # Also for an agent that took the cancellation for itself and returned.
        if self._is_cut_off:
            if error is not None:
                # The agent's cleanup raised in place of the cancellation, which has the last word.
                self._log_cleanup(error)
            return self._cut_off()
        if error is None:
            return self._completed(result)
        retryable = _is_only(error, RetryableAgentError) and not self.output.has_text
        if not retryable or attempt == ATTEMPTS:
            return self._failed(error)
        spec, shown = self.spec, _printable(error)
        _log.warning("run_retried", run_id=spec.run_id, attempt=attempt, exc_info=shown)
        return None

    async def _back_off(self, attempt: int) -> None:
        """Pause before the next attempt; a stop or the deadline ends the pause."""
        seconds = BACK_OFF * 2 ** (attempt - 1) * random.uniform(0.5, 1)  # noqa: S311 - jitter, no secret
        with trio.CancelScope(deadline=self._deadline) as self._scope:
            await trio.sleep(seconds)

    async def _call(self, attempt: int) -> tuple[Any, BaseException | None]:
        """Call the agent once; return its result, or what it raised.

        One nursery is all that a run has around it: its scope is what a stop and the deadline
        cancel. This is the one place that holds an agent's exception. What is raised beside a
        cancellation is logged, and the cancellation goes on alone.
        """
        result, error = None, None
        try:
            async with trio.open_nursery() as nursery:
                self._scope = nursery.cancel_scope
                run = await self._start(attempt, nursery)
                try:
                    result = await self.spec.agent(run)
                except (trio.Cancelled, GeneratorExit):
                    raise
                except BaseException as raised:
                    # Before Trio looks at it: what cannot be printed breaks even a nursery.
                    error = self._own(raised)
                    nursery.cancel_scope.cancel()
        except trio.Cancelled:
            raise
        except BaseExceptionGroup as group:  # of tasks that the agent started beside itself
            beside = self._own(group)
            if error is not None:
                self._log_cleanup(beside)
            error = error or beside
        # An agent that cancelled its own nursery comes here too, with what it emitted.
        return result, error

    async def _start(self, attempt: int, nursery: trio.Nursery) -> Run:
        """Say that an attempt begins; the first one begins the run."""
        spec, scope = self.spec, nursery.cancel_scope
        if self._is_cut_off:
            scope.cancel()
        if attempt > 1:
            scope.deadline = self._deadline
        started = AgentStarted(spec.run_id, spec.agent_name, spec.thread_id, attempt)
        await self.output.put(started, 0)
        if attempt == 1:
            self._started = trio.current_time()
            scope.deadline = self._deadline = self._started + spec.timeout
            self._store.start_run(spec.run_id)
        return Run(
            spec,
            attempt=attempt,
            deadline=self._deadline,
            nursery=nursery,
            output=self.output,
            store=self._store,
            note=self._note,
        )

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
        _log.error("run_failed_in_cleanup", run_id=self.spec.run_id, exc_info=_printable(error))

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
        spec, shown = self.spec, _printable(error)
        _log.error("run_failed", run_id=spec.run_id, error_id=error_id, exc_info=shown)
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
