"""One run of an agent: its events, its tools, its deadline, and exactly one ending.

An agent is an async function of a `Run`:

    async def shout(run: Run) -> str:
        for word in run.content.upper().split():
            await run.emit(word + " ")
        return run.content.upper()
"""

import random
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from math import ceil, inf
from typing import Any, Protocol

import structlog
import trio
from attrs import define, evolve
from orjson import Fragment, dumps, loads

from netra_trio.codes import ErrorCode
from netra_trio.errors import RetryableAgentError, ToolError, problem
from netra_trio.facts import Fact, ToolEnded, ToolStarted
from netra_trio.ids import (
    CorrelationId,
    MessageId,
    RunId,
    ThreadId,
    UserId,
    new_error_id,
    new_tool_call_id,
)
from netra_trio.interfaces import HISTORY_TEXT_BYTES, Store
from netra_trio.protocol.messages import (
    AgentStarted,
    AgentThinking,
    Event,
    HistoryMessage,
    JsonObject,
    PartialResult,
    RunStatus,
    ToolCompleted,
    ToolExecuting,
)
from netra_trio.protocol.text import (
    EVENT_BYTES,
    PIECE_CHARACTERS,
    cut_json,
    cut_text,
    json_size,
    pieces,
)
from netra_trio.tracing import TRACEPARENT
from netra_trio.values import frozen

ATTEMPTS = 3  # the contract's bound, api.md
STEP_MAX = 2**53 - 1  # what every JSON reader keeps exact; a plan has fewer steps
TOOL_NAME_BYTES = 256  # of a label; an event's bounds are for its arguments
BACK_OFF = 1.0  # seconds before the second attempt, at most; doubles with each

_log = structlog.get_logger(__name__)


class Outlet(Protocol):
    """Where a run's events go: its session."""

    async def wait_for_room(self, size: int) -> None:
        """Wait until an event of `size` bytes fits; cancelling is safe."""
        ...

    def append(self, event: Event, size: int, correlation_id: CorrelationId) -> None:
        """Append an event for which there is room."""
        ...


@frozen
class RunSpec:
    """What a run is to do.

    Attributes:
        content: The user's text; of an `agent_request`, its input as text.
        input: The whole payload of an `agent_request`; None for a `user_message`.
        timeout: Seconds from the first `agent_started` to `timed_out`.
        received: When the message came, on Trio's clock.
    """

    run_id: RunId
    user_id: UserId
    permissions: frozenset[str]
    thread_id: ThreadId
    correlation_id: CorrelationId
    agent_name: str
    agent: "Agent"
    content: str
    input: JsonObject | None
    timeout: float
    received: float = 0.0


@define
class Tool:
    """A tool at work: set `result` to what it found, any JSON."""

    name: str
    result: Any = None


class Run:
    """What an agent sees of its run: the question, and the ways to answer.

    Attributes:
        id: The run's id.
        user: The id of the user who asked.
        permissions: What the user's token allows.
        thread_id: The thread it belongs to.
        correlation_id: Of the message that started it.
        content: The user's text; of an `agent_request`, its input as text.
        input: The whole payload of an `agent_request`, None for a `user_message`.
        attempt: 1, 2 or 3.
        deadline: When the run ends `timed_out`, on Trio's clock.
        nursery: For work side by side. The run goes on until its tasks have ended.
        traceparent: The run's trace, to hand on as the header of that name; None where there is
            none.
    """

    def __init__(
        self,
        spec: RunSpec,
        *,
        attempt: int,
        deadline: float,
        nursery: trio.Nursery,
        output: "Output",
        store: Store,
        note: Callable[[Fact], None],
    ) -> None:
        self.id = spec.run_id
        self.user = spec.user_id
        self.permissions = spec.permissions
        self.thread_id = spec.thread_id
        self.correlation_id = spec.correlation_id
        self.content = spec.content
        self.input = spec.input
        self.attempt = attempt
        self.deadline = deadline
        self.nursery = nursery
        self.traceparent = TRACEPARENT.get()
        self._output = output
        self._store = store
        self._note = note

    async def emit(self, text: str) -> None:
        """Send a piece of the answer; waits while the client cannot keep up.

        A long text goes out as several events. Cancelling is safe: what was sent stays sent.

        Raises:
            TypeError: If `text` is no string.
            ValueError: If `text` cannot be encoded as UTF-8.
            trio.ClosedResourceError: If the run has ended.
        """
        if not isinstance(text, str):
            raise TypeError(f"emit takes a str, got {type(text).__name__}")
        if not text:
            await trio.lowlevel.checkpoint()  # a loop of nothing lets others run all the same
        elif len(text) <= PIECE_CHARACTERS:  # as a token of a model is
            await self._output.say(self.id, text)
        else:
            for piece in pieces(text):
                await self._output.say(self.id, piece)

    async def think(
        self, thought: str, *, step: int | None = None, total: int | None = None
    ) -> None:
        """Show a thought on the way to the answer; `step` of `total`, where there is a plan.

        Raises:
            TypeError: If `thought` is no string, or a step no integer.
            ValueError: If `thought` cannot be encoded as UTF-8, or a step is out of all bounds.
            trio.ClosedResourceError: If the run has ended.
        """
        if not isinstance(thought, str):
            raise TypeError(f"think takes a str, got {type(thought).__name__}")
        _check_step(step)
        _check_step(total)
        for piece in pieces(thought):
            event = AgentThinking(self.id, piece, step, total)
            await self._output.put(event, json_size(piece))

    @asynccontextmanager
    async def tool(self, name: str, /, **arguments: Any) -> AsyncIterator[Tool]:
        """Show a tool at work while the block runs.

        Set the `result` of what you get. A `ToolError` raised in the block shows its text to the
        client and goes on out, as does any other exception, whose text is not shown. A block that
        is cancelled shows no end: the run's own end closes it.

        Raises:
            TypeError: If the name is no string, or arguments or result cannot be written as JSON.
            ValueError: If the name is too long, or cannot be encoded as UTF-8.
            trio.ClosedResourceError: If the run has ended.
        """
        _check_tool_name(name)
        call_id = new_tool_call_id()
        shown, truncated = cut_json(arguments, EVENT_BYTES)
        executing = ToolExecuting(self.id, call_id, name, Fragment(shown), truncated or None)
        await self._output.put(executing, len(shown))
        tool = Tool(name)
        started = trio.current_time()
        self._note(ToolStarted(self.id, call_id, name))

        async def complete(result: Any = None, error: str | None = None) -> None:
            shown, truncated = cut_json(result if error is None else error, EVENT_BYTES)
            event = ToolCompleted(
                self.id,
                call_id,
                name,
                error is None,
                milliseconds(trio.current_time() - started),
                Fragment(shown) if error is None else None,
                None if error is None else loads(shown),
                truncated or None,
            )
            await self._output.put(event, len(shown))

        outcome = "cut_off"
        try:
            try:
                yield tool
                outcome = "completed"
            except Exception:
                outcome = "failed"
                raise
            finally:  # before the client is told, which may have to wait
                self._note(ToolEnded(call_id, outcome, trio.current_time() - started))
        except ToolError as error:
            # A file name in it may have lone surrogates, which are no text.
            await complete(error=str(error).encode(errors="replace").decode())
            raise
        except Exception:
            await complete(error="The tool failed.")
            raise
        await complete(tool.result)

    async def history(self, limit: int = 50) -> Sequence[HistoryMessage]:
        """Return up to `limit` earlier messages of the thread, oldest first, without this one.

        Messages that wait for their run are left out: they are the conversation's future.

        Raises:
            StoreUnavailable: If the store cannot answer now.
        """
        earlier: list[HistoryMessage] = []
        before: MessageId | None = None
        while len(earlier) < limit:
            page = await self._store.history(
                self.user, self.thread_id, limit=limit + 1, before=before
            )
            messages, has_more = page if page is not None else ((), False)
            earlier[:0] = [message for message in messages if self._is_past(message)]
            if not has_more:
                break
            before = messages[0].message_id
        return earlier[max(0, len(earlier) - limit) :]

    def _is_past(self, message: HistoryMessage) -> bool:
        run = message.run
        return run is None or (run.run_id != self.id and run.status is not RunStatus.QUEUED)


