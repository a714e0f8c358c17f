"""The runner: starts, stops and ends the runs of a session.

live = runner.register(spec, context)
runner.schedule(live, starts_at=now, interrupts=False)
live = runner.take_due()                # the calling agent task executes it
await runner.finish(live, ending)       # stores the end, then appends `agent_completed`
"""

from collections.abc import Callable
from contextvars import Context
from functools import partial
from math import inf

import structlog
import trio
from attrs import evolve

from netra_trio.agents.attachments import FileAccess
from netra_trio.agents.execution import Ending, Execution
from netra_trio.agents.output import Output, history_text
from netra_trio.agents.questions import listed
from netra_trio.agents.run import ChangeThread, RoomPublisher, RunSpec, milliseconds
from netra_trio.broker.threads import SharedAdmission
from netra_trio.config.settings import Settings
from netra_trio.ids import RunId, SessionId, new_message_id
from netra_trio.protocol.fields import JsonObject
from netra_trio.protocol.messages import RunStatus
from netra_trio.protocol.problem import Problem
from netra_trio.protocol.threads import ThreadChange
from netra_trio.sessions.event_stream import EventStream
from netra_trio.sessions.notifications import RunNotifications
from netra_trio.sessions.run_end import completed_payload, shorten_payload
from netra_trio.sessions.scheduler import AdmissionDecision, Scheduler
from netra_trio.sessions.thread_lines import Place
from netra_trio.sessions.users import User
from netra_trio.sessions.watched_thread import RunMirror
from netra_trio.stores.base import STORED, NewMessage, RunEnd, Store, StoredEnd
from netra_trio.stores.usage import UsageRecorder
from netra_trio.telemetry.events import RunEnded
from netra_trio.telemetry.instruments import Instruments

CONCURRENT_RUNS = 8  # of a session: docs/protocol.md, Limits
END_STORE_TIMEOUT = 2.0  # seconds: then the end of a run is sent without being stored
DRAIN_STORE_SHARE = 1 / 16  # of the time of a drain, instead: half of the time for sending ends
ABANDON_SECONDS = 2.0  # for the tasks of a cancelled run to end

_log = structlog.get_logger(__name__)


def raise_session_ended(*_: object) -> None:
    """Raise an error; replaces the functions of a session that has ended."""
    raise RuntimeError("the session has ended")


class LiveRun:
    """A run of a session that has not ended.

    Attributes:
        execution: Its execution.
        is_confirmed: Whether its message is confirmed; before that it may be refused.
        watchers: Called once with its end, for sessions that sent the same message again.
    """

    __slots__ = ("_runner", "execution", "is_confirmed", "watchers")

    def __init__(self, runner: "Runner", execution: Execution) -> None:
        self._runner = runner
        self.execution = execution
        self.is_confirmed = False
        self.watchers: dict[SessionId, Callable[[RunEnd], None]] = {}

    @property
    def id(self) -> RunId:
        """The id of the run."""
        return self.execution.spec.message.run_id

    @property
    def is_unattended(self) -> bool:
        """Whether it outlives its session."""
        return self.execution.spec.message.unattended

    @property
    def status(self) -> RunStatus:
        """`running` if the run has started, otherwise `queued`; the store has it a moment later."""
        return RunStatus.RUNNING if self.execution.attempts else RunStatus.QUEUED

    def stop(self, error: Problem | None = None) -> None:
        """Stop the run, whether it has started or not; its `agent_completed` is the reply.

        Args:
            error: Why, if the user has not asked for it.
        """
        self._runner.stop(self, error)

    # For connections that watch its thread.

    @property
    def message(self) -> NewMessage:
        """Its message."""
        return self.execution.spec.message

    @property
    def session_id(self) -> SessionId | None:
        """The session whose log has its events; None if there is none."""
        return self._runner.session_id

    @property
    def output(self) -> Output:
        """Its text and its steps."""
        return self.execution.output

    @property
    def open_questions(self) -> list[JsonObject]:
        """Its open questions, as `resume` lists them."""
        return self._runner.open_questions(self.id)

    def set_mirror(self, mirror: RunMirror | None) -> None:
        """Copy its events to a mirror from now on, or to none."""
        self.execution.output.mirror = mirror

    def confirmed(self) -> None:
        """Note that its message is confirmed."""
        self.is_confirmed = True
        mirror = self.execution.output.mirror
        if mirror is not None:
            mirror.confirm()


