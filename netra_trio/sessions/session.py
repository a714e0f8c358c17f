"""A session: the nursery that outlives a socket, with its inbox, its queue and its runs.

The reader of a connection offers messages to the inbox. A task takes them out one by one, records
each, confirms it, and lets the schedule say when its run starts. A run that may start at once when
the inbox is empty is run by that very task: most messages cost one task and not two. Whatever is
said goes into the journal, from which the writer of whatever connection there is takes it.

    inbox ──► admit: decide, record, confirm ──► schedule ──► runs ──► journal ──► writer

A session that has nothing to do has no task and no nursery: both begin with the next message.
"""

from collections.abc import Awaitable, Callable, Mapping
from contextvars import copy_context
from math import inf
from typing import Any

import structlog
import trio
from attrs import evolve
from orjson import Fragment, dumps, loads
from structlog.contextvars import bind_contextvars, clear_contextvars

from netra_trio.agents.execution import Ending, Execution
from netra_trio.agents.run import Agent, history_text, milliseconds
from netra_trio.config.settings import Settings
from netra_trio.errors import KeyConflict, StoreUnavailable
from netra_trio.ids import (
    CorrelationId,
    RunId,
    ThreadId,
    new_message_id,
    new_session_id,
    new_thread_id,
)
from netra_trio.protocol.codec import Encoded, payload_of
from netra_trio.protocol.messages import (
    AgentCompleted,
    Confirmation,
    MessageConfirmed,
    OnBusy,
    RunStatus,
    WorkMessage,
)
from netra_trio.protocol.problem import Refused
from netra_trio.protocol.text import cut_json
from netra_trio.sessions.admission import (
    agent_busy,
    check_agent,
    draining,
    key_conflict,
    new_message,
    not_stored,
    queue_full,
    run_spec,
    too_fast,
)
from netra_trio.sessions.event_stream import EventStream
from netra_trio.sessions.scheduler import AdmissionDecision, Scheduler
from netra_trio.sessions.users import LiveRun, User
from netra_trio.stores.base import STORED, Duplicate, NewMessage, RunEnd, Store
from netra_trio.telemetry.events import RunEnded, RunStarted
from netra_trio.telemetry.instruments import Instruments
from netra_trio.telemetry.trace_context import TRACEPARENT
from netra_trio.values import frozen

INBOX = 64  # messages: 32 that may wait, 20 of a burst, 8 that run, rounded up
RUNS_SIDE_BY_SIDE = 8  # per session, the contract's bound, section 3
FOLLOW_SECONDS = 1.0  # between looks at a run of another server; doubles with each
FOLLOW_MAX_SECONDS = 10.0  # at most: as often as servers look at each other
END_STORE_TIMEOUT = 2.0  # seconds an end waits to be stored before it is told, section 3
DRAIN_STORE_SHARE = 1 / 16  # of a drain's time instead: half of what is left for ends to be told
ABANDON_SECONDS = 2.0  # that tasks have to end in, once they are cancelled: a clean-up's time
LEAN_RESULT_BYTES = 16 * 1024  # of an end while the log is over its bytes, section 4

_log = structlog.get_logger(__name__)


@frozen
class _Work:
    """A message in the inbox; `received` is when it came, on Trio's clock."""

    message: WorkMessage
    correlation_id: CorrelationId | None
    received: float