Agent = Callable[[Run], Awaitable[Any]]
"""An agent: an async function of a `Run`; what it returns is the run's result, any JSON."""


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


class Output:
    """A run's way to its outlet, open until the run ends, and the text that went that way."""

    def __init__(self, outlet: Outlet, correlation_id: CorrelationId) -> None:
        self._outlet = outlet
        self._correlation_id = correlation_id
        self._chunks: list[str] = []
        self._bytes = 0
        self._closed = False

    async def put(self, event: Event, size: int) -> None:
        """Append an event when there is room for it."""
        await self._outlet.wait_for_room(size)
        if self._closed:
            raise trio.ClosedResourceError("the run has ended")
        self._outlet.append(event, size, self._correlation_id)

    async def say(self, run_id: RunId, text: str) -> None:
        """Append a delta when there is room for it, and remember as much as a result may have."""
        size = json_size(text)
        await self.put(PartialResult(run_id, text), size)
        if self._bytes <= EVENT_BYTES:
            self._chunks.append(text)
            self._bytes += size

    def close(self) -> None:
        """Let nothing more out: the fence behind which the end is written."""
        self._closed = True

    @property
    def has_text(self) -> bool:
        """Whether something was emitted."""
        return bool(self._chunks)

    @property
    def text(self) -> str:
        """What was emitted, joined."""
        return "".join(self._chunks)


class Execution:
    """A run from its first event until its ending is known; the session writes the end itself."""

    def __init__(
        self,
        spec: RunSpec,
        outlet: Outlet,
        store: Store,
        wall_clock: Callable[[], float],
        *,
        note: Callable[[Fact], None] = lambda _: None,
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


def history_text(text: str) -> tuple[str, bool]:
    """Return an agent's text as history keeps it, and whether it was cut."""
    return cut_text(text, HISTORY_TEXT_BYTES)


def milliseconds(seconds: float) -> int:
    """Return whole milliseconds, rounded up."""
    return ceil(seconds * 1000)


def content_of(input_: JsonObject | str) -> str:
    """Return an `agent_request`'s input as text: itself, or its JSON."""
    return input_ if isinstance(input_, str) else dumps(input_).decode()


def _check_step(step: int | None) -> None:
    if step is None:
        return
    if type(step) is not int:
        raise TypeError(f"a step is an int, got {type(step).__name__}")
    if abs(step) > STEP_MAX:
        raise ValueError(f"a step is at most {STEP_MAX}, got {step}")


def _check_tool_name(name: str) -> None:
    if not isinstance(name, str):
        raise TypeError(f"a tool's name is a str, got {type(name).__name__}")
    if json_size(name) > TOOL_NAME_BYTES:
        raise ValueError(f"a tool's name has at most {TOOL_NAME_BYTES} bytes")


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
