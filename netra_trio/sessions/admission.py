"""Admission: records and confirms a message of the inbox and registers its run, or refuses it.

    live = await admission.admit(work)      # the run, if it is to be executed now

Only one task admits at a time, so messages are recorded and confirmed in the order of arrival.
"""

from collections.abc import Awaitable, Callable, Mapping
from contextvars import Context
from itertools import takewhile

import trio
from attrs import evolve

from netra_trio.agents.attachments import FileAccess
from netra_trio.agents.execution import Ending
from netra_trio.agents.run import Agent, ChangeThread, RunSpec
from netra_trio.broker.threads import Outcome, SharedAdmission
from netra_trio.config.settings import Settings
from netra_trio.errors import (
    FilesNotFound,
    KeyConflict,
    MessageNotFound,
    NotStorable,
    StoreUnavailable,
    ThreadDeleted,
)
from netra_trio.ids import CorrelationId, RunId, ThreadId
from netra_trio.protocol.binary_messages import BinaryUserMessage
from netra_trio.protocol.messages import (
    Confirmation,
    MessageConfirmed,
    OnBusy,
    RunStatus,
    WorkMessage,
)
from netra_trio.protocol.problem import Problem, Refused
from netra_trio.protocol.threads import ThreadChange
from netra_trio.services import Budgets
from netra_trio.sessions import refusals
from netra_trio.sessions.duplicates import Duplicates
from netra_trio.sessions.event_stream import EventStream
from netra_trio.sessions.inbox import Work
from netra_trio.sessions.records import new_message, run_spec
from netra_trio.sessions.runner import LiveRun, Runner, raise_session_ended
from netra_trio.sessions.scheduler import AdmissionDecision
from netra_trio.sessions.thread_lines import Place
from netra_trio.sessions.uploads import store_data
from netra_trio.sessions.users import User
from netra_trio.stores.base import Duplicate, NewMessage, Store
from netra_trio.telemetry.metrics import Metrics

UNATTENDED_RUNS = 8  # of a user, on all nodes: docs/protocol.md, Limits

SendError = Callable[[Problem, CorrelationId | None], Awaitable[None]]


async def _send_nothing(_problem: Problem, _correlation_id: CorrelationId | None) -> None:
    """Send nothing, because the session has ended."""


