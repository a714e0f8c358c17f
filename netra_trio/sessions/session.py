"""A session: one logical connection of a user, which outlives its sockets.

    session.offer(message, correlation_id)      # the reader: into the inbox, or refused
    with session.attach() as feed:              # the writer reads its events here
        ...

The agent task takes messages out of the inbox, admits them, and executes their runs:

    reader ─inbox─► agent task: admission ─► execution ─event log, feed─► writer

A session that has nothing to do has no task: the next message starts one.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any, Protocol

import trio

from netra_trio.agents.run import Agent
from netra_trio.ids import CorrelationId, new_session_id
from netra_trio.protocol.messages import RunStatus, WorkMessage
from netra_trio.protocol.problem import Problem
from netra_trio.services import Services
from netra_trio.sessions import refusals
from netra_trio.sessions.admission import Admission
from netra_trio.sessions.agent_task import AgentTasks
from netra_trio.sessions.duplicates import Duplicates
from netra_trio.sessions.event_feed import EventFeed
from netra_trio.sessions.event_stream import EventStream
from netra_trio.sessions.inbox import INBOX_MESSAGES, Inbox, Work
from netra_trio.sessions.runner import LiveRun, Runner
from netra_trio.sessions.users import User
from netra_trio.telemetry.log_context import set_log_context


class SessionClient(Protocol):
    """The newest connection of a session, as far as the session needs it."""

    async def refuse(self, problem: Problem, correlation_id: str | None = None) -> None:
        """Send an error."""
        ...


class Session:
    """One session of one user.

    Args:
        user: The user.
        permissions: What the user's token allows.
        agents: The agents by name; the first one is the default.
        services: The settings, the store and the instruments.
        acknowledging: Whether the client acknowledges events.
        wake: Has `serve` called in a task of its own: there is a message.
        is_anonymous: Whether its user has no other name than this session.

    Attributes:
        id: Its id, which cannot be guessed.
        events: What its client gets.
        opened_at: When it began, on Trio's clock.
        is_lost: Whether its last connection was lost, and not closed by its client.
        context: The context variables of its tasks: its id and its user, for the log.
        client: The newest connection; None while there is none.
        traceparent: Of the newest opening, for its runs.
    """

    __slots__ = (
        "_admission",
        "_agents",
        "_closing",
        "_duplicates",
        "_inbox",
        "_nursery",
        "_over",
        "_runner",
        "_tasks",
        "_wake",
        "client",
        "context",
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
    ) -> None:
        settings, instruments = services.settings, services.instruments
        self.id = new_session_id()
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
        self._over: trio.Event | None = None  # set when it rests or is closed
        self.context = copy_context()
        self._inbox = Inbox()
        self._runner = Runner(
            user=user,
            events=self.events,
            store=services.store,
            settings=settings,
            instruments=instruments,
            wall_clock=services.wall_clock,
            execute=self._execute,
            spawn=self._spawn,
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
            settings=settings,
            metrics=instruments.metrics,
            wall_clock=services.wall_clock,
            spawn=self._spawn,
            tell=self._tell,
        )
        self._tasks = AgentTasks(
            self,
            inbox=self._inbox,
            admission=self._admission,
            runner=self._runner,
            instruments=instruments,
            spawn=self._spawn,
        )

    # What a connection does.

    def offer(self, message: WorkMessage, correlation_id: CorrelationId | None) -> None:
        """Put a message into the inbox, without waiting.

        Raises:
            Refused: With the reason; the message was not taken.
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

    async def _tell(self, problem: Problem, correlation_id: CorrelationId | None) -> None:
        """Send an error; without a connection nobody is there, and the client asks again."""
        if self.client is not None:
            await self.client.refuse(problem, correlation_id)

    @contextmanager
    def attach(self) -> Iterator[EventFeed]:
        """Give a connection the session's events, in place of any other connection."""
        try:
            with self.events.attach() as feed:
                yield feed
        finally:
            if not self.events.is_attached:
                self.client = None

    # Its life.

    async def serve(self) -> None:
        """Execute runs until the session rests or is closed.

        Cancelled, or where it fails, it closes the session.
        """
        set_log_context(session_id=self.id, user_id=self.user.id)
        self.context = copy_context()
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._over = over = trio.Event()
                try:
                    await self._tasks.lead()
                    await over.wait()
                except BaseException:  # cancelled, or a fault: in either case it is over
                    self.close(RunStatus.INTERRUPTED)
                    raise
        finally:
            if self._closing is not None:
                self._disconnect_parts()

    def rest(self) -> bool:
        """End the agent task if there is nothing to do; return whether there was one to end."""
        if self._nursery is None or not self._tasks.are_idle(len(self._nursery.child_tasks)):
            return False
        self._tasks.dismiss()
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
        """Wait until no run is active or waits. Cancelling is safe."""
        await self._runner.wait_idle()

    def drain(self) -> None:
        """Start no run any more: the waiting ones end `interrupted`, new messages are refused."""
        self._admission.stop(RunStatus.INTERRUPTED)
        self._runner.start_none(RunStatus.INTERRUPTED, draining=True)

    def interrupt(self) -> None:
        """Cancel the active runs; they end `interrupted`."""
        self._runner.stop_all(RunStatus.INTERRUPTED)

    def abandon_overdue(self) -> None:
        """Write the end of each run that was cancelled and whose tasks do not end in time."""
        self._runner.abandon_overdue()

    async def abandon(self) -> None:
        """Write the end of every active run, whatever its tasks still do."""
        await self._runner.abandon()

    def close(self, status: RunStatus = RunStatus.CANCELLED) -> None:
        """End the session: its runs end with `status`, then its agent task ends."""
        if self._closing is not None:
            return
        self._closing = status
        self._admission.stop(status)
        self._duplicates.close()
        self._runner.start_none(status)
        self._runner.stop_all(status)
        if self._nursery is not None and len(self._inbox):
            self._tasks.ensure_leader()  # the messages in the inbox are refused
        if self._inbox.is_open:  # then `serve` runs, or is about to
            self._inbox.close()
            self._end_serving()
        else:
            self._disconnect_parts()

    def _disconnect_parts(self) -> None:
        """Drop the references from its parts back to the session.

        Without this every ended session would be cyclic garbage: a collection that has thousands of
        them to free stops the event loop.
        """
        self._runner.disconnect()
        self._duplicates.disconnect()
        self._admission.disconnect()
        self._tasks.disconnect()

    def _end_serving(self) -> None:
        if self._over is not None:
            self._over.set()
            self._over = None

    def statistics(self) -> dict[str, int]:
        """Return how many runs are active and wait, and how much the event log holds."""
        return {**self._runner.statistics(), **self.events.statistics()}

    def _execute(self, live: LiveRun) -> None:
        self._tasks.execute(live)

    def _spawn(self, function: Callable[..., Any], *args: object) -> None:
        # A session with a run to start or to end has a nursery: it does not rest with one.
        assert self._nursery is not None  # noqa: S101 - for mypy, see above
        # In the session's own context: the caller may be another connection, with ids of its own.
        self.context.run(self._nursery.start_soon, function, *args)
