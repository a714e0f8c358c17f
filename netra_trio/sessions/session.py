"""A session: one logical connection of a user, which outlives its WebSocket connections.

    session.offer(message, correlation_id)      # in the reader; raises `Refused`
    with session.attach() as feed:              # the writer reads the events from the feed
        ...

The agent task takes messages out of the inbox, admits them, and executes their runs:

    reader ─inbox─► agent task: admission ─► execution ─event log, feed─► writer

A suspended session has no task; its next message starts one.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from typing import Any, Protocol

import trio

from netra_trio.agents.run import Agent, RunSpec
from netra_trio.ids import CorrelationId, SessionId, ThreadId, new_session_id, new_thread_id
from netra_trio.protocol.messages import RunStatus, WorkMessage
from netra_trio.protocol.problem import Problem
from netra_trio.services import Services
from netra_trio.sessions import refusals
from netra_trio.sessions.admission import Admission
from netra_trio.sessions.agent_task import AgentTasks
from netra_trio.sessions.duplicates import Duplicates
from netra_trio.sessions.event_feed import EventFeed
from netra_trio.sessions.event_stream import EventStream
from netra_trio.sessions.inbox import INBOX_MESSAGES, Adopted, Inbox, Work
from netra_trio.sessions.notifications import RunNotifications
from netra_trio.sessions.runner import LiveRun, Runner
from netra_trio.sessions.users import User
from netra_trio.telemetry.log_context import set_log_context


class SessionClient(Protocol):
    """The part of a connection that its session uses."""

    async def send_error(self, problem: Problem, correlation_id: str | None = None) -> None:
        """Send an error to the client."""
        ...


class Session:
    """One session of one user.

    Args:
        user: The user.
        permissions: The permissions of the user's token.
        agents: The agents by name; the first one is the default.
        services: The services of the application.
        acknowledging: Whether the client acknowledges events.
        wake: Starts a task that calls `serve`; called for a message without one.
        is_anonymous: Whether the user was not authenticated.
        session_id: Its id, if it was opened on another node; otherwise a new one.
        default_thread: The thread of messages that name none; a new one by default.

    Attributes:
        id: The session id, which cannot be guessed.
        events: The events for its client.
        opened_at: When it was created, on Trio's clock.
        is_lost: Whether its last connection was lost, not closed by the client.
        context: The context variables of its tasks: the ids of the session and its user, for the
            log.
        client: The newest connection; None if there is none.
        traceparent: The trace of the newest upgrade, for its runs.
    """

    __slots__ = (
        "_admission",
        "_agents",
        "_closing",
        "_duplicates",
        "_inbox",
        "_nursery",
        "_runner",
        "_serving_ended",
        "_tasks",
        "_wake",
        "client",
        "context",
        "default_thread",
        "events",
        "id",
        "is_anonymous",
        "is_lost",
        "opened_at",
        "permissions",
        "traceparent",
        "user",
    )

    def __init__(
        self,
        *,
        user: User,
        permissions: frozenset[str],
        agents: Mapping[str, Agent],
        services: Services,
        acknowledging: bool,
        wake: Callable[["Session"], None],
        is_anonymous: bool = False,
        session_id: SessionId | None = None,
        default_thread: ThreadId | None = None,
    ) -> None:
        settings, instruments = services.settings, services.instruments
        self.id = session_id or new_session_id()
        self.default_thread = default_thread or new_thread_id()
        self.user = user
        self.is_anonymous = is_anonymous
        self.permissions = permissions
        self.opened_at = trio.current_time()
        self.is_lost = False
        self.client: SessionClient | None = None
        self.traceparent: str | None = None
        self.events = EventStream(
            settings,
            acknowledging=acknowledging,
            wall_clock=services.wall_clock,
            metrics=instruments.metrics,
        )
        self._agents = agents
        self._wake = wake
        self._closing: RunStatus | None = None
        self._nursery: trio.Nursery | None = None
        self._serving_ended: trio.Event | None = None  # set when it is suspended or closed
        self.context = copy_context()
        self._inbox = Inbox()
        changed = partial(services.threads.note, self.id)  # without a reference to the session
        self._runner = Runner(
            user=user,
            events=self.events,
            store=services.store,
            publisher=services.publisher,
            files=services.files,
            settings=settings,
            instruments=instruments,
            wall_clock=services.wall_clock,
            execute=self._execute,
            spawn=self._spawn,
            session_id=self.id,
            changed=changed,
            notifications=RunNotifications(services.notifier),
            usage=services.budgets,
        )
        self._duplicates = Duplicates(
            self.id,
            user=user,
            events=self.events,
            runner=self._runner,
            store=services.store,
            spawn=self._spawn,
        )
        self._admission = Admission(
            user=user,
            agents=agents,
            events=self.events,
            runner=self._runner,
            duplicates=self._duplicates,
            store=services.store,
            files=services.files,
            settings=settings,
            metrics=instruments.metrics,
            wall_clock=services.wall_clock,
            spawn=self._spawn,
            send_error=self._send_error,
            default_thread=self.default_thread,
            changed=changed,
            shared=services.admission,
            budgets=services.budgets,
        )
        self._tasks = AgentTasks(
            self,
            inbox=self._inbox,
            admission=self._admission,
            runner=self._runner,
            instruments=instruments,
            spawn=self._spawn,
        )

    # For its connection.

    def offer(self, message: WorkMessage, correlation_id: CorrelationId | None) -> None:
        """Put a message into the inbox, without waiting.

        Raises:
            Refused: With the reason.
        """
        if self._admission.is_stopped:
            raise refusals.draining()
        refusals.check_agent(message, self._agents)
        if not self.events.reserve():
            raise refusals.queue_full("too many messages whose end you have not acknowledged")
        was_open = self._inbox.is_open
        if not self._inbox.offer(Work(message, correlation_id, trio.current_time())):
            self.events.release()
            raise refusals.queue_full(f"{INBOX_MESSAGES} messages wait to be admitted")
        if not was_open:
            self._wake(self)
        elif self._nursery is not None:
            self._tasks.ensure_leader()

    def adopt(self, spec: RunSpec) -> None:
        """Continue a run that waited on another node, in the order of the calls."""
        was_open = self._inbox.is_open
        self._inbox.offer(Adopted(spec))  # at most as many as one session may have
        if not was_open:
            self._wake(self)

    async def _send_error(self, problem: Problem, correlation_id: CorrelationId | None) -> None:
        """Send an error; dropped without a connection: the client sends the message again."""
        if self.client is not None:
            await self.client.send_error(problem, correlation_id)

    @contextmanager
    def attach(self) -> Iterator[EventFeed]:
        """Attach a connection, which replaces any other; yield the feed of its events."""
        try:
            with self.events.attach() as feed:
                yield feed
        finally:
            if not self.events.is_attached:
                self.client = None

    # Its tasks.

    async def serve(self) -> None:
        """Execute runs until the session is suspended or closed.

        A cancellation or an exception closes the session.
        """
        set_log_context(session_id=self.id, user_id=self.user.id)
        self.context = copy_context()
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._serving_ended = ended = trio.Event()
                try:
                    await self._tasks.lead()
                    await ended.wait()
                except BaseException:  # also when it is cancelled
                    self.close(RunStatus.INTERRUPTED)
                    raise
        finally:
            # A session that was closed after it was suspended has done so.
            if self._closing is not None and self._nursery is not None:
                self._disconnect_parts()

    def suspend(self) -> bool:
        """End the agent task if the session is idle; return whether it was ended."""
        if self._nursery is None or not self._tasks.are_idle(len(self._nursery.child_tasks)):
            return False
        self._tasks.clear_leader()
        self._inbox.close()
        self._end_serving()
        self._nursery = None
        return True

    @property
    def is_idle(self) -> bool:
        """Whether no run is active or waits."""
        return self._runner.is_idle

    @property
    def is_closing(self) -> bool:
        """Whether it was closed."""
        return self._closing is not None

    async def wait_idle(self) -> None:
        """Wait until no run is active or waits; while it is held, runs may wait.

        Cancelling is safe.
        """
        await self._runner.wait_idle()

    def drain(self) -> None:
        """Start no more runs: waiting runs end `interrupted`, and new messages are refused."""
        self._admission.stop(RunStatus.INTERRUPTED)
        self._runner.stop_starting(RunStatus.INTERRUPTED, draining=True)

    @property
    def is_quiet(self) -> bool:
        """Whether it can move to another node: no message is in the inbox and no run is at work.

        Runs may wait while the session is held.
        """
        return not len(self._inbox) and self._runner.is_settled

    @property
    def is_held(self) -> bool:
        """Whether messages are refused and no run starts, because the session may move."""
        return self._admission.is_held

    def hold(self) -> None:
        """Refuse messages and start no run, so that the session can move to another node."""
        self._admission.hold()
        self._runner.hold_waiting()

    def unhold(self) -> None:
        """Go on, because the session does not move."""
        self._admission.unhold()
        self._runner.resume_waiting()

    def surrender(self) -> list[RunSpec]:
        """Remove the waiting runs without ending them, and return them in order."""
        return self._runner.surrender()

    def interrupt(self) -> None:
        """Cancel all active runs; they end `interrupted`."""
        self._runner.stop_all(RunStatus.INTERRUPTED)

    def abandon_overdue(self) -> None:
        """Finish each run whose tasks have not ended in time after a cancellation."""
        self._runner.abandon_overdue()

    async def abandon(self) -> None:
        """Finish all active runs, even if their tasks are still running."""
        await self._runner.abandon()

    def leave(self) -> int:
        """Continue without a client, for the runs that outlive the session; end its other runs.

        New messages are refused, and no event is kept. The session closes when its last run has
        ended.

        Returns:
            The number of runs that continue. With 0 nothing has changed, and the caller has to
            `close` the session.
        """
        unattended = 0 if self.is_closing else self._runner.unattended
        if not unattended:
            return 0
        is_draining = self.is_held
        self._admission.leave()
        self._duplicates.close()
        self.events.drop()
        self._runner.leave()
        if is_draining:
            self._runner.stop_starting(RunStatus.INTERRUPTED, draining=True)
        if len(self._inbox):
            self._tasks.ensure_leader()  # it refuses the messages in the inbox
        self._inbox.close()
        self._spawn(self._close_when_idle)
        return unattended

    async def _close_when_idle(self) -> None:
        await self._runner.wait_idle()
        self.close()

    def close(self, status: RunStatus = RunStatus.CANCELLED) -> None:
        """End the session: its runs end with `status`, and then its agent task ends."""
        if self._closing is not None:
            return
        self._closing = status
        self._admission.stop(status)
        self._duplicates.close()
        self._runner.stop_starting(status)
        self._runner.stop_all(status)
        if self._nursery is not None and len(self._inbox):
            self._tasks.ensure_leader()  # it refuses the messages in the inbox
        # `serve` is running, or is about to run.
        if self._inbox.is_open or self._serving_ended is not None:
            self._inbox.close()
            self._end_serving()
        else:
            self._disconnect_parts()

    def _disconnect_parts(self) -> None:
        """Drop the references from its parts back to the session.

        Otherwise each ended session would be cyclic garbage, and a garbage collection that frees
        thousands of sessions would block the event loop.
        """
        self._runner.disconnect()
        self._duplicates.disconnect()
        self._admission.disconnect()
        self._tasks.disconnect()

    def _end_serving(self) -> None:
        if self._serving_ended is not None:
            self._serving_ended.set()
            self._serving_ended = None

    def statistics(self) -> dict[str, int]:
        """Return the numbers of active and waiting runs, of messages in the inbox, and its log."""
        return {
            "inbox": len(self._inbox),
            **self._runner.statistics(),
            **self.events.statistics(),
        }

    @property
    def live_runs(self) -> list[LiveRun]:
        """Its runs that have not ended."""
        return self._runner.live_runs

    def _execute(self, live: LiveRun) -> None:
        self._tasks.execute(live)

    def _spawn(self, function: Callable[..., Any], *args: object) -> None:
        # A session with a live run has a nursery: it is not suspended.
        assert self._nursery is not None  # noqa: S101 - for mypy, see above
        # In the context of the session: the caller may be a connection with other ids in its log.
        self.context.run(self._nursery.start_soon, function, *args)
