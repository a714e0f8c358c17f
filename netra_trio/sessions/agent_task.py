"""The agent tasks of a session: each one executes runs, one after the other.

One agent task is the leader: it receives messages from the inbox, admits them, and executes the
runs that it admits. When such a run waits for something, the task stops being the leader, and
another task becomes the leader when there is a message. So most messages need no new task, and a
run does not block the inbox.
"""

from collections.abc import Callable
from contextvars import Context
from typing import Protocol

import trio

from netra_trio.agents.execution import Ending, Execution, execute_runs
from netra_trio.ids import SessionId
from netra_trio.sessions.admission import Admission
from netra_trio.sessions.event_stream import EventStream
from netra_trio.sessions.inbox import Adopted, Inbox
from netra_trio.sessions.runner import LiveRun, Runner, raise_session_ended
from netra_trio.telemetry.events import RunStarted
from netra_trio.telemetry.instruments import Instruments
from netra_trio.telemetry.log_context import extend_log_context
from netra_trio.telemetry.trace_context import TRACEPARENT

RUNS_IN_A_ROW = 16  # without a checkpoint: about 2 ms of short runs


class OwningSession(Protocol):
    """The part of the session that its agent tasks use."""

    id: SessionId
    events: EventStream
    permissions: frozenset[str]
    traceparent: str | None
    context: Context


class AgentTasks:
    """The agent tasks of one session.

    Args:
        session: The session.
        inbox: The messages.
        admission: Admits them.
        runner: The runs.
        instruments: Receive the telemetry.
        spawn: Starts a task of the session.
    """

    __slots__ = (
        "_first",
        "_spawn",
        "admission",
        "executing",
        "inbox",
        "instruments",
        "is_waiting",
        "leader",
        "runner",
        "session",
    )

    def __init__(
        self,
        session: OwningSession,
        *,
        inbox: Inbox,
        admission: Admission,
        runner: Runner,
        instruments: Instruments,
        spawn: Callable[..., None],
    ) -> None:
        self.session = session
        self.inbox = inbox
        self.admission = admission
        self.runner = runner
        self.instruments = instruments
        self.leader: AgentTask | None = None
        self.is_waiting = False  # whether the leader waits for a message
        self.executing = 0  # runs
        self._first: AgentTask | None = None
        self._spawn = spawn

    async def lead(self) -> None:
        """Run the first agent task, until another one is the leader or the inbox is closed."""
        self._first = self.leader = AgentTask(self)
        await execute_runs(self.leader)

    def ensure_leader(self) -> None:
        """Start a leader, if there is none."""
        if self.leader is None:
            self.leader = AgentTask(self)
            self._spawn(execute_runs, self.leader)

    def are_idle(self, spawned: int) -> bool:
        """Whether the only task is the leader and it waits for a message, and no run is live.

        A run that waits for a run of another session has no task.

        Args:
            spawned: The number of tasks in the nursery of the session.
        """
        if not self.is_waiting or len(self.inbox) or self.executing or not self.runner.is_idle:
            return False
        return spawned == (self.leader is not self._first)

    def clear_leader(self) -> None:
        """Have no leader any more, because the inbox is closed."""
        self.leader = None
        self.is_waiting = False

    def execute(self, live: LiveRun) -> None:
        """Start a task that executes a run."""
        self._spawn(execute_runs, AgentTask(self, live))

    def disconnect(self) -> None:
        """Drop the references to the session, which has ended."""
        self._spawn = raise_session_ended
        self._first = self.leader = None
        del self.session

    def on_start(self, live: LiveRun) -> None:
        """Emit the telemetry event of a run's start; called in the context of the run."""
        spec, message = live.execution.spec, live.execution.spec.message
        extend_log_context(run_id=message.run_id, agent=message.agent_name)
        TRACEPARENT.set(self.session.traceparent)
        waited = round(trio.current_time() - spec.received, 3)
        started = RunStarted(message.run_id, message.agent_name, waited, self.session.id)
        self.instruments.note(started)


class AgentTask:
    """One agent task: the `RunSource` of the runs that it executes."""

    __slots__ = ("_first", "_in_a_row", "_live", "_tasks")

    def __init__(self, tasks: AgentTasks, first: LiveRun | None = None) -> None:
        self._tasks = tasks
        self._first = first
        self._live: LiveRun | None = None
        self._in_a_row = 0

    async def next(self) -> Execution | None:
        """Wait for the next run; None if another task is the leader or the inbox is closed."""
        tasks = self._tasks
        live, self._first = self._first, None
        if live is None:
            live = tasks.runner.take_due()
        if live is None:
            live = await self._lead()
        if live is None:
            return None
        self._live, execution = live, live.execution
        tasks.executing += 1
        tasks.session.events.note_running(live.id)
        execution.context.run(tasks.on_start, live)
        return execution

    async def _lead(self) -> LiveRun | None:
        """Receive and admit messages until this task has to execute a run."""
        tasks = self._tasks
        if tasks.leader is None and tasks.inbox.is_open:
            tasks.leader = self
        if tasks.leader is not self:
            return None
        if self._in_a_row >= RUNS_IN_A_ROW:
            self._in_a_row = 0
            await trio.lowlevel.checkpoint()
        self._in_a_row += 1
        session = tasks.session
        while True:
            tasks.is_waiting = not len(tasks.inbox)
            work = await tasks.inbox.receive()
            if work is None:
                if tasks.leader is self:
                    tasks.clear_leader()
                return None
            tasks.is_waiting = False
            context = session.context.copy()
            if isinstance(work, Adopted):
                live = tasks.admission.adopt(work.spec, context)
            else:
                live = await tasks.admission.admit(
                    work, permissions=session.permissions, context=context
                )
            if live is not None:
                return live

    def suspended(self) -> None:
        """Stop being the leader, because the run of this task waits for something."""
        self._in_a_row = 0
        if self._tasks.leader is self:
            self._tasks.leader = None
            if len(self._tasks.inbox):
                self._tasks.ensure_leader()

    async def finish(self, execution: Execution, ending: Ending) -> None:
        """Store the end of the run and append it to the events."""
        live, self._live = self._live, None
        self._tasks.executing -= 1
        assert live is not None and live.execution is execution  # noqa: S101, PT018 - for mypy
        await self._tasks.runner.finish(live, ending, self.suspended)
