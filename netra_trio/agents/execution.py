"""The execution of runs: attempts, deadline, retries, and exactly one ending of each run.

await execute_runs(source)      # executes the runs of the source, one after the other
"""

import random
import traceback
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from contextvars import Context
from functools import partial
from math import inf
from typing import Any, Protocol

import structlog
import trio
from attrs import evolve

from netra_trio.agents.attachments import FileAccess, RunFiles
from netra_trio.agents.context import run_in_context
from netra_trio.agents.output import Outlet, Output
from netra_trio.agents.questions import Question, Questions
from netra_trio.agents.run import (
    ChangeThread,
    RoomPublisher,
    Run,
    RunNursery,
    RunSpec,
)
from netra_trio.agents.waits import Wait
from netra_trio.errors import AgentError, RetryableAgentError, leaves
from netra_trio.ids import QuestionId, new_error_id
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.fields import JsonObject
from netra_trio.protocol.messages import AgentStarted, RunStatus
from netra_trio.protocol.problem import Problem, problem
from netra_trio.protocol.text import EVENT_BYTES, cut_json, cut_text
from netra_trio.protocol.threads import ThreadChange
from netra_trio.stores.base import Store
from netra_trio.stores.notifications import Notification
from netra_trio.stores.usage import UsageRecorder
from netra_trio.telemetry.events import TelemetryEvent
from netra_trio.values import frozen

ATTEMPTS = 3  # docs/agents.md, Failures and retries
ERROR_BYTES = 2 * 1024  # UTF-8, of the text of an `AgentError`; more is cut
BACK_OFF = 1.0  # seconds, the maximum pause before the second attempt; doubles with each attempt

_NO_ASYNCIO = "no running event loop"  # asyncio's text: there is no class for it
_ASYNCIO_HELP = "serve it as netra_trio.aio.asyncio_agent(function), or use Trio in it"

_log = structlog.get_logger(__name__)


@frozen
class Ending:
    """How a run ended, before its `agent_completed` is written.

    Attributes:
        status: The final status.
        result: The value that the agent returned, or the text that it emitted, as JSON.
        truncated: Whether the result was cut.
        error: The body of the error, of a run that failed, timed out or exceeded a budget.
        duration: Seconds from the first `agent_started`.
        abandoned: Whether one of its tasks is still running.
    """

    status: RunStatus
    result: bytes | None = None
    truncated: bool = False
    error: JsonObject | None = None
    duration: float = 0.0
    abandoned: bool = False


class RunSource(Protocol):
    """Gives runs to an agent task, and receives their endings: a session."""

    async def next(self) -> "Execution | None":
        """Wait for the next run; None if there are no more runs for this task."""
        ...

    def suspended(self) -> None:
        """Let other runs be started, because the run waits for something."""
        ...

    async def finish(self, execution: "Execution", ending: Ending) -> None:
        """Store and append the end of a run; all its tasks have ended."""
        ...


