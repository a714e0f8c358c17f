"""The admission over all nodes: the message rate, and one run at a time in each thread.

    admission = ClusterAdmission(backend.threads, mailbox.post, settings=settings, metrics=metrics)
    mailbox.handle_now(FIRST, admission.on_first)
    mailbox.handle_now(INTERRUPT, admission.on_interrupt)
    mailbox.handle_now(CHECK, admission.on_check)
    service_nursery.start_soon(admission.run)
    services = Services(admission=admission, ...)

A message asks the thread directory once. Its run starts when it is the first of its thread: the
answer says so, or a message of the node whose run was ahead. Each second, a node asks for the first
runs of the threads that it waits for, so a lost message, or a node that is gone, delays a run by
about a second.

While the directory does not answer, this node decides alone about its own messages. Afterwards it
enters its runs again, in their order.
"""

from collections.abc import Awaitable, Callable, Sequence

import structlog
import trio
from attrs import define, field

from netra_trio.broker.threads import (
    ORDER_STEP,
    Admitted,
    Entry,
    First,
    Outcome,
    SharedPlace,
    ThreadDirectory,
    Wish,
)
from netra_trio.config.settings import Settings
from netra_trio.errors import BrokerUnavailable
from netra_trio.ids import NodeId, RunId, ThreadId, UserId
from netra_trio.protocol.fields import JsonObject
from netra_trio.protocol.messages import OnBusy
from netra_trio.telemetry.metrics import Metrics

FIRST = "thread_first"  # a run has become the first of its thread
INTERRUPT = "thread_interrupt"  # the first run of a thread has to make way
CHECK = "thread_check"  # a run is the first of its thread for long

LOOK_SECONDS = 1.0  # between two looks at the threads that runs wait for
CHECK_SECONDS = 5.0  # that a run is the first before its node is asked whether it knows it
ACTIVE_RUNS = 256  # of those that have started, looked at in one look
HELD_RUNS = 500  # of one call: some milliseconds of the server
RELEASED_SECONDS = 60.0  # that a run which moves to another node is remembered

Post = Callable[[NodeId, str, JsonObject], Awaitable[None]]

_log = structlog.get_logger(__name__)


@define(eq=False)
class _Run:
    """A run of this node.

    Attributes:
        order: Its place in the line; an estimate until the directory has answered.
        slot: Its rate slot; None if it has none of the directory.
        is_entered: Whether the directory has answered, or cannot.
        interrupts: Whether it waits for the end of a run that it interrupts.
        changes: Counts its grants and steps back: an answer to an earlier question is out of date.
        has_stepped_back: Whether messages that it is the first may be out of date.
        ahead: The first run of the thread at the last look, and when it was first seen.
    """

    user_id: UserId
    place: SharedPlace
    order: float
    slot: float | None = None
    is_entered: bool = False
    interrupts: bool = False
    changes: int = 0
    has_stepped_back: bool = False
    ahead: tuple[RunId, float] | None = None

    @property
    def id(self) -> RunId:
        return RunId(self.place.run)

    @property
    def thread_id(self) -> ThreadId:
        return ThreadId(self.place.thread)

    def entry(self) -> Entry:
        return Entry(self.user_id, self.thread_id, self.id, self.order, self.place.is_active)

    def header(self, run_id: RunId) -> JsonObject:
        """Return the header of a message about a run of its thread."""
        return {"user": self.user_id, "thread": self.thread_id, "run": run_id}