class Admission:
    """Admits the messages of one session.

    Args:
        user: The user, with the message rate.
        agents: The agents by name; the first one is the default.
        events: Receives the confirmations.
        runner: Receives the runs.
        duplicates: Confirms messages that were recorded before.
        store: Records the messages.
        files: Store the data of binary messages.
        settings: The limits.
        metrics: Count refused and delayed messages.
        wall_clock: Returns Unix seconds.
        spawn: Starts a task of the session.
        send_error: Sends an error to the client, if there is a connection.
        default_thread: The thread of messages that name none.
        changed: Called for each change of a thread by a message.
        shared: Admits messages over all nodes; None if this process decides alone.
        budgets: The budgets of users; None without limits.

    Attributes:
        is_held: Whether messages are refused because the session may move to another node.
    """

    __slots__ = (
        "_agents",
        "_budgets",
        "_changed",
        "_default_thread",
        "_duplicates",
        "_events",
        "_files",
        "_has_left",
        "_metrics",
        "_runner",
        "_send_error",
        "_settings",
        "_shared",
        "_spawn",
        "_stopped",
        "_store",
        "_user",
        "_wall_clock",
        "is_held",
    )

    def __init__(
        self,
        *,
        user: User,
        agents: Mapping[str, Agent],
        events: EventStream,
        runner: Runner,
        duplicates: Duplicates,
        store: Store,
        files: FileAccess,
        settings: Settings,
        metrics: Metrics,
        wall_clock: Callable[[], float],
        spawn: Callable[..., None],
        send_error: SendError,
        default_thread: ThreadId,
        changed: ChangeThread,
        shared: SharedAdmission | None = None,
        budgets: Budgets | None = None,
    ) -> None:
        self._user = user
        self._agents = agents
        self._events = events
        self._runner = runner
        self._duplicates = duplicates
        self._store = store
        self._files = files
        self._settings = settings
        self._metrics = metrics
        self._wall_clock = wall_clock
        self._spawn = spawn
        self._send_error = send_error
        self._default_thread = default_thread
        self._changed = changed
        self._shared = shared
        self._budgets = budgets
        self._stopped: RunStatus | None = None
        self._has_left = False
        self.is_held = False

    def stop(self, status: RunStatus) -> None:
        """Refuse new messages; the run of a message that is being recorded ends with `status`."""
        self._stopped = status
        self.is_held = self._has_left = False

    def leave(self) -> None:
        """Refuse new messages; an unattended run that is being recorded continues."""
        self.stop(RunStatus.CANCELLED)
        self._has_left = True

    def hold(self) -> None:
        """Refuse new messages; the run of a message that is being recorded waits."""
        self._stopped = RunStatus.INTERRUPTED
        self.is_held = True

    def unhold(self) -> None:
        """Admit messages again, after `hold`."""
        self._stopped = None
        self.is_held = False

    def disconnect(self) -> None:
        """Drop the references to the session, which has ended."""
        self._spawn = raise_session_ended
        self._send_error = _send_nothing

    @property
    def is_stopped(self) -> bool:
        """Whether messages are refused because the server drains or the session closes."""
        return self._stopped is not None

    async def admit(
        self, work: Work, *, permissions: frozenset[str], context: Context
    ) -> LiveRun | None:
        """Record a message and confirm it, or refuse it.

        Args:
            work: The message.
            permissions: The permissions of the user's token.
            context: The context variables of the run.

        Returns:
            The run, if the caller has to execute it now; otherwise None.
        """
        message, replica = work.message, self._events.replica
        record = new_message(
            message,
            user_id=self._user.id,
            thread_id=message.thread_id or self._default_thread,
            key=work.correlation_id,
            agents=self._agents,
            created_at=self._wall_clock(),
            session_id=None if replica is None else replica.record.session_id,
        )
        spec = run_spec(
            record,
            message,
            permissions=permissions,
            agent=self._agents[record.agent_name],
            agent_timeout_ms=self._settings.agent_timeout_ms,
            received=work.received,
        )
        live = self._runner.register(spec, context)
        try:
            with live.execution.storing():
                known, starts_at = await self._record(live, message)
        except BaseException as error:
            self._runner.forget(live)
            self._events.release()
            if not isinstance(error, Refused):
                raise
            await self._send_error(error.problem, work.correlation_id)
            return None
        starts = False
        if known is not None:
            self._runner.forget(live)
            self._duplicates.confirm(known, record)
        else:
            starts = self._confirm(live, work, starts_at)
        self._metrics.confirmation.observe(trio.current_time() - work.received)
        return live if starts else None

    def adopt(self, spec: RunSpec, context: Context) -> LiveRun | None:
        """Register a run that waited on another node; arguments and result are as of `admit`."""
        live = self._runner.register(spec, context)
        live.is_confirmed = True
        place = self._runner.enter(live, first=False, shared=self._shared)
        if self._shared is not None:
            self._shared.adopt(self._user.id, place)
        stopped = self._stopped_for(spec.message)
        if stopped is not None:
            self._spawn(self._runner.finish, live, Ending(stopped))
            return None
        starts, _ = self._runner.schedule(live, starts_at=trio.current_time(), interrupts=False)
        return live if starts else None

    def _stopped_for(self, message: NewMessage) -> RunStatus | None:
        """Return the status with which a recorded run ends at once; None if it may start."""
        goes_on = self.is_held or (self._has_left and message.unattended)
        return None if goes_on else self._stopped

    def _confirm(self, live: LiveRun, work: Work, starts_at: float) -> bool:
        """Confirm a recorded message; return whether the caller has to execute its run now."""
        record = live.execution.spec.message
        self._events.start_delta_timer(record.run_id, work.received)
        stopped = live.execution.stopped or self._stopped_for(record)
        if stopped is not None:  # it was stopped while the message was being recorded
            self._append_confirmation(live, None)
            self._spawn(self._runner.finish, live, live.execution.unstarted(stopped))
            return False
        interrupts = work.message.on_busy is OnBusy.INTERRUPT
        starts, position = self._runner.schedule(live, starts_at=starts_at, interrupts=interrupts)
        self._append_confirmation(live, position)
        return starts

    def _append_confirmation(self, live: LiveRun, position: int | None) -> None:
        record = live.message
        status = Confirmation.ACCEPTED if position is None else Confirmation.QUEUED
        confirmed = MessageConfirmed(
            record.message_id, record.run_id, record.thread_id, status, position
        )
        self._events.confirm(confirmed, record.correlation_id)
        live.confirmed()
        self._changed(record, ThreadChange.UPDATED)

    async def _record(self, live: LiveRun, message: WorkMessage) -> tuple[Duplicate | None, float]:
        """Record a message, unless it was recorded before.

        Returns:
            The earlier record of the message, None if there is none; and when its run may start,
            on Trio's clock.
        """
        record = live.message
        known: Duplicate | None = None
        try:
            await self._check_limits(live)
            place, starts_at = await self._take_slot(live, message.on_busy)
        except Refused:
            if record.key is None or self._stopped is not None:
                raise
            # The message may be a duplicate: then its own run may keep the thread busy.
            known = await self._ask(self._store.find, record)
            if known is None:
                raise
            return known, 0.0
        try:
            if isinstance(message, BinaryUserMessage):
                known = await self._store_data(live, message)
            elif record.attachments:
                await self._find_files(live)
            if known is None:
                known = await self._ask(self._store.record, live.message)
        except Refused:
            self._give_back(place, starts_at)
            raise
        if known is not None:
            self._give_back(place, starts_at)
        return known, starts_at

    async def _store_data(self, live: LiveRun, message: BinaryUserMessage) -> Duplicate | None:
        """Make the data of a message a file that it names.

        Returns:
            The earlier record of the message; then nothing is stored.

        Raises:
            Refused: With the reason.
        """
        execution, record = live.execution, live.message
        if record.key is not None:
            known = await self._ask(self._store.find, record)
            if known is not None:
                return known
        file = await store_data(self._files, self._user.id, message)
        named = evolve(record, attachments=(file.file_id,))
        execution.spec = evolve(execution.spec, message=named, files=(file,))
        return None

    async def _find_files(self, live: LiveRun) -> None:
        """Add the files of a message to the specification of its run.

        Whether all of them exist is decided when the message is recorded.
        """
        execution = live.execution
        record = execution.spec.message
        try:
            files = await self._store.find_files(record.user_id, record.attachments)
        except StoreUnavailable:
            raise refusals.not_stored() from None
        execution.spec = evolve(execution.spec, files=tuple(files))

    def _give_back(self, place: Place, starts_at: float) -> None:
        """Give back the rate slot of a message that was not recorded."""
        place.is_refused = True
        if place.position is None:  # the slot is one of this process
            self._user.window.give_back(starts_at)

    async def _ask(
        self, question: Callable[[NewMessage], Awaitable[Duplicate | None]], record: NewMessage
    ) -> Duplicate | None:
        """Record or find a message with `question`; return its earlier record, if there is one."""
        try:
            known = await question(record)
            if (
                known is not None
                and known.completed is None
                and known.run_id not in self._user.runs
            ):
                # Either the run has ended meanwhile, or another server executes it.
                known = await self._store.find(record) or known
        except KeyConflict:
            raise refusals.key_conflict() from None
        except ThreadDeleted:
            raise refusals.thread_deleted() from None
        except MessageNotFound:
            raise refusals.nothing_to_replace(record.replaces) from None
        except FilesNotFound as error:
            raise refusals.files_not_found(error.file_ids) from None
        except NotStorable:
            raise refusals.never_stored() from None
        except StoreUnavailable:
            raise refusals.not_stored() from None
        return known

    async def _check_limits(self, live: LiveRun) -> None:
        """Refuse a message beyond a budget, or for one unattended run too many; may not wait.

        Raises:
            Refused: BUDGET_EXCEEDED, QUEUE_FULL, or SERVICE_UNAVAILABLE if it is not known now.
        """
        record = live.message
        # A server that drains refuses it otherwise: so that it is sent again, to another one.
        if self._budgets is not None and self._stopped is None:
            await self._budgets.check(record.user_id, record.agent_name)
        if record.unattended:
            await self._check_unattended(live)

    async def _check_unattended(self, live: LiveRun) -> None:
        """Refuse a run that outlives its session if its user has too many of them.

        Raises:
            Refused: QUEUE_FULL, or SERVICE_UNAVAILABLE if the store cannot answer now.
        """
        user_id = self._user.id
        try:
            # Most runs of this process are counted twice, so this covers only the usual case.
            stored = await self._store.count_unattended(user_id)
            if stored + len(self._earlier_unattended(live)) < UNATTENDED_RUNS:
                return
            unfinished = await self._store.unfinished_runs(user_id)
        except StoreUnavailable:
            raise refusals.not_stored() from None
        others = {run.run_id for run in unfinished if run.unattended}
        others |= self._earlier_unattended(live)
        if len(others) >= UNATTENDED_RUNS:
            raise refusals.queue_full(
                f"the user has {UNATTENDED_RUNS} unattended runs that have not ended"
            )

    def _earlier_unattended(self, live: LiveRun) -> set[RunId]:
        """Return the user's earlier unattended runs of this process, recorded or not."""
        earlier = takewhile(lambda run: run[1] is not live, self._user.runs.items())
        return {run_id for run_id, other in earlier if other.is_unattended}

    async def _take_slot(self, live: LiveRun, on_busy: OnBusy) -> tuple[Place, float]:
        """Take a slot of the message rate and a place in the thread, if the message is admitted.

        No checkpoint if this process decides alone.

        Returns:
            The place, and when the run may start, on Trio's clock.

        Raises:
            Refused: With the reason.
        """
        if self._stopped is not None:
            raise refusals.draining()
        shared = self._shared
        place = self._runner.enter(live, first=on_busy is OnBusy.INTERRUPT, shared=shared)
        admitted = None
        if shared is not None:
            admitted = await shared.admit(self._user.id, place, on_busy)
        now = trio.current_time()
        if admitted is None:
            starts_at, retry_after = self._next_slot(now)
        elif admitted.outcome is Outcome.BUSY:
            raise refusals.agent_busy()
        elif admitted.outcome is Outcome.TOO_FAST:
            starts_at, retry_after = None, admitted.seconds
        else:
            starts_at, retry_after = now + admitted.seconds, 0.0
        if starts_at is None:
            self._metrics.rate_events["messages", "refused"] += 1
            raise refusals.too_fast(self._settings.max_message_rate, retry_after)
        self._check_busy(live, place, starts_at, on_busy)
        if admitted is None:
            self._user.window.use(starts_at)
        if starts_at > now:
            self._metrics.rate_events["messages", "delayed"] += 1
        return place, starts_at

    def _check_busy(self, live: LiveRun, place: Place, starts_at: float, on_busy: OnBusy) -> None:
        """Refuse a message for which its thread or its session has no place."""
        decision = self._runner.decide(
            live,
            starts_at=starts_at,
            now=trio.current_time(),
            reject_if_busy=on_busy is OnBusy.REJECT,
        )
        if decision is AdmissionDecision.BUSY:
            raise refusals.agent_busy()
        if decision is AdmissionDecision.FULL:
            place.is_refused = True
            raise refusals.queue_full(f"{self._settings.run_queue} runs of the session wait")

    def _next_slot(self, now: float) -> tuple[float | None, float]:
        """Return the next slot of this process, or None and the seconds until there is one."""
        window = self._user.window
        slot = window.next_slot(now)
        return slot, 0.0 if slot is not None else window.retry_after(now)