class Runner:
    """The live runs of one session.

    Args:
        user: The user, with the live runs of all sessions.
        events: Receives the events and the ends.
        store: Stores the ends.
        publisher: Publishes messages of agents to rooms.
        files: The files of users.
        settings: The limits.
        instruments: Receive the telemetry.
        wall_clock: Returns Unix seconds.
        execute: Starts an agent task that executes a run.
        spawn: Starts another task of the session.
        session_id: The session.
        changed: Called for each change of a thread by a run.
        notifications: Makes the notifications of runs that have left the session.
        usage: Records what the runs use; the store by default.

    Attributes:
        session_id: The session whose log keeps the events; None after the runs have left it.
    """

    __slots__ = (
        "_became_idle",
        "_changed",
        "_events",
        "_execute",
        "_files",
        "_instruments",
        "_is_draining",
        "_is_stopped",
        "_keeps_waiting",
        "_live",
        "_notifications",
        "_publisher",
        "_scheduler",
        "_settings",
        "_spawn",
        "_store",
        "_timer",
        "_usage",
        "_user",
        "_wall_clock",
        "session_id",
    )

    def __init__(
        self,
        *,
        user: User,
        events: EventStream,
        store: Store,
        publisher: RoomPublisher,
        files: FileAccess,
        settings: Settings,
        instruments: Instruments,
        wall_clock: Callable[[], float],
        execute: Callable[[LiveRun], None],
        spawn: Callable[..., None],
        changed: ChangeThread,
        session_id: SessionId | None = None,
        notifications: RunNotifications,
        usage: UsageRecorder | None = None,
    ) -> None:
        self.session_id = session_id
        self._notifications = notifications
        self._usage = usage
        self._user = user
        self._events = events
        self._store = store
        self._publisher = publisher
        self._files = files
        self._settings = settings
        self._instruments = instruments
        self._wall_clock = wall_clock
        self._execute = execute
        self._spawn = spawn
        self._changed = changed
        self._scheduler = Scheduler(
            user.threads, max_active=CONCURRENT_RUNS, max_waiting=settings.run_queue
        )
        self._live: dict[RunId, LiveRun] = {}
        self._became_idle: trio.Event | None = None  # exists only while a task waits for it
        self._timer: trio.CancelScope | None = None  # ends when the next rate slot is due
        self._is_stopped = False  # set by a drain, and when the session closes
        self._is_draining = False
        self._keeps_waiting = False

    def disconnect(self) -> None:
        """Drop the references to the session, which has ended."""
        self._execute = self._spawn = raise_session_ended

    # Before a run starts.

    def register(self, spec: RunSpec, context: Context) -> LiveRun:
        """Add a run before its message is recorded, so that each recorded run can be found."""
        execution = Execution(
            spec,
            self._events,
            self._store,
            self._wall_clock,
            publisher=self._publisher,
            files=self._files,
            context=context,
            open_questions=self._user.questions,
            note=self._instruments.note,
            changed=self._changed,
            notification_of=partial(self._notifications.of_question, spec.message),
            usage=self._usage,
        )
        live, message = LiveRun(self, execution), spec.message
        self._live[message.run_id] = self._user.runs[message.run_id] = live
        watched = self._user.watched.get((message.user_id, message.thread_id))
        if watched is not None:
            watched.add(live)
        return live

    def forget(self, live: LiveRun) -> None:
        """Remove a run that has ended, or whose message was not recorded."""
        run_id = live.id
        del self._live[run_id]
        self._user.runs.pop(run_id, None)
        mirror = live.execution.output.mirror
        if mirror is not None:
            mirror.detach()
        self._scheduler.ended(run_id)
        if self._became_idle is not None and self.is_settled:
            self._became_idle.set()
            self._became_idle = None

    def open_questions(self, run_id: RunId) -> list[JsonObject]:
        """Return the open questions of a run, as `resume` lists them."""
        questions = self._user.questions.values()
        return [listed(each.asking) for each in questions if each.asking.run_id == run_id]

    def has(self, run_id: RunId) -> bool:
        """Whether this is a live run of this session."""
        return run_id in self._live

    def enter(self, live: LiveRun, *, first: bool, shared: SharedAdmission | None) -> Place:
        """Enter a run into the line of its thread, before its message is recorded.

        Args:
            live: The run; `forget` removes it.
            first: Whether it comes next, ahead of the runs that are not active.
            shared: Keeps the line over all nodes; None if this process decides alone.
        """
        message = live.execution.spec.message
        return self._scheduler.enter(
            message.run_id, message.thread_id, self, first=first, shared=shared
        )

    def decide(
        self, live: LiveRun, *, starts_at: float, now: float, reject_if_busy: bool
    ) -> AdmissionDecision:
        """Return whether an entered run would start, wait or be refused.

        Args:
            live: The run.
            starts_at: When the message rate allows it to start.
            now: The time on Trio's clock, as `starts_at`.
            reject_if_busy: Whether to refuse it if the thread has another run.
        """
        return self._scheduler.decide(
            live.id, starts_at=starts_at, now=now, reject_if_busy=reject_if_busy
        )

    def schedule(
        self, live: LiveRun, *, starts_at: float, interrupts: bool
    ) -> tuple[bool, int | None]:
        """Schedule an entered run: it starts when its thread and a place are free, and when due.

        Returns:
            Whether the caller has to execute it now. If not: its position, from 1, or None if
            another task executes it.
        """
        run_id, now, scheduler = live.id, trio.current_time(), self._scheduler
        if not self._is_stopped and scheduler.start_if_free(run_id, starts_at=starts_at, now=now):
            return True, None
        scheduler.add(run_id, starts_at=starts_at, first=interrupts)
        due = self._start_due(now, but=live)
        return due, None if due else scheduler.position(run_id)

    def take_due(self) -> LiveRun | None:
        """Return a run that is due, which the caller has to execute; start other due runs."""
        due = self._due(trio.current_time())
        for live in due[1:]:
            self._execute(live)
        return due[0] if due else None

    # While it runs.

    def stop(self, live: LiveRun, error: Problem | None = None) -> None:
        """Stop a run, whether it has started or not; with the error that says why."""
        if error is None:
            self._events.start_stop_timer(live.id)
        self._stop(live, error)

    def _stop(self, live: LiveRun, error: Problem | None = None) -> None:
        if self._scheduler.withdraw(live.id):
            ending = live.execution.unstarted(RunStatus.CANCELLED, error)
            self._spawn(self.finish, live, ending)
            self._set_timer(trio.current_time())  # other runs may be due now
        else:
            live.execution.stop(RunStatus.CANCELLED, error)

    @property
    def unattended(self) -> int:
        """The number of live runs that outlive the session."""
        return sum(live.is_unattended for live in self._live.values())

    def leave(self) -> None:
        """Continue the runs that outlive the session; stop all others."""
        self.session_id = None
        for live in self._live.values():
            if not live.is_unattended:
                self._stop(live)
        self._notifications.leave(
            live.execution for live in self._live.values() if live.is_unattended
        )

    def stop_all(self, status: RunStatus) -> None:
        """Cancel all active runs; they end with `status`."""
        for live in self._live.values():
            live.execution.stop(status)

    def hold_waiting(self) -> None:
        """Start no more runs; the waiting runs stay, for another node."""
        self._is_stopped = self._keeps_waiting = True

    def resume_waiting(self) -> None:
        """Start runs again, after `hold_waiting`."""
        self._is_stopped = self._keeps_waiting = False
        self.start_due()

    def surrender(self) -> list[RunSpec]:
        """Remove the waiting runs without ending them, and return their specifications."""
        waiting = [
            self._live[RunId(run_id)] for run_id in self._scheduler.withdraw_all(moving=True)
        ]
        for live in waiting:
            self.forget(live)
        return [live.execution.spec for live in waiting]

    def stop_starting(self, status: RunStatus, *, draining: bool = False) -> None:
        """Start no more runs; the waiting runs end with `status`."""
        self._is_stopped = True
        self._keeps_waiting = False
        self._is_draining |= draining
        if self._timer is not None and not draining:
            self._timer.cancel()
        for run_id in self._scheduler.withdraw_all():
            self._spawn(self.finish, self._live[RunId(run_id)], Ending(status))

    @property
    def is_idle(self) -> bool:
        """Whether no run is live."""
        return not self._live

    @property
    def is_settled(self) -> bool:
        """Whether no run is live, except those that wait for another node."""
        kept = self._scheduler.statistics()["waiting"] if self._keeps_waiting else 0
        return len(self._live) <= kept

    async def wait_idle(self) -> None:
        """Wait until no run is live, except those that wait for another node.

        Cancelling is safe.
        """
        while not self.is_settled:
            if self._became_idle is None:
                self._became_idle = trio.Event()
            await self._became_idle.wait()

    @property
    def live_runs(self) -> list[LiveRun]:
        """The runs that have not ended."""
        return list(self._live.values())

    def statistics(self) -> dict[str, int]:
        """Return the numbers of active and of waiting runs."""
        return self._scheduler.statistics()

    # The end of a run.

    async def finish(
        self, live: LiveRun, ending: Ending, before_waiting: Callable[[], None] | None = None
    ) -> None:
        """Store the end of a run, then append the end that stands to the events.

        Another node may have ended the run before, because it took this one for gone: then the
        client is told of that end, and so are all that sent the same message again.

        All runs end here. Only the first call for a run counts: an abandoned run is finished again
        when its tasks end.

        Args:
            live: The run.
            ending: Its ending.
            before_waiting: Called before waiting for the store, if that is necessary.
        """
        execution, message = live.execution, live.execution.spec.message
        if execution.has_ended:
            self._scheduler.ended(message.run_id)
            return
        execution.has_ended = True
        execution.cancel_questions()
        execution.output.close()
        text, truncated = history_text(execution.output.text)
        files = () if execution.files is None else execution.files.answer
        end = RunEnd(
            message.run_id,
            ending.status,
            new_message_id(),
            text,
            truncated,
            self._wall_clock(),
            self._within_log(completed_payload(message.run_id, ending, files)),
            milliseconds(ending.duration),
            execution.output.steps,
            self._notifications.of_end(message, ending.status),
            tuple(file.file_id for file in files),
        )
        stood: StoredEnd | None = None
        try:
            if not self._events.is_copied:
                # Otherwise another node might know the end of a run, and not all of its text.
                if before_waiting is not None:
                    before_waiting()
                with execution.storing(), trio.CancelScope(shield=True):
                    await self._events.flush()
            stored = self._store.end_run(end)
            if stored is not STORED:
                if before_waiting is not None:
                    before_waiting()
                deadline = trio.current_time() + self.store_seconds
                scope = trio.CancelScope(shield=True, deadline=deadline)
                with execution.storing(), scope:
                    stood = await stored
        finally:
            mirror = execution.output.mirror
            self.forget(live)
            if stood is not None:
                end = evolve(end, status=stood.status, completed=self._within_log(stood.completed))
            self._events.end(message.run_id, end.status, end.completed, message.correlation_id)
            if mirror is not None:
                mirror.end(end.completed)
            for watcher in live.watchers.values():
                watcher(end)
            self._changed(message, ThreadChange.UPDATED)
            execution.context.run(
                self._instruments.note,
                RunEnded(
                    message.run_id,
                    message.agent_name,
                    end.status,
                    seconds=round(ending.duration, 3),
                    attempts=execution.attempts,
                    code=None
                    if ending.error is None or stood is not None
                    else ending.error["code"],
                ),
            )

    def _within_log(self, completed: bytes) -> bytes:
        """Return the payload of an `agent_completed`, shortened while the log has no room."""
        return shorten_payload(completed) if self._events.is_over_bytes else completed

    def abandon_overdue(self) -> None:
        """Finish each run whose tasks have not ended within `ABANDON_SECONDS` after a cancellation.

        Such tasks wait for a thread, or are shielded from cancellation. Their events are refused
        from now on.
        """
        now = trio.current_time()
        for live in list(self._live.values()):
            execution = live.execution
            if now >= execution.cut_off_at + ABANDON_SECONDS and not execution.has_ended:
                self._spawn(self._abandon, live)

    async def abandon(self) -> None:
        """Finish all active runs, even if their tasks are still running."""
        async with trio.open_nursery() as nursery:
            for run_id in self._scheduler.active:
                live = self._live.get(RunId(run_id))
                if live is not None and not live.execution.has_ended:
                    nursery.start_soon(self._abandon, live)
            # Other ends may still be waiting for the store.
            with trio.move_on_after(self.store_seconds):
                await self.wait_idle()

    async def _abandon(self, live: LiveRun) -> None:
        message = live.execution.spec.message
        _log.warning("run_abandoned", run_id=message.run_id, agent=message.agent_name)
        await self.finish(live, live.execution.abandoned())
        self.start_due()

    @property
    def store_seconds(self) -> float:
        """The maximum time to store an end; less in a drain, so that ends can still be sent."""
        if not self._is_draining:
            return END_STORE_TIMEOUT
        return min(END_STORE_TIMEOUT, self._settings.drain_timeout_ms / 1000 * DRAIN_STORE_SHARE)

    # Due runs.

    def wake(self) -> None:
        """Start the runs that are due, in a moment: a thread has become free.

        Not at once: in a drain, the sessions are stopped one after the other, and a run of a
        session that is stopped next must not start.
        """
        self._set_timer(trio.current_time())

    def interrupt(self, run: str) -> None:
        """Cancel an active run, because another one of its thread comes next."""
        self._live[RunId(run)].execution.stop(RunStatus.CANCELLED)

    def start_due(self) -> None:
        """Start the runs that are due, each in a new task."""
        self._start_due(trio.current_time(), but=None)

    def _start_due(self, now: float, *, but: LiveRun | None) -> bool:
        """Start the due runs except `but`; return whether `but` is due, for the caller."""
        due = self._due(now)
        for live in due:
            if live is not but:
                self._execute(live)
        return but in due

    def _due(self, now: float) -> list[LiveRun]:
        """Make the due runs active, and return them."""
        scheduler = self._scheduler
        if not scheduler.has_waiting or self._is_stopped:
            return []
        for place in scheduler.to_interrupt(now):
            active = self._user.threads.active(place.thread)
            if active is not None:
                active.interrupt()
            elif place.shared is not None:
                place.shared.interrupt(place)
        due = [self._live[RunId(run_id)] for run_id in scheduler.start_due(now)]
        self._set_timer(scheduler.next_start(now))
        return due

    def _set_timer(self, starts_at: float) -> None:
        """Set the timer that starts the next run delayed by the rate limit."""
        if starts_at == inf:
            return
        if self._timer is None:
            self._timer = trio.CancelScope(deadline=starts_at)
            self._spawn(self._wait_for_slots, self._timer)
        else:
            self._timer.deadline = min(self._timer.deadline, starts_at)

    async def _wait_for_slots(self, timer: trio.CancelScope) -> None:
        with timer:
            await trio.sleep_forever()
        self._timer = None
        self.start_due()
