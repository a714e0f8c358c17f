"""The events of a session: numbered, kept in the log, and passed on to the socket there is.

    stream = EventStream(settings, acknowledging=True, wall_clock=time.time, metrics=metrics)
    stream.reserve()                        # the places of a message: its confirmation and its end
    stream.confirm(confirmed, correlation_id)
    with stream.attach() as feed:           # a connection's writer reads here
        await feed.wait()
        entries = feed.take(max_bytes=65536)

Runs write here and a connection's writer reads from the feed. The log keeps what a resume needs;
the feed is the memory channel between the two. An agent waits for room in the log, and then for
room in the channel. A confirmation and the end of a run have reserved places in the log and never
wait: where the channel has no room, the writer takes them from the log.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import trio

from netra_trio.config.settings import Settings
from netra_trio.ids import CorrelationId, RunId
from netra_trio.protocol.codec import Encoded
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
from netra_trio.sessions.delivery import DeliveryTimes
from netra_trio.sessions.event_feed import EventFeed
from netra_trio.sessions.event_log import PLACES_PER_MESSAGE, Entry, EventLog
from netra_trio.sessions.transcript import Transcript
from netra_trio.telemetry.metrics import Metrics

WRITER_TURNS = 2  # of the loop until a writer that keeps up has taken what it was woken for


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
        "_log",
        "_room",
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
        self._log = EventLog(
            max_events=settings.replay_events,
            max_bytes=settings.replay_bytes,
            acknowledging=acknowledging,
            keeps_ring=resumes,
        )
        self.has_room = self._log.has_room  # asked for each delta: a call less
        self._transcript = Transcript() if resumes else None
        self._times = DeliveryTimes(metrics)
        self._wall_clock = wall_clock
        self._feed: EventFeed | None = None
        self._room: trio.Event | None = None  # set when events leave the log, if a run waits

    # The session and its runs write.

    def reserve(self) -> bool:
        """Reserve the two places of a message, if two are free."""
        return self._log.reserve()

    def release(self, places: int = PLACES_PER_MESSAGE) -> None:
        """Release reserved places that will not be used."""
        self._log.release(places)

    @property
    def is_over_bytes(self) -> bool:
        """Whether the log's bytes are used up, so that an end carries little of its result."""
        return self._log.is_over_bytes

    def confirm(self, confirmed: MessageConfirmed, correlation_id: CorrelationId) -> None:
        """Append the confirmation of a message, into its reserved place."""
        if self._transcript is not None and confirmed.status is not Confirmation.DUPLICATE:
            self._transcript.begin(confirmed.run_id, confirmed.thread_id, correlation_id)
        self._append(confirmed, 0, correlation_id, reserved=True)

    def expect(self, run_id: RunId, received: float) -> None:
        """Measure the time to the first delta of a run whose message came at `received`."""
        self._times.expect(run_id, received)

    def note_stop(self, run_id: RunId) -> None:
        """Measure the time from now to the end of a run that its user stops."""
        self._times.stop(run_id)

    def note_running(self, run_id: RunId) -> None:
        """Note that a run has started, for the list of runs that a resume gets."""
        if self._transcript is not None:
            self._transcript.note(run_id, RunStatus.RUNNING)

    async def wait_for_room(self, size: int) -> None:
        """Wait until an event of `size` bytes fits into the log. Cancelling is safe.

        A full log makes room by merging deltas that were never written. A writer that keeps up has
        its turn before that, so that its client gets each delta as it was emitted.
        """
        for _ in range(WRITER_TURNS):
            await trio.lowlevel.checkpoint()
            if self._log.has_room(size):
                return
        while True:
            self._log.merge()
            if self._feed is not None:
                self._feed.merges = True
            if self._log.has_room(size):
                return
            if self._room is None:
                self._room = trio.Event()
            await self._room.wait()

    def append(
        self, event: Event, size: int, correlation_id: CorrelationId
    ) -> Awaitable[None] | None:
        """Append an event for which there is room.

        Returns:
            None if the writer's channel took it too. Otherwise an awaitable that waits until it
            does, or until the socket is gone; cancelling it is safe: the event is in the log.
        """
        entry = self._log.append(event, size, False, self._wall_clock(), correlation_id)
        if not self.acknowledging:
            self._forget(self._log.trim())
        feed = self._feed
        if feed is None or feed.push(entry):
            return None
        return feed.push_when_possible(entry)

    def end(
        self, run_id: RunId, status: RunStatus, payload: bytes, correlation_id: CorrelationId
    ) -> None:
        """Append the end of a run of this session, into its reserved place.

        Args:
            run_id: The run.
            status: How it ended.
            payload: The payload of `agent_completed`, as JSON.
            correlation_id: Of its message.
        """
        if self._transcript is not None:
            self._transcript.note(run_id, status)
        self.copy_end(run_id, payload, correlation_id)

    def copy_end(self, run_id: RunId, payload: bytes, correlation_id: CorrelationId) -> None:
        """Append the end of a run again, for a message that was sent again."""
        event = Encoded(AgentCompleted.TYPE, run_id, payload)
        self._append(event, len(payload), correlation_id, reserved=True)

    def _append(self, event: Any, size: int, correlation_id: str, *, reserved: bool) -> None:
        entry = self._log.append(event, size, reserved, self._wall_clock(), correlation_id)
        if not self.acknowledging:
            self._forget(self._log.trim())
        if self._feed is not None:
            self._feed.push(entry)

    # A connection reads. Nothing here waits.

    @property
    def is_attached(self) -> bool:
        """Whether there is a socket."""
        return self._feed is not None

    @contextmanager
    def attach(self) -> Iterator[EventFeed]:
        """Give a socket the events from the cursor on, in place of any other socket."""
        feed = EventFeed(self)
        self._feed = feed
        try:
            yield feed
        finally:
            feed.close()
            if self._feed is feed:
                self._feed = None
                self._times.settle()
                self._times.lost()
                self._wake_waiting()

    def is_read_by(self, feed: EventFeed) -> bool:
        """Whether this socket is the one that is attached now."""
        return self._feed is feed

    @property
    def last_sent(self) -> int:
        """The highest number that a socket was given."""
        return self._log.written

    def acknowledge(self, seq: int) -> None:
        """Forget every event up to `seq`; for a plain client this does nothing.

        Raises:
            ValueError: If `seq` was never given to a socket.
        """
        if self.acknowledging:
            self._forget(self._log.acknowledge(seq))

    def resume(self, last_seq: int) -> ResumeState:
        """Set the cursor behind `last_seq`, for the next socket; say how much there is.

        The verdict is `reset`, and nothing has changed, if `last_seq` was never given to a socket.
        """
        try:
            rewound = self._log.rewind(last_seq)
        except ValueError:
            return ResumeState(Verdict.RESET, ResetReason.AHEAD)
        self._forget(rewound.forgotten)
        return ResumeState(
            Verdict.EXACT if rewound.is_exact else Verdict.GAP,
            replayed=self._log.last - rewound.last_seq,
            last_seq=rewound.last_seq,
            runs=() if self._transcript is None else self._transcript.runs(),
        )

    @property
    def has_pending(self) -> bool:
        """Whether the socket has yet to write an event."""
        return self._log.has_pending

    def take(self, *, max_bytes: int, merge: bool) -> list[Entry]:
        """Return the next events for the socket, at least one if there is any.

        Args:
            max_bytes: Of all of them together, as the log counts.
            merge: Whether neighbouring deltas become one, for a client that lags.
        """
        entries = self._log.take(max_bytes=max_bytes, merge=merge)
        if entries:
            self._times.took(entries)
            if not self.acknowledging:
                self._forget(self._log.trim())
                self._wake_waiting()
        return entries

    def statistics(self) -> dict[str, int]:
        """Return the last number, and how many events the log holds."""
        self._times.settle()
        return {"last_seq": self._log.last, "log_events": self._log.depth}

    def _forget(self, entries: Iterable[Entry]) -> None:
        if entries:
            if self._transcript is not None:
                self._transcript.forget(entries)
            self._wake_waiting()

    def _wake_waiting(self) -> None:
        if self._room is not None:
            self._room.set()
            self._room = None
