"""A session: the nursery that outlives a socket, with the numbers, the log and the runs.

The reader of a connection offers messages to the inbox. The session's own task takes them out one
by one, records each, confirms it, and lets the schedule say when its run starts. Runs are tasks in
the session's nursery. Whatever is said goes into the log, from which the connection's writer takes
it: the outbox only carries the bell.

    inbox ──► admit: decide, record, confirm ──► schedule ──► runs ──► log ──► writer
"""

import hashlib
from collections.abc import Callable, Mapping
from math import inf
from typing import Any

import structlog
import trio
from attrs import evolve, frozen
from orjson import OPT_SORT_KEYS, Fragment, dumps, loads
from structlog.contextvars import bind_contextvars, clear_contextvars

from netra_trio.codes import ErrorCode
from netra_trio.errors import KeyConflict, Problem, Refused, StoreUnavailable, problem
from netra_trio.ids import (
    CorrelationId,
    RunId,
    ThreadId,
    new_correlation_id,
    new_message_id,
    new_run_id,
    new_session_id,
    new_thread_id,
)
from netra_trio.interfaces import Duplicate, NewMessage, RunEnd, Store
from netra_trio.outbox import Outbox
from netra_trio.protocol.codec import Encoded, encode, encode_problem, payload_of
from netra_trio.protocol.log import EventLog
from netra_trio.protocol.messages import (
    AgentCompleted,
    Confirmation,
    Event,
    MessageConfirmed,
    OnBusy,
    RunStatus,
    UserMessage,
    WorkMessage,
)
from netra_trio.protocol.schedule import Outlook, Schedule
from netra_trio.protocol.text import cut_json
from netra_trio.runs import (
    Agent,
    Ending,
    Execution,
    RunSpec,
    content_of,
    history_text,
    milliseconds,
)
from netra_trio.settings import Settings
from netra_trio.users import LiveRun, User

INBOX = 64  # messages: 32 that may wait, 20 of a burst, 8 that run, rounded up
RUNS_SIDE_BY_SIDE = 8  # per session, the contract's bound, section 3
END_STORE_TIMEOUT = 2.0  # seconds an end waits to be stored before it is told, section 3
LEAN_RESULT_BYTES = 16 * 1024  # of an end while the log is over its bytes, section 4
RETRY_MS = 1000  # where nothing better is known: a run or a commit takes about that long

_log = structlog.get_logger(__name__)


