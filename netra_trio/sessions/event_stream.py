"""The events of a session: numbered, kept in the log, and passed to the attached connection.

    stream = EventStream(settings, acknowledging=True, wall_clock=time.time, metrics=metrics)
    stream.reserve()                        # two places: for the confirmation and the end
    stream.confirm(confirmed, correlation_id)
    with stream.attach() as feed:           # the writer of a connection reads the feed
        await feed.wait()
        entries = feed.take(max_bytes=65536)

Runs append events, and the writer of a connection reads them from the feed. The log keeps the
events that a resume needs; the feed is the memory channel between the runs and the writer. An agent
waits for room in the log, and then for room in the feed. The confirmation of a message and the end
of a run have reserved places in the log and never wait: if the feed is full, the writer takes them
out of the log.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from sys import maxsize
from typing import Any

import trio

from netra_trio.config.settings import Settings
from netra_trio.ids import CorrelationId, QuestionId, RunId, ThreadId
from netra_trio.protocol.binary import AnyEvent
from netra_trio.protocol.codec import Encoded
from netra_trio.protocol.fields import JsonObject
from netra_trio.protocol.messages import (
    AgentCompleted,
    Confirmation,
    Event,
    MessageConfirmed,
    ResetReason,
    ResumeState,
    RunStatus,
    Verdict,
)
from netra_trio.sessions.delivery_times import DeliveryTimes
from netra_trio.sessions.event_feed import EventFeed
from netra_trio.sessions.event_log import PLACES_PER_MESSAGE, Entry, EventLog, NoLog
from netra_trio.sessions.log_copy import Base, LogCopy
from netra_trio.sessions.replica import Replica
from netra_trio.sessions.transcript import Transcript
from netra_trio.telemetry.metrics import Metrics

WRITER_PASSES = 2  # passes of the event loop; a writer that keeps up has written after them


class EventStream:
    """The events of one session.

    Args:
        settings: The limits.
        acknowledging: Whether the client acknowledges events.
        wall_clock: Returns Unix seconds.
        metrics: Count the events.
    """

    __slots__ = (
        "_feed",
        "_is_followed",
        "_is_unread",
        "_log",
        "_replica",
        "_room_freed",
        "_times",
        "_transcript",
        "_wall_clock",
        "acknowledging",
        "has_room",
    )

    def __init__(
        self,
        settings: Settings,
        *,
        acknowledging: bool,
        wall_clock: Callable[[], float],
        metrics: Metrics,
    ) -> None:
        resumes = settings.resume_window_ms > 0
        self.acknowledging = acknowledging
        self._log: EventLog = EventLog(
            max_events=settings.replay_events,
            max_bytes=settings.replay_bytes,
            acknowledging=acknowledging,
            keeps_ring=resumes,
        )
        self.has_room = self._log.has_room  # no wrapper: it is called for each delta
        self._transcript: Transcript | None = Transcript() if resumes else None
        self._times = DeliveryTimes(metrics)
        self._wall_clock = wall_clock
        self._feed: EventFeed | None = None
        self._replica: Replica | None = None
        self._room_freed: trio.Event | None = None  # set when events leave the log, if a run waits
        self._is_unread = self._is_followed = False

    # For the session and its runs.

    def drop(self) -> None:
        """Keep no more events, because no client can resume the session; wake waiting agents."""
        self._times.flush()
        self._times.on_disconnect()
        self._log = NoLog()
        self.has_room = self._log.has_room
        self._transcript = None
        self._wake_agents()

    def note_unread(self) -> None:
        """Note that no client will resume the session: see `note_followed`."""
        self._is_unread = True
        self._wake_agents()

    def note_followed(self, is_followed: bool) -> None:
        """Note whether a client reads the run elsewhere, in the room of its thread.

        Then the run does not wait for a client of the session that cannot come: without a
        connection a full log drops its events.
        """
        self._is_followed = is_followed
        self._wake_agents()

    def reserve(self) -> bool:
        """Reserve the two places of a message; return False if there are not enough."""
        return self._log.reserve()

    def release(self, places: int = PLACES_PER_MESSAGE) -> None:
        """Release reserved places that will not be used."""
        self._log.release(places)

    @property
    def is_over_bytes(self) -> bool:
        """Whether all bytes of the log are used, so that the ends of runs should be short."""
        return self._log.is_over_bytes

    def confirm(self, confirmed: MessageConfirmed, correlation_id: CorrelationId) -> None:
        """Append the confirmation of a message, into its reserved place."""
        if self._transcript is not None and confirmed.status is not Confirmation.DUPLICATE:
            self._transcript.begin(confirmed.run_id, confirmed.thread_id, correlation_id)
        self._append_reserved(confirmed, 0, correlation_id)

    def start_delta_timer(self, run_id: RunId, received: float) -> None:
        """Measure the time from `received`, on Trio's clock, to the first delta of a run."""
        self._times.start_delta_timer(run_id, received)

    def start_stop_timer(self, run_id: RunId) -> None:
        """Measure the time from now to the end of a run that its user stops."""
        self._times.start_stop_timer(run_id)

    def note_running(self, run_id: RunId) -> None:
        """Record that a run has started, for the list of runs in `resume`."""
        if self._transcript is not None:
            self._transcript.note(run_id, RunStatus.RUNNING)

    async def wait_for_room(self, size: int) -> None:
        """Wait until an event of `size` bytes fits into the log. Cancelling is safe.

        If the log is full, deltas that were never written are merged. The writer can run before
        that, so that a client that keeps up gets each delta as it was emitted.
        """
        for _ in range(WRITER_PASSES):
            await trio.lowlevel.checkpoint()
            if self._log.has_room(size):
                return
        while True:
            self._log.merge()
            if self._feed is not None:
                self._feed.merges = True
            if self._is_unread and self._is_followed and self._feed is None:
                self._log.take(max_bytes=maxsize, merge=False, before=self._held_from)
                self._on_removed(self._log.acknowledge(self._log.written))
            if self._log.has_room(size):
                return
            if self._room_freed is None:
                self._room_freed = trio.Event()
            await self._room_freed.wait()

    def append(
        self, event: AnyEvent, size: int, correlation_id: CorrelationId
    ) -> Awaitable[None] | None:
        """Append an event; the caller has checked that there is room in the log.

        Returns:
            None if there was room in the feed too. Otherwise an awaitable that waits until there is
            room, or until the connection ends. Cancelling it is safe: the event is in the log.
        """
        entry = self._append(event, size, correlation_id, reserved=False)
        if self._feed is None or self._feed.push(entry):
            return None
        return self._feed.wait_to_push(entry)

    def append_now(self, event: Event, size: int, correlation_id: str | None) -> None:
        """Append an event without room for it: the end of a question, or a copy of one.

        A run asks at most a hundred questions, and a client gets one copy for each of its answers.
        """
        entry = self._append(event, size, correlation_id, reserved=False)
        if self._feed is not None:
            self._feed.push(entry)

    def show_question(self, run_id: RunId, question: JsonObject) -> None:
        """List an open question of a run in `resume`."""
        if self._transcript is not None:
            self._transcript.show_question(run_id, question)

    def hide_question(self, run_id: RunId, question_id: QuestionId) -> None:
        """List a question no longer, because it is closed."""
        if self._transcript is not None:
            self._transcript.hide_question(run_id, question_id)

    def end(
        self, run_id: RunId, status: RunStatus, payload: bytes, correlation_id: CorrelationId
    ) -> None:
        """Append the end of a run of this session, into its reserved place.

        Args:
            run_id: The run.
            status: Its final status.
            payload: The payload of `agent_completed`, as JSON.
            correlation_id: The correlation id of its message.
        """
        if self._transcript is not None:
            self._transcript.note(run_id, status)
        self.copy_end(run_id, payload, correlation_id)

    def copy_end(self, run_id: RunId, payload: bytes, correlation_id: CorrelationId) -> None:
        """Append a copy of the end of a run, for a message that was sent again."""
        event = Encoded(AgentCompleted.TYPE, run_id, payload)
        self._append_reserved(event, len(payload), correlation_id)

    def _append_reserved(self, event: Any, size: int, correlation_id: str) -> None:
        entry = self._append(event, size, correlation_id, reserved=True)
        if self._feed is not None:
            self._feed.push(entry)

    def _append(
        self, event: Any, size: int, correlation_id: str | None, *, reserved: bool
    ) -> Entry:
        entry = self._log.append(event, size, reserved, self._wall_clock(), correlation_id)
        if not self.acknowledging:
            self._on_removed(self._log.trim())
        if self._replica is not None:
            self._replica.add(entry)
        return entry

    # For connections.

    @property
    def is_attached(self) -> bool:
        """Whether a connection is attached."""
        return self._feed is not None

    @contextmanager
    def attach(self) -> Iterator[EventFeed]:
        """Attach a connection, which replaces any other; yield the feed of its events."""
        feed = EventFeed(self)
        self._feed = feed
        try:
            yield feed
        finally:
            feed.close()
            if self._feed is feed:
                self._feed = None
                self._times.flush()
                self._times.on_disconnect()
                self._wake_agents()

    def is_read_by(self, feed: EventFeed) -> bool:
        """Whether this feed is the one that is attached now."""
        return self._feed is feed

    @property
    def last_sent(self) -> int:
        """The largest number that was taken for a connection."""
        return self._log.written

    def acknowledge(self, seq: int) -> None:
        """Remove the events up to `seq`; no effect for a client that does not acknowledge.

        Raises:
            ValueError: If `seq` was never sent.
        """
        if self.acknowledging:
            self._on_removed(self._log.acknowledge(seq))

    def resume(self, last_seq: int) -> ResumeState:
        """Make the events after `last_seq` pending again, for the next connection.

        Returns:
            The result for the client. If `last_seq` was never sent, the verdict is `reset`, and
            nothing has changed.
        """
        try:
            rewound = self._log.rewind(last_seq)
        except ValueError:
            return ResumeState(Verdict.RESET, ResetReason.AHEAD)
        self._on_removed(rewound.removed)
        return ResumeState(
            Verdict.EXACT if rewound.is_exact else Verdict.GAP,
            replayed=self._log.last - rewound.last_seq,
            last_seq=rewound.last_seq,
            runs=() if self._transcript is None else self._transcript.runs(),
        )

    @property
    def has_pending(self) -> bool:
        """Whether there are events that the connection has not written yet."""
        return self._log.has_pending(self._held_from)

    def take(self, *, max_bytes: int, merge: bool) -> list[Entry]:
        """Return the next events for the connection, at least one if there are any.

        Args:
            max_bytes: The size of all of them together, as the log counts it.
            merge: Whether to merge adjacent deltas, for a client that lags.
        """
        entries = self._log.take(max_bytes=max_bytes, merge=merge, before=self._held_from)
        if entries:
            self._times.count(entries)
            if not self.acknowledging:
                self._on_removed(self._log.trim())
                self._wake_agents()
        return entries

    @property
    def _held_from(self) -> int:
        return maxsize if self._replica is None else self._replica.held_from

    # For the copy in the directory.

    def replicate(self, replica: Replica | None) -> None:
        """Copy all events to the directory from now on; None ends that."""
        self._replica = replica
        self.on_released()  # what an earlier copy has held

    @property
    def replica(self) -> Replica | None:
        """The copy in the directory; None if there is none."""
        return self._replica

    @property
    def is_copied(self) -> bool:
        """Whether there is nothing to wait for in `flush`."""
        return self._replica is None or not self._replica.is_awaited

    async def flush(self) -> None:
        """Wait until all events are copied, or a moment at most. Cancelling is safe."""
        if self._replica is not None:
            await self._replica.flush()

    def entries(self) -> list[Entry]:
        """Return all entries in the log, oldest first."""
        return self._log.entries()

    def base(self) -> Base:
        """Return what the copy needs besides the entries."""
        runs = () if self._transcript is None else self._transcript.dump()
        return Base(self._log.last, runs)

    def on_released(self) -> None:
        """Wake the writer, because events are no longer held."""
        if self._feed is not None:
            self._feed.wake()
        if self._is_unread:
            self._wake_agents()

    def restore(
        self, copy: LogCopy, last_seq: int, *, is_whole: bool
    ) -> list[tuple[RunId, ThreadId, CorrelationId]]:
        """Fill a new stream with the copy of the same session's events on another node.

        Args:
            copy: The copy.
            last_seq: The number that the client has. The other node may have sent events that
                are not in the copy.
            is_whole: Whether the client knows everything that is not in the copy. If not, its
                resume is a `gap`.

        Returns:
            The runs that have no end in the copy, each with its thread and its correlation id. The
            caller continues or ends each of them.
        """
        unfinished: list[tuple[RunId, ThreadId, CorrelationId]] = []
        if self._transcript is not None:
            self._transcript.load(copy.base.runs)
            self._transcript.replay(copy.entries)
            unfinished = self._transcript.unfinished()
        self._log.restore(copy.entries, last=copy.last, reserved=len(unfinished))
        if last_seq > copy.last or not is_whole:
            self._on_removed(self._log.acknowledge(copy.last))
            if self._transcript is not None:
                self._transcript.mark_cut(run_id for run_id, _, _ in unfinished)
            # Without a number in between, the client would not notice what is missing.
            self._log.skip_to(max(copy.last, last_seq) + (not is_whole))
        if not self.acknowledging:
            self._on_removed(self._log.trim())
        return unfinished

    def end_lost(
        self, run_id: RunId, status: RunStatus, payload: bytes, correlation_id: CorrelationId
    ) -> None:
        """Append the end of a run that another node has executed, into its reserved place."""
        if self._transcript is not None:
            self._transcript.hide_questions(run_id)
        self.end(run_id, status, payload, correlation_id)

    def statistics(self) -> dict[str, int]:
        """Return the largest event number, and how much is in the log."""
        self._times.flush()
        log = self._log
        return {
            "last_seq": log.last,
            "log_events": log.depth,
            "log_bytes": log.size,
            "unsent": log.unsent,
        }

    def _on_removed(self, entries: Iterable[Entry]) -> None:
        if entries:
            if self._transcript is not None:
                self._transcript.add_removed(entries)
            self._wake_agents()

    def _wake_agents(self) -> None:
        if self._room_freed is not None:
            self._room_freed.set()
            self._room_freed = None