class Session:
    """One logical connection of one user.

    Args:
        user: Whose it is.
        permissions: What the user's token allows.
        agents: The agents by name; the first one is the default.
        store: Where messages and runs are recorded.
        settings: The limits.
        acknowledging: Whether the client acknowledges events.
        wall_clock: Returns Unix seconds.
        instruments: What is told of its runs.
        is_anonymous: Whether its user has no other name than this session.
        wake: Has `serve` called, in a task of its own: there is a message.

    Attributes:
        id: Its id, which is not to be guessed.
        journal: What it says, and who reads it.
        opened_at: When it began, on Trio's clock.
        is_lost: Whether it waits for a connection that its client did not end.
        traceparent: Of the newest opening, for its runs.
    """

    def __init__(
        self,
        *,
        user: User,
        permissions: frozenset[str],
        agents: Mapping[str, Agent],
        store: Store,
        settings: Settings,
        acknowledging: bool,
        wall_clock: Callable[[], float],
        instruments: Instruments,
        wake: Callable[["Session"], None],
        is_anonymous: bool = False,
    ) -> None:
        self.id = new_session_id()
        self.user = user
        self.is_anonymous = is_anonymous
        self.event_stream = EventStream(
            settings,
            acknowledging=acknowledging,
            wall_clock=wall_clock,
            metrics=instruments.metrics,
        )
        self.permissions = permissions
        self.opened_at = trio.current_time()
        self.is_lost = False
        self.traceparent: str | None = None
        self._instruments = instruments
        self._agents = agents
        self._store = store
        self._settings = settings
        self._wall_clock = wall_clock
        self._default_thread = new_thread_id()
        self._schedule = Scheduler(max_active=RUNS_SIDE_BY_SIDE, max_waiting=settings.run_queue)
        self._executions: dict[RunId, tuple[Execution, NewMessage]] = {}
        self._followed: dict[RunId, trio.CancelScope] = {}
        self._became_idle: trio.Event | None = None  # where somebody waits for it
        self._wake = wake
        self._draining = False
        self._closing: RunStatus | None = None
        self._inbox: list[_Work] = []
        self._admitting = False
        self._alarm: trio.CancelScope | None = None  # of who waits for a turn that time brings
        self._nursery: trio.Nursery | None = None
        self._rest: trio.Event | None = None  # ends the wait for something to do
        self._context = copy_context()

    # What a connection does with its session. None of it waits.

    def offer(self, message: WorkMessage, correlation_id: CorrelationId | None) -> None:
        """Take a message into the inbox.

        Raises:
            Refused: With the reason; the message was not taken.
        """
        if self._draining or self._closing is not None:
            raise draining()
        check_agent(message, self._agents)
        if not self.event_stream.log.reserve():
            raise queue_full("too many messages whose end you have not acknowledged")
        if len(self._inbox) >= INBOX:
            self.event_stream.log.release()
            raise queue_full(f"{INBOX} messages wait to be looked at")
        self._inbox.append(_Work(message, correlation_id, trio.current_time()))
        self._look_into_inbox()

    # The session's life.

    async def serve(self) -> None:
        """Take messages and run agents until there is nothing more to do, or the session closes.

        Where it ends otherwise, cancelled or with a fault, the session is closed.
        """
        clear_contextvars()
        bind_contextvars(session_id=self.id, user_id=self.user.id)
        self._context = copy_context()
        async with trio.open_nursery() as nursery:
            self._nursery, rest = nursery, self._rest
            assert rest is not None  # noqa: S101 - for mypy: it was woken
            self._look_into_inbox()
            try:
                await rest.wait()
            except trio.Cancelled:
                self.close(RunStatus.INTERRUPTED)
                raise

    def try_to_rest(self) -> bool:
        """End the task that serves it, if there is nothing to do; return whether that is so."""
        if self._rest is None or self._nursery is None:  # it is only about to be served
            return False
        if self._inbox or self._nursery.child_tasks:
            return False
        self._rest.set()
        self._rest = self._nursery = None
        return True

    def _look_into_inbox(self) -> None:
        """See that somebody looks at what is in the inbox."""
        if not self._inbox or self._admitting:
            return
        if self._nursery is not None:
            self._admitting = True
            self._spawn(self._take_messages)
        elif self._rest is None:
            self._rest = trio.Event()
            self._wake(self)

    async def _take_messages(self) -> None:
        """Admit what is in the inbox, in order; the last one's run is run right here."""
        run = None
        while self._inbox:
            if run is not None:
                self._spawn(self._perform, *run)
            run = await self._admit(self._inbox.pop(0))
        self._admitting = False
        if run is not None:
            await self._perform(*run)

    def drain(self) -> None:
        """Start no run any more: what waits ends `interrupted`, what is offered is refused."""
        self._draining = True
        self._end_waiting(RunStatus.INTERRUPTED)

    def interrupt(self) -> None:
        """End what runs, `interrupted`."""
        for execution, _ in self._executions.values():
            execution.stop(RunStatus.INTERRUPTED)

    async def wait_idle(self) -> None:
        """Wait until no run is active or waits."""
        while self._executions:
            if self._became_idle is None:
                self._became_idle = trio.Event()
            await self._became_idle.wait()

    @property
    def is_idle(self) -> bool:
        """Whether no run is active or waits."""
        return not self._executions

    @property
    def is_closing(self) -> bool:
        """Whether it has come to its end."""
        return self._closing is not None

    def abandon_overdue(self) -> None:
        """Write the end of every run that was cut off and whose tasks do not end.

        Nothing of such a run is written any more: its way out is closed. Its tasks are still there,
        for the one reason there is: they wait for a thread, or shield themselves.
        """
        now = trio.current_time()
        for execution, new in list(self._executions.values()):
            if now >= execution.cut_off_at + ABANDON_SECONDS and not execution.has_ended:
                self._spawn(self._abandon, execution, new)

    async def abandon(self) -> None:
        """Write the end of every run that has not ended, whatever its tasks still do."""
        async with trio.open_nursery() as nursery:
            for run_id in self._schedule.active:
                execution, new = self._executions.get(RunId(run_id), (None, None))
                if execution is not None and new is not None and not execution.has_ended:
                    nursery.start_soon(self._abandon, execution, new)
            # One that ended by itself a moment ago may still be on its way to the store.
            with trio.move_on_after(self._end_store_seconds()):
                await self.wait_idle()

    async def _abandon(self, execution: Execution, new: NewMessage) -> None:
        _log.warning("run_abandoned", run_id=new.run_id, agent=new.agent_name)
        await self._end(execution, new, execution.abandoned())
        self._schedule.ended(new.run_id)
        self._start_due(trio.current_time())

    def close(self, status: RunStatus = RunStatus.CANCELLED) -> None:
        """End the session: its runs end with `status`, then its task ends."""
        if self._closing is not None:
            return
        self._closing = status
        for live in self.user.runs.values():
            live.watchers.pop(self.id, None)
        self._end_waiting(status)
        for execution, _ in self._executions.values():
            execution.stop(status)
        for following in self._followed.values():
            following.cancel()
        if self._alarm is not None:
            self._alarm.cancel()
        if self._rest is not None:
            self._rest.set()

    def statistics(self) -> dict[str, int]:
        """Return how many runs are active and wait, and how far the log is."""
        return {**self._schedule.statistics(), "last_seq": self.event_stream.log.last}

    # From a message to its run.

    async def _admit(self, work: _Work) -> tuple[Execution, NewMessage] | None:
        """Decide what becomes of a message, record it, confirm it; return its run if it starts."""
        new, execution = self._register(work)
        try:
            known, turn = await self._record(new, work.message)
        except BaseException as error:
            self._forget(new.run_id)
            self.event_stream.log.release()
            if not isinstance(error, Refused):
                raise
            await self.event_stream.tell(error.problem, work.correlation_id)
            return None
        starts = False
        if known is not None:
            self._forget(new.run_id)
            self._confirm_duplicate(known, new)
        else:
            self.event_stream.delivery.expect(new.run_id, work.received)
            starts = self._schedule_run(new, execution, turn, work.message.on_busy)
        self._instruments.metrics.confirmation.observe(trio.current_time() - work.received)
        return (execution, new) if starts else None

    def _register(self, work: _Work) -> tuple[NewMessage, Execution]:
        """Note a run before it is recorded, so that whoever finds the record finds the run."""
        message = work.message
        new = new_message(
            message,
            user_id=self.user.id,
            thread_id=message.thread_id or self._default_thread,
            key=work.correlation_id,
            agents=self._agents,
            created_at=self._wall_clock(),
        )
        spec = run_spec(
            new,
            message,
            permissions=self.permissions,
            agent=self._agents[new.agent_name],
            agent_timeout_ms=self._settings.agent_timeout_ms,
            received=work.received,
        )
        execution = Execution(
            spec, self.event_stream, self._store, self._wall_clock, note=self._instruments.note
        )
        self._executions[new.run_id] = (execution, new)
        self.user.runs[new.run_id] = LiveRun(stop=lambda: self._stop(new.run_id))
        return new, execution

    def _forget(self, run_id: RunId) -> LiveRun:
        del self._executions[run_id]
        if not self._executions and self._became_idle is not None:
            self._became_idle.set()
            self._became_idle = None
        return self.user.runs.pop(run_id)

    async def _record(
        self, new: NewMessage, message: WorkMessage
    ) -> tuple[Duplicate | None, float]:
        """Record a message, unless it was before; return that, and when its run may start."""
        try:
            turn = self._turn(new.thread_id, message.on_busy)
        except Refused:
            if new.key is None or self._draining or self._closing is not None:
                raise
            # What is busy, or fills the queue, may be this very message: then it is no new one.
            known = await self._ask(self._store.find, new)
            if known is None:
                raise
            return known, 0.0
        known = None
        try:
            known = await self._ask(self._store.record, new)
        except Refused:
            self.user.window.give_back(turn)
            raise
        if known is not None:
            self.user.window.give_back(turn)
        return known, turn

    async def _ask(
        self, question: Callable[[NewMessage], Awaitable[Duplicate | None]], new: NewMessage
    ) -> Duplicate | None:
        """Ask the store for a message that was recorded before."""
        try:
            known = await question(new)
            if known is not None and known.completed is None and known.run_id not in self.user.runs:
                # It has ended since the store looked; if not, another server has it at work.
                known = await self._store.find(new) or known
        except KeyConflict:
            raise key_conflict() from None
        except StoreUnavailable:
            raise not_stored() from None
        return known

    def _turn(self, thread_id: ThreadId, on_busy: OnBusy) -> float:
        """Take a turn of the user's rate for a message that may come in, and return when it is."""
        now, window = trio.current_time(), self.user.window
        if self._draining or self._closing is not None:
            raise draining()
        turn = window.turn(now)
        if turn is None:
            self._instruments.metrics.rate_events["messages", "refused"] += 1
            raise too_fast(self._settings.max_message_rate, window.retry_after(now))
        decide = self._schedule.decide(
            thread_id, turn=turn, now=now, reject_if_busy=on_busy is OnBusy.REJECT
        )
        if decide is AdmissionDecision.BUSY:
            raise agent_busy()
        if decide is AdmissionDecision.FULL:
            raise queue_full(f"{self._settings.run_queue} messages wait for their run")
        window.take(now)
        if turn > now:
            self._instruments.metrics.rate_events["messages", "delayed"] += 1
        return turn

    def _confirm_duplicate(self, known: Duplicate, new: NewMessage) -> None:
        """Confirm what was recorded before, and see that its end is told here too."""
        self._confirm(
            MessageConfirmed(
                known.message_id,
                known.run_id,
                known.thread_id,
                Confirmation.DUPLICATE,
                run_status=known.status,
            ),
            new.correlation_id,
        )
        live = self.user.runs.get(known.run_id)
        if self._closing is not None:
            self.event_stream.log.release(1)  # nobody is left to be told
        elif known.completed is not None:
            self._copy_end(known.run_id, known.completed, new.correlation_id)
        elif known.run_id in self._executions or known.run_id in self._followed:
            self.event_stream.log.release(1)  # its end will come here already
        elif live is None:
            self._followed[known.run_id] = trio.CancelScope()
            self._spawn(self._follow, known.run_id, new)
        elif self.id in live.watchers:
            self.event_stream.log.release(1)
        else:
            live.watchers[self.id] = lambda end: self._copy_end(
                end.run_id, end.completed, new.correlation_id
            )

    async def _follow(self, run_id: RunId, new: NewMessage) -> None:
        """Ask for the end of a run that another server has at work, until it is there."""
        wait = FOLLOW_SECONDS
        with self._followed[run_id]:
            await trio.sleep(wait)
            while not await self._tell_end(new):
                wait = min(2 * wait, FOLLOW_MAX_SECONDS)
                await trio.sleep(wait)
        del self._followed[run_id]

    async def _tell_end(self, new: NewMessage) -> bool:
        """Tell the end that is stored under a key; return whether there is nothing to wait for."""
        try:
            known = await self._store.find(new)
        except StoreUnavailable:
            return False
        except KeyConflict:
            known = None
        if known is None:  # history is not kept that long
            self.event_stream.log.release(1)
        elif known.completed is None:
            return False
        else:
            self._copy_end(known.run_id, known.completed, new.correlation_id)
        return True

    def _copy_end(self, run_id: RunId, completed: bytes, correlation_id: CorrelationId) -> None:
        if self.event_stream.log.is_over_bytes:
            completed = _lean_copy(completed)
        event = Encoded(AgentCompleted.TYPE, run_id, completed)
        self.event_stream.append(event, len(completed), correlation_id, reserved=True)

    def _schedule_run(
        self, new: NewMessage, execution: Execution, turn: float, on_busy: OnBusy
    ) -> bool:
        """Confirm a message that was recorded; return whether its run is to start now."""
        stopped = execution.stopped or self._closing
        if stopped is None and self._draining:
            stopped = RunStatus.INTERRUPTED
        if stopped is not None:  # while the message was being recorded
            self._confirm_run(new, None)
            self._spawn(self._end, execution, new, Ending(stopped))
            return False
        interrupts = on_busy is OnBusy.INTERRUPT
        self._schedule.add(new.run_id, new.thread_id, turn=turn, first=interrupts)
        now = trio.current_time()
        starts = self._start_due(now, but=new.run_id)
        position = None if starts else self._schedule.position(new.run_id, now)
        self._confirm_run(new, position, starts=starts)
        return starts

    def _confirm_run(self, new: NewMessage, position: int | None, *, starts: bool = False) -> None:
        status = Confirmation.ACCEPTED if position is None else Confirmation.QUEUED
        confirmed = MessageConfirmed(new.message_id, new.run_id, new.thread_id, status, position)
        if self.event_stream.transcript is not None:
            self.event_stream.transcript.begin(new.run_id, new.thread_id, new.correlation_id)
        self._confirm(confirmed, new.correlation_id, more=starts)

    def _confirm(
        self, confirmed: MessageConfirmed, correlation_id: CorrelationId, *, more: bool = False
    ) -> None:
        self.event_stream.append(confirmed, 0, correlation_id, reserved=True, more=more)

    # From a run to its end.

    def _start_due(self, now: float, *, but: RunId | None = None) -> bool:
        """Start what is due; return whether that is one that the caller runs itself."""
        if not self._schedule.has_waiting or self._draining or self._closing is not None:
            return False
        for run_id in self._schedule.to_interrupt(now):
            self._executions[RunId(run_id)][0].stop(RunStatus.CANCELLED)
        due = self._schedule.start_due(now)
        for run_id in due:
            if run_id != but:
                self._spawn(self._perform, *self._executions[RunId(run_id)])
        self._set_alarm(self._schedule.next_turn(now))
        return but in due

    def _set_alarm(self, turn: float) -> None:
        """See that somebody looks when the next turn has come that time alone brings."""
        if turn == inf:
            return
        if self._alarm is None:
            self._alarm = trio.CancelScope(deadline=turn)
            self._spawn(self._wait_for_turns, self._alarm)
        else:
            self._alarm.deadline = min(self._alarm.deadline, turn)

    async def _wait_for_turns(self, alarm: trio.CancelScope) -> None:
        with alarm:
            await trio.sleep_forever()
        self._alarm = None
        self._start_due(trio.current_time())

    def _spawn(self, function: Callable[..., Any], *args: object) -> None:
        # Whoever has a run to start or to end is served: it does not rest while there is one.
        assert self._nursery is not None  # noqa: S101 - for mypy, see above
        # In the session's own context: who asks may be another connection, with ids of its own.
        self._context.run(self._nursery.start_soon, function, *args)

    async def _perform(self, execution: Execution, new: NewMessage) -> None:
        """Run an agent: whatever happens, its end is written, once."""
        bind_contextvars(run_id=new.run_id)
        TRACEPARENT.set(self.traceparent)
        self._note(new.run_id, RunStatus.RUNNING)
        waited = round(trio.current_time() - execution.spec.received, 3)
        self._instruments.note(RunStarted(new.run_id, new.agent_name, waited, self.id))
        ending = Ending(RunStatus.INTERRUPTED)
        try:
            ending = await execution.execute()
        finally:
            await self._end(execution, new, ending)
            self._schedule.ended(new.run_id)
        if self._schedule.has_waiting:
            self._start_due(trio.current_time())

    def _stop(self, run_id: RunId) -> None:
        """Stop one of this session's runs, started or not."""
        execution, new = self._executions[run_id]
        self.event_stream.delivery.stop(run_id)
        if self._schedule.withdraw(run_id):
            self._spawn(self._end, execution, new, Ending(RunStatus.CANCELLED))
            self._set_alarm(trio.current_time())  # what waited behind it may be due
        else:
            execution.stop(RunStatus.CANCELLED)

    def _end_waiting(self, status: RunStatus) -> None:
        for run_id in self._schedule.withdraw_all():
            execution, new = self._executions[RunId(run_id)]
            self._spawn(self._end, execution, new, Ending(status))

    async def _end(self, execution: Execution, new: NewMessage, ending: Ending) -> None:
        """Store how a run ended, then tell it: the one place that writes `agent_completed`.

        The first end stands: a run that was abandoned ends once more when its tasks do.
        """
        if execution.has_ended:
            return
        execution.has_ended = True
        execution.output.close()
        if self.event_stream.log.is_over_bytes:
            ending = _lean(ending)
        completed = AgentCompleted(
            new.run_id,
            ending.status,
            milliseconds(ending.duration),
            None if ending.result is None else Fragment(ending.result),
            ending.error,
            ending.truncated or None,
            ending.abandoned or None,
        )
        # A copy of its own size: what orjson returns keeps 4 KiB, and this one stays in the log.
        data = bytes(memoryview(dumps(payload_of(completed))))
        text, truncated = history_text(execution.output.text)
        end = RunEnd(
            run_id=new.run_id,
            status=ending.status,
            message_id=new_message_id(),
            text=text,
            truncated=truncated,
            created_at=self._wall_clock(),
            completed=data,
        )
        try:
            stored = self._store.end_run(end)
            if stored is not STORED:
                told_by = trio.current_time() + self._end_store_seconds()
                with trio.CancelScope(shield=True, deadline=told_by):
                    await stored
        finally:
            live = self._forget(new.run_id)
            self._note(new.run_id, ending.status)
            event = Encoded(AgentCompleted.TYPE, new.run_id, data)
            self.event_stream.append(
                event,
                len(data),
                new.correlation_id,
                reserved=True,
                is_last=not self._executions and not self._inbox,
            )
            for watcher in live.watchers.values():
                watcher(end)
            self._instruments.note(
                RunEnded(
                    new.run_id,
                    new.agent_name,
                    ending.status,
                    seconds=round(ending.duration, 3),
                    attempts=execution.attempts,
                    code=None if ending.error is None else ending.error["code"],
                )
            )

    def _end_store_seconds(self) -> float:
        """Return how long an end waits to be stored: in a drain, not until nobody hears it."""
        if not self._draining:
            return END_STORE_TIMEOUT
        return min(END_STORE_TIMEOUT, self._settings.drain_timeout_ms / 1000 * DRAIN_STORE_SHARE)

    def _note(self, run_id: RunId, status: RunStatus) -> None:
        if self.event_stream.transcript is not None:
            self.event_stream.transcript.note(run_id, status)


def _lean(ending: Ending) -> Ending:
    """Return an ending that carries little, for a log that is over its bytes."""
    if ending.result is None or len(ending.result) <= LEAN_RESULT_BYTES:
        return ending
    result, _ = cut_json(loads(ending.result), LEAN_RESULT_BYTES)
    return evolve(ending, result=result, truncated=True)


def _lean_copy(completed: bytes) -> bytes:
    """Return the payload of an `agent_completed` with little result, for a log over its bytes."""
    payload = loads(completed)
    if len(completed) > LEAN_RESULT_BYTES and "result" in payload:
        result, truncated = cut_json(payload["result"], LEAN_RESULT_BYTES)
        payload["result"] = Fragment(result)
        if truncated:
            payload["truncated"] = True
    return dumps(payload)