@frozen
class _Work:
    """A message in the inbox."""

    message: WorkMessage
    correlation_id: CorrelationId | None


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
    ) -> None:
        self.id = new_session_id()
        self.user = user
        self.log = EventLog(
            max_events=settings.replay_events,
            max_bytes=settings.replay_bytes,
            acknowledging=acknowledging,
        )
        self._permissions = permissions
        self._agents = agents
        self._store = store
        self._settings = settings
        self._acknowledging = acknowledging
        self._wall_clock = wall_clock
        self._default_thread = new_thread_id()
        self._outbox: Outbox | None = None
        self._room = trio.lowlevel.ParkingLot()
        self._schedule = Schedule(max_active=RUNS_SIDE_BY_SIDE, max_waiting=settings.run_queue)
        self._executions: dict[RunId, tuple[Execution, NewMessage]] = {}
        self._idle = trio.Event()
        self._idle.set()
        self._draining = False
        self._closing: RunStatus | None = None
        self._stopped_early: RunId | None = None
        self._nap = trio.CancelScope()
        self._offer_work, self._inbox = trio.open_memory_channel[_Work](INBOX)
        self._nursery: trio.Nursery | None = None

    # What a connection does with its session. None of it waits.

    def attach(self, outbox: Outbox) -> None:
        """Let this socket's writer be told of news."""
        self._outbox = outbox
        if self.log.has_pending:
            outbox.ring()

    def detach(self, outbox: Outbox) -> None:
        """Forget the socket, if it is still the session's."""
        if self._outbox is outbox:
            self._outbox = None

    def offer(self, message: WorkMessage, correlation_id: CorrelationId | None) -> None:
        """Take a message into the inbox.

        Raises:
            Refused: With the reason; the message was not taken.
        """
        if self._draining or self._closing is not None:
            raise Refused(_draining(self._settings.drain_timeout_ms))
        name = message.agent
        if name is not None and name not in self._agents:
            text = f"There is no agent of that name; there are: {', '.join(self._agents)}."
            raise Refused(problem(ErrorCode.AGENT_NOT_FOUND, text))
        if not self.log.reserve():
            raise _queue_full("too many messages whose end you have not acknowledged")
        try:
            self._offer_work.send_nowait(_Work(message, correlation_id))
        except trio.WouldBlock:
            self.log.release()
            raise _queue_full(f"{INBOX} messages wait to be looked at") from None

    def acknowledge(self, seq: int) -> None:
        """Let go of every event up to `seq`.

        Raises:
            ValueError: If `seq` was never written.
        """
        if self._acknowledging and self.log.acknowledge(seq):
            self._room.unpark_all()

    def take(self, *, max_bytes: int) -> list[bytes]:
        """Return the next events for the socket, encoded."""
        entries = self.log.take(max_bytes=max_bytes)
        if entries and not self._acknowledging:
            self._room.unpark_all()
        return [
            encode(entry.event, entry.timestamp, entry.correlation_id, seq=entry.seq)
            for entry in entries
        ]

    # What runs do with their session.

    async def wait_for_room(self, size: int) -> None:
        """Wait until an event of `size` bytes fits; cancelling is safe."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self.log.has_room(size):
            await self._room.park()

    def append(
        self,
        event: Event | Encoded,
        size: int,
        correlation_id: CorrelationId,
        *,
        reserved: bool = False,
    ) -> None:
        """Put an event into the log and tell the socket, if there is one."""
        self.log.append(
            event,
            size,
            reserved=reserved,
            timestamp=self._wall_clock(),
            correlation_id=correlation_id,
        )
        if self._outbox is not None:
            self._outbox.ring()

    # The session's life.

    async def serve(self) -> None:
        """Take messages and run agents until the session is closed and every run has ended."""
        clear_contextvars()
        bind_contextvars(session_id=self.id, user_id=self.user.id)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            while True:
                work = None
                self._nap = trio.CancelScope(deadline=self._schedule.next_turn(trio.current_time()))
                with self._nap:
                    try:
                        work = await self._inbox.receive()
                    except trio.EndOfChannel:
                        break
                if work is not None:
                    await self._admit(work)
                self._start_due()
            self._inbox.close()

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
        await self._idle.wait()

    @property
    def is_idle(self) -> bool:
        """Whether no run is active or waits."""
        return not self._executions

    def close(self, status: RunStatus = RunStatus.CANCELLED) -> None:
        """End the session: its runs end with `status`, then its task ends."""
        if self._closing is not None:
            return
        self._closing = status
        self._end_waiting(status)
        for execution, _ in self._executions.values():
            execution.stop(status)
        self._offer_work.close()

    def statistics(self) -> dict[str, int]:
        """Return how many runs are active and wait, and how far the log is."""
        return {**self._schedule.statistics(), "last_seq": self.log.last}

    # From a message to its run.

    async def _admit(self, work: _Work) -> None:
        """Decide what becomes of a message, record it, and confirm it."""
        try:
            new, spec, turn = self._decide(work)
            live = LiveRun(stop=lambda: self._stop(spec.run_id))
            # Before it is recorded, so that whoever finds the record finds the run.
            self.user.runs[spec.run_id] = live
            try:
                known = await self._record(new)
                if known is not None and self._ended_meanwhile(known):
                    known = await self._record(new)
            except BaseException:
                del self.user.runs[spec.run_id]
                raise
        except Refused as refused:
            self.log.release()
            await self._tell(refused.problem, work.correlation_id)
            return
        if known is not None:
            del self.user.runs[spec.run_id]
            self._confirm_duplicate(known, new.correlation_id)
        else:
            self._schedule_run(new, spec, turn, work.message.on_busy)

    def _decide(self, work: _Work) -> tuple[NewMessage, RunSpec, float]:
        message = work.message
        now = trio.current_time()
        if self._draining or self._closing is not None:
            raise Refused(_draining(self._settings.drain_timeout_ms))
        thread_id = message.thread_id or self._default_thread
        turn = self._turn(now)
        outlook = self._schedule.outlook(
            thread_id, turn=turn, now=now, reject_if_busy=message.on_busy is OnBusy.REJECT
        )
        if outlook is Outlook.BUSY:
            text = "The thread has a run already."
            raise Refused(problem(ErrorCode.AGENT_BUSY, text, retry_after_ms=RETRY_MS))
        if outlook is Outlook.FULL:
            raise _queue_full(f"{self._settings.run_queue} messages wait for their run")
        self.user.window.take(now)
        return *self._new_run(message, thread_id, work.correlation_id), turn

    def _turn(self, now: float) -> float:
        """Return when the user's rate lets another message start."""
        turn = self.user.window.turn(now)
        if turn is None:
            wait = milliseconds(self.user.window.retry_after(now))
            text = f"Too many messages: {self._settings.max_message_rate} per minute."
            raise Refused(
                problem(
                    ErrorCode.RATE_LIMIT_EXCEEDED,
                    text,
                    help=f"Wait {wait / 1000:g} s and send again.",
                    retry_after_ms=wait,
                )
            )
        return turn

    def _new_run(
        self, message: WorkMessage, thread_id: ThreadId, key: CorrelationId | None
    ) -> tuple[NewMessage, RunSpec]:
        if isinstance(message, UserMessage):
            content, payload = message.content, None
        else:
            content, payload = content_of(message.input), payload_of(message)
        name = message.agent or next(iter(self._agents))
        timeout_ms = min(self._settings.agent_timeout_ms, message.deadline_ms or inf)
        run_id = new_run_id()
        correlation_id = key or new_correlation_id()
        new = NewMessage(
            user_id=self.user.id,
            thread_id=thread_id,
            message_id=new_message_id(),
            run_id=run_id,
            agent_name=name,
            correlation_id=correlation_id,
            key=key,
            fingerprint=_fingerprint(message),
            content=content,
            created_at=self._wall_clock(),
        )
        spec = RunSpec(
            run_id=run_id,
            user_id=self.user.id,
            permissions=self._permissions,
            thread_id=thread_id,
            correlation_id=correlation_id,
            agent_name=name,
            agent=self._agents[name],
            content=content,
            input=payload,
            timeout=timeout_ms / 1000,
        )
        return new, spec

    async def _record(self, new: NewMessage) -> Duplicate | None:
        try:
            return await self._store.record(new)
        except KeyConflict:
            text = "$.correlation_id: expected a new one, got one that came with other content"
            raise Refused(problem(ErrorCode.VALIDATION_ERROR, text)) from None
        except StoreUnavailable:
            text = "The message could not be stored."
            raise Refused(
                problem(ErrorCode.SERVICE_UNAVAILABLE, text, retry_after_ms=RETRY_MS)
            ) from None

    def _ended_meanwhile(self, known: Duplicate) -> bool:
        """Whether the run ended after the store looked: then its end can be had for the asking."""
        return known.completed is None and known.run_id not in self.user.runs

    def _confirm_duplicate(self, known: Duplicate, correlation_id: CorrelationId) -> None:
        """Confirm what was recorded before, and see that its end is told here too."""
        self._confirm(
            MessageConfirmed(
                known.message_id,
                known.run_id,
                known.thread_id,
                Confirmation.DUPLICATE,
                run_status=known.status,
            ),
            correlation_id,
        )
        if known.completed is not None:
            self._copy_end(known.completed, correlation_id)
        elif known.run_id in self._executions:
            self.log.release(1)  # its own end will come here
        elif known.run_id in self.user.runs:
            self.user.runs[known.run_id].watchers.append(
                lambda end: self._copy_end(end.completed, correlation_id)
            )
        else:
            self.log.release(1)

    def _copy_end(self, completed: bytes, correlation_id: CorrelationId) -> None:
        if self.log.is_over_bytes:
            completed = _lean_copy(completed)
        event = Encoded(AgentCompleted.TYPE, completed)
        self.append(event, len(completed), correlation_id, reserved=True)

    def _schedule_run(self, new: NewMessage, spec: RunSpec, turn: float, on_busy: OnBusy) -> None:
        now = trio.current_time()
        execution = Execution(spec, self, self._store, self._wall_clock)
        self._executions[spec.run_id] = (execution, new)
        if self._idle.is_set():
            self._idle = trio.Event()
        interrupts = on_busy is OnBusy.INTERRUPT
        self._schedule.add(spec.run_id, spec.thread_id, turn=turn, first=interrupts)
        active = self._schedule.active_in(spec.thread_id)
        if interrupts and active is not None:
            self._executions[RunId(active)][0].stop(RunStatus.CANCELLED)
        stopped = RunStatus.INTERRUPTED if self._draining else self._closing
        started = [] if stopped is not None else self._schedule.start_due(now)
        position = self._schedule.position(spec.run_id, now)
        self._confirm(
            MessageConfirmed(
                new.message_id,
                spec.run_id,
                spec.thread_id,
                Confirmation.ACCEPTED if position is None else Confirmation.QUEUED,
                position,
            ),
            spec.correlation_id,
        )
        self._start(started)
        if stopped is not None:  # while the message was being recorded
            self._end_waiting(stopped)
        elif self._stopped_early == spec.run_id:
            self._stop(spec.run_id)

    def _confirm(self, confirmed: MessageConfirmed, correlation_id: CorrelationId) -> None:
        self.append(confirmed, 0, correlation_id, reserved=True)

    # From a run to its end.

    def _start_due(self) -> None:
        if not self._draining and self._closing is None:
            self._start(self._schedule.start_due(trio.current_time()))

    def _start(self, runs: list[str]) -> None:
        for run_id in runs:
            execution, new = self._executions[RunId(run_id)]
            self._spawn(self._perform, execution, new)

    def _spawn(self, function: Callable[..., Any], *args: object) -> None:
        # Whoever has a run to start or to end has been admitted by the session's own task, inside
        # its nursery.
        assert self._nursery is not None  # noqa: S101 - for mypy, see above
        self._nursery.start_soon(function, *args)

    async def _perform(self, execution: Execution, new: NewMessage) -> None:
        """Run an agent: whatever happens, its end is written, once."""
        bind_contextvars(run_id=new.run_id)
        ending = Ending(RunStatus.INTERRUPTED)
        try:
            ending = await execution.execute()
        finally:
            await self._end(execution, new, ending)
            self._schedule.ended(new.run_id)
        self._start_due()

    def _stop(self, run_id: RunId) -> None:
        """Stop one of this session's runs, started or not."""
        if run_id not in self._executions:
            # The store has its message, so that it could be found, and this session has yet to
            # hear so: it is stopped as soon as it is confirmed. Messages are recorded one by one.
            self._stopped_early = run_id
            return
        execution, new = self._executions[run_id]
        if self._schedule.withdraw(run_id):
            self._spawn(self._end, execution, new, Ending(RunStatus.CANCELLED))
            self._nap.cancel()  # what waited behind it may be due
        else:
            execution.stop(RunStatus.CANCELLED)

    def _end_waiting(self, status: RunStatus) -> None:
        for run_id in self._schedule.withdraw_all():
            execution, new = self._executions[RunId(run_id)]
            self._spawn(self._end, execution, new, Ending(status))

    async def _end(self, execution: Execution, new: NewMessage, ending: Ending) -> None:
        """Store how a run ended, then tell it: the one place that writes `agent_completed`."""
        execution.output.close()
        if self.log.is_over_bytes:
            ending = _lean(ending)
        completed = AgentCompleted(
            new.run_id,
            ending.status,
            milliseconds(ending.duration),
            None if ending.result is None else Fragment(ending.result),
            ending.error,
            ending.truncated or None,
        )
        data = dumps(payload_of(completed))
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
            with trio.CancelScope(shield=True, deadline=trio.current_time() + END_STORE_TIMEOUT):
                await self._store.end_run(end)
        finally:
            del self._executions[new.run_id]
            if not self._executions:
                self._idle.set()
            self.append(
                Encoded(AgentCompleted.TYPE, data), len(data), new.correlation_id, reserved=True
            )
            for watcher in self.user.runs.pop(new.run_id).watchers:
                watcher(end)
            _log.info("run_ended", run_id=new.run_id, status=ending.status)

    async def _tell(self, fault: Problem, correlation_id: CorrelationId | None) -> None:
        """Send an error; without a socket nobody is there to be told, and asks again."""
        if self._outbox is not None:
            await self._outbox.put(encode_problem(fault, self._wall_clock(), correlation_id))


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


def _fingerprint(message: WorkMessage) -> bytes:
    """Return what must be equal for one key to mean one message (protocol.md, section 3)."""
    content = message.content if isinstance(message, UserMessage) else message.input
    told = [message.TYPE, content, message.agent, message.thread_id]
    return hashlib.blake2b(dumps(told, option=OPT_SORT_KEYS), digest_size=16).digest()


def _queue_full(why: str) -> Refused:
    text = f"The queue is full: {why}."
    return Refused(problem(ErrorCode.QUEUE_FULL, text, retry_after_ms=RETRY_MS))


def _draining(reconnect_after_ms: int) -> Problem:
    text = "The server is about to restart and takes no new message."
    return problem(ErrorCode.SERVER_DRAINING, text, retry_after_ms=reconnect_after_ms)