class Execution:
    """The execution of one run, from its first event to its ending; the source writes the end.

    Args:
        spec: The specification of the run.
        outlet: Receives the events.
        store: Records the start, and has the history.
        wall_clock: Returns Unix seconds.
        publisher: Publishes messages of the agent to rooms.
        files: Finds, reads and stores files.
        context: The context variables of the agent; no other run may use it.
        open_questions: The open questions of the user, for the answers.
        note: Receives the telemetry events of its tool calls.
        changed: Called for each change of its thread.
        notification_of: Returns the notification of a question, None for none.
        usage: Records what it uses; the store by default.

    Attributes:
        output: Sends the events of the run to the outlet.
        attempts: The number of attempts that have started.
        files: The files of the run; None before its first attempt.
        stopped: The status that a stop gave to the run; None if it was not stopped.
        has_ended: Whether its end was written.
    """

    def __init__(
        self,
        spec: RunSpec,
        outlet: Outlet,
        store: Store,
        wall_clock: Callable[[], float],
        *,
        publisher: RoomPublisher,
        files: FileAccess,
        context: Context,
        open_questions: MutableMapping[QuestionId, Question],
        note: Callable[[TelemetryEvent], None] = lambda _: None,
        changed: ChangeThread = lambda _message, _change: None,
        notification_of: Callable[[QuestionId], Notification | None] = lambda _: None,
        usage: UsageRecorder | None = None,
    ) -> None:
        self.spec = spec
        self.context = context
        self.output = Output(outlet, spec.message.correlation_id)
        self.files: RunFiles | None = None
        self._access = files
        self.attempts = 0
        self.stopped: RunStatus | None = None
        self.has_ended = False
        self._stopped_by: Problem | None = None
        self._note = note
        self._changed = changed
        self._notification_of = notification_of
        self._store = store
        self._usage: UsageRecorder = store if usage is None else usage
        self._publisher = publisher
        self._wall_clock = wall_clock
        self._scope: trio.CancelScope | None = None  # of the current attempt or pause
        # Of the newest attempt:
        self._result: Any = None
        self._error: BaseException | None = None
        self._nursery: RunNursery | None = None
        self._open_questions = open_questions
        self._questions: Questions | None = None
        self._started = inf
        self._deadline = inf
        self._pauses = 0  # of the deadline
        self._left = 0.0  # seconds until the deadline, while it stands still
        self._stopped_at = inf

    @property
    def deadline(self) -> float:
        """When the run ends `timed_out`, on Trio's clock; `inf` while a question is open."""
        return self._deadline

    @property
    def questions(self) -> Questions:
        """The questions of the run.

        Raises:
            trio.ClosedResourceError: If the run has ended.
        """
        if self.output.is_closed:
            raise trio.ClosedResourceError("the run has ended")
        if self._questions is None:
            self._questions = Questions(
                self.spec.message,
                output=self.output,
                store=self._store,
                clock=self,
                open_questions=self._open_questions,
                wall_clock=self._wall_clock,
                note=self._note,
                changed=partial(self._changed, self.spec.message, ThreadChange.UPDATED),
                notification_of=self._notification_of,
            )
        return self._questions

    @property
    def asking(self) -> list[QuestionId]:
        """The questions of the run that are not closed."""
        return [] if self._questions is None else self._questions.asking

    def cancel_questions(self) -> None:
        """Close the open questions as `cancelled`, because the run ends."""
        if self._questions is not None:
            self._questions.cancel_all()
            self._questions = None  # it refers to this object

    def storing(self) -> Wait:
        """Mark that it waits for the store, in a `with` block."""
        return self.output.waits.begin("store", now=trio.current_time())

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let the deadline stand still while the block runs, which waits for an answer."""
        waits = self.output.waits
        with waits.begin("answer", now=trio.current_time()), self._standing_still():
            yield

    @contextmanager
    def _standing_still(self) -> Iterator[None]:
        if self.is_cut_off:  # it stays so, also for a cleanup that asks
            yield
            return
        self._pauses += 1
        if self._pauses == 1:
            self._left = self._deadline - trio.current_time()
            self._set_deadline(inf)
        try:
            yield
        finally:
            self._pauses -= 1
            if not self._pauses:
                self._set_deadline(trio.current_time() + self._left)

    def _set_deadline(self, deadline: float) -> None:
        self._deadline = deadline
        if self._scope is not None:
            self._scope.deadline = deadline

    @property
    def cut_off_at(self) -> float:
        """When it was stopped or reached its deadline, on Trio's clock; `inf` if neither."""
        return min(self._stopped_at, self._deadline) if self.is_cut_off else inf

    def abandoned(self) -> Ending:
        """Return the ending of a run whose tasks are still running after a cancellation."""
        return evolve(self._cut_off(), abandoned=True)

    def stop(self, status: RunStatus, error: Problem | None = None) -> None:
        """Cancel the run, so that it ends with `status` and `error`; the first stop decides."""
        if not self.is_cut_off:
            self.stopped = status
            self._stopped_by = error
            self._stopped_at = trio.current_time()
        if self._scope is not None:
            self._scope.cancel()

    @property
    def is_cut_off(self) -> bool:
        """Whether the run was stopped or has reached its deadline."""
        return self.stopped is not None or trio.current_time() >= self._deadline

    async def attempt(self, nursery: trio.Nursery, suspended: Callable[[], None]) -> bool:
        """Call the agent once, and keep its result or its exception.

        A stop and the deadline cancel the scope of the nursery. All exceptions of an agent are
        caught here. If it raises a group with a cancellation and other exceptions, the others are
        logged and the cancellation is raised.

        Args:
            nursery: The nursery of the run.
            suspended: Called when the agent first waits for something.

        Returns:
            Whether the nursery can be used for another run: it has no tasks and was not cancelled,
            and the agent has no reference to it.
        """
        self._result = self._error = None
        self._scope = scope = nursery.cancel_scope
        try:
            self._result = await run_in_context(self._call(nursery), self.context, suspended)
        except (trio.Cancelled, GeneratorExit):
            raise
        except BaseException as raised:
            # Caught before Trio handles it: an exception that cannot be printed breaks a nursery.
            self._error = self._own(raised)
            scope.cancel()
            return False
        used = self._nursery is None or self._nursery.is_used
        if used or scope.cancel_called or nursery.child_tasks:
            return False
        scope.deadline = inf
        self._scope = None
        return True

    def conclude(
        self, task_errors: BaseExceptionGroup[BaseException] | None = None
    ) -> Ending | None:
        """Return the ending of the run, after all its tasks have ended.

        Args:
            task_errors: The exceptions of the tasks that the agent started.

        Returns:
            The ending; None if another attempt has to follow, after `back_off`.
        """
        self._scope = None
        error = self._error
        if task_errors is not None:
            own = self._own(task_errors)
            if error is not None:
                self._log_cleanup(own)
            error = error or own
        ending = self._ending(error)
        # The traceback of an exception has frames that refer to this run and the agent's values.
        self._result = self._error = self._nursery = None
        return ending

    async def back_off(self) -> None:
        """Pause before the next attempt; a stop or the deadline ends the pause."""
        seconds = BACK_OFF * 2 ** (self.attempts - 1) * random.uniform(0.5, 1)  # noqa: S311 - jitter, no secret
        waits = self.output.waits
        with (
            waits.begin("retry", now=trio.current_time()),
            trio.CancelScope(deadline=self._deadline) as self._scope,
        ):
            if self.is_cut_off:
                self._scope.cancel()
            await trio.sleep(seconds)

    def _ending(self, error: BaseException | None) -> Ending | None:
        # An agent may have caught its cancellation and returned a result.
        if self.is_cut_off:
            if error is not None:
                self._log_cleanup(error)
            return self._cut_off()
        if error is None:
            return self._completed(self._result)
        retryable = not self.output.has_text and all(
            isinstance(leaf, RetryableAgentError) for leaf in leaves(error)
        )
        if not retryable or self.attempts == ATTEMPTS:
            return self._failed(error)
        run_id, shown = self.spec.message.run_id, _printable(error)
        _log.warning("run_retried", run_id=run_id, attempt=self.attempts, exc_info=shown)
        return None

    async def _call(self, nursery: trio.Nursery) -> Any:
        """Append `agent_started`, and call the agent; the first attempt starts the deadline."""
        spec, message, scope = self.spec, self.spec.message, nursery.cancel_scope
        self.attempts += 1
        if self.is_cut_off:
            scope.cancel()
        if self.attempts > 1:
            scope.deadline = self._deadline
        started = AgentStarted(message.run_id, message.agent_name, message.thread_id, self.attempts)
        await self.output.append(started, 0)
        if self.attempts == 1:
            self._started = trio.current_time()
            scope.deadline = self._deadline = self._started + spec.timeout
            self._store.start_run(message.run_id)
        if self.files is None:
            self.files = RunFiles(message.user_id, self._access, spec.files)
        self.files.begin_attempt()
        self._nursery = RunNursery(nursery)
        run = Run(
            spec,
            attempt=self.attempts,
            control=self,
            nursery=self._nursery,
            output=self.output,
            files=self.files,
            store=self._store,
            publisher=self._publisher,
            wall_clock=self._wall_clock,
            note=self._note,
            changed=self._changed,
            usage=self._usage,
        )
        return await spec.agent(run)

    def _own(self, raised: BaseException) -> BaseException:
        """Return the exception of the agent.

        If it is a group with a cancellation, raise the cancellation and log the other exceptions.
        """
        if not isinstance(raised, BaseExceptionGroup):
            return raised
        through, own = _split(raised)
        if through is not None:
            try:
                if own is not None:
                    self._log_cleanup(own)
                raise through from None
            finally:
                del raised, through, own  # their tracebacks have this frame
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

    def unstarted(self, status: RunStatus, error: Problem | None = None) -> Ending:
        """Return the ending of a run that has not started; of one that was stopped, its error."""
        error = error or self._stopped_by
        body = None if error is None else error.body(self._wall_clock())
        return Ending(status, error=body)

    def _failed(self, error: BaseException) -> Ending:
        error_id, text, help_ = new_error_id(), "The agent failed.", None
        message, shown = self.spec.message, _printable(error)
        if isinstance(error, AgentError):  # expected: where it was raised does not matter
            text, shown = _text_of(error) or text, shown.with_traceback(None)
            help_ = "If it persists, tell the operator the error_id."
        elif isinstance(error, RuntimeError) and error.args == (_NO_ASYNCIO,):
            shown.add_note(f"{message.agent_name} is a function for asyncio: {_ASYNCIO_HELP}")
        _log.error("run_failed", run_id=message.run_id, error_id=error_id, exc_info=shown)
        fault = problem(ErrorCode.AGENT_ERROR, text, error_id=error_id, help=help_)
        body = fault.body(self._wall_clock())
        return Ending(RunStatus.FAILED, error=body, duration=self._duration())

    def _cut_off(self) -> Ending:
        if self.stopped is not None:
            return evolve(self.unstarted(self.stopped, self._stopped_by), duration=self._duration())
        text = f"The agent did not finish within {self.spec.timeout:g} s."
        body = problem(ErrorCode.AGENT_TIMEOUT, text).body(self._wall_clock())
        return Ending(RunStatus.TIMED_OUT, error=body, duration=self._duration())

    def _duration(self) -> float:
        return max(0.0, trio.current_time() - self._started)