@define(eq=False)
class ClusterAdmission:
    """The `SharedAdmission` of one node.

    Args:
        threads: The lines of all nodes.
        post: Sends a message to another node; raises `BrokerUnavailable` if it cannot.
        settings: The message rate.
        metrics: Count the messages that this node decided on alone.
    """

    _threads: ThreadDirectory
    _post: Post
    _settings: Settings = field(kw_only=True)
    _metrics: Metrics = field(kw_only=True)
    _runs: dict[RunId, _Run] = field(factory=dict)
    _released: dict[RunId, float] = field(factory=dict)  # until when each is remembered
    _leaving: dict[RunId, _Run] = field(factory=dict)  # the directory has to be told again
    _nursery: trio.Nursery | None = None
    _looks: trio.Event = field(factory=trio.Event)  # set for a look at once
    _is_shared: bool = True
    _epoch: str | None = None
    _clock: float = 0.0  # of the directory's server, ahead of Trio's
    _latest: float = 0.0  # the order of the newest run, on that clock
    _next_active: int = 0

    # For the sessions.

    async def admit(self, user_id: UserId, place: SharedPlace, on_busy: OnBusy) -> Admitted | None:
        """Take a rate slot and a place in the thread; None if this node has to decide alone."""
        run = self._enter(user_id, place, first=on_busy is OnBusy.INTERRUPT)
        if self._is_shared:
            wish = Wish(
                user_id,
                run.thread_id,
                run.id,
                on_busy,
                rate=self._settings.max_message_rate,
                burst=self._settings.burst_queue,
            )
            try:
                admitted = await self._threads.admit(wish)
            except BrokerUnavailable as unavailable:
                self._note_unavailable(unavailable)
            else:
                self._note_epoch(admitted.epoch)
                self._apply_admitted(run, admitted)
                return admitted
        self._metrics.broker_fallbacks["messages"] += 1
        run.is_entered = True
        place.is_granted = None
        return None

    async def take_slot(self, user_id: UserId) -> float | None:
        """Take a rate slot for a message that may not wait; None if this node decides alone."""
        if self._is_shared:
            try:
                return await self._threads.take_slot(
                    user_id,
                    rate=self._settings.max_message_rate,
                    burst=self._settings.burst_queue,
                )
            except BrokerUnavailable as unavailable:
                self._note_unavailable(unavailable)
        self._metrics.broker_fallbacks["messages"] += 1
        return None

    def _enter(self, user_id: UserId, place: SharedPlace, *, first: bool) -> _Run:
        # An estimate, behind all runs that this node has admitted.
        self._latest = max(trio.current_time() + self._clock, self._latest + ORDER_STEP)
        run = _Run(user_id, place, -self._latest if first else self._latest)
        self._runs[run.id] = run
        return run

    def _apply_admitted(self, run: _Run, admitted: Admitted) -> None:
        if admitted.outcome in {Outcome.BUSY, Outcome.TOO_FAST}:
            del self._runs[run.id]
            return
        run.is_entered = True
        run.order, run.slot = admitted.order, admitted.slot
        self._latest = max(self._latest, abs(admitted.order))
        run.place.position = admitted.position
        # Otherwise it may be the first meanwhile: a message of another node says so.
        if admitted.outcome is Outcome.FIRST and not run.has_stepped_back:
            run.place.is_granted = True

    def adopt(self, user_id: UserId, place: SharedPlace) -> None:
        """Take over the place of a run that waited on another node."""
        run = self._enter(user_id, place, first=False)
        run.is_entered = True
        self._released.pop(run.id, None)
        if not self._is_shared:
            place.is_granted = None
        self._hold_soon(run)

    def interrupt(self, place: SharedPlace) -> None:
        """Cancel the first run of a thread, which this one interrupts, on whichever node it is."""
        run = self._runs[RunId(place.run)]
        run.interrupts = True
        self._hold_soon(run)

    def leave(self, place: SharedPlace) -> None:
        """Give a place back, and the rate slot of a refused one; no effect if it was released."""
        run = self._runs.pop(RunId(place.run), None)
        if run is not None:
            self._leave(run)

    def release(self, place: SharedPlace) -> None:
        """Forget a place without giving it back, as its run moves to another node."""
        if self._runs.pop(RunId(place.run), None) is not None:
            self._released[RunId(place.run)] = trio.current_time() + RELEASED_SECONDS

    # For other nodes.

    def on_first(self, _sender: NodeId, header: JsonObject, _data: bytes) -> None:
        """Start a run that has become the first of its thread."""
        run = self._runs.get(RunId(header["run"]))
        if run is None:
            self._leave_unknown(header)
        elif run.has_stepped_back:
            self._hold_soon(run)
        else:
            _grant(run)

    def on_interrupt(self, _sender: NodeId, header: JsonObject, _data: bytes) -> None:
        """Cancel the first run of a thread, or let another one go first if it has not started."""
        run = self._runs.get(RunId(header["run"]))
        if run is None:
            self._leave_unknown(header)
        elif run.place.is_active:
            run.place.interrupt()
        elif run.place.is_granted is not None and self._nursery is not None:
            run.place.is_granted = False
            run.has_stepped_back = True
            run.changes += 1
            self._nursery.start_soon(self._step_back, run)

    def on_check(self, _sender: NodeId, header: JsonObject, _data: bytes) -> None:
        """Remove a run from its line that is not known here."""
        if RunId(header["run"]) not in self._runs:
            self._leave_unknown(header)

    def _leave_unknown(self, header: JsonObject) -> None:
        """Remove a run that is the first of its thread, and has ended here."""
        run_id = RunId(header["run"])
        if run_id not in self._released:
            place = _Unknown(run_id, header["thread"])
            self._leave(_Run(UserId(header["user"]), place, 0.0))

    # Its tasks.

    async def run(self) -> None:
        """Tell the directory and the other nodes what they have to know, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                while True:
                    await self._look()
                    with trio.move_on_after(LOOK_SECONDS):
                        await self._looks.wait()
            finally:
                self._nursery = None

    async def _look(self) -> None:
        self._looks = trio.Event()
        now = trio.current_time()
        for run_id in [run_id for run_id, until in self._released.items() if until <= now]:
            del self._released[run_id]
        runs = self._to_look_at()
        if not runs and not self._leaving and self._is_shared and self._epoch is not None:
            return
        try:
            for run_id, run in list(self._leaving.items()):
                await self._finish_leaving(run)
                del self._leaving[run_id]
            for at in range(0, max(len(runs), 1), HELD_RUNS):
                await self._hold(runs[at : at + HELD_RUNS])
        except BrokerUnavailable as unavailable:
            self._note_unavailable(unavailable)
        else:
            self._note_available()

    def _to_look_at(self) -> list[_Run]:
        """Return the runs that wait, and some of those that have started.

        After an outage, all that have started: those that wait enter at the next look, so that none
        becomes the first before all nodes have entered those at work.
        """
        entered = [run for run in self._runs.values() if run.is_entered]
        active = [run for run in entered if run.place.is_active]
        if not self._is_shared or self._epoch is None:
            return active
        waiting = [run for run in entered if not run.place.is_active]
        first = self._next_active if self._next_active < len(active) else 0
        self._next_active = first + ACTIVE_RUNS
        return [*waiting, *active[first : self._next_active]]

    async def _hold(self, runs: Sequence[_Run]) -> None:
        """Keep runs in their lines, and start those that are the first."""
        # Some may have left meanwhile: they must not enter again.
        runs = [run for run in runs if self._runs.get(run.id) is run]
        known = [run.changes for run in runs]
        held = await self._threads.hold([run.entry() for run in runs])
        self._clock = held.now - trio.current_time()
        self._note_epoch(held.epoch)
        for run, changes, first in zip(runs, known, held.firsts, strict=True):
            if self._runs.get(run.id) is not run or run.changes != changes or run.place.is_active:
                continue
            if first.run_id == run.id:
                _grant(run)
            else:
                run.place.is_granted = False
                await self._look_ahead(run, first)

    def _hold_soon(self, run: _Run) -> None:
        """Look at the thread of one run, at once."""
        if self._is_shared and self._nursery is not None:
            self._nursery.start_soon(self._hold_one, run)

    async def _hold_one(self, run: _Run) -> None:
        try:
            await self._hold([run])
        except BrokerUnavailable as unavailable:
            self._note_unavailable(unavailable)

    async def _look_ahead(self, run: _Run, first: First) -> None:
        """Interrupt the first run of a thread, or ask its node for it, if that is necessary."""
        now = trio.current_time()
        if run.ahead is None or run.ahead[0] != first.run_id:
            run.ahead = (first.run_id, now)
        if run.interrupts and first.order > run.order:  # not one that interrupts later
            await self._send(first.node, INTERRUPT, run.header(first.run_id))
        elif now - run.ahead[1] >= CHECK_SECONDS:
            run.ahead = (first.run_id, now)
            await self._send(first.node, CHECK, run.header(first.run_id))

    async def _send(self, node: NodeId, kind: str, header: JsonObject) -> None:
        if node != self._threads.node:
            await self._post(node, kind, header)
        else:
            handlers = {FIRST: self.on_first, INTERRUPT: self.on_interrupt, CHECK: self.on_check}
            handlers[kind](node, header, b"")

    def _leave(self, run: _Run) -> None:
        if self._nursery is None:
            return  # the node is closed: its lease ends
        if not self._is_shared:
            self._leaving[run.id] = run
            return
        # In the order of the calls: the next message of this thread must not find it busy.
        self._nursery.start_soon(self._left, run, self._call_leave(run))

    def _call_leave(self, run: _Run) -> Awaitable[First | None]:
        slot = run.slot if run.place.is_refused else None
        return self._threads.leave(run.user_id, run.thread_id, run.id, slot=slot)

    async def _left(self, run: _Run, answer: Awaitable[First | None]) -> None:
        try:
            await self._tell(run, await answer)
        except BrokerUnavailable as unavailable:
            self._leaving[run.id] = run
            self._note_unavailable(unavailable)

    async def _finish_leaving(self, run: _Run) -> None:
        await self._tell(run, await self._call_leave(run))

    async def _step_back(self, run: _Run) -> None:
        try:
            await self._tell(run, await self._threads.step_back(run.entry()))
        except BrokerUnavailable as unavailable:
            self._note_unavailable(unavailable)

    async def _tell(self, run: _Run, first: First | None) -> None:
        """Tell a node that its run is the first of the thread of another run."""
        if first is not None:
            await self._send(first.node, FIRST, run.header(first.run_id))

    # The directory's state.

    def _note_unavailable(self, unavailable: BrokerUnavailable) -> None:
        if not self._is_shared:
            return
        self._is_shared = False
        _log.warning("threads_local", reason=str(unavailable))
        for run in self._runs.values():
            if run.is_entered and run.place.is_granted is False:
                run.place.is_granted = None
                run.place.wake()

    def _note_available(self) -> None:
        if self._is_shared:
            return
        self._is_shared = True
        _log.info("threads_shared")
        for run in self._runs.values():
            if run.place.is_granted is None and not run.place.is_active:
                run.place.is_granted = False

    def _note_epoch(self, epoch: str) -> None:
        """Enter all runs again if the server has lost them."""
        if self._epoch is not None and epoch != self._epoch:
            _log.warning("threads_lost")
            self._epoch = None
            self._looks.set()
        else:
            self._epoch = epoch


@define(eq=False)
class _Unknown:
    """The place of a run that has ended here, but is in a line."""

    run: str
    thread: str
    is_active: bool = False
    is_granted: bool | None = None
    is_refused: bool = False
    position: int | None = None

    def wake(self) -> None:
        """Do nothing."""

    def interrupt(self) -> None:
        """Do nothing."""


def _grant(run: _Run) -> None:
    """Let a run start."""
    run.place.is_granted = True
    run.changes += 1
    run.ahead, run.interrupts = None, False
    run.place.wake()