class _AgentTask:
    """A task that executes runs one after the other, in one nursery while it stays unused.

    A new nursery for each run would take a quarter of the time of a short run. So runs share a
    nursery, until a run has tasks in it, is cancelled, or asks for `run.nursery`. Then the nursery
    is closed, which waits for its tasks, and the next run gets a new one.
    """

    def __init__(self, source: RunSource) -> None:
        self._source = source
        self._execution: Execution | None = None

    async def run(self) -> None:
        try:
            while True:
                task_errors = None
                try:
                    async with trio.open_nursery() as nursery:
                        if not await self._run_in(nursery):
                            return
                except trio.Cancelled:
                    raise
                except BaseExceptionGroup as group:
                    if self._execution is None:  # raised by the source
                        raise
                    task_errors = group
                await self._conclude(task_errors)
        finally:
            if self._execution is not None:
                await self._finish(Ending(RunStatus.INTERRUPTED))

    async def _run_in(self, nursery: trio.Nursery) -> bool:
        """Execute runs; return True if the nursery has to be closed, False if no run is left."""
        while True:
            if self._execution is None:
                self._execution = await self._source.next()
                if self._execution is None:
                    return False
            if not await self._execution.attempt(nursery, self._source.suspended):
                self._source.suspended()  # closing the nursery waits
                return True
            await self._conclude(None)

    async def _conclude(self, task_errors: BaseExceptionGroup[BaseException] | None) -> None:
        """Finish the run after its attempt, or pause before the next attempt."""
        execution = self._execution
        assert execution is not None  # noqa: S101 - for mypy: an attempt has just ended
        ending = execution.conclude(task_errors)
        if ending is None:
            self._source.suspended()
            await execution.back_off()
        else:
            await self._finish(ending)

    async def _finish(self, ending: Ending) -> None:
        execution, self._execution = self._execution, None
        assert execution is not None  # noqa: S101 - for mypy: checked by the callers
        execution.output.close()
        await self._source.finish(execution, ending)


async def execute_runs(source: RunSource) -> None:
    """Execute the runs of a source, one after the other, until it has no more.

    If it is cancelled, the current run ends `interrupted`, when all its tasks have ended.
    """
    await _AgentTask(source).run()


def _printable(error: BaseException) -> BaseException:
    """Return the exception, or one in its place if it cannot so much as be printed."""
    try:
        traceback.format_exception(error)
    except Exception:
        return RuntimeError(f"{type(error).__name__}, which cannot be printed")
    return error


def _text_of(error: AgentError) -> str:
    """Return the text of an exception for a client; empty if it has none."""
    try:
        # It may have lone surrogates, which UTF-8 cannot encode.
        text = str(error).encode(errors="replace").decode()
    except Exception:
        return ""
    return cut_text(text, ERROR_BYTES)[0]


def _split(
    group: BaseExceptionGroup[BaseException],
) -> tuple[BaseExceptionGroup[trio.Cancelled] | None, BaseException | None]:
    """Split a group into its cancellations and the other exceptions."""
    try:
        return group.split(trio.Cancelled)
    except RecursionError:  # only a group made by an agent can be nested so deeply
        return None, RecursionError("exception groups nested too deep")
